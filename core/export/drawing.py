"""The report's charts as SVG text: no library, no script, nothing fetched. Colours follow the reader's theme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, LABEL, ROW = 720, 210, 20


def bars(rows: Sequence[tuple[str, float, float, str]], title: str) -> str:
    """Horizontal bars. rows: (label, before, after, words at the end); ``after`` is drawn over ``before``."""
    most = max((max(before, after) for _, before, after, _ in rows), default=0) or 1.0
    room = WIDTH - LABEL - 150
    lines = []
    for number, (label, before, after, words) in enumerate(rows):
        y = number * ROW
        wide, narrow = (max(1.0, room * value / most) for value in (before, after))
        lines.append(
            f'<text x="{LABEL - 8}" y="{y + 14}" class="end">{_named(label)}</text>'
            f'<rect x="{LABEL}" y="{y + 4}" width="{wide:.1f}" height="12" class="before"/>'
            f'<rect x="{LABEL}" y="{y + 4}" width="{narrow:.1f}" height="12" class="after"/>'
            f'<text x="{LABEL + wide + 8:.1f}" y="{y + 14}">{escape(words)}</text>'
        )
    return _svg(lines, len(rows) * ROW + 4, title)


def intervals(rows: Sequence[tuple[str, float, float, float]], title: str) -> str:
    """Points with intervals on a common axis. rows: (label, low, value, high), shares in 0..1."""
    low, high = min(row[1] for row in rows), max(row[3] for row in rows)
    start, end = max(0.0, low - 0.02), min(1.0, high + 0.02)
    room = WIDTH - LABEL - 150

    def x(value: float) -> float:
        return LABEL + room * (value - start) / ((end - start) or 1.0)

    lines = [f'<line x1="{LABEL}" x2="{LABEL + room}" y1="{len(rows) * 28}" y2="{len(rows) * 28}" class="axis"/>']
    for value in (start, (start + end) / 2, end):
        lines.append(f'<text x="{x(value):.1f}" y="{len(rows) * 28 + 16}" class="mid">{100 * value:.1f} %</text>')
    for number, (label, below, value, above) in enumerate(rows):
        y = number * 28 + 14
        lines.append(
            f'<text x="{LABEL - 8}" y="{y + 4}" class="end">{escape(label)}</text>'
            f'<line x1="{x(below):.1f}" x2="{x(above):.1f}" y1="{y}" y2="{y}" class="span"/>'
            f'<circle cx="{x(value):.1f}" cy="{y}" r="5" class="dot"/>'
            f'<text x="{x(above) + 8:.1f}" y="{y + 4}">'
            f"{100 * value:.1f} % [{100 * below:.1f}, {100 * above:.1f}]</text>"
        )
    return _svg(lines, len(rows) * 28 + 24, title)


def curves(groups: Mapping[str, Sequence[tuple[float, float]]], chosen: Mapping[str, float], title: str) -> str:
    """Small multiples: accuracy over the share of units removed, one panel per group, the plan's own share marked."""
    wide, tall, across = 168, 96, 4
    lines = []
    for number, (name, points) in enumerate(groups.items()):
        left, top = (number % across) * (wide + 12), (number // across) * (tall + 34)
        path = " ".join(f"{left + wide * x:.1f},{top + 18 + tall * (1 - y):.1f}" for x, y in sorted(points))
        lines.append(
            f'<text x="{left}" y="{top + 12}">{_named(name, 26)}</text>'
            f'<rect x="{left}" y="{top + 18}" width="{wide}" height="{tall}" class="panel"/>'
            f'<polyline points="{path}" class="curve"/>'
        )
        if name in chosen:
            x = left + wide * chosen[name]
            lines.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top + 18}" y2="{top + 18 + tall}" class="mark"/>')
    rows = -(-len(groups) // across)
    return _svg(lines, rows * (tall + 34), title)


def _svg(lines: Sequence[str], height: float, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>" + "".join(lines) + "</svg>"
    )


def _short(text: str, most: int = 30) -> str:
    return text if len(text) <= most else f"...{text[-(most - 3) :]}"


def _named(text: str, most: int = 30) -> str:
    """The end of a long name, and all of it under the pointer."""
    return f"{escape(_short(text, most))}<title>{escape(text)}</title>"
