"""How much of a network a lesson looks at: all of it where that takes seconds on one processor; of a large one less,
which the lesson's texts say."""

from __future__ import annotations

import torch

from core.errors import CoreError
from core.keep.subject import Subject
from core.measure.cost import count_cost
from core.records import Group, ImageData, Trace

LARGE = 4e8  # multiply-adds per image
MOST = 8e9  # beyond, even eight images a few times over take minutes


def macs_of(subject: Subject) -> int:
    """Multiply-adds of one image, at least 1."""
    return max(1, count_cost(subject.trace).macs)


def is_large(subject: Subject) -> bool:
    """Whether lessons look at less of this network."""
    return macs_of(subject) > LARGE


def refuse_giants(subject: Subject, why: str) -> None:
    """Raises CoreError with ``why`` for a network on which a lesson that runs it often would take minutes."""
    if macs_of(subject) > MOST:
        raise CoreError(
            f"{why}; a network of this size ({macs_of(subject) / 1e9:.0f} billion multiply-adds for one image) would "
            "take many minutes. Open a smaller one, a demo for example, or the same one on smaller images."
        )


def refuse_untrained(subject: Subject, why: str) -> None:
    """Raises CoreError with ``why`` where accuracy means nothing: random weights, or random images."""
    if subject.loaded.weights is None or not subject.real_images:
        raise CoreError(f"{why} Open a trained network with its own images.")


def macs_behind(trace: Trace) -> dict[str, int]:
    """Group id -> multiply-adds of one image from the group's first reader on: what runs again when one of its channels
    is hidden. 0 for a group that no layer reads."""
    order: dict[str, int] = {}
    for place, step in enumerate(trace.tape.steps):
        for slot in step.reads:
            if slot in trace.tape.state:
                order.setdefault(trace.tape.state[slot].rpartition(".")[0], place)
    costs = {name: cost.macs for name, cost in count_cost(trace).per_layer.items()}
    found = {}
    for group in trace.groups:
        readers = [order[one.layer] for one in group.by_role("consumer") if one.layer in order]
        first = min(readers, default=len(trace.tape.steps))
        found[group.id] = sum(macs for name, macs in costs.items() if order.get(name, -1) >= first)
    return found


def images_of_classes(part: ImageData, each: int, most: int, least: int) -> ImageData:
    """The first ``each`` images of as many classes as ``most`` images allow, two at least, those with the most images
    first; classes with fewer than ``least`` images are left out."""
    seen = torch.bincount(part.labels)
    order = torch.argsort(seen, descending=True, stable=True).tolist()
    classes = [number for number in order if seen[number] >= least][: max(2, most // each)]
    places = [(part.labels == number).nonzero()[:each, 0] for number in classes]
    return part.take(torch.cat(places).sort().values) if places else part.take(torch.arange(0))


def spread(items: list[Group], count: int) -> list[Group]:
    """``count`` of them, evenly spread, the first and the last among them; all where there are no more."""
    if len(items) <= count:
        return items
    places = torch.linspace(0, len(items) - 1, count).round().long().tolist()
    return [items[place] for place in places]
