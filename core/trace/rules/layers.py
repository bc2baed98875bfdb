"""Layers with weights: where channels are born, passed on one by one, or mixed."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from core.trace.graph import Ref, Step
from core.trace.labels import Dim, Merged, WeightLabels, no_labels, tied_along, varying
from core.trace.rules.flow import Flow, on, slot_of
from core.trace.rules.products import product

MIXING_NORM = "its normalisation mixes channels: pruned differs from masked"
STANDARDISED = "weights are standardised over all that they read: pruned differs from masked"


@on("convolution")
def convolution(flow: Flow, step: Step) -> None:
    """Fresh channels out, channels in read by the weight; grouped ones keep whole groups together."""
    x, weight, bias = slot_of(step.args[0]), flow.get(slot_of(step.args[1])), step.args[2]
    transposed, groups = bool(step.args[6]), int(step.args[8])
    shape = flow.tape.shapes[slot_of(step.args[1])]
    if not isinstance(weight, WeightLabels) or any(isinstance(dim, Merged) for dim in weight.dims):
        flow.book.lock(flow.get(x), "its convolution's weight is computed")
        flow.book.lock(weight, "its convolution's weight is computed")
        flow.set(step, no_labels(len(shape)))
        return
    read = flow.along(x, 1, "convolution")
    note_computed(flow, slot_of(step.args[1]), weight)
    if groups == 1:
        into, made = (weight.dims[0], weight.dims[1]) if transposed else (weight.dims[1], weight.dims[0])
        out = read_and_make(flow, read, into, made)
    else:
        made_here = flow.tape.shapes[step.outputs[0]][1]
        out = _grouped(flow, weight, read, groups, made_here, transposed)
        if out is None and read is not None and len(read) == groups == made_here:
            if slot_of(step.args[1]) in flow.tape.constants:
                flow.book.lock(read, "meets a tensor of fixed width")
            out = read  # one filter, repeated for every channel
    add_bias(flow, out, bias, "producer" if groups == 1 else "follower")
    out = no_labels(1).reshape(-1) if out is None else out
    flow.set(step, out.reshape((1, -1) + (1,) * (len(shape) - 2)))


def note_computed(flow: Flow, slot: int, weight: WeightLabels) -> None:
    if slot not in flow.raw:
        flow.book.computed.update(dim[0] for dim in weight.dims if isinstance(dim, tuple))


def read_and_make(flow: Flow, read: Tensor | None, into: Dim, made: Dim) -> Tensor | None:
    """A layer that mixes: its weight reads ``read`` along one dimension and makes channels along the other."""
    book = flow.book
    book.set_role(into, "consumer")
    book.set_role(made, "producer")
    if read is not None and into is not None:
        if into in book.shifted:
            book.mix(read, book.shifted[into])
        book.join(read, into)
    elif read is not None:
        book.lock(read, "a layer's only input channel")
    return book.vector(made)


def add_bias(flow: Flow, out: Tensor | None, bias: Any, role: str) -> None:
    if isinstance(bias, Ref) and out is not None:
        labels = flow.get(bias.slot)
        if isinstance(labels, WeightLabels):
            for axis in labels.named:
                flow.book.set_role(labels.dims[axis], role)
        join_vector(flow, out, bias.slot)


def join_vector(flow: Flow, channels: Tensor, slot: int) -> None:
    """A vector (bias, scale, statistic) holds one number for each of ``channels``."""
    if flow.adopted(slot, channels):
        return
    labels = flow.get(slot)
    if isinstance(labels, WeightLabels) and len(labels.named) == 1:
        flow.book.join(channels, labels.dims[labels.named[0]])
    elif isinstance(labels, WeightLabels) and labels.named:
        flow.book.lock(channels, "meets a weight in a way that has no rule")
        flow.book.lock(labels, "meets a weight in a way that has no rule")
    elif isinstance(labels, Tensor) and bool((labels > 0).any()):
        flow.book.tie(channels, labels.reshape(-1))
    elif len(channels) == flow.tape.shapes[slot][-1] > 1:
        flow.book.lock(channels, "meets a tensor of fixed width")


def _grouped(
    flow: Flow, weight: WeightLabels, read: Tensor | None, groups: int, n_out: int, transposed: bool
) -> Tensor | None:
    """Depthwise and grouped convolution: tie what belongs to one group; only whole groups may leave."""
    book, per_group_out, dim = flow.book, n_out // groups, weight.dims[0]
    depthwise = not transposed and per_group_out == 1 and read is not None and len(read) == groups
    if dim is not None and read is not None and (depthwise or (transposed and len(read) == book.sizes[dim])):  # type: ignore[index]
        book.join(read, dim)  # before it gets labels of its own
    first = book.vector(dim)
    if first is None:
        return None
    rows = first.reshape(groups, -1)
    out = rows[:, :1].expand(groups, per_group_out).reshape(-1) if transposed else first
    if rows.shape[1] > 1:
        book.tie(rows[:, :1], rows)
    # Reading channels that nobody here made (the image), a grouped convolution is where channels begin.
    book.set_role(dim, "follower" if read is not None else "producer")
    if read is None:
        book.lock(first, "a grouped convolution reads the network's input")
    elif not depthwise:
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
    if not isinstance(weight, WeightLabels) or isinstance(flow.get(slot_of(x)), WeightLabels) or len(weight.dims) != 2:
        product(flow, step)
        return
    into, made = (weight.dims[1], weight.dims[0]) if step.name == "linear" else (weight.dims[0], weight.dims[1])
    labels = flow.activation(slot_of(x))
    if labels.numel() > 1 and labels.shape[-1] == 1:
        # It mixes positions (MLP-Mixer's tokens): the channels on the other axes pass.
        flow.book.lock(weight, "a linear layer mixes positions here, not channels")
        flow.set(step, labels)
        return
    read = flow.along(slot_of(x), -1, "linear layer")
    note_computed(flow, slot_of(w), weight)
    out = read_and_make(flow, read, into, made)
    add_bias(flow, out, bias, "producer")
    rank = len(flow.tape.shapes[step.outputs[0]])
    flow.set(step, (no_labels(1) if out is None else out).reshape((1,) * (rank - 1) + (-1,)))


@on(
    "native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit",
    "cudnn_batch_norm", "_batch_norm_with_update", "miopen_batch_norm",
)  # fmt: skip
def batch_norm(flow: Flow, step: Step) -> None:
    """Every channel alone. On a weight (weight standardisation): its outputs alone, its inputs together."""
    source = flow.get(slot_of(step.args[0]))
    if isinstance(source, WeightLabels):
        for axis, dim in enumerate(source.dims):
            if axis != 1:
                flow.book.mix_dim(dim, STANDARDISED)
        channels = flow.book.vector(source.dims[1])
    else:
        channels = flow.along(slot_of(step.args[0]), 1, "batch norm")
    for value in step.args[1:5]:
        if isinstance(value, Ref):
            if channels is None:
                flow.book.lock(flow.get(value.slot), "normalises channels that have no layer")
            else:
                join_vector(flow, channels, value.slot)
    if isinstance(source, Tensor) and len(varying(source)) > 1 and channels is not None:
        source = channels.reshape([-1 if axis == 1 else 1 for axis in range(source.dim())])
    flow.set(step, source)


@on("native_group_norm")
def group_norm(flow: Flow, step: Step) -> None:
    """Statistics are shared inside a group: only whole groups may leave."""
    x, weight, bias = step.args[0], step.args[1], step.args[2]
    groups = int(step.args[6])
    channels = flow.along(slot_of(x), 1, "group norm")
    if channels is not None:
        rows = channels.reshape(groups, -1)
        if groups == 1:
            flow.book.mix(channels, MIXING_NORM)
        else:
            if not isinstance(weight, Ref):
                flow.book.lock(channels, "its group norm has no weights that could tell the new number of groups")
            flow.book.tie(rows[:, :1], rows)
        for value in (weight, bias):
            if isinstance(value, Ref):
                join_vector(flow, channels, value.slot)
    flow.set(step, flow.get(slot_of(x)))


@on("native_layer_norm", "_fused_rms_norm", "rms_norm")
def layer_norm(flow: Flow, step: Step) -> None:
    """Over channels it mixes them. Over the width of an attention head it only keeps the head together."""
    labels = flow.activation(slot_of(step.args[0]))
    rank, count = labels.dim(), len(step.args[1])
    inside = [axis for axis in varying(labels) if axis >= rank - count]
    if len(varying(labels)) > len(inside):
        for axis in inside:
            labels = tied_along(labels, axis, flow.book)
        inside = []
    for value in step.args[2:4]:
        if isinstance(value, Ref):
            if not inside:
                flow.book.lock(flow.get(value.slot), "normalises positions of a fixed number")
            elif count == 1:
                join_vector(flow, labels.reshape(-1), value.slot)
            else:
                flow.book.lock(flow.get(value.slot), MIXING_NORM)
                flow.book.lock(labels, MIXING_NORM)
    if inside:
        flow.book.mix(labels, MIXING_NORM)
        if count > 1:
            flow.book.lock(labels, MIXING_NORM)
    flow.set(step, labels)
    for output in range(1, len(step.outputs)):  # statistics: one per position
        flow.set(step, no_labels(rank) if inside else labels, output)


@on("_weight_norm_interface", "_weight_norm")
def weight_norm(flow: Flow, step: Step) -> None:
    """Weight = length x direction / |direction|: both carry the outputs, the direction also the inputs."""
    direction, length = flow.get(slot_of(step.args[0])), flow.get(slot_of(step.args[1]))
    axis = int(step.args[2]) if len(step.args) > 2 else 0
    names = [flow.tape.state.get(slot_of(value)) for value in step.args[:2]]
    if not isinstance(direction, WeightLabels) or not isinstance(length, WeightLabels) or None in names:
        for slot in step.reads:
            flow.book.lock(flow.get(slot), "its weight's norm is computed in a way that has no rule")
        return
    made = flow.book.vector(direction.dims[axis])
    if made is not None and length.named == [axis % len(length.dims)]:
        flow.book.join(made, length.dims[axis])
    elif length.named or made is None:
        flow.book.lock(direction, "its weight's norm is computed in a way that has no rule")
    else:
        flow.book.lock(made, "its weight's norm is taken over all its channels")
    flow.book.norms.append((str(names[0]), str(names[1])))
    flow.set(step, direction)


@on("mv", "dot", "vdot")
def whole_weight(flow: Flow, step: Step) -> None:
    """Spectral norm: one number from a whole weight."""
    for slot in step.reads:
        flow.book.lock(flow.get(slot), "its weight is divided by a norm of the whole weight")


@on("embedding")
def embedding(flow: Flow, step: Step) -> None:
    weight = flow.get(slot_of(step.args[0]))
    rank = len(flow.tape.shapes[step.outputs[0]])
    vector = flow.book.vector(weight.dims[1]) if isinstance(weight, WeightLabels) else None
    if isinstance(weight, WeightLabels):
        flow.book.set_role(weight.dims[1], "producer")
    flow.set(step, no_labels(rank) if vector is None else vector.reshape((1,) * (rank - 1) + (-1,)))
