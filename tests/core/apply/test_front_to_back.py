"""Choosing and rebuilding in one walk: the law, the shapes, no layer worse, exact where nothing need be lost."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.apply import mask_model, prune_model
from core.apply.choosers import CHOOSERS
from core.apply.front_to_back import Rebuilt, choose_and_rebuild, rebuild_plan
from core.errors import Cancelled, CoreError, PlanError
from core.load import load_data, load_model
from core.load.cifar_resnet import CifarResNet
from core.measure.cost.counts import count_cost
from core.records import ImageData, Plan, Trace
from core.trace import trace_channels
from tests.traced import lent
from tests.untouched import same, state_of
from tests.zoo import NETS, ZooNet, images, outputs, randomise, settle


def noise(shape: tuple[int, ...], count: int = 48) -> ImageData:
    batch = images(shape, count, seed=6)
    return ImageData(batch, torch.zeros(count, dtype=torch.int64), ("a",), "noise", (0.0,), (1.0,))


def halves(trace: Trace, gathers: bool = True) -> dict[str, int]:
    groups = [g for g in trace.groups if g.prunable and (gathers or g.gather_of is None) and g.units > 1]
    return {group.id: (group.units + 1) // 2 for group in groups}


def check(module: nn.Module, trace: Trace, found: Rebuilt, batch: Tensor) -> None:
    """Exactly the plan's shapes; the law for its weights; no layer worse than before it was rebuilt."""
    raw = prune_model(module, trace, found.plan)
    shapes = [{name: tensor.shape for name, tensor in net.state_dict().items()} for net in (raw, found.module)]
    assert shapes[0] == shapes[1]
    assert count_cost(trace_channels(found.module, trace.example)) == count_cost(trace, found.plan)
    assert all(bool(tensor.isfinite().all()) for tensor in found.module.state_dict().values())
    for a, b in zip(outputs(raw, batch), outputs(mask_model(module, trace, found.plan), batch), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))
    assert all(story.rebuilt_error <= story.raw_error for story in found.stories)


class Residual(nn.Module):
    """Two blocks, the second with a convolution as its shortcut; the gammas of one branch are partly near zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.na = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.b, self.nb = nn.Conv2d(12, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.c, self.nc = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12)
        self.d, self.nd = nn.Conv2d(12, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10)
        self.short, self.ns = nn.Conv2d(8, 10, 1, stride=2, bias=False), nn.BatchNorm2d(10)
        self.fc = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.nb(self.b(F.relu(self.na(self.a(x))))) + x)
        x = F.relu(self.nd(self.d(F.relu(self.nc(self.c(x))))) + self.ns(self.short(x)))
        return self.fc(x.mean(dim=(2, 3)))


def residual() -> tuple[nn.Module, ImageData, Trace]:
    net = Residual().eval()
    randomise(net, 3)
    data = noise((1, 3, 10, 10), 128)
    settle(net, data.images)
    with torch.no_grad():
        net.nb.weight[:2] = 1e-7
    return net, data, trace_channels(net, data.images[:1])


@pytest.mark.parametrize("chooser", [*CHOOSERS.names(), "weight-l2", "random", "first-k"])
@pytest.mark.parametrize("solver", ["least-squares", "compensation", None])
def test_gathers_branches_and_every_chooser(chooser: str, solver: str | None) -> None:
    net, data, trace = residual()
    before = state_of(net)
    counts = halves(trace)
    assert any(trace.group(name).gather_of for name in counts)
    found = choose_and_rebuild(net, trace, counts, data, chooser, solver=solver, rectify=1)
    check(net, trace, found, data.images)
    assert {name: len(units) for name, units in found.plan.kept.items()} == counts
    told = {story.group: story for story in found.stories if story.group}
    assert set(told) == set(counts)
    for name, story in told.items():
        assert sorted(story.order) == list(range(story.units)) and story.kept == counts[name]
    again = choose_and_rebuild(net, trace, counts, data, chooser, solver=solver, rectify=1)
    assert again.plan == found.plan
    assert all(torch.equal(a, b) for a, b in zip(again.module.parameters(), found.module.parameters(), strict=True))
    assert same(before, state_of(net))


@pytest.mark.parametrize("net", [net for net in NETS if net.replays], ids=lambda net: net.name)
def test_every_kind_of_network(net: ZooNet) -> None:
    module, trace = lent(net)
    data = noise(net.shape, 16)
    counts = halves(trace, gathers=False)
    if counts:
        found = choose_and_rebuild(module, trace, counts, data, "greedy", refit=True, rectify=1)
        if not any(group.mixing for group in trace.groups):
            check(module, trace, found, data.images)


class Drift(nn.Module):
    """Block one is cut hard, so block two's shortcut is wrong; block two has all it needs to mend the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 1)
        self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.c, self.d = nn.Conv2d(8, 24, 1), nn.Conv2d(24, 8, 1)
        self.fc = nn.Linear(8, 4)

    def block_sum(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.b(F.relu(self.a(x)))
        return x + self.d(F.relu(self.c(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.block_sum(x)).mean(dim=(2, 3)))


def test_the_residual_correction_lowers_the_error_of_the_sum() -> None:
    net = Drift().eval()
    randomise(net, 1)
    data = noise((1, 1, 10, 10), 256)
    trace = trace_channels(net, data.images[:1])
    left = []
    for correct in (False, True):
        found = choose_and_rebuild(net, trace, {"a": 2, "c": 20}, data, "greedy", correct_branches=correct)
        with torch.no_grad():
            left.append(float((found.module.block_sum(data.images) - net.block_sum(data.images)).square().mean()))
    assert left[1] < 0.9 * left[0], left


def test_option_a_shortcuts_and_a_trunk_that_loses_channels() -> None:
    net = CifarResNet(8).eval()
    data = noise((1, 3, 16, 16), 64)
    randomise(net, 0)
    settle(net, data.images)
    trace = trace_channels(net, data.images[:1])
    counts = halves(trace)
    assert "conv1" in counts and "gather:layer1.0.conv1" in counts
    for chooser in CHOOSERS.names():
        found = choose_and_rebuild(net, trace, counts, data, chooser, refit=True, rectify=1)
        check(net, trace, found, data.images)


def test_redundant_channels_leave_without_a_trace() -> None:
    """Whatever the way to choose, eight channels of which four are copies can be told from the other four."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.ReLU()).eval()
    with torch.no_grad():
        net[0].weight[4:], net[0].bias[4:] = 2 * net[0].weight[:4], 2 * net[0].bias[:4]
    data = noise((1, 1, 12, 12), 64)
    trace = trace_channels(net, data.images[:1])
    for chooser in ("greedy", "qr"):
        found = choose_and_rebuild(net, trace, {"0": 4}, data, chooser, ridge=1e-12)
        with torch.no_grad():
            assert torch.allclose(found.module(data.images), net(data.images), atol=1e-4)
        assert len({unit % 4 for unit in found.plan.kept["0"]}) == 4


def test_a_rectified_fit_is_better_where_it_counts() -> None:
    net = nn.Sequential(nn.Conv2d(2, 12, 3), nn.ReLU(), nn.Conv2d(12, 8, 3), nn.ReLU()).eval()
    randomise(net, 2)
    with torch.no_grad():
        net[2].bias -= 0.7
    data = noise((1, 2, 14, 14), 200)
    trace = trace_channels(net, data.images[:1])
    left = []
    for rounds in (0, 5):
        found = choose_and_rebuild(net, trace, {"0": 6}, data, "greedy", rectify=rounds)
        with torch.no_grad():
            left.append(float((found.module(data.images) - net(data.images)).square().mean()))
        assert all(story.rebuilt_error <= story.raw_error for story in found.stories)
    assert left[1] < left[0], left


def test_compensation_is_direct_least_squares_to_the_eighth_digit() -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 1)).eval().double()
    data = noise((1, 2, 9, 9), 40)
    data = ImageData(data.images.double(), data.labels, data.classes, data.name, data.mean, data.std)
    trace = trace_channels(net, data.images[:1])
    found = rebuild_plan(net, trace, Plan({"0": (0, 2, 3)}), data, solver="compensation", positions=1000)
    with torch.no_grad():
        x = net[1](net[0](data.images[torch.randperm(40)]))
        y = net[2](x).movedim(1, -1).reshape(-1, 5)
        x = x[:, [0, 2, 3]].movedim(1, -1).reshape(-1, 3)
        design = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
        direct = torch.linalg.lstsq(design, y).solution.T
    assert torch.allclose(found.module[2].weight.flatten(1), direct[:, :3], atol=1e-8)
    assert torch.allclose(found.module[2].bias, direct[:, 3], atol=1e-8)


def test_renewed_statistics_are_those_of_the_network_as_compensated_so_far() -> None:
    torch.manual_seed(4)
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 1), nn.ReLU(), nn.Conv2d(5, 3, 1)).eval()
    net = net.double()
    data = noise((1, 2, 9, 9), 40)
    data = ImageData(data.images.double(), data.labels, data.classes, data.name, data.mean, data.std)
    trace = trace_channels(net, data.images[:1])
    first, second = [0, 2, 3], [1, 2, 4]

    def compensated(layer: nn.Conv2d, x: Tensor, kept: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """New weights and bias, and the layer's new outputs, rows of positions; x: (rows, channels)."""
        y = x @ layer.weight.flatten(1).T + layer.bias
        design = torch.cat([x[:, kept], torch.ones(len(x), 1, dtype=x.dtype)], 1)
        solution = torch.linalg.lstsq(design, y).solution
        return solution[:-1].T, solution[-1], design @ solution

    with torch.no_grad():
        x = net[1](net[0](data.images)).movedim(1, -1).reshape(-1, 6)
        x = compensated(net[2], x, first)[2].relu()
        W, b, _ = compensated(net[4], x, second)
    plan = Plan({"0": tuple(first), "2": tuple(second)})
    found, paper = (
        rebuild_plan(net, trace, plan, data, solver="compensation", positions=1000, renew=renew).module[4]
        for renew in (True, False)
    )
    assert torch.allclose(found.weight.flatten(1), W, atol=1e-8) and torch.allclose(found.bias, b, atol=1e-8)
    assert not torch.allclose(paper.weight.flatten(1), W, atol=1e-3)


def test_rescaled_outputs_have_their_old_variance() -> None:
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3)).eval()
    randomise(net, 4)
    data = noise((1, 2, 9, 9), 40)
    trace = trace_channels(net, data.images[:1])
    found = rebuild_plan(net, trace, Plan({"0": (0, 1, 2)}), data, solver="compensation", rescale=True, positions=1000)
    with torch.no_grad():
        before, after = (one(data.images).var((0, 2, 3)) for one in (net, found.module))
    assert torch.allclose(before, after, rtol=1e-3)


def test_a_trained_network_keeps_its_accuracy_and_tells_the_story() -> None:
    data, net = load_data("digits"), load_model("demo/digits-resnet").module
    trace = trace_channels(net, data.images[:1])
    counts = {group.id: group.units // 2 for group in trace.prunable if len(group.layers) == 1}
    few = data.calibration.take(torch.arange(200))
    messages: list[float] = []
    found = choose_and_rebuild(net, trace, counts, few, "lasso", on_progress=lambda share, *_: messages.append(share))
    with torch.no_grad():
        right = found.module(data.selection.images).argmax(1) == data.selection.labels
    assert float(right.float().mean()) > 0.95
    assert messages == sorted(messages) and 0 < messages[0] < messages[-1] <= 1
    for story in found.stories:
        assert story.path["counts"] and story.raw_error > story.rebuilt_error


def test_bad_input_and_cancel_leave_everything_as_it_was() -> None:
    net, data, trace = residual()
    before = state_of(net)
    with pytest.raises(PlanError, match="at least 1"):
        choose_and_rebuild(net, trace, {"a": 0}, data, "greedy")
    with pytest.raises(PlanError, match="cannot be pruned"):
        choose_and_rebuild(net, trace, {"fc": 2}, data, "greedy")
    with pytest.raises(PlanError, match="greedy"):
        choose_and_rebuild(net, trace, {"a": 2}, data, "greddy")
    with pytest.raises(PlanError, match="least-squares"):
        choose_and_rebuild(net, trace, {"a": 2}, data, "greedy", solver="least-square")
    with pytest.raises(CoreError):
        choose_and_rebuild(net, trace, {"nowhere": 2}, data, "greedy")
    with pytest.raises(CoreError, match="none"):
        choose_and_rebuild(net, trace, {"a": 2}, data.take(torch.arange(0)), "greedy")
    for after in (0, 3, 12):
        asked = iter(range(1000))
        with pytest.raises(Cancelled):
            choose_and_rebuild(net, trace, {"a": 2}, data, "greedy", cancelled=lambda n=after, a=asked: next(a) >= n)
    assert same(before, state_of(net))


def test_a_cancelled_walk_keeps_the_layers_it_has_rebuilt() -> None:
    net, data, trace = residual()
    counts = {group.id: max(1, group.units // 2) for group in trace.prunable}
    whole = choose_and_rebuild(net, trace, counts, data, "greedy")
    kept: list[Rebuilt] = []
    for after in range(0, 1000, 4):
        asked = iter(range(1000))
        try:
            choose_and_rebuild(net, trace, counts, data, "greedy", cancelled=lambda n=after, a=asked: next(a) >= n)
        except Cancelled as stop:
            if stop.partial is not None:
                kept.append(stop.partial)
            continue
        break
    assert kept and len(kept[0].stories) < len(kept[-1].stories) <= len(whole.stories)
    for part in kept:
        assert [story.layer for story in part.stories] == [story.layer for story in whole.stories[: len(part.stories)]]
        cost = count_cost(trace_channels(part.module, data.images[:1]))
        assert cost.macs == count_cost(trace, part.plan).macs
        assert part.module(data.images).isfinite().all()
    last, final = kept[-1].module.state_dict(), whole.module.state_dict()
    rebuilt = [f"{story.layer}.weight" for story in kept[-1].stories[:-1]]
    assert rebuilt and all(
        bool((last[name] == final[name]).all()) for name in rebuilt if last[name].shape == final[name].shape
    )
