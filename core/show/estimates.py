"""What measured plans teach about estimates: sums of single groups' losses are off, and by how much can be learned.

Model: drop = s x (sum of the groups' own drops), with one number s >= 0 for a network, fitted to the plans that were
measured by least squares, drawn towards 1: s = (sum f m + w) / (sum f f + w), f foretold and m measured drops, as
shares. w = PRIOR says how much one believes in s = 1: as much as in one plan foretold to lose sqrt(PRIOR).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from core.measure.sensitivity import Sensitivity
from core.records import Trace
from core.show.comparison import SeenPlan

PRIOR = 1e-4  # one plan foretold to lose one point
FAR = 0.3  # plans that lost more say little about those worth having
MOST = 16  # the newest
LEAST_SCALE, MOST_SCALE = 0.0, 10.0


@dataclass(frozen=True)
class Correction:
    """``scale``: what to multiply a foretold drop with. ``plans``: how many it was learned from. ``error_before``,
    ``error_after``: median distance of estimate and measurement over them, shares of images; after: each plan foretold
    from the others. None without plans."""

    scale: float
    plans: int
    error_before: float | None
    error_after: float | None


def foretold_drop(sensitivity: Sensitivity, removed: dict[str, int], trace: Trace) -> float:
    """The sum of each group's own accuracy drop, a share, not bounded by guessing.

    Beyond a curve's last point its value stands; groups without a curve are left out.
    """
    dense, drop, known = sensitivity.dense.accuracy, 0.0, trace.by_id
    for group_id, count in removed.items():
        if count and group_id in sensitivity.points and group_id in known:
            fraction = min(count / known[group_id].units, sensitivity.points[group_id][-1].removed_fraction)
            drop += dense - sensitivity.accuracy(group_id, fraction)
    return drop


def learn_correction(
    trace: Trace, sensitivity: Sensitivity, seen: Sequence[SeenPlan], dense: float, repair: str
) -> Correction:
    """From the plans of this network that were measured under ``repair``; dense: the dense network's accuracy on the
    same images, a share."""
    pairs = []
    for one in seen:
        if one.repair == repair and any(one.removed.values()):
            foretold, found = foretold_drop(sensitivity, dict(one.removed), trace), dense - one.accuracy
            if max(foretold, found) <= FAR:
                pairs.append((foretold, found))
    pairs = pairs[-MOST:]
    if not pairs:
        return Correction(1.0, 0, None, None)
    before = median(abs(found - foretold) for foretold, found in pairs)
    after = median(
        abs(found - fit(pairs[:number] + pairs[number + 1 :]) * foretold)
        for number, (foretold, found) in enumerate(pairs)
    )
    return Correction(fit(pairs), len(pairs), before, after)


def fit(pairs: Sequence[tuple[float, float]]) -> float:
    """s of the model above, from (foretold, measured) drops; 1 without any."""
    both = sum(max(0.0, foretold) * found for foretold, found in pairs)
    squares = sum(max(0.0, foretold) ** 2 for foretold, _ in pairs)
    return min(MOST_SCALE, max(LEAST_SCALE, (both + PRIOR) / (squares + PRIOR)))
