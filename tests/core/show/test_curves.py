"""What groups can lose: judged against slow references, on curves made by hand and on real networks."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from core.errors import Cancelled, MeasureError
from core.load import load_data, load_model
from core.measure.cost import LatencyTable, build_latency_table, count_cost, predict_latency
from core.measure.importance.first_order import first_order_changes
from core.measure.sensitivity import Sensitivity, scan_sensitivity
from core.records import CurvePoint, ImageData, Plan, Scores, Trace
from core.show.curves import (
    BEYOND,
    COLUMNS,
    PERHAPS,
    SURELY,
    WITHIN,
    Limit,
    LossEstimate,
    Lost,
    estimate_losses,
    lost_at,
    lost_points,
    rank_csv,
    rank_groups,
    room,
)
from core.show.views import drop_rows
from core.solvers.intervals import newcombe, paired_interval, wilson
from core.trace import trace_channels
from core.work.tasks import taylor_curves

POINT = Limit("accuracy", 0.01)


@pytest.fixture(scope="module")
def trace() -> Trace:
    loaded = load_model("demo/digits-vgg")
    return trace_channels(loaded.module, loaded.example)


@pytest.fixture(scope="module")
def images() -> ImageData:
    part = load_data("digits").selection
    return part.take(torch.arange(24))


@pytest.fixture(scope="module")
def table(trace: Trace) -> LatencyTable:
    return build_latency_table(trace, threads=1, repeats=1)


def curve(units: int, right: dict[int, tuple[int, float]], images: int) -> tuple[CurvePoint, ...]:
    """Points by units removed -> (images right, loss)."""
    return tuple(
        CurvePoint(gone / units, units - gone, n / images, *wilson(n, images), loss, images)
        for gone, (n, loss) in right.items()
    )


def scan(trace: Trace, *curves: dict[int, tuple[int, float]], images: int = 10_000) -> Sensitivity:
    points = {group.id: curve(group.units, right, images) for group, right in zip(trace.prunable, curves, strict=False)}
    return Sensitivity(points, curve(768, {0: curves[0][0]}, images)[0], "random", True)


STEEP = {0: (9_000, 0.1), 8: (8_990, 0.12), 16: (8_700, 0.3), 24: (2_000, 3.0)}
FLAT = {0: (9_000, 0.1), 16: (9_020, 0.09), 24: (8_995, 0.11)}


def test_a_room_is_the_longest_run_of_widths_within_the_limit(trace: Trace) -> None:
    found = scan(trace, STEEP, FLAT)
    first, second = (room(trace, found, group.id, POINT) for group in trace.prunable[:2])
    lost = lost_points(found, first.id, "accuracy")
    by_trying = next(n for n in range(1, 25) if lost_at(lost, n).value > POINT.amount) - 1
    assert first.removed == by_trying
    assert 8 < first.removed < 16 and first.last == 24
    assert first.surely == 8 and first.perhaps is not None and first.removed < first.perhaps < 16
    assert (second.removed, second.surely, second.perhaps) == (24, 24, 24)


def test_a_curve_that_comes_back_does_not_count(trace: Trace) -> None:
    back = {0: (9_000, 0.1), 8: (5_000, 2.0), 16: (9_000, 0.1)}
    has = room(trace, scan(trace, back), trace.prunable[0].id, POINT)
    assert (has.removed, has.surely, has.perhaps) == (0, 0, 0)


def test_exactly_the_limit_is_within(trace: Trace) -> None:
    line = {0: (9_000, 0.0), 10: (9_000, 0.5), 20: (9_000, 1.0)}
    found = scan(trace, line)
    assert room(trace, found, trace.prunable[0].id, Limit("loss", 0.5)).removed == 10
    assert room(trace, found, trace.prunable[0].id, Limit("loss", 0.75)).removed == 15
    assert room(trace, found, trace.prunable[0].id, Limit("loss", 0.0)).removed == 0


def test_few_images_leave_it_open(trace: Trace) -> None:
    few = {0: (90, 0.1), 8: (90, 0.1), 16: (60, 1.0)}
    found = scan(trace, few, images=100)
    has = room(trace, found, trace.prunable[0].id, POINT)
    assert has.surely == 0 and has.removed >= 8 and has.perhaps is not None and has.perhaps > has.removed


def test_few_images_say_nothing_against_more_of_them(trace: Trace) -> None:
    group = trace.prunable[0]
    start, few, more = (
        curve(group.units, {gone: (right, 0.1)}, images)[0]
        for gone, right, images in ((0, 900, 1000), (2, 26, 30), (4, 899, 1000))
    )
    found = replace(scan(trace, {0: (900, 0.1)}, images=1000), points={group.id: (start, few, more)})
    limit = Limit("accuracy", 0.01)
    assert room(trace, found, group.id, limit).removed == 4
    certain = replace(few, accuracy=0.1, low=0.04, high=0.2)  # nine of ten lost: few images suffice to see that
    found = replace(found, points={group.id: (start, certain, more)})
    assert room(trace, found, group.id, limit).removed < 2
    found = replace(found, points={group.id: (start, few)})
    assert room(trace, found, group.id, limit).removed < 2


def test_what_few_images_leave_open_does_not_end_what_is_sure(trace: Trace) -> None:
    """Neither in the room nor in what the ranking says is lost at its end."""
    group = trace.prunable[0]
    points = tuple(
        curve(group.units, {gone: (right, 0.1)}, images)[0]
        for gone, right, images in (
            (0, 9_000, 10_000),
            (4, 28, 30),
            (8, 8_995, 10_000),
            (12, 25, 30),
            (16, 8_600, 10_000),
        )
    )
    found = replace(scan(trace, {0: (9_000, 0.1)}), points={group.id: points})
    has = room(trace, found, group.id, POINT)
    assert has.surely == 8 and 8 < has.removed < 12 and has.perhaps is not None and has.removed <= has.perhaps < 16
    row = rank_groups(trace, found, POINT)[0]
    assert row.removed == has.removed and row.lost.value <= POINT.amount + 1e-9 and row.lost.images == 10_000


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_overflowed_is_beyond(trace: Trace, loss: float) -> None:
    found = scan(trace, {0: (9_000, 0.1), 8: (9_000, 0.1), 16: (9_000, loss), 24: (9_000, loss)})
    assert room(trace, found, trace.prunable[0].id, Limit("loss", 0.1)).removed == 8


def test_chance_does_not_end_a_room(trace: Trace) -> None:
    """Four of 300 images lost in the middle, fewer behind: the rising curve nearest to that stays within a point."""
    name = trace.prunable[0].id
    flat = {0: (280, 0.1), 4: (280, 0.1), 8: (276, 0.1), 12: (279, 0.1), 16: (280, 0.1), 20: (260, 0.9)}
    found = scan(trace, flat, images=300)
    has = room(trace, found, name, POINT)
    assert 16 <= has.removed < 20 and lost_at(lost_points(found, name, "accuracy"), has.removed).value <= POINT.amount
    deep = {**flat, 8: (230, 0.1)}  # far more than chance
    assert room(trace, scan(trace, deep, images=300), name, POINT).removed < 8


@pytest.mark.parametrize("quantity", ["accuracy", "loss"])
def test_a_room_ends_within_its_limit_and_holds_what_is_sure(trace: Trace, quantity: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        right = torch.randint(250, 290, (9,), generator=generator).tolist()
        losses = (torch.rand(9, generator=generator) * 0.2).tolist()
        points = {3 * at: pair for at, pair in enumerate(zip(right, losses, strict=True))}
        found = scan(trace, points, images=300)
        limit = Limit(quantity, 0.03)
        has = room(trace, found, trace.prunable[0].id, limit)
        assert lost_at(lost_points(found, has.id, quantity), has.removed).value <= limit.amount + 1e-9
        assert (has.surely or 0) <= has.removed <= (has.units if has.perhaps is None else has.perhaps)


def test_verdicts() -> None:
    assert Lost(1, 0.0, -0.01, 0.01, 9).verdict(POINT) == SURELY
    assert Lost(1, 0.0, -0.01, 0.02, 9).verdict(POINT) == PERHAPS
    assert Lost(1, 0.05, 0.02, 0.08, 9).verdict(POINT) == BEYOND
    assert Lost(1, 0.5, None, None, 9).verdict(Limit("loss", 0.5)) == WITHIN
    assert Lost(1, 0.6, None, None, 9).verdict(Limit("loss", 0.5)) == BEYOND


def test_what_is_lost_is_what_the_other_table_says(trace: Trace) -> None:
    found = scan(trace, STEEP)
    (row,) = drop_rows(trace, found, (8 / trace.prunable[0].units,))
    at = lost_at(lost_points(found, row.id, "accuracy"), 8)
    assert row.drops[0] is not None
    assert (at.value, at.low, at.high) == (row.drops[0].lost, row.drops[0].low, row.drops[0].high)
    assert (at.low, at.high) == newcombe((0.9, *wilson(9_000, 10_000)), (0.899, *wilson(8_990, 10_000)))
    between = lost_at(lost_points(found, row.id, "accuracy"), 12)
    assert not between.measured and between.value == pytest.approx((0.001 + 0.03) / 2)


def test_paired_counts_tell_more_than_two_shares(trace: Trace) -> None:
    found = scan(trace, STEEP)
    (name,) = found.points
    paired = tuple(replace(p, lost=9_000 - round(10_000 * p.accuracy) + 5, gained=5) for p in found.points[name])
    narrow = lost_at(lost_points(replace(found, points={name: paired}), name, "accuracy"), 8)
    wide = lost_at(lost_points(found, name, "accuracy"), 8)
    assert narrow.value == pytest.approx(wide.value) == pytest.approx(0.001)
    assert narrow.low is not None and wide.low is not None and wide.low < narrow.low < narrow.value
    assert (narrow.low, narrow.high) == tuple(-end for end in reversed(paired_interval(15, 5, 10_000)))


def test_the_loss_has_no_interval_and_is_judged_by_its_value(trace: Trace) -> None:
    has = room(trace, scan(trace, STEEP), trace.prunable[0].id, Limit("loss", 0.1))
    assert (has.surely, has.perhaps) == (None, None)
    assert has.removed == 8 + int(8 * 0.08 / 0.18)
    assert has.count(SURELY) == has.count(WITHIN) == has.removed


def test_the_ranking_saves_what_counting_says(trace: Trace, table: LatencyTable) -> None:
    found = scan(trace, STEEP, FLAT, STEEP)
    rows = rank_groups(trace, found, POINT, table=table)
    assert [row.share for row in rows] == sorted((row.share for row in rows), reverse=True)
    dense, whole = count_cost(trace).macs, predict_latency(trace, Plan({}), table).median_ms
    for row in rows:
        plan = Plan({row.room.id: tuple(range(row.room.units - row.removed))})
        assert row.macs_saved == dense - count_cost(trace, plan).macs
        assert row.ms_saved == pytest.approx(whole - predict_latency(trace, plan, table).median_ms)
        assert row.lost.value <= POINT.amount
    by_macs = rank_groups(trace, found, POINT, order="macs")
    assert [row.macs_saved for row in by_macs] == sorted((row.macs_saved for row in rows), reverse=True)
    assert {row.ms_saved for row in by_macs} == {None}
    by_time = rank_groups(trace, found, POINT, order="ms", table=table)
    assert [row.ms_saved for row in by_time] == sorted((row.ms_saved for row in rows if row.ms_saved), reverse=True)
    sure = {row.room.id: row.removed for row in rank_groups(trace, found, POINT, judged=SURELY)}
    assert sure == {row.room.id: row.room.surely for row in rows}


def test_the_csv_says_what_the_ranking_says(trace: Trace) -> None:
    rows = rank_groups(trace, scan(trace, STEEP, FLAT), POINT)
    read = list(csv.DictReader(io.StringIO(rank_csv(rows, POINT))))
    assert tuple(read[0]) == COLUMNS
    for row, line in zip(rows, read, strict=True):
        assert (line["group"], int(line["removed"])) == (row.room.id, row.removed)
        assert float(line["lost"]) == row.lost.value and int(line["macs_saved"]) == row.macs_saved
        assert int(line["removed_surely"]) == row.room.surely and line["latency_ms_saved"] == ""
        assert line["beyond_scan"] == str(int(row.removed == 24))


def test_first_order_changes_are_gradient_times_map(trace: Trace, images: ImageData) -> None:
    """The same by hooks and autograd, where the network's own layers read one map each."""
    found = first_order_changes(trace, images, batch_size=10)
    module, kept = trace.module, {}
    readers = {"features.0": "features.3", "features.14": "features.17"}
    handles = [
        module.get_submodule(reader).register_forward_pre_hook(
            lambda _, inputs, name=name: kept.__setitem__(name, inputs[0].requires_grad_(True))
        )
        for name, reader in readers.items()
    ]
    try:
        losses = F.cross_entropy(module(images.images), images.labels, reduction="none")
        gradients = torch.autograd.grad(losses.sum(), [kept[name] for name in readers])
    finally:
        for handle in handles:
            handle.remove()
    for name, gradient in zip(readers, gradients, strict=True):
        per_image = (gradient * kept[name]).double().flatten(2).sum(2).detach()
        expected = torch.stack([per_image.abs().mean(0), -per_image.mean(0)], dim=1)
        assert torch.allclose(found[name], expected, rtol=1e-4, atol=1e-7)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_the_estimate_adds_up_the_units_that_leave(trace: Trace) -> None:
    scores = Scores("random", {"a": torch.tensor([3.0, 1.0, 2.0, 4.0], dtype=torch.float64)})
    pairs = {"a": [(0.3, -0.3), (0.1, 0.1), (0.2, 0.2), (0.4, 0.4)]}
    found = estimate_losses(scores, pairs, 7)
    assert found.absolute["a"] == pytest.approx((0.0, 0.1, 0.3, 0.6))
    assert found.signed["a"] == pytest.approx((0.0, 0.1, 0.3, 0.0))
    assert LossEstimate.from_dict(found.to_dict()) == found and (found.images, found.criterion) == (7, "random")
    with pytest.raises(MeasureError, match="Score the channels"):
        estimate_losses(scores, {"b": [(0.0, 0.0)]}, 7)
    with pytest.raises(MeasureError, match="Estimate again"):
        LossEstimate.from_dict({"absolute": 3})


def test_the_signed_estimate_is_the_slope_of_the_loss(trace: Trace, images: ImageData) -> None:
    """A unit scaled by 1 - e where it is read adds e times its signed change to the mean loss."""
    unit, group, reader = 3, "features.21", "features.24"
    found = first_order_changes(trace, images)[group][unit, 1].item()

    def loss(scale: float) -> float:
        def scaled(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
            return inputs[0].clone().index_copy(1, torch.tensor([unit]), scale * inputs[0][:, unit : unit + 1])

        handle = trace.module.get_submodule(reader).register_forward_pre_hook(scaled)
        try:
            with torch.no_grad():
                return F.cross_entropy(trace.module(images.images).double(), images.labels).item()
        finally:
            handle.remove()

    assert found == pytest.approx((loss(0.95) - loss(1.05)) / 0.1, rel=0.05)


def test_an_estimate_can_be_stopped_and_needs_images(trace: Trace, images: ImageData) -> None:
    with pytest.raises(Cancelled):
        first_order_changes(trace, images, cancelled=lambda: True)
    with pytest.raises(MeasureError, match="0 images"):
        first_order_changes(trace, images.take(torch.arange(0)))


def test_the_job_says_what_the_functions_say() -> None:
    told: list[float] = []
    found = LossEstimate.from_dict(
        taylor_curves("demo/digits-vgg", "", "", "weight-l1", lambda share, *_: told.append(share), lambda: False)
    )
    assert told[-1] == 1.0 and (found.criterion, found.images) == ("weight-l1", 360)
    trace = trace_channels(*(lambda loaded: (loaded.module, loaded.example))(load_model("demo/digits-vgg")))
    assert {name: len(row) for name, row in found.absolute.items()} == {g.id: g.units for g in trace.prunable}
    assert all(all(a <= b for a, b in pairwise(row)) for row in found.absolute.values())


def test_wrong_limits_and_unknown_groups_are_said(trace: Trace, images: ImageData) -> None:
    with pytest.raises(MeasureError, match="from 0 up"):
        Limit("accuracy", -1)
    with pytest.raises(MeasureError, match="accuracy or loss"):
        Limit("speed", 1)
    found = scan_sensitivity(trace, images, (0.5,), "weight-l1", groups=["features.0"])
    with pytest.raises(MeasureError, match="no curve"):
        room(trace, found, "features.3", POINT)
    assert [row.room.id for row in rank_groups(trace, found, POINT)] == ["features.0"]
    with pytest.raises(MeasureError, match="share, macs or ms"):
        rank_groups(trace, found, POINT, order="size")
