"""The shapes that common operators give, without asking the operators.

PyTorch works out a shape-only result through layers of Python: half a millisecond for a batch norm. A network calls
a few kinds of operator hundreds of times, so those few are answered here; all others, and every call with an unusual
layout of memory, go to PyTorch itself. Wrong sizes raise as there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from core.trace.memo import recalled

aten = torch.ops.aten
ASK = object()  # the answer "ask PyTorch"
Answer = Callable[..., Any]

UNARY = (
    aten.relu, aten.sigmoid, aten.silu, aten.hardswish, aten.hardtanh, aten.hardsigmoid, aten.gelu, aten.leaky_relu,
    aten.tanh, aten.elu, aten.mish, aten.exp, aten.neg, aten.rsqrt, aten.sqrt,
)  # fmt: skip
UNARY_IN_PLACE = (
    aten.relu_, aten.sigmoid_, aten.silu_, aten.hardswish_, aten.hardtanh_, aten.hardsigmoid_, aten.leaky_relu_,
    aten.tanh_, aten.elu_, aten.mish_,
)  # fmt: skip
BINARY = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)
BINARY_IN_PLACE = (aten.add_.Tensor, aten.sub_.Tensor, aten.mul_.Tensor, aten.div_.Tensor)


NOTHING = torch.empty(0, device="meta")  # what a batch norm would keep for a backward pass


def blank(x: Tensor, sizes: Any) -> Tensor:
    """A shape-only tensor. (``x.new_empty`` would work it out in Python.)"""
    return torch.empty(sizes, dtype=x.dtype, device="meta")


def run(op: Any, args: Any, kwargs: Any) -> Any:
    """The operator's result on shape-only tensors."""
    answer = BY_ID.get(id(op))
    if answer is not None:
        result = answer(*args, **kwargs)
        if result is not ASK:
            return result
    return recalled(op, args, kwargs)


def plain(*tensors: Tensor) -> bool:
    """Shape-only and in the usual order in memory."""
    return all(tensor.is_meta and tensor.is_contiguous() for tensor in tensors)


def unary(x: Tensor, *_: Any, **__: Any) -> Any:
    return blank(x, x.shape) if plain(x) and x.is_floating_point() else ASK


def unary_in_place(x: Tensor, *_: Any, **__: Any) -> Any:
    return x if x.is_meta else ASK


def _fits(shape: torch.Size, other: Any) -> bool:
    """Whether ``other`` broadcasts to ``shape``."""
    if not isinstance(other, Tensor):
        return True
    small = other.shape
    return len(small) <= len(shape) and all(a in (1, b) for a, b in zip(reversed(small), reversed(shape), strict=False))


def _binary(x: Tensor, y: Any, **_: Any) -> Any:
    if not isinstance(x, Tensor) or not plain(x) or not x.is_floating_point():
        return ASK
    if isinstance(y, Tensor):
        if not plain(y) or y.dtype != x.dtype:
            return ASK
        if not _fits(x.shape, y):
            return blank(x, y.shape) if _fits(y.shape, x) else ASK
    return blank(x, x.shape)


def _binary_in_place(x: Tensor, y: Any, **_: Any) -> Any:
    return x if x.is_meta and _fits(x.shape, y) else ASK


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    extra: Any,
    groups: int,
) -> Any:
    sizes = weight.shape
    if transposed or len(x.shape) != len(sizes) or not plain(x) or not weight.is_contiguous():
        return ASK
    if x.shape[1] != sizes[1] * groups or sizes[0] % groups:
        return ASK  # its own message
    space = len(sizes) - 2
    if not len(stride) == len(padding) == len(dilation) == space:
        return ASK
    out = [
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (sizes[2 + i] - 1) - 1) // stride[i] + 1 for i in range(space)
    ]
    return blank(x, (x.shape[0], sizes[0], *out)) if min(out) > 0 else ASK


def batch_norm(x: Tensor, weight: Any, bias: Any, mean: Any, *_: Any) -> Any:
    width = x.shape[1] if x.dim() > 1 else -1
    if not plain(x) or any(isinstance(t, Tensor) and t.shape[0] != width for t in (weight, bias, mean)):
        return ASK
    return blank(x, x.shape), NOTHING, NOTHING


def layer_norm(x: Tensor, shape: Any, weight: Any, *_: Any) -> Any:
    if not plain(x) or tuple(x.shape[-len(shape) :]) != tuple(shape):
        return ASK
    statistic = (*x.shape[: -len(shape)], *[1] * len(shape))
    return blank(x, x.shape), blank(x, statistic), blank(x, statistic)


def _group_norm(
    x: Tensor, weight: Any, bias: Any, images: int, channels: int, places: int, groups: int, *_: Any
) -> Any:
    if not plain(x) or x.dim() < 2 or x.shape[1] != channels or channels % groups:
        return ASK
    if any(isinstance(tensor, Tensor) and tensor.shape[0] != channels for tensor in (weight, bias)):
        return ASK
    return blank(x, x.shape), blank(x, (images, groups)), blank(x, (images, groups))


def _addmm(bias: Tensor, x: Tensor, weight: Tensor) -> Any:
    if not x.is_meta or x.shape[1] != weight.shape[0] or not _fits(torch.Size((x.shape[0], weight.shape[1])), bias):
        return ASK
    return blank(x, (x.shape[0], weight.shape[1]))


def _mm(x: Tensor, weight: Tensor) -> Any:
    return blank(x, (x.shape[0], weight.shape[1])) if x.is_meta and x.shape[1] == weight.shape[0] else ASK


def _bmm(x: Tensor, y: Tensor) -> Any:
    fits = x.is_meta and x.shape[0] == y.shape[0] and x.shape[2] == y.shape[1]
    return blank(x, (x.shape[0], x.shape[1], y.shape[2])) if fits else ASK


def _mean(x: Tensor, dims: Any, keepdim: bool = False, **named: Any) -> Any:
    if not plain(x) or named or not dims:
        return ASK
    gone = {dim % x.dim() for dim in dims}
    kept = [1 if axis in gone else size for axis, size in enumerate(x.shape) if keepdim or axis not in gone]
    return blank(x, kept)


def _pool_to(x: Tensor, size: Any) -> Any:
    return blank(x, (*x.shape[: -len(size)], *size)) if plain(x) else ASK


def _cat(tensors: Any, dim: int = 0) -> Any:
    first = tensors[0]
    if not plain(*tensors) or any(t.dim() != first.dim() or t.dtype != first.dtype for t in tensors):
        return ASK
    dim %= max(1, first.dim())
    for tensor in tensors:
        if any(a != b for axis, (a, b) in enumerate(zip(tensor.shape, first.shape, strict=True)) if axis != dim):
            return ASK
    sizes = list(first.shape)
    sizes[dim] = sum(tensor.shape[dim] for tensor in tensors)
    return blank(first, sizes)


ANSWERS: dict[Any, Answer] = {
    **{op.default: unary for op in UNARY},
    **{op.default: unary_in_place for op in UNARY_IN_PLACE},
    **dict.fromkeys(BINARY, _binary),
    **dict.fromkeys(BINARY_IN_PLACE, _binary_in_place),
    aten.convolution.default: convolution,
    aten.native_batch_norm.default: batch_norm,
    aten.native_layer_norm.default: layer_norm,
    aten.native_group_norm.default: _group_norm,
    aten.addmm.default: _addmm,
    aten.mm.default: _mm,
    aten.bmm.default: _bmm,
    aten.mean.dim: _mean,
    aten._adaptive_avg_pool2d.default: _pool_to,
    aten.cat.default: _cat,
}
BY_ID = {id(op): answer for op, answer in ANSWERS.items()}  # to hash an operator takes a call of Python
