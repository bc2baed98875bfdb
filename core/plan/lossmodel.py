"""What a group's width costs in loss, one value per unit, and what it saves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from core.measure.cost.counts import cost_terms, count_cost
from core.measure.cost.lookup import latency_terms
from core.measure.cost.tables import LatencyTable
from core.records import CurvePoint, Group, Trace

if TYPE_CHECKING:
    from core.measure.residuals import Residuals
    from core.measure.sensitivity import Sensitivity

POWER = 0.8  # of the foretold error of rebuilt layers: of 0.5 to 1, what did best on a residual network
# As above where each layer makes up for its own loss alone (compensation): no later layer mends what is left, so that a
# large error anywhere costs more than it foretells. Of 0.8 to 2.2 on ResNet-20, all from 1.2 up did alike, 0.8 worse.
POWER_ALONE = 1.2


@dataclass(frozen=True)
class LossCurve:
    """By removed units, 0 to units - 1: ``loss`` rises; ``drop`` of accuracy (a share), None where none is known.
    fades_with: the group whose kept share the loss is multiplied by, for it is made in those channels."""

    loss: np.ndarray
    drop: np.ndarray | None = None
    fades_with: str | None = None


def scanned_curve(group: Group, sensitivity: Sensitivity) -> LossCurve:
    """Loss and accuracy drop of one group: measured as cut, made monotone.

    Flat stretches are told apart by a barrier, noise x -log(1 - fraction), of the size of the sampling error: without
    it a group that seems free on few images would be emptied first.
    """
    points = sensitivity.points[group.id]
    noise = max(1e-3, (sensitivity.dense.high - sensitivity.dense.low) / 4)
    removed = np.array([group.units - point.kept for point in points], dtype=float)
    loss = _monotone(points, lambda point: point.loss - points[0].loss)
    drop = _monotone(points, lambda point: points[0].accuracy - point.accuracy)
    at = np.arange(group.units)
    beyond = np.maximum(at - removed[-1], 0) / group.units  # not measured: as steep as the steepest part, and more
    slope = (loss[-1] + noise) / max(removed[-1] / group.units, 1e-9)
    barrier = noise * -np.log1p(-at / group.units)
    return LossCurve(
        np.interp(at, removed, loss) + barrier + 4 * slope * beyond,
        np.interp(at, removed, drop) + (beyond > 0) * 1.0,
    )


def scanned_curves(groups: Sequence[Group], sensitivity: Sensitivity) -> dict[str, LossCurve]:
    """Of those groups that were scanned."""
    return {g.id: scanned_curve(g, sensitivity) for g in groups if len(sensitivity.points.get(g.id, ())) > 1}


def rebuilt_curves(
    trace: Trace, residuals: Residuals, *, power: float = POWER, weights: Mapping[str, float] | None = None
) -> dict[str, LossCurve]:
    """Of every group with residuals: weight x (error left after rebuilding) ^ power.

    The error is a square; errors of many layers neither cancel (power 1) nor all point the same way (power 1/2). It
    fades with what is left of the one group that the readers make. A barrier as small as a thousandth of the mean curve
    keeps groups that seem free from being emptied.
    """
    heights = [left[0] ** power for left in residuals.left.values()]
    barrier = 1e-3 * sum(heights) / max(1, len(heights))
    made = made_by(trace)
    curves = {}
    for name, left in residuals.left.items():
        weight = 1.0 if weights is None else weights.get(name, 1.0)
        loss = np.array(left[:0:-1]) ** power  # removed 0 keeps all: left[units]
        loss = np.maximum.accumulate(loss) - loss[0]
        readers = {made.get(layer) for layer in trace.group(name).consumers}
        makes = readers.pop() if len(readers) == 1 else None
        at = np.arange(len(loss))
        curves[name] = LossCurve(weight * (loss - barrier * np.log1p(-at / len(loss))), fades_with=makes)
    return curves


def made_by(trace: Trace) -> dict[str, str | None]:
    """Layer -> the prunable group that it makes; None where it makes several."""
    made: dict[str, str | None] = {}
    for group in trace.prunable:
        for layer in group.layers:
            made[layer] = None if layer in made else group.id
    return made


def foretold(curves: Mapping[str, LossCurve], trace: Trace, counts: Mapping[str, int]) -> float:
    """The curves' sum for ``counts`` units kept (groups that are not named keep all)."""

    def share(name: str | None) -> float:
        return 1.0 if name is None or name not in curves else counts.get(name, 1 << 60) / trace.group(name).units

    total = 0.0
    for name, kept in counts.items():
        if name in curves:
            curve = curves[name]
            total += float(curve.loss[trace.group(name).units - kept]) * min(1.0, share(curve.fades_with))
    return total


def _monotone(points: Sequence[CurvePoint], value: Callable[[CurvePoint], float]) -> np.ndarray:
    return np.maximum.accumulate([max(0.0, value(point)) for point in points])


class Saving:
    """What one unit less of each group saves, as a share of the dense network, summed over the budget's quantities.

    Gathers among ``groups`` count with what their one reader saves.
    """

    def __init__(self, trace: Trace, groups: Sequence[Group], names: Sequence[str], table: LatencyTable | None) -> None:
        index = {group.id: number for number, group in enumerate(groups)}
        gathers = [group.id for group in groups if group.gather_of is not None]
        fixed = {group.id: float(group.units) for group in trace.groups if group.id not in index}
        coefs, first, second = [], [], []
        for name in names:
            timed = name == "latency_ms" and table is not None and not gathers
            name = "macs" if name == "latency_ms" and not timed else name  # times of gathers are not in those terms
            terms = latency_terms(trace, table) if timed and table else cost_terms(trace, name, gathers)
            whole = table.knots[-1][1] if timed and table else getattr(count_cost(trace), name)
            for coef, a, b in terms:
                coefs.append(coef * math.prod(fixed.get(g, 1.0) for g in (a, b) if g) / max(whole, 1e-12))
                first.append(index.get(a, -1) if a else -1)
                second.append(index.get(b, -1) if b else -1)
        self.coefs, self.first, self.second = np.array(coefs), np.array(first, dtype=int), np.array(second, dtype=int)
        self.groups = len(groups)

    def per_unit(self, kept: np.ndarray) -> np.ndarray:
        sizes = np.append(kept, 1.0)  # index -1: factor 1
        slope = np.zeros(self.groups + 1)
        np.add.at(slope, self.first, self.coefs * sizes[self.second])
        np.add.at(slope, self.second, self.coefs * sizes[self.first])
        return np.maximum(slope[:-1], 0.0)
