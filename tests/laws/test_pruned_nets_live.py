"""A pruned network is a network like any other: the user's own class, that trains, copies, moves, saves and exports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.apply.surgery import mask_model, max_relative_error, prune_model
from core.load.torchvision_guard import import_torchvision
from core.measure.cost.counts import count_cost
from core.records import Group, Plan, Trace
from core.trace import trace_channels
from tests.live import CHEAP, Trial, as_the_original, export, gradients, told_sizes
from tests.traced import lent, lent_halved, traced
from tests.zoo import NETS, ZooNet, images, outputs, random_plan, randomise, settle

EVERY_NET = pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
TOLERANCE = 1e-4


@EVERY_NET
def test_it_is_the_users_own_class(net: ZooNet) -> None:
    """Same modules under the same names, each of its class or (with its own way to read its input) of one below it."""
    module, _, _, pruned = lent_halved(net)
    assert type(pruned) is type(module)
    before, after = dict(module.named_modules()), dict(pruned.named_modules())
    assert before.keys() == after.keys()
    assert all(isinstance(after[path], type(layer)) for path, layer in before.items())
    assert list(dict(module.named_parameters())) == list(dict(pruned.named_parameters()))
    assert module.state_dict().keys() == pruned.state_dict().keys()


@EVERY_NET
def test_its_attributes_tell_its_sizes(net: ZooNet) -> None:
    module, _, _, pruned = lent_halved(net)
    assert told_sizes(module) == []
    assert told_sizes(pruned) == []
    for path, layer in module.named_modules():
        smaller = pruned.get_submodule(path)
        if isinstance(layer, nn.modules.conv._ConvNd) and layer.groups > 1:  # whole groups leave, none gets thinner
            assert layer.in_channels // layer.groups == smaller.in_channels // smaller.groups
            assert layer.out_channels // layer.groups == smaller.out_channels // smaller.groups
        if isinstance(layer, nn.GroupNorm):
            assert layer.num_channels // layer.num_groups == smaller.num_channels // smaller.num_groups


@EVERY_NET
@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam], ids=["sgd", "adam"])
def test_it_trains(net: ZooNet, optimiser: type[torch.optim.Optimizer]) -> None:
    """Every parameter that training reached before is reached still, in train mode, and moves."""
    module, trace = net.build(), traced(net)
    pruned = prune_model(module, trace, random_plan(trace, 0.5, 0))
    batch = images(net.shape, 6)
    reached_before, reached = gradients(module, batch), gradients(pruned, batch)
    assert reached == reached_before
    before = {name: parameter.detach().clone() for name, parameter in pruned.named_parameters()}
    optimiser(pruned.parameters(), lr=0.1).step()
    for name, parameter in pruned.named_parameters():
        assert parameter.is_leaf and torch.isfinite(parameter).all()
        # A bias in front of a batch norm has no gradient but rounding.
        if parameter.grad is not None and bool(parameter.grad.abs().max() > 1e-4):
            assert not torch.equal(before[name], parameter), name
    again = gradients(pruned, batch)
    assert again == reached


@EVERY_NET
@pytest.mark.parametrize("trial", CHEAP.values(), ids=CHEAP.keys())
def test_it_does_what_the_original_did(net: ZooNet, trial: Trial) -> None:
    module, _, _, pruned = lent_halved(net)
    as_the_original(trial, pruned, module, images(net.shape, 3))


@EVERY_NET
def test_it_exports_where_the_original_did(net: ZooNet) -> None:
    module, _, _, pruned = lent_halved(net)
    as_the_original(export, pruned, module, images(net.shape, 2))


@EVERY_NET
def test_its_state_fits_a_second_prune_of_the_same_plan(net: ZooNet) -> None:
    """Other weights, the same trace and plan: a network that takes the first one's state and then computes the same."""
    _, trace, plan, pruned = lent_halved(net)
    second, batch = prune_model(net.build(1), trace, plan), images(net.shape, 3)
    state = pruned.state_dict()
    assert {name: value.shape for name, value in state.items()} == {
        name: value.shape for name, value in second.state_dict().items()
    }
    assert max_relative_error(outputs(second, batch), outputs(pruned, batch)) > TOLERANCE
    second.load_state_dict(state)
    assert max_relative_error(outputs(second, batch), outputs(pruned, batch)) < 1e-6


def half_of(group: Group, seed: int) -> tuple[int, ...]:
    order = torch.randperm(group.units, generator=torch.Generator().manual_seed(seed))
    return tuple(order[: max(1, group.units // 2)].tolist())


def hold(module: nn.Module, trace: Trace, plan: Plan, batch: Tensor) -> nn.Module:
    """The first two laws for one plan; gives back the pruned network."""
    pruned, masked = prune_model(module, trace, plan, verify=False), mask_model(module, trace, plan)
    assert max_relative_error(outputs(pruned, batch), outputs(masked, batch)) < TOLERANCE
    predicted = count_cost(trace, plan)
    counted = count_cost(trace_channels(pruned, trace.example))
    assert (predicted.macs, predicted.params) == (counted.macs, counted.params)
    assert predicted.params == sum(parameter.numel() for parameter in pruned.parameters())
    assert {name: cost.macs for name, cost in predicted.per_layer.items()} == {
        name: cost.macs for name, cost in counted.per_layer.items()
    }
    return pruned


@EVERY_NET
def test_the_gathers_are_the_hand_worked_ones(net: ZooNet) -> None:
    trace = traced(net)
    ids = [group.id for group in trace.groups]
    assert list(ids) == [group.id for group in trace.coupled] + [group.id for group in trace.gathers]
    if net.gathers is not None:
        assert {group.id: group.units for group in trace.gathers} == dict(net.gathers)
    for gather in trace.gathers:
        (reader,) = gather.consumers
        assert gather.id == f"gather:{reader}" and len(gather.members) == 1
        assert gather.members[0].role == "consumer" and trace.group(gather.gather_of or "").gather_of is None
        sources = [group for group in trace.coupled if reader in group.consumers]
        assert any(not group.prunable or len(group.consumers) > 1 for group in sources), "a gather that nobody needs"


@EVERY_NET
def test_every_gather_alone(net: ZooNet) -> None:
    """One consumer reads a part of what others read whole: nothing but its own input changes."""
    module, trace = lent(net)
    batch = images(net.shape, 4)
    dense = outputs(module, batch)
    change = 0.0
    for number, gather in enumerate(trace.gathers):
        for kept in (half_of(gather, number), (gather.units - 1,)):
            plan = Plan({gather.id: kept})
            pruned = hold(module, trace, plan, batch)
            change = max(change, max_relative_error(outputs(pruned, batch), dense))
            if len(kept) < gather.units:
                changed = {
                    name
                    for name, tensor in pruned.named_parameters()
                    if tensor.shape != module.get_parameter(name).shape
                }
                assert changed == {gather.members[0].tensor}
    assert change > 1e-3 or not trace.gathers, "the law would hold by nothing being read"


@EVERY_NET
def test_all_gathers_beside_a_plan_for_the_trunk(net: ZooNet) -> None:
    """Consumers read what both their gather and the trunk's plan keep; where that is nothing, what the trunk keeps."""
    module, trace = lent(net)
    batch = images(net.shape, 4)
    gathers = {group.id: half_of(group, 7 + number) for number, group in enumerate(trace.gathers)}
    if not gathers:
        pytest.skip("nothing here is read twice or locked")
    pruned = hold(module, trace, Plan(gathers), batch)
    both = Plan({**random_plan(trace, 0.5, 3).kept, **gathers})
    small = hold(module, trace, both, batch)
    assert count_cost(trace, both).params <= count_cost(trace, Plan(gathers)).params
    for network in (pruned, small):
        for trial in CHEAP.values():
            as_the_original(trial, network, module, batch)
    assert gradients(small, batch) == gradients(net.build(), batch)


@EVERY_NET
def test_gathers_without_a_common_channel_are_void(net: ZooNet) -> None:
    module, trace = lent(net)
    batch = images(net.shape, 3)
    for gather in trace.gathers:
        source = trace.group(gather.gather_of or "")
        if not source.prunable or gather.units != source.units:
            continue
        void = Plan({source.id: (0,), gather.id: tuple(range(1, source.units))})
        alone = Plan({source.id: (0,)})
        found = outputs(hold(module, trace, void, batch), batch)
        assert max_relative_error(found, outputs(prune_model(module, trace, alone), batch)) < 1e-6


@EVERY_NET
def test_networks_with_gathers_export(net: ZooNet) -> None:
    module, trace = lent(net)
    if not trace.gathers:
        pytest.skip("nothing here is read twice or locked")
    plan = Plan({group.id: half_of(group, number) for number, group in enumerate(trace.gathers)})
    as_the_original(export, prune_model(module, trace, plan), module, images(net.shape, 2))


@EVERY_NET
def test_mixing_groups_run_when_asked_for(net: ZooNet) -> None:
    """Accepting that a norm over channels makes pruned and masked differ, its channels may leave too."""
    if net.mixing is None:
        pytest.skip("no norm over channels here, or not worked out")
    module = net.build()
    trace = trace_channels(module, net.example, mixing=True)
    assert {group.id: group.units for group in trace.coupled if group.mixing} == dict(net.mixing)
    for group in trace.coupled:
        if group.mixing:
            pruned = prune_model(module, trace, Plan({group.id: half_of(group, 1)}))
            found = outputs(pruned, images(net.shape, 3))
            assert all(torch.isfinite(answer).all() for answer in found)
            assert told_sizes(pruned) == []


# Torchvision's own classes; the transformers with fewer and thinner layers than published, so that seconds suffice.
PUBLISHED: dict[str, tuple[int, Callable[[Any], nn.Module]]] = {
    "resnet18": (64, lambda models: models.resnet18(num_classes=10)),
    "mobilenet v3": (64, lambda models: models.mobilenet_v3_small(num_classes=10)),
    "shufflenet v2": (64, lambda models: models.shufflenet_v2_x0_5(num_classes=10)),
    "vit": (32, lambda models: models.VisionTransformer(32, 8, 2, 3, 12, 20, num_classes=10)),
    "swin": (32, lambda models: models.SwinTransformer([4, 4], 12, [2, 2], [3, 3], [2, 2], num_classes=10)),
}


@pytest.mark.parametrize(("size", "make"), PUBLISHED.values(), ids=PUBLISHED.keys())
def test_published_networks_live_on(size: int, make: Callable[[Any], nn.Module]) -> None:
    module = make(import_torchvision().models).eval()
    randomise(module, 3)
    batch = images((1, 3, size, size), 3, 8)
    settle(module, batch)
    trace = trace_channels(module, batch[:1])
    pruned = prune_model(module, trace, random_plan(trace, 0.5, 1))
    assert type(pruned) is type(module) and told_sizes(pruned) == []
    assert module.state_dict().keys() == pruned.state_dict().keys()
    for trial in (*CHEAP.values(), export):
        as_the_original(trial, pruned, module, batch)
    assert gradients(pruned, batch) == gradients(module, batch)
