"""What surgery writes: the right rows, the right attributes, the right refusals."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from core.apply.surgery import check_plan, kept_positions, mask_model, max_relative_error, prune_model
from core.errors import PlanError, PruneError
from core.records import Plan
from core.trace import trace_channels
from tests.zoo import NETS, ZOO, ZooNet, images, outputs, random_plan


def cut(name: str, **kept: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    """(dense, pruned); keyword ``a__b`` means group "a.b"."""
    net = ZOO[name]
    module = net.build()
    trace = trace_channels(module, net.example)
    return module, prune_model(module, trace, Plan({group.replace("__", "."): units for group, units in kept.items()}))


def test_the_rows_that_stay_are_the_named_ones() -> None:
    dense, pruned = cut("Plain", conv1=(7, 0, 3), conv2=(1, 4))
    rows, reads = [0, 3, 7], [1, 4]
    assert torch.equal(pruned.conv1.weight, dense.conv1.weight[rows])
    assert torch.equal(pruned.conv1.bias, dense.conv1.bias[rows])
    assert torch.equal(pruned.bn1.running_var, dense.bn1.running_var[rows])
    assert torch.equal(pruned.conv2.weight, dense.conv2.weight[reads][:, rows])
    assert torch.equal(pruned.fc.weight, dense.fc.weight[:, [4, 5, 6, 7, 16, 17, 18, 19]])
    assert torch.equal(pruned.fc.bias, dense.fc.bias)
    assert int(pruned.bn1.num_batches_tracked) == int(dense.bn1.num_batches_tracked)


def test_a_mask_zeroes_what_readers_would_read_and_nothing_else() -> None:
    net = ZOO["Plain"]
    dense = net.build()
    masked = mask_model(dense, trace_channels(dense, net.example), Plan({"conv1": (0, 3, 7)}))
    gone = [1, 2, 4, 5, 6]
    assert not masked.conv2.weight[:, gone].any() and masked.conv2.weight[:, [0, 3, 7]].all()
    for name, tensor in masked.state_dict().items():
        if name != "conv2.weight":
            assert torch.equal(tensor, dense.state_dict()[name]), name


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_attributes_tell_the_new_sizes(net: ZooNet) -> None:
    module = net.build()
    trace = trace_channels(module, net.example)
    pruned = prune_model(module, trace, random_plan(trace, 0.5, 3))
    for (path, layer), (_, old) in zip(pruned.named_modules(), module.named_modules(), strict=True):
        assert isinstance(layer, type(old)), path
        if isinstance(layer, nn.modules.conv._ConvNd):
            first, second = (1, 0) if layer.transposed else (0, 1)
            sizes = [0, 0]
            sizes[first] = layer.out_channels if not layer.transposed else layer.out_channels // layer.groups
            sizes[second] = layer.in_channels if layer.transposed else layer.in_channels // layer.groups
            assert list(layer.weight.shape[:2]) == sizes, path
            assert layer.bias is None or layer.bias.shape[0] == layer.out_channels, path
        elif isinstance(layer, nn.Linear):
            assert tuple(layer.weight.shape) == (layer.out_features, layer.in_features), path
        elif isinstance(layer, nn.GroupNorm) and layer.weight is not None:
            assert layer.weight.shape[0] == layer.num_channels and layer.num_channels % layer.num_groups == 0, path
            assert layer.num_channels // layer.num_groups == old.num_channels // old.num_groups, path
        elif isinstance(layer, nn.modules.batchnorm._NormBase) and layer.weight is not None:
            assert layer.weight.shape[0] == layer.num_features, path


def test_particular_attributes() -> None:
    _, depthwise = cut("InvertedResidual", expand=(0, 5, 11))
    assert (depthwise.dw.in_channels, depthwise.dw.out_channels, depthwise.dw.groups) == (3, 3, 3)
    _, doubled = cut("DepthMultiplier", conv1=(1, 2))
    assert (doubled.dw.in_channels, doubled.dw.out_channels, doubled.dw.groups) == (2, 4, 2)
    assert doubled.pw.in_channels == 4
    _, grouped = cut("Grouped", conv1=(0, 2, 3))
    assert (grouped.grouped.in_channels, grouped.grouped.out_channels, grouped.grouped.groups) == (6, 6, 3)
    _, raised = cut("TransposedGrouped", conv1=(1,))
    assert (raised.up.in_channels, raised.up.out_channels, raised.up.groups) == (3, 2, 1)
    _, single = cut("TransposedDepthwise", conv1=(1, 4))
    assert (single.up.in_channels, single.up.out_channels, single.up.groups) == (2, 2, 2)
    _, normed = cut("GroupNormed", conv1=(1, 3), conv2=(0,))
    assert (normed.gn1.num_groups, normed.gn1.num_channels, normed.gn2.num_groups) == (2, 4, 1)
    _, scaled = cut("Scaled", conv1=(0, 1, 2))
    assert scaled.act1.num_parameters == 3 and scaled.act2.num_parameters == 1 and scaled.scale.shape == (3, 1, 1)


def test_two_layers_with_one_weight_still_share_it() -> None:
    _, pruned = cut("TiedWeights", conv1=(0, 1, 2))
    assert pruned.first.weight is pruned.second.weight
    assert (pruned.second.in_channels, pruned.second.out_channels) == (3, 3)
    assert (pruned.first.in_channels, pruned.first.out_channels) == (3, 3)


def test_an_instance_norm_without_weights_learns_its_width() -> None:
    _, pruned = cut("InstanceNormed", conv1=(0, 1, 2), conv2=(3,))
    assert (pruned.in1.num_features, pruned.in2.num_features) == (3, 1)


def test_the_state_dict_loads_into_another_network_of_those_sizes() -> None:
    dense, pruned = cut("Plain", conv1=(0, 3, 7), conv2=(1, 4))
    batch = images(ZOO["Plain"].shape, 3)
    twin = copy.deepcopy(dense)
    twin.conv1, twin.bn1 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
    twin.conv2, twin.bn2, twin.fc = nn.Conv2d(3, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2), nn.Linear(8, 5)
    twin.load_state_dict(pruned.state_dict())
    assert torch.equal(outputs(twin.eval(), batch)[0], outputs(pruned, batch)[0])


def test_memory_format_and_dtype_are_kept() -> None:
    net = ZOO["Plain"]
    module = net.build().double().to(memory_format=torch.channels_last)
    trace = trace_channels(module, net.example.double())
    pruned = prune_model(module, trace, Plan({"conv1": (0, 1, 2, 3)}))
    assert pruned.conv2.weight.dtype == torch.float64
    assert pruned.conv2.weight.is_contiguous(memory_format=torch.channels_last)


def test_plans_that_do_not_fit() -> None:
    net = ZOO["Plain"]
    module = net.build()
    trace = trace_channels(module, net.example)
    with pytest.raises(PlanError, match="no group called 'conv9'"):
        check_plan(trace, Plan({"conv9": (0,)}))
    with pytest.raises(PlanError, match="conv1 has 8 units; the plan names unit 8"):
        check_plan(trace, Plan({"conv1": (0, 8)}))
    with pytest.raises(PlanError, match=r"fc cannot be pruned: feeds the output\. Leave it out"):
        check_plan(trace, Plan({"fc": (0,)}))
    check_plan(trace, Plan({"fc": (0, 1, 2, 3, 4)}))  # keeping all of a locked group asks for nothing
    for units in ((), (-1, 0), (2, 2)):
        with pytest.raises(PlanError, match="keeps at least one unit, each named once"):
            Plan({"conv1": units})


def test_positions_of_a_dimension_that_two_groups_share() -> None:
    net = ZOO["DenseBlock"]
    trace = trace_channels(net.build(), net.example)
    masks = kept_positions(trace, Plan({"c0": (0, 2), "c1": (1,), "c2": (0, 1, 2)}))
    assert masks["fc.weight", 1].int().tolist() == [1, 0, 1, 0, 0, 1, 0, 1, 1, 1]
    assert ("c2.weight", 0) not in masks, "a group that keeps all needs no mask"
    assert set(kept_positions(trace, Plan({"c1": (1,)}), roles=("consumer",))) == {("c2.weight", 1), ("fc.weight", 1)}


def test_a_network_that_only_differs_by_its_plan_as_a_whole_is_refused() -> None:
    """The law is checked on what is returned, also where each group alone is exact."""

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.cat([self.a(x), self.b(x)], 1)
            return self.c(y).roll(1 if y.shape[1] < 5 else 2, 2)

    module = Counts().eval()
    trace = trace_channels(module, images((1, 3, 4, 4), 1))
    with pytest.raises(PruneError, match="though each group alone is exact"):
        prune_model(module, trace, Plan({"a": (0, 1), "b": (0, 1)}))
    assert prune_model(module, trace, Plan({"a": (0, 1)})).c.in_channels == 6


def test_max_relative_error() -> None:
    one = torch.tensor([1.0, -4.0])
    assert max_relative_error([one], [one]) == 0
    assert max_relative_error([torch.tensor([1.0, -3.0])], [one]) == 0.25
    assert max_relative_error([torch.tensor([1.0])], [one]) == float("inf")
    assert max_relative_error([torch.tensor([1.0, float("nan")])], [one]) == float("inf")
    assert max_relative_error([torch.tensor([0.5])], [torch.tensor([0.0])]) == 0.5
