"""From a budget to a plan: the first widths on a rule's way that fit, to the unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from core.errors import PlanError
from core.measure.cost.tables import LatencyTable
from core.plan.limits import Counts, Limits, check_budget, kept_counts
from core.plan.lossmodel import scanned_curves
from core.plan.ratios import plan_counts
from core.plan.rules import RATIO_RULES, Situation, marginal_path, uniform_path
from core.plan.targets import target_groups
from core.records import Accuracy, Plan, Scores, Trace

if TYPE_CHECKING:
    from core.measure.sensitivity import Sensitivity
    from core.plan.lossmodel import LossCurve

Measure = Callable[[Mapping[str, int]], Accuracy]  # units kept per group -> what the network of these widths does


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
    check_budget(budget, table, judged=sensitivity is not None)
    curves = None if sensitivity is None else scanned_curves(trace.prunable, sensitivity)
    situation = Situation(trace, trace.prunable, budget, scores, curves, table)
    path = uniform_path(situation) if curves is None else marginal_path(situation)
    removed = fit_path(trace, path, budget, table)
    words = ", ".join(f"{name} {value:g}" for name, value in budget.items())
    return plan_counts(trace, scores, removed, f"budget {words}, {scores.criterion}")


def choose_counts(
    trace: Trace,
    rule: str,
    budget: Mapping[str, float],
    *,
    groups: str = "all",
    scores: Scores | None = None,
    curves: Mapping[str, LossCurve] | None = None,
    table: LatencyTable | None = None,
    measure: Measure | None = None,
) -> dict[str, int]:
    """Units kept per group (those that lose some) by a row of RATIO_RULES, within ``budget`` (as in ``plan_budget``).

    groups: a row of GROUP_SETS. scores, curves: what the rule needs. measure: tells the accuracy of widths, on images
    for choosing; "accuracy_drop" is then kept by measurement, else by the sum of the curves' drops.
    Raises PlanError for a budget that is malformed or out of reach, or where the rule lacks something.
    """
    judged = measure is not None or (curves is not None and all(curve.drop is not None for curve in curves.values()))
    check_budget(budget, table, judged=judged)
    floor = budget.get("accuracy_drop") if measure is not None else None
    limits = dict(budget) if floor is None else {k: v for k, v in budget.items() if k != "accuracy_drop"}
    chosen = target_groups(trace, groups)
    path = RATIO_RULES[rule].path(Situation(trace, chosen, limits, scores, curves, table))
    if measure is None or floor is None:
        return kept_counts(trace, fit_path(trace, path, budget, table))
    return _measured(trace, path, limits, table, measure, floor)


def fit_path(
    trace: Trace, path: list[Counts], budget: Mapping[str, float], table: LatencyTable | None = None
) -> Counts:
    """Removed units: the first entry of ``path`` within the budget's quantities, with units of its last step given back
    while it fits; the last entry when there are none. Raises PlanError when not even that fits."""
    limits = Limits(trace, budget, table)
    if not limits:
        return path[-1]
    if not limits.fits(path[-1]):
        raise limits.out_of_reach(path[-1])
    index = _first(len(path), lambda i: limits.fits(path[i]))
    return path[index] if index == 0 else _trim(path[index - 1], path[index], limits.fits)


def _measured(
    trace: Trace, path: list[Counts], budget: Mapping[str, float], table: LatencyTable | None, measure: Measure,
    floor: float,
) -> dict[str, int]:  # fmt: skip
    """The entry of least widths found by halving whose measured accuracy is within ``floor`` of the dense network's.

    Accuracy need not fall steadily: it is the best that was met, not the best there is.
    """
    limits = Limits(trace, budget, table)
    dense = measure({})
    low = 0
    if limits:
        if not limits.fits(path[-1]):
            raise limits.out_of_reach(path[-1])
        low = _first(len(path), lambda i: limits.fits(path[i]))

    def holds(index: int) -> bool:
        found = measure(kept_counts(trace, path[index]))
        return dense.correct - found.correct <= floor * dense.images + 1e-9

    if low and not holds(low):
        least = ", ".join(f"{name} {value:g}" for name, value in budget.items())
        raise PlanError(
            f"The budget is out of reach within the accuracy drop: {least} costs more than {floor:g} of the images "
            "here. Allow more to remain, or a larger drop."
        )
    high = len(path) - 1
    best = low
    while low < high and high - low > len(path) / 64:
        middle = (low + high + 1) // 2
        if holds(middle):
            best = low = middle
        else:
            high = middle - 1
    return kept_counts(trace, path[best])


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
