"""Operators that move channels: the labels are moved by the same operator."""

from __future__ import annotations

import torch
from torch import Tensor

from core.trace.graph import Step, tree_slots
from core.trace.labels import WeightLabels, compact, no_labels
from core.trace.rules.flow import Flow, on, slot_of, unknown
from core.trace.rules.pointwise import same

MOVES = {
    "view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "unsqueeze", "squeeze",
    "expand", "repeat", "flatten",
}  # fmt: skip


@on(*MOVES)
def move(flow: Flow, step: Step) -> None:
    """Data moves, values do not change: move the labels in the same way."""
    source = flow.get(step.reads[0])
    shape = flow.tape.shapes[step.outputs[0]]
    if isinstance(source, WeightLabels):
        moved = _move_weight(flow, step, source, shape)
        if moved is not None:
            flow.set(step, moved)
            return
    full = flow.full(step.reads[0])
    if step.name in {"view", "_unsafe_view", "reshape", "_reshape_alias"}:
        labels = full.reshape(shape)
    else:
        labels = tree_call(step, full)
    flow.set(step, _one_axis(flow, compact(labels)))


def _move_weight(flow: Flow, step: Step, source: WeightLabels, shape: tuple[int, ...]) -> WeightLabels | None:
    """Labels of a moved weight, dimension by dimension; None when its dimensions are mixed up."""
    dims = source.dims
    if step.name == "t":
        return WeightLabels(dims[::-1])
    if step.name == "transpose":
        order = list(range(len(dims)))
        a, b = int(step.args[1]), int(step.args[2])
        order[a], order[b] = order[b], order[a]
        return WeightLabels(tuple(dims[axis] for axis in order))
    if step.name == "permute":
        return WeightLabels(tuple(dims[axis] for axis in step.args[1]))
    # A view that only adds or drops dimensions of size 1 keeps the order of the others.
    before = [size for size in flow.tape.shapes[step.reads[0]] if size > 1]
    after = [size for size in shape if size > 1]
    if before == after and step.name in {"view", "unsqueeze", "squeeze", "reshape", "_unsafe_view"}:
        named = iter([labels for labels in dims if labels is not None])
        return WeightLabels(tuple(next(named) if size > 1 else None for size in shape))
    return None


def _one_axis(flow: Flow, labels: Tensor) -> Tensor:
    """When channels were cut into rows (channel shuffle), every row must lose the same places: tie them."""
    varying = [axis for axis, size in enumerate(labels.shape) if size > 1]
    for axis in varying[:-1]:
        first = labels.narrow(axis, 0, 1)
        flow.book.tie(first, labels)
        labels = first
    return labels


def tree_call(step: Step, labels: Tensor) -> Tensor:
    """Run the step's operator on ``labels`` in place of its first tensor."""
    args, kwargs = tree_slots((step.args, dict(step.kwargs)), lambda slot: labels)
    result: Tensor = step.op(*args, **kwargs)
    return result


@on("_softmax", "_log_softmax", "_safe_softmax", "softmax", "cumsum", "flip", "roll", "sort")
def along_axis(flow: Flow, step: Step) -> None:
    """Operators that run along axes: fine where no channels lie along them."""
    labels = flow.activation(step.reads[0])
    where = step.args[2] if step.name == "roll" and len(step.args) > 2 else step.args[1] if len(step.args) > 1 else []
    axes = [where] if isinstance(where, int) else list(where)
    if any(labels.shape[axis] > 1 for axis in axes) or not axes:
        flow.book.lock(labels, f"{step.name} runs across channels")
    for output in range(len(step.outputs)):
        flow.set(step, labels, output)


@on("cat")
def concatenate(flow: Flow, step: Step) -> None:
    """Channels side by side. Along another axis (tokens), the pieces' channels are tied."""
    slots = [slot_of(value) for value in step.args[0]]
    axis = int(step.args[1]) if len(step.args) > 1 else 0
    pieces = [flow.activation(slot) for slot in slots]
    axis %= len(flow.tape.shapes[step.outputs[0]])
    if all(piece.shape[axis] == 1 for piece in pieces) and any(flow.tape.shapes[slot][axis] > 1 for slot in slots):
        flow.set(step, _one_behind_another(flow, pieces))
        return
    filled = []
    for slot, piece in zip(slots, pieces, strict=True):
        size = flow.tape.shapes[slot][axis]
        if not bool((piece > 0).any()):
            fresh = flow.book.fresh(size)
            flow.book.lock(fresh, "joins channels of fixed width")
            piece = fresh.reshape([-1 if a == axis else 1 for a in range(piece.dim())])
        filled.append(piece.expand([size if a == axis else s for a, s in enumerate(piece.shape)]))
    widest = [max(sizes) for sizes in zip(*(piece.shape for piece in filled), strict=True)]
    filled = [p.expand([p.shape[axis] if a == axis else widest[a] for a in range(p.dim())]) for p in filled]
    flow.set(step, torch.cat(filled, dim=axis))


@on("stack")
def stack(flow: Flow, step: Step) -> None:
    """Along a new axis: the pieces' channels are tied."""
    axis = int(step.args[1]) if len(step.args) > 1 else 0
    axis %= len(flow.tape.shapes[step.outputs[0]])
    pieces = [flow.activation(slot_of(value)).unsqueeze(axis) for value in step.args[0]]
    flow.set(step, _one_behind_another(flow, pieces))


def _one_behind_another(flow: Flow, pieces: list[Tensor]) -> Tensor:
    """Labels of pieces that are joined along an axis without channels."""
    labels = pieces[0]
    for piece in pieces[1:]:
        flow.book.tie(labels, piece)
        labels = compact(torch.where(labels > 0, labels, piece))
    if any(not bool((piece > 0).any()) for piece in pieces):
        flow.book.lock(labels, "meets a tensor of fixed width")
    return labels


@on("split", "chunk", "split_with_sizes", "unbind")
def split(flow: Flow, step: Step) -> None:
    """Equal parts lose the same places; unequal ones are cut at a fixed channel, so theirs stay."""
    slot = step.reads[0]
    axis = int(step.args[2]) if len(step.args) > 2 else 0
    if step.name == "unbind":
        axis = int(step.args[1]) if len(step.args) > 1 else 0
    labels = flow.activation(slot)
    axis %= labels.dim()
    if labels.shape[axis] == 1:
        for output in range(len(step.outputs)):
            flow.set(step, labels.squeeze(axis) if step.name == "unbind" else labels, output)
        return
    sizes = [1] * len(step.outputs)
    if step.name != "unbind":
        sizes = [flow.tape.shapes[out][axis] for out in step.outputs]
    parts = list(labels.split(sizes, dim=axis))
    if len(set(sizes)) == 1 and step.name in {"split", "chunk"}:
        for part in parts[1:]:
            flow.book.tie(parts[0], part)
    else:
        flow.book.lock(labels, "is cut at a fixed channel")
    for output, part in enumerate(parts):
        flow.set(step, part.squeeze(axis) if step.name == "unbind" else part, output)


@on("slice", "select", "narrow", "index_select")
def cut(flow: Flow, step: Step) -> None:
    """A part of an axis. Along channels the place is fixed in the code, so those channels stay."""
    if isinstance(flow.get(step.reads[0]), WeightLabels) and flow.tape.shapes[step.reads[0]] == flow.tape.shapes.get(
        step.outputs[0]
    ):
        same(flow, step)
        return
    labels = flow.activation(step.reads[0])
    axis = (int(step.args[1]) if len(step.args) > 1 else 0) % labels.dim()
    if labels.shape[axis] == 1:
        flow.set(step, labels.squeeze(axis) if step.name == "select" else labels)
        return
    if flow.tape.shapes[step.reads[0]] == flow.tape.shapes[step.outputs[0]]:
        flow.set(step, labels)
        return
    flow.book.lock(labels, "is cut at a fixed channel")
    moved = torch.ops.aten.slice(labels, axis, *step.args[2:]) if step.name == "slice" else None
    flow.set(step, moved if moved is not None else no_labels(len(flow.tape.shapes[step.outputs[0]])))


@on("constant_pad_nd")
def pad(flow: Flow, step: Step) -> None:
    """Padding beside channels is of fixed width: those new places stay."""
    labels = flow.activation(step.reads[0])
    amounts = list(step.args[1])
    for index in range(len(amounts) // 2):
        axis = labels.dim() - 1 - index
        if labels.shape[axis] == 1 and not (axis == 1 and flow.tape.shapes[step.reads[0]][1] == 1):
            continue
        before, after = int(amounts[2 * index]), int(amounts[2 * index + 1])
        if before < 0 or after < 0:
            flow.book.lock(labels, "is cut at a fixed channel")
        pieces = [labels]
        for count, front in ((before, True), (after, False)):
            if count > 0:
                fresh = flow.book.fresh(count)
                flow.book.lock(fresh, "meets zero padding of fixed width")
                shape = [-1 if a == axis else 1 for a in range(labels.dim())]
                sizes = [count if a == axis else s for a, s in enumerate(labels.shape)]
                pieces.insert(0 if front else len(pieces), fresh.reshape(shape).expand(sizes))
        labels = torch.cat(pieces, dim=axis)
    flow.set(step, labels)


@on("pixel_shuffle")
def pixel_shuffle(flow: Flow, step: Step) -> None:
    """r x r channels become one: they leave together."""
    channels = flow.along(step.reads[0], 1, "pixel shuffle")
    if channels is None:
        return
    rows = channels.reshape(-1, int(step.args[1]) ** 2)
    flow.book.tie(rows[:, :1], rows)
    flow.set(step, rows[:, 0].reshape(1, -1, 1, 1))


@on("as_strided")
def restride(flow: Flow, step: Step) -> None:
    """Pooling to one position ends by restating the strides: nothing moves when only channels have a size."""
    shape = flow.tape.shapes[step.reads[0]]
    wide = [axis for axis, size in enumerate(shape) if size > 1 and axis > 0]
    offset = step.args[3] if len(step.args) > 3 else None
    if tuple(step.args[1]) == shape and len(wide) <= 1 and all(step.args[2][axis] == 1 for axis in wide) and not offset:
        same(flow, step)
    else:
        unknown(flow, step)
