"""Rows and tables: what they say is what the records say."""

from __future__ import annotations

import csv
import io

import pytest
import torch

from core.load import load_model
from core.measure.sensitivity import Sensitivity
from core.records import CurvePoint, Plan, Scores, Trace
from core.show.views import channel_rows, curves_csv, drop_rows, member_rows, ranked_units, score_quantiles, scores_csv
from core.solvers.intervals import newcombe, wilson
from core.trace import trace_channels


@pytest.fixture(scope="module")
def trace() -> Trace:
    loaded = load_model("demo/digits-resnet")
    return trace_channels(loaded.module, loaded.example)


@pytest.fixture(scope="module")
def scores(trace: Trace) -> Scores:
    made = torch.Generator().manual_seed(3)
    values = {group.id: torch.rand(group.units, generator=made, dtype=torch.float64) for group in trace.groups}
    return Scores("random", values)


def curve(units: int, correct: dict[int, int], images: int = 100) -> tuple[CurvePoint, ...]:
    """Points by units removed -> images right."""
    return tuple(
        CurvePoint(gone / units, units - gone, right / images, *wilson(right, images), 1.0, images)
        for gone, right in correct.items()
    )


def scan(trace: Trace, **curves: dict[int, int]) -> Sensitivity:
    groups = trace.prunable
    points = {groups[int(name[1:])].id: curve(groups[int(name[1:])].units, right) for name, right in curves.items()}
    return Sensitivity(points, curve(768, {0: 90})[0], "random", True)


def test_the_plan_takes_the_lowest_scores(trace: Trace, scores: Scores) -> None:
    group = trace.prunable[1]
    rows = {row.id: row for row in channel_rows(trace, scores, {group.id: 5})}
    assert list(rows) == [one.id for one in trace.prunable]
    lowest = torch.argsort(scores.scores[group.id])[:5].tolist()
    assert set(rows[group.id].pruned) == set(lowest)
    assert rows[trace.prunable[0].id].pruned == ()
    ranked = ranked_units(rows[group.id], scores)
    assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)
    assert [one.rank for one in ranked] == list(range(1, group.units + 1))
    assert [one.kept for one in ranked] == [True] * (group.units - 5) + [False] * 5


def test_a_plan_of_its_own_units_says_what_leaves(trace: Trace, scores: Scores) -> None:
    group = trace.prunable[1]
    own = {row.id: row for row in channel_rows(trace, scores, {group.id: 1}, Plan({group.id: (0, 2)}))}
    assert own[group.id].pruned == tuple(unit for unit in range(group.units) if unit not in (0, 2))


def test_quantiles(trace: Trace, scores: Scores) -> None:
    row = channel_rows(trace, scores, {})[0]
    found = score_quantiles(row)
    assert found["lowest"] == min(row.scores) and found["highest"] == max(row.scores)
    assert found["median"] == pytest.approx(torch.quantile(scores.scores[row.id], 0.5).item())


def test_members_tell_what_each_layer_does(trace: Trace) -> None:
    rows = {row.layer: row for row in member_rows(trace.group("stem.0"))}
    assert rows["stem.0"].roles == "makes the channels"
    assert rows["stage1.0.conv1"].roles == "reads them"
    assert rows["stem.1"].roles == "passes them on" and "running_mean" in rows["stem.1"].tensors


def test_drops_are_differences_from_dense_worst_first(trace: Trace) -> None:
    rows = drop_rows(trace, scan(trace, g0={0: 90, 8: 90, 16: 80, 24: 40}, g1={0: 90, 8: 88, 16: 30, 24: 10}))
    assert [row.id for row in rows] == [trace.prunable[1].id, trace.prunable[0].id]
    middle = rows[0].drops[1]
    assert middle is not None and middle.measured and middle.removed == 16
    assert middle.lost == pytest.approx(0.6)
    assert (middle.low, middle.high) == newcombe((0.9, *wilson(90, 100)), (0.3, *wilson(30, 100)))
    assert middle.low < middle.lost < middle.high


def test_drops_between_and_beyond_what_was_measured(trace: Trace) -> None:
    (row,) = drop_rows(trace, scan(trace, g0={0: 90, 16: 70}))
    quarter, half, beyond = row.drops
    assert quarter is not None and not quarter.measured and quarter.lost == pytest.approx(0.1)
    assert half is not None and half.measured and half.lost == pytest.approx(0.2)
    assert beyond is None


def test_newcombe_against_the_paper() -> None:
    # Newcombe 1998, table II, column (a): 56/70 - 48/80, method 10: 0.0524 to 0.3339.
    found = newcombe((56 / 70, *wilson(56, 70)), (48 / 80, *wilson(48, 80)))
    assert found == pytest.approx((0.0524, 0.3339), abs=5e-5)
    # Column (g): 10/10 - 0/10: 0.6075 to 1.
    assert newcombe((1.0, *wilson(10, 10)), (0.0, *wilson(0, 10))) == pytest.approx((0.6075, 1.0), abs=5e-5)


def test_csv_gives_every_number_back(trace: Trace, scores: Scores) -> None:
    group = trace.prunable[0]
    lines = list(csv.DictReader(io.StringIO(scores_csv(trace, scores, {group.id: 2}))))
    mine = [line for line in lines if line["group"] == group.id]
    assert [float(line["random"]) for line in mine] == scores.scores[group.id].tolist()
    assert sum(line["kept"] == "0" for line in lines) == 2
    measured = scan(trace, g0={0: 90, 16: 70})
    rows = list(csv.DictReader(io.StringIO(curves_csv(measured))))
    assert [float(row["accuracy"]) for row in rows] == [0.9, 0.7]
    assert [int(row["kept"]) for row in rows] == [32, 16]
