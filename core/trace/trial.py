"""Try the narrowed structure before anybody plans with it.

Labels know what operators do, not what the code around them says: ``x.view(-1, 400)`` repeats a width that no weight
tells. So prunable groups are narrowed on shape-only tensors, the network runs, and it must call the same operators with
the same numbers on tensors of the shapes that their labels promise. The first call that differs names the groups at
fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core.records import Group
from core.trace import shapes
from core.trace.copies import copy_with
from core.trace.graph import Step, plain_attention, users_own
from core.trace.labels import WeightLabels
from core.trace.layers.attributes import follow_sizes
from core.trace.layout import Layout, promised
from core.trace.rules import MOVES, Flow
from core.trace.written import WrittenWidth, set_written, written_values

# Moves of data: narrow tensors may be laid out otherwise in memory, and then other ones run.
COMES_OR_GOES = MOVES | {
    "clone", "contiguous", "copy_", "empty", "as_strided", "alias", "detach", "_to_copy", "empty_strided",
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """The groups whose width the code repeats, how that showed, at which step, in which modules of the user's, and
    which units had stayed."""

    groups: tuple[str, ...]
    reason: str
    step: int
    running: tuple[str, ...]
    stays: np.ndarray


class _DiffersError(Exception):
    """The narrowed network does something else than the tape tells, or with other shapes than labels promise."""


def _keep(groups: list[Group], layout: Layout, parts: int) -> np.ndarray:
    """bool (units + 1,): of each of the groups, the first ``1 / parts`` of its units stay."""
    stays = np.ones(layout.units + 1, dtype=bool)
    for group in groups:
        start = layout.first[group.id]
        stays[start + (group.units + parts - 1) // parts : start + group.units] = False
    return stays


def find_fault(
    module: nn.Module,
    example: Tensor,
    flow: Flow,
    groups: tuple[Group, ...],
    layout: Layout,
    written: tuple[WrittenWidth, ...] = (),
) -> Fault | None:
    """Narrow every second prunable group to half and run, then all to a quarter; None when everything follows.

    Two widths in one expression (``channels // heads``) only show when they do not move alike.
    """
    free = [group for group in groups if group.prunable and group.gather_of is None]
    for narrowed, parts in ((free[::2], 2), (free, 4)):
        fault = _try(module, example, flow, narrowed, _keep(narrowed, layout, parts), layout, written)
        if fault is not None:
            return fault
    return None


def _try(
    module: nn.Module,
    example: Tensor,
    flow: Flow,
    narrowed: list[Group],
    stays: np.ndarray,
    layout: Layout,
    written: tuple[WrittenWidth, ...],
) -> Fault | None:
    if not narrowed:
        return None
    watch = _Watch(flow, layout, stays)
    trial = _narrow(module, layout, stays, example)
    set_written(trial, written_values(written, flow, layout, stays))
    for path, layer in trial.named_modules():
        if users_own(layer):
            headed = type(layer) is not type(module.get_submodule(path))
            layer.forward = watch.inside(path, layer.forward, headed)
    image = example.to("meta")
    # Layers may complain in any way of their own about a width they did not expect.
    try:
        with plain_attention(), torch.no_grad(), watch:
            result = trial(image)
        if _shapes(result) == [flow.tape.shapes[slot] for slot in flow.tape.output_slots]:
            return None
        said = "the output changes its shape"
    except Exception as error:
        said = "" if isinstance(error, _DiffersError) else (str(error).splitlines() or [type(error).__name__])[0]
    fault = _blame(flow, layout, stays, watch.done, narrowed, said)
    return Fault(*fault, watch.done, tuple(watch.running), stays)


def _narrow(module: nn.Module, layout: Layout, stays: np.ndarray, example: Tensor) -> nn.Module:
    live = layout.counts @ stays.astype(np.int64)
    sizes: dict[str, dict[int, int]] = {}
    for (name, axis), vector in layout.vector_of.items():
        if live[vector] != len(layout.vectors[vector]):
            sizes.setdefault(name, {})[axis] = int(live[vector])

    def empty(name: str, tensor: Tensor) -> Tensor:
        if name not in sizes:
            return torch.empty_like(tensor, device="meta")
        shape = [sizes[name].get(axis, size) for axis, size in enumerate(tensor.shape)]
        return torch.empty(shape, dtype=tensor.dtype, device="meta")

    trial = copy_with(module, empty, loose=lambda tensor: tensor.detach()).eval()
    follow_sizes(trial, module, sizes, example)
    return trial


class _Watch(TorchDispatchMode):
    """Follows the tape step by step and stops where a shape is not the promised one."""

    def __init__(self, flow: Flow, layout: Layout, stays: np.ndarray) -> None:
        super().__init__()
        self.flow, self.layout, self.stays = flow, layout, stays
        self.done = 0
        self.running: list[str] = []
        self.headed = 0  # how many modules with other code are running

    def inside(self, path: str, forward: Callable[..., Any], headed: bool) -> Callable[..., Any]:
        """``forward``, known to be running until it returns; what fails stays known. ``headed``: it runs other steps
        than the tape tells, and is not compared inside."""
        spans = iter(self.flow.tape.spans.get(path, ()))

        def watched(*args: Any, **kwargs: Any) -> Any:
            self.running.append(path)
            self.headed += headed
            result = forward(*args, **kwargs)
            self.headed -= headed
            self.running.pop()
            stop = next(spans, (0, self.done))[1]
            if headed and not self.headed:
                self.done = stop
            return result

        return watched

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = shapes.run(func, args, kwargs or {})
        steps = self.flow.tape.steps
        # Narrow tensors may be laid out otherwise, and then moves come or go; anything else is another computation.
        if self.headed or func.overloadpacket.__name__ in COMES_OR_GOES:
            return result
        while self.done < len(steps) and steps[self.done].name in COMES_OR_GOES:
            self.done += 1
        if self.done < len(steps) and steps[self.done].op is func:
            step = steps[self.done]
            if torch.Tag.pointwise in func.tags and _numbers(args) != _numbers(step.args):
                raise _DiffersError  # the code computes with a width
            for slot, shape in zip(step.outputs, _shapes(result), strict=False):
                if slot in self.flow.slots and shape != promised(self.flow, self.layout, self.stays, slot):
                    raise _DiffersError
            self.done += 1
        else:
            raise _DiffersError
        return result


def _numbers(args: Any) -> list[float]:
    return [value for value in args if type(value) in (int, float)]


def _shapes(result: Any) -> list[tuple[int, ...]]:
    leaves = [result] if isinstance(result, Tensor) else tree_leaves(_plain(result))
    return [tuple(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor)]


def _plain(result: Any) -> Any:
    return dict(result) if isinstance(result, Mapping) else result


def _blame(
    flow: Flow, layout: Layout, stays: np.ndarray, done: int, narrowed: list[Group], said: str
) -> tuple[tuple[str, ...], str]:
    """The narrowed groups whose channels the failing step reads; the nearest before it; at worst all."""
    steps = flow.tape.steps
    for number in range(min(done, len(steps) - 1), max(-1, done - 12), -1):
        step = steps[number]
        activations = [slot for slot in step.reads if slot not in flow.tape.state]
        for slots in (activations, step.reads, step.outputs):
            found = _narrow_groups(flow, layout, stays, slots, narrowed)
            if found:
                return found, f"its code fixes this width ({_at(step, flow)})"
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
