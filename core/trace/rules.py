"""How channel labels pass through operators: one small rule per kind of operator.

Operators that only move data are run on the label tensor itself, so a new one costs a name in a set. An operator
without a rule locks the channels it touches and is reported by name: nothing is guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from core.trace.graph import Ref, Step, Tape, tree_slots
from core.trace.labels import LabelBook, WeightLabels, compact, no_labels

Labels = Tensor | WeightLabels
Rule = Callable[["Flow", Step], None]
RULES: dict[str, Rule] = {}

POINTWISE_UNTAGGED = {"hardswish", "hardtanh", "hardsigmoid", "prelu", "_prelu_kernel", "dropout", "where", "copysign"}
SAME = {"clone", "detach", "alias", "lift_fresh_copy", "_to_copy", "contiguous", "to", "native_dropout"}
MOVES = {
    "view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "unsqueeze", "squeeze",
    "expand", "repeat", "flatten",
}  # fmt: skip
SPATIAL = {
    "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d", "upsample_bicubic2d",
    "upsample_linear1d", "upsample_trilinear3d", "_upsample_bilinear2d_aa", "_upsample_nearest_exact2d",
    "reflection_pad1d", "reflection_pad2d", "replication_pad2d", "max_pool2d", "max_pool1d",
}  # fmt: skip
REDUCTIONS = {"mean", "sum", "amax", "amin", "var", "std", "linalg_vector_norm", "norm", "logsumexp", "all", "any"}
MIXING_NORM = "its normalisation mixes channels: pruned would differ from masked"


class Flow:
    """Labels of every slot while the tape is walked once."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.book = LabelBook()
        self.slots: dict[int, Labels] = {}
        self.unknown: Counter[str] = Counter()

    def run(self) -> None:
        for step in self.tape.steps:
            rule(step)(self, step)
        for slot in self.tape.output_slots:
            self.book.lock(self.get(slot), "feeds the output")

    def get(self, slot: int) -> Labels:
        if slot not in self.slots:
            shape = self.tape.shapes[slot]
            name = self.tape.state.get(slot)
            self.slots[slot] = self.book.weight(name, shape) if name else no_labels(len(shape))
        return self.slots[slot]

    def activation(self, slot: int) -> Tensor:
        """Labels as a tensor; a weight with several labelled dimensions is locked and counts as unlabelled."""
        labels = self.get(slot)
        if isinstance(labels, Tensor):
            return labels
        as_tensor = labels.compact()
        if as_tensor is None:
            self.book.lock(labels, "a weight is used in a way that has no rule")
            return no_labels(len(labels.dims))
        return as_tensor

    def along(self, slot: int, axis: int, what: str) -> Tensor | None:
        """Channel labels of a slot along ``axis``, one per position; None when no channels live there.

        Locks them when they also change along another axis.
        """
        labels = self.activation(slot)
        axis %= labels.dim()
        if any(size > 1 for other, size in enumerate(labels.shape) if other != axis):
            self.book.lock(labels, f"{what} reads its channels in a mixed order")
            return None
        size = self.tape.shapes[slot][axis]
        vector = labels.reshape(-1).expand(size) if labels.numel() == 1 else labels.reshape(-1)
        if not bool((vector > 0).any()):
            return None
        return vector

    def set(self, step: Step, labels: Labels, output: int = 0) -> None:
        self.slots[step.outputs[output]] = labels

    def full(self, slot: int) -> Tensor:
        return self.activation(slot).expand(self.tape.shapes[slot])


def rule(step: Step) -> Rule:
    name = step.name[:-1] if step.in_place and step.name.endswith("_") else step.name
    if name in RULES:
        return RULES[name]
    if name in SAME:
        return same
    if name in MOVES:
        return move
    if name in SPATIAL:
        return spatial
    if name in REDUCTIONS:
        return reduce
    if torch.Tag.pointwise in step.op.tags or name in POINTWISE_UNTAGGED:
        return pointwise
    return unknown if step.reads else constant


def on(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def slot_of(value: Any) -> int:
    assert isinstance(value, Ref)
    return value.slot


def constant(flow: Flow, step: Step) -> None:
    """A tensor made from nothing: no channels in it."""


def unknown(flow: Flow, step: Step) -> None:
    flow.unknown[step.name] += 1
    for slot in step.reads:
        flow.book.lock(flow.get(slot), f"operator {step.name} has no rule")


def same(flow: Flow, step: Step) -> None:
    flow.set(step, flow.get(step.reads[0]))


def spatial(flow: Flow, step: Step) -> None:
    """Pooling and resizing: channels pass, each alone."""
    labels = flow.activation(step.reads[0])
    if any(size > 1 for size in labels.shape[2:]):
        flow.book.lock(labels, f"{step.name} runs across channels")
        return
    for output in range(len(step.outputs)):
        flow.set(step, labels, output)


def reduce(flow: Flow, step: Step) -> None:
    """Sums over space keep the channels; sums over channels lock them."""
    slot = step.reads[0]
    labels = flow.activation(slot)
    rank = labels.dim()
    dims = next((arg for arg in step.args[1:] if isinstance(arg, list | tuple)), None)
    if dims is None:
        dims = [step.args[1]] if len(step.args) > 1 and step.name != "linalg_vector_norm" else list(range(rank))
    axes = sorted({int(dim) % rank for dim in dims} or range(rank))
    if any(labels.shape[axis] > 1 for axis in axes):
        flow.book.lock(labels, f"{step.name} runs over channels")
        return
    kept_dim = len(flow.tape.shapes[step.outputs[0]]) == rank
    for output in range(len(step.outputs)):
        flow.set(step, labels if kept_dim else labels.squeeze(tuple(axes)), output)


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


def pointwise(flow: Flow, step: Step) -> None:
    """Position by position: channels that meet are tied."""
    shape = flow.tape.shapes[step.outputs[0]]
    rank = len(shape)
    operands: list[Tensor] = []
    weights: list[WeightLabels] = []
    fixed: list[int] = []
    for slot in dict.fromkeys(step.reads):
        labels = flow.get(slot)
        as_tensor = labels.compact() if isinstance(labels, WeightLabels) else labels
        if as_tensor is None:
            assert isinstance(labels, WeightLabels)
            weights.append(labels)
            continue
        as_tensor = as_tensor.reshape((1,) * (rank - as_tensor.dim()) + tuple(as_tensor.shape))
        operands.append(as_tensor)
        if not bool((as_tensor > 0).any()):
            fixed.append(slot)
    labelled = [labels for labels in operands if bool((labels > 0).any())]
    if not labelled:
        for many in weights:
            flow.book.lock(many, "a weight is used in a way that has no rule")
        flow.set(step, no_labels(rank))
        return
    base = labelled[0]
    for other in labelled[1:]:
        flow.book.tie(base, other)
        base, other = torch.broadcast_tensors(base, other)
        base = compact(torch.where(base > 0, base, other))
    for slot in fixed:
        # A tensor of full width without channels of its own: its width would not follow.
        sizes = (1,) * (rank - len(flow.tape.shapes[slot])) + flow.tape.shapes[slot]
        if any(size > 1 and width > 1 for size, width in zip(base.shape, sizes, strict=True)):
            flow.book.lock(base, "meets a tensor of fixed width")
    for many in weights:
        _tie_weight(flow, base, many)
    for output in range(len(step.outputs)):
        flow.set(step, base, output)


def _tie_weight(flow: Flow, labels: Tensor, weight: WeightLabels) -> None:
    """A weight with several dimensions (a position embedding) meets channels: tie the dimension they run along."""
    varying = [axis for axis, size in enumerate(labels.shape) if size > 1]
    axis = varying[0] - labels.dim() + len(weight.dims) if len(varying) == 1 else -1
    vector = weight.dims[axis] if 0 <= axis < len(weight.dims) else None
    if vector is None:
        flow.book.lock(labels, "meets a weight in a way that has no rule")
        flow.book.lock(weight, "meets a weight in a way that has no rule")
        return
    flow.book.tie(labels.reshape(-1), vector)


@on("convolution")
def convolution(flow: Flow, step: Step) -> None:
    """Fresh channels out, channels in read by the weight; grouped ones keep whole groups together."""
    x, weight, bias = slot_of(step.args[0]), flow.get(slot_of(step.args[1])), step.args[2]
    transposed, groups = bool(step.args[6]), int(step.args[8])
    if not isinstance(weight, WeightLabels):
        flow.book.lock(flow.get(x), "its convolution's weight is computed")
        flow.book.lock(weight, "its convolution's weight is computed")
        return
    read = flow.along(x, 1, "convolution")
    shape = flow.tape.shapes[slot_of(step.args[1])]
    n_out = flow.tape.shapes[step.outputs[0]][1]
    book = flow.book
    if groups == 1:
        into, out = (weight.dims[0], weight.dims[1]) if transposed else (weight.dims[1], weight.dims[0])
        book.set_role(into, "consumer")
        book.set_role(out, "producer")
        if read is not None and into is not None:
            book.tie(read, into)
        elif read is not None:
            book.lock(read, "a layer's only input channel")
    else:
        out = _grouped(flow, weight, read, groups, n_out, shape, transposed)
    out = no_labels(1).reshape(-1) if out is None else out
    if isinstance(bias, Ref):
        vector = flow.activation(bias.slot).reshape(-1)
        book.tie(out.expand(n_out) if len(out) == 1 else out, vector.expand(n_out) if len(vector) == 1 else vector)
        book.set_role(vector, "producer" if groups == 1 else "follower")
    flow.set(step, out.reshape((1, -1) + (1,) * (len(shape) - 2)))


def _grouped(
    flow: Flow,
    weight: WeightLabels,
    read: Tensor | None,
    groups: int,
    n_out: int,
    shape: tuple[int, ...],
    transposed: bool,
) -> Tensor | None:
    """Depthwise and grouped convolution: tie what belongs to one group; only whole groups may leave."""
    book, per_group_out = flow.book, n_out // groups
    first = weight.dims[0]
    if first is None:
        return None
    if transposed:
        rows = first.reshape(groups, -1)
        out = rows[:, :1].expand(groups, per_group_out).reshape(-1)
    else:
        rows = first.reshape(groups, per_group_out)
        out = first
    book.tie(rows[:, :1], rows)
    # Reading channels that nobody here made (the image), a grouped convolution is where channels begin.
    book.set_role(first, "follower" if read is not None else "producer")
    if read is None:
        book.lock(first, "a grouped convolution reads the network's input")
    else:
        book.tie(rows[:, :1], read.reshape(groups, -1))
    return out


@on("addmm", "mm", "linear")
def matmul(flow: Flow, step: Step) -> None:
    """Linear layers in their ATen forms."""
    if step.name == "addmm":
        bias, x, w = step.args[0], step.args[1], step.args[2]
    else:
        x, w = step.args[0], step.args[1]
        bias = step.args[2] if len(step.args) > 2 else None
    weight = flow.get(slot_of(w))
    if not isinstance(weight, WeightLabels) or isinstance(flow.get(slot_of(x)), WeightLabels):
        product(flow, step)
        return
    into, out = (weight.dims[1], weight.dims[0]) if step.name == "linear" else (weight.dims[0], weight.dims[1])
    read = flow.along(slot_of(x), -1, "linear layer")
    flow.book.set_role(into, "consumer")
    flow.book.set_role(out, "producer")
    if read is not None and into is not None:
        flow.book.tie(read, into)
    elif read is not None:
        flow.book.lock(read, "a layer's only input channel")
    shape = flow.tape.shapes[step.outputs[0]]
    labels = out if out is not None else no_labels(1)
    if isinstance(bias, Ref):
        vector = flow.activation(bias.slot).reshape(-1)
        flow.book.tie(labels, vector)
        flow.book.set_role(vector, "producer")
    flow.set(step, labels.reshape((1,) * (len(shape) - 1) + (-1,)))


@on("bmm", "baddbmm", "matmul", "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math")
def product(flow: Flow, step: Step) -> None:
    """Two activations multiplied (attention): their channels stay."""
    for slot in step.reads:
        flow.book.lock(flow.get(slot), "a product of two activations reads it (attention)")


@on(
    "native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit",
    "cudnn_batch_norm", "_batch_norm_with_update", "miopen_batch_norm",
)  # fmt: skip
def batch_norm(flow: Flow, step: Step) -> None:
    """Every channel alone."""
    channels = flow.along(slot_of(step.args[0]), 1, "batch norm")
    for value in step.args[1:5]:
        if isinstance(value, Ref):
            vector = flow.activation(value.slot).reshape(-1)
            if channels is None:
                flow.book.lock(vector, "normalises channels that have no layer")
            else:
                flow.book.tie(channels, vector)
    flow.set(step, flow.get(slot_of(step.args[0])))


@on("native_group_norm")
def group_norm(flow: Flow, step: Step) -> None:
    """Statistics are shared inside a group: only whole groups may leave."""
    x, weight, bias = step.args[0], step.args[1], step.args[2]
    groups = int(step.args[6])
    channels = flow.along(slot_of(x), 1, "group norm")
    if channels is not None:
        rows = channels.reshape(groups, -1)
        if groups == 1:
            flow.book.lock(channels, MIXING_NORM)
        elif not isinstance(weight, Ref):
            flow.book.lock(channels, "its group norm has no weights that could tell the new number of groups")
        flow.book.tie(rows[:, :1], rows)
        for value in (weight, bias):
            if isinstance(value, Ref):
                flow.book.tie(channels, flow.activation(value.slot).reshape(-1))
    flow.set(step, flow.get(slot_of(x)))


@on("native_layer_norm", "_fused_rms_norm", "rms_norm")
def layer_norm(flow: Flow, step: Step) -> None:
    labels = flow.activation(slot_of(step.args[0]))
    flow.book.lock(labels, MIXING_NORM)
    for value in step.args[2:4]:
        if isinstance(value, Ref):
            flow.book.lock(flow.get(value.slot), MIXING_NORM)
    flow.set(step, labels)


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
        labels = pieces[0]
        for piece in pieces[1:]:
            flow.book.tie(labels, piece)
            labels = torch.where(labels > 0, labels, piece) if labels.shape == piece.shape else labels
        if any(not bool((piece > 0).any()) for piece in pieces):
            flow.book.lock(labels, "meets a tensor of fixed width")
        flow.set(step, labels)
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
