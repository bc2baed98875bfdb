"""Which calls of a network may repeat a width that no weight tells.

Most calls read every size from the tensors they are given, so they follow whatever becomes narrower. A network made of
those alone needs no trial.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.trace.leaves import Answers, Note

WIDTHLESS = frozenset({
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear",
    "batch_norm", "relu", "relu_", "hardtanh", "hardtanh_", "relu6", "hardswish", "hardswish_", "silu", "silu_",
    "sigmoid", "sigmoid_", "hardsigmoid", "hardsigmoid_", "gelu", "tanh", "elu", "elu_", "leaky_relu",
    "leaky_relu_", "mish", "prelu", "softmax", "log_softmax", "add", "add_", "iadd", "__iadd__", "__add__",
    "__radd__", "sub", "__sub__", "mul", "mul_", "__mul__", "__rmul__", "imul", "__imul__", "div", "cat", "concat",
    "flatten", "mean", "sum", "dropout", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "max_pool1d",
    "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "_max_pool1d", "_max_pool2d",
    "_max_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d",
    "_adaptive_avg_pool2d", "boolean_dispatch", "fn", "pad", "dim", "device", "dtype", "is_cuda", "is_cpu",
    "requires_grad", "is_sparse", "is_quantized", "layout", "grad_fn", "is_floating_point", "numel", "detach",
    "contiguous", "clone", "to", "float", "type_as", "requires_grad_",
    "permute", "transpose", "t", "layer_norm", "group_norm", "instance_norm", "chunk", "unbind", "stack", "matmul",
    "bmm", "unsqueeze", "amax", "amin", "addcmul", "normalize", "norm", "__matmul__", "rsqrt", "sqrt", "exp", "pow",
    "__pow__", "ndim", "_assert", "interpolate", "maximum", "minimum", "clamp", "abs", "neg", "square", "softplus",
    "flip", "roll", "pixel_shuffle",
})  # fmt: skip


# Functions that are told the number of groups, and where.
GROUPED = {f"conv{kind}{rank}d": (6, "groups") for kind in ("", "_transpose") for rank in (1, 2, 3)}
GROUPED["group_norm"] = (1, "num_groups")


def _groups(name: str, args: Any, kwargs: Any) -> Any:
    """The number of groups a call is told; whole groups may leave, so it is a width. 1 where there are none."""
    if name not in GROUPED:
        return 1
    place, word = GROUPED[name]
    return args[place] if len(args) > place else (kwargs or {}).get(word, 1)


class UntouchableError(Exception):
    """The network's own tensors were about to be changed."""


class Calls(Answers):
    """Watches for calls that may name a width, or ask for one: a view to given sizes, a split, a slice, ``x.shape``.

    untouchable: raise UntouchableError when a tensor is given other data (``weight.data = ...``).
    """

    def __init__(self, note: Note | None = None, *, untouchable: bool = False) -> None:
        super().__init__(note)
        self.suspicious = False
        self.untouchable = untouchable
        self.counted: int | None = None  # the running layer's own number of groups, which follows its weight

    def counting(self, layer: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
        """``forward`` of a layer that is told its new number of groups."""

        def run(*args: Any, **kwargs: Any) -> Any:
            before, self.counted = self.counted, getattr(layer, "groups", getattr(layer, "num_groups", None))
            try:
                return forward(*args, **kwargs)
            finally:
                self.counted = before

        return run

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__
        if name == "__get__":  # an attribute: named by what it belongs to
            name = func.__self__.__name__
        elif name == "__set__" and self.untouchable:
            raise UntouchableError
        repeats = name not in WIDTHLESS or _groups(name, args, kwargs) not in (1, self.counted)
        self.suspicious = self.suspicious or repeats
        return super().__torch_function__(func, types, args, kwargs)
