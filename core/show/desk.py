"""Numbers for the tuning desk: what a plan costs and what the curves foretell, without building a network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from core.errors import PlanError
from core.measure.cost import LatencyTable, cost_terms, count_cost, latency_terms, predict_latency
from core.measure.sensitivity import Sensitivity
from core.plan import plan_budget, plan_counts
from core.plan.ratios import kept_units
from core.records import Cost, Latency, Plan, Scores, Trace
from core.show.estimates import foretold_drop
from core.show.stages import group_stages

Term = tuple[float, int, int]  # coefficient, row of factor a, row of factor b; -1 = factor 1


@dataclass(frozen=True)
class DeskRow:
    """One bar: a group, how many units it keeps, and its curve as (removed fraction, accuracy, low, high). ``stage``:
    the size of its maps, in words."""

    id: str
    name: str
    units: int
    kept: int
    prunable: bool
    reason: str
    members: tuple[str, ...]
    curve: tuple[tuple[float, float, float, float], ...]
    stage: str = ""

    @property
    def removed_fraction(self) -> float:
        return 1 - self.kept / self.units


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


@dataclass(frozen=True)
class Figure:
    """One headline number beside the dense network's. ``how``: measured, predicted, estimated or exact. ``low`` and
    ``high``: 95 % interval of an accuracy, quartiles of a time. ``about``: images, device, threads, batch, as known."""

    name: str
    value: float | None
    dense: float | None
    how: str
    low: float | None = None
    high: float | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def change(self) -> float | None:
        """Accuracy: difference of the shares. All else: relative, -0.4 = 40 % less."""
        if self.value is None or not self.dense:
            return None
        return self.value - self.dense if self.name == "accuracy" else self.value / self.dense - 1


@dataclass(frozen=True)
class StartPlan:
    """A plan to begin with. ``needs``: what must be known first. An empty budget: found by measuring whole plans."""

    name: str
    title: str
    help: str
    budget: Mapping[str, float]
    needs: tuple[str, ...] = ("scores", "curves")


PROPOSED = StartPlan(
    "one-point",
    "At most 1 point lost",
    "The fewest MACs found while the whole plan, measured, stays within one point of the dense network's accuracy.",
    {},
    ("proposal",),
)
START_PLANS = (
    PROPOSED,
    StartPlan("half-macs", "Half the MACs", "Half the multiply-adds, taken where they cost least.", {"macs": 0.5}),
    StartPlan(
        "quarter-params", "A quarter of the parameters", "Three quarters of all weights leave.", {"params": 0.25}
    ),
    StartPlan(
        "twice-fast",
        "2× faster here",
        "Half the dense network's time, as predicted for this machine.",
        {"latency": 0.5},
        ("scores", "curves", "latency"),
    ),
)


def desk_rows(trace: Trace, sensitivity: Sensitivity | None, removed: Mapping[str, int]) -> list[DeskRow]:
    """The bars in network order, locked groups included. ``removed``: units removed per group id."""
    rows, stages = [], group_stages(trace)
    for group in trace.coupled:
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
                stages[group.id],
            )
        )
    return rows


def row_terms(trace: Trace, terms: list[tuple[float, str | None, str | None]]) -> list[Term]:
    """Terms over group ids as terms over the rows of ``desk_rows``."""
    index = {group.id: number for number, group in enumerate(trace.coupled)}

    def row(group_id: str | None) -> int:
        return -1 if group_id is None else index[group_id]

    return [(coefficient, row(a), row(b)) for coefficient, a, b in terms]


def drag_terms(trace: Trace, table: LatencyTable | None) -> dict[str, list[Term]]:
    """What the browser needs to price a drag by itself: macs and params exactly, latency_ms approximately."""
    terms = {quantity: row_terms(trace, cost_terms(trace, quantity)) for quantity in ("macs", "params")}
    if table is not None:
        terms["latency_ms"] = row_terms(trace, latency_terms(trace, table))
    return terms


def foretell_accuracy(
    sensitivity: Sensitivity, removed: Mapping[str, int], trace: Trace, chance: float, scale: float = 1.0
) -> float:
    """Dense accuracy less ``scale`` times the sum of each group's own drop, in ``chance``..1: an estimate, for groups
    interact. The browser says the same while a bar is dragged."""
    drop = foretold_drop(sensitivity, dict(removed), trace)
    return min(1.0, max(chance, sensitivity.dense.accuracy - scale * drop))


def headline(
    trace: Trace,
    plan: Plan,
    *,
    sensitivity: Sensitivity | None = None,
    table: LatencyTable | None = None,
    classes: int = 10,
    scale: float = 1.0,
) -> Headline:
    """Exact cost, predicted latency and foretold accuracy of ``plan``. scale: what measured plans taught about foretold
    drops (``learn_correction``)."""
    removed = {name: trace.group(name).units - len(kept) for name, kept in plan.kept.items()}
    return Headline(
        count_cost(trace, plan),
        count_cost(trace),
        predict_latency(trace, plan, table) if table else None,
        predict_latency(trace, Plan({}), table) if table else None,
        foretell_accuracy(sensitivity, removed, trace, 1 / max(1, classes), scale) if sensitivity else None,
        sensitivity.dense.accuracy if sensitivity else None,
    )


def removed_counts(trace: Trace, plan: Plan) -> dict[str, int]:
    """How many units each group loses; groups that lose none are left out."""
    counts = {name: trace.group(name).units - len(kept) for name, kept in plan.kept.items()}
    return {name: count for name, count in counts.items() if count}


def desk_figures(now: Headline, measured: Mapping[str, Any], dense: Mapping[str, Any]) -> tuple[Figure, ...]:
    """The headline numbers, each the best that is known: measured before predicted and estimated.

    measured: what ``evaluate_plan`` found for this very plan, {} or a part of it while it runs. dense: the same for the
    plan that removes nothing. An accuracy or a time that nobody knows yet has ``value`` None.
    """
    cost = [
        Figure(name, float(getattr(now.cost, name)), float(getattr(now.dense_cost, name)), "exact")
        for name in ("macs", "params", "size_bytes")
    ]
    return (_accuracy(now, measured, dense), _latency(now, measured), *cost)


def _accuracy(now: Headline, measured: Mapping[str, Any], dense: Mapping[str, Any]) -> Figure:
    before = dense["accuracy"]["value"] if "accuracy" in dense else now.dense_accuracy
    if "accuracy" in measured:
        found = measured["accuracy"]
        return Figure("accuracy", found["value"], before, "measured", found["low"], found["high"], found)
    # A plan that removes nothing is the dense network, which the scan did measure.
    how = "measured" if now.cost == now.dense_cost and now.accuracy is not None else "estimated"
    return Figure("accuracy", now.accuracy, before, how)


def _latency(now: Headline, measured: Mapping[str, Any]) -> Figure:
    if "latency" in measured:
        found, before = measured["latency"], measured["dense_latency"]
        return Figure(
            "latency", found["median_ms"], before["median_ms"], "measured", found["low_ms"], found["high_ms"], found
        )
    if now.latency is None or now.dense_latency is None:
        return Figure("latency", None, None, "predicted")
    time, whole = now.latency, now.dense_latency
    return Figure("latency", time.median_ms, whole.median_ms, "predicted", time.low_ms, time.high_ms, asdict(time))


def collapsed(measured: Mapping[str, Any], dense: Mapping[str, Any]) -> bool:
    """Whether a measured plan lost so much (5 points and beyond its interval) that a repair is worth a hint."""
    if "accuracy" not in measured or "accuracy" not in dense:
        return False
    before, found = dense["accuracy"]["value"], measured["accuracy"]
    return bool(found["value"] < before - 0.05 and found["high"] < before)


def propose(
    trace: Trace,
    scores: Scores,
    sensitivity: Sensitivity,
    budget: Mapping[str, float],
    *,
    table: LatencyTable | None = None,
    held: Collection[str] = (),
) -> dict[str, int]:
    """Removed units per group that meet ``budget`` (as in ``plan_budget``), named for every group that may move.

    "latency" is a share of the dense network's predicted time and needs ``table``. "size_bytes" (alone): the network's
    parameters and buffers, in bytes. ``held``: groups that stay as they
    are; they are not named, and the budget is met as if they lost nothing.
    Raises PlanError when it is out of reach, or when what it needs is missing.
    """
    limits = dict(budget)
    if "size_bytes" in limits:
        return _propose_size(trace, scores, sensitivity, limits.pop("size_bytes"), held)
    if "latency" in limits:
        if table is None:
            raise PlanError("A plan by latency needs times measured on this machine; they are not there yet.")
        limits["latency_ms"] = limits.pop("latency") * predict_latency(trace, Plan({}), table).median_ms
    free = {name: points for name, points in sensitivity.points.items() if name not in held}
    plan = plan_budget(trace, scores, replace(sensitivity, points=free), limits, table=table)
    return every_count(trace, removed_counts(trace, plan), held)


def _propose_size(
    trace: Trace, scores: Scores, sensitivity: Sensitivity, size_bytes: float, held: Collection[str]
) -> dict[str, int]:
    """Buffers shrink with the parameters, though not in step: the parameters' share is lowered until the size fits."""
    dense, share = count_cost(trace), size_bytes / max(1, count_cost(trace).size_bytes)
    if share >= 1:
        return every_count(trace, {}, held)
    for _ in range(8):
        if share <= 0:
            break
        counts = propose(trace, scores, sensitivity, {"params": share}, held=held)
        left = count_cost(trace, widths_plan(trace, counts)).size_bytes
        if left <= size_bytes:
            return counts
        share -= (left - size_bytes) / dense.size_bytes + 1e-4
    raise PlanError(
        f"{size_bytes / 2**20:.2f} MB is out of reach: the smallest plan on the way of least loss is larger. Allow "
        "more, or unlock groups."
    )


def every_count(trace: Trace, removed: Mapping[str, int], held: Collection[str] = ()) -> dict[str, int]:
    """``removed`` with a number for every group that may move, and for no other."""
    return {name: removed.get(name, 0) for name in movable(trace, held)}


def even_counts(trace: Trace, removed_fraction: float, held: Collection[str] = ()) -> dict[str, int]:
    """The same share of every group that may move; at least one unit of each stays."""
    return {
        name: trace.group(name).units - kept_units(trace.group(name), removed_fraction) for name in movable(trace, held)
    }


def movable(trace: Trace, held: Collection[str] = ()) -> list[str]:
    """Ids of the groups whose bars move, in network order."""
    return [group.id for group in trace.prunable if group.id not in held]


def removed_from_kept(trace: Trace, kept: Mapping[str, int]) -> dict[str, int]:
    """Removed units from kept ones. A locked or unknown group is left out: no edit moves it."""
    units = {group.id: group.units for group in trace.prunable}
    return {name: units[name] - min(max(1, count), units[name]) for name, count in kept.items() if name in units}


def desk_plan(trace: Trace, scores: Scores, removed: Mapping[str, int]) -> Plan:
    """The plan the bars stand for; groups that this network does not have, or that are locked, are left out."""
    known = {group.id for group in trace.prunable}
    return plan_counts(trace, scores, {name: count for name, count in removed.items() if name in known})


def pinned_plan(trace: Trace, scores: Scores | None, removed: Mapping[str, int], pinned: Plan) -> Plan | None:
    """As ``desk_plan``, but groups that lose as many units as in ``pinned`` keep the very units it keeps, gathers
    included. None when another group moved and the scores that say how are not there."""
    known = trace.by_id
    own = {
        name: kept
        for name, kept in pinned.kept.items()
        if name in known and removed.get(name, 0) == known[name].units - len(kept)
    }
    rest = {name: count for name, count in removed.items() if count and name not in own}
    rest = {name: count for name, count in rest.items() if name in known and known[name].gather_of is None}
    if not rest:
        return Plan(own, pinned.origin)
    if scores is None:
        return None
    moved = desk_plan(trace, scores, rest)
    return Plan({**moved.kept, **own}, f"{pinned.origin}; then moved by hand")


def widths_plan(trace: Trace, removed: Mapping[str, int]) -> Plan:
    """Any plan of these widths, for its cost: counts and times do not ask which units stay."""
    units = {group.id: group.units for group in trace.prunable}
    return Plan({name: tuple(range(max(1, units[name] - n))) for name, n in removed.items() if n and name in units})
