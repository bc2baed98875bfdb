"""In what order a scan works: what tells most comes first, and everything comes in the end.

First three widths of every group on few images, then on all: for a third of the work, that ranks the groups. No other
width comes before, because one on few images between two on all tells less than the line between these. Then the other
widths, those first that have the decision or a bend between the widths beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from core.measure.forks import Fork
from core.measure.scan.tally import Tally
from core.solvers.intervals import paired_interval

FIRST_SHARE, FIRST_LEAST, FIRST_MOST = 0.1, 16, 128  # images of the first curves
COARSE = (1 / 6, 1 / 2, 5 / 6)  # places along a group's widths


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
    yield Round("First curves", coarse, first_images(total, batch))
    yield Round("First curves on all images", coarse, total)
    chosen = set(coarse)
    rest = sorted((f for f in forks if f not in chosen), key=lambda f: _telling(f, forks, tallies, start[0], decision))
    yield Round("Where it is close and where curves bend", rest[: len(rest) // 2], total)
    yield Round("All widths", rest, total)


def coarse_forks(forks: Sequence[Fork]) -> list[Fork]:
    """Three widths of every group, spread over those asked for."""
    found = []
    for widths in _by_group(forks).values():
        places = dict.fromkeys(min(len(widths) - 1, int(place * len(widths))) for place in COARSE)
        found += [widths[place] for place in places]
    return found


def verdict(tally: Tally | None, decision: float) -> bool | None:
    """Whether less than ``decision`` is lost; None while the interval of what is lost holds it."""
    if tally is None or not tally.images:
        return None
    low, high = paired_interval(tally.lost, tally.gained, tally.images)
    return None if low <= -decision <= high else low > -decision


def _telling(
    fork: Fork, forks: Sequence[Fork], tallies: Mapping[Fork, Tally], start: Tally, decision: float
) -> tuple[bool, float]:
    """Sorts first what lies between two widths that do not agree about the decision, then by how much the loss changes
    between them."""
    known = [(len(f.kept), tallies[f]) for f in forks if f.group is fork.group and f in tallies]
    known = [(fork.group.units, start), *((kept, tally) for kept, tally in known)]
    above = min((pair for pair in known if pair[0] >= len(fork.kept)), key=lambda pair: pair[0])
    below = max((pair for pair in known if pair[0] < len(fork.kept)), key=lambda pair: pair[0], default=above)
    a, b = (tally.loss / max(1, tally.images) for _, tally in (above, below))
    before = True if above[1] is start else verdict(above[1], decision)
    after = verdict(below[1], decision)
    return (before is not None and before == after), -abs(b - a)


def _by_group(forks: Sequence[Fork]) -> dict[str, list[Fork]]:
    found: dict[str, list[Fork]] = {}
    for fork in sorted(forks, key=lambda fork: -len(fork.kept)):
        found.setdefault(fork.group.id, []).append(fork)
    return found
