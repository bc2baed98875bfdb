"""Predictions in wall time: they meet the dense network's newest time and learn from every plan that is measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from core.errors import MeasureError
from core.measure.cost import LatencyTable, build_latency_table, latency_terms, predict_latency
from core.measure.cost.clock import Clock, disagreement
from core.measure.cost.lookup import corrected, operators_ms
from core.measure.cost.steps import uniform_plan
from core.measure.cost.timing import on_the_wall
from core.measure.cost.wall import Timing, Wall, saving_of
from core.records import Plan, Trace
from tests.ruled_times import ruled, two_convolutions


@pytest.fixture(scope="module")
def trace() -> Trace:
    return two_convolutions()


@pytest.fixture(scope="module")
def table(trace: Trace) -> LatencyTable:
    """Every operator takes as long as it makes channels; the dense network 2 ms by the own clock, 3 ms on the wall."""
    found = build_latency_table(trace, threads=1, points=2, repeats=1, max_seconds=2.0)
    found = ruled(found, lambda _, made: float(made))
    sums = [operators_ms(trace, plan, found) for plan in (uniform_plan(trace, 0.25), None)]
    return on_the_wall(replace(found, knots=((0.4 * sums[1], 0.8), (sums[1], 2.0))), [2.9, 3.0, 3.0, 3.2])


def timing(trace: Trace, plan: Plan, table: LatencyTable, plan_ms: float, dense_ms: float) -> Timing:
    widths = {name: len(kept) for name, kept in plan.kept.items()}
    about = (20, table.threads, table.batch, table.device, "2026-01-01T00:00:00+00:00")
    return Timing(widths, plan_ms, dense_ms, 0.9 * dense_ms, 1.2 * dense_ms, *about)


def ms(trace: Trace, plan: Plan | None, table: LatencyTable) -> float:
    return predict_latency(trace, plan, table).median_ms


def test_the_dense_network_takes_what_the_wall_clock_said(trace: Trace, table: LatencyTable) -> None:
    assert table.wall is not None and table.wall.factor == pytest.approx(1.5) and table.wall.repeats == 4
    dense = predict_latency(trace, None, table)
    assert (dense.low_ms, dense.median_ms, dense.high_ms) == pytest.approx((2.975, 3.0, 3.05))
    half = uniform_plan(trace, 0.5)
    assert ms(trace, half, table) == pytest.approx(1.5 * ms(trace, half, replace(table, wall=None)))


def test_a_measured_plan_moves_all_predictions(trace: Trace, table: LatencyTable) -> None:
    half = uniform_plan(trace, 0.5)
    share = 1 - ms(trace, half, table) / 3.0
    before = ms(trace, half, table)
    # Measured twice as slow all over, and only 80 % of the foretold saving was had.
    found = timing(trace, half, table, 6.0 * (1 - 0.8 * share), 6.0)
    after = corrected(trace, table, [found])
    assert after.wall is not None and after.steps is table.steps
    assert ms(trace, None, after) == pytest.approx(6.0)
    want = (0.8 * share**2 + 0.01) / (share**2 + 0.01)
    assert after.wall.saving == pytest.approx(want)
    assert ms(trace, half, after) == pytest.approx(6.0 * (1 - want * share))
    assert after.wall.last is not None and after.wall.last.foretold_ms == pytest.approx(before)
    assert after.wall.last.off == pytest.approx(found.plan_ms / before - 1)
    again = corrected(trace, table, [found, found])
    assert again.wall is not None and abs(again.wall.saving - 0.8) < abs(want - 0.8), "the more measured, the more sure"
    terms = sum(c * (32 if a == "0" else 24 if a else 1) * (32 if b == "0" else 24 if b else 1) for c, a, b in
                latency_terms(trace, after))  # fmt: skip
    assert terms == pytest.approx(6.0), "a drag in the browser starts from the same number"


def test_the_dense_network_alone_moves_the_scale_only(trace: Trace, table: LatencyTable) -> None:
    after = corrected(trace, table, [timing(trace, Plan({}), table, 4.5, 4.5)])
    half = uniform_plan(trace, 0.5)
    assert ms(trace, half, after) == pytest.approx(1.5 * ms(trace, half, table))
    assert after.wall is not None and after.wall.saving == pytest.approx(1.0)


def test_times_in_another_setting_say_nothing(trace: Trace, table: LatencyTable) -> None:
    here = timing(trace, Plan({}), table, 4.5, 4.5)
    for other in ({"threads": 7}, {"batch": 3}, {"device": "a phone"}, {"widths": {"nowhere": 1}}):
        assert corrected(trace, table, [replace(here, **other)]) == table
    old = replace(table, wall=None)
    assert corrected(trace, old, [here]) == old


def test_a_wild_measurement_is_held(trace: Trace, table: LatencyTable) -> None:
    assert saving_of([0.5], [-3.0]) == 0.5 and saving_of([0.1], [0.99]) == 1.5 and saving_of([], []) == 1.0
    tiny = Plan({group.id: (0,) for group in trace.prunable})
    quick = corrected(trace, table, [timing(trace, uniform_plan(trace, 0.5), table, 0.01, 3.0)])
    assert quick.wall is not None and quick.wall.saving == 1.5 and ms(trace, tiny, quick) > 0
    assert quick.wall.ms(0.0, 2.0) == pytest.approx(1.5 * 0.02 * 2.0), "never below a share of the dense network's time"


@pytest.mark.parametrize("broken", [{}, {"factor": -1}, {"factor": 1, "median_ms": "x"}, 3])
def test_what_is_no_wall_is_said(broken: object, table: LatencyTable) -> None:
    with pytest.raises(MeasureError, match="Measure the table again"):
        Wall.from_dict(broken)  # type: ignore[arg-type]
    with pytest.raises(MeasureError, match="stored time of a plan"):
        Timing.from_dict(broken)  # type: ignore[arg-type]


def test_whole_networks_take_turns_with_the_dense_one() -> None:
    clock = Clock(torch.device("cpu"))
    order: list[int] = []
    rows = clock.turns([lambda at=at: order.append(at) for at in range(3)], 1, 9.0)
    assert order[:10] == [1] * 5 + [0] * 5 and order[10:20] == [2] * 5 + [0] * 5
    assert [len(row) for row in rows] == [24, 12, 12]
    assert len(clock.turns([lambda: None], 50, 0.0)[0]) == 12
    same = [np.array([2.0, 2.0, 4.0, 4.0]), np.array([1.0, 1.0, 2.0, 2.0])]
    assert disagreement(same) == 0 and disagreement([same[0], same[1][::-1]]) == pytest.approx(3.0)
