"""The laws on networks people use, from torchvision, with random weights (nothing is downloaded).

One of every family, at the smallest input that it takes. ``make bench-trace`` runs all 80.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from core.apply.surgery import mask_model, max_relative_error, prune_model
from core.load.torchvision_guard import import_torchvision
from core.measure.cost.counts import cost_terms, count_cost
from core.records import Trace
from core.trace import trace_channels
from tests.live import gradients
from tests.zoo import images, outputs, random_plan, randomise, settle


@dataclass(frozen=True)
class Published:
    """``size``: of the images. ``heads``: attention heads of a layer -> how many layers have so many."""

    name: str
    size: int
    options: Mapping[str, Any] = field(default_factory=dict)
    heads: Mapping[int, int] = field(default_factory=dict)

    def build(self) -> nn.Module:
        module: nn.Module = import_torchvision().models.get_model(
            self.name, weights=None, num_classes=10, **self.options
        )
        randomise(module, 3)
        return module.eval()


# Blocks per stage 2, 2, 6, 2 with 3, 6, 12, 24 heads.
SWIN_HEADS = {3: 2, 6: 2, 12: 6, 24: 2}
NETWORKS = [
    Published("squeezenet1_1", 32),
    Published("resnext50_32x4d", 32),
    Published("densenet121", 32),
    Published("googlenet", 32, {"init_weights": False, "transform_input": False}),
    Published("inception_v3", 75, {"init_weights": False, "transform_input": False}),
    Published("shufflenet_v2_x0_5", 32),
    Published("mobilenet_v3_small", 32),
    Published("efficientnet_b0", 32),
    Published("regnet_y_400mf", 32),
    Published("convnext_tiny", 32),
    Published("vit_b_32", 64, {"image_size": 64}, {12: 12}),
    Published("swin_t", 32, {}, SWIN_HEADS),
    Published("swin_v2_t", 32, {}, SWIN_HEADS),
    # 7 x 7 windows at 1/32 of the size: nothing under 224 fits. Two attentions per block, 2, 2, 5, 2 blocks.
    Published("maxvit_t", 224, {}, {2: 4, 4: 4, 8: 10, 16: 4}),
]


def attention_heads(trace: Trace) -> dict[int, int]:
    """Units of a prunable group that feeds attention -> how many such groups."""
    found: Counter[int] = Counter()
    for group in trace.prunable:
        tables = [member.tensor for member in group.by_role("producer")]
        if any(part in name for name in tables for part in ("qkv", "in_proj", "to_qkv")):
            found[group.units] += 1
    return dict(found)


@pytest.mark.parametrize("net", NETWORKS, ids=lambda net: net.name)
def test_laws_hold(net: Published) -> None:
    module = net.build()
    settle(module, images((1, 3, net.size, net.size), 4 if net.size < 100 else 2, 6))
    example = images((1, 3, net.size, net.size), 1, 7)
    trace = trace_channels(module, example)
    assert trace.prunable and not trace.unknown
    assert attention_heads(trace) == dict(net.heads)
    batch = images((1, 3, net.size, net.size), 2, 8)
    plan = random_plan(trace, 0.5, 4)
    pruned, masked = prune_model(module, trace, plan, verify=False), mask_model(module, trace, plan)
    found, expected = outputs(pruned, batch), outputs(masked, batch)
    assert max_relative_error(found, expected) < 1e-4
    assert all(torch.isfinite(answer).all() for answer in found)
    # Degenerate outputs would make the law easy: pictures must differ in their answers.
    assert float((found[0].std(dim=0) / found[0].abs().mean()).max()) > 1e-3
    predicted = count_cost(trace, plan)
    assert predicted == count_cost(trace_channels(pruned, example))
    assert predicted.params == sum(parameter.numel() for parameter in pruned.parameters())
    kept = {group.id: len(plan.kept[group.id]) for group in trace.prunable}
    for quantity in ("macs", "params"):
        value = sum(coef * kept.get(a, 1) * kept.get(b, 1) for coef, a, b in cost_terms(trace, quantity))
        assert value == pytest.approx(getattr(predicted, quantity), rel=1e-9)


def test_heads_that_only_train_follow() -> None:
    """GoogLeNet's auxiliary heads do not run in eval mode, where it is traced; they must fit the trunk all the same."""
    module = Published("googlenet", 64, {"init_weights": False, "transform_input": False}).build()
    batch = images((1, 3, 64, 64), 2, 8)
    trace = trace_channels(module, batch[:1])
    pruned = prune_model(module, trace, random_plan(trace, 0.5, 4))
    assert pruned.aux1.conv.conv.in_channels < module.aux1.conv.conv.in_channels
    assert gradients(pruned, batch) == gradients(module, batch)


def test_a_detection_backbone() -> None:
    """ResNet-18 with a feature pyramid: five maps by name."""
    detection = import_torchvision().models.detection
    module = detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, trainable_layers=5, norm_layer=nn.BatchNorm2d
    ).eval()
    randomise(module, 3)
    batch = images((1, 3, 64, 64), 2, 8)
    settle(module, batch)
    trace = trace_channels(module, batch[:1])
    assert trace.group("fpn.inner_blocks.3.0").units == 256
    for plan in (random_plan(trace, 0.5, 4), random_plan(trace, 0.75, 5)):
        pruned, masked = prune_model(module, trace, plan), mask_model(module, trace, plan)
        assert max_relative_error(outputs(pruned, batch), outputs(masked, batch)) < 1e-4
        assert list(pruned(batch)) == list(module(batch)) == ["0", "1", "2", "3", "pool"]
        assert count_cost(trace, plan) == count_cost(trace_channels(pruned, batch[:1]))
