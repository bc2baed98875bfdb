"""The picture of bench_trace.py: both times of every network, as an SVG that reads on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 860, 600
LEFT, RIGHT, TOP, BOTTOM = 74, 740, 60, 536
APART = 800  # the column of what the peer cannot do
STEPS = (1, 2, 5)
# Okabe and Ito's blue and orange, told apart by shape as well; both clear on white and on black.
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #333 } .small { font-size: 11px } .title { font-size: 16px }
  .grid { stroke: #8886; stroke-width: .6 } .equal { stroke: #888; stroke-width: 1.6 }
  .faster { stroke: #888; stroke-width: 1; stroke-dasharray: 5 4 }
  .torchvision { fill: #0072b2; fill-opacity: .75 } .timm { fill: #e69f00; fill-opacity: .8 }
  @media (prefers-color-scheme: dark) { text { fill: #ddd } .torchvision { fill: #56b4e9 } }
"""


@dataclass(frozen=True)
class Point:
    """Seconds of ours and of the peer's; None where the peer fails."""

    name: str
    ours_s: float
    peer_s: float | None


@dataclass(frozen=True)
class Scale:
    """Logarithmic, from ``low`` to ``high`` (1, 2 or 5 times a power of ten) onto pixels ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = math.log10(value / self.low) / math.log10(self.high / self.low)
        return self.start + share * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        powers = range(math.floor(math.log10(self.low)) - 1, math.ceil(math.log10(self.high)) + 1)
        values = [step * 10.0**power for power in powers for step in STEPS]
        return [value for value in values if self.low * 0.999 <= value <= self.high * 1.001]


def scale_of(values: Iterable[float], start: float, end: float) -> Scale:
    """The round range that holds ``values``."""
    found = list(values) or [0.1, 1.0]
    ladder = [step * 10.0**power for power in range(-5, 6) for step in STEPS]
    low = max(value for value in ladder if value <= min(found) * 0.95)
    high = min(value for value in ladder if value >= max(max(found) * 1.05, 10 * low))
    return Scale(low, high, start, end)


def svg(points: Sequence[Point], labelled: Sequence[str]) -> str:
    """Ours (down) against the peer's (across); what the peer cannot do stands in a column apart."""
    x = scale_of((point.peer_s for point in points if point.peer_s), LEFT, RIGHT)
    y = scale_of((point.ours_s for point in points), BOTTOM, TOP)
    parts = [*_axes(x, y), *(_speed_line(times, x, y) for times in (1, 5, 50)), *_legend()]
    for point in points:
        down = y(point.ours_s)
        if point.peer_s is None:
            across, told = APART + 30 * (_spread(point.name) - 0.5), "the peer fails"
        else:
            across, told = x(point.peer_s), f"peer {point.peer_s:.3g} s, {point.peer_s / point.ours_s:.1f} times ours"
        parts.append(_mark(point.name, across, down, f"{point.name}: ours {point.ours_s:.3f} s, {told}"))
        if point.name in labelled and point.peer_s is not None:
            short = point.name.partition("/")[2]
            parts.append(
                f'<text class="small" text-anchor="end" x="{across - 8:.1f}" y="{down + 14:.1f}">{short}</text>'
            )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="Seconds to trace and prune {len(points)} networks, ours against Torch-Pruning">'
    )
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>"]) + "\n"


def _axes(x: Scale, y: Scale) -> list[str]:
    parts = []
    for value in x.ticks:
        parts.append(f'<path class="grid" d="M{x(value):.1f} {TOP}V{BOTTOM}"/>')
        parts.append(f'<text x="{x(value):.1f}" y="{BOTTOM + 18}" text-anchor="middle">{value:g}</text>')
    for value in y.ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {y(value):.1f}H{RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    turned = f"translate(18 {(TOP + BOTTOM) / 2:.0f}) rotate(-90)"
    return [
        *parts,
        f'<text x="{(LEFT + RIGHT) / 2:.0f}" y="{BOTTOM + 44}" text-anchor="middle">Torch-Pruning, seconds</text>',
        f'<text transform="{turned}" text-anchor="middle">Prunescope, seconds</text>',
    ]


def _speed_line(times: int, x: Scale, y: Scale) -> str:
    """Where the peer takes ``times`` as long, as far as it lies inside the picture."""
    first, last = max(x.low, times * y.low), min(x.high, times * y.high)
    if first >= last:
        return ""
    word, kind = ("equal", "equal") if times == 1 else (f"{times} times", "faster")
    across, down = x(last), y(last / times)
    where = f'x="{across:.1f}" y="{down - 6:.1f}" text-anchor="middle"'
    if last == x.high:
        where = f'x="{across + 4:.1f}" y="{down + 4:.1f}"'
    line = f'<path class="{kind}" d="M{x(first):.1f} {y(first / times):.1f}L{across:.1f} {down:.1f}"/>'
    return f'{line}<text class="small" {where}>{word}</text>'


def _legend() -> list[str]:
    parts = [
        f'<text class="title" x="{LEFT}" y="24">Seconds to trace, plan and prune 50 % of each group</text>',
        f'<text class="small" x="{APART}" y="{TOP - 10}" text-anchor="middle">the peer fails</text>',
    ]
    for at, family in enumerate(("torchvision", "timm")):
        parts.append(_mark(f"{family}/", RIGHT - 170 + 100 * at, 20, family))
        parts.append(f'<text class="small" x="{RIGHT - 160 + 100 * at}" y="24">{family}</text>')
    return parts


def _mark(name: str, across: float, down: float, told: str) -> str:
    title = f"<title>{escape(told)}</title>"
    if name.startswith("timm"):
        return f'<path class="timm" d="M{across:.1f} {down - 5:.1f}l5 9h-10z">{title}</path>'
    return f'<circle class="torchvision" cx="{across:.1f}" cy="{down:.1f}" r="4.2">{title}</circle>'


def _spread(name: str) -> float:
    """0..1, the same on every run: parts marks that would lie on one line."""
    return sum(ord(letter) * (at + 1) for at, letter in enumerate(name)) % 97 / 97
