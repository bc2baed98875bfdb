"""A narrowed network runs, and every operator it calls is compared with the tape of the whole one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from core.trace import shapes
from core.trace.graph import tensors_in
from core.trace.labels import WeightLabels
from core.trace.layout import Layout, promised
from core.trace.rules import MOVES, Flow

# Moves of data: narrow tensors may be laid out otherwise in memory, and then other ones run.
COMES_OR_GOES = MOVES | {
    "clone", "contiguous", "copy_", "empty", "as_strided", "alias", "detach", "_to_copy", "empty_strided",
}  # fmt: skip


class DiffersError(Exception):
    """The narrowed network does something else than the tape tells, or with other shapes than labels promise."""


class Watch(TorchDispatchMode):
    """Follows the tape step by step and stops (DiffersError) where a shape is not the promised one.

    ``stays``: bool (units + 1,), which units the running network still has. ``done``: the steps that went well;
    ``running``: the modules of the user's that were running when it stopped.
    """

    def __init__(self, flow: Flow, layout: Layout, stays: np.ndarray) -> None:
        super().__init__()
        self.flow, self.layout, self.stays = flow, layout, stays
        self.done = 0
        self.running: list[str] = []
        self.headed = 0  # how many modules with other code are running
        self.moved: list[tuple[Any, list[Tensor], tuple[str, ...]]] = []  # moves since the last step that was compared
        self.moves: list[tuple[int, Any]] = []  # all such lists, each with the step of the tape where it began
        self.known: dict[Any, tuple[int, ...]] = {}  # shapes that were promised before, by what they follow from
        self.twins: dict[int, tuple[Tensor, Tensor]] = {}  # real tensors, and the same as shape-only ones

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is ever compiled; PyTorch's guard against it costs more than a step

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
                self.done, self.moved = stop, []
            return result

        return watched

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = tensors_in((args, kwargs))
        real = [tensor for tensor in given if not tensor.is_meta]
        if real and any(tensor.is_meta or tensor.is_floating_point() for tensor in given):
            return self.note(func, args, kwargs, shapes.run(func, self._shaped(args), self._shaped(kwargs)))
        return self.note(func, args, kwargs, shapes.run(func, args, kwargs))

    def _shaped(self, value: Any) -> Any:
        """``value`` with shape-only tensors in the place of real ones: those that the network keeps as attributes."""
        if isinstance(value, Tensor):
            if value.is_meta:
                return value
            if id(value) not in self.twins:
                self.twins[id(value)] = (value, torch.empty_like(value, device="meta"))
            return self.twins[id(value)][1]
        if isinstance(value, list | tuple):
            return type(value)(self._shaped(item) for item in value)
        return {name: self._shaped(item) for name, item in value.items()} if isinstance(value, dict) else value

    def note(self, func: Any, args: Any, kwargs: Any, result: Any) -> Any:
        """Compare one operator's call with the next step of the tape; gives back its result."""
        if self.headed:
            return result
        if _comes_or_goes(func):
            self.moved.append((func, tensors_in(result), tuple(self.running)))
            return result
        steps, done = self.flow.tape.steps, self.done
        while done < len(steps) and _comes_or_goes(steps[done].op):
            done += 1
        if self.moved:
            self.moves.append((self.done, self.moved))
            self.moved = []
        self.done = done
        # Narrow tensors may be laid out otherwise, and then moves come or go; anything else is another computation.
        if done == len(steps) or steps[done].op is not func:
            raise DiffersError
        step = steps[done]
        if _is_pointwise(func) and _numbers(args) != _numbers(step.args):
            raise DiffersError  # the code computes with a width
        for slot, tensor in zip(step.outputs, tensors_in(result), strict=False):
            if slot in self.flow.slots and tuple(tensor.shape) != self._promised(slot):
                raise DiffersError
        self.done += 1
        return result

    def origin(self) -> tuple[int, tuple[str, ...]]:
        """After a failure: the step where it began, and what was running then. A view that cuts the wrong way may
        be noticed much later."""
        found = self.astray()
        if found is not None:
            return found
        steps, number = self.flow.tape.steps, self.done
        if [func for func, _, _ in self.moved] == [step.op for step in steps[number : number + len(self.moved)]]:
            number += len(self.moved)  # it failed at what comes next
            number += number + 1 < len(steps) and steps[number].name == "clone"  # the first half of a reshape
        return number, tuple(self.running)

    def astray(self) -> tuple[int, tuple[str, ...]] | None:
        """The first move whose shape is not the promised one, as far as the same moves ran; None when all are."""
        steps = self.flow.tape.steps
        for start, moved in [*self.moves, (self.done, self.moved)]:
            for number, (func, tensors, running) in enumerate(moved, start):
                if number >= len(steps) or steps[number].op is not func:
                    break
                if any(map(self._strays, steps[number].outputs, tensors)):
                    return number, running
        return None

    def _strays(self, slot: int, tensor: Tensor) -> bool:
        labels = self.flow.slots.get(slot)
        if labels is None or tensor.shape == self._promised(slot):
            return False
        if isinstance(labels, WeightLabels) and tensor.dim() == len(labels.dims):  # repeated along an axis of its own
            sizes = zip(labels.dims, tensor.shape, self._promised(slot), strict=True)
            return any(dim is not None and found != promised for dim, found, promised in sizes)
        return True

    def _promised(self, slot: int) -> tuple[int, ...]:
        labels = self.flow.slots[slot]
        origin: Any = slot
        if isinstance(labels, Tensor):  # many slots share them
            origin = (labels.data_ptr(), labels.shape, labels.stride(), self.flow.tape.shapes[slot])
        found = self.known.get(origin)
        if found is None:
            found = self.known[origin] = promised(self.flow, self.layout, self.stays, slot)
        return found


def shapes_of(result: Any) -> list[tuple[int, ...]]:
    """Of all tensors in what a network returns."""
    return [tuple(leaf.shape) for leaf in tensors_in(dict(result) if isinstance(result, Mapping) else result)]


_comes: dict[int, bool] = {}  # by id of the operator


def _comes_or_goes(op: Any) -> bool:
    found = _comes.get(id(op))
    if found is None:
        found = _comes[id(op)] = op.overloadpacket.__name__ in COMES_OR_GOES
    return found


@cache
def _is_pointwise(op: Any) -> bool:
    return torch.Tag.pointwise in op.tags


def _numbers(args: Any) -> list[float]:
    return [value for value in args if type(value) in (int, float)]
