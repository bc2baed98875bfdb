"""The numbers a lesson speaks of, computed of the network at hand by the same functions that every page uses.

Facts are plain JSON: numbers, words, lists to draw. A row of FACTS per lesson.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from core.errors import CoreError
from core.keep.shelf import FRACTIONS, SCAN_IMAGES, SCAN_SEED, find_result
from core.keep.store import open_store
from core.keep.subject import Subject, open_subject
from core.learn.afford import macs_behind, macs_of, spread
from core.learn.facts_choice import compensation, lasso, pivots
from core.learn.facts_effect import harm, time
from core.learn.facts_repair import least_squares, soft
from core.learn.ground import (
    Facts,
    filter_norms,
    filters_of,
    images_for_losses,
    images_within,
    known_scores,
    middle_group,
    tried_group,
    tried_units,
    tried_words,
    true_losses,
    value_and_slope,
)
from core.measure.cost import count_cost
from core.measure.importance import score_channels
from core.measure.importance.agreement import spearman
from core.measure.sensitivity import Sensitivity, scan_sensitivity
from core.records import Group, Plan, Trace
from core.trace.copies import named_state
from core.work.tasks import Progress, Stop, scan_subject

HALF = 0.5
NORMAL_95 = 1.959964  # 95 % of a normal distribution lie within so many standard deviations
FIRST_WEIGHTS = 4  # of a filter, told as they are
LEAVING = 32  # moments of a picture in which channels leave
SCAN_MACS, SCANNED = 1.2e11, 5  # a scan that takes longer looks at so many groups only, at half their width
CHANCE, WORDS = "random", {"random": "chance", "weight-l2": "the L2 norm of the filter", "taylor": "Taylor's estimate"}


def facts_of(
    lesson: str, subject: Subject, on_progress: Progress | None = None, cancelled: Stop | None = None
) -> Facts:
    """The facts of row ``lesson`` of FACTS. Raises CoreError when this network has nothing the lesson could show."""
    if not subject.trace.prunable:
        raise CoreError("No channel of this network may leave, so there is nothing to learn on it. Open another one.")
    return FACTS[lesson](subject, on_progress, cancelled)


def compute(
    model: str, weights: str, data: str, lesson: str, on_progress: Progress, cancelled: Stop, version: int = 0
) -> Facts:
    """``facts_of`` for what a worker opens. version: of the facts (``FACTS_VERSION``); it only names the result."""
    del version
    return facts_of(lesson, open_subject(model, weights, data), on_progress, cancelled)


def channel(subject: Subject, on_progress: Progress | None, cancelled: Stop | None) -> Facts:
    """What one channel costs, layer by layer: in its own and in those that read it."""
    trace = subject.trace
    group = middle_group(trace)
    one, half = (Plan({group.id: tuple(range(left))}) for left in (group.units - 1, group.units // 2))
    dense, fewer, halved = count_cost(trace), count_cost(trace, one), count_cost(trace, half)
    saved = {name: cost.macs - fewer.per_layer[name].macs for name, cost in dense.per_layer.items()}
    made, read = group.layers[0], [member.layer for member in group.by_role("consumer")]
    own, others = saved[made], sum(count for name, count in saved.items() if name != made)
    weight, _ = filters_of(subject, group)
    area = _area(trace, group)
    order = torch.argsort(filter_norms(subject, group), stable=True).tolist()
    removed = sorted({group.units * step // LEAVING for step in range(LEAVING)})
    left = [Plan({group.id: tuple(sorted(order[count:]))}) for count in removed]
    return {
        "layer": made, "readers": ", ".join(read), "units": group.units, "inputs": weight.shape[1],
        "kernel": " x ".join(map(str, weight.shape[2:])) or "1", "taps": math.prod(weight.shape[2:]),
        "area": " x ".join(map(str, area)) or "1", "places": math.prod(area),
        "filter": int(weight[0].numel()), "macs": dense.macs, "layer_macs": dense.per_layer[made].macs,
        "own": own, "others": others, "both": own + others, "share": (own + others) / dense.macs,
        "answer": "both" if others else "own", "half": group.units - group.units // 2,
        "half_macs": halved.macs / 1e6, "dense_macs": dense.macs / 1e6,
        "half_own": dense.per_layer[made].macs - halved.per_layer[made].macs,
        "rows": [[name, cost.macs, fewer.per_layer[name].macs, halved.per_layer[name].macs]
                 for name, cost in dense.per_layer.items() if cost.macs],
        "order": order, "removed": removed, "left_macs": [count_cost(trace, plan).macs for plan in left],
        "reader": read[0] if read else "", "reader_outputs": _outputs(subject, group),
    }  # fmt: skip


def _area(trace: Trace, group: Group) -> tuple[int, ...]:
    """Height and width of the maps of the layer that makes the group; () where it makes none."""
    tensor = group.by_role("producer")[0].tensor
    making = (step for step in trace.tape.steps if any(trace.tape.state.get(slot) == tensor for slot in step.reads))
    return next((tuple(trace.tape.shapes[step.outputs[0]][2:]) for step in making), ())


def _outputs(subject: Subject, group: Group) -> int:
    """How many channels the group's first reader makes; 0 without a reader."""
    for reader in group.by_role("consumer"):
        return int(named_state(subject.loaded.module)[reader.tensor].shape[1 - min(1, reader.dim)])
    return 0


def norms(subject: Subject, on_progress: Progress | None, cancelled: Stop | None) -> Facts:
    """The filter norms of one group beside what each channel's removal really does to the loss."""
    group = tried_group(subject.trace)
    tried = tried_units(subject, group)
    true = true_losses(subject, group, tried, on_progress, cancelled)
    sizes = score_channels(subject.trace, None, "weight-l2").scores[group.id][tried]
    by_loss, by_norm = (torch.argsort(values, stable=True).tolist() for values in (true, sizes))
    smallest, least = by_norm[0], by_loss[0]
    rank, count = by_loss.index(smallest) + 1, len(tried)
    weight, unit_of = filters_of(subject, group)
    own = weight[unit_of == tried[smallest]]
    filters = own.flatten().tolist()
    quarter = max(1, count // 4)
    shown = sorted({least, smallest, by_norm[-1], by_loss[-1], by_norm[count // 2]})
    return {
        "layer": group.layers[0], "units": count, "images": len(images_for_losses(subject, group, tried)),
        "tried": tried, "scope": tried_words(group, tried),
        "shape": " x ".join(map(str, own.shape[1:] if len(own) == 1 else own.shape)),
        "smallest": tried[smallest], "smallest_norm": float(sizes[smallest]), "smallest_loss": float(true[smallest]),
        "rank": rank, "quarter": quarter, "least": tried[least], "least_loss": float(true[least]),
        "least_norm": float(sizes[least]), "least_norm_rank": by_norm.index(least) + 1,
        "answer": "first" if rank == 1 else "quarter" if rank <= quarter else "later",
        "spearman": float(spearman(torch.stack([sizes, true]).numpy())[0, 1]),
        "norms": sizes.tolist(), "losses": true.tolist(),
        "weights": len(filters), "first_weights": ", ".join(f"{value:.3g}" for value in filters[:FIRST_WEIGHTS]),
        "pick": str(tried[least]),
        "candidates": [[str(tried[at]), f"channel {tried[at]}, norm {float(sizes[at]):.3g}"] for at in shown],
    }  # fmt: skip


def sensitivity(subject: Subject, on_progress: Progress | None, cancelled: Stop | None) -> Facts:
    """Three groups at half their width: how much accuracy each loses, and how sure that is."""
    every = [group for group in subject.trace.prunable if group.gather_of is None]
    if len(every) < 3:
        raise CoreError("This lesson compares three groups of channels; this network has fewer. Open another one.")
    found, scope = _curves(subject, every, on_progress, cancelled)
    groups = [group for group in every if group.id in found.points]
    by_fall = sorted(groups, key=lambda group: (found.accuracy(group.id, HALF), -found.loss(group.id, HALF)))
    three = sorted([by_fall[0], by_fall[len(by_fall) // 2], by_fall[-1]], key=groups.index)
    worst = by_fall[0]
    images = found.images_used(worst.id, HALF)
    low, high = found.interval(worst.id, HALF)
    value = found.accuracy(worst.id, HALF)
    width = (high - low) / 2
    return {
        "dense": found.dense.accuracy, "images": images, "answer": worst.id, "worst": worst.name, "value": value,
        "low": low, "high": high, "width": width, "groups": [[group.id, group.name] for group in three],
        "rows": [[group.name, found.accuracy(group.id, HALF), *found.interval(group.id, HALF)] for group in three],
        "z": NORMAL_95, "interval_answer": "true", "narrow": width / 4, "wide": min(0.9, width * 6),
        "needed": 4 * images, "scope": scope,
    }  # fmt: skip


def _curves(
    subject: Subject, every: list[Group], on_progress: Progress | None, cancelled: Stop | None
) -> tuple[Sensitivity, str]:
    """The curves that are kept or, where that takes seconds, measured now; else a few groups at half their width. And
    what a text says of what is left out, "" where nothing is."""
    stored = find_result(open_store(), "scan", subject, criterion="taylor")
    if stored:
        return Sensitivity.from_dict(stored), ""
    behind, once = macs_behind(subject.trace), macs_of(subject)
    images = min(SCAN_IMAGES, len(subject.data.selection))
    if images * (once + len(FRACTIONS) * sum(behind[group.id] for group in every)) <= SCAN_MACS:
        return scan_subject(subject, "taylor", on_progress, cancelled), ""
    few = spread(every, SCANNED)
    each = once + sum(behind[group.id] for group in few)
    data = images_within(subject.data.selection, each, SCAN_MACS, SCAN_IMAGES)
    sizes = score_channels(subject.trace, None, "weight-l2")

    def tell(fraction: float, message: str, _: object = None) -> None:
        if on_progress is not None:
            on_progress(fraction, message)

    found = scan_sensitivity(
        subject.trace, data, (HALF,), sizes, groups=[group.id for group in few], seed=SCAN_SEED, on_progress=tell,
        cancelled=cancelled,
    )  # fmt: skip
    said = (
        f"(This network is large: the lesson looks at {len(few)} of its {len(every)} groups, at half their width, on "
        f"{len(data)} images, the smallest filters leaving first. The page Sensitivity measures all of them.)"
    )
    return found, said


def coupled(subject: Subject, on_progress: Progress | None, cancelled: Stop | None) -> Facts:
    """The group whose channels are made by the most layers, and all that leaves with one of them."""
    groups = [group for group in subject.trace.prunable if group.gather_of is None]
    group = max(groups, key=lambda one: (len(one.layers), len(one.members)))
    by_role = {
        role: list(dict.fromkeys(member.layer for member in group.by_role(role)))
        for role in ("producer", "follower", "consumer")
    }
    alone = len(group.layers) == 1
    dense, fewer = (count_cost(subject.trace, plan) for plan in (None, Plan({group.id: tuple(range(group.units - 1))})))
    gone = {name: cost.params - fewer.per_layer[name].params for name, cost in dense.per_layer.items()}
    made = sum(gone.get(name, 0) for name in group.layers)
    follow = sum(gone.get(name, 0) for name in by_role["follower"] if name not in group.layers)
    all_gone = dense.params - fewer.params
    return {
        "gone": all_gone, "gone_made": made, "gone_follow": follow, "gone_read": all_gone - made - follow,
        "params": dense.params,
        "layer": group.layers[0], "made": ", ".join(group.layers), "count": len(group.layers), "units": group.units,
        "followers": ", ".join(name for name in by_role["follower"] if name not in group.layers) or "none",
        "readers": ", ".join(by_role["consumer"]) or "none", "reader_count": len(by_role["consumer"]),
        "answer": "follow" if alone else "added", "groups": len(groups),
        "rows": [[role, name] for role, names in by_role.items() for name in names],
        "touched": len({member.layer for member in group.members}),
    }  # fmt: skip


def taylor(subject: Subject, on_progress: Progress | None, cancelled: Stop | None) -> Facts:
    """Three ways to rank the channels of one group, and how well each agrees with the true losses."""
    group = tried_group(subject.trace)
    tried = tried_units(subject, group)
    true = true_losses(subject, group, tried, _first_half(on_progress), cancelled)
    found = {name: known_scores(subject, name, cancelled) for name in WORDS}
    ranked = {name: one.scores[group.id][tried] for name, one in found.items()}
    agreement = {
        name: float(spearman(torch.stack([scores, true]).numpy())[0, 1]) for name, scores in ranked.items()
    }  # fmt: skip
    best = max(agreement, key=lambda name: agreement[name])
    at = int(torch.argmin(ranked["taylor"]))
    places = math.prod(_area(subject.trace, group))
    value, slope, total = value_and_slope(subject, group, tried[at], subject.data.calibration)
    return {
        "layer": group.layers[0], "units": len(tried), "images": len(images_for_losses(subject, group, tried)),
        "tried": tried, "scope": tried_words(group, tried), "places": places, "answer": best,
        "value": value, "slope": slope, "total": total, "one_score": abs(total) / places,
        "score_images": found["taylor"].images_used,
        "best": WORDS[best], "rows": [[WORDS[name], value] for name, value in agreement.items()],
        **{name.replace("-", "_"): value for name, value in agreement.items()},
        "first": tried[at], "first_score": float(ranked["taylor"][at]), "first_loss": float(true[at]),
        "first_loss_milli": 1000 * float(true[at]), "scores": ranked["taylor"].tolist(), "losses": true.tolist(),
        "ways": [[name, words] for name, words in WORDS.items()],
    }  # fmt: skip


def _first_half(on_progress: Progress | None) -> Progress | None:
    if on_progress is None:
        return None
    return lambda fraction, message: on_progress(0.5 * fraction, message)


FACTS: dict[str, Callable[[Subject, Progress | None, Stop | None], Facts]] = {
    "channel": channel,
    "norms": norms,
    "sensitivity": sensitivity,
    "coupled": coupled,
    "taylor": taylor,
    "lasso": lasso,
    "pivots": pivots,
    "least_squares": least_squares,
    "compensation": compensation,
    "soft": soft,
    "time": time,
    "harm": harm,
}
