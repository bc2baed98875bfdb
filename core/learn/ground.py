"""What the facts of several lessons stand on: a group to learn on, as many images as take seconds, what readers see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from core.errors import CoreError
from core.keep.shelf import find_result
from core.keep.store import open_store
from core.keep.subject import Subject
from core.measure.cost import count_cost
from core.measure.importance import score_channels
from core.measure.importance.criteria import Request
from core.measure.importance.moments import Reading, score_by_readings
from core.measure.importance.oracle import unit_losses
from core.records import Group, ImageData, Scores, Trace
from core.trace.copies import named_state
from core.work.tasks import Progress, Stop, score_subject

Facts = dict[str, Any]
MOST_UNITS = 64  # of the group that a lesson takes: every channel of it is tried or drawn
IMAGES, LEAST_IMAGES = 128, 16
LOSS_MACS = 1e11  # for a lesson's true losses: about two seconds of one processor
READ_MACS = 2e10  # for a walk over images


def middle_group(trace: Trace) -> Group:
    """A prunable group to learn on: with readers, with few enough units, from the last third of the network, where
    trying every channel costs little."""
    groups = [group for group in trace.prunable if group.gather_of is None and group.by_role("consumer")]
    small = [group for group in groups if 4 <= group.units <= MOST_UNITS] or groups or list(trace.prunable)
    return small[2 * len(small) // 3]


def read_group(trace: Trace) -> Group:
    """A group to watch a choice on: if possible one that a single layer reads, with few enough units to draw.

    Raises CoreError where no layer reads what may leave."""
    groups = [group for group in trace.prunable if group.by_role("consumer") and group.units >= 4]
    if not groups:
        raise CoreError(
            "This lesson watches how channels are chosen for the layer that reads them; no group of this network has "
            "four channels that may leave and a layer that reads them. Open another network."
        )
    alone = [group for group in groups if group.gather_of is None and len(group.consumers) == 1]
    some = alone or groups
    small = [group for group in some if group.units <= MOST_UNITS] or [min(some, key=lambda group: group.units)]
    return small[2 * len(small) // 3]


def images_within(part: ImageData, macs_per_image: float, budget: float, most: int | None = None) -> ImageData:
    """The first images of ``part``: as many, from LEAST_IMAGES to ``most`` (IMAGES), as ``budget``
    multiply-adds allow."""
    count = max(LEAST_IMAGES, min(most or IMAGES, int(budget / max(1.0, macs_per_image))))
    return part.take(torch.arange(min(count, len(part))))


def images_for_losses(subject: Subject, group: Group) -> ImageData:
    """Calibration images on which the true loss of every channel of ``group`` takes seconds."""
    return images_within(subject.data.calibration, count_cost(subject.trace).macs * group.units, LOSS_MACS)


def true_losses(subject: Subject, group: Group, on_progress: Progress | None, cancelled: Stop | None) -> Tensor:
    """What the loss really does when each unit alone is hidden, in nats: the oracle of one group, float64 (units,)."""
    few = images_for_losses(subject, group)
    return unit_losses(subject.trace, few, group, on_progress=on_progress, cancelled=cancelled)


def known_scores(subject: Subject, criterion: str, cancelled: Stop | None = None) -> Scores:
    """Scores of all channels as the pages have them: those that are kept, or scored now."""
    found = find_result(open_store(), "score", subject, criterion=criterion)
    return Scores.from_dict(found) if found else score_subject(subject, criterion, cancelled=cancelled)


def readings_of(
    subject: Subject, group: Group, on_progress: Progress | None, cancelled: Stop | None, *, rows_per_input: int = 0
) -> tuple[list[Reading], int]:
    """What each layer that reads ``group`` sees of it on calibration images, and how many images those were.

    The moments are those of the criteria "lasso" and (with ``rows_per_input`` 8) "cap". Raises CoreError where nothing
    comes through, or numbers are not finite."""
    few = images_within(subject.data.calibration, count_cost(subject.trace).macs, READ_MACS)
    found: list[Reading] = []

    def keep(_: Group, readings: Sequence[Reading]) -> Tensor:
        found.extend(readings)
        return torch.zeros(group.units, dtype=torch.float64)

    part = replace(subject.trace, groups=(group,))
    request = Request(part, few, 0, 64, {"positions": None}, on_progress, cancelled)
    score_by_readings(request, "The lesson", keep, rows_per_input=rows_per_input)
    if not found:
        raise CoreError(
            f"Nothing comes through the channels of {group.name} on these images, so there is nothing to choose from. "
            "Open a trained network."
        )
    return found, len(few)


def contributions(readings: Sequence[Reading], units: int) -> Tensor:
    """float64 (units, units): entry (u, v) is what u adds to the readers' outputs times what v adds, on average, as a
    share of each reader's energy."""
    total = torch.zeros(units, units, dtype=torch.float64)
    for reading in readings:
        gram = reading.contribution_gram(units)
        total += (gram + gram.T) / (2 * reading.energy)
    return total


def names_of(readings: Sequence[Reading]) -> str:
    """The layers that read, for a sentence."""
    return ", ".join(dict.fromkeys(reading.weight.rpartition(".")[0] for reading in readings))


def filter_norms(subject: Subject, group: Group) -> Tensor:
    """The L2 norm of each unit's filters, as the page Channels shows it, float64 (units,)."""
    return score_channels(subject.trace, None, "weight-l2").scores[group.id]


def filters_of(subject: Subject, group: Group) -> tuple[Tensor, Tensor]:
    """The weight of the first layer that makes the group's channels, its outputs first: (outputs, ...), and the unit
    that each output belongs to, int64 (outputs,)."""
    maker = group.by_role("producer")[0]
    weight = named_state(subject.loaded.module)[maker.tensor].detach().movedim(maker.dim, 0)
    return weight, maker.unit_of
