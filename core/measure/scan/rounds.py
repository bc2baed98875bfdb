"""In what order a scan works: what tells most comes first, and everything comes in the end.

First three widths of every group on few images. Then the middle one of each on all images, and the two between which
the limits are crossed: how much a group can lose hangs on these, and few images say little of it. The losses known so
far say where to look, being smoother than counts of right answers. Then the other widths, those first that have the
decision or a bend between the widths beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.measure.forks import Fork
from core.measure.scan.tally import Tally
from core.solvers.intervals import paired_interval
from core.solvers.monotone import ROUNDING, rising

FIRST_SHARE, FIRST_LEAST, FIRST_MOST = 0.1, 16, 128  # images of the first curves
COARSE = (1 / 6, 1 / 2, 5 / 6)  # places along a group's widths
SEARCHES = 6  # rounds for the widths around the limits; every one walks the network again
NATS = 10.0  # of loss added, about, per share of accuracy lost: what else may be asked for
FAR, FAR_SHARE = 2.0, 1 / 3  # times what may be lost: then this share of the images is enough for now
LEAST_NATS = 1e-3  # what counts as no change when losses are compared by their logarithms


@dataclass(frozen=True)
class Round:
    """``forks`` are brought to the first ``images`` images. ``whole``: a fork is of use on all of these only, so that
    who has to stop before does rather fewer of them, in this order."""

    what: str
    forks: Sequence[Fork]
    images: int
    whole: bool = False


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
    groups = _by_group(forks).values()
    yield Round("First curves", coarse, first_images(total, batch))
    half = [widths[len(widths) // 2] for widths in groups]
    far = [fork for fork in half if _is_far_beyond(tallies[fork], decision)]
    yield Round("Half of every group", far, min(total, batch * max(1, round(FAR_SHARE * total / batch))))
    yield Round("Half of every group", [fork for fork in half if fork not in far], total)
    for _ in range(SEARCHES):
        found = (open_fork(widths, tallies, total, decision) for widths in groups)
        due = [pair for pair in found if pair is not None]
        due = sorted(reversed(due), key=lambda pair: -pair[0])  # later layers, which take less work, before others
        if due:
            yield Round("Where the limit is crossed", [fork for _, fork in due], total, whole=True)
    rest = [fork for fork in forks if fork not in tallies or tallies[fork].images < total]
    first = set(coarse)
    rest.sort(key=lambda fork: (fork not in first, *_telling(fork, forks, tallies, start[0], decision)))
    yield Round("Where it is close and where curves bend", rest[: len(rest) // 2], total)
    yield Round("All widths", rest, total)


def open_fork(
    widths: Sequence[Fork], tallies: Mapping[Fork, Tally], total: int, decision: float
) -> tuple[int, Fork] | None:
    """The width to measure on all images next, so that two neighbours stand on both sides of ``decision``, and two of
    as many nats as go with it, with the number of steps that are open; None once they do. widths: a group's, widest
    first."""
    known = [(at, tallies[fork]) for at, fork in enumerate(widths) if fork in tallies]
    images = [tally.images for _, tally in known]
    far = [at for at, tally in known if _is_far_beyond(tally, decision)]
    found = []
    for limit, sums in (
        (decision, [tally.lost - tally.gained for _, tally in known]),
        (NATS * decision, [tally.loss - tally.start_loss for _, tally in known]),
    ):
        fitted = rising([value / count for value, count in zip(sums, images, strict=True)], images)
        whole = [(at, value) for (at, tally), value in zip(known, fitted, strict=True) if tally.images >= total]
        beyond = min([len(widths), *far, *(at for at, value in whole if value > limit + ROUNDING)])
        within = max((at for at, _ in whole if at < beyond), default=-1)
        if beyond - within > 1:
            at = _foreseen(widths, tallies, NATS * decision) if beyond < len(widths) else beyond - 1
            found.append((beyond - within, widths[min(max(at, within + 1), beyond - 1)]))
    return max(found, key=lambda pair: pair[0], default=None)


def _is_far_beyond(tally: Tally, decision: float) -> bool:
    """Whether few images suffice to see that more is lost than anybody wants."""
    added = (tally.loss - tally.start_loss) / tally.images
    return verdict(tally, decision) is False and added > FAR * NATS * decision


def _foreseen(widths: Sequence[Fork], tallies: Mapping[Fork, Tally], nats: float) -> int:
    """The last width before ``nats`` of loss are added, as far as is known: between known widths by its logarithm, and
    level behind the last. Losses are smoother than counts of right answers."""
    removed = [fork.group.units - len(fork.kept) for fork in widths]
    known = [(gone, tallies[fork]) for gone, fork in zip(removed, widths, strict=True) if fork in tallies]
    added = [(tally.loss - tally.start_loss) / tally.images for _, tally in known]
    logs = np.log(np.maximum(LEAST_NATS, [0.0, *added]))
    curve = np.interp(removed, [0, *(gone for gone, _ in known)], logs)
    return int(np.argmax([*(curve > math.log(max(LEAST_NATS, nats))), True])) - 1


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
