"""Plans side by side: what each costs and gets right, where their answers part, and which are worth having.

Everything here is arithmetic on what was measured before: answers to the same selection images, in their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from core.errors import CoreError
from core.evaluate.compare import Paired, pair_answers
from core.keep.subject import Subject
from core.records import Cost, ImageData, Trace
from core.show.curves import write_csv
from core.show.inventory import Picture, images_as_pixels

LOST, GAINED, OTHER = "lost", "gained", "other"
COSTS = ("macs", "params", "size_bytes", "latency_ms")


@dataclass(frozen=True)
class Flip:
    """An image that two plans answer differently. ``image``: its place among the selection images. ``kind``: LOST was
    right and is wrong now, GAINED the reverse, OTHER wrong both times."""

    image: int
    label: str
    before: str
    after: str
    kind: str


@dataclass(frozen=True)
class SeenPlan:
    """A plan that was measured: ``accuracy`` with its 95 % interval on ``images`` selection images, ``costs`` by the
    names of COSTS (a latency that was not measured is absent), ``removed`` units per group."""

    key: str
    label: str
    removed: Mapping[str, int]
    repair: str
    accuracy: float
    low: float
    high: float
    images: int
    costs: Mapping[str, float]


def compare_answers(data: ImageData, before: Sequence[int], after: Sequence[int]) -> tuple[Paired, list[Flip]]:
    """What changes between two plans' answers to the images of ``data``, class numbers in their order.

    Raises CoreError when the answers are not to these images.
    """
    for answers in (before, after):
        if len(answers) != len(data):
            raise CoreError(
                f"Expected an answer to each of {len(data)} selection images, found {len(answers)}. Measure the plan "
                "again: its images have changed."
            )
    first, second, labels = torch.tensor(before), torch.tensor(after), data.labels
    flips = []
    for image in torch.nonzero(first != second).flatten().tolist():
        label, a, b = int(labels[image]), int(first[image]), int(second[image])
        kind = LOST if a == label else GAINED if b == label else OTHER
        flips.append(Flip(image, class_name(data, label), class_name(data, a), class_name(data, b), kind))
    return pair_answers(first == labels, second == labels), flips


def class_name(data: ImageData, number: int) -> str:
    """A network may have more outputs than the images have classes."""
    return data.classes[number] if 0 <= number < len(data.classes) else str(number)


def flip_pictures(data: ImageData, flips: Sequence[Flip]) -> list[Picture]:
    """Their images, each labelled "3: 3 → 8" (what it is: first answer → second)."""
    pixels = images_as_pixels(data, torch.tensor([flip.image for flip in flips], dtype=torch.int64))
    return [
        Picture(image, f"{flip.label}: {flip.before} → {flip.after}") for image, flip in zip(pixels, flips, strict=True)
    ]


def flips_csv(flips: Sequence[Flip]) -> str:
    """Every flip as CSV: its place among the selection images, class, both answers, kind."""
    lines: list[list[Any]] = [["selection_image", "class", "before", "after", "kind"]]
    return write_csv([*lines, *([one.image, one.label, one.before, one.after, one.kind] for one in flips)])


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Of (cost, accuracy) pairs those that no other one beats: cheaper and no worse, or better and no dearer. In order
    of cost; of equal ones the first."""
    order = sorted(range(len(points)), key=lambda number: (points[number][0], -points[number][1], number))
    front: list[int] = []
    for number in order:
        if not front or points[number][1] > points[front[-1]][1]:
            front.append(number)
    return front


def note_of(measured: Mapping[str, Any], cost: Cost, *, subject: Subject, removed: Mapping[str, int], repair: str,
            label: str) -> dict[str, Any]:  # fmt: skip
    """What a workspace keeps of a measured plan, as plain JSON; ``seen_plans`` reads it. measured: of ``evaluate_plan``
    with at least its accuracy."""
    fields = ("value", "low", "high", "images")
    note: dict[str, Any] = {"subject": subject.key, "label": label, "removed": dict(removed), "repair": repair}
    note["accuracy"] = {name: measured["accuracy"][name] for name in fields}
    note["costs"] = {"macs": cost.macs, "params": cost.params, "size_bytes": cost.size_bytes}
    if "latency" in measured:
        note["costs"]["latency_ms"] = measured["latency"]["median_ms"]
    return note


def seen_plans(notes: Mapping[str, Any], subject: Subject) -> list[SeenPlan]:
    """The plans of this very network and these images among a workspace's notes; what is no such note is left out."""
    found = []
    for key, note in notes.items():
        if isinstance(note, dict) and note.get("subject") == subject.key and "costs" in note:
            said = note["accuracy"]
            numbers = (said["value"], said["low"], said["high"], said["images"])
            found.append(SeenPlan(key, note["label"], note["removed"], note["repair"], *numbers, note["costs"]))
    return found


def plans_csv(plans: Mapping[str, tuple[Cost, Mapping[str, Any], str]]) -> str:
    """Plans side by side as CSV, a line each. plans: by name its cost, what ``evaluate_plan`` found of it ({} = nothing
    yet) and its repair. Accuracy in shares with its 95 % interval, times in ms with quartiles; what is not known is
    empty."""
    head = ["plan", "repair", "accuracy", "low", "high", "images", "latency_ms", "latency_low_ms", "latency_high_ms"]
    lines: list[list[Any]] = [[*head, "dense_latency_ms", "macs", "params", "size_bytes"]]
    for name, (cost, found, repair) in plans.items():
        accuracy, latency = found.get("accuracy", {}), found.get("latency", {})
        sure = [accuracy.get(field) for field in ("value", "low", "high", "images")]
        times = [latency.get(field) for field in ("median_ms", "low_ms", "high_ms")]
        dense = found.get("dense_latency", {}).get("median_ms")
        lines.append([name, repair, *sure, *times, dense, cost.macs, cost.params, cost.size_bytes])
    return write_csv(lines)


def seen_csv(seen: Sequence[SeenPlan], front: Sequence[int], names: Mapping[str, str]) -> str:
    """Every measured plan as CSV. front: numbers of those on the Pareto front. names: what plans are called, by key."""
    lines: list[list[Any]] = [["plan", "how", "repair", "accuracy", "low", "high", "images", *COSTS, "on_front"]]
    for number, one in enumerate(seen):
        costs = [one.costs.get(name, "") for name in COSTS]
        sure = [one.accuracy, one.low, one.high, one.images]
        lines.append([names.get(one.key, ""), one.label, one.repair, *sure, *costs, int(number in front)])
    return write_csv(lines)


def widths_csv(trace: Trace, plans: Mapping[str, Mapping[str, int]]) -> str:
    """Units kept in every group that may shrink, a column per plan. plans: removed units by group id, by name."""
    lines: list[list[Any]] = [["group", "units", *plans]]
    for group in trace.prunable:
        lines.append([group.id, group.units, *(group.units - removed.get(group.id, 0) for removed in plans.values())])
    return write_csv(lines)


def classes_csv(classes: Sequence[str], plans: Mapping[str, Sequence[float]]) -> str:
    """Accuracy per class, a column per plan; empty where a class has no image."""
    rows = [[name, *("" if one[i] != one[i] else one[i] for one in plans.values())] for i, name in enumerate(classes)]
    return write_csv([["class", *plans], *rows])
