"""What stands behind a layer on the tape: its batch norm, the additions of a residual block, a rectifier.

A layer's weights are fitted to what they do there: the norm is folded in, what the additions bring is known, and where
the rectifier cuts, any value below zero will do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.trace.graph import Ref, Step, Tape

NORMS = {"native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "batch_norm"}
PASSING = {"dropout", "alias", "detach", "clone", "contiguous"}  # leave every value as it is in eval mode
LEAST_GAMMA = 1e-3  # of the middle one: below it, a batch norm's scale is not divided by


@dataclass(frozen=True)
class Behind:
    """What is done to the output z (slot ``output``) of a weighted layer: relu(scale z + shift + others), in parts.

    norm: the batch norm step's index, None without one. others: slots that are added to it, in order. total: the slot
    of the sum (of the norm's output, or of z itself, where nothing is added). rectified: a ReLU alone reads the sum.
    """

    output: int
    norm: int | None
    others: tuple[int, ...]
    total: int
    rectified: bool


def look_behind(tape: Tape, steps: Sequence[Step], index: int) -> Behind:
    """What follows step ``index``, as far as each result has one reader alone and the operators are understood."""
    readers: dict[int, list[int]] = {}
    for number, step in enumerate(steps):
        for slot in step.reads:
            readers.setdefault(slot, []).append(number)

    def only_reader(slot: int) -> int | None:
        found = readers.get(slot, [])
        return found[0] if len(found) == 1 and slot not in tape.output_slots else None

    slot = steps[index].outputs[0]
    norm, others = None, []
    at = only_reader(slot)
    if at is not None and steps[at].name in NORMS and _is(steps[at].args[0], slot):
        norm, slot = at, steps[at].outputs[0]
        at = only_reader(slot)
    while at is not None:
        other = _added(tape, steps[at], slot)
        if other is not None:
            others.append(other)
        elif steps[at].name not in PASSING:
            break
        slot = steps[at].outputs[0]
        at = only_reader(slot)
    rectified = at is not None and steps[at].name in {"relu", "relu_"}
    return Behind(steps[index].outputs[0], norm, tuple(others), slot, rectified)


def _is(value: object, slot: int) -> bool:
    return isinstance(value, Ref) and value.slot == slot


def _added(tape: Tape, step: Step, slot: int) -> int | None:
    """The other operand of a plain addition of two tensors of one shape."""
    if step.name not in {"add", "add_"} or len(step.args) != 2 or step.kwargs.get("alpha", 1) != 1:
        return None
    operands = [value.slot for value in step.args if isinstance(value, Ref)]
    if len(operands) != 2 or operands[0] == operands[1] or slot not in operands:
        return None
    other = operands[1] if operands[0] == slot else operands[0]
    return other if tape.shapes[other] == tape.shapes[slot] and other not in tape.state else None


@dataclass(frozen=True)
class Affine:
    """Per output channel u = scale z + shift: an eval-mode batch norm, or nothing (1 and 0). float64, (q,)."""

    scale: Tensor
    shift: Tensor

    @property
    def safe(self) -> Tensor:
        """Channels whose scale may be divided by, bool (q,)."""
        size = self.scale.abs()
        return size > LEAST_GAMMA * size.median()


def affine_of(step: Step | None, named: Mapping[int, str], state: Mapping[str, Tensor], width: int) -> Affine:
    """The batch norm of ``step`` as numbers; the identity when it is None. named: slot -> state name."""
    scale, shift = torch.ones(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    if step is None:
        return Affine(scale, shift)
    weight, bias, mean, var = (
        state[named[value.slot]].double().cpu() if isinstance(value, Ref) and value.slot in named else None
        for value in step.args[1:5]
    )
    if mean is not None and var is not None:
        scale = (var + float(step.args[-1])).rsqrt()
        shift = -mean * scale
    if weight is not None:
        scale, shift = scale * weight, shift * weight
    return Affine(scale, shift if bias is None else shift + bias)


def shallow_first(tape: Tape, steps: Sequence[Step]) -> list[Step]:
    """The steps in an order in which, of two branches that join, the shorter runs first.

    So what a block's shortcut adds is known before the last layer of its longer branch is fitted.
    """
    maker = {slot: index for index, step in enumerate(steps) for slot in step.outputs}
    needs = [sorted({maker[slot] for slot in step.reads if slot in maker}) for step in steps]
    depth = [0] * len(steps)
    for index, before in enumerate(needs):
        depth[index] = 1 + max((depth[one] for one in before), default=0)
    order: list[int] = []
    state = Counter[int]()  # 1: waiting for what it needs, 2: in the order
    stack = [maker[slot] for slot in reversed(tape.output_slots) if slot in maker]
    while stack:
        index = stack[-1]
        if state[index] == 0:
            state[index] = 1
            waiting = sorted((one for one in needs[index] if state[one] == 0), key=lambda one: (depth[one], one))
            stack.extend(reversed(waiting))
        else:
            stack.pop()
            if state[index] == 1:
                state[index] = 2
                order.append(index)
    return [steps[index] for index in order]
