"""Counts against hand-worked numbers and against what torchvision publishes for its networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from core.errors import PlanError
from core.load.torchvision_guard import import_torchvision
from core.measure.cost.counts import cost_terms, count_cost
from core.records import Cost, LayerCost, Plan
from core.trace import trace_channels
from tests.zoo import NETS, ZOO, ZooNet, images


def cost_of(name: str, **kept: tuple[int, ...]) -> Cost:
    net = ZOO[name]
    return count_cost(trace_channels(net.build(), net.example), Plan(kept) if kept else None)


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_dense_counts_are_the_hand_worked_ones(net: ZooNet) -> None:
    module = net.build()
    cost = count_cost(trace_channels(module, net.example))
    assert (cost.macs, cost.params) == (net.macs, net.params)
    assert cost.params == sum(parameter.numel() for parameter in module.parameters())
    assert cost == count_cost(trace_channels(module, net.example), Plan({}))


def test_layers_of_the_plain_net() -> None:
    assert cost_of("Plain").per_layer == {
        "conv1": LayerCost(13824, 224, 3, 8),
        "bn1": LayerCost(0, 16, 8, 8),
        "conv2": LayerCost(6912, 432, 8, 6),
        "bn2": LayerCost(0, 12, 6, 6),
        "fc": LayerCost(120, 125, 24, 5),
    }


def test_layers_of_a_pruned_plain_net() -> None:
    """conv1 keeps 3 of 8, conv2 2 of 6: 3.27.64, 2.3.9.16, 8.5."""
    cost = cost_of("Plain", conv1=(0, 3, 7), conv2=(1, 4))
    assert [cost.per_layer[name].macs for name in ("conv1", "conv2", "fc")] == [5184, 864, 40]
    assert cost.macs == 6088 and cost.params == (81 + 3) + 6 + 54 + 4 + (40 + 5)
    # Buffers: mean and variance of 3 + 2 channels, two counters of 8 bytes.
    assert cost.size_bytes == 4 * (cost.params + 2 * 5) + 2 * 8
    assert cost.per_layer["fc"] == LayerCost(40, 45, 8, 5)


def test_a_layer_used_twice_counts_twice_but_weighs_once() -> None:
    assert cost_of("LayerUsedTwice").per_layer["shared"] == LayerCost(2 * 20736, 330, 6, 6)


def test_a_layer_of_one_weight_name_counts_both_uses() -> None:
    layers = cost_of("TiedWeights").per_layer
    assert layers["first"].macs == 2 * 20736 and layers["second"].params == 6


def test_the_batch_size_of_the_example_does_not_count() -> None:
    net = ZOO["TokenBlock"]
    module = net.build()
    assert count_cost(trace_channels(module, images(net.shape, 5))).macs == net.macs


def test_what_multiplies_without_a_rule_is_reported() -> None:
    class Forms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.pair, self.b = nn.Linear(4, 6), nn.Bilinear(6, 6, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x.flatten(1))
            return self.b(self.pair(x, x))

    trace = trace_channels(Forms().eval(), torch.zeros(1, 1, 2, 2))
    cost = count_cost(trace)
    assert cost.macs == 4 * 6 + 3 * 2 and cost.uncounted == {"_trilinear": 1}
    assert trace.unknown == {"_trilinear": 1} and not trace.prunable


def test_half_precision_weighs_half() -> None:
    net = ZOO["Perceptron"]
    module = net.build().half()
    cost = count_cost(trace_channels(module, net.example.half()))
    assert cost.size_bytes == 2 * (net.params + 20) + 8  # running statistics of 10 channels, one counter


def test_an_unknown_group_is_refused() -> None:
    with pytest.raises(PlanError, match="no group called 'conv7'"):
        cost_of("Plain", conv7=(0,))


def test_terms_of_the_plain_net_by_hand() -> None:
    """27.64 a + 9.16 a b + 20 b, with a and b the kept units of conv1 and conv2."""
    net = ZOO["Plain"]
    trace = trace_channels(net.build(), net.example)
    assert sorted(cost_terms(trace, "macs"), key=str) == sorted(
        [(1728.0, "conv1", None), (144.0, "conv1", "conv2"), (20.0, "conv2", None)], key=str
    )
    params = {(a, b): coef for coef, a, b in cost_terms(trace, "params")}
    # conv1 27 + 1, bn1 2; conv2 9 a b, bn2 2, fc 5.4; fc's bias 5.
    assert params == {("conv1", None): 30.0, ("conv1", "conv2"): 9.0, ("conv2", None): 22.0, (None, None): 5.0}


PUBLISHED = [
    "AlexNet", "VGG11", "VGG16_BN", "ResNet18", "ResNet50", "ResNeXt50_32X4D", "Wide_ResNet50_2", "DenseNet121",
    "GoogLeNet", "Inception_V3", "SqueezeNet1_1", "MobileNet_V2", "MobileNet_V3_Small", "ShuffleNet_V2_X0_5",
    "EfficientNet_B0", "MNASNet0_5", "ConvNeXt_Tiny",
]  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name: str) -> None:
    """torchvision states GMACs (as _ops, three decimals) and parameters with every set of weights."""
    models = import_torchvision().models
    meta = models.get_model_weights(name.lower()).DEFAULT.meta
    options = {"init_weights": False} if name in {"GoogLeNet", "Inception_V3"} else {}
    size = models.get_model_weights(name.lower()).DEFAULT.transforms().crop_size[0]
    with torch.device("meta"):
        module = models.get_model(name.lower(), weights=None, **options).eval()
    cost = count_cost(trace_channels(module, torch.zeros(1, 3, size, size, device="meta")))
    assert cost.macs / 1e9 == pytest.approx(meta["_ops"], abs=6e-4)
    assert cost.params == sum(parameter.numel() for parameter in module.parameters())
    if name not in {"GoogLeNet", "Inception_V3"}:  # their published figure leaves the auxiliary heads out
        assert cost.params == meta["num_params"]
    assert cost.uncounted == {}
