"""The first law: a pruned network computes what the masked one does; what it may not touch; what it can still do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from core.apply.surgery import mask_model, max_relative_error, prune_model
from core.errors import CoreError, PlanError, PruneError, TraceError
from core.measure.cost.counts import count_cost
from core.measure.cost.steps import sized_copy
from core.records import Plan
from core.trace import trace_channels
from tests.traced import lent
from tests.untouched import awkward, same, state_of
from tests.zoo import NETS, ZOO, ZooNet, images, outputs, random_plan

EVERY_NET = pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
TOLERANCE = 1e-4


@EVERY_NET
def test_keeping_all_is_identity(net: ZooNet) -> None:
    module, trace = lent(net)
    batch = images(net.shape, 4)
    everything = Plan({group.id: tuple(range(group.units)) for group in trace.groups})
    for plan in (Plan({}), everything):
        for whole in (prune_model(module, trace, plan), mask_model(module, trace, plan)):
            assert whole is not module
            assert all(torch.equal(a, b) for a, b in zip(outputs(whole, batch), outputs(module, batch), strict=True))


@EVERY_NET
@pytest.mark.parametrize("removed", [0.25, 0.5, 0.75])
def test_pruned_is_masked(net: ZooNet, removed: float) -> None:
    for seed in range(2):
        module, trace = lent(net, seed)
        batch = images(net.shape, 5, seed)
        dense = outputs(module, batch)
        plan = random_plan(trace, removed, seed)
        pruned, masked = prune_model(module, trace, plan), mask_model(module, trace, plan)
        assert max_relative_error(outputs(pruned, batch), outputs(masked, batch)) < TOLERANCE
        assert all(float(answer.std(dim=0).max()) > 1e-3 for answer in dense), "the law would hold by being constant"
        if any(len(kept) < trace.group(name).units for name, kept in plan.kept.items()):
            assert max_relative_error(outputs(masked, batch), dense) > 1e-3, "removing channels changed nothing"
            assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in module.parameters())


@EVERY_NET
def test_every_group_alone_down_to_one_unit(net: ZooNet) -> None:
    module, trace = lent(net)
    batch = images(net.shape, 3)
    for group in trace.prunable:
        plan = Plan({group.id: (group.units - 1,)})
        pruned, masked = prune_model(module, trace, plan), mask_model(module, trace, plan)
        assert max_relative_error(outputs(pruned, batch), outputs(masked, batch)) < TOLERANCE


@EVERY_NET
def test_input_is_untouched(net: ZooNet) -> None:
    module = awkward(net)
    before = state_of(module)
    trace = trace_channels(module, net.example)
    plan = random_plan(trace, 0.5, 0)
    pruned = prune_model(module, trace, plan)
    mask_model(module, trace, plan)
    count_cost(trace, plan)
    assert same(before, state_of(module))
    assert [layer.training for layer in pruned.modules()] == before["modes"]
    assert [p.requires_grad for p in pruned.parameters()] == before["wants gradients"]
    with torch.no_grad():
        for tensor in [*pruned.parameters(), *pruned.buffers()]:
            tensor.zero_()
    assert same(before, state_of(module)), "the new network shares memory with the old one"


class _Three(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1)
        self.conv3 = nn.Conv2d(4, 2, 1)


class WidthInTheCode(_Three):
    """Its width is written in the code, where no label can see it: found by trying."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.conv3(self.conv2(x.reshape(x.shape[0], 6, *x.shape[2:])))


class WidthAsDistance(_Three):
    """It moves its picture by its width, so that a narrower one is another function: found by comparing."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.conv3(self.conv2(x.roll(x.shape[1], 2)))


def test_a_width_in_the_code_is_locked() -> None:
    module = WidthInTheCode()
    trace = trace_channels(module, images((1, 3, 8, 8), 1))
    assert [group.id for group in trace.prunable] == ["conv2"]
    assert str(trace.group("conv1").reason).startswith("its code fixes this width (")
    fine = Plan({"conv2": (0, 1)})
    assert prune_model(module, trace, fine)(images((1, 3, 8, 8), 2)).shape == (2, 2, 8, 8)


def test_input_is_untouched_after_failure() -> None:
    module = WidthAsDistance().train()
    example = images((1, 3, 8, 8), 1)
    trace = trace_channels(module, example)
    before = state_of(module)
    for plan in (Plan({"conv1": (9,)}), Plan({"conv3": (0,)}), Plan({"nowhere": (0,)}), random_plan(trace, 0.5, 0)):
        with pytest.raises(CoreError):
            prune_model(module, trace, plan)
        assert same(before, state_of(module))
    with pytest.raises(TraceError):
        trace_channels(module, torch.zeros(1, 5, 8, 8))
    assert same(before, state_of(module))


def test_the_group_at_fault_is_named() -> None:
    module = WidthAsDistance()
    trace = trace_channels(module, images((1, 3, 8, 8), 1))
    with pytest.raises(PruneError, match="Group conv1: pruned alone, the network differs from the masked network"):
        prune_model(module, trace, random_plan(trace, 0.5, 0))
    fine = Plan({"conv2": (0, 1)})
    assert prune_model(module, trace, fine)(images((1, 3, 8, 8), 2)).shape == (2, 2, 8, 8)


@EVERY_NET
def test_pruned_nets_train_copy_and_prune_again(net: ZooNet) -> None:
    module, trace = lent(net)
    pruned = prune_model(module, trace, random_plan(trace, 0.25, 1))
    batch = images(net.shape, 6)
    expected = outputs(pruned, batch)
    copied = copy.deepcopy(pruned)
    assert all(torch.equal(a, b) for a, b in zip(outputs(copied, batch), expected, strict=True))
    copied.load_state_dict(pruned.state_dict())

    again = trace_channels(pruned, net.example)
    plan = random_plan(again, 0.5, 2)
    twice, masked = prune_model(pruned, again, plan), mask_model(pruned, again, plan)
    assert max_relative_error(outputs(twice, batch), outputs(masked, batch)) < TOLERANCE

    twice.train()
    optimiser = torch.optim.SGD(twice.parameters(), lr=0.1)
    before = [parameter.detach().clone() for parameter in twice.parameters()]
    answers = torch.utils._pytree.tree_leaves(twice(batch))
    sum(answer.square().mean() for answer in answers).backward()
    optimiser.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, twice.parameters(), strict=True))
    assert all(torch.isfinite(parameter).all() for parameter in twice.parameters())


def test_other_weights_of_the_same_shapes_are_pruned_by_the_same_trace() -> None:
    net = ZOO["ResidualProjection"]
    trace = trace_channels(net.build(0), net.example)
    other, batch = net.build(5), images(net.shape, 3)
    plan = random_plan(trace, 0.5, 0)
    pruned, masked = prune_model(other, trace, plan), mask_model(other, trace, plan)
    assert max_relative_error(outputs(pruned, batch), outputs(masked, batch)) < TOLERANCE


def test_a_locked_group_cannot_be_pruned() -> None:
    net = ZOO["RunningSum"]
    module, trace = lent(net)
    for build in (prune_model, mask_model):
        with pytest.raises(PlanError, match="conv1 cannot be pruned: cumsum runs across channels"):
            build(module, trace, Plan({"conv1": (0, 1)}))


class Wild(nn.Module):
    """Weights so large that single precision loses the law in rounding: only more digits can tell it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.conv1(x)).mean((2, 3))
        return self.fc(torch.sin(1e4 * x))


def test_rounding_is_no_mistake() -> None:
    module = Wild().eval()
    trace = trace_channels(module, images((1, 3, 8, 8), 1))
    plan = random_plan(trace, 0.5, 0)
    pruned, masked = prune_model(module, trace, plan), mask_model(module, trace, plan)
    batch = images((1, 3, 8, 8), 3)
    assert max_relative_error(outputs(pruned, batch), outputs(masked, batch)) > TOLERANCE, "the case tells nothing"
    assert max_relative_error(outputs(pruned.double(), batch.double()), outputs(masked.double(), batch.double())) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_law_is_checked_in_other_types(dtype: torch.dtype) -> None:
    net = ZOO["ResidualProjection"]
    module = net.build().to(dtype)
    trace = trace_channels(module, net.example.to(dtype))
    assert next(prune_model(module, trace, random_plan(trace, 0.5, 0)).parameters()).dtype is dtype


class WidthKept(nn.Module):
    """Its modules keep their width as a number and cut by it: the number follows."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width = 4
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            left, right = torch.split(x, self.width, 1)
            return torch.cat([left, self.conv(right).relu()], 1)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.fc = nn.Conv2d(3, 8, 3), self.Block(), self.Block(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.two(self.one(self.stem(x))).mean((2, 3)))


def test_a_width_that_modules_keep_follows() -> None:
    module = WidthKept().eval()
    trace = trace_channels(module, images((1, 3, 8, 8), 1))
    assert {group.id: group.units for group in trace.prunable} == {"stem": 4, "two.conv": 4}
    assert {(one.path, one.attribute) for one in trace.written} == {("one", "width"), ("two", "width")}
    plan = Plan({"stem": (0, 3)})
    pruned, masked = prune_model(module, trace, plan), mask_model(module, trace, plan)
    batch = images((1, 3, 8, 8), 3)
    assert (pruned.one.width, pruned.two.width, module.one.width) == (2, 2, 4)
    assert max_relative_error(outputs(pruned, batch), outputs(masked, batch)) < TOLERANCE
    assert sized_copy(trace, plan) is not None, "its time can be measured narrow"
