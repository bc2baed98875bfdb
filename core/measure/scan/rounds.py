"""In what order a scan works: what tells most comes first, and everything comes in the end.

First three widths of every group on few images, then the widths where the curves bend; then the three widths on all
images, which is what ranks the groups; then every width on more and more images, first those of which the interval
does not yet say which side of a decision they are on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from core.measure.forks import Fork
from core.measure.scan.tally import Tally
from core.solvers.intervals import paired_interval

FIRST_SHARE, FIRST_LEAST, FIRST_MOST = 0.1, 16, 128  # images of the first curves
COARSE = (1 / 6, 1 / 2, 5 / 6)  # places along a group's widths
GROWTH = 3


@dataclass(frozen=True)
class Round:
    """``forks`` are brought to the first ``images`` images."""

    what: str
    forks: Sequence[Fork]
    images: int


def first_images(total: int, batch: int) -> int:
    """How many images the first curves are made from: whole batches."""
    wanted = min(max(FIRST_SHARE * total, FIRST_LEAST), FIRST_MOST)
    return min(total, batch * max(1, round(wanted / batch)))


def rounds(
    forks: Sequence[Fork], tallies: Mapping[Fork, Tally], start: list[Tally], total: int, batch: int, decision: float
) -> Iterator[Round]:
    """The rounds of a scan of ``total`` images; what follows depends on what ``tallies`` say by then.

    start: one entry, the tally of the network the scan starts from. decision: accuracy one is ready to lose (share).
    """
    coarse = coarse_forks(forks)
    images = first_images(total, batch)
    yield Round("First curves", coarse, images)
    chosen = set(coarse)
    rest = sorted((f for f in forks if f not in chosen), key=lambda f: -_bend(f, forks, tallies, start[0]))
    yield Round("Where curves bend", rest[: len(rest) // 2], images)
    yield Round("First curves on all images", coarse, total)  # ranks the groups for a third of the work
    yield Round("All widths", rest, images)
    while images < total:
        images = _next(images, total)
        undecided = [fork for fork in forks if open_at(tallies.get(fork), decision)]
        yield Round("More images where it is close", undecided, images)
        yield Round("More images", forks, images)
    yield Round("More images", forks, total)


def _next(images: int, total: int) -> int:
    return total if images * GROWTH * 1.5 > total else images * GROWTH


def coarse_forks(forks: Sequence[Fork]) -> list[Fork]:
    """Three widths of every group, spread over those asked for."""
    found = []
    for widths in _by_group(forks).values():
        places = dict.fromkeys(min(len(widths) - 1, int(place * len(widths))) for place in COARSE)
        found += [widths[place] for place in places]
    return found


def open_at(tally: Tally | None, decision: float) -> bool:
    """Whether the interval of what is lost holds the decision."""
    if tally is None or not tally.images:
        return True
    low, high = paired_interval(tally.lost, tally.gained, tally.images)
    return low <= -decision <= high


def _bend(fork: Fork, forks: Sequence[Fork], tallies: Mapping[Fork, Tally], start: Tally) -> float:
    """How much the loss changes between the measured widths on both sides of this one."""
    known = [(len(f.kept), tallies[f]) for f in forks if f.group is fork.group and f in tallies]
    known = [(fork.group.units, start), *((kept, tally) for kept, tally in known)]
    above = min((pair for pair in known if pair[0] >= len(fork.kept)), key=lambda pair: pair[0])
    below = max((pair for pair in known if pair[0] < len(fork.kept)), key=lambda pair: pair[0], default=above)
    a, b = (tally.loss / max(1, tally.images) for _, tally in (above, below))
    return abs(b - a)


def _by_group(forks: Sequence[Fork]) -> dict[str, list[Fork]]:
    found: dict[str, list[Fork]] = {}
    for fork in sorted(forks, key=lambda fork: -len(fork.kept)):
        found.setdefault(fork.group.id, []).append(fork)
    return found
