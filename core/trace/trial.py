"""Try the narrowed structure before anybody plans with it.

Labels know what operators do, not what the code around them says: ``x.view(-1, 400)`` repeats a width that no weight
tells. So prunable groups are narrowed on shape-only tensors, the network runs, and it must call the same operators with
the same numbers on tensors of the shapes that their labels promise. The first call that differs names the groups at
fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.records import Group
from core.trace.copies import Census, shell_with
from core.trace.graph import Step, in_eval_mode, or_itself, plain_attention, users_own
from core.trace.labels import WeightLabels
from core.trace.layers.attributes import follow_sizes
from core.trace.layout import Layout
from core.trace.leaves import Answers, leaf_forward
from core.trace.rules import Flow
from core.trace.watch import DiffersError, Watch, shapes_of
from core.trace.written import WrittenWidth, harms, set_written, written_values

HEADS = 16  # attention rarely has more
NEARBY = ((0, 0), (0, -1), (-1, 0), (0, 1), (1, 0), (1, -1), (-1, 1), (1, 1), (-1, -1))


@dataclass(frozen=True)
class Fault:
    """The groups whose width the code repeats, how that showed, at which step, in which modules of the user's, and
    which units had stayed."""

    groups: tuple[str, ...]
    reason: str
    step: int
    running: tuple[str, ...]
    stays: np.ndarray


def _keeps(groups: list[Group], layout: Layout) -> Iterator[np.ndarray]:
    """For each of two trials, bool (units + 1,): which units of the groups stay, at random.

    Of two groups, one keeps the smaller share in the first trial and the larger in the second (as far as their few
    units allow): then no quotient of their widths, rounded or not, stays what it was in both.
    """
    shares = _all_shares([group.units for group in groups])
    for trial in range(2):
        stays = np.ones(layout.units + 1, dtype=bool)
        generator = np.random.default_rng(trial)
        for group, kept in zip(groups, shares, strict=True):
            start = layout.first[group.id]
            stays[start + generator.permutation(group.units)[kept[trial] :]] = False
        yield stays


def _all_shares(units: list[int]) -> list[tuple[int, int]]:
    """For each group how many units stay in each trial. Few units round alike (1 of 2 heads, 2 of 4 channels): then a
    pair nearby is taken."""
    chosen = [_shares(count, index, len(units)) for index, count in enumerate(units)]
    for index, count in enumerate(units):
        wanted = chosen[index]
        others = [pair for at, pair in enumerate(zip(units, chosen, strict=True)) if at != index]
        others = [pair for pair in others if _heads_like(count, pair[0])]
        nearby = [(wanted[0] + a, wanted[1] + b) for a, b in NEARBY] if others else []
        fitting = (pair for pair in nearby if pair[0] != pair[1] and min(pair) >= 1 and max(pair) <= count)
        clear = (pair for pair in fitting if not any([_quotient_stays(count, pair, *other) for other in others]))
        chosen[index] = next(clear, wanted)
    return chosen


def _heads_like(one: int, other: int) -> bool:
    """Whether one number may count the heads that the other is divided among."""
    return min(one, other) <= HEADS and max(one, other) >= 2 * min(one, other)


def _quotient_stays(units: int, kept: tuple[int, int], other_units: int, other_kept: tuple[int, int]) -> bool:
    if units < other_units:
        units, kept, other_units, other_kept = other_units, other_kept, units, kept
    return all([left // right == units // other_units for left, right in zip(kept, other_kept, strict=True)])


def _shares(units: int, index: int, count: int) -> tuple[int, int]:
    """How many units stay in each trial: few then many for every second group, the few rising and the many falling
    along the network."""
    along = index / count
    few = max(1 + (units > 3), round(units * (0.15 + 0.3 * along)))  # of one channel, code may make a special case
    many = min(units, max(few + 1, round(units * (1.0 - 0.45 * along))))
    return (few, many) if index % 2 == 0 else (many, few)


def find_fault(
    census: Census,
    example: Tensor,
    flow: Flow,
    groups: tuple[Group, ...],
    layout: Layout,
    written: tuple[WrittenWidth, ...] = (),
) -> Fault | None:
    """Narrow all prunable groups and run, twice; None when everything follows.

    Two widths in one expression (``channels // heads``) only show when they do not move alike, and a part cut at a
    fixed place only when units leave on both sides of it unevenly.
    """
    narrowed = [group for group in groups if group.prunable and group.gather_of is None]
    if not narrowed:
        return None
    for stays in _keeps(narrowed, layout):
        fault = _try(census, example, Watch(flow, layout, stays), narrowed, written)
        if fault is not None:
            return fault
    return None


def _try(
    census: Census,
    example: Tensor,
    watch: Watch,
    narrowed: list[Group],
    written: tuple[WrittenWidth, ...],
) -> Fault | None:
    flow, layout, stays = watch.flow, watch.layout, watch.stays
    trial = _narrow(census, layout, stays, example)
    set_written(trial.module, written_values(written, flow, layout, stays))
    _watched(trial, census, watch)
    image = example.to("meta")
    # Layers may complain in any way of their own about a width they did not expect.
    try:
        with plain_attention(), torch.no_grad(), Answers(watch.note), watch:
            result = trial.module(image)
        same_output = shapes_of(result) == [flow.tape.shapes[slot] for slot in flow.tape.output_slots]
        if same_output and watch.astray() is None:
            return None
        said = "the output changes its shape"
    except Exception as error:
        said = "" if isinstance(error, DiffersError) else (str(error).splitlines() or [type(error).__name__])[0]
    step, running = watch.origin()
    return Fault(*_blame(flow, layout, stays, step, running, narrowed, said), step, running, stays)


def _watched(trial: Census, dense: Census, watch: Watch) -> None:
    """Have every layer of ``trial`` tell ``watch`` what it does; the common ones without running."""
    for (path, layer), (_, was) in zip(trial.layers, dense.layers, strict=True):
        if users_own(layer):
            headed = type(layer) is not type(was)
            layer.__dict__["forward"] = watch.inside(path, layer.forward, headed)
        else:
            leaf = leaf_forward(layer, watch.note)
            if leaf is not None:
                layer.__dict__["forward"] = or_itself(leaf, layer.forward)


def _narrow(census: Census, layout: Layout, stays: np.ndarray, example: Tensor) -> Census:
    """A shape-only copy to run once, in eval mode, in which only the units that stay are left."""
    live = (layout.counts @ stays.astype(np.int64)).tolist()
    lengths = [len(vector) for vector in layout.vectors]
    sizes: dict[str, dict[int, int]] = {}
    for (name, axis), vector in layout.vector_of.items():
        if live[vector] != lengths[vector]:
            sizes.setdefault(name, {})[axis] = live[vector]
    tensors = {id(tensor): _blank_like(tensor, sizes.get(name)) for name, tensor in census.state.items()}
    trial = in_eval_mode(shell_with(census, tensors))
    follow_sizes(trial, census, sizes, example)
    return trial


def _blank_like(tensor: Tensor, sizes: Mapping[int, int] | None) -> Tensor:
    """A shape-only ``tensor``; ``sizes``: those that differ, by axis."""
    shape = tensor.shape if sizes is None else [sizes.get(axis, size) for axis, size in enumerate(tensor.shape)]
    # whether a gradient is asked for decides which operator torch.matmul becomes
    if sizes is None and not tensor.is_contiguous():
        return torch.empty_like(tensor, device="meta", requires_grad=tensor.requires_grad)
    return torch.empty(shape, dtype=tensor.dtype, device="meta", requires_grad=tensor.requires_grad)


def _blame(
    flow: Flow,
    layout: Layout,
    stays: np.ndarray,
    done: int,
    running: tuple[str, ...],
    narrowed: list[Group],
    said: str,
) -> tuple[tuple[str, ...], str]:
    """The narrowed groups whose channels the failing step reads; the nearest before it; those that the module reads
    in which it fails; at worst all."""
    steps = flow.tape.steps
    last = min(done, len(steps) - 1)
    if running and harms(last, flow, layout, stays):  # then a number has followed that serves another width as well
        for how in (all, any):
            inside = tuple(g.id for g in narrowed if how(layer.startswith(f"{running[-1]}.") for layer in g.layers))
            if inside:
                return inside, f"the code of {running[-1]} has one number for several widths"
    for number in range(last, max(-1, done - 12), -1):
        step = steps[number]
        activations = [slot for slot in step.reads if slot not in flow.tape.state]
        for slots in (activations, step.reads, step.outputs):
            found = _narrow_groups(flow, layout, stays, slots, narrowed)
            if found:
                return found, f"its code fixes this width ({_at(step, flow)})"
    for path in filter(None, reversed(running)):
        start = max((start for start, stop in flow.tape.spans.get(path, ()) if start <= last < stop), default=last)
        reads = [slot for step in steps[start : last + 1] for slot in step.reads]
        found = _narrow_groups(flow, layout, stays, reads, narrowed)
        if found:
            return found, f"the code of {path} fixes this width ({_at(steps[last], flow)})"
    everything = tuple(group.id for group in narrowed)
    return everything, (f"the network does not run when narrowed: {said}")[:160]


def _at(step: Step, flow: Flow) -> str:
    to = " x ".join(str(size) for size in flow.tape.shapes[step.outputs[0]]) if step.outputs else ""
    return f"{step.name} to {to}" if to else step.name


def _narrow_groups(
    flow: Flow, layout: Layout, stays: np.ndarray, slots: tuple[int, ...] | list[int], narrowed: list[Group]
) -> tuple[str, ...]:
    units: set[int] = set()
    for slot in slots:
        labels = flow.slots.get(slot)
        if isinstance(labels, WeightLabels):
            vectors = [
                layout.vectors[layout.vector_of[d]]
                for d in labels.dims
                if isinstance(d, tuple) and d in layout.vector_of
            ]
        elif labels is not None:
            vectors = [layout.unit_of_label[labels.numpy()].reshape(-1)]
        else:
            vectors = []
        for vector in vectors:
            units.update(np.unique(vector[~stays[vector]]).tolist())
    return tuple(
        group.id
        for group in narrowed
        if any(layout.first[group.id] <= unit < layout.first[group.id] + group.units for unit in units)
    )
