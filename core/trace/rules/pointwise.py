"""Operators that keep channels where they are: position by position, pooling, sums over space."""

from __future__ import annotations

import torch
from torch import Tensor

from core.trace.graph import Step
from core.trace.labels import WeightLabels, compact, no_labels
from core.trace.rules.flow import ANY_POINTWISE, Flow, on

POINTWISE_UNTAGGED = {
    "hardswish", "hardtanh", "hardsigmoid", "prelu", "_prelu_kernel", "dropout", "where", "copysign", "copy",
    "zeros_like", "ones_like", "full_like", "empty_like",
}  # fmt: skip
SAME = {"clone", "detach", "alias", "lift_fresh_copy", "_to_copy", "contiguous", "to", "native_dropout"}
SPATIAL = {
    "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d", "upsample_bicubic2d",
    "upsample_linear1d", "upsample_trilinear3d", "_upsample_bilinear2d_aa", "_upsample_nearest_exact2d",
    "reflection_pad1d", "reflection_pad2d", "replication_pad2d", "max_pool2d", "max_pool1d",
}  # fmt: skip
REDUCTIONS = {"mean", "sum", "amax", "amin", "var", "std", "linalg_vector_norm", "norm", "logsumexp", "all", "any"}


@on(*SAME)
def same(flow: Flow, step: Step) -> None:
    flow.set(step, flow.get(step.reads[0]))


@on(*SPATIAL)
def spatial(flow: Flow, step: Step) -> None:
    """Pooling and resizing: channels pass, each alone."""
    labels = flow.activation(step.reads[0])
    if any(size > 1 for size in labels.shape[2:]):
        flow.book.lock(labels, f"{step.name} runs across channels")
        return
    for output in range(len(step.outputs)):
        flow.set(step, labels, output)


@on(*REDUCTIONS)
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


@on(ANY_POINTWISE, *POINTWISE_UNTAGGED)
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


@on("new_zeros", "new_ones", "new_full", "new_empty")
def new_constant(flow: Flow, step: Step) -> None:
    """Only kind and place are read from the tensor it is called on; its size stands in the code."""
