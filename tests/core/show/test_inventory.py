"""Rows and pictures a page shows as they stand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core.load import load_data, load_model
from core.measure.cost.counts import count_cost
from core.records import ImageData, Plan, Trace
from core.show.inventory import class_counts, layer_rows, part_sizes, sample_pictures, summarise_trace
from core.trace import trace_channels


@pytest.fixture(scope="module")
def resnet() -> Trace:
    loaded = load_model("cifar/resnet20")
    return trace_channels(loaded.module, loaded.example)


def test_layers_say_kind_group_and_widths_before_and_after(resnet: Trace) -> None:
    group = next(group for group in resnet.prunable if len(group.layers) == 1)
    plan = Plan({group.id: tuple(range(group.units // 2))})
    rows = {row.layer: row for row in layer_rows(resnet, plan)}
    producer, consumer = rows[group.layers[0]], rows[group.consumers[0]]
    assert producer.kind.startswith("conv 3 x 3")
    assert (producer.group, producer.prunable, producer.reason) == (group.name, True, "")
    assert producer.planned.out_channels == producer.dense.out_channels // 2
    assert consumer.planned.in_channels == consumer.dense.in_channels // 2
    assert sum(row.planned.macs for row in rows.values()) == count_cost(resnet, plan).macs
    assert len(rows) < len(layer_rows(resnet, norms=True))


def test_the_output_layer_says_why_it_is_locked(resnet: Trace) -> None:
    last = layer_rows(resnet)[-1]
    assert (last.kind, last.prunable) == ("linear", False)
    assert "output" in last.reason
    found = summarise_trace(resnet)
    assert found.prunable == len(resnet.prunable) < found.groups
    assert found.locked["feeds the output"] == 10
    assert sum(found.locked.values()) == found.channels - found.prunable_channels


def test_pictures_undo_the_normalisation_and_visit_every_class() -> None:
    pixels = torch.randint(0, 256, (12, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    images = (pixels.float() / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    labels = torch.tensor([0] * 9 + [1, 1, 2])
    data = ImageData(images, labels, ("a", "b", "c"), "test", mean, std, {"report": torch.arange(3)})
    shown = sample_pictures(data, 5)
    assert [picture.label for picture in shown] == ["a", "b", "c", "a", "b"]
    assert np.array_equal(shown[1].pixels, pixels[9].permute(1, 2, 0).numpy())
    assert class_counts(data) == {"a": 9, "b": 2, "c": 1}
    assert part_sizes(data) == {"report": 3}


def test_grey_images_are_shown_grey() -> None:
    picture = sample_pictures(load_data("digits", limit=30), 1)[0]
    assert picture.pixels.shape == (32, 32, 3)
    assert np.array_equal(picture.pixels[..., 0], picture.pixels[..., 2])
