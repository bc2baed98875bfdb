"""Our multiply-adds beside those of fvcore's FlopCountAnalysis: an independent authority on the dense network.

Both count a multiply-add once and both count convolutions, linear layers and matrix products; there they agree to the
last one, kind by kind, on every network here. They differ, by choice, in the following.

- fvcore also counts what we leave out because it folds away or is cheap beside the rest: ``NOT_OURS``.
- fvcore has no rule for the fused attention operator and leaves it out. We count its two matrix products; the test
  gives fvcore the textbook count of that operator (queries x keys x width, twice).
- Where a convolution's weight is computed (weight norm, weight standardisation, dynamic filters) its multiply-adds may
  belong to no layer of ours: there the kinds are compared together (``WEIGHT_COMPUTED``).

fvcore runs the network on real images through torch.jit's tracer, we on shape-only tensors through ATen.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.load.torchvision_guard import import_torchvision
from core.measure.cost.counts import count_cost
from core.records import Cost, Trace
from core.trace import trace_channels
from tests.traced import traced
from tests.zoo import NETS, ZooNet, images, outputs, randomise

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # fvcore writes scripts as it is imported, which PyTorch calls old-fashioned
    from fvcore.nn import FlopCountAnalysis

KIND = {"conv": "conv", "linear": "linear", "addmm": "linear", "matmul": "product", "bmm": "product"}
FUSED = "scaled_dot_product_attention"
KIND[FUSED] = "product"
NOT_OURS = {
    "batch_norm": "folds into the convolution in front of it",
    "instance_norm": "a few operations per value",
    "group_norm": "a few operations per value",
    "layer_norm": "a few operations per value",
    "adaptive_avg_pool1d": "additions",
    "adaptive_avg_pool2d": "additions",
    "adaptive_avg_pool3d": "additions",
    "upsample_nearest2d": "copies",
    "upsample_bilinear2d": "four per new value",
    "grid_sampler": "four per new value",
}
WEIGHT_COMPUTED = {
    "WeightNormed", "WeightNormedTwice", "WeightNormedByHook", "SpectralNormed", "SpectralNormedByHook",
    "WeightStandardised", "WeightStandardisedByBatchNorm", "DynamicFilters",
}  # fmt: skip


def _textbook_attention(inputs: list[Any], outputs_: list[Any]) -> Counter[str]:
    """Queries (..., n, d), keys (..., m, d), values (..., m, e): n x m x d for the scores, n x m x e for the mix."""
    queries, keys, values = (value.type().sizes() for value in inputs[:3])
    return Counter({FUSED: math.prod(queries[:-1]) * keys[-2] * (queries[-1] + values[-1])})


def fvcore_macs(module: nn.Module, example: Tensor) -> Mapping[str, int]:
    """Operator -> multiply-adds for one image, by fvcore."""
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    analysis = FlopCountAnalysis(module, example).set_op_handle(f"aten::{FUSED}", _textbook_attention)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes read while tracing
        found: Mapping[str, int] = {name: int(macs) for name, macs in analysis.by_operator().items()}
    return found


def by_kind(module: nn.Module, cost: Cost) -> dict[str, int]:
    """Our count, told apart by the rank of the layers' weights; what no layer owns are products of activations."""
    rank: Counter[str] = Counter()
    for name, tensor in module.named_parameters():
        layer = name.rpartition(".")[0] or name
        rank[layer] = max(rank[layer], tensor.dim())
    kinds = {"conv": 0, "linear": 0, "product": 0}
    for layer, share in cost.per_layer.items():
        kinds["conv" if rank[layer] > 2 else "linear"] += share.macs
    kinds["product"] = cost.macs - kinds["conv"] - kinds["linear"]
    return kinds


def assert_agreement(name: str, trace: Trace, module: nn.Module) -> None:
    theirs = fvcore_macs(module, trace.example)
    assert theirs.keys() <= KIND.keys() | NOT_OURS.keys(), "fvcore counts an operator that is not listed here"
    expected = {"conv": 0, "linear": 0, "product": 0}
    for operator, macs in theirs.items():
        if operator in KIND:
            expected[KIND[operator]] += macs
    cost = count_cost(trace)
    assert cost.macs == sum(expected.values())
    if name not in WEIGHT_COMPUTED:
        assert by_kind(module, cost) == expected


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_zoo(net: ZooNet) -> None:
    assert_agreement(net.name, traced(net), net.build())
    assert count_cost(traced(net)).uncounted == dict(net.unknown)


NETWORKS = [
    ("alexnet", 64), ("resnet50", 64), ("resnext50_32x4d", 64), ("densenet121", 64), ("squeezenet1_1", 64),
    ("mobilenet_v3_small", 64), ("shufflenet_v2_x1_0", 64), ("efficientnet_b0", 64), ("convnext_tiny", 64),
    ("vit_b_32", 224), ("swin_t", 64),
]  # fmt: skip


@pytest.mark.parametrize(("name", "size"), NETWORKS, ids=[name for name, _ in NETWORKS])
def test_torchvision(name: str, size: int) -> None:
    module = import_torchvision().models.get_model(name, weights=None, num_classes=10).eval()
    assert_agreement(name, trace_channels(module, images((1, 3, size, size), 1)), module)


class Around(nn.Module):
    """conv (3 -> 4), ``middle``, mean over space."""

    def __init__(self, middle: Callable[[Tensor, nn.Parameter], Tensor]) -> None:
        super().__init__()
        self.middle, self.conv = middle, nn.Conv2d(3, 4, 3, padding=1)
        self.weight = nn.Parameter(torch.zeros(2, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.middle(self.conv(x), self.weight)


# What multiplies beyond these kinds has no count of ours, and is named with how often it ran.
UNCOUNTED: dict[str, Callable[[Tensor, nn.Parameter], Tensor]] = {
    "bilinear form": lambda x, w: F.bilinear(x, x, w),
    "Fourier transform": lambda x, w: torch.fft.rfft2(x).abs(),
    "distances": lambda x, w: torch.cdist(x.flatten(2), x.flatten(2)),
    "inverse": lambda x, w: torch.linalg.inv(x @ x.transpose(-2, -1) + torch.eye(8, device=x.device)),
}


@pytest.mark.parametrize("middle", UNCOUNTED.values(), ids=UNCOUNTED.keys())
def test_what_has_no_count_is_named(middle: Callable[[Tensor, nn.Parameter], Tensor]) -> None:
    module = Around(middle).eval()
    randomise(module)
    example = images((1, 3, 8, 8), 1)
    outputs(module, example)
    cost = count_cost(trace_channels(module, example))
    assert sum(cost.uncounted.values()) == 1, cost.uncounted
