"""Plans side by side: flips, the front, and what goes to a file."""

from __future__ import annotations

import csv
import io
import random

import pytest
import torch

from core import (
    CoreError,
    columns_csv,
    compare_answers,
    flip_pictures,
    flips_csv,
    open_subject,
    pareto_front,
    plans_csv,
    seen_csv,
    seen_plans,
)
from core.measure.cost import count_cost
from core.records import Cost, ImageData, Plan
from core.show.comparison import GAINED, LOST, OTHER, classes_csv, note_of, widths_csv


def images(labels: list[int]) -> ImageData:
    pixels = torch.arange(len(labels), dtype=torch.float32).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2) / 10
    return ImageData(pixels, torch.tensor(labels), ("zero", "one", "two"), "made up", (0.0,), (1.0,))


def test_flips_are_told_apart() -> None:
    data = images([0, 1, 2, 2, 1])
    pair, flips = compare_answers(data, [0, 0, 2, 0, 1], [1, 1, 2, 1, 1])
    assert [(flip.image, flip.kind) for flip in flips] == [(0, LOST), (1, GAINED), (3, OTHER)]
    assert (flips[2].label, flips[2].before, flips[2].after) == ("two", "zero", "one")
    assert (pair.lost, pair.gained, pair.difference) == (1, 1, 0.0)
    assert pair.low < 0 < pair.high
    shown = flip_pictures(data, flips)
    assert shown[1].label == "one: zero → one"
    assert [int(one.pixels[0, 0, 0]) for one in shown] == [0, round(25.5), round(0.3 * 255)]
    assert list(csv.reader(io.StringIO(flips_csv(flips))))[1] == ["0", "zero", "zero", "one", "lost"]


def test_answers_to_other_images_are_refused() -> None:
    with pytest.raises(CoreError, match="Expected an answer to each of 2 selection images, found 1"):
        compare_answers(images([0, 1]), [0, 1], [0])


def test_the_front_is_what_nothing_beats() -> None:
    rng = random.Random(1)
    for _ in range(50):
        points = [(rng.randint(1, 8), rng.randint(1, 8)) for _ in range(rng.randint(0, 12))]
        beaten = {
            i
            for i, (cost, accuracy) in enumerate(points)
            for other in points
            if other[0] <= cost and other[1] >= accuracy and other != (cost, accuracy)
        }
        front = pareto_front(points)
        assert {points[i] for i in front} == {points[i] for i in range(len(points)) if i not in beaten}
        assert len({points[i] for i in front}) == len(front)
        assert front == sorted(front, key=lambda i: points[i][0])


def test_notes_come_back_for_their_own_network_only() -> None:
    subject = open_subject("demo/digits-vgg")
    group = subject.trace.prunable[0]
    plan = Plan({group.id: tuple(range(4))})
    removed, cost = {group.id: group.units - 4}, count_cost(subject.trace, plan)
    measured = {"accuracy": {"value": 0.9, "low": 0.8, "high": 0.95, "images": 360}, "latency": {"median_ms": 2.5}}
    note = note_of(measured, cost, subject=subject, removed=removed, repair="none", label="Half")
    (seen,) = seen_plans({"a": note, "b": {**note, "subject": "another"}, "export": {"plan": "x"}}, subject)
    assert seen.removed == removed and seen.costs["latency_ms"] == 2.5 and seen.costs["macs"] == cost.macs
    told = list(csv.DictReader(io.StringIO(seen_csv([seen], [0], {"a": "Mine"}))))
    assert told[0]["plan"] == "Mine" and told[0]["on_front"] == "1" and float(told[0]["accuracy"]) == 0.9
    widths = list(csv.DictReader(io.StringIO(widths_csv(subject.trace, {"A": removed, "B": {}}))))
    assert (widths[0]["A"], widths[0]["B"]) == ("4", str(group.units))


def test_plans_side_by_side_as_csv() -> None:
    cost = Cost(1000, 20, 80, {}, {})
    latency = {"median_ms": 2.5, "low_ms": 2.4, "high_ms": 2.9}
    found = {
        "accuracy": {"value": 0.9, "low": 0.8, "high": 0.95, "images": 360},
        "latency": latency,
        "dense_latency": {**latency, "median_ms": 5.0},
    }
    told = list(csv.DictReader(io.StringIO(plans_csv({"Half": (cost, found, "none"), "=New": (cost, {}, "none")}))))
    assert [float(told[0][name]) for name in ("accuracy", "low", "high", "images")] == [0.9, 0.8, 0.95, 360]
    assert [float(told[0][name]) for name in ("latency_ms", "latency_low_ms", "dense_latency_ms")] == [2.5, 2.4, 5.0]
    assert [told[1][name] for name in ("plan", "accuracy", "latency_ms", "macs")] == ["'=New", "", "", "1000"]


def test_a_class_without_images_is_an_empty_cell() -> None:
    assert classes_csv(["a", "b"], {"P": [0.5, float("nan")]}) == "class,P\na,0.5\nb,\n"


def test_a_table_of_columns_as_csv() -> None:
    assert columns_csv({"layer": ["a", "=b"], "units": [3, None]}) == "layer,units\na,3\n'=b,\n"
