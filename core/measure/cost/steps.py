"""The operators of a tape as calls that can be timed alone, at any width a plan may leave them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from core.errors import CoreError
from core.measure.cost.widths import Place, Widths
from core.records import Plan, Trace
from core.trace.copies import copy_with
from core.trace.graph import Ref, Step, Tape, named_state, record_tape, tree_slots
from core.trace.layers.attributes import follow_sizes
from core.trace.replay import needed_steps
from core.trace.rules import MOVES
from core.trace.written import set_written, written_values

IN, OUT = "in", "out"
Roles = Mapping[tuple[int, int], str]  # (slot, axis) -> which of the step's two widths it follows


@dataclass(frozen=True)
class Run:
    """A call on made-up tensors, and the bytes they hold."""

    function: Callable[[], object]
    bytes: int


@dataclass(frozen=True)
class StepCall:
    """One step of the tape. ``key``: equal for steps that do the same work at every width.

    ``place_in``/``place_out``: the widths it depends on, None where no plan changes them. Steps with a single width
    have it in ``place_out``.
    """

    key: str
    operator: str
    title: str
    place_in: Place | None
    place_out: Place | None
    step: Step
    tape: Tape
    roles: Roles
    device: torch.device

    def prepare(self, points: int) -> dict[tuple[int, int], Run] | None:
        """A call for every pair of widths; only the dense pair when narrow ones do not run, None when that fails."""
        dense = (self.place_in.size if self.place_in else 0, self.place_out.size if self.place_out else 0)
        grids = [[dense], [(i, j) for i in _widths(self.place_in, points) for j in _widths(self.place_out, points)]]
        best = None
        for grid in grids:
            try:
                runs = {pair: self._run(*pair) for pair in grid}
                for run in runs.values():
                    run.function()
                best = runs
            except Exception:  # an operator on made-up tensors may refuse them in its own way
                return best
        return best

    def _run(self, width_in: int, width_out: int) -> Run:
        share = {
            IN: width_in / self.place_in.size if self.place_in else 1.0,
            OUT: width_out / self.place_out.size if self.place_out else 1.0,
        }
        made: dict[int, Tensor] = {}

        def tensor(slot: int) -> Tensor:
            if slot not in made:
                constant = self.tape.constants.get(slot)
                shape = [
                    max(1, round(size * share[self.roles[slot, axis]])) if (slot, axis) in self.roles else size
                    for axis, size in enumerate(self.tape.shapes[slot])
                ]
                same = constant is not None and constant.device == self.device and constant.shape == tuple(shape)
                # 0.1 to 1.1: values that neither vanish nor grow; times of tiny numbers would mislead.
                made[slot] = (
                    constant.clone() if same and constant is not None else torch.rand(shape, device=self.device) + 0.1
                )
            return made[slot]

        args, kwargs = tree_slots((self.step.args, dict(self.step.kwargs)), tensor)
        if self.operator == "convolution" and args[8] > 1:
            args = (*args[:8], max(1, round(args[8] * share[OUT])))
        operator, cuda = self.step.op, self.device.type == "cuda"

        def call() -> None:
            operator(*args, **kwargs)
            if cuda:
                torch.cuda.synchronize(self.device)

        return Run(call, sum(value.nbytes for value in made.values()))


def _widths(place: Place | None, points: int) -> list[int]:
    """Shares 1/points .. 1 of the dense width, and one more below them."""
    if place is None:
        return [0]
    shares = [0.5 / points] + [k / points for k in range(1, points + 1)]
    return sorted({max(1, round(place.size * share)) for share in shares})


@dataclass(frozen=True)
class StepModel:
    """All calls of a network at one batch size, in order."""

    calls: tuple[StepCall, ...]
    widths: Widths


def step_model(trace: Trace, batch: int) -> StepModel:
    """Prepared once per trace and batch size."""
    cached: dict[int, StepModel] = trace.__dict__.setdefault("_step_models", {})  # follows from the trace alone
    if batch not in cached:
        example = trace.example[:1].repeat(batch, *[1] * (trace.example.dim() - 1))
        tape = trace.tape if batch == trace.tape.shapes[trace.tape.input][0] else record_tape(trace.module, example)
        widths = Widths(trace, tape)
        device = next((p.device for p in trace.module.parameters()), torch.device("cpu"))
        cached[batch] = StepModel(tuple(_call(step, tape, widths, device) for step in needed_steps(tape)), widths)
    return cached[batch]


def _call(step: Step, tape: Tape, widths: Widths, device: torch.device) -> StepCall:
    roles, place_in, place_out = _roles(step, tape, widths)
    shapes = tree_map(
        lambda x: f"T{list(tape.shapes[x.slot])}" if isinstance(x, Ref) else str(x), (step.args, dict(step.kwargs))
    )
    order = {slot: number for number, slot in enumerate(dict.fromkeys(step.reads))}
    moves = sorted((order[slot], axis, role) for (slot, axis), role in roles.items())
    key = f"{step.op} {shapes} {moves} {place_in and place_in.size} {place_out and place_out.size}"
    sizes = [" x ".join(map(str, tape.shapes[slot])) for slot in (*step.reads[:1], *step.outputs[:1])]
    title = f"{step.name} {' -> '.join(sizes)}"
    return StepCall(key, step.name, title, place_in, place_out, step, tape, roles, device)


def _roles(step: Step, tape: Tape, widths: Widths) -> tuple[Roles, Place | None, Place | None]:
    axes = {slot: widths.axes(slot) for slot in dict.fromkeys((*step.reads, *step.outputs))}
    if step.name == "convolution":
        x, weight = step.args[0].slot, step.args[1].slot
        transposed, grouped = bool(step.args[6]), int(step.args[8]) > 1
        made, read = (1, 0) if transposed else (0, 1)
        if not grouped:
            return _product(axes, (x, 1), (weight, read), (weight, made), step.args[2])
    elif step.name in {"addmm", "mm", "linear"}:
        x, weight = (step.args[1], step.args[2]) if step.name == "addmm" else (step.args[0], step.args[1])
        bias = step.args[0] if step.name == "addmm" else (step.args[2] if len(step.args) > 2 else None)
        made, read = (0, 1) if step.name == "linear" else (1, 0)
        return _product(axes, (x.slot, len(tape.shapes[x.slot]) - 1), (weight.slot, read), (weight.slot, made), bias)
    elif step.name in MOVES:
        return {}, None, None
    roles = {(slot, axis): OUT for slot in step.reads for axis in axes[slot]}
    places = [axes[slot][axis] for slot in (*step.outputs, *step.reads) for axis in axes[slot]]
    return (roles, None, places[0]) if roles else ({}, None, None)


def _product(
    axes: Mapping[int, Mapping[int, Place]],
    x: tuple[int, int],
    read: tuple[int, int],
    made: tuple[int, int],
    bias: Any,
) -> tuple[Roles, Place | None, Place | None]:
    """Widths of a convolution or linear layer: channels read and channels made."""
    place_in, place_out = axes[read[0]].get(read[1]), axes[made[0]].get(made[1])
    roles: dict[tuple[int, int], str] = {}
    if place_in is not None:
        roles |= {x: IN, read: IN}
    if place_out is not None:
        roles[made] = OUT
        if isinstance(bias, Ref):
            roles[bias.slot, 0] = OUT
    return roles, place_in, place_out


def uniform_plan(trace: Trace, share: float) -> Plan:
    """Keeps the first ``share`` of every group's units: for times only, any units would do."""
    return Plan({group.id: tuple(range(max(1, round(share * group.units)))) for group in trace.prunable})


def sized_copy(trace: Trace, plan: Plan) -> nn.Module | None:
    """A network of the sizes that ``plan`` leaves, with made-up numbers: good for its time and nothing else.

    None when it does not run (its code repeats a width that the plan changes).
    """
    layout, module = trace.layout, trace.module
    stays = layout.stays(plan, trace.by_id)
    live = layout.counts @ stays.astype(np.int64)
    shapes = {name: list(tensor.shape) for name, tensor in named_state(module).items()}
    changed = set()
    for (name, axis), vector in layout.vector_of.items():
        if name in shapes and live[vector] != shapes[name][axis]:
            shapes[name][axis] = int(live[vector])
            changed.add(name)

    def made_up(name: str, tensor: Tensor) -> Tensor:
        shape = shapes[name]
        if not tensor.is_floating_point():
            return tensor[tuple(slice(size) for size in shape)].clone()
        if tensor.dim() > 1:
            return torch.randn(shape, dtype=tensor.dtype, device=tensor.device) * math.sqrt(2 / math.prod(shape[1:]))
        return torch.rand(shape, dtype=tensor.dtype, device=tensor.device) + 0.1

    try:
        copied = copy_with(module, made_up)
        follow_sizes(copied, module, changed, trace.example)
        set_written(copied, written_values(trace.written, trace.flow, trace.layout, stays))
        with torch.no_grad():
            tree_flatten(copied.eval()(trace.example.to(next(copied.parameters()).device)))
    except (CoreError, RuntimeError, ValueError, TypeError, IndexError, StopIteration):
        return None
    return copied
