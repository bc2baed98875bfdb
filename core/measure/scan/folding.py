"""A tape with its batch norms folded into the convolutions in front of them: fewer passes over the same numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.trace.graph import Ref, Step, Tape, needed_steps
from core.trace.labels import Key

EXACT = (torch.float32, torch.float64)  # in half precision a folded weight would round to another network


@dataclass(frozen=True)
class FoldedTape:
    """``tape``: its steps are those the output needs. ``made``: slot -> weights and biases that folding made; the dims
    of a made weight are those of the convolution's (``tape.state`` says whose), a made bias runs along ``bias_of``."""

    tape: Tape
    made: Mapping[int, Tensor]
    bias_of: Mapping[int, Key]


def fold_norms(tape: Tape, state: Mapping[str, Tensor]) -> FoldedTape:
    """Every convolution whose only reader is a batch norm with fixed statistics takes it over: with s = weight /
    sqrt(variance + eps), W' = s W and b' = s (b - mean) + bias, worked out in float64. Exact but for rounding.
    """
    steps = list(needed_steps(tape))
    uses = Counter(slot for step in steps for slot in step.reads)
    uses.update(tape.output_slots)
    maker = {slot: index for index, step in enumerate(steps) for slot in step.outputs}
    made: dict[int, Tensor] = {}
    names, shapes, bias_of = dict(tape.state), dict(tape.shapes), {}
    gone = set()
    for index, step in enumerate(steps):
        source = maker.get(step.reads[0]) if step.reads else None
        if source is None or not _can_fold(step, steps[source], uses, tape.state, state):
            continue
        convolution = steps[source]
        weight, bias = _folded(convolution, step, tape, state)
        slots = len(shapes), len(shapes) + 1
        name = tape.state[convolution.args[1].slot]
        for slot, tensor in zip(slots, (weight, bias), strict=True):
            made[slot], shapes[slot] = tensor, tuple(tensor.shape)
        names[slots[0]], bias_of[slots[1]] = name, (name, 0)
        image = convolution.args[0]
        args = (image, Ref(slots[0]), Ref(slots[1]), *convolution.args[3:])
        steps[source] = replace(convolution, args=args, outputs=step.outputs[:1], reads=(image.slot, *slots))
        gone.add(index)
    kept = tuple(step for index, step in enumerate(steps) if index not in gone)
    return FoldedTape(replace(tape, steps=kept, state=names, shapes=shapes), made, bias_of)


def _can_fold(
    norm: Step, convolution: Step, uses: Mapping[int, int], names: Mapping[int, str], state: Mapping[str, Tensor]
) -> bool:
    if norm.name != "native_batch_norm" or convolution.name != "convolution" or norm.args[5]:
        return False  # args[5]: statistics of the batch itself
    if uses[norm.reads[0]] != 1 or any(uses[slot] for slot in norm.outputs[1:]):
        return False
    given = [value for value in (*convolution.args[1:3], *norm.args[1:5]) if value is not None]
    if norm.args[3] is None or convolution.args[6] or not all(isinstance(v, Ref) and v.slot in names for v in given):
        return False  # args[6]: transposed, where the outputs lie along another dimension
    return all(state[names[value.slot]].dtype in EXACT for value in given)


def _folded(convolution: Step, norm: Step, tape: Tape, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    def value(place: Ref | None) -> Tensor | None:
        return None if place is None else state[tape.state[place.slot]].double()

    weight, bias = value(convolution.args[1]), value(convolution.args[2])
    scale, shift, mean, variance = (value(place) for place in norm.args[1:5])
    assert weight is not None and mean is not None and variance is not None
    factor = (variance + norm.args[7]).rsqrt() * (1.0 if scale is None else scale)
    offset = (-mean if bias is None else bias - mean) * factor + (0.0 if shift is None else shift)
    dtype = state[tape.state[convolution.args[1].slot]].dtype
    return (weight * factor.reshape(-1, *[1] * (weight.dim() - 1))).to(dtype), offset.to(dtype)
