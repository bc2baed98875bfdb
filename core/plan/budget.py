"""From a budget to a plan: take first where a multiply-add (parameter, millisecond) saved costs the least loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from core.errors import PlanError
from core.measure.cost.counts import cost_terms, count_cost
from core.measure.cost.lookup import latency_terms, predict_latency
from core.measure.cost.tables import LatencyTable
from core.plan.ratios import kept_units, plan_counts
from core.records import CurvePoint, Group, Plan, Scores, Trace
from core.registry import unknown_name

if TYPE_CHECKING:
    from core.measure.sensitivity import Sensitivity

QUANTITIES = ("macs", "params", "latency_ms", "accuracy_drop")
STEPS = 64  # chunks a group is taken away in before the last one is trimmed unit by unit
Counts = dict[str, int]  # group -> removed units


def plan_budget(
    trace: Trace,
    scores: Scores,
    sensitivity: Sensitivity | None,
    budget: Mapping[str, float],
    *,
    table: LatencyTable | None = None,
) -> Plan:
    """A plan within ``budget``: what may remain, all of it at once.

    budget: "macs" and "params" as shares of the dense network (0..1], "latency_ms" as predicted from ``table``,
    "accuracy_drop" as the sum of the groups' own measured drops (an estimate: measure the plan). Groups lose units in
    the order of least marginal loss on ``sensitivity``'s curves per saving, the lowest ``scores`` first; without
    curves all lose the same share. The plan is the first on that way that fits, to the unit.
    Raises PlanError for a budget that is malformed, or out of reach (it says what is reachable).
    """
    _check(budget, sensitivity, table)
    groups = [g for g in trace.prunable if sensitivity is None or len(sensitivity.points.get(g.id, ())) > 1]
    curves = {} if sensitivity is None else {g.id: _Curve(g, sensitivity) for g in groups}
    limits = {name: value for name, value in budget.items() if name != "accuracy_drop"}
    path = _uniform_path(groups) if sensitivity is None else _greedy_path(trace, groups, curves, budget, table)

    def fits(removed: Counts) -> bool:
        return all(_remaining(trace, removed, name, table) <= value for name, value in limits.items())

    if not limits:
        return _plan(trace, scores, path[-1], budget)
    if not fits(path[-1]):
        raise _out_of_reach(trace, path[-1], budget, table)
    index = _first(len(path), lambda i: fits(path[i]))
    removed = path[index] if index == 0 else _trim(path[index - 1], path[index], fits)
    return _plan(trace, scores, removed, budget)


class _Curve:
    """Loss and accuracy drop of one group over removed units: measured, made monotone, one value per unit.

    Flat stretches are told apart by a barrier, noise x -log(1 - fraction), of the size of the sampling error: without
    it a group that seems free on few images would be emptied first.
    """

    def __init__(self, group: Group, sensitivity: Sensitivity) -> None:
        points = sensitivity.points[group.id]
        noise = max(1e-3, (sensitivity.dense.high - sensitivity.dense.low) / 4)
        removed = np.array([group.units - point.kept for point in points], dtype=float)
        loss = _monotone(points, lambda point: point.loss - points[0].loss)
        drop = _monotone(points, lambda point: points[0].accuracy - point.accuracy)
        at = np.arange(group.units)
        beyond = np.maximum(at - removed[-1], 0) / group.units  # not measured: as steep as the steepest part, and more
        slope = (loss[-1] + noise) / max(removed[-1] / group.units, 1e-9)
        barrier = noise * -np.log1p(-at / group.units)
        self.loss = np.interp(at, removed, loss) + barrier + 4 * slope * beyond
        self.drop = np.interp(at, removed, drop) + (beyond > 0) * 1.0


def _monotone(points: Sequence[CurvePoint], value: Callable[[CurvePoint], float]) -> np.ndarray:
    return np.maximum.accumulate([max(0.0, value(point)) for point in points])


def _uniform_path(groups: Sequence[Group]) -> list[Counts]:
    path: list[Counts] = []
    for step in range(1001):
        removed = {group.id: group.units - kept_units(group, step / 1000) for group in groups}
        if not path or removed != path[-1]:
            path.append(removed)
    return path


def _greedy_path(
    trace: Trace,
    groups: Sequence[Group],
    curves: Mapping[str, _Curve],
    budget: Mapping[str, float],
    table: LatencyTable | None,
) -> list[Counts]:
    """From dense to one unit everywhere, one chunk of one group at a time; never back."""
    saving = _Saving(trace, groups, [name for name in budget if name != "accuracy_drop"] or ["macs"], table)
    removed = np.zeros(len(groups), dtype=int)
    units = np.array([group.units for group in groups], dtype=int)
    chunk = np.maximum(1, units // STEPS)
    path = [dict.fromkeys((group.id for group in groups), 0)]
    loss, drop = (_table([getattr(curves[group.id], name) for group in groups]) for name in ("loss", "drop"))
    rows, allowed = np.arange(len(groups)), budget.get("accuracy_drop", math.inf) + 1e-12
    while groups:
        after = np.minimum(removed + chunk, units - 1)
        gain = saving.per_unit(units - removed) * (after - removed)
        price = (loss[rows, after] - loss[rows, removed]) / np.maximum(gain, 1e-12)
        dropped = drop[rows, removed].sum() - drop[rows, removed] + drop[rows, after]
        price[(after == removed) | (dropped > allowed)] = np.inf
        best = int(np.argmin(price))
        if math.isinf(price[best]):
            break
        removed[best] = after[best]
        path.append({**path[-1], groups[best].id: int(after[best])})
    return path


def _table(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of different lengths as one array, padded with zeros that are never read."""
    table = np.zeros((len(rows), max((len(row) for row in rows), default=0)))
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return table


class _Saving:
    """What one unit less of each group saves, as a share of the dense network, summed over the budget's quantities."""

    def __init__(self, trace: Trace, groups: Sequence[Group], names: Sequence[str], table: LatencyTable | None) -> None:
        index = {group.id: number for number, group in enumerate(groups)}
        fixed = {group.id: float(group.units) for group in trace.prunable if group.id not in index}
        coefs, first, second = [], [], []
        for name in names:
            terms = latency_terms(trace, table) if name == "latency_ms" and table else cost_terms(trace, name)
            whole = table.knots[-1][1] if name == "latency_ms" and table else getattr(count_cost(trace), name)
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


def _first(count: int, holds: Callable[[int], bool]) -> int:
    """The smallest index at which ``holds``, by bisection; it holds at the last."""
    low, high = 0, count - 1
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _trim(before: Counts, after: Counts, fits: Callable[[Counts], bool]) -> Counts:
    """Between two neighbours on the way: give back units of the last chunk, one by one, while the rest still fits."""
    removed = dict(after)
    for group, low in before.items():
        while removed[group] > low and fits({**removed, group: removed[group] - 1}):
            removed[group] -= 1
    return removed


def _stand_in(trace: Trace, removed: Counts) -> Plan:
    """Any plan of these widths: costs do not ask which units stay."""
    return Plan({name: tuple(range(trace.group(name).units - count)) for name, count in removed.items() if count})


def _remaining(trace: Trace, removed: Counts, name: str, table: LatencyTable | None) -> float:
    plan = _stand_in(trace, removed)
    if name == "latency_ms" and table is not None:
        return predict_latency(trace, plan, table).median_ms
    whole: float = getattr(count_cost(trace), name)
    return float(getattr(count_cost(trace, plan), name) / max(whole, 1))


def _plan(trace: Trace, scores: Scores, removed: Counts, budget: Mapping[str, float]) -> Plan:
    words = ", ".join(f"{name} {value:g}" for name, value in budget.items())
    return plan_counts(trace, scores, removed, f"budget {words}, {scores.criterion}")


def _check(budget: Mapping[str, float], sensitivity: Sensitivity | None, table: LatencyTable | None) -> None:
    if not budget:
        raise PlanError("A budget names what may remain, such as {'macs': 0.5}; found an empty one.")
    for name, value in budget.items():
        if name not in QUANTITIES:
            raise unknown_name("budget", name, list(QUANTITIES), PlanError)
        top = math.inf if name == "latency_ms" else 1.0
        floor_allowed = name == "accuracy_drop"
        if not (value > 0 or (floor_allowed and value == 0)) or value > top:
            span = "a time above 0" if name == "latency_ms" else "a share in 0..1"
            raise PlanError(f"Budget {name}: expected {span}, found {value}.")
    if "latency_ms" in budget and table is None:
        raise PlanError("A budget in milliseconds needs a latency table. Measure one on this machine first.")
    if "accuracy_drop" in budget and sensitivity is None:
        raise PlanError("A budget of accuracy needs sensitivity curves. Scan the network first.")


def _out_of_reach(trace: Trace, removed: Counts, budget: Mapping[str, float], table: LatencyTable | None) -> PlanError:
    facts = []
    for name, value in budget.items():
        if name != "accuracy_drop":
            least = _remaining(trace, removed, name, table)
            if least > value:
                unit = " ms" if name == "latency_ms" else " of the dense network"
                reach = math.ceil(1e4 * least) / 1e4
                facts.append(f"{name} {value:g} asked for, {reach:g}{unit} is the smallest reachable")
    within = " within the accuracy drop" if "accuracy_drop" in budget else ""
    return PlanError(
        f"The budget is out of reach{within}: {'; '.join(facts)}. Allow more to remain, unlock groups, or scan those "
        "that have no curve yet."
    )
