"""Which calls of a network may repeat a width that no weight tells.

Most calls read every size from the tensors they are given, so they follow whatever becomes narrower. A network made of
those alone needs no trial.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.overrides import TorchFunctionMode

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
    "__pow__",
})  # fmt: skip


# Functions that are told the number of groups, and where.
GROUPED = {f"conv{kind}{rank}d": (6, "groups") for kind in ("", "_transpose") for rank in (1, 2, 3)}
GROUPED["group_norm"] = (1, "num_groups")


def _counts_groups(name: str, args: Any, kwargs: Any) -> bool:
    """Whole groups may leave: their number is a width."""
    if name not in GROUPED:
        return False
    place, word = GROUPED[name]
    given = args[place] if len(args) > place else (kwargs or {}).get(word, 1)
    return type(given) is not int or given > 1


class UntouchableError(Exception):
    """The network's own tensors were about to be changed."""


class Calls(TorchFunctionMode):
    """Watches for calls that may name a width, or ask for one: a view to given sizes, a split, a slice, ``x.shape``.

    untouchable: raise UntouchableError when a tensor is given other data (``weight.data = ...``).
    """

    def __init__(self, *, untouchable: bool = False) -> None:
        super().__init__()
        self.suspicious = False
        self.untouchable = untouchable
        self.counted = False  # a layer of PyTorch's own is running: its number of groups follows its weight

    def counting(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """``forward`` of a layer of PyTorch's own, which is told its new number of groups."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self.counted = True
            try:
                return forward(*args, **kwargs)
            finally:
                self.counted = False

        return run

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__
        if name == "__get__":  # an attribute: named by what it belongs to
            name = func.__self__.__name__
        elif name == "__set__" and self.untouchable:
            raise UntouchableError
        repeats = name not in WIDTHLESS or (not self.counted and _counts_groups(name, args, kwargs))
        self.suspicious = self.suspicious or repeats
        return func(*args, **(kwargs or {}))
