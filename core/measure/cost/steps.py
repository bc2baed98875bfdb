"""The operators of a tape as calls that can be timed alone, at any width a plan may leave them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from core.errors import CoreError
from core.measure.cost.tables import BLOCK
from core.measure.cost.widths import Place, Widths
from core.records import Plan, Trace
from core.trace.copies import copy_with
from core.trace.graph import Ref, Step, Tape, named_state, record_tape, tree_slots
from core.trace.layers.attributes import follow_sizes
from core.trace.replay import needed_steps
from core.trace.rules import MOVES
from core.trace.written import set_written, written_values

IN, OUT = "in", "out"
PRODUCTS = frozenset({"addmm", "mm", "linear", "bmm", "baddbmm", "matmul"})
Roles = Mapping[tuple[int, int], str]  # (slot, axis) -> which of the step's two widths it follows


@dataclass(frozen=True)
class Run:
    """A call on made-up tensors. ``bytes``: what it holds besides the tensors that earlier runs hold already."""

    function: Callable[[], object]
    bytes: int


@dataclass(frozen=True)
class StepCall:
    """One step of the tape. ``key``: equal for steps that do the same work at every width.

    ``place_in``/``place_out``: the widths it depends on, None where no plan changes them. Steps with a single width
    have it in ``place_out``. ``given``: set for an index select in front of a consumer that gathers: the width it
    chooses from; nothing is run where nothing is left out.
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
    given: Place | None = None

    @property
    def family(self) -> str:
        """Operators that caches and threads treat alike."""
        if self.operator == "convolution":
            return "convolution" if int(self.step.args[8]) == 1 else "grouped"
        return "product" if self.operator in PRODUCTS else "other"

    def prepare(self, points: int) -> dict[tuple[int, int], Run] | None:
        """A call for every pair of widths; only the dense pair when narrow ones do not run, None when that fails.

        points: as for ``widths``; 0 = the dense pair alone.
        """
        dense = (self.place_in.size if self.place_in else 0, self.place_out.size if self.place_out else 0)
        single = self.place_in is None or self.place_out is None
        ins, outs = (widths(place, max(points, 1), single) for place in (self.place_in, self.place_out))
        many = [(i, j) for i in ins for j in outs]
        best = None
        for grid in ([dense], many) if points else ([dense],):
            try:
                made: dict[tuple[int, tuple[int, ...]], Tensor] = {}
                runs = {pair: self._run(*pair, made) for pair in grid}
                for run in runs.values():
                    run.function()
                best = runs
            except Exception:  # an operator on made-up tensors may refuse them in its own way
                return best
        return best

    def _run(self, width_in: int, width_out: int, made: dict[tuple[int, tuple[int, ...]], Tensor]) -> Run:
        """made: tensors by slot and shape, shared by the runs of all widths."""
        if self.given is not None:
            return self._gather(width_out)
        share = {
            IN: width_in / self.place_in.size if self.place_in else 1.0,
            OUT: width_out / self.place_out.size if self.place_out else 1.0,
        }
        fresh = 0

        def tensor(slot: int) -> Tensor:
            nonlocal fresh
            constant = self.tape.constants.get(slot)
            shape = tuple(
                max(1, round(size * share[self.roles[slot, axis]])) if (slot, axis) in self.roles else size
                for axis, size in enumerate(self.tape.shapes[slot])
            )
            if (slot, shape) not in made:
                same = constant is not None and constant.device == self.device and constant.shape == shape
                # 0.1 to 1.1: values that neither vanish nor grow; times of tiny numbers would mislead.
                made[slot, shape] = (
                    constant.clone() if same and constant is not None else torch.rand(shape, device=self.device) + 0.1
                )
                fresh += made[slot, shape].nbytes
            return made[slot, shape]

        args, kwargs = tree_slots((self.step.args, dict(self.step.kwargs)), tensor)
        if self.operator == "convolution" and args[8] > 1:
            args = (*args[:8], max(1, round(args[8] * share[OUT])))
        return Run(self._timed(lambda: self.step.op(*args, **kwargs)), fresh)

    def _gather(self, width: int) -> Run:
        ((slot, axis),) = self.roles
        source = torch.rand(self.tape.shapes[slot], device=self.device)
        index = torch.linspace(0, source.shape[axis] - 1, width, device=self.device).long()
        select = torch.ops.aten.index_select.default
        return Run(self._timed(lambda: select(source, axis, index)), source.nbytes)

    def _timed(self, call: Callable[[], object]) -> Callable[[], object]:
        if self.device.type != "cuda":
            return call

        def waited() -> None:
            call()
            torch.cuda.synchronize(self.device)

        return waited


def widths(place: Place | None, points: int, single: bool = False) -> list[int]:
    """The widths to measure, the dense one among them: whole blocks of channels, and widths just past or short of one.

    points: about how many whole blocks; widths that are none are measured in like number. single: the operator depends
    on this width alone, so three times as many cost little.
    """
    if place is None:
        return [0]
    size, points = place.size, 3 * points if single else points
    blocks = size // BLOCK
    whole = {BLOCK * max(1, round(blocks * k / points)) for k in range(1, points + 1)} if blocks else set()
    others = {1, size - 1, *(width + 1 for width in whole), *(width + 1 for width in (BLOCK, 2 * BLOCK))}
    others |= {width - 1 for width in whole if width <= 4 * BLOCK or single}
    if blocks <= 1:
        others |= {max(1, round(size * k / points)) for k in range(1, points + 1)}
    if blocks > points:
        whole |= {BLOCK}
    return sorted({width for width in {*whole, *others, size} if 1 <= width <= size})


@dataclass(frozen=True)
class StepModel:
    """All calls of a network at one batch size, in order; then the index selects that gathers would put before some."""

    calls: tuple[StepCall, ...]
    widths: Widths
    gathers: tuple[StepCall, ...] = ()


def step_model(trace: Trace, batch: int) -> StepModel:
    """Prepared once per trace and batch size."""
    cached: dict[int, StepModel] = trace.__dict__.setdefault("_step_models", {})  # follows from the trace alone
    if batch not in cached:
        example = trace.example[:1].repeat(batch, *[1] * (trace.example.dim() - 1))
        tape = trace.tape if batch == trace.tape.shapes[trace.tape.input][0] else record_tape(trace.module, example)
        widths = Widths(trace, tape)
        device = next((p.device for p in trace.module.parameters()), torch.device("cpu"))
        calls = tuple(_call(step, tape, widths, device) for step in needed_steps(tape))
        gathers = tuple(_gather(call) for call in calls if call.place_in is not None and call.place_in.choice)
        cached[batch] = StepModel(calls, widths, gathers)
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


def _gather(call: StepCall) -> StepCall:
    """The index select in front of a consumer that reads some of the channels it is given."""
    place = call.place_in
    assert place is not None
    (slot, axis), *_ = (key for key, role in call.roles.items() if role == IN)
    key = f"gather {call.tape.shapes[slot]} {axis}"
    title = f"gather {' x '.join(map(str, call.tape.shapes[slot]))}"
    return replace(
        call, key=key, operator="gather", title=title, place_in=None, place_out=place, roles={(slot, axis): OUT},
        given=replace(place, choice=None),
    )  # fmt: skip


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
