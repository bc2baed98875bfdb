"""Where pruning gains time and where it gains none: latency over one group's width, and plans moved onto its edges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from core.measure.cost.lookup import latency_over
from core.measure.cost.tables import LatencyTable
from core.records import Plan, Scores, Trace

LITTLE = 0.002  # of the network's time: a difference that is none
MOST = 256  # widths of a staircase; a wider group is read at every second width, or every third, and so on


@dataclass(frozen=True)
class Staircase:
    """Predicted milliseconds of the whole network over the units that ``group`` keeps, all else as in a plan.

    ``kept``: rising, the last is all units. ``gains[i]``: no wider network is as quick; where it is False, units were
    removed for nothing.
    """

    group: str
    kept: tuple[int, ...]
    ms: tuple[float, ...]
    gains: tuple[bool, ...]

    def snapped(self, kept: int) -> int:
        """The widest width that costs no more than ``kept`` units do."""
        here = max((i for i, width in enumerate(self.kept) if width <= kept), default=0)
        free = [width for width, ms in zip(self.kept, self.ms, strict=True) if ms <= self.ms[here] + self._little]
        return max(kept, *free)

    @property
    def _little(self) -> float:
        return LITTLE * self.ms[-1]


def latency_staircase(trace: Trace, group_id: str, table: LatencyTable, plan: Plan | None = None) -> Staircase:
    """Latency over the width of one group, the others as in ``plan`` (None = dense), from ``table``.

    Raises PlanError for an unknown group, MeasureError when the table belongs to another network.
    """
    units = trace.group(group_id).units
    stride = -(-units // MOST)
    widths = sorted({*range(stride, units, stride), 1, units})
    ms = latency_over(trace, plan, table, group_id, widths)
    little, gains, best = LITTLE * ms[-1], [], float("inf")
    for time in reversed(ms):
        gains.append(time < best - little)
        best = min(best, time)
    return Staircase(group_id, tuple(widths), tuple(ms), tuple(reversed(gains)))


def snap_plan(trace: Trace, plan: Plan, table: LatencyTable, scores: Scores | None = None) -> Plan:
    """``plan`` with as many units given back as the machine takes along for nothing.

    Groups are taken in network order, each beside the widths the former ones have got. Units come back by ``scores``
    (best first), without scores by their number. The predicted latency does not grow by more than 0.2 % of the dense
    network's for each group; a group that gets all its units back is no longer named. Errors as ``latency_staircase``.
    """
    kept: dict[str, tuple[int, ...]] = dict(plan.kept)
    for group in trace.groups:
        if group.id not in kept or len(kept[group.id]) == group.units:
            continue
        stairs = latency_staircase(trace, group.id, table, Plan(kept))
        wanted = stairs.snapped(len(kept[group.id]))
        order = _order(group.id, group.units, scores)
        inside = set(kept[group.id])
        back = [unit for unit in order if unit not in inside][: wanted - len(inside)]
        kept[group.id] = tuple(sorted(inside | set(back)))
    whole: Mapping[str, int] = {group.id: group.units for group in trace.groups}
    named = {name: units for name, units in kept.items() if len(units) < whole[name] or name not in plan.kept}
    return Plan(named, f"{plan.origin}, snapped".removeprefix(", "))


def _order(group_id: str, units: int, scores: Scores | None) -> list[int]:
    if scores is not None and group_id in scores.scores:
        return scores.ranking(group_id)
    return list(range(units))
