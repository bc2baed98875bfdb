"""The operators that a program from a file may use: those that compute, and touch nothing but tensors.

Anything else is refused by name. Among PyTorch's operators are some that read and write files, and a file's text could
otherwise name any function that Python can reach.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from core.errors import LoadError

_ATEN = """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution linear addmm mm bmm
    matmul baddbmm einsum batch_norm _native_batch_norm_legit_no_training layer_norm native_layer_norm
    group_norm native_group_norm instance_norm rms_norm  relu relu_ relu6 relu6_ leaky_relu
    leaky_relu_ elu elu_ selu selu_ celu celu_ gelu silu silu_ mish mish_ hardtanh hardtanh_ hardswish
    hardswish_ hardsigmoid hardsigmoid_ sigmoid sigmoid_ tanh tanh_ softplus prelu glu log_sigmoid
    softmax _softmax log_softmax _log_softmax threshold threshold_ max_pool1d max_pool2d max_pool3d
    max_pool2d_with_indices avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d _adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d upsample_nearest1d
    upsample_nearest2d upsample_bilinear2d upsample_bicubic2d dropout dropout_ feature_dropout feature_dropout_
    alpha_dropout native_dropout add add_ sub sub_ rsub mul mul_ div div_ neg abs exp log log2 sqrt rsqrt pow
    reciprocal square erf sin cos clamp clamp_ clamp_min clamp_min_ clamp_max clamp_max_ maximum minimum where
    eq ne lt le gt ge logical_not logical_and logical_or floor ceil round sign floor_divide remainder
    masked_fill masked_fill_ mean sum amax amin max min var std var_mean prod argmax norm linalg_vector_norm
    cumsum topk cat concat stack split split_with_sizes chunk tensor_split unbind select slice narrow index
    index_select gather view _unsafe_view reshape flatten unflatten squeeze squeeze_ unsqueeze unsqueeze_
    permute transpose transpose_ t expand expand_as repeat repeat_interleave tile roll flip movedim swapaxes
    numpy_T adjoint mT unfold im2col pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle pad
    constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d contiguous clone
    detach detach_ alias lift_fresh_copy to _to_copy type_as scaled_dot_product_attention
    _scaled_dot_product_flash_attention_for_cpu arange zeros ones full empty zeros_like ones_like full_like
    empty_like new_zeros new_ones new_full fill_ zero_ copy_ scalar_tensor sym_size sym_numel slice_scatter
    select_scatter
"""
ATEN = frozenset(_ATEN.split())
_PYTHON = "add sub mul floordiv mod neg eq ne lt le gt ge getitem pos"
PYTHON = {f"_operator.{name}": getattr(operator, name) for name in _PYTHON.split()}
# Checks of an exporter's own assumptions; sizes that do not fit fail in the operator that needs them.
_SKIPPED = """
    _assert_scalar _assert_async _assert_tensor_metadata sym_constrain_range sym_constrain_range_for_size
"""
SKIPPED = frozenset(_SKIPPED.split())
LARGEST = 1 << 28  # elements that an operator may be asked to make out of nothing


def find_operator(target: str, file: str) -> Callable[..., Any] | None:
    """What ``target`` names; None for a check that is left out. Raises LoadError for what is not on the list."""
    if target in PYTHON:
        return PYTHON[target]
    parts = target.removeprefix("torch.ops.").split(".")
    if target.startswith("torch.ops.aten.") and len(parts) == 3:
        if parts[1] in SKIPPED:
            return None
        packet = getattr(torch.ops.aten, parts[1], None) if parts[1] in ATEN else None
        if packet is not None and parts[2] in packet.overloads():
            found: Callable[..., Any] = getattr(packet, parts[2])
            return found
    raise LoadError(
        f"{file} uses {target[:80]!r}, which is not among the operators that are run from files. Open the network by "
        "its name or with its Python class instead."
    )


def check_sizes(name: str, args: Any, file: str) -> None:
    """Refuse a step that would make a huge tensor out of a few bytes."""
    if name not in {"zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "expand", "repeat", "tile",
                    "arange", "repeat_interleave"}:  # fmt: skip
        return
    count = 1
    for item in args if isinstance(args, list | tuple) else [args]:
        for number in item if isinstance(item, list | tuple) else [item]:
            if type(number) in (int, float) and abs(number) > 1:
                count *= int(min(abs(number), LARGEST + 1))
    if count > LARGEST:
        raise LoadError(f"{file} asks {name} for more than {LARGEST:,} numbers. It is damaged, or no network.")
