"""The oracle against its definition: mask each single unit in a copy, and evaluate everything."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.apply.surgery import mask_model
from core.errors import Cancelled, MeasureError
from core.measure.importance import score_channels
from core.records import Group, ImageData, Plan, Trace
from tests.core.measure.pictured import zoo_subject
from tests.zoo import ZOO, images

NETS = ("ResidualProjection", "DenseBlock", "InvertedResidual", "Plain", "ChannelShuffle", "TokenBlock")


def mean_loss(module: nn.Module, data: ImageData) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(module(data.images), data.labels))


def naive(module: nn.Module, trace: Trace, group: Group, data: ImageData) -> Tensor:
    dense, changes = mean_loss(module, data), []
    for unit in range(group.units):
        kept = tuple(other for other in range(group.units) if other != unit)
        changes.append(mean_loss(mask_model(module, trace, Plan({group.id: kept})), data) - dense)
    return torch.tensor(changes, dtype=torch.float64)


@pytest.mark.parametrize("name", NETS)
def test_scores_are_the_changes_of_masked_copies(name: str) -> None:
    module, data, trace = zoo_subject(name)
    scores = score_channels(trace, data, "oracle", batch_size=4, gathers=True).scores
    changed = 0
    for group in (*trace.prunable, *trace.gathers):
        if group.prunable and group.units > 1:
            expected = naive(module, trace, group, data)
            torch.testing.assert_close(scores[group.id], expected, rtol=1e-9, atol=1e-12, msg=group.id)
            changed += int((expected.abs() > 1e-6).sum())
    assert changed > 5


def test_batches_are_alike_and_the_last_ones_surplus_does_not_count() -> None:
    _, data, trace = zoo_subject("Plain")
    count = len(data)
    whole = score_channels(trace, data, "oracle", batch_size=count).scores
    for size in (1, count // 2, count - 1):
        parts = score_channels(trace, data, "oracle", batch_size=size).scores
        for name, values in whole.items():
            torch.testing.assert_close(parts[name], values, rtol=1e-9, atol=1e-12)


def test_a_network_that_cannot_be_run_in_parts() -> None:
    name = next(net.name for net in ZOO.values() if not net.replays and net.groups)
    module, data, trace = zoo_subject(name)
    scores = score_channels(trace, data, "oracle").scores
    for group in trace.prunable:
        torch.testing.assert_close(scores[group.id], naive(module, trace, group, data), rtol=1e-9, atol=1e-12)


def test_absolute_and_squared_and_gathers_by_their_sources() -> None:
    _, data, trace = zoo_subject("DenseBlock")
    signed = score_channels(trace, data, "oracle").scores
    absolute = score_channels(trace, data, "oracle", change="absolute").scores
    squared = score_channels(trace, data, "oracle", change="squared").scores
    own = score_channels(trace, data, "oracle", gathers=True).scores
    assert any(bool((values < 0).any()) for values in signed.values())  # some units do harm on these images
    for name, values in signed.items():
        assert torch.equal(absolute[name], values.abs()) and torch.equal(squared[name], values.square())
    everywhere = torch.cat([signed["c0"], signed["c1"]])
    assert torch.equal(signed["gather:c2"], everywhere) and not torch.equal(own["gather:c2"], everywhere)
    assert torch.equal(own["c0"], signed["c0"])


def test_a_unit_that_nothing_depends_on_scores_zero() -> None:
    module: Any
    module, data, trace = zoo_subject("Plain")
    with torch.no_grad():
        module.fc.weight[:, 8:12] = 0  # the four features of unit 2
    scores = score_channels(trace, data, "oracle").scores
    assert float(scores["conv2"][2]) == 0 and int((scores["conv2"] == 0).sum()) == 1
    assert scores["fc"].tolist() == [0.0] * 5  # nothing reads the outputs


def test_bit_equal_whatever_happened_before() -> None:
    module, data, trace = zoo_subject("ResidualProjection")
    before = copy.deepcopy(module.state_dict())
    first = score_channels(trace, data, "oracle", seed=3).scores
    torch.rand(3)
    again = score_channels(trace, data, "oracle", seed=3).scores
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_cancelled_within_a_batch_and_wrong_questions() -> None:
    module, data, trace = zoo_subject("Plain")
    asked = iter(range(1000))
    with pytest.raises(Cancelled):
        score_channels(trace, data, "oracle", cancelled=lambda: next(asked) == 5)
    assert next(asked) < 20  # it stopped there, not at the end of the batch
    with pytest.raises(MeasureError, match="batch_size"):
        score_channels(trace, data, "oracle", batch_size=0)
    with pytest.raises(MeasureError, match=r"change.*signed, absolute, squared"):
        score_channels(trace, data, "oracle", change="relative")
    beyond = ImageData(data.images, data.labels + 5, data.classes, "other", data.mean, data.std)
    with pytest.raises(MeasureError, match="labels up to"):
        score_channels(trace, beyond, "oracle")
    wrong = ImageData(images((1, 5, 9, 9), 4).double(), data.labels[:4], data.classes, "wrong", data.mean, data.std)
    with pytest.raises(MeasureError, match="oracle"):
        score_channels(trace, wrong, "oracle")
    assert not module.training and all(parameter.grad is None for parameter in module.parameters())
