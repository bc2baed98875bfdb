"""What the facts of several lessons stand on: a group to learn on, as many images as take seconds, what readers see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from core.errors import Cancelled, CoreError
from core.keep.shelf import find_result
from core.keep.store import open_store
from core.keep.subject import Subject
from core.learn.afford import macs_behind, macs_of
from core.measure.forks import ForkEngine, Latch
from core.measure.importance import score_channels
from core.measure.importance.criteria import CRITERIA, Request
from core.measure.importance.moments import Reading, score_by_readings
from core.measure.importance.oracle import single_unit_forks
from core.measure.walk import Replays, batches, example_losses, replay_for
from core.records import Group, ImageData, Scores, Trace
from core.trace.copies import named_state
from core.trace.sites import read_sites
from core.work.tasks import SCORE_IMAGES, Progress, Stop

Facts = dict[str, Any]
MOST_UNITS = 64  # of the group that a lesson takes: every channel of it is tried or drawn
FEWEST_UNITS = 16  # that are tried in a large network
IMAGES, LEAST_IMAGES = 128, 8
LOSS_MACS = 7e10  # for a lesson's true losses: about two seconds of one processor
READ_MACS = 2e10  # for a walk over images
SCORE_MACS = 1e11  # for scores that are not there yet


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


def tried_group(trace: Trace) -> Group:
    """The group whose channels are hidden one by one: ``middle_group`` where that takes seconds; in a large network the
    earliest for which it does, behind which less has to run again."""
    behind, usual = macs_behind(trace), middle_group(trace)

    def price(group: Group) -> float:
        return float(LEAST_IMAGES * min(group.units, MOST_UNITS) * behind[group.id])

    if price(usual) <= LOSS_MACS:
        return usual
    groups = [one for one in trace.prunable if one.gather_of is None and one.by_role("consumer") and one.units >= 4]
    cheap = [group for group in groups if price(group) <= LOSS_MACS]
    return max(cheap, key=lambda group: behind[group.id]) if cheap else min(groups or [usual], key=price)


def tried_units(subject: Subject, group: Group) -> list[int]:
    """The units that are hidden one by one, in order: all, or of very many, or where each costs much, some, spread
    evenly from the smallest filter to the largest."""
    behind = max(1, macs_behind(subject.trace)[group.id])
    count = min(MOST_UNITS, max(FEWEST_UNITS, int(LOSS_MACS / (LEAST_IMAGES * behind))))
    if group.units <= count:
        return list(range(group.units))
    by_size = torch.argsort(filter_norms(subject, group), stable=True)
    return sorted(by_size[torch.linspace(0, group.units - 1, count).round().long()].tolist())


def tried_words(group: Group, tried: Sequence[int]) -> str:
    """What a text says of units that are left out; "" where none are."""
    if len(tried) == group.units:
        return ""
    return (
        f"(This network is large: of the {group.units} channels of this layer {len(tried)} are looked at, spread "
        "evenly from the smallest filter to the largest, on few images.)"
    )


def images_for_losses(subject: Subject, group: Group, tried: Sequence[int]) -> ImageData:
    """Calibration images on which the true losses of the units ``tried`` take seconds."""
    each = macs_of(subject) + macs_behind(subject.trace)[group.id] * len(tried)
    return images_within(subject.data.calibration, each, LOSS_MACS)


def true_losses(
    subject: Subject, group: Group, tried: Sequence[int], on_progress: Progress | None, cancelled: Stop | None
) -> Tensor:
    """What the loss really does when each of the units ``tried`` alone is hidden, in nats: the oracle of one group,
    float64 (len(tried),)."""
    few, every = images_for_losses(subject, group, tried), single_unit_forks(group)
    forks, stop = [every[unit] for unit in tried], Latch(cancelled)
    engine, size, done = ForkEngine(subject.trace, forks), min(64, len(few)), 0
    losses, dense = dict.fromkeys(forks, 0.0), 0.0
    for images, labels in batches(few, torch.arange(len(few)), size, subject.trace.module):
        for fork, logits in engine.outputs(images, stop):
            loss = float(example_losses(logits, labels, few).sum())
            if fork is None:
                dense += loss
                continue
            losses[fork] += loss
            done += len(images)
            if on_progress is not None:
                on_progress(done / (len(few) * len(forks)), "Hiding one channel after the other")
        if stop():
            raise Cancelled("The lesson was cancelled; nothing was kept.")
    return torch.tensor([(losses[fork] - dense) / len(few) for fork in forks], dtype=torch.float64)


def value_and_slope(subject: Subject, group: Group, unit: int, data: ImageData) -> tuple[float, float, float]:
    """Of the first image: a value of the unit's map, the gradient of the loss there, and the sum of their product over
    all places; taken where the group's first reader reads it, at the place where the product is largest."""
    trace = subject.trace
    images, labels = next(batches(data, torch.arange(1), 1, trace.module))
    replay = replay_for(Replays(trace), images, "The lesson")
    site = read_sites(replay.tape, replay.steps, [group], normed=True)[group.id][0]
    env: dict[int, Any] = {replay.tape.input: images}
    seen = images
    with torch.enable_grad():
        for index in range(len(replay.steps)):
            original = env.get(site.slot)
            if index == site.step and original is not None:
                seen = env[site.slot] = original.detach().clone().requires_grad_(True)
            replay.run_step(index, env, {})
            if index == site.step and site.slot in env:
                env[site.slot] = original
        losses = example_losses(replay.logits(env), labels, data)
        slope = torch.autograd.grad(losses.sum(), seen)[0]
    here = site.unit_of == unit
    z, g = (x.detach().movedim(site.axis, 0)[here].flatten().double() for x in (seen, slope))
    place = int((z * g).abs().argmax())
    return float(z[place]), float(g[place]), float((z * g).sum())


def known_scores(
    subject: Subject, criterion: str, cancelled: Stop | None = None, on_progress: Progress | None = None
) -> Scores:
    """Scores of all channels as the pages have them: those that are kept, or scored now; in a large network from fewer
    images than the pages take."""
    found = find_result(open_store(), "score", subject, criterion=criterion)
    if found:
        return Scores.from_dict(found)
    each = CRITERIA[criterion].passes * macs_of(subject)
    few = images_within(subject.data.calibration, each, SCORE_MACS, SCORE_IMAGES)
    return score_channels(subject.trace, few, criterion, on_progress=on_progress, cancelled=cancelled)


def readings_of(
    subject: Subject, group: Group, on_progress: Progress | None, cancelled: Stop | None, *, rows_per_input: int = 0
) -> tuple[list[Reading], int]:
    """What each layer that reads ``group`` sees of it on calibration images, and how many images those were.

    The moments are those of the criteria "lasso" and (with ``rows_per_input`` 8) "cap". Raises CoreError where nothing
    comes through, or numbers are not finite."""
    few = images_within(subject.data.calibration, macs_of(subject), READ_MACS)
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
