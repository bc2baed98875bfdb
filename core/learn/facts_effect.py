"""Facts of the lessons on what a cut really does: to the time of a pass, and to single classes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from time import perf_counter

import torch

from core.apply.surgery import prune_model
from core.errors import CoreError
from core.evaluate.metrics import Answers, ask, summarise
from core.keep.subject import Subject
from core.learn.afford import images_of_classes, is_large, macs_of, refuse_giants, refuse_untrained
from core.learn.ground import Facts, images_within, known_scores
from core.measure.cost import count_cost, measure_together
from core.plan import plan_uniform
from core.records import Group, ImageData, Latency, Plan, Trace
from core.solvers.intervals import paired_interval
from core.trace.graph import needed_steps
from core.work.tasks import Progress, Stop

DEEPEST = 0.875  # of a group's channels
TAKEN = 0.9  # of what the poorer half of the network can give
REPEATS, SECONDS, EIGHTHS = 20, 1.5, 8
HARM_SHARES, FEW_SHARES = (0.05, 0.1, 0.15, 0.25), (0.1, 0.25)  # few: of a large network
HARM_IMAGES, HARM_MACS, LARGE_HARM_MACS = 400, 1e10, 6e10
WANTED_FALL, LEAST_FALL, LEAST_CLASS = 0.1, 0.01, 5  # a cut near this fall is looked at; a class needs so many images
EACH_CLASS = 8  # images of a class, where only few images fit
PRODUCT, COPIED, TRIES = 384, 1 << 23, 5  # sides of a matrix product, floats copied: what this machine can do
MOST_CLASSES = 24
VERDICTS = {
    "front": "the network cut in front is faster",
    "back": "the network cut in the back is faster",
    "same": "the two cannot be told apart: their runs overlap",
}


def time(subject: Subject, on_progress: Progress | None, cancelled: Stop | None) -> Facts:
    """Two plans of equal MACs, one in the front of the network and one in its back, timed in turns with the whole; the
    widest layer's group at several widths; and what a rule of thumb says of the whole."""
    trace, module = subject.trace, subject.loaded.module
    groups = [group for group in trace.prunable if group.gather_of is None]
    if len(groups) < 2:
        raise CoreError("This lesson compares two plans in different groups; this network has one. Open another one.")
    dense = count_cost(trace)
    front, back = _even_plans(trace, groups, dense.macs)
    least = Plan({group.id: (0,) for group in groups})
    macs = [count_cost(trace, plan).macs for plan in (front, back, least)]
    widest = max(groups, key=lambda group: dense.macs - count_cost(trace, _first(group, 1)).macs)
    parts = range(2, EIGHTHS, 2) if is_large(subject) else range(1, EIGHTHS)
    widths = sorted({max(1, widest.units * part // EIGHTHS) for part in parts})
    plans = [front, back, least, *(_first(widest, width) for width in widths)]
    networks = [module]
    for at, plan in enumerate(plans):
        _tell(on_progress, 0.1 + 0.4 * at / len(plans), "Building the smaller networks")
        networks.append(prune_model(module, trace, plan))
    _tell(on_progress, 0.5, "Timing them in turns")
    warmup = 1 if is_large(subject) else 3
    times = measure_together(
        networks, trace.example, repeats=REPEATS, max_seconds=SECONDS, warmup=warmup, cancelled=cancelled
    )  # fmt: skip
    whole, a, b, start = times[:4]
    share = macs[0] / dense.macs
    linear = share * whole.median_ms
    answer = _faster(a, b)
    return {
        "verdict": VERDICTS[answer], "dense_macs": dense.macs, "front_macs": macs[0], "back_macs": macs[1],
        "share": share,
        "back_share": macs[1] / dense.macs, "front_layers": _span(groups[: len(groups) // 2]),
        "back_layers": _span(groups[len(groups) // 2 :]),
        "answer": answer,
        "times": [["whole network", *_spread(whole), 1.0], ["cut in front", *_spread(a), share],
                  ["cut in the back", *_spread(b), macs[1] / dense.macs]],
        "dense_ms": whole.median_ms, "front_ms": a.median_ms, "back_ms": b.median_ms, "linear_ms": linear,
        "front_time": 100 * a.median_ms / whole.median_ms, "device": whole.device, "threads": whole.threads,
        "repeats": whole.repeats, "group": widest.name, "units": widest.units,
        "widths": [[width, count_cost(trace, plan).macs / dense.macs, found.median_ms / whole.median_ms,
                    found.median_ms] for width, plan, found in zip(widths, plans[3:], times[4:], strict=True)]
                  + [[widest.units, 1.0, 1.0, whole.median_ms]],
        **_rule(trace, dense.macs, dense.size_bytes, start.median_ms), "start_macs": macs[2],
    }  # fmt: skip


def _rule(trace: Trace, macs: int, weight_bytes: int, start_ms: float) -> Facts:
    """The parts of a rule of thumb for the time of one pass, each measured here: t = max(MACs / speed, bytes /
    bandwidth) + t0 (Williams and others 2009, and a start)."""
    state, shapes = trace.tape.state, trace.tape.shapes
    steps = [step for step in needed_steps(trace.tape) if any(slot not in state for slot in step.reads)]
    map_bytes = 4 * sum(math.prod(shapes[slot]) for step in steps for slot in step.outputs)
    a, copy = torch.ones(PRODUCT, PRODUCT), torch.ones(COPIED)
    other = torch.empty_like(copy)
    speed = PRODUCT**3 / _seconds(lambda: torch.mm(a, a))
    bandwidth = 2 * 4 * COPIED / _seconds(lambda: other.copy_(copy))
    compute, move = 1e3 * macs / speed, 1e3 * (weight_bytes + map_bytes) / bandwidth
    return {
        "speed": speed / 1e6, "bandwidth": bandwidth / 1e6, "weight_bytes": weight_bytes, "map_bytes": map_bytes,
        "bytes": weight_bytes + map_bytes, "compute_ms": compute, "move_ms": move, "start_ms": start_ms,
        "rule_ms": max(compute, move) + start_ms,
    }  # fmt: skip


def _seconds(call: Callable[[], object]) -> float:
    """The median of a few times of ``call``, the first left out."""
    call()
    found = []
    for _ in range(TRIES):
        begun = perf_counter()
        call()
        found.append(perf_counter() - begun)
    return statistics.median(found)


def _tell(on_progress: Progress | None, share: float, message: str) -> None:
    if on_progress is not None:
        on_progress(share, message)


def _faster(front: Latency, back: Latency) -> str:
    """Which is quicker; "same" where the middle halves of their runs overlap."""
    if front.low_ms <= back.high_ms and back.low_ms <= front.high_ms:
        return "same"
    return "front" if front.median_ms < back.median_ms else "back"


def _spread(found: Latency) -> list[float]:
    return [found.median_ms, found.low_ms, found.high_ms]


def _span(groups: Sequence[Group]) -> str:
    names = [group.name for group in groups]
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _first(group: Group, width: int) -> Plan:
    return Plan({group.id: tuple(range(width))})


def _even_plans(trace: Trace, groups: Sequence[Group], dense: int) -> tuple[Plan, Plan]:
    """The same share off every group of the first half, and of the second half, so that both plans have MACs as nearly
    alike as whole channels allow."""
    halves = groups[: len(groups) // 2], groups[len(groups) // 2 :]

    def plan(half: Sequence[Group], share: float) -> Plan:
        return Plan({group.id: tuple(range(group.units - int(share * group.units))) for group in half})

    def saved(half: Sequence[Group], share: float) -> int:
        return dense - count_cost(trace, plan(half, share)).macs

    poorer, other = sorted(halves, key=lambda half: saved(half, DEEPEST))
    wanted = TAKEN * saved(poorer, DEEPEST)
    steps = [DEEPEST * step / 256 for step in range(257)]
    near = {id(half): min(steps, key=lambda share: abs(saved(half, share) - wanted)) for half in (poorer,)}
    wanted = saved(poorer, near[id(poorer)])
    near[id(other)] = min(steps, key=lambda share: abs(saved(other, share) - wanted))
    return plan(halves[0], near[id(halves[0])]), plan(halves[1], near[id(halves[1])])


def harm(subject: Subject, on_progress: Progress | None, cancelled: Stop | None) -> Facts:
    """The accuracy of every class as more and more channels leave, and the class that one cut harms most."""
    needed = "This lesson looks at single classes: it needs at least two with five images each, and a trained network."
    refuse_giants(subject, "This lesson measures several cuts of the network on many images")
    few, shares = _harm_images(subject)
    classes = _classes(few)
    if len(classes) < 2:
        raise CoreError(f"{needed} Open a trained network with its own images.")
    refuse_untrained(subject, needed)
    scores = known_scores(subject, "taylor", cancelled)
    _tell(on_progress, 0.3, "Measuring the whole network")
    dense = ask(subject.loaded.module, few, cancelled=cancelled)
    level = summarise(dense, few).value
    cuts: list[tuple[float, Answers]] = []
    for at, share in enumerate(shares):
        _tell(on_progress, 0.4 + 0.6 * at / len(shares), f"Measuring with {share:.0%} of the channels gone")
        plan = plan_uniform(subject.trace, scores, share)
        pruned = prune_model(subject.loaded.module, subject.trace, plan)
        cuts.append((share, ask(pruned, few, cancelled=cancelled)))
    falls = [level - summarise(found, few).value for _, found in cuts]
    if max(falls) <= LEAST_FALL:
        raise CoreError(f"{needed} This one's accuracy hardly falls on these images. Open another trained network.")
    hurting = [at for at, fall in enumerate(falls) if fall > LEAST_FALL]
    chosen = min(hurting, key=lambda at: abs(falls[at] - WANTED_FALL))
    return _harm(few, dense, cuts, chosen, classes)


def _harm_images(subject: Subject) -> tuple[ImageData, Sequence[float]]:
    """Selection images, and the shares to cut; of a large network fewer of both, the images from few classes."""
    part = subject.data.selection
    if not is_large(subject):
        return images_within(part, macs_of(subject), HARM_MACS, HARM_IMAGES), HARM_SHARES
    most = max(2 * EACH_CLASS, int(LARGE_HARM_MACS / macs_of(subject)))
    return images_of_classes(part, EACH_CLASS, most, LEAST_CLASS), FEW_SHARES


def _classes(data: ImageData) -> list[int]:
    """The classes with enough images, those with most first."""
    seen = torch.bincount(data.labels)
    order = torch.argsort(seen, descending=True, stable=True).tolist()
    return sorted(number for number in order[:MOST_CLASSES] if seen[number] >= LEAST_CLASS)


def _harm(
    data: ImageData, dense: Answers, cuts: Sequence[tuple[float, Answers]], chosen: int, classes: Sequence[int]
) -> Facts:
    share, pruned = cuts[chosen]
    right, after = dense.predicted == data.labels, pruned.predicted == data.labels
    mean = float(right.double().mean() - after.double().mean())
    changes = {}
    for number in classes:
        here = data.labels == number
        lost, gained = int((here & right & ~after).sum()), int((here & ~right & after).sum())
        changes[number] = (lost, gained, int(here.sum()))
    fall = {number: (lost - gained) / images for number, (lost, gained, images) in changes.items()}
    worst, least = max(classes, key=lambda number: fall[number]), min(classes, key=lambda number: fall[number])
    lost, gained, images = changes[worst]
    low, high = paired_interval(lost, gained, images)
    times = fall[worst] / mean
    levels = [dense, *(found for _, found in cuts)]
    return {
        "images": len(data), "share": share, "dense": float(right.double().mean()), "mean": 100 * mean,
        "pruned": float(after.double().mean()), "worst": _name(data, worst), "worst_fall": 100 * fall[worst],
        "least": _name(data, least), "least_fall": 100 * fall[least], "lost": lost, "gained": gained, "seen": images,
        "worst_before": float(right[data.labels == worst].double().mean()),
        "worst_after": float(after[data.labels == worst].double().mean()),
        "low": -100 * high, "high": -100 * low, "classes": len(classes),
        "flipped": int((dense.predicted != pruned.predicted).sum()),
        "answer": "same" if times < 1.5 else "twice" if times <= 3 else "more", "times": times,
        "sure": "sure" if -high > mean else "unsure", "chosen": chosen + 1,
        "shares": [0.0, *(share for share, _ in cuts)], "names": [_name(data, number) for number in classes],
        "overall": [summarise(found, data).value for found in levels],
        "by_class": [[float((found.predicted == data.labels)[data.labels == number].double().mean())
                      for number in classes] for found in levels],
    }  # fmt: skip


def _name(data: ImageData, number: int) -> str:
    return data.classes[number] if number < len(data.classes) else str(number)
