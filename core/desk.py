"""Numbers for the tuning desk: what a plan costs and what the curves foretell, without building a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from core.measure.cost import LatencyTable, cost_terms, count_cost, latency_terms, predict_latency
from core.measure.sensitivity import Sensitivity
from core.plan import plan_budget, plan_counts
from core.records import Cost, Latency, Plan, Scores, Trace

Term = tuple[float, int, int]  # coefficient, row of factor a, row of factor b; -1 = factor 1


@dataclass(frozen=True)
class DeskRow:
    """One bar: a group, how many units it keeps, and its curve as (removed fraction, accuracy, low, high)."""

    id: str
    name: str
    units: int
    kept: int
    prunable: bool
    reason: str
    members: tuple[str, ...]
    curve: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Headline:
    """A plan's cost beside the dense network's. ``cost`` is exact; ``latency`` is predicted, None without a table;
    ``accuracy`` is what single-group curves foretell (estimated), None without curves."""

    cost: Cost
    dense_cost: Cost
    latency: Latency | None
    dense_latency: Latency | None
    accuracy: float | None
    dense_accuracy: float | None


def desk_rows(trace: Trace, sensitivity: Sensitivity | None, removed: Mapping[str, int]) -> list[DeskRow]:
    """The bars in network order, locked groups included. ``removed``: units removed per group id."""
    rows = []
    for group in trace.groups:
        points = sensitivity.points.get(group.id, ()) if sensitivity else ()
        rows.append(
            DeskRow(
                group.id,
                group.name,
                group.units,
                max(1, group.units - removed.get(group.id, 0)) if group.prunable else group.units,
                group.prunable,
                group.reason or "",
                group.layers + tuple(name for name in group.consumers if name not in group.layers),
                tuple((point.removed_fraction, point.accuracy, point.low, point.high) for point in points),
            )
        )
    return rows


def row_terms(trace: Trace, terms: list[tuple[float, str | None, str | None]]) -> list[Term]:
    """Terms over group ids as terms over the rows of ``desk_rows``."""
    index = {group.id: number for number, group in enumerate(trace.groups)}

    def row(group_id: str | None) -> int:
        return -1 if group_id is None else index[group_id]

    return [(coefficient, row(a), row(b)) for coefficient, a, b in terms]


def drag_terms(trace: Trace, table: LatencyTable | None) -> dict[str, list[Term]]:
    """What the browser needs to price a drag by itself: macs and params exactly, latency_ms approximately."""
    terms = {quantity: row_terms(trace, cost_terms(trace, quantity)) for quantity in ("macs", "params")}
    if table is not None:
        terms["latency_ms"] = row_terms(trace, latency_terms(trace, table))
    return terms


def foretell_accuracy(sensitivity: Sensitivity, removed: Mapping[str, int], trace: Trace, chance: float) -> float:
    """Dense accuracy less the sum of each group's own drop, never under ``chance``: an estimate, groups interact."""
    dense = sensitivity.dense.accuracy
    drop = 0.0
    for group_id, count in removed.items():
        if count and group_id in sensitivity.points:
            fraction = min(count / trace.group(group_id).units, sensitivity.points[group_id][-1].removed_fraction)
            drop += max(0.0, dense - sensitivity.accuracy(group_id, fraction))
    return max(chance, dense - drop)


def headline(
    trace: Trace,
    plan: Plan,
    *,
    sensitivity: Sensitivity | None = None,
    table: LatencyTable | None = None,
    classes: int = 10,
) -> Headline:
    """Exact cost, predicted latency and foretold accuracy of ``plan``."""
    removed = {name: trace.group(name).units - len(kept) for name, kept in plan.kept.items()}
    return Headline(
        count_cost(trace, plan),
        count_cost(trace),
        predict_latency(trace, plan, table) if table else None,
        predict_latency(trace, Plan({}), table) if table else None,
        foretell_accuracy(sensitivity, removed, trace, 1 / classes) if sensitivity else None,
        sensitivity.dense.accuracy if sensitivity else None,
    )


def removed_counts(trace: Trace, plan: Plan) -> dict[str, int]:
    """How many units each group loses; groups that lose none are left out."""
    counts = {name: trace.group(name).units - len(kept) for name, kept in plan.kept.items()}
    return {name: count for name, count in counts.items() if count}


def propose(trace: Trace, scores: Scores, sensitivity: Sensitivity, budget: Mapping[str, float]) -> dict[str, int]:
    """Removed units per group that meet ``budget`` (as in ``plan_budget``)."""
    return removed_counts(trace, plan_budget(trace, scores, sensitivity, budget))


def desk_plan(trace: Trace, scores: Scores, removed: Mapping[str, int]) -> Plan:
    """The plan the bars stand for; groups that this network does not have, or that are locked, are left out."""
    known = {group.id for group in trace.prunable}
    return plan_counts(trace, scores, {name: count for name, count in removed.items() if name in known})
