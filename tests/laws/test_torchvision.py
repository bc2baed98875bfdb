"""The laws on networks people use, from torchvision, with random weights (nothing is downloaded)."""

from __future__ import annotations

import pytest
import torch

from core.apply.surgery import mask_model, max_relative_error, prune_model
from core.load.torchvision_guard import import_torchvision
from core.measure.cost.counts import cost_terms, count_cost
from core.trace import trace_channels
from tests.zoo import images, outputs, random_plan, randomise, settle

NETWORKS = [
    ("resnet18", 64, {}),
    ("mobilenet_v3_small", 64, {}),
    ("shufflenet_v2_x0_5", 64, {}),
    ("densenet121", 64, {}),
    ("squeezenet1_1", 64, {}),
    ("googlenet", 64, {"aux_logits": False, "transform_input": False}),
    ("efficientnet_b0", 64, {}),
    ("convnext_tiny", 64, {}),
    ("regnet_y_400mf", 64, {}),
    ("mnasnet0_5", 64, {}),
    ("alexnet", 64, {}),
    ("swin_t", 64, {}),
]


@pytest.mark.parametrize(("name", "size", "options"), NETWORKS, ids=[name for name, _, _ in NETWORKS])
def test_laws_hold(name: str, size: int, options: dict[str, bool]) -> None:
    options = {"init_weights": False, **options} if name == "googlenet" else options
    module = import_torchvision().models.get_model(name, weights=None, num_classes=10, **options).eval()
    randomise(module, 3)
    settle(module, images((1, 3, size, size), 8, 6))
    example = images((1, 3, size, size), 1, 7)
    trace = trace_channels(module, example)
    assert trace.prunable and (not trace.unknown or name == "swin_t")  # its position tables have no rule
    batch = images((1, 3, size, size), 3, 8)
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
