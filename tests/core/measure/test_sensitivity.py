"""A scan must say what pruning a copy and evaluating it would say."""

from __future__ import annotations

import copy
import itertools
import json
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.apply import prune_model
from core.errors import MeasureError, PlanError
from core.measure.importance import score_channels
from core.measure.sensitivity import Sensitivity, scan_sensitivity
from core.measure.walk import Replays
from core.plan import plan_fractions
from core.records import ImageData, Plan, Scores
from core.solvers.intervals import wilson
from core.trace import trace_channels
from tests.core.measure.pictured import network, noise

FRACTIONS = (0.125, 0.25, 0.5, 0.75, 1.0)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.conv1, self.bn1 = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.head = nn.Linear(6 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.bn(self.stem(x)))
        x = F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True))))
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(2, 10, 1, bias=False), nn.BatchNorm2d(10), nn.ReLU6(inplace=True))
        self.depth = nn.Sequential(nn.Conv2d(10, 10, 3, padding=1, groups=10), nn.BatchNorm2d(10), nn.ReLU(True))
        self.project = nn.Conv2d(10, 5, 1)
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(5 * 36, 7), nn.ReLU(), nn.Linear(7, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.project(self.depth(self.expand(x))))


class Aliased(nn.Module):
    """Writes through a view, so its tape cannot be re-run in parts."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 5, 3), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y.view(y.shape).relu_()
        return self.head(F.relu(self.b(y)).mean((2, 3)))


def pictures(count: int = 37, seed: int = 0, size: int = 6) -> ImageData:
    return noise(count, size, seed)


def naive(module: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    with torch.no_grad():
        scores = module(images)
    return float((scores.argmax(1) == labels).double().mean()), float(F.cross_entropy(scores.double(), labels))


@pytest.mark.parametrize("kind", [Residual, Depthwise, Aliased])
@pytest.mark.parametrize("criterion", ["weight-l2", "random"])
def test_equals_pruning_a_copy(kind: type[nn.Module], criterion: str) -> None:
    module, data = network(kind), pictures()
    trace = trace_channels(module, data.images)
    assert trace.tape.aliases_written == (kind is Aliased)
    scores = score_channels(trace, None, criterion, seed=3)
    found = scan_sensitivity(trace, data, FRACTIONS, scores, batch_size=16)
    assert found.complete and found.criterion == criterion
    assert set(found.points) == {group.id for group in trace.prunable} and trace.prunable
    assert found.dense.accuracy == naive(module, data.images, data.labels)[0]
    for group in trace.prunable:
        assert found.points[group.id][0].kept == group.units
        for fraction in (0.0, *FRACTIONS):
            pruned = prune_model(module, trace, plan_fractions(trace, scores, {group.id: fraction}))
            accuracy, loss = naive(pruned, data.images, data.labels)
            assert found.accuracy(group.id, fraction) == accuracy
            assert found.loss(group.id, fraction) == pytest.approx(loss, rel=1e-5)
            assert found.images_used(group.id, fraction) == len(data)
            assert found.interval(group.id, fraction) == wilson(round(accuracy * len(data)), len(data))


def test_a_tape_for_another_batch_size_holds_the_same_operators_in_every_mode() -> None:
    module, data = network(Depthwise), pictures()
    trace = trace_channels(module, data.images)
    with torch.inference_mode():
        tape = Replays(trace).of(data.images).tape
    assert [step.name for step in tape.steps] == [step.name for step in trace.tape.steps]
    assert tape.shapes[tape.input] == data.images.shape


def test_the_curve_is_not_flat() -> None:
    """Guards the test above: hiding channels does change this network's answers."""
    module, data = network(Residual), pictures()
    found = scan_sensitivity(trace_channels(module, data.images), data, FRACTIONS)
    for points in found.points.values():
        assert len({point.loss for point in points}) == len(points) > 4


def test_batch_size_and_order_do_not_matter() -> None:
    module, data = network(Depthwise), pictures()
    trace = trace_channels(module, data.images)
    one = scan_sensitivity(trace, data, FRACTIONS, batch_size=37)
    for other in (
        scan_sensitivity(trace, data, FRACTIONS[::-1], batch_size=5),
        scan_sensitivity(trace, data, FRACTIONS, seed=9),
    ):
        for name, points in one.points.items():
            for a, b in zip(points, other.points[name], strict=True):
                assert (a.removed_fraction, a.kept, a.accuracy) == (b.removed_fraction, b.kept, b.accuracy)
                assert a.loss == pytest.approx(b.loss, rel=1e-5)


def test_limit_takes_that_many_images_and_groups_are_chosen() -> None:
    module, data = network(Residual), pictures()
    trace = trace_channels(module, data.images)
    found = scan_sensitivity(trace, data, (0.5,), groups=["conv1"], limit=10, seed=4, batch_size=4)
    chosen = torch.randperm(37, generator=torch.Generator().manual_seed(4))[:10]
    assert list(found.points) == ["conv1"] and found.complete and found.images_used("conv1", 0.5) == 10
    assert found.dense.accuracy == naive(module, data.images[chosen], data.labels[chosen])[0]
    assert found.images_used("conv1", 0.2) == 10


def test_between_points_is_linear_and_outside_is_an_error() -> None:
    module, data = network(Depthwise), pictures()
    trace = trace_channels(module, data.images)
    found = scan_sensitivity(trace, data, (0.2, 0.6))
    group = "expand.0"
    assert [round(10 * p.removed_fraction) for p in found.points[group]] == [0, 2, 6]
    half = (found.accuracy(group, 0.2) + found.accuracy(group, 0.6)) / 2
    assert found.accuracy(group, 0.4) == pytest.approx(half)
    assert found.loss(group, 0.1) == pytest.approx((found.loss(group, 0.0) + found.loss(group, 0.2)) / 2)
    low, high = found.interval(group, 0.4)
    assert low < found.accuracy(group, 0.4) < high
    with pytest.raises(MeasureError, match="up to 6 of 10 units"):
        found.accuracy(group, 0.9)
    with pytest.raises(MeasureError, match=r"0\.\.1"):
        found.accuracy(group, 1.2)
    with pytest.raises(MeasureError, match=r"expand\.0"):
        found.accuracy("expand", 0.2)


def test_progress_brings_curves_of_all_groups_first_and_every_image_in_the_end() -> None:
    module, data = network(Residual), pictures(90)
    trace = trace_channels(module, data.images)
    calls: list[tuple[float, str, Sensitivity | None]] = []
    found = scan_sensitivity(trace, data, FRACTIONS, batch_size=10, on_progress=lambda *call: calls.append(call))
    partial = [call[2] for call in calls if call[2] is not None]
    first = partial[0] if len(partial[0].points) == 2 else next(p for p in partial if len(p.points) == 2)
    assert all(len(points) == 4 for points in first.points.values()) and first.dense.images <= 20
    assert [p.complete for p in partial] == [False] * (len(partial) - 1) + [True] and partial[-1] == found
    for earlier, later in itertools.pairwise(partial):
        assert earlier.dense.images <= later.dense.images
        for name, points in earlier.points.items():
            seen = {point.kept: point.images for point in later.points[name]}
            assert all(point.images <= seen[point.kept] for point in points)
    shares = [call[0] for call in calls]
    assert shares == sorted(shares) and shares[-1] == 1.0 and 0 < shares[0] < 0.25
    assert all(re.search(r"about .* left$", call[1]) for call in calls[len(calls) // 2 :])


@pytest.mark.parametrize("allowed", [0, 1, 3, 6, 9, 20])
def test_cancel_keeps_what_there_is(allowed: int) -> None:
    module, data = network(Residual), pictures()
    trace = trace_channels(module, data.images)
    scores, count = score_channels(trace, None, "weight-l2"), iter(range(1000))
    found = scan_sensitivity(trace, data, (0.5, 0.75), scores, batch_size=10, cancelled=lambda: next(count) >= allowed)
    assert not found.complete or allowed > 16
    measured = sum(len(points) - 1 for points in found.points.values())
    assert measured == min(4, allowed) and len(found.points) == min(2, -(-allowed // 2))
    for name, points in found.points.items():
        assert points[0].accuracy == found.dense.accuracy
        for point in points[1:]:
            kept = next(units for units in (plan_fractions(trace, scores, {name: point.removed_fraction}).kept[name],))
            few = data.take(torch.randperm(37, generator=torch.Generator().manual_seed(0))[: point.images])
            pruned = prune_model(module, trace, Plan({name: kept}))
            accuracy, loss = naive(pruned, few.images, few.labels)
            assert point.accuracy == accuracy and point.loss == pytest.approx(loss, rel=1e-5)
    assert Sensitivity.from_dict(found.to_dict()) == found


def test_json_keeps_every_digit() -> None:
    module, data = network(Residual), pictures()
    found = scan_sensitivity(trace_channels(module, data.images), data, FRACTIONS)
    again = Sensitivity.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found
    assert len(again.model_fingerprint) == len(again.data_fingerprint) == 16
    assert again.data_fingerprint == data.fingerprint
    with pytest.raises(MeasureError, match="Scan again"):
        Sensitivity.from_dict({"points": {}})


def test_the_network_and_the_random_state_stay() -> None:
    module, data = network(Residual).train(), pictures()
    for name, parameter in module.named_parameters():
        parameter.grad = torch.ones_like(parameter) if "conv1" in name else None
    trace = trace_channels(module, data.images)
    before, state = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    scan_sensitivity(trace, data, (0.5,))

    def fail(*call: object) -> None:
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        scan_sensitivity(trace, data, (0.5,), on_progress=fail)
    assert not torch.is_inference_mode_enabled() and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(layer.training for layer in module.modules())
    assert all(p.requires_grad and (p.grad is not None) == ("conv1" in n) for n, p in module.named_parameters())


def test_what_cannot_be_scanned_is_said_clearly() -> None:
    module, data = network(Residual), pictures()
    trace = trace_channels(module, data.images)
    with pytest.raises(MeasureError, match="0 images"):
        scan_sensitivity(trace, data.take(torch.arange(0)))
    with pytest.raises(MeasureError, match=r"0\.\.1; found 1\.5"):
        scan_sensitivity(trace, data, (1.5,))
    with pytest.raises(MeasureError, match="limit"):
        scan_sensitivity(trace, data, limit=0)
    with pytest.raises(PlanError, match="conv1"):
        scan_sensitivity(trace, data, groups=["conv"])
    with pytest.raises(MeasureError, match="feeds the output"):
        scan_sensitivity(trace, data, groups=["head"])
    with pytest.raises(MeasureError, match="no weight-l2 scores"):
        scan_sensitivity(trace, data, criterion=Scores("weight-l2", {}))
    wrong = ImageData(data.images, data.labels + 5, tuple("abcdefghi"), "shifted", (0.0,), (1.0,))
    with pytest.raises(MeasureError, match="shifted has labels up to 8, but the network has 4 outputs"):
        scan_sensitivity(trace, wrong)
