"""PyTorch's common layers, answered in one step each while a network runs on shape-only tensors.

A layer's call goes through PyTorch's functions, a dispatcher and back into Python to end as one operator whose shape is
known. The layers that networks are mostly made of are answered here instead: with the same operator and the same
arguments (tests/core/trace/test_leaves.py compares them), at a fraction of the time. Everything unusual about a layer
or its input (hooks, another memory format, a wrong width) takes the usual way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from core.trace import shapes

aten = torch.ops.aten
Note = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], Any]  # operator, arguments, named ones, result
Forward = Callable[[Tensor], Tensor]
Maker = Callable[[Any, Note], Forward]


class UnusualError(Exception):
    """This call is better taken the usual way."""


def leaf_forward(layer: nn.Module, note: Note) -> Forward | None:
    """A ``forward`` for ``layer`` (in eval mode) that tells ``note`` the operator, its arguments and its result; None
    for a layer that has to run itself. Its weights are only asked for their shapes. Raises UnusualError, before
    anything is noted, for an input that the layer should see itself."""
    maker = MAKERS.get(type(layer))
    if maker is None or layer.training or _watched(layer):
        return None
    try:
        return maker(layer, note)
    except UnusualError:
        return None


def _watched(layer: nn.Module) -> bool:
    fields = layer.__dict__
    return bool("forward" in fields or fields["_forward_hooks"] or fields["_forward_pre_hooks"])


def _answered(found: Any) -> Any:
    if found is shapes.ASK:
        raise UnusualError
    return found


def _own(layer: nn.Module, *names: str) -> list[Any]:
    """Its tensors, as long as they are kept in the usual place."""
    held = {**layer._parameters, **layer._buffers}
    found = [held.get(name, shapes.ASK) for name in names]
    if any(tensor is shapes.ASK or (isinstance(tensor, Tensor) and not tensor.is_contiguous()) for tensor in found):
        raise UnusualError
    return found


def _convolution(layer: Any, note: Note) -> Forward:
    weight, bias = _own(layer, "weight", "bias")
    if weight is None or layer.padding_mode != "zeros" or isinstance(layer.padding, str) or layer.transposed:
        raise UnusualError
    stride, padding, dilation = list(layer.stride), list(layer.padding), list(layer.dilation)
    rest = (weight, bias, stride, padding, dilation, False, [0] * len(stride), layer.groups)

    def forward(x: Tensor) -> Tensor:
        args = (x, *rest)
        return note(aten.convolution.default, args, {}, _answered(shapes.convolution(*args)))

    return forward


def _batch_norm(layer: Any, note: Note) -> Forward:
    state = _own(layer, "weight", "bias", "running_mean", "running_var")
    if any(tensor is None for tensor in state) or layer.momentum is None:
        raise UnusualError
    rank, rest = RANKS[type(layer)], (*state, False, layer.momentum, layer.eps)

    def forward(x: Tensor) -> Tensor:
        args = (x, *rest)
        if x.dim() not in rank:
            raise UnusualError
        result = _answered(shapes.batch_norm(*args))
        note(aten.native_batch_norm.default, args, {}, result)
        return result[0]

    return forward


def _layer_norm(layer: Any, note: Note) -> Forward:
    weight, bias = _own(layer, "weight", "bias")
    rest = (list(layer.normalized_shape), weight, bias, layer.eps)

    def forward(x: Tensor) -> Tensor:
        args = (x, *rest)
        result = _answered(shapes.layer_norm(*args))
        note(aten.native_layer_norm.default, args, {}, result)
        return result[0]

    return forward


def _linear(layer: Any, note: Note) -> Forward:
    weight, bias = _own(layer, "weight", "bias")
    made, read = weight.shape

    def forward(x: Tensor) -> Tensor:
        sizes = x.shape
        if not shapes.plain(x) or not sizes or sizes[-1] != read or (bias is not None and bias.shape[0] != made):
            raise UnusualError
        flat = len(sizes) == 2
        turned = shapes.blank(x, (read, made))
        if bias is None:
            note(aten.t.default, (weight,), {}, turned)
        rows = x if flat else _viewed(x, (x.numel() // read, read), aten.view.default, note)
        if bias is not None:
            note(aten.t.default, (weight,), {}, turned)
        result = shapes.blank(x, (rows.shape[0], made))
        if bias is None:
            note(aten.mm.default, (rows, turned), {}, result)
        else:
            note(aten.addmm.default, (bias, rows, turned), {}, result)
        if flat:
            return result
        last = aten._unsafe_view.default if bias is None else aten.view.default
        return _viewed(result, (*sizes[:-1], made), last, note)

    return forward


def _viewed(x: Tensor, sizes: tuple[int, ...], op: Any, note: Note) -> Tensor:
    result = shapes.blank(x, sizes)
    note(op, (x, list(sizes)), {}, result)
    return result


def _pointwise(op: Any, in_place: Any, *attributes: str) -> Maker:
    """For a layer that calls ``op`` or ``in_place`` with the numbers it holds."""

    def maker(layer: Any, note: Note) -> Forward:
        values = [getattr(layer, name) for name in attributes]
        changes = bool(getattr(layer, "inplace", False))
        used, answer = (in_place, shapes.unary_in_place) if changes else (op, shapes.unary)

        def forward(x: Tensor) -> Tensor:
            return note(used, (x, *values), {}, _answered(answer(x)))

        return forward

    return maker


def _clipped(layer: Any, note: Note) -> Forward:
    if type(layer.min_val) is not float or type(layer.max_val) is not float:
        raise UnusualError
    return _pointwise(aten.hardtanh.default, aten.hardtanh_.default, "min_val", "max_val")(layer, note)


def _passed(layer: Any, note: Note) -> Forward:
    return lambda x: x


def _batch_norm_called(
    note: Note,
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    state = (weight, bias, mean, var)
    if training or momentum is None or any([tensor is None or not tensor.is_contiguous() for tensor in state]):
        raise UnusualError
    args = (x, *state, False, momentum, eps)
    result = _answered(shapes.batch_norm(*args))
    note(aten.native_batch_norm.default, args, {}, result)
    made: Tensor = result[0]
    return made


def _relu_called(note: Note, x: Tensor, inplace: bool = False) -> Tensor:
    used, answer = (aten.relu_.default, shapes.unary_in_place) if inplace else (aten.relu.default, shapes.unary)
    made: Tensor = note(used, (x,), {}, _answered(answer(x)))
    return made


# Functions that networks' own layers call, in eval mode nearly always alike.
CALLED: dict[Any, Callable[..., Tensor]] = {F.batch_norm: _batch_norm_called, F.relu: _relu_called}


class Answers(TorchFunctionMode):
    """Answers calls of the functions in CALLED while a network runs on shape-only tensors."""

    def __init__(self, note: Note | None) -> None:
        super().__init__()
        self.note = note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        called = CALLED.get(func) if self.note is not None else None
        if called is not None:
            try:
                with torch._C._DisableTorchDispatch():
                    return called(self.note, *args, **(kwargs or {}))
            except UnusualError:
                pass
        return func(*args, **(kwargs or {}))


RANKS = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,)}
MAKERS: dict[type[nn.Module], Maker] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys(RANKS, _batch_norm),
    nn.LayerNorm: _layer_norm,
    nn.Linear: _linear,
    nn.ReLU: _pointwise(aten.relu.default, aten.relu_.default),
    nn.ReLU6: _clipped,
    nn.Hardtanh: _clipped,
    nn.SiLU: _pointwise(aten.silu.default, aten.silu_.default),
    nn.Hardswish: _pointwise(aten.hardswish.default, aten.hardswish_.default),
    nn.Sigmoid: _pointwise(aten.sigmoid.default, None),
    nn.Hardsigmoid: _pointwise(aten.hardsigmoid.default, aten.hardsigmoid_.default),
    **dict.fromkeys((nn.Identity, nn.Dropout), _passed),
}
