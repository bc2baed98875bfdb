"""In what order a scan works: what tells most comes first, and everything comes in the end.

First three widths of every group on few images. Then, on all images, the two widths of every group between which the
loss that one is ready for is reached: what lies between those ranks the groups, and a curve that is straight from far
to far says little of it. The losses known so far say where to look, being smoother than counts of right answers. Then
the first three on all images, and the other widths, those first that have the decision or a bend between the widths
beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from core.measure.forks import Fork
from core.measure.scan.tally import Tally
from core.solvers.intervals import paired_interval

FIRST_SHARE, FIRST_LEAST, FIRST_MOST = 0.1, 16, 128  # images of the first curves
COARSE = (1 / 6, 1 / 2, 5 / 6)  # places along a group's widths
SEARCHES = 4  # rounds for the widths around the decision; every one walks the network again
NATS = 10.0  # of loss added, about, per share of accuracy lost: only says where to look
LEAST_NATS = 1e-3  # what counts as no change when losses are compared by their logarithms


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
    groups = _by_group(forks).values()
    for _ in range(SEARCHES):
        nearest = [nearest_fork(widths, tallies, total, decision) for widths in groups]
        if due := [fork for fork in nearest if fork is not None]:
            yield Round("Where the limit is crossed", due, total)
    yield Round("First curves on all images", coarse, total)
    rest = [fork for fork in forks if fork not in tallies or tallies[fork].images < total]
    rest.sort(key=lambda fork: _telling(fork, forks, tallies, start[0], decision))
    yield Round("Where it is close and where curves bend", rest[: len(rest) // 2], total)
    yield Round("All widths", rest, total)


def nearest_fork(widths: Sequence[Fork], tallies: Mapping[Fork, Tally], total: int, decision: float) -> Fork | None:
    """The width to measure on all images next, so that two neighbours stand on both sides of ``decision``; None once
    they do. widths: a group's forks, widest first."""
    whole = [at for at, fork in enumerate(widths) if fork in tallies and tallies[fork].images >= total]
    lost = {at: tallies[widths[at]].lost - tallies[widths[at]].gained for at in whole}
    beyond = next((at for at in whole if lost[at] > decision * total), len(widths))
    within = max((at for at in whole if at < beyond), default=-1)
    if beyond - within <= 1:
        return None
    added = [(fork.group.units - len(fork.kept), _nats(tallies[fork])) for fork in widths if fork in tallies]
    known = [(0, math.log(LEAST_NATS)), *added]
    level = math.log(max(LEAST_NATS, NATS * decision))
    removed = [fork.group.units - len(fork.kept) for fork in widths]
    crossed = next((at for at, gone in enumerate(removed) if _along(known, gone) > level), len(widths))
    return widths[min(max(crossed - 1, within + 1), beyond - 1)]


def _nats(tally: Tally) -> float:
    return math.log(max(LEAST_NATS, (tally.loss - tally.start_loss) / tally.images))


def _along(known: Sequence[tuple[int, float]], place: int) -> float:
    """Straight between the known (place, value), by rising place; level behind the last."""
    after = next((pair for pair in known if pair[0] >= place), known[-1])
    if after[0] <= place:
        return after[1]
    before = [pair for pair in known if pair[0] < place][-1]
    return before[1] + (after[1] - before[1]) * (place - before[0]) / (after[0] - before[0])


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
