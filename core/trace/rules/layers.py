"""Layers with weights: where channels are born, passed on one by one, or mixed."""

from __future__ import annotations

from torch import Tensor

from core.trace.graph import Ref, Step
from core.trace.labels import WeightLabels, no_labels
from core.trace.rules.flow import Flow, on, slot_of

MIXING_NORM = "its normalisation mixes channels: pruned would differ from masked"


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
