"""The staircase of one group: marks where removal gains nothing, and plans that are moved onto its edges."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from core.errors import PlanError
from core.measure.cost import LatencyTable, build_latency_table, predict_latency
from core.measure.cost.staircase import Staircase, latency_staircase, snap_plan
from core.records import Plan, Scores, Trace
from core.trace import trace_channels
from tests.ruled_times import ruled, two_convolutions


@pytest.fixture(scope="module")
def trace() -> Trace:
    return two_convolutions()


@pytest.fixture(scope="module")
def table(trace: Trace) -> LatencyTable:
    """Every operator takes 1 ms for each begun block of eight channels it makes, whatever it reads."""
    found = build_latency_table(trace, threads=1, repeats=1)
    return ruled(found, lambda _, made: float(-(-made // 8)), knots=((1.0, 1.0),), spread=(1.0, 1.0), wall=None)


def test_marks_are_the_tops_of_the_steps(trace: Trace, table: LatencyTable) -> None:
    first = trace.prunable[0]
    stairs = latency_staircase(trace, first.id, table)
    assert stairs.kept == tuple(range(1, 33))
    assert [width for width, gains in zip(stairs.kept, stairs.gains, strict=True) if gains] == [8, 16, 24, 32]
    assert stairs.ms[-1] == pytest.approx(predict_latency(trace, None, table).median_ms)
    assert stairs.ms[7] == pytest.approx(predict_latency(trace, Plan({first.id: tuple(range(8))}), table).median_ms)
    assert [stairs.snapped(kept) for kept in (1, 8, 9, 17, 25, 32)] == [8, 8, 16, 24, 32, 32]


def test_a_plan_gets_back_what_costs_nothing(trace: Trace, table: LatencyTable) -> None:
    a, b = (group.id for group in trace.prunable)
    scores = Scores("test", {a: torch.arange(32, dtype=torch.float64), b: -torch.arange(24, dtype=torch.float64)})
    plan = Plan({a: tuple(range(13)), b: (3, 4, 20)}, "mine")
    snapped = snap_plan(trace, plan, table, scores)
    assert len(snapped.kept[a]) == 16 and set(snapped.kept[a]) == {*range(13), 29, 30, 31}, "the best come back"
    assert set(snapped.kept[b]) == {0, 1, 2, 3, 4, 5, 6, 20}
    assert snapped.origin == "mine, snapped" and plan.kept[a] == tuple(range(13))
    assert predict_latency(trace, snapped, table) == predict_latency(trace, plan, table)
    assert snap_plan(trace, snapped, table, scores) == snapped
    assert set(snap_plan(trace, plan, table).kept[a]) == set(range(16)), "without scores by number"


def test_a_group_that_gets_all_back_is_not_named(trace: Trace, table: LatencyTable) -> None:
    a, b = (group.id for group in trace.prunable)
    assert snap_plan(trace, Plan({a: tuple(range(30)), b: tuple(range(8))}), table).kept == {b: tuple(range(8))}
    with pytest.raises(PlanError, match="no group called"):
        latency_staircase(trace, "nowhere", table)


def test_a_quick_wide_width_marks_all_below_that_are_slower() -> None:
    stairs = Staircase("g", (4, 5, 6, 8), (3.0, 9.0, 9.0, 5.0), (True, False, False, True))
    assert [stairs.snapped(kept) for kept in (4, 5, 6, 7, 8)] == [4, 8, 8, 8, 8]


def test_gathers_have_a_staircase_too() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.left, self.right = nn.Conv2d(1, 16, 1), nn.Conv2d(16, 4, 1), nn.Conv2d(16, 4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.trunk(x)
            return self.left(x), self.right(x)

    shared = trace_channels(Shared().eval(), torch.zeros(1, 1, 4, 4))
    found = build_latency_table(shared, threads=1, repeats=1)
    gather = shared.gathers[0]
    alike = ruled(found, lambda *_: 1.0, knots=((1.0, 1.0),), wall=None)
    stairs = latency_staircase(shared, gather.id, alike)
    assert stairs.kept == tuple(range(1, 17))
    assert stairs.ms[14] == pytest.approx(stairs.ms[15] + 1), "whoever leaves out a channel pays for an index select"
    assert not any(stairs.gains[:15]) and stairs.snapped(1) == 16
