"""Counts against hand-worked numbers and against what torchvision publishes for its networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from core.apply.surgery import prune_model
from core.errors import PlanError
from core.load.torchvision_guard import import_torchvision
from core.measure.cost.counts import cost_terms, count_cost
from core.records import Cost, LayerCost, Plan
from core.trace import trace_channels
from tests.traced import lent, traced
from tests.zoo import NETS, ZOO, ZooNet, images


def cost_of(name: str, **kept: tuple[int, ...]) -> Cost:
    return count_cost(traced(name), Plan(kept) if kept else None)


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_dense_counts_are_the_hand_worked_ones(net: ZooNet) -> None:
    module, trace = lent(net)
    cost = count_cost(trace)
    assert (cost.macs, cost.params) == (net.macs, net.params)
    assert cost.params == sum(parameter.numel() for parameter in module.parameters())
    assert cost == count_cost(trace, Plan({}))


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


class Heads(nn.Module):
    """Four heads of two channels over five tokens of eight."""

    def __init__(self, *, looks: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)
        self.head = nn.Linear(8, 3)
        self.looks = looks

    def forward(self, x: Tensor) -> Tensor:
        if self.looks and float(x.sum()) > 1e9:
            x = -x
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


@pytest.mark.parametrize("looks", [False, True])
def test_attention_follows_its_heads(looks: bool) -> None:
    """Into 5.8.24, two products of 4.5.5.2, out 5.8.8, head 8.3; with one head 5.8.6, 2.5.5.2, 5.2.8, 8.3.

    A network that looks at values is recorded on real tensors, where one fused operator holds both products.
    """
    module = Heads(looks=looks).eval()
    trace = trace_channels(module, torch.zeros(1, 5, 8))
    assert any("scaled_dot_product" in step.name for step in trace.tape.steps) == looks
    dense = count_cost(trace)
    assert dense.macs == 960 + 2 * 200 + 320 + 24 and dense.uncounted == {}
    assert dense.per_layer["attention"] == LayerCost(960, 216, 8, 24)
    (heads,) = (group for group in trace.prunable if group.units == 4)
    plan = Plan({heads.id: (2,)})
    one = count_cost(trace, plan)
    assert one.macs == 240 + 2 * 50 + 80 + 24 and one.per_layer["attention"] == LayerCost(240, 54, 8, 6)
    assert one.per_layer["attention.out_proj"] == LayerCost(80, 24, 2, 8)
    assert one == count_cost(trace_channels(prune_model(module, trace, plan), trace.example))


class Shared(nn.Module):
    """Two readers of the same eight channels."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.trunk(x).relu()
        return self.left(x), self.right(x)


def test_a_gather_narrows_one_reader_and_stores_its_index() -> None:
    trace = trace_channels(Shared().eval(), torch.zeros(1, 3, 4, 4))
    dense = count_cost(trace)
    alone = count_cost(trace, Plan({"gather:left": (1, 2, 5)}))
    assert dense.macs - alone.macs == 16 * 5 * 4 and dense.params - alone.params == 5 * 4
    assert dense.size_bytes - alone.size_bytes == 4 * 5 * 4 - 8 * 3
    assert (
        alone.per_layer["left"] == LayerCost(16 * 12, 16, 3, 4) and alone.per_layer["right"] == dense.per_layer["right"]
    )
    # The trunk keeps two of the three that it wants, and one more for the other reader.
    both = count_cost(trace, Plan({"trunk": (1, 5, 7), "gather:left": (1, 2, 5)}))
    assert (both.per_layer["left"].in_channels, both.per_layer["right"].in_channels) == (2, 3)
    # Nothing that it wants is left: it reads what there is, and needs no index.
    void = count_cost(trace, Plan({"trunk": (0, 7), "gather:left": (1, 2, 5)}))
    assert void == count_cost(trace, Plan({"trunk": (0, 7)}))


def test_channels_of_grouped_and_transposed_layers() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 12, 1),
        nn.Conv2d(12, 24, 1, groups=4),
        nn.ConvTranspose2d(24, 12, 1, groups=2),
        nn.ConvTranspose2d(12, 6, 1),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 2, 1)),
    )
    trace = trace_channels(net.eval(), torch.zeros(1, 3, 4, 4))
    sides = [(cost.in_channels, cost.out_channels) for cost in count_cost(trace).per_layer.values()]
    assert sides == [(3, 12), (12, 24), (24, 12), (12, 6), (6, 2)]
    for group in trace.prunable:
        plan = Plan({group.id: (0,)})
        built = prune_model(net, trace, plan)
        for name, cost in count_cost(trace, plan).per_layer.items():
            layer = built.get_submodule(name)
            assert (cost.in_channels, cost.out_channels) == (layer.in_channels, layer.out_channels)


def test_a_layer_that_only_trains_weighs_but_does_not_count() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head, self.auxiliary = nn.Conv2d(3, 8, 1), nn.Linear(8, 2), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            x = self.stem(x).mean((2, 3))
            return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)

    trace = trace_channels(Auxiliary().eval(), torch.zeros(1, 3, 4, 4))
    cost = count_cost(trace, Plan({"stem": (0, 4, 5)}))
    assert cost.macs == 16 * 3 * 3 + 3 * 2 and cost.params == 12 + 8 + 8
    assert cost.per_layer["auxiliary"] == LayerCost(0, 8, 3, 2)


def test_what_is_not_known_is_listed_once_for_each_time_it_runs() -> None:
    class Waves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.cumprod(torch.cumprod(self.a(x), 1), 0) * (self.b.weight @ self.b.bias))

    cost = count_cost(trace_channels(Waves().eval(), torch.zeros(1, 6)))
    assert cost.macs == 2 * 36 and cost.uncounted == {"cumprod": 2}


def test_half_precision_weighs_half() -> None:
    net = ZOO["Perceptron"]
    module = net.build().half()
    cost = count_cost(trace_channels(module, net.example.half()))
    assert cost.size_bytes == 2 * (net.params + 20) + 8  # running statistics of 10 channels, one counter


def test_an_unknown_group_is_refused() -> None:
    with pytest.raises(PlanError, match="no group called 'conv7'"):
        cost_of("Plain", conv7=(0,))


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(PlanError, match="has 8 units; the plan names unit 8"):
        cost_of("Plain", conv1=(0, 8))


def test_terms_of_the_plain_net_by_hand() -> None:
    """27.64 a + 9.16 a b + 20 b, with a and b the kept units of conv1 and conv2."""
    net = ZOO["Plain"]
    trace = traced(net)
    assert sorted(cost_terms(trace, "macs"), key=str) == sorted(
        [(1728.0, "conv1", None), (144.0, "conv1", "conv2"), (20.0, "conv2", None)], key=str
    )
    params = {(a, b): coef for coef, a, b in cost_terms(trace, "params")}
    # conv1 27 + 1, bn1 2; conv2 9 a b, bn2 2, fc 5.4; fc's bias 5.
    assert params == {("conv1", None): 30.0, ("conv1", "conv2"): 9.0, ("conv2", None): 22.0, (None, None): 5.0}


PUBLISHED = [
    "AlexNet", "VGG11", "VGG16_BN", "ResNet18", "ResNet50", "ResNeXt50_32X4D", "Wide_ResNet50_2", "DenseNet121",
    "GoogLeNet", "Inception_V3", "SqueezeNet1_1", "MobileNet_V2", "MobileNet_V3_Small", "ShuffleNet_V2_X0_5",
    "EfficientNet_B0", "MNASNet0_5", "ConvNeXt_Tiny", "ViT_B_32", "Swin_T", "Swin_V2_T", "MaxViT_T",
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
