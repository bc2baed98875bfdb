"""Make an attention layer run after whole heads were cut out of its weights.

Classes whose code takes the heads' width from the embedding's (nn.MultiheadAttention, torchvision's Swin, Swin V2 and
MaxViT) become a subclass of themselves that does not; parameter names, state and arithmetic stay. A user's own subclass
of one of them keeps its methods, and meets the new forward where it calls ``super().forward``. Of all other classes
only attributes are brought up to date: whether the layer then runs, and computes the same, its caller must try.

What worked before works after: deepcopy, state_dict, dtypes, gradients, torch.export, torch.fx (nn.MultiheadAttention
as one step), and torch.jit.script, which takes all four classes before and after.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor, nn

from core.errors import PruneError


@dataclass(frozen=True)
class Known:
    """An attention class that has a headed subclass."""

    file: str  # the module that defines it, as "Headed" + its own name; imported when first met
    heads: str  # the attribute that counts the heads
    out: str  # the child that reads them all: its weight is (E, heads x head_dim)


_SWIN = Known("core.trace.layers.windows", "num_heads", "proj")
KNOWN = {
    "torch.nn.modules.activation.MultiheadAttention": Known("core.trace.layers.attention", "num_heads", "out_proj"),
    "torchvision.models.swin_transformer.ShiftedWindowAttention": _SWIN,
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2": _SWIN,
    "torchvision.models.maxvit.RelativePositionalMultiHeadAttention": Known(_SWIN.file, "n_heads", "merge"),
}
# How other code calls the number of heads ...
HEAD_COUNTS = ("num_heads", "n_heads", "heads", "nhead", "n_head", "nheads", "num_attention_heads")
COUNTS = frozenset(HEAD_COUNTS)
# ... of keys and values alone, where several queries share one ...
KEY_COUNTS = ("num_kv_heads", "n_kv_heads", "kv_heads", "num_key_value_heads")
# ... the width of all heads together, also where it happens to equal the embedding's ...
WIDTHS = (
    *("attn_dim", "attention_dim", "dim_attn", "all_head_size", "inner_dim", "dim_inner", "qkv_dim", "q_dim", "kv_dim"),
    *("dim_out_qk", "dim_out_v", "key_attn_dim", "val_attn_dim", "value_attn_dim"),
)
# ... and the layer that reads the heads, whose rows are the embedding's.
OUT_NAMES = (
    *("out", "out_proj", "to_out", "proj", "proj_out", "c_proj", "o", "o_proj", "wo", "w_o", "fc_out", "fc_o"),
    *("merge", "dense", "output", "project_out", "linear_out", "out_linear"),
)


def why_heads_stay(layer: nn.Module) -> str | None:
    """Why this attention layer cannot lose heads; None when it can, or is of a class nothing is known about."""
    kind: type = type(layer)
    found = _known(kind)
    if found is None or found[0] != "MultiheadAttention":
        return None
    if any(cls.__module__.startswith("torch.ao.") for cls in type(layer).__mro__):
        return "its attention is prepared for quantisation, which fixes the number of heads"
    attention: Any = layer
    if attention.bias_k is not None or attention.bias_v is not None:
        return "its attention adds a learned key and value to every sequence (add_bias_kv)"
    if attention.add_zero_attn:
        return "its attention adds an empty key and value to every sequence (add_zero_attn)"
    return None


def fit_heads(module: nn.Module, was: nn.Module) -> None:
    """Bring ``module`` in line with its own sliced weights, in place; nothing happens where no width changed.

    ``module``: a copy of ``was`` (or of a layer inside it) whose own and children's weights are already sliced, with
    ``in_features`` and ``out_features`` of nn.Linear children up to date. ``was``: the layer before, which may itself
    have lost heads earlier. Only shapes are read: tensors may be on the meta device. The head width and the scale of
    the logits stay those of the dense layer.
    Raises PruneError when part of a head left a known attention class.
    """
    kind: type = type(was)
    found = _known(kind)
    if found is None:
        _fit_unknown(module, was)
        return
    known = found[1]
    new: Any = module
    weight, before = getattr(new, known.out).weight, getattr(was, known.out).weight
    if weight.shape == before.shape:
        return
    heads = getattr(was, known.heads)
    head_dim = before.shape[1] // heads
    if weight.shape[1] % head_dim:
        raise PruneError(
            f"{found[0]}: expected whole heads of {head_dim} channels, found {weight.shape[1]} channels left of "
            f"{before.shape[1]}. Prune whole heads, or lock this group."
        )
    setattr(new, known.heads, weight.shape[1] // head_dim)
    new.head_dim = head_dim
    new.__class__ = _headed(kind)
    if found[0] == "MultiheadAttention":
        _fit_multihead(new)


@cache
def _known(cls: type) -> tuple[str, Known] | None:
    """(class name, record) of the nearest known ancestor."""
    for base in cls.__mro__:
        record = KNOWN.get(f"{base.__module__}.{base.__qualname__}")
        if record is not None:
            return base.__name__, record
    return None


@cache
def _headed(cls: type) -> type:
    """The subclass of ``cls`` that takes the head width from ``head_dim``; ``cls`` itself when it already is one."""
    found = _known(cls)
    assert found is not None
    base: type = getattr(importlib.import_module(found[1].file), f"Headed{found[0]}")
    if issubclass(cls, base):
        return cls
    if cls in base.__mro__:
        return base
    return type(f"Headed{cls.__name__}", (cls, base), {"__module__": cls.__module__, "__doc__": cls.__doc__})


def _fit_multihead(attention: Any) -> None:
    attention.embed_dim = attention.out_proj.weight.shape[0]
    packed = attention.in_proj_weight
    weights = [attention.k_proj_weight, attention.v_proj_weight] if packed is None else [packed, packed]
    attention.kdim, attention.vdim = (weight.shape[1] for weight in weights)
    attention._qkv_same_embed_dim = False  # nn.TransformerEncoderLayer's fused kernel would take d = E / h


def _fit_unknown(module: nn.Module, was: nn.Module) -> None:
    """Attributes that count heads, or repeat the width of all heads together, of a class nothing is known about."""
    fields = vars(was)
    if not was._parameters and COUNTS.isdisjoint(fields) and not any([name.endswith("shape") for name in fields]):
        return
    sizes = dict(_changed_sizes(module, was))
    counts = [(name, size) for name, size in _integers(was) if name in HEAD_COUNTS and size > 1]
    if counts:
        heads = counts[0][1]
        left = _heads_left(module, was, heads)
        if left is not None:
            sizes[heads] = left
            _scale_attributes(module, was, heads, left)
    for name, shape in vars(was).items():  # relative position biases keep the shape they will have
        if name.endswith("shape") and type(shape) is tuple:
            places = [place for place, size in enumerate(shape) if type(size) is int and size in sizes]
            if len(places) == 1:
                setattr(module, name, (*shape[: places[0]], sizes[shape[places[0]]], *shape[places[0] + 1 :]))


def _integers(layer: nn.Module) -> list[tuple[str, int]]:
    return [(name, value) for name, value in vars(layer).items() if type(value) is int]


def _changed_sizes(module: nn.Module, was: nn.Module) -> list[tuple[int, int]]:
    """(before, after) of every dimension of the layer's own parameters that got shorter."""
    own = dict(module.named_parameters(recurse=False))
    pairs = [
        pair for name, p in was.named_parameters(recurse=False) for pair in zip(p.shape, own[name].shape, strict=True)
    ]
    return [(before, after) for before, after in pairs if before != after]


def _projections(layer: nn.Module) -> dict[str, Tensor]:
    """Weight (out, in, ...) of each child that is one linear or convolution layer, bare or wrapped with its norm."""
    found = {}
    for name, child in layer.named_children():
        weights = [m.weight for m in child.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
        if len(weights) == 1:
            found[name] = weights[0]
    return found


def _heads_left(module: nn.Module, was: nn.Module, heads: int) -> int | None:
    """How many heads the sliced weights still hold; None when none left.

    Read from what makes the heads: the layer's own parameters, else its first projection that does not read them, else
    (a network that computes position biases) a layer with one output per head.
    """
    new, old = _projections(module), _projections(was)
    inward = [name for name in old if name not in OUT_NAMES][:1]
    state, before = dict(module.named_parameters(remove_duplicate=False)), dict(was.named_parameters())
    own = [name for name, p in before.items() if "." not in name and p.dim() > 1]
    rows = [(before[name].shape[0], state[name].shape[0]) for name in own]
    rows += [(old[name].shape[0], new[name].shape[0]) for name in inward]
    rows += [(heads, state[name].shape[0]) for name, p in before.items() if p.dim() > 1 and p.shape[0] == heads]
    for size, left in rows:
        if left < size and heads * left % size == 0:
            return heads * left // size
    return None


def _scale_attributes(module: nn.Module, was: nn.Module, heads: int, left: int) -> None:
    new, old = _projections(module), _projections(was)
    reads = {name: weight.shape[1] for name, weight in old.items()}
    embedding = {width for name, width in reads.items() if name not in OUT_NAMES}
    merged = {width for name, width in reads.items() if new[name].shape[1] * heads == width * left} - embedding
    for name, value in _integers(was):
        counts = name in HEAD_COUNTS and value == heads
        width = (name in WIDTHS and value % heads == 0) or (value in merged and name not in HEAD_COUNTS)
        if (counts or width or name in KEY_COUNTS) and value * left % heads == 0:
            setattr(module, name, value * left // heads)
