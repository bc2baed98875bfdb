"""A channel's portrait: against hooks on the real network, and Integrated Gradients against its own axiom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core import (
    Plan,
    Subject,
    filter_mosaics,
    load_data,
    open_subject,
    plan_uniform,
    prune_model,
    score_channels,
    sights,
)
from core.errors import Cancelled, MeasureError
from core.measure.portrait import MAP_EDGE, MOST_INPUTS, places, portray, smaller, unit_filters
from core.records import ImageData
from core.show.portraits import packed, portrait_images, portray_plan, unpacked
from core.trace import trace_channels
from tests.untouched import same, state_of

DENSE = Plan({})


@pytest.fixture(scope="module")
def subject() -> Subject:
    return open_subject("demo/digits-resnet")


@pytest.fixture(scope="module")
def few(subject: Subject) -> ImageData:
    return subject.data.selection.take(torch.arange(24))


def seen_by(module: nn.Module, layer: str, images: Tensor) -> Tensor:
    """What a layer is given, by an ordinary hook."""
    given: list[Tensor] = []
    hook = module.get_submodule(layer).register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.no_grad():
        module(images)
    hook.remove()
    return given[-1]


def test_maps_and_rankings_are_what_the_reader_is_given(subject: Subject, few: ImageData) -> None:
    group = subject.trace.group("stage1.0.conv1")
    before = state_of(subject.loaded.module)
    found = portray(subject.trace, few, group.id, 5, batch_size=7)
    assert same(before, state_of(subject.loaded.module))
    truth = seen_by(subject.loaded.module, "stage1.0.conv2", few.images)[:, 5].double()
    assert found.place == "stage1.0.conv2" and found.size == tuple(truth.shape[1:])
    assert torch.allclose(found.mean_map, truth.mean(0), atol=1e-5)
    assert torch.allclose(found.means, truth.mean((1, 2)), atol=1e-5)
    assert torch.allclose(found.peaks, truth.amax((1, 2)), atol=1e-5)
    assert [one.image for one in found.by_mean] == truth.mean((1, 2)).argsort(descending=True)[:5].tolist()
    assert [one.image for one in found.by_peak] == truth.amax((1, 2)).argsort(descending=True)[:5].tolist()
    for one in found.by_peak:
        assert torch.allclose(one.activation.double(), truth[one.image], atol=1e-5)
        assert one.value == pytest.approx(float(truth[one.image].max()), abs=1e-5)


def test_each_place_of_a_residual_stream_is_its_own(subject: Subject, few: ImageData) -> None:
    group = subject.trace.group("stem.0")
    known = places(subject.trace, group)
    assert known == ("stage1.0.conv1", "stage1.1.conv1", "stage2.0.conv1")
    maps = [portray(subject.trace, few, group.id, 3, place=place, top=1, steps=2).mean_map for place in known]
    for place, found in zip(known, maps, strict=True):
        truth = seen_by(subject.loaded.module, place, few.images)[:, 3].double().mean(0)
        assert torch.allclose(found, truth, atol=1e-5)
    assert not torch.allclose(maps[0], maps[2], atol=1e-3)


def test_attributions_add_up_to_the_excitement(subject: Subject, few: ImageData) -> None:
    """Completeness (Sundararajan, Taly, Yan 2017, proposition 1): the sum is F(x) - F(baseline)."""
    group = subject.trace.group("stage1.1.conv1")
    found = portray(subject.trace, few, group.id, 2, top=3, steps=200)
    grey = seen_by(subject.loaded.module, "stage1.1.conv2", torch.zeros_like(few.images[:1]))[:, 2]
    for ranked, start in ((found.by_mean, grey.mean()), (found.by_peak, grey.max())):
        for one in ranked:
            assert float(one.looked_at.sum()) == pytest.approx(one.value - float(start), abs=0.01 * one.value)
            assert one.missing < 0.01
            assert one.looked_at.shape == few.images.shape[2:]


def test_attributions_of_a_linear_unit_are_weight_times_input() -> None:
    """Where the unit is linear in the image, Integrated Gradients is exact at any number of steps."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    images = torch.randn(6, 1, 7, 9, generator=torch.Generator().manual_seed(1))
    data = ImageData(images, torch.arange(6) % 2, ("a", "b"), "noise", (0.0,), (1.0,))
    trace = trace_channels(net, images[:1])
    (group,) = trace.prunable
    found = portray(trace, data, group.id, 1, top=2, steps=1)
    kernel = net[0].weight[1, 0].detach()
    for one in found.by_mean:
        inside = images[one.image, 0, 1:-1, 1:-1] * kernel.sum() / 63  # every weight meets an inner pixel once
        assert torch.allclose(one.looked_at[1:-1, 1:-1], inside, atol=1e-6)


def test_filters_are_the_units_own_weights(subject: Subject) -> None:
    state = subject.loaded.module.state_dict()
    found = unit_filters(subject.trace, subject.trace.group("stage2.0.conv2"), 7)
    assert [one.layer for one in found][:2] == ["stage2.0.conv2", "stage2.0.shortcut.0"]
    for one in found:
        assert torch.equal(one.kernels, state[one.tensor][7]) and one.inputs == tuple(range(one.of)) and one.rows == 1


def test_only_the_largest_kernels_of_a_wide_filter_are_kept() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(400, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    trace = trace_channels(net, torch.randn(1, 1, 20, 20))
    (group,) = trace.prunable
    (found,) = unit_filters(trace, group, 2)
    weights = net[1].weight[2].detach()
    assert found.of == 400 and len(found.inputs) == MOST_INPUTS and list(found.inputs) == sorted(found.inputs)
    assert set(found.inputs) == set(weights.abs().argsort(descending=True)[:MOST_INPUTS].tolist())
    assert torch.equal(found.kernels.flatten(), weights[list(found.inputs)])


def test_a_unit_without_places_in_space_has_no_map() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    images = torch.randn(8, 1, 4, 4)
    trace = trace_channels(net, images[:1])
    data = ImageData(images, torch.arange(8) % 2, ("a", "b"), "noise", (0.0,), (1.0,))
    found = portray(trace, data, trace.prunable[0].id, 0, top=2, steps=2)
    assert found.size is None and found.mean_map is None and found.by_mean[0].activation is None
    assert torch.equal(found.means, found.peaks)


@pytest.mark.parametrize("share", [0.5, 0.97])
def test_after_a_plan_it_is_the_pruned_networks_own_unit(subject: Subject, few: ImageData, share: float) -> None:
    """Also where a layer keeps one channel only. The pruned network is asked by a hook, at the unit's new place."""
    scores = score_channels(subject.trace, None, "weight-l2")
    plan = plan_uniform(subject.trace, scores, share)
    pruned = prune_model(subject.loaded.module, subject.trace, plan)
    for group_id, reader in (("stem.0", "stage2.0.conv1"), ("stage3.1.conv1", "stage3.1.conv2")):
        unit = plan.kept[group_id][-1]
        found = portray_plan(subject, few, group_id, unit, "", plan, "none", top=2, steps=2)
        place = plan.kept[group_id].index(unit)
        truth = seen_by(pruned, reader, few.images)[:, place].double()
        assert torch.allclose(torch.tensor(found["mean_map"], dtype=torch.float64), truth.mean(0), atol=1e-4)
        assert found["means"] == pytest.approx(truth.mean((1, 2)).tolist(), abs=1e-4)


def test_after_a_plan_filters_keep_the_numbers_of_their_inputs(subject: Subject, few: ImageData) -> None:
    plan = plan_uniform(subject.trace, score_channels(subject.trace, None, "weight-l2"), 0.5)
    unit = plan.kept["stage1.0.conv1"][0]
    before, after = (
        portray_plan(subject, few, "stage1.0.conv1", unit, "", one, "none", top=1, steps=1)["filters"][0]
        for one in (DENSE, plan)
    )
    assert after["inputs"] == list(plan.kept["stem.0"])
    for place, name in enumerate(after["inputs"]):
        assert after["kernels"][place] == before["kernels"][name]
    dense, left = filter_mosaics(before, after)
    assert left is not None and left.left == 32 - len(plan.kept["stem.0"]) and dense.left == 0
    drawn = {(value, name) for row, names in zip(left.values, left.inputs, strict=True)
             for value, name in zip(row, names, strict=True) if value is not None}  # fmt: skip
    assert {name for _, name in drawn} == set(after["inputs"])
    assert sum(value is not None for row in dense.values for value in row) == 32 * 9


def test_a_repaired_network_is_looked_at_as_repaired(subject: Subject, few: ImageData) -> None:
    plan = plan_uniform(subject.trace, score_channels(subject.trace, None, "weight-l2"), 0.5)
    unit = plan.kept["stage3.0.conv1"][0]
    quick = replace(subject, data=load_data("digits", limit=200))  # what it is repaired on
    cut, mended = (
        portray_plan(quick, few, "stage3.0.conv1", unit, "", plan, repair, top=1, steps=1)["means"]
        for repair in ("none", "least-squares")
    )
    assert cut != pytest.approx(mended, rel=1e-3)


def test_same_again(subject: Subject, few: ImageData) -> None:
    first, again = (portray_plan(subject, few, "stem.0", 1, "", DENSE, "none", top=2, steps=3) for _ in range(2))
    assert first == again


def test_what_does_not_exist_is_said_in_words(subject: Subject, few: ImageData) -> None:
    with pytest.raises(MeasureError, match="channels 0 to 31; found 32"):
        portray(subject.trace, few, "stem.0", 32)
    with pytest.raises(MeasureError, match=r"is read by stage1\.0\.conv1, .*found 'fc'"):
        portray(subject.trace, few, "stem.0", 0, place="fc")
    with pytest.raises(MeasureError, match=r"removes channel 0 of stem\.0"):
        portray_plan(subject, few, "stem.0", 0, "", Plan({"stem.0": (1, 2)}), "none")
    with pytest.raises(MeasureError, match="at least one image"):
        portray(subject.trace, few.take(torch.arange(0)), "stem.0", 0)


@pytest.mark.parametrize("calls", [1, 4, 9])
def test_a_cancel_leaves_nothing_behind(subject: Subject, few: ImageData, calls: int) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked >= calls

    before = state_of(subject.loaded.module)
    with pytest.raises(Cancelled):
        portray(subject.trace, few, "stem.0", 0, cancelled=stop, batch_size=8)
    assert asked == calls and same(before, state_of(subject.loaded.module))


def test_progress_rises_to_the_end(subject: Subject, few: ImageData) -> None:
    told: list[float] = []
    note: Callable[..., Any] = lambda fraction, message: told.append(fraction)  # noqa: E731
    portray(subject.trace, few, "stem.0", 0, batch_size=8, on_progress=note)
    assert told == sorted(told) and told[-1] == pytest.approx(1.0)


def test_maps_are_packed_into_bytes_and_bounded() -> None:
    raster = torch.randn(9, 13, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(unpacked(packed(raster)), raster, atol=float(raster.abs().max()) / 254 + 1e-6)
    assert torch.equal(unpacked(packed(torch.zeros(2, 3))), torch.zeros(2, 3))
    big = torch.rand(224, 112)
    assert smaller(big, MAP_EDGE).shape == (56, 56) and float(smaller(big, MAP_EDGE).mean()) == pytest.approx(
        float(big.mean()), abs=1e-6
    )


def test_pictures_are_grey_but_for_the_map(subject: Subject) -> None:
    data = portrait_images(subject.data).take(torch.arange(16))
    found = portray_plan(subject, data, "stem.0", 4, "", DENSE, "none", top=3, steps=2)
    for row in found["by_mean"]:
        row["looked_at"] = packed(torch.zeros(32, 32))
    drawn = sights(subject, found, "mean")
    assert [one.rank for one in drawn] == [1, 2, 3] and len(drawn) == 3
    for one, row in zip(drawn, found["by_mean"], strict=True):
        assert one.label == data.classes[int(data.labels[row["image"]])] and one.value == row["value"]
        assert one.looked_at.shape == (128, 128, 3) and bool((np.ptp(one.looked_at, axis=2) == 0).all())
    strongest = drawn[0].activation
    assert strongest is not None and int(np.ptp(strongest, axis=2).max()) > 120
