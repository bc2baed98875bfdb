"""Every way a scan takes must end at what pruning a copy says: networks of all kinds, plans, gathers, going on."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.apply import prune_model
from core.errors import MeasureError
from core.measure.forks import Fork
from core.measure.importance import score_channels
from core.measure.scan.rounds import open_fork
from core.measure.scan.tally import Tally
from core.measure.sensitivity import Sensitivity, scan_sensitivity
from core.records import Group, ImageData, Plan, Scores, Trace
from core.solvers.intervals import newcombe, paired_interval, wilson
from core.trace import trace_channels
from tests.core.measure.test_sensitivity import Depthwise, Residual, network, pictures
from tests.zoo import ZOO, images

FRACTIONS = (0.3, 0.6, 0.9)
KINDS = ("ResidualPadded", "EncoderLayer", "HeadAttention", "WindowAttention", "WeightNormed", "PixelShuffled",
         "GatedByGlu", "SpatialTransformer", "GroupNormed", "TransposedDepthwise")  # fmt: skip


class Concat(nn.Module):
    """Two branches side by side, split again, and one read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.Conv2d(2, 4, 1)
        self.bn, self.mix = nn.BatchNorm2d(10), nn.Conv2d(10, 8, 3, padding=1)
        self.left, self.right = nn.Conv2d(4, 5, 1), nn.Conv2d(10, 5, 1)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        joined = F.relu(self.bn(torch.cat([self.a(x), self.b(x)], 1)), inplace=True)
        first, _ = F.hardtanh_(self.mix(joined), 0.0, 6.0).chunk(2, 1)
        out = torch.cat([self.left(first), self.right(joined)], 1)
        return self.head(F.max_pool2d(out.add_(0.1).relu(), 2).mean((2, 3)))


class Normed(nn.Module):
    """A layer norm runs over channels that may leave when asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.head = nn.Conv2d(2, 8, 3), nn.LayerNorm(8), nn.Linear(8, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.norm(self.a(x).mean((2, 3)))).relu())


def labelled(module: nn.Module, shape: tuple[int, ...], count: int = 21) -> ImageData:
    batch = images(shape, count, seed=3)
    with torch.no_grad():
        classes = module(batch[:1]).shape[-1]
    labels = torch.randint(0, classes, (count,), generator=torch.Generator().manual_seed(1))
    return ImageData(batch, labels, tuple(map(str, range(classes))), "noise", (0.0,), (1.0,))


def answers(module: nn.Module, data: ImageData) -> Tensor:
    with torch.no_grad():
        return module(data.images).double()


def kept_units(scores: Scores, group: Group, kept: int, plan: Plan) -> tuple[int, ...]:
    """The reference's own choice: the best of what the plan left."""
    left = plan.kept.get(group.id, tuple(range(group.units)))
    values = scores.scores[group.id]
    return tuple(sorted(sorted(left, key=lambda unit: (-float(values[unit]), unit))[:kept]))


def check(found: Sensitivity, trace: Trace, data: ImageData, scores: Scores, plan: Plan | None = None) -> int:
    """Every point against a pruned copy on all images. Gives the number of points."""
    plan, module = plan or Plan({}), trace.module
    start = answers(prune_model(module, trace, plan), data)
    before = start.argmax(1) == data.labels
    count = 0
    for name, points in found.points.items():
        group = trace.group(name)
        for point in points:
            copy = prune_model(module, trace, Plan({**plan.kept, name: kept_units(scores, group, point.kept, plan)}))
            logits = answers(copy, data)
            right = logits.argmax(1) == data.labels
            p, q = F.log_softmax(start, 1), F.log_softmax(logits, 1)
            assert point.images == len(data)
            assert point.removed_fraction == pytest.approx(1 - point.kept / group.units)
            assert point.accuracy == float(right.double().mean())
            assert (point.low, point.high) == wilson(int(right.sum()), len(data))
            assert point.loss == pytest.approx(float(F.cross_entropy(logits, data.labels)), rel=1e-5, abs=1e-6)
            assert point.kl == pytest.approx(float((p.exp() * (p - q)).sum(1).mean()), rel=1e-3, abs=1e-5)
            assert point.start_loss == pytest.approx(float(F.cross_entropy(start, data.labels)), rel=1e-5, abs=1e-6)
            assert found.loss_added(name, point.removed_fraction) == pytest.approx(
                point.loss - found.dense.loss, abs=1e-6
            )
            assert (point.lost, point.gained) == (int((before & ~right).sum()), int((right & ~before).sum()))
            count += 1
    return count


@pytest.mark.parametrize("kind", [Concat, Residual, Depthwise])
def test_gathers_are_scanned_like_coupled_groups(kind: type[nn.Module]) -> None:
    module, data = network(kind), pictures(19)
    trace = trace_channels(module, data.images)
    scores = score_channels(trace, None, "weight-l2")
    asked = [group.id for group in trace.groups if group.prunable]
    assert any(name.startswith(group.id) for group in trace.gathers for name in asked) == bool(trace.gathers)
    found = scan_sensitivity(trace, data, FRACTIONS, scores, groups=asked, batch_size=8)
    assert list(found.points) == asked and check(found, trace, data, scores) > 2 * len(asked)


@pytest.mark.parametrize("name", KINDS)
def test_zoo_networks_equal_pruned_copies(name: str) -> None:
    net = ZOO[name]
    module = net.build()
    data = labelled(module, net.shape)
    trace = trace_channels(module, net.example)
    scores = score_channels(trace, None, "weight-l2")
    found = scan_sensitivity(trace, data, FRACTIONS, scores, batch_size=8)
    assert found.complete and check(found, trace, data, scores) >= 2 * len(trace.prunable)


def test_a_norm_over_channels_sees_what_is_left() -> None:
    module, data = network(Normed), pictures(19)
    trace = trace_channels(module, data.images, mixing=True)
    assert any(group.mixing for group in trace.prunable)
    scores = score_channels(trace, None, "random", seed=1)
    found = scan_sensitivity(trace, data, FRACTIONS, scores, batch_size=8)
    assert check(found, trace, data, scores) == 8


@pytest.mark.parametrize("kind", [Concat, Residual, Depthwise])
def test_from_a_plan_on(kind: type[nn.Module]) -> None:
    module, data = network(kind), pictures(19)
    trace = trace_channels(module, data.images)
    scores = score_channels(trace, None, "random", seed=2)
    half = {group.id: tuple(range(0, group.units, 2)) for group in trace.prunable[:2]}
    plan = Plan({**half, **{group.id: tuple(range(group.units - 1)) for group in trace.gathers[:1] if group.prunable}})
    found = scan_sensitivity(trace, data, FRACTIONS, scores, batch_size=8, plan=plan)
    assert check(found, trace, data, scores, plan) > len(found.points)
    for name, kept in half.items():
        assert found.points[name][0].kept == len(kept)
        assert all(set(kept_units(scores, trace.group(name), p.kept, plan)) <= set(kept) for p in found.points[name])
        lowest = found.points[name][0].removed_fraction
        assert found.accuracy(name, lowest) == found.dense.accuracy
        with pytest.raises(MeasureError, match="when this scan began"):
            found.accuracy(name, 0.1)
    assert found.plan_key == plan.key
    left = sum(len(half.get(group.id, range(group.units))) for group in trace.prunable)
    assert found.dense.kept == left


def test_effort_stops_early_and_resume_goes_on_to_the_same_end() -> None:
    module, data = network(Residual), pictures(60)
    trace = trace_channels(module, data.images)
    scores = score_channels(trace, None, "weight-l2")
    whole = scan_sensitivity(trace, data, FRACTIONS, scores, batch_size=8)
    part = scan_sensitivity(trace, data, FRACTIONS, scores, batch_size=8, effort=0.3)
    spent = sum(p.images for points in part.points.values() for p in points[1:])
    assert not part.complete and 0.2 < spent / (60 * 6) < 0.5
    part = Sensitivity.from_dict(json.loads(json.dumps(part.to_dict())))
    shares: list[float] = []
    ended = scan_sensitivity(
        trace, data, FRACTIONS, scores, batch_size=7, resume=part, on_progress=lambda done, *_: shares.append(done)
    )
    assert ended.complete and shares[0] > 0.25 and check(ended, trace, data, scores) == 8
    for name, points in whole.points.items():
        for a, b in zip(points, ended.points[name], strict=True):
            same = (a.kept, a.accuracy, a.images, a.lost, a.gained)
            assert same == (b.kept, b.accuracy, b.images, b.lost, b.gained)


def test_what_is_told_first_ranks_the_groups() -> None:
    """Three widths of every group on few images, then half of it and the two beside the limit on all, before any
    other."""
    module, data = network(Residual), pictures(60)
    trace = trace_channels(module, data.images)
    widths = tuple(0.1 * place for place in range(1, 10))
    told: list[tuple[str, Sensitivity | None]] = []
    scan_sensitivity(
        trace, data, widths, batch_size=8, on_progress=lambda _, what, partial=None: told.append((what, partial))
    )
    names = list(dict.fromkeys(what.split(" (")[0] for what, _ in told))
    assert names[:3] == ["First curves", "Half of every group", "Where the limit is crossed"]
    assert names[-1] == "All widths"
    first = [part for what, part in told if what.startswith("First curves (") and part is not None][-1]
    for points in first.points.values():
        assert len(points) == 4 and {point.images for point in points[1:]} == {16}
    near = [part for what, part in told if what.startswith("Where the limit") and part is not None][-1]
    whole = [part for _, part in told if part is not None][-1]
    for name, points in whole.points.items():
        kept = [point.kept for point in points]
        known = {point.kept: point.lost - point.gained > 0.01 * 60 for point in near.points[name] if point.images == 60}
        beyond = next((at for at, count in enumerate(kept) if known.get(count)), len(kept))
        assert beyond == 1 or known[kept[beyond - 1]] is False


def counted(lost: int, added: float, images: int = 100) -> Tally:
    return Tally(images, 90 - lost, images * (0.3 + added), 0.0, lost, 0, images * 0.3)


def nine_widths() -> list[Fork]:
    net = nn.Sequential(nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Conv2d(10, 4, 3))
    group = trace_channels(net, torch.zeros(1, 3, 8, 8)).prunable[0]
    return [Fork(group, tuple(range(group.units - removed))) for removed in range(1, group.units)]


def searched(widths: list[Fork], tallies: dict[Fork, Tally], truth: Callable[[int], Tally]) -> list[int]:
    """The places that are asked for until nothing is open."""
    asked = []
    while (found := open_fork(widths, tallies, 100, 0.01)) is not None:
        asked.append(widths.index(found[1]))
        tallies[found[1]] = truth(asked[-1])
    return asked


def test_the_limits_are_looked_for_between_what_is_known() -> None:
    widths = nine_widths()
    crossing = 4  # the first width that loses more than one image of a hundred
    asked = searched(
        widths,
        {widths[0]: counted(0, 0.01, 10), widths[-1]: counted(1, 3.0, 10)},
        lambda at: counted(0 if at < crossing else 5, 0.01 * 1.78**at),  # 0.1 nats: beyond place 3, too
    )
    assert len(asked) == len(set(asked)) <= 4 and {crossing - 1, crossing} <= set(asked)
    assert widths.index(found[1] if (found := open_fork(widths, {}, 100, 0.01)) else widths[0]) == len(widths) - 1
    assert open_fork(widths, {widths[-1]: counted(0, 0.0)}, 100, 0.01) is None
    assert open_fork(widths, {widths[0]: counted(50, 9.0)}, 100, 0.01) is None


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_overflows_is_beyond_every_limit(loss: float) -> None:
    widths = nine_widths()
    asked = searched(widths, {}, lambda at: counted(0, 0.0) if at < 6 else counted(60, loss))
    assert {5, 6} <= set(asked) and len(asked) < 9


def test_both_limits_are_looked_for() -> None:
    """Right answers fall at once, the loss rises later: two neighbours on both sides of either."""
    widths = nine_widths()
    asked = searched(widths, {}, lambda at: counted(0 if at < 1 else 2, 0.01 if at < 5 else 0.5))
    assert {0, 1, 4, 5} <= set(asked) and len(asked) < 9


def test_few_images_that_lose_too_much_are_not_asked_for_again() -> None:
    widths = nine_widths()
    middle = len(widths) // 2
    asked = searched(widths, {widths[middle]: counted(25, 4.0, 30)}, lambda _: counted(0, 0.0))
    assert max(asked) == middle - 1


def test_an_effort_is_spent_on_whole_points_where_the_limit_is_looked_for() -> None:
    module, data = network(Residual), pictures(60)
    trace = trace_channels(module, data.images)
    widths = tuple(0.1 * place for place in range(1, 10))
    told: list[Sensitivity] = []

    def watch(_: float, what: str, partial: Sensitivity | None = None) -> None:
        if partial is not None and what.startswith("Where the limit"):
            told.append(partial)

    part = scan_sensitivity(trace, data, widths, batch_size=8, effort=0.45, on_progress=watch)
    assert told and not part.complete
    assert {point.images for points in told[-1].points.values() for point in points} <= {16, 24, 60}


def test_losses_are_compared_on_the_same_images() -> None:
    module, data = network(Residual), pictures(60)
    trace = trace_channels(module, data.images)
    few = scan_sensitivity(trace, data, FRACTIONS, limit=16)
    part = scan_sensitivity(trace, data, (0.6,), resume=few)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    losses = F.cross_entropy(answers(module, data), data.labels, reduction="none")[order]
    counts = {point.images for points in part.points.values() for point in points}
    assert len(counts) > 1
    for name, points in part.points.items():
        for point in points:
            assert point.start_loss == pytest.approx(float(losses[: point.images].mean()), rel=1e-5)
            assert part.loss_added(name, point.removed_fraction) == pytest.approx(point.loss - point.start_loss)
    old = [replace(point, start_loss=None) for point in part.points["conv1"]]
    stored = replace(part, points={"conv1": tuple(old)})
    assert stored.loss_added("conv1", old[1].removed_fraction) == old[1].loss - part.dense.loss


def test_resume_adds_widths_and_images_and_measures_nothing_twice() -> None:
    module, data = network(Residual), pictures(40)
    trace = trace_channels(module, data.images)
    scores = score_channels(trace, None, "weight-l2")
    few = scan_sensitivity(trace, data, (0.5,), scores, limit=16)
    more = scan_sensitivity(trace, data, FRACTIONS, scores, resume=few)
    assert more.complete and all(len(points) == 5 for points in more.points.values())
    assert [p.images for p in more.points["conv1"]] == [40, 40, 16, 40, 40]
    calls: list[object] = []
    again = scan_sensitivity(trace, data, FRACTIONS, scores, resume=more, on_progress=lambda *call: calls.append(call))
    assert again == more and not calls


def test_resume_wants_the_same_scan() -> None:
    module, data = network(Residual), pictures(20)
    trace = trace_channels(module, data.images)
    found = scan_sensitivity(trace, data, (0.5,), groups=["conv1"])
    for other, words in (
        ({"seed": 1}, "seed"),
        ({"criterion": "weight-l1"}, "criterion"),
        ({"plan": Plan({"conv1": (0, 1, 2)})}, "plan key"),
        ({"data_fingerprint": "else"}, "data fingerprint"),
    ):
        with pytest.raises(MeasureError, match=words):
            scan_sensitivity(trace, data, (0.5,), groups=["conv1"], resume=found, **other)


def test_scans_stored_without_paired_counts_still_load() -> None:
    module, data = network(Residual), pictures(30)
    trace = trace_channels(module, data.images)
    found = scan_sensitivity(trace, data, (0.5, 0.75))
    table = found.to_dict()
    new = ("kl", "lost", "gained")
    table["points"] = {
        name: [{key: value for key, value in row.items() if key not in new} for row in rows]
        for name, rows in table["points"].items()
    }
    table["dense"] = {key: value for key, value in table["dense"].items() if key not in new}
    table = {key: value for key, value in table.items() if key not in ("seed", "plan_key", "scores_key")}
    old = Sensitivity.from_dict(table)
    point, dense = old.points["conv1"][1], old.dense
    change = old.change("conv1", 0.5)
    ends = newcombe((point.accuracy, point.low, point.high), (dense.accuracy, dense.low, dense.high))
    assert point.lost is None and (change.low, change.high) == ends
    assert scan_sensitivity(trace, data, (0.5, 0.75), resume=old) == found


def test_the_change_is_paired() -> None:
    module, data = network(Residual), pictures(30)
    found = scan_sensitivity(trace_channels(module, data.images), data, (0.5, 0.75))
    point, dense = found.points["conv1"][1], found.dense
    change = found.change("conv1", 0.5)
    assert change.value == pytest.approx(point.accuracy - dense.accuracy) and change.images == 30
    assert (change.low, change.high) == paired_interval(point.lost, point.gained, 30)
    same = found.change("conv1", 0.0)
    assert same.value == 0 and same.low < 0 < same.high
    half = found.change("conv1", 0.625)
    assert half.value == pytest.approx((change.value + found.change("conv1", 0.75).value) / 2)


@pytest.mark.parametrize("count", [1, 2])
def test_threads_stay_as_they_were_also_after_an_error(count: int) -> None:
    module, data = network(Residual), pictures(40)
    trace = trace_channels(module, data.images)

    def broken(*_: object) -> None:
        raise ValueError("broken")

    before, running = torch.get_num_threads(), threading.active_count()
    torch.set_num_threads(count)
    try:
        for told in (None, lambda *_: None, broken):
            with pytest.raises(ValueError, match="broken") if told is broken else nullcontext():
                scan_sensitivity(trace, data, FRACTIONS, batch_size=8, on_progress=told)
            gc.collect()
            assert torch.get_num_threads() == count and threading.active_count() == running
    finally:
        torch.set_num_threads(before)
