"""Facts of the lessons on making up for what left: least squares with the recovery ladder, and soft pruning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from core.apply.reconstruct import reconstruct_layers
from core.apply.soft import Softened, SoftEpoch, silent_counts, soft_groups, train_softly
from core.apply.surgery import prune_model
from core.errors import CoreError, TrainError
from core.evaluate import evaluate_model
from core.keep.subject import Subject
from core.learn.afford import is_large, macs_of, refuse_giants, refuse_untrained
from core.learn.ground import (
    Facts,
    filter_norms,
    images_within,
    middle_group,
    names_of,
    read_group,
    readings_of,
)
from core.measure.importance import score_channels
from core.measure.importance.compensation import ROWS_PER_INPUT
from core.measure.importance.moments import Reading
from core.plan import plan_fractions
from core.records import Accuracy, Group, ImageData, Plan, Trace
from core.solvers.least_squares import compensate
from core.trace.copies import named_state
from core.work.tasks import Progress, Stop

REPAIR_IMAGES, JUDGED_IMAGES = 128, 200
REPAIR_MACS, TRAIN_MACS, MOST_TRAIN_MACS = 1e10, 2.5e10, 4e11
SOLVE_WORK = 2e10  # for solving for the layers that are rebuilt in a large network
SHARES = (0.5, 0.625, 0.75)  # of all channels; the first that costs LEAST_FALL is taken
LEAST_FALL = 0.05
WEIGHTS = 48  # drawn
WAY = tuple(step / 10 for step in range(16))  # from the old weights (0) to the new ones (1), and as far again beyond
EPOCHS, SOFT_IMAGES, SOFT_BATCH, SOFT_RATE, SOFT_LR = 4, 64, 8, 0.3, 0.8
BOUND = 1.0  # on the length of a gradient, where training diverges without


def least_squares(subject: Subject, on_progress: Progress | None, cancelled: Stop | None) -> Facts:
    """A cut through the whole network, repaired by three rungs of the ladder; and one layer's weights before and
    after."""
    refuse_untrained(subject, "This network knows nothing that a cut could cost, so there is nothing to win back.")
    refuse_giants(subject, "This lesson measures and repairs the network several times")
    macs = macs_of(subject)
    judged = images_within(subject.data.selection, macs, REPAIR_MACS, JUDGED_IMAGES)
    few = images_within(subject.data.calibration, 3 * macs, REPAIR_MACS, REPAIR_IMAGES)
    module, trace = subject.loaded.module, subject.trace
    _tell(on_progress, 0.0, "Measuring the whole network")
    dense = evaluate_model(module, judged, cancelled=cancelled)
    groups, where = _cut_groups(subject)
    plan, cut, share = _cut(subject, groups, judged, dense, on_progress, cancelled)
    levels = {"whole": dense, "cut": cut}
    options: dict[str, Any] = {"refit": False, "rectify": 0} if is_large(subject) else {}  # each layer solved once
    fits = {}
    for at, method in enumerate(("batchnorm", "least-squares")):
        _tell(on_progress, 0.3 + 0.3 * at, f"Repairing: {method}")
        rebuilt, layers = reconstruct_layers(
            module, trace, plan, few, method, images=len(few), cancelled=cancelled, **options
        )  # fmt: skip
        levels[method] = evaluate_model(rebuilt, judged, cancelled=cancelled)
        fits = {one.layer: one for one in layers}
    fall, won = dense.value - cut.value, levels["least-squares"].value - cut.value
    part = won / fall
    hardest = max(fits.values(), key=lambda one: one.raw_error)
    return {
        "share": share, "images": len(few), "judged": len(judged), "dense": dense.value, "cut": cut.value,
        "batchnorm": levels["batchnorm"].value, "solved": levels["least-squares"].value, "fall": 100 * fall,
        "won": 100 * won, "part": part, "answer": "little" if part < 0.25 else "half" if part < 0.75 else "most",
        "layers": len(fits), "hardest": hardest.layer, "raw_error": hardest.raw_error,
        "rebuilt_error": hardest.rebuilt_error, "rows": hardest.rows, "where": where,
        "ladder": [[name, *_interval(found)] for name, found in levels.items()],
        **_one_layer(subject, on_progress, cancelled),
    }  # fmt: skip


def _cut_groups(subject: Subject) -> tuple[list[Group], str]:
    """The groups that are cut, and what a text calls them: all, or in a large network those whose readers are quickly
    solved for."""
    every = list(subject.trace.prunable)
    if not is_large(subject):
        return every, "every group"
    kept: list[Group] = []
    work = 0.0
    for price, group in sorted(((_solving(subject.trace, group), group) for group in every), key=lambda one: one[0]):
        work += price
        if work <= SOLVE_WORK or not kept:
            kept.append(group)
    return kept, f"{len(kept)} of the {len(every)} groups (those that are repaired in seconds)"


def _solving(trace: Trace, group: Group) -> float:
    """Multiply-adds for the moments and equations of the group's readers: their inputs' cube, a few times."""
    state = named_state(trace.module)
    inputs = [state[one.tensor].numel() / state[one.tensor].shape[0] for one in group.by_role("consumer")]
    return sum(4 * count**3 for count in inputs)


def _cut(
    subject: Subject, groups: Sequence[Group], judged: ImageData, dense: Accuracy, on_progress: Progress | None,
    cancelled: Stop | None,
) -> tuple[Plan, Accuracy, float]:  # fmt: skip
    """The plan that removes the smallest filters of ``groups``, enough of them to hurt; its accuracy, and its share.

    Raises CoreError where even the deepest cut costs next to nothing."""
    scores = score_channels(subject.trace, None, "weight-l2")
    for share in SHARES:
        _tell(on_progress, 0.1, f"Measuring with {share:.0%} of the channels gone")
        plan = plan_fractions(subject.trace, scores, {group.id: share for group in groups})
        found = evaluate_model(prune_model(subject.loaded.module, subject.trace, plan), judged, cancelled=cancelled)
        if dense.value - found.value >= LEAST_FALL:
            return plan, found, share
    raise CoreError(
        f"Even with {SHARES[-1]:.0%} of its channels gone this network is as often right as before "
        f"({dense.value:.0%}), so there is nothing to win back. Open a trained network with its own images."
    )


def _interval(found: Accuracy) -> list[float]:
    return [found.value, found.low, found.high]


def _one_layer(subject: Subject, on_progress: Progress | None, cancelled: Stop | None) -> Facts:
    """The weights of one output of one reader on the kept half of a group, old and new, and the error on the way."""
    group = read_group(subject.trace)
    readings, images = readings_of(subject, group, on_progress, cancelled, rows_per_input=ROWS_PER_INPUT)
    one = readings[0]
    half = group.units - group.units // 2
    kept = torch.argsort(filter_norms(subject, group), descending=True, stable=True)[:half]
    stay = (one.unit_of < 0) | torch.isin(one.unit_of, kept)
    mean, covariance = one.means[0], one.covariance
    new, shift = compensate(one.W, mean, covariance, stay)
    spread = float(((one.W @ covariance) * one.W).sum())
    error = error_on_the_way(one, stay, new, shift)
    errors = [error(way) / spread for way in WAY]
    old = one.W[:, stay]
    output = int((new - old).square().sum(1).argmax())
    drawn = old[output].abs().argsort(descending=True, stable=True)[:WEIGHTS].sort().values
    return {
        "reader": names_of(readings[:1]), "group": group.name, "units": group.units, "half": half, "output": output,
        "stay_inputs": int(stay.sum()), "all_inputs": len(stay), "layer_images": images,
        "old": old[output, drawn].tolist(), "new": new[output, drawn].tolist(), "way": list(WAY), "errors": errors,
        "old_error": errors[0], "new_error": errors[WAY.index(1.0)],
        "old_first": float(old[output, drawn[0]]), "new_first": float(new[output, drawn[0]]),
        "shift": float(shift[output]), "output_sd": float(one.W[output] @ covariance @ one.W[output]) ** 0.5,
    }  # fmt: skip


def error_on_the_way(one: Reading, stay: Tensor, new: Tensor, shift: Tensor) -> Callable[[float], float]:
    """Mean || W x - W_t x_S - t shift ||^2 with W_t between the old weights (t = 0) and ``new`` (t = 1)."""
    mean, covariance = one.means[0], one.covariance

    def error(way: float) -> float:
        rest = one.W.clone()
        rest[:, stay] = way * (one.W[:, stay] - new)
        gone = rest @ mean - way * shift
        return float(((rest @ covariance) * rest).sum() + gone.square().sum())

    return error


def soft(subject: Subject, on_progress: Progress | None, cancelled: Stop | None) -> Facts:
    """A few short epochs of soft pruning, and which filters were silent after each.

    Raises CoreError where training would take minutes."""
    epochs = 2 if is_large(subject) else EPOCHS
    macs = 3 * epochs * macs_of(subject)  # a step of training costs about three forward passes
    if macs * SOFT_BATCH > MOST_TRAIN_MACS:
        raise CoreError(
            "This lesson trains the network for a few short epochs; a network of this size would take many minutes. "
            "Open a smaller one, a demo for example, or the same one on smaller images."
        )
    few = images_within(subject.data.calibration, macs, TRAIN_MACS, SOFT_IMAGES)
    counts = silent_counts(subject.trace, SOFT_RATE)

    try:
        found = _softened(subject, few, epochs, None, on_progress, cancelled)
    except TrainError:  # the steps were too large for this network; bounded ones are not
        found = _softened(subject, few, epochs, BOUND, on_progress, cancelled)
    groups = [group for group in soft_groups(subject.trace) if counts.get(group.id)]
    if not groups:
        raise CoreError("No group of this network is wide enough to lose 30 % of its filters. Open another network.")
    zeroed = [{(name, unit) for name, units in one.zeroed.items() for unit in units} for one in found.log]
    shown = max(groups, key=lambda group: (_moved(found.log, group.id), group == middle_group(subject.trace)))
    first, last = zeroed[0], zeroed[-1]
    one = min(found.log[0].zeroed[shown.id])
    stayed = len(first & last) / len(first)
    return {
        "images": len(few), "epochs": epochs, "rate": SOFT_RATE, "lr": SOFT_LR / 10, "silenced": len(first),
        "stayed": len(first & last), "returned": len(first - last), "stayed_share": stayed,
        "answer": "all" if first <= last else "most" if stayed >= 0.5 else "few",
        "group": shown.name, "units": shown.units, "count": counts[shown.id],
        "silent": [sorted(one.zeroed[shown.id]) for one in found.log],
        "changed": [one.changed for one in found.log], "filters": sum(group.units for group in groups),
        "group_first": one, "norm_before": float(filter_norms(subject, shown)[one]),
        "group_back": len(set(found.log[0].zeroed[shown.id]) - set(found.log[-1].zeroed[shown.id])),
    }  # fmt: skip


def _softened(
    subject: Subject, few: ImageData, epochs: int, clip: float | None, on_progress: Progress | None,
    cancelled: Stop | None,
) -> Softened:  # fmt: skip
    def tell(share: float, message: str, _: object = None) -> None:
        _tell(on_progress, share, message)

    return train_softly(
        subject.loaded.module, subject.trace, few, SOFT_RATE, settle=1.0, on_progress=tell, cancelled=cancelled,
        epochs=epochs, lr=SOFT_LR, clip=clip, batch_size=min(SOFT_BATCH, max(2, len(few) // 2)), schedule="cosine",
    )  # fmt: skip


def _moved(log: Sequence[SoftEpoch], group_id: str) -> int:
    """How often a unit of the group fell silent that was not silent before."""
    return sum(len(set(b.zeroed[group_id]) - set(a.zeroed[group_id])) for a, b in pairwise(log))


def _tell(on_progress: Progress | None, share: float, message: str) -> None:
    if on_progress is not None:
        on_progress(share, message)
