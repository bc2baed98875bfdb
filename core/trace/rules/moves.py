"""Operators that only move data: the labels move in the same way."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from core.trace.graph import Step, tree_slots
from core.trace.labels import Dim, Merged, WeightLabels, compact, no_labels, reshaped, tied_along, varying
from core.trace.rules.flow import Flow, on, slot_of, unknown
from core.trace.rules.pointwise import same

VIEWS = {"view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten"}
MOVES = VIEWS | {"permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "repeat"}
FIXED_CUT = "is cut at a fixed channel"


@on(*MOVES)
def move(flow: Flow, step: Step) -> None:
    """Data moves, values do not change."""
    source = flow.get(step.reads[0])
    if isinstance(source, WeightLabels):
        moved = _move_weight(flow, step, source)
        if moved is not None:
            flow.set(step, moved)
            if step.reads[0] in flow.raw:
                flow.raw.update(step.outputs)
            return
    labels = flow.activation(step.reads[0])
    before, after = flow.tape.shapes[step.reads[0]], flow.tape.shapes[step.outputs[0]]
    if math.prod(before) == 0 or (labels.numel() == 1 and not int(labels.reshape(-1)[0])):
        flow.set(step, no_labels(len(after)))
    elif step.name in VIEWS:
        viewed = reshaped(labels, before, after)
        axes = varying(viewed)
        if len(axes) > len(varying(labels)):
            flow.cuts.append((viewed, axes))
        flow.set(step, viewed)
    else:
        flow.set(step, _moved(step, labels, before, after))


def _moved(step: Step, labels: Tensor, before: tuple[int, ...], after: tuple[int, ...]) -> Tensor:
    """Compact labels in the places where the step puts their axes."""
    if step.name == "squeeze":
        if len(step.args) > 1:
            asked = step.args[1] if isinstance(step.args[1], list | tuple) else [step.args[1]]
            gone = {int(axis) % len(before) for axis in asked}
        else:
            gone = set(range(len(before)))
        return labels.squeeze(tuple(axis for axis in gone if before[axis] == 1))
    if step.name == "expand":
        return labels.reshape((1,) * (len(after) - labels.dim()) + tuple(labels.shape))
    if step.name == "repeat":
        labels = labels.reshape((1,) * (len(after) - labels.dim()) + tuple(labels.shape))
        times = [count if size > 1 else 1 for count, size in zip(step.args[1], labels.shape, strict=True)]
        return labels.repeat(times)
    return tree_call(step, labels)


def _move_weight(flow: Flow, step: Step, source: WeightLabels) -> WeightLabels | None:
    """A moved weight, dimension by dimension; None when its dimensions are mixed up."""
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
    before, after = flow.tape.shapes[step.reads[0]], flow.tape.shapes[step.outputs[0]]
    if step.name == "expand":
        front = len(after) - len(before)
        whole = all(a == b or b == 1 for a, b in zip(after[front:], before, strict=True))
        return WeightLabels((None,) * front + dims) if whole else None
    # A view that only adds or drops dimensions of size 1 keeps the order of the others.
    if [size for size in before if size > 1] == [size for size in after if size > 1] and step.name != "repeat":
        named = iter([dim for dim, size in zip(dims, before, strict=True) if size > 1])
        return WeightLabels(tuple(next(named) if size > 1 else None for size in after))
    return _merged_or_split(dims, before, after) if step.name in VIEWS else None


def _merged_or_split(dims: tuple[Dim, ...], before: tuple[int, ...], after: tuple[int, ...]) -> WeightLabels | None:
    """Trailing dimensions of a weight flattened into one, or such a one taken apart again in the old sizes."""
    merged = [axis for axis, dim in enumerate(dims) if isinstance(dim, Merged)]
    if merged:
        axis = merged[0]
        whole = dims[axis]
        assert isinstance(whole, Merged)
        opened = before[:axis] + whole.sizes + before[axis + 1 :]
        if len(merged) == 1 and [size for size in opened if size > 1] == [size for size in after if size > 1]:
            parts = dims[:axis] + whole.parts + dims[axis + 1 :]
            named = iter([dim for dim, size in zip(parts, opened, strict=True) if size > 1])
            return WeightLabels(tuple(next(named) if size > 1 else None for size in after))
        return None
    lead = [size for size in after if size > 1]
    kept = [axis for axis, size in enumerate(before) if size > 1]
    if len(lead) >= 2 and [before[axis] for axis in kept[: len(lead) - 1]] == lead[:-1]:
        rest = kept[len(lead) - 1 :]
        parts = tuple(dims[axis] for axis in rest)
        if all(part is None or isinstance(part, tuple) for part in parts):
            joined = Merged(parts, tuple(before[axis] for axis in rest))  # type: ignore[arg-type]
            front: list[Dim] = [dims[axis] for axis in kept[: len(lead) - 1]]
            order = iter([*front, joined])
            return WeightLabels(tuple(next(order) if size > 1 else None for size in after))
    return None


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
    axes = [int(axis) % labels.dim() for axis in ([where] if isinstance(where, int) else list(where))]
    labels = across(
        flow, labels, axes or list(range(labels.dim())), f"{step.name} runs across channels: pruned differs from masked"
    )
    for output in range(len(step.outputs)):
        flow.set(step, labels, output)


def across(flow: Flow, labels: Tensor, axes: list[int], reason: str) -> Tensor:
    """Labels behind an operator that mixes along ``axes``. Rows that channels were cut into become one; else a lock."""
    lies = varying(labels)
    inside = [axis for axis in lies if axis in axes]
    if inside and len(inside) < len(lies):
        for axis in inside:
            labels = tied_along(labels, axis, flow.book)
    elif inside:
        flow.book.mix(labels, reason)
    return labels


@on("cat")
def concatenate(flow: Flow, step: Step) -> None:
    """Channels side by side. Along another axis (tokens), the pieces' channels are tied."""
    slots = [slot_of(value) for value in step.args[0]]
    axis = int(step.args[1]) if len(step.args) > 1 else 0
    pieces = [flow.activation(slot) for slot in slots]
    axis %= len(flow.tape.shapes[step.outputs[0]])
    if not any(piece.numel() > 1 or bool((piece > 0).any()) for piece in pieces):
        flow.set(step, no_labels(len(flow.tape.shapes[step.outputs[0]])))
        return
    if all(piece.shape[axis] == 1 for piece in pieces) and any(flow.tape.shapes[slot][axis] > 1 for slot in slots):
        widest = [max(sizes) for sizes in zip(*(piece.shape for piece in pieces), strict=True)]
        if any(size > 1 for size in widest):
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
    place = 1 if step.name == "unbind" else 2
    axis = int(step.args[place]) if len(step.args) > place else 0
    labels = flow.activation(slot)
    axis %= labels.dim()
    if labels.shape[axis] == 1:
        for output in range(len(step.outputs)):
            flow.set(step, labels.squeeze(axis) if step.name == "unbind" else labels, output)
        return
    if step.name == "unbind":
        if varying(labels) == [axis]:
            flow.book.lock(labels, FIXED_CUT)
        for output in range(len(step.outputs)):
            flow.set(step, labels.select(axis, output), output)
        return
    sizes = [flow.tape.shapes[out][axis] for out in step.outputs]
    parts = list(labels.split(sizes, dim=axis))
    if len(set(sizes)) == 1:
        for part in parts[1:]:
            flow.book.tie(parts[0], part)
    else:
        flow.book.lock(labels, FIXED_CUT)
    for output, part in enumerate(parts):
        flow.set(step, part, output)


@on("glu")
def gated_linear_unit(flow: Flow, step: Step) -> None:
    """One half gates the other: they lose the same places."""
    labels = flow.activation(step.reads[0])
    axis = (int(step.args[1]) if len(step.args) > 1 else -1) % labels.dim()
    if labels.shape[axis] > 1:
        first, second = labels.chunk(2, dim=axis)
        flow.book.tie(first, second)
        labels = first
    flow.set(step, labels)


@on("slice", "select", "narrow")
def cut(flow: Flow, step: Step) -> None:
    """A part of an axis. Of channels, only one of equal parts (a half by its size) may be taken: the parts are tied."""
    before, after = flow.tape.shapes[step.reads[0]], flow.tape.shapes[step.outputs[0]]
    source = flow.get(step.reads[0])
    axis = (int(step.args[1]) if len(step.args) > 1 else 0) % len(before)
    if isinstance(source, WeightLabels) and (before == after or source.dims[axis] is None):
        dims = source.dims if step.name != "select" else source.dims[:axis] + source.dims[axis + 1 :]
        flow.set(step, WeightLabels(dims))
        return
    labels = flow.activation(step.reads[0])
    if labels.shape[axis] == 1 or before == after:
        flow.set(step, labels.squeeze(axis) if step.name == "select" else labels)
    elif step.name == "select":
        if varying(labels) == [axis]:
            flow.book.lock(labels, FIXED_CUT)
        flow.set(step, labels.select(axis, int(step.args[2])))
    else:
        flow.set(step, _part(flow, step, labels, axis, before[axis], after[axis]))


def _part(flow: Flow, step: Step, labels: Tensor, axis: int, whole: int, size: int) -> Tensor:
    start = step.args[2] if len(step.args) > 2 and step.args[2] is not None else 0
    start = max(0, start + whole if start < 0 else start)
    stride = step.args[4] if step.name == "slice" and len(step.args) > 4 else 1
    if size > 1 and stride == 1 and whole % size == 0 and start % size == 0:
        for part in labels.split(size, dim=axis)[1:]:
            flow.book.tie(labels.narrow(axis, 0, size), part)
    else:
        flow.book.lock(labels, FIXED_CUT)
    moved: Tensor = torch.ops.aten.slice(labels, axis, start, start + size * stride, stride)
    return moved


@on("index", "index_select", "gather")
def index(flow: Flow, step: Step) -> None:
    """Picking positions leaves channels alone; picking channels needs the index, which a buffer may tell."""
    rank = len(flow.tape.shapes[step.outputs[0]])
    source = flow.get(step.reads[0])
    if step.name == "index":
        taken = [axis for axis, value in enumerate(step.args[1]) if value is not None]
        picked = {axis: flow.tape.shapes[slot_of(step.args[1][axis])] for axis in taken}
    elif step.name == "index_select":
        taken = [int(step.args[1]) % len(flow.tape.shapes[step.reads[0]])]
        picked = {taken[0]: flow.tape.shapes[slot_of(step.args[2])]}
    else:
        unknown(flow, step)
        return
    if isinstance(source, WeightLabels):
        rest = [axis for axis in source.named if axis not in taken]
        labels = flow.along_dim(source, rest[0]) if len(rest) == 1 else flow.activation(step.reads[0])
    else:
        labels = source
    if any(labels.shape[axis] > 1 for axis in taken):
        flow.book.lock(labels, "an index picks some of its channels")
        flow.set(step, _chosen(flow, step, labels, taken, rank))
        return
    narrow = [
        None if axis not in picked else torch.zeros(picked[axis], dtype=torch.int64)
        for axis in range(len(labels.shape))
    ]
    result: Any = torch.ops.aten.index(labels, narrow)
    flow.set(step, compact(result))


def _chosen(flow: Flow, step: Step, labels: Tensor, taken: list[int], rank: int) -> Tensor:
    """Labels of the channels that a buffer's numbers pick, as far as they can be known."""
    slot = slot_of(step.args[2]) if step.name == "index_select" else slot_of(step.args[1][taken[0]])
    name = flow.tape.state.get(slot)
    if name is None or flow.constant is None or len(taken) != 1 or len(flow.tape.shapes[slot]) != 1:
        return no_labels(rank)
    places: list[Tensor | None] = [None] * labels.dim()
    places[taken[0]] = flow.constant(name).cpu()
    chosen: Tensor = torch.ops.aten.index(labels, places)
    return chosen


@on("constant_pad_nd")
def pad(flow: Flow, step: Step) -> None:
    """Padding beside channels is of fixed width: those new places stay."""
    labels = flow.activation(step.reads[0])
    amounts = list(step.args[1])
    for number in range(len(amounts) // 2):
        axis = labels.dim() - 1 - number
        if labels.shape[axis] == 1 and not (axis == 1 and flow.tape.shapes[step.reads[0]][1] == 1):
            continue
        before, after = int(amounts[2 * number]), int(amounts[2 * number + 1])
        if before < 0 or after < 0:
            flow.book.lock(labels, FIXED_CUT)
            flow.set(step, no_labels(labels.dim()))
            return
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


@on("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(flow: Flow, step: Step) -> None:
    """Shuffle: r x r channels become one and leave together. Unshuffle: one becomes r x r that do."""
    channels = flow.along(step.reads[0], 1, step.name.replace("_", " "))
    rank, square = len(flow.tape.shapes[step.outputs[0]]), int(step.args[1]) ** 2
    if channels is None:
        flow.set(step, no_labels(rank))
        return
    if step.name == "pixel_unshuffle":
        made = channels.repeat_interleave(square)
    else:
        rows = channels.reshape(-1, square)
        flow.book.tie(rows[:, :1], rows)
        made = rows[:, 0]
    flow.set(step, made.reshape(1, -1, 1, 1))


@on("im2col", "col2im")
def unfold(flow: Flow, step: Step) -> None:
    """Unfold: one channel becomes the places of its window, side by side, which leave together. Fold: back again."""
    channels = flow.along(step.reads[0], 1, step.name)
    rank = len(flow.tape.shapes[step.outputs[0]])
    if channels is None:
        flow.set(step, no_labels(rank))
        return
    window = math.prod(step.args[1 if step.name == "im2col" else 2])
    if step.name == "im2col":
        made = channels.repeat_interleave(window)
    else:
        rows = channels.reshape(-1, window)
        flow.book.tie(rows[:, :1], rows)
        made = rows[:, 0]
    flow.set(step, made.reshape(1, -1, *[1] * (rank - 2)))


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
