"""Operators that keep channels where they are: position by position, pooling, sums over space."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from core.trace.graph import Step
from core.trace.labels import Dim, WeightLabels, compact, no_labels, tied_along, varying
from core.trace.rules.flow import ANY_POINTWISE, Flow, on

POINTWISE_UNTAGGED = {
    "hardswish", "hardtanh", "hardsigmoid", "prelu", "_prelu_kernel", "dropout", "where", "copysign", "copy",
    "zero", "fill", "bernoulli", "normal", "uniform", "zeros_like", "ones_like", "full_like", "empty_like",
}  # fmt: skip
SAME = {"clone", "detach", "alias", "lift_fresh_copy", "_to_copy", "contiguous", "to", "native_dropout"}
SPATIAL = {
    "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d", "upsample_bicubic2d",
    "upsample_linear1d", "upsample_trilinear3d", "_upsample_bilinear2d_aa", "_upsample_nearest_exact2d",
    "reflection_pad1d", "reflection_pad2d", "replication_pad2d", "max_pool2d", "max_pool1d",
}  # fmt: skip
REDUCTIONS = {
    "mean", "sum", "amax", "amin", "max", "min", "var", "std", "linalg_vector_norm", "norm", "logsumexp", "all", "any",
}  # fmt: skip


@on(*SAME)
def same(flow: Flow, step: Step) -> None:
    flow.set(step, flow.get(step.reads[0]))


@on(*SPATIAL)
def spatial(flow: Flow, step: Step) -> None:
    """Pooling and resizing: channels pass, each alone."""
    labels = flow.activation(step.reads[0])
    if any(size > 1 for size in labels.shape[2:]):
        if labels.shape[1] == 1:
            flow.book.lock(labels, f"{step.name} runs across channels")
            flow.set(step, no_labels(labels.dim()))
            return
        for axis in range(2, labels.dim()):
            labels = tied_along(labels, axis, flow.book)
    for output in range(len(step.outputs)):
        flow.set(step, labels, output)


@on(*REDUCTIONS)
def reduce(flow: Flow, step: Step) -> None:
    """Sums over space keep the channels; sums over channels lock them; sums over rows of channels tie the rows."""
    slot = step.reads[0]
    source = flow.get(slot)
    rank = len(flow.tape.shapes[slot])
    dims = next((arg for arg in step.args[1:] if isinstance(arg, list | tuple)), None)
    if dims is None:
        dims = [step.args[1]] if len(step.args) > 1 and step.name != "linalg_vector_norm" else list(range(rank))
    axes = sorted({int(dim) % rank for dim in dims if isinstance(dim, int)} or range(rank))
    kept_dim = len(flow.tape.shapes[step.outputs[0]]) == rank
    if isinstance(source, WeightLabels) and len(source.named) > 1:
        for axis in axes:
            flow.book.mix_dim(
                source.dims[axis], "weights are normalised over all that they read: pruned differs from masked"
            )
        left = [None if axis in axes else dim for axis, dim in enumerate(source.dims)]
        kept = tuple(left if kept_dim else [dim for axis, dim in enumerate(left) if axis not in axes])
        for output in range(len(step.outputs)):
            flow.set(step, WeightLabels(kept), output)
        return
    labels = flow.activation(slot)
    lies = varying(labels)
    inside = [axis for axis in lies if axis in axes]
    if inside and len(inside) == len(lies):
        flow.book.mix(labels, f"{step.name} runs over channels: pruned differs from masked")
        labels = no_labels(rank)
    for axis in inside if labels.numel() > 1 else ():
        labels = tied_along(labels, axis, flow.book)
    for output in range(len(step.outputs)):
        flow.set(step, labels if kept_dim else labels.squeeze(tuple(axes)), output)


@on(ANY_POINTWISE, *POINTWISE_UNTAGGED)
def pointwise(flow: Flow, step: Step) -> None:
    """Position by position: channels that meet are tied."""
    shape = flow.tape.shapes[step.outputs[0]]
    rank = len(shape)
    sources = [(slot, flow.get(slot)) for slot in dict.fromkeys(step.reads)]
    weights_only = [(slot, labels) for slot, labels in sources if isinstance(labels, WeightLabels)]
    rest = [slot for slot, labels in sources if not isinstance(labels, WeightLabels)]
    if weights_only and all(math.prod(flow.tape.shapes[slot]) == 1 for slot in rest):
        flow.set(step, _weights(flow, step, weights_only, rank))
        return
    operands: list[Tensor] = []
    weights: list[WeightLabels] = []
    fixed: list[int] = []
    for slot, labels in sources:
        if isinstance(labels, WeightLabels):
            if labels.named:
                weights.append(labels)
            continue
        if len(labels.shape) < rank:
            labels = labels.reshape((1,) * (rank - labels.dim()) + tuple(labels.shape))
        if _empty(labels):
            fixed.append(slot)
        else:
            operands.append(labels)
    if not operands and weights:
        many = [labels for labels in weights if len(labels.named) > 1]
        for labels in many:
            flow.book.lock(labels, "a weight is used in a way that has no rule")
        single = [labels for labels in weights if len(labels.named) == 1]
        operands = [flow.along_dim(labels, labels.named[0]) for labels in single]
        operands = [labels.reshape((1,) * (rank - labels.dim()) + tuple(labels.shape)) for labels in operands]
        weights = []
    if not operands:
        flow.set(step, no_labels(rank))
        return
    base = operands[0]
    for other in operands[1:]:
        if other is not base:
            flow.book.tie(base, other)
            if base.shape != other.shape:
                base, other = torch.broadcast_tensors(base, other)
                base = compact(torch.where(base > 0, base, other))
    for slot in fixed:
        # A tensor of full width without channels of its own: its width would not follow.
        sizes = (1,) * (rank - len(flow.tape.shapes[slot])) + flow.tape.shapes[slot]
        if any(size > 1 and width > 1 for size, width in zip(base.shape, sizes, strict=True)):
            flow.book.lock(base, "meets a tensor of fixed width")
    for labels in weights:
        _join_weight(flow, base, labels)
    for output in range(len(step.outputs)):
        flow.set(step, base, output)


def _empty(labels: Tensor) -> bool:
    return labels.numel() == 1 and not int(labels.reshape(-1)[0])


def _join_weight(flow: Flow, labels: Tensor, weight: WeightLabels) -> None:
    """A weight (scale, position embedding) meets channels: join the dimension that they run along."""
    axes = varying(labels)
    offset = labels.dim() - len(weight.dims)
    met = [axis for axis in axes if axis >= offset and weight.dims[axis - offset] is not None]
    if not axes or not met:
        if axes and weight.named:
            flow.book.lock(weight, "scales positions of a fixed number")
        return
    for axis in met:
        if len(axes) == 1:
            flow.book.join(labels.reshape(-1), weight.dims[axis - offset])
        else:
            known = flow.book.vector(weight.dims[axis - offset])
            shape = [-1 if other == axis else 1 for other in range(labels.dim())]
            if known is not None:
                flow.book.tie(labels, known.reshape(shape))


ZERO_STAYS = {"mul", "div", "neg", "clone", "copy", "abs", "sign", "round", "relu", "tanh"}


def _weights(flow: Flow, step: Step, sources: list[tuple[int, WeightLabels]], rank: int) -> WeightLabels:
    """Weights computed from weights (scaled, standardised). Inputs stay free only where a zero stays a zero."""
    name = step.name.rstrip("_")
    dims: list[Dim] = []
    for axis in range(rank):
        met = [labels.dims[axis - rank + len(labels.dims)] for _, labels in sources if axis >= rank - len(labels.dims)]
        here = list(dict.fromkeys(dim for dim in met if dim is not None))
        alone = len(here) == 1 and len([dim for dim in met if dim is not None]) == len(step.reads)
        divided = name == "div" and len(sources) > 1 and len(met) == len(sources) and met[-1] is not None
        if (name not in ZERO_STAYS and not alone) or divided:  # nothing divided by nothing is no zero
            for dim in here:
                flow.book.shift_dim(dim, "weights are shifted before use: pruned differs from masked")
        for dim in here[1:]:
            first = flow.book.vector(here[0])
            if first is not None:
                flow.book.join(first, dim)
        dims.append(here[0] if here else None)
    return WeightLabels(tuple(dims))


@on("new_empty")
def new_empty(flow: Flow, step: Step) -> None:
    """Memory to be written to (circular padding): as wide as the tensor it is called on, it takes its channels.

    The trial tells a width that is taken from that tensor from one that stands in the code.
    """
    labels, sizes = flow.get(step.reads[0]), flow.tape.shapes[step.outputs[0]]
    follows = isinstance(labels, Tensor) and varying(labels) == [1] and len(sizes) == labels.dim()
    if follows and sizes[:2] == flow.tape.shapes[step.reads[0]][:2]:
        flow.set(step, labels)


@on("grid_sampler_2d", "grid_sampler_3d")
def sampled(flow: Flow, step: Step) -> None:
    """Channels are read at other places; the places themselves are no channels."""
    flow.book.lock(flow.get(step.reads[1]), "says where to sample")
    spatial(flow, step)


@on("affine_grid_generator")
def grid(flow: Flow, step: Step) -> None:
    flow.book.lock(flow.get(step.reads[0]), "says where to sample")


@on("new_zeros", "new_ones", "new_full")
def new_constant(flow: Flow, step: Step) -> None:
    """Only kind and place are read from the tensor it is called on; its size stands in the code."""
