"""A budget: what may remain, how much of it a plan uses, and what to say when it is out of reach."""

from __future__ import annotations

import math
from collections.abc import Mapping

from core.errors import PlanError
from core.measure.cost.counts import count_cost
from core.measure.cost.lookup import predict_latency
from core.measure.cost.tables import LatencyTable
from core.records import Plan, Trace
from core.registry import unknown_name

QUANTITIES = ("macs", "params", "latency_ms", "accuracy_drop")
Counts = dict[str, int]  # group id -> removed units


class Limits:
    """The quantities of a budget that follow from widths alone: "macs" and "params" as shares of the dense network,
    "latency_ms" as predicted from a table. ``accuracy_drop`` is not among them."""

    def __init__(self, trace: Trace, budget: Mapping[str, float], table: LatencyTable | None) -> None:
        self.trace, self.table = trace, table
        self.values = {name: value for name, value in budget.items() if name != "accuracy_drop"}
        self.words = " within the accuracy drop" if "accuracy_drop" in budget else ""

    def __bool__(self) -> bool:
        return bool(self.values)

    def fits(self, removed: Mapping[str, int]) -> bool:
        return all(self.remaining(removed, name) <= value for name, value in self.values.items())

    def remaining(self, removed: Mapping[str, int], name: str) -> float:
        """Of one quantity, when so many units leave: costs do not ask which."""
        plan = stand_in(self.trace, removed)
        if name == "latency_ms" and self.table is not None:
            return predict_latency(self.trace, plan, self.table).median_ms
        whole: float = getattr(count_cost(self.trace), name)
        return float(getattr(count_cost(self.trace, plan), name) / max(whole, 1))

    def out_of_reach(self, removed: Mapping[str, int]) -> PlanError:
        """The error for a budget that not even the smallest network meets, which ``removed`` makes."""
        facts = []
        for name, value in self.values.items():
            least = self.remaining(removed, name)
            if least > value:
                unit = " ms" if name == "latency_ms" else " of the dense network"
                reach = math.ceil(1e4 * least) / 1e4
                facts.append(f"{name} {value:g} asked for, {reach:g}{unit} is the smallest reachable")
        return PlanError(
            f"The budget is out of reach{self.words}: {'; '.join(facts)}. Allow more to remain, unlock groups, let all "
            "groups take part where only some do, or scan those that have no curve yet."
        )


def stand_in(trace: Trace, removed: Mapping[str, int]) -> Plan:
    """Any plan of these widths."""
    return Plan({name: tuple(range(trace.group(name).units - count)) for name, count in removed.items() if count})


def kept_counts(trace: Trace, removed: Mapping[str, int]) -> dict[str, int]:
    """Group id -> units that stay, for the groups that lose some."""
    return {name: trace.group(name).units - count for name, count in removed.items() if count}


def check_budget(budget: Mapping[str, float], table: LatencyTable | None, *, judged: bool) -> None:
    """Raises PlanError for a budget that is malformed or lacks its table. judged: there are curves or a measurement
    that an accuracy drop can be held against."""
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
    if "accuracy_drop" in budget and not judged:
        raise PlanError("A budget of accuracy needs sensitivity curves. Scan the network first.")
