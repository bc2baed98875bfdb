"""A program that loses channels: which tensors and weights get smaller, and what the calls must be told.

The labels of the trace say how every tensor on the tape shrinks under a plan; most calls then run as they are. A few
carry sizes of their own and are rewritten; where that is not known to be possible the plan is hidden instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from core.measure.scan.program import Line, Program
from core.records import Plan, Trace
from core.trace.graph import Step
from core.trace.labels import Key, WeightLabels
from core.trace.rules import Flow
from core.trace.sites import MATRIX, MOVES, POOLS, ReadSite, read_sites

Masks = dict[int, np.ndarray]  # axis -> which positions stay, for the axes that lose some
SIZED = {"view", "_unsafe_view", "reshape", "_reshape_alias", "expand"}
AS_THEY_ARE = POOLS | MOVES | set(MATRIX) | {
    "cat", "stack", "bmm", "baddbmm", "matmul", "native_batch_norm", "t", "_softmax", "softmax", "_safe_softmax", "sum",
    "upsample_nearest2d", "upsample_bilinear2d", "var", "var_mean", "amax", "max", "cumsum", "sort", "select", "flip",
    "linalg_vector_norm", "unbind", "glu", "hardswish", "_prelu_kernel", "pixel_shuffle", "pixel_unshuffle", "im2col",
    "col2im", "grid_sampler_2d", "reflection_pad2d", "replication_pad2d",
}  # fmt: skip


class NotNarrowError(Exception):
    """This plan cannot be run narrower; it can always be hidden."""


@dataclass
class Narrowed:
    """``masks``: slot -> what it loses; ``shapes``: slot -> its new shape. ``lines``: step -> the rewritten call.
    ``touched``: the steps that see anything smaller. ``reads``: step -> how many channels a gather leaves it."""

    masks: dict[int, Masks] = field(default_factory=dict)
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    lines: dict[int, Line] = field(default_factory=dict)
    touched: list[int] = field(default_factory=list)
    reads: dict[int, int] = field(default_factory=dict)


class Narrower:
    """Plans for one program. Raises NotNarrowError when labels and program do not belong together."""

    def __init__(self, trace: Trace, program: Program) -> None:
        self.trace, self.program = trace, program
        if not program.channels_last:
            raise NotNarrowError
        self.flow = _labels(trace, program)
        self.steps_of: dict[int, list[int]] = {}
        for index, step in enumerate(program.steps):
            for slot in (*step.reads, *step.outputs):
                self.steps_of.setdefault(slot, []).append(index)
        self.holds = self._units_of_slots()
        self.sites = read_sites(program.tape, program.steps, list(trace.layout.gathers.values()))

    def _units_of_slots(self) -> csr_array:
        """(units + 1, slots): which tensors hold channels of which unit."""
        rows, columns = [], []
        for slot in self.steps_of:
            keys, labels = self._keys(slot)
            vectors = [self.trace.layout.vectors[self.trace.layout.vector_of[key]] for key in keys.values()]
            if labels is not None:
                vectors = [self.trace.layout.unit_of_label[labels].ravel()]
            for units in map(np.unique, vectors):
                rows.append(units)
                columns.append(np.full(len(units), slot))
        size = self.trace.layout.units + 1, max(self.steps_of, default=0) + 1
        if not rows:
            return csr_array(size, dtype=bool)
        places = np.concatenate(rows), np.concatenate(columns)
        return csr_array((np.ones(len(places[0]), dtype=bool), places), shape=size)

    def _keys(self, slot: int) -> tuple[dict[int, Key], np.ndarray | None]:
        """What says which channels lie along the axes of ``slot``: dimensions of weights (by axis), or labels."""
        program, tape = self.program, self.program.tape
        labels = None if slot in program.folded.bias_of or slot in tape.state else self.flow.get(slot)
        if labels is not None and not isinstance(labels, WeightLabels):
            return {}, labels.numpy()
        if slot in program.folded.bias_of:
            dims: Sequence[Any] = [program.folded.bias_of[slot]]
        elif slot in tape.state:
            dims = [(tape.state[slot], axis) for axis in range(len(tape.shapes[slot]))]
        else:
            dims = labels.dims if labels is not None else ()
        known = self.trace.layout.vector_of
        return {axis: dim for axis, dim in enumerate(dims) if isinstance(dim, tuple) and dim in known}, None

    def _masks(self, slot: int, stays: np.ndarray, gathered: Mapping[Key, np.ndarray]) -> Masks:
        """What ``slot`` loses. A batch merged into an axis repeats its channels, image after image."""
        layout = self.trace.layout
        keys, labels = self._keys(slot)
        found: Masks = {}
        for axis, key in keys.items():
            mask = gathered[key] if key in gathered else stays[layout.vectors[layout.vector_of[key]]]
            if not mask.all():
                found[axis] = mask
        if labels is None or labels.size <= 1:
            return found
        mask = stays[layout.unit_of_label[labels]]
        for axis, size in enumerate(mask.shape if not mask.all() else ()):
            along = mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis))
            if size > 1 and not along.all():
                found[axis] = np.tile(along, self.program.tape.shapes[slot][axis] // size)
        return found

    def narrow(self, plan: Plan) -> Narrowed:
        """``plan`` on this program. Raises NotNarrowError when a call cannot be told what it needs."""
        program = self.program
        stays = self.trace.layout.stays(plan, self.trace.by_id)
        gathered = self.trace.layout.gathered(plan, stays)
        if self.trace.norms:
            raise NotNarrowError  # a direction that gets shorter needs another length
        result = Narrowed()
        picks = self._gather_picks(gathered, stays)
        for index in self._concerned(stays, gathered):
            step = program.steps[index]
            slots = (*step.reads, *step.outputs)
            for slot in slots:
                if slot not in result.masks:
                    result.masks[slot] = self._masks(slot, stays, gathered)
                    whole = program.tape.shapes[slot]
                    result.shapes[slot] = tuple(
                        int(result.masks[slot][axis].sum()) if axis in result.masks[slot] else size
                        for axis, size in enumerate(whole)
                    )
            if not any(result.masks[slot] for slot in slots):
                continue
            result.touched.append(index)
            if index in picks:
                result.reads[index] = len(picks[index][1])
            new = rewritten(step, result.masks, result.shapes, program.tape.shapes, result.reads.get(index))
            if new is not step or index in picks:
                result.lines[index] = self._line(index, new, picks.get(index))
        return result

    def _concerned(self, stays: np.ndarray, gathered: Mapping[Key, np.ndarray]) -> list[int]:
        """Steps that may see something smaller, in order."""
        slots = set(self.holds[np.flatnonzero(~stays)].indices.tolist())
        if gathered:
            slots |= {slot for slot in self.steps_of if any(key in gathered for key in self._keys(slot)[0].values())}
        return sorted({index for slot in slots for index in self.steps_of[slot]})

    def _gather_picks(self, gathered: Mapping[Key, np.ndarray], stays: np.ndarray) -> dict[int, tuple[int, Tensor]]:
        """step -> (axis, positions of what it is given that it reads)."""
        layout = self.trace.layout
        found: dict[int, tuple[int, Tensor]] = {}
        for key, reads in gathered.items():
            given = stays[layout.vectors[layout.vector_of[key]]]
            sites: tuple[ReadSite, ...] = self.sites[layout.gathers[key].id]
            if not sites:
                raise NotNarrowError
            index = torch.from_numpy(np.flatnonzero(reads[given])).to(self.program.device)
            found.update({site.step: (site.axis, index) for site in sites})
        return found

    def _line(self, index: int, step: Step, pick: tuple[int, Tensor] | None) -> Line:
        old = self.program.lines[index]
        line = Line(step, self.program.device, fused=index in self.program.fused)
        line.drops, line.own, line.other, line.written = old.drops, old.own, old.other, old.written
        if pick is not None:
            line.op = _picking(line.op, _read_place(step), *pick)
        return line


def _labels(trace: Trace, program: Program) -> Flow:
    """Labels of every tensor of ``program``: the trace's own where another batch size records the same calls, else
    those of a new walk, which must have given every weight the labels it has in the trace."""
    traced, tape = trace.tape, program.recorded
    same = [(step.op, step.outputs) for step in traced.steps] == [(step.op, step.outputs) for step in tape.steps]
    if same and all(len(traced.shapes[slot]) == len(shape) for slot, shape in tape.shapes.items()):
        return trace.flow
    flow = Flow(tape, constant=program.state.__getitem__)
    flow.run()
    known = trace.flow.book.weights
    if not all(key in known and labels.equal(known[key]) for key, labels in flow.book.weights.items()):
        raise NotNarrowError
    return flow


def _read_place(step: Step) -> int:
    return 0 if step.name == "convolution" else MATRIX[step.name][0]


def _picking(op: Callable[..., Any], place: int, axis: int, index: Tensor) -> Callable[..., Any]:
    def picked(*args: Any, **kwargs: Any) -> Any:
        return op(*args[:place], pick(args[place], axis, index), *args[place + 1 :], **kwargs)

    return picked


def pick(tensor: Tensor, axis: int, index: Tensor) -> Tensor:
    """``tensor`` at the positions ``index`` along ``axis``, in the same memory layout."""
    if tensor.dim() == 4 and axis == 1 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1).index_select(3, index).permute(0, 3, 1, 2)
    return tensor.index_select(axis, index)


def rewritten(
    step: Step,
    losing: Mapping[int, Masks],
    new: Mapping[int, tuple[int, ...]],
    old: Mapping[int, tuple[int, ...]],
    reads: int | None = None,
) -> Step:
    """``step`` as it must be called when slots lose what ``losing`` says and have the shapes ``new``; itself when
    nothing changes. reads: how many channels a gather leaves it.

    Raises NotNarrowError for operators of which that is not known.
    """
    shapes = new
    name, args = step.name, step.args
    if name == "convolution":
        channels = shapes[args[0].slot][1] if reads is None else reads
        groups = channels // max(1, shapes[args[1].slot][1])
        if args[6] and groups != args[8]:
            raise NotNarrowError  # transposed: the weight's second dimension is not what it reads
        return step if groups == args[8] or args[6] else replace(step, args=(*args[:8], groups))
    source = losing.get(step.reads[0], {}) if step.reads else {}
    if name in SIZED:
        return replace(step, args=(args[0], list(shapes[step.outputs[0]])))
    if name == "slice":
        return _slice(step, source, old)
    if name in {"split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"}:
        return _split(step, source, shapes, old)
    if name == "native_layer_norm":
        whole = shapes[args[0].slot]
        return replace(step, args=(args[0], list(whole[len(whole) - len(args[1]) :]), *args[2:]))
    if name == "native_group_norm":
        channels, groups = new[args[0].slot][1], args[6]
        return replace(step, args=(*args[:4], channels, args[5], channels if groups == args[4] else groups, args[7]))
    if name == "constant_pad_nd":
        rank = len(old[step.reads[0]])
        if any(args[1][2 * place : 2 * place + 2] != [0, 0] and rank - 1 - place in source
               for place in range(len(args[1]) // 2)):  # fmt: skip
            raise NotNarrowError
        return step
    if name == "select" and int(args[1]) % len(old[step.reads[0]]) in source:
        raise NotNarrowError("select")
    if name in AS_THEY_ARE or torch.Tag.pointwise in step.op.tags:
        return step
    raise NotNarrowError(name)


def _slice(step: Step, source: Masks, old: Mapping[int, tuple[int, ...]]) -> Step:
    given = [*step.args, *[None, 0, None, None, 1][len(step.args) :]]
    value, dim, start, end, stride = given
    axis = int(dim) % len(old[value.slot])
    if axis not in source:
        return step
    if stride != 1:
        raise NotNarrowError
    size = old[value.slot][axis]
    first, last, _ = slice(start, end).indices(size)
    before = source[axis].cumsum()
    places = [0 if place == 0 else int(before[place - 1]) for place in (first, max(first, last))]
    return replace(step, args=(value, axis, *places, 1))


def _split(
    step: Step, source: Masks, shapes: Mapping[int, tuple[int, ...]], old: Mapping[int, tuple[int, ...]]
) -> Step:
    value = step.args[0]
    axis = int(step.args[2] if len(step.args) > 2 else 0) % len(old[value.slot])
    if axis not in source:
        return step
    sizes = [shapes[slot][axis] for slot in step.outputs]
    if sum(sizes) != shapes[value.slot][axis]:
        raise NotNarrowError
    return replace(step, op=torch.ops.aten.split_with_sizes.default, args=(value, sizes, axis), kwargs={})
