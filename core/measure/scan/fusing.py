"""Convolutions that take over what is done to their result: an activation, the addition of another tensor, or both.

Each saves a pass over the tensor, and their weights can be laid out once in the order in which the processor's
convolution library reads them. What is computed stays the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from core.trace.graph import Ref, Step, Tape

mkldnn = torch.ops.mkldnn
THEN, PLUS = "then", "plus"  # keywords of a fused convolution: the activation's name and numbers, the other summand
ACTIVATIONS = {"relu": "relu", "hardtanh": "hardtanh", "silu": "swish", "hardswish": "hardswish", "sigmoid": "sigmoid"}
LAST = torch.channels_last
Weights = Callable[[int], Tensor | None]  # the weight that lives in a slot


def can_fuse(device: torch.device) -> bool:
    """Whether this build of PyTorch has what it takes."""
    names = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")
    return device.type == "cpu" and torch.backends.mkldnn.is_available() and all(hasattr(mkldnn, n) for n in names)


def is_fusible(step: Step, tape: Tape, weights: Weights) -> bool:
    """A two-dimensional, not transposed convolution in single precision, by a weight that is known beforehand."""
    if step.name != "convolution" or step.args[6] or not isinstance(step.args[1], Ref):
        return False
    weight = weights(step.args[1].slot)
    image = tape.shapes[step.args[0].slot]
    return weight is not None and weight.dtype == torch.float32 and weight.dim() == 4 and len(image) == 4


def fuse(tape: Tape, weights: Weights) -> tuple[Tape, frozenset[int]]:
    """``tape`` with fewer steps, and the indices of those that are FusedLines. Its steps must be all needed ones."""
    steps: list[Step | None] = list(tape.steps)
    fusible = {index for index, step in enumerate(tape.steps) if is_fusible(step, tape, weights)}
    uses = Counter(slot for step in tape.steps for slot in step.reads)
    uses.update(tape.output_slots)
    maker = {slot: index for index, step in enumerate(tape.steps) for slot in step.outputs}
    for index, step in enumerate(tape.steps):
        name = step.name.removesuffix("_")
        found = None
        if name in ACTIVATIONS and len(step.reads) == 1:
            found = _with_activation(steps, maker.get(step.reads[0]), fusible, step)
        elif name == "add" and len(step.args) == 2 == len(step.reads) and not step.kwargs:
            found = _with_summand(steps, maker, fusible, step, tape)
        if found is None or uses[found[2]] != 1:
            continue
        place, fused, _ = found
        steps[place], steps[index] = fused, None
        maker[step.outputs[0]] = place
    left = [(step, index in fusible) for index, step in enumerate(steps) if step is not None]
    marks = frozenset(place for place, (_, marked) in enumerate(left) if marked)
    return replace(tape, steps=tuple(step for step, _ in left)), marks


Fused = tuple[int, Step, int]  # where, what, and the slot that is no longer made


def _with_activation(steps: list[Step | None], place: int | None, fusible: set[int], step: Step) -> Fused | None:
    source = steps[place] if place in fusible and place is not None else None
    name = ACTIVATIONS[step.name.removesuffix("_")]
    if place is None or source is None or THEN in source.kwargs or (PLUS in source.kwargs and name != "relu"):
        return None
    numbers = [float(value) for value in (*step.args[1:], -1.0, 1.0)[:2]] if name == "hardtanh" else []
    return place, replace(source, kwargs={**source.kwargs, THEN: (name, numbers)}, outputs=step.outputs), step.reads[0]


def _with_summand(
    steps: list[Step | None], maker: dict[int, int], fusible: set[int], step: Step, tape: Tape
) -> Fused | None:
    """Into the convolution that runs last, because by then the other summand is there."""
    one, two = step.reads
    if one == two or not tape.shapes[one] == tape.shapes[two] == tape.shapes[step.outputs[0]]:
        return None
    made, other = max((one, two), (two, one), key=lambda pair: maker.get(pair[0], -1))
    place = maker.get(made, -1)
    source = steps[place] if place in fusible else None
    if source is None or source.kwargs or maker.get(other, -1) >= place:
        return None
    reads = (*source.reads, other)
    return place, replace(source, kwargs={PLUS: Ref(other)}, outputs=step.outputs, reads=reads), made


class Convolution:
    """A fused convolution's call: ``op(x, weight, bias, ..., groups, plus, over)``. ``over``: the result may be written
    over ``plus``. A weight that ``pack`` laid out is read as it is, any other one is laid out at every call."""

    def __init__(self, step: Step) -> None:
        self.then: tuple[str | None, list[float]] = step.kwargs.get(THEN, (None, []))

    def __call__(self, *args: Any, plus: Tensor | None = None, over: bool = False) -> Tensor:
        x, weight, bias, stride, padding, dilation, _, _, groups = args
        name, numbers = self.then
        x = x.contiguous(memory_format=LAST)
        if plus is None:
            result: Tensor = mkldnn._convolution_pointwise(
                x, weight, bias, padding, stride, dilation, groups, name or "none", numbers, ""
            )
            return result
        given = (weight, bias, padding, stride, dilation, groups, "add", 1.0, name, numbers, "")
        plain = plus.is_contiguous(memory_format=LAST)
        if over and plain:
            result = mkldnn._convolution_pointwise_.binary(plus, x, *given)
        else:
            result = mkldnn._convolution_pointwise.binary(x, plus.contiguous(memory_format=LAST), *given)
        return result


def pack(weight: Tensor, step: Step, tape: Tape) -> Tensor:
    """``weight`` of an ungrouped convolution as the library wants it; a grouped one's as it is."""
    _, _, _, stride, padding, dilation, _, _, groups = step.args
    if groups != 1:
        return weight.contiguous(memory_format=LAST)
    batch, _, *space = tape.shapes[step.args[0].slot]
    packed: Tensor = mkldnn._reorder_convolution_weight(
        weight.contiguous(), padding, stride, dilation, groups, [batch, weight.shape[1], *space]
    )
    return packed
