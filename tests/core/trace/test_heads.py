"""Attention layers after whole heads left: the cut layer equals the dense one that does not read those heads."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.errors import PruneError
from core.load.torchvision_guard import import_torchvision
from core.trace.layers.heads import fit_heads, why_heads_stay

import_torchvision()
from torchvision.models.maxvit import RelativePositionalMultiHeadAttention  # noqa: E402 - only after the guard
from torchvision.models.swin_transformer import (  # noqa: E402 - idem
    ShiftedWindowAttention,
    ShiftedWindowAttentionV2,
    SwinTransformerBlock,
)
from torchvision.models.vision_transformer import EncoderBlock, VisionTransformer  # noqa: E402 - idem

MHA = nn.MultiheadAttention
OUT = {MHA: "out_proj", ShiftedWindowAttention: "proj", RelativePositionalMultiHeadAttention: "merge"}
SUBSETS = [[1], [0, 2], [1, 2, 3], [3, 0]]  # of four heads; one out of order
KEPT = pytest.mark.parametrize("kept", SUBSETS, ids=str)
SEEDS = pytest.mark.parametrize("seed", range(3))


def randomised(layer: nn.Module, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter) * 0.4
    return layer.eval()


def out_of(layer: nn.Module) -> Any:
    return getattr(layer, next(name for cls, name in OUT.items() if isinstance(layer, cls)))


def heads_of(layer: Any) -> int:
    return layer.n_heads if isinstance(layer, RelativePositionalMultiHeadAttention) else layer.num_heads


def rows(kept: Sequence[int], heads: int, width: int, parts: int = 1) -> Tensor:
    """Positions of the kept heads in ``parts`` stacks of ``heads`` x ``width`` rows."""
    return torch.arange(parts * heads * width).view(parts, heads, width)[:, list(kept)].flatten()


def take(layer: Any, name: str, dim: int, index: Tensor) -> None:
    tensor = getattr(layer, name, None)
    if tensor is not None:
        setattr(layer, name, nn.Parameter(tensor.detach().index_select(dim, index.to(tensor.device))))
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape


def slice_heads(layer: Any, kept: Sequence[int]) -> None:
    """What surgery does before fit_heads."""
    heads, out = heads_of(layer), out_of(layer)
    width = out.weight.shape[1] // heads
    one, three = rows(kept, heads, width), rows(kept, heads, width, 3)
    take(out, "weight", 1, one)
    if isinstance(layer, MHA):
        for name in ("in_proj_weight", "in_proj_bias"):
            take(layer, name, 0, three)
        for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
            take(layer, name, 0, one)
        return
    qkv = layer.to_qkv if isinstance(layer, RelativePositionalMultiHeadAttention) else layer.qkv
    for name in ("weight", "bias"):
        take(qkv, name, 0, three)
    take(layer, "relative_position_bias_table", 1, torch.tensor(kept))
    if isinstance(layer, ShiftedWindowAttentionV2):
        take(layer, "logit_scale", 0, torch.tensor(kept))
        take(layer.cpb_mlp[-1], "weight", 0, torch.tensor(kept))


def cut(layer: Any, kept: Sequence[int]) -> Any:
    new = copy.deepcopy(layer)
    slice_heads(new, kept)
    fit_heads(new, layer)
    return new


def masked(layer: Any, kept: Sequence[int]) -> Any:
    """The dense layer, which no longer reads the heads that left."""
    new = copy.deepcopy(layer)
    weight = out_of(new).weight.data.unflatten(1, (heads_of(layer), -1))
    weight[:, [head for head in range(heads_of(layer)) if head not in kept]] = 0.0
    return new


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def multihead(seed: int = 0, **options: Any) -> Any:
    return randomised(MHA(16, 4, **options), seed)


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def swin(cls: type = ShiftedWindowAttention, window: int = 4, shift: int = 2, seed: int = 0, **options: Any) -> Any:
    return randomised(cls(16, [window, window], [shift, shift], 4, **options), seed)


def maxvit(seed: int = 0) -> Any:
    return randomised(RelativePositionalMultiHeadAttention(16, 4, 9), seed)


# Every layer that is known, with an input and how to call it.
EVERY: dict[str, tuple[Callable[[], Any], Tensor]] = {
    "multihead": (lambda: multihead(batch_first=True), tokens(2, 5, 16)),
    "swin": (swin, tokens(2, 7, 9, 16)),
    "swin v2": (lambda: swin(ShiftedWindowAttentionV2), tokens(2, 7, 9, 16)),
    "maxvit": (maxvit, tokens(2, 3, 9, 16)),
}
EVERY_LAYER = pytest.mark.parametrize("kind", EVERY)


def run(layer: Any, x: Tensor) -> Tensor:
    return layer(x, x, x, need_weights=False)[0] if isinstance(layer, MHA) else layer(x)


# nn.MultiheadAttention


def inputs_for(layer: Any, batch: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Query of 5 tokens, key and value of 7; ``batch`` None: unbatched."""
    tensors = (tokens(n, 5 if d == 0 else 7, w, seed=d) for d, (n, w) in enumerate(widths(layer, batch)))
    query, key, value = (t[0] if batch is None else t if layer.batch_first else t.transpose(0, 1) for t in tensors)
    return query, key, value


def widths(layer: Any, batch: int | None) -> list[tuple[int, int]]:
    return [(batch or 1, width) for width in (layer.embed_dim, layer.kdim, layer.vdim)]


@SEEDS
@KEPT
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 6, "vdim": 10}, {"batch_first": True}], ids=str)
@pytest.mark.parametrize("batch", [None, 1, 3])
@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_equals_masked(
    options: dict[str, Any], kept: list[int], seed: int, batch: int | None, need_weights: bool
) -> None:
    layer = multihead(seed, **options)
    inputs = inputs_for(layer, batch)
    expected, all_weights = masked(layer, kept)(*inputs, need_weights=need_weights, average_attn_weights=False)
    pruned = cut(layer, kept)
    found, weights = pruned(*inputs, need_weights=need_weights, average_attn_weights=False)
    close(found, expected)
    if need_weights:
        close(weights, all_weights[..., kept, :, :])
        close(pruned(*inputs)[1], all_weights[..., kept, :, :].mean(-3))
    else:
        assert weights is None


@KEPT
@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("kind", ["bool", "float", "per head"])
@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_masks(
    kept: list[int], batch: int | None, kind: str, pad: bool, need_weights: bool, batch_first: bool
) -> None:
    layer = multihead(batch_first=batch_first)
    inputs = inputs_for(layer, batch)
    n = batch or 1
    shape = (n, 4, 5, 7) if kind == "per head" else (5, 7)
    mask = tokens(*shape, seed=8) if kind == "float" else tokens(*shape, seed=8) > 0.5
    padding = None
    if pad:
        ends = torch.arange(7).expand(n, 7) >= torch.arange(4, 4 + n)[:, None]
        padding = torch.where(ends, -torch.inf, 0.0) if kind == "float" else ends
        padding = padding[0] if batch is None else padding
    dense_mask, left = (mask.flatten(0, 1), mask[:, kept].flatten(0, 1)) if kind == "per head" else (mask, mask)
    options = {"key_padding_mask": padding, "need_weights": need_weights}
    expected, _ = masked(layer, kept)(*inputs, attn_mask=dense_mask, **options)
    found, _ = cut(layer, kept)(*inputs, attn_mask=left, **options)
    assert found.isfinite().all()
    close(found, expected)


@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_causal(need_weights: bool) -> None:
    layer, x = multihead(batch_first=True), tokens(2, 6, 16)
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    options = {"attn_mask": mask, "is_causal": True, "need_weights": need_weights}
    pruned = cut(layer, [1, 3])
    ends = torch.arange(6) >= torch.tensor([[6], [4]])
    padding = torch.zeros(2, 6).masked_fill(ends, -torch.inf)
    for padded in ({}, {"key_padding_mask": padding}):
        close(pruned(x, x, x, **options, **padded)[0], masked(layer, [1, 3])(x, x, x, **options, **padded)[0])
    with pytest.raises(RuntimeError, match="Need attn_mask"):
        pruned(x, x, x, is_causal=True)


def test_multihead_refuses_a_mask_for_heads_that_left() -> None:
    x = tokens(2, 6, 16)
    with pytest.raises(RuntimeError, match=r"should be \[4, 6, 6\]: 2 heads are left"):
        cut(multihead(batch_first=True), [1, 3])(x, x, x, attn_mask=torch.zeros(8, 6, 6))


def test_multihead_drops_out_in_training_only() -> None:
    layer = multihead(batch_first=True, dropout=0.4)
    x = tokens(1, 4, 16)
    pruned = cut(layer, [0, 2])
    expected = run(pruned, x)
    close(run(pruned, x), expected, 0.0)
    pruned.train()
    many = x.expand(20_000, 4, 16)
    for need_weights in (True, False):
        drawn = pruned(many, many, many, need_weights=need_weights)[0]
        assert not torch.equal(drawn[0], drawn[1])
        close(drawn.mean(0, keepdim=True), expected, 0.05)  # dropout leaves the mean


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("kept", [[0, 2], [3]], ids=str)
def test_the_fused_encoder_layer_steps_aside(kept: list[int], norm_first: bool) -> None:
    """In eval mode under no_grad nn.TransformerEncoderLayer would run a kernel that takes d = E / h."""
    layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.1, batch_first=True, norm_first=norm_first)
    layer = randomised(layer)
    pruned, reference = copy.deepcopy(layer), copy.deepcopy(layer)
    pruned.self_attn, reference.self_attn = cut(layer.self_attn, kept), masked(layer.self_attn, kept)
    x = tokens(2, 5, 16)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        close(pruned(x), reference(x))
        found, expected = pruned(x, src_key_padding_mask=padding), reference(x, src_key_padding_mask=padding)
        close(found[~padding], expected[~padding])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype")
@pytest.mark.parametrize("pruned_layers", [[0], [1], [0, 1]], ids=str)
def test_an_encoder_may_send_nested_sequences(pruned_layers: list[int]) -> None:
    """nn.TransformerEncoder turns a padding mask into nested tensors, whatever its layers can read."""
    encoder = randomised(nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), 2))
    pruned, reference = copy.deepcopy(encoder), copy.deepcopy(encoder)
    for index in pruned_layers:
        whole = encoder.layers[index].self_attn
        pruned.layers[index].self_attn = cut(whole, [0, 2])
        reference.layers[index].self_attn = masked(whole, [0, 2])
    x = tokens(3, 5, 16)
    padding = torch.arange(5) >= torch.tensor([[5], [3], [1]])
    with torch.no_grad():
        found = pruned(x, src_key_padding_mask=padding)
        close(found, reference(x, src_key_padding_mask=padding))
        assert not found[padding].any()  # nested sequences end where their padding begins
        close(pruned(x), reference(x))
    close(pruned(x, src_key_padding_mask=padding)[~padding], reference(x, src_key_padding_mask=padding)[~padding])


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_whole_transformer(batch_first: bool) -> None:
    dense = randomised(nn.Transformer(16, 4, 1, 1, 24, batch_first=batch_first))
    pruned, reference = copy.deepcopy(dense), copy.deepcopy(dense)
    for name, layer in dense.named_modules():
        if isinstance(layer, MHA):
            pruned.set_submodule(name, cut(layer, [1, 2, 3]))
            reference.set_submodule(name, masked(layer, [1, 2, 3]))
    source, target = (tokens(2, n, 16) if batch_first else tokens(n, 2, 16) for n in (6, 4))
    mask = nn.Transformer.generate_square_subsequent_mask(4)
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            found = pruned(source, target, tgt_mask=mask, tgt_is_causal=True)
            close(found, reference(source, target, tgt_mask=mask, tgt_is_causal=True))


class Logged(MHA):
    """A user's subclass that leaves the arithmetic to its parent."""

    def forward(self, query: Tensor, *args: Any, **options: Any) -> Any:
        self.seen = query.shape
        return super().forward(query, *args, **options)


def test_a_users_subclass_keeps_its_methods() -> None:
    layer = randomised(Logged(16, 4, batch_first=True))
    pruned, x = cut(layer, [0, 3]), tokens(2, 5, 16)
    close(run(pruned, x), run(masked(layer, [0, 3]), x))
    assert isinstance(pruned, Logged) and pruned.seen == x.shape
    assert type(cut(layer, [1])) is type(pruned) is type(copy.deepcopy(pruned))


def test_a_parametrised_layer_keeps_its_parametrisation() -> None:
    class Twice(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    layer = multihead(batch_first=True)
    pruned, x = copy.deepcopy(layer), tokens(2, 5, 16)
    for attention in (layer, pruned):
        nn.utils.parametrize.register_parametrization(attention, "in_proj_weight", Twice())
    take(pruned.parametrizations.in_proj_weight, "original", 0, rows([0, 2], 4, 4, 3))
    take(pruned, "in_proj_bias", 0, rows([0, 2], 4, 4, 3))
    take(pruned.out_proj, "weight", 1, rows([0, 2], 4, 4))
    fit_heads(pruned, layer)
    reference = copy.deepcopy(layer)
    reference.out_proj.weight.data[:, 4:8] = reference.out_proj.weight.data[:, 12:] = 0.0
    close(run(pruned, x), run(reference, x))


def test_an_embedding_that_got_narrower_with_the_heads() -> None:
    layer = multihead(batch_first=True)
    narrow = cut(layer, [0, 2])
    before, stay = copy.deepcopy(narrow), torch.tensor([0, 3, 4, 9, 15])
    take(narrow, "in_proj_weight", 1, stay)
    take(narrow.out_proj, "weight", 0, stay)
    take(narrow.out_proj, "bias", 0, stay)
    fit_heads(narrow, before)
    x = torch.zeros(2, 5, 16)
    x[..., stay] = tokens(2, 5, 5)
    close(run(narrow, x[..., stay]), run(masked(layer, [0, 2]), x)[..., stay])
    assert (narrow.embed_dim, narrow.kdim, narrow.head_dim, narrow.num_heads) == (5, 5, 4, 2)


# torchvision's windows


@SEEDS
@KEPT
@pytest.mark.parametrize("cls", [ShiftedWindowAttention, ShiftedWindowAttentionV2])
@pytest.mark.parametrize("options", [{}, {"qkv_bias": False}, {"proj_bias": False}], ids=str)
def test_swin_equals_masked(cls: type, options: dict[str, Any], kept: list[int], seed: int) -> None:
    layer = swin(cls, seed=seed, **options)
    pruned, reference = cut(layer, kept), masked(layer, kept)
    for size in ((8, 8), (7, 9), (3, 6), (4, 12), (2, 2)):
        x = tokens(2, *size, 16, seed=seed)
        close(pruned(x), reference(x))


@pytest.mark.parametrize("cls", [ShiftedWindowAttention, ShiftedWindowAttentionV2])
@pytest.mark.parametrize(("window", "shift"), [([4, 4], [0, 0]), ([4, 2], [2, 1]), ([3, 5], [0, 2]), ([2, 2], [1, 0])])
def test_swin_windows_and_shifts(cls: type, window: list[int], shift: list[int]) -> None:
    layer = randomised(cls(16, window, shift, 4))
    pruned, reference = cut(layer, [3, 1]), masked(layer, [3, 1])
    for height in range(1, 11):
        x = tokens(1, height, 11 - height, 16)
        close(pruned(x), reference(x))


def test_the_keys_of_swin_v2_stay_without_bias() -> None:
    layer = swin(ShiftedWindowAttentionV2)
    pruned, x = cut(layer, [0, 2]), tokens(1, 8, 8, 16)
    expected = pruned(x)
    pruned.qkv.bias.data.view(3, -1)[1] = 7.0
    close(pruned(x), expected, 0.0)


@SEEDS
@KEPT
def test_maxvit_equals_masked(kept: list[int], seed: int) -> None:
    layer = maxvit(seed)
    pruned = cut(layer, kept)
    assert pruned.scale_factor == layer.scale_factor == 16**-0.5
    for batch in (1, 3):
        x = tokens(batch, 2, 9, 16, seed=seed)
        close(pruned(x), masked(layer, kept)(x))


# What holds of all


@EVERY_LAYER
@KEPT
def test_twice_is_once(kind: str, kept: list[int]) -> None:
    make, x = EVERY[kind]
    layer = make()
    pruned = cut(layer, [0, 2, 3])
    again = cut(pruned, [0, 2])
    assert type(again) is type(pruned) and heads_of(again) == 2 and again.head_dim == 4
    close(run(again, x), run(masked(layer, [0, 3]), x))
    assert isinstance(again, type(layer))


@EVERY_LAYER
def test_nothing_left_is_nothing_done(kind: str) -> None:
    layer = EVERY[kind][0]()
    new = copy.deepcopy(layer)
    before = {name: value for name, value in vars(new).items() if isinstance(value, int | tuple | float)}
    fit_heads(new, layer)
    assert type(new) is type(layer)
    assert {name: vars(new)[name] for name in before} == before


@EVERY_LAYER
def test_state_and_copies(kind: str) -> None:
    make, x = EVERY[kind]
    layer = make()
    pruned, other = cut(layer, [1, 2]), cut(make().requires_grad_(True), [0, 3])
    assert pruned.state_dict().keys() == layer.state_dict().keys()
    other.load_state_dict(pruned.state_dict())
    for new in (copy.deepcopy(pruned), other):
        close(run(new, x), run(pruned, x), 0.0)
        assert type(new) is type(pruned)


@EVERY_LAYER
def test_gradients_are_those_of_the_heads_that_stay(kind: str) -> None:
    make, x = EVERY[kind]
    layer = make()
    pruned, reference = cut(layer, [0, 2]).train(), masked(layer, [0, 2]).train()
    for module in (pruned, reference):
        run(module, x).square().sum().backward()
    for name, parameter in pruned.named_parameters():
        assert parameter.grad is not None, name
    gradient = out_of(reference).weight.grad[:, rows([0, 2], 4, 4)]
    close(out_of(pruned).weight.grad, gradient, 1e-4)
    before = run(pruned, x).square().sum().item()
    torch.optim.SGD(pruned.parameters(), lr=1e-6).step()
    assert run(pruned, x).square().sum().item() < before


@EVERY_LAYER
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 0.1)])
def test_other_precisions(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    make, x = EVERY[kind]
    layer = make().to(dtype)
    found, expected = run(cut(layer, [0, 2]), x.to(dtype)), run(masked(layer, [0, 2]), x.to(dtype))
    assert found.dtype == dtype
    close(found, expected, tolerance)


@EVERY_LAYER
def test_shapes_alone_suffice(kind: str) -> None:
    make, x = EVERY[kind]
    pruned = cut(make().to("meta"), [0, 2])
    assert heads_of(pruned) == 2
    found = run(pruned, x.to("meta"))
    assert found.shape == x.shape and found.is_meta


@EVERY_LAYER
def test_part_of_a_head_is_refused(kind: str) -> None:
    layer = EVERY[kind][0]()
    new = copy.deepcopy(layer)
    take(out_of(new), "weight", 1, torch.arange(13))
    with pytest.raises(PruneError, match="expected whole heads of 4 channels, found 13"):
        fit_heads(new, layer)


@EVERY_LAYER
def test_scripts_as_the_dense_layer_does(kind: str) -> None:
    make, x = EVERY[kind]
    pruned = cut(make(), [0, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and says so
        scripted = torch.jit.script(pruned)
    close(run_scripted(scripted, x, kind), run(pruned, x))


def run_scripted(scripted: Any, x: Tensor, kind: str) -> Tensor:
    return scripted(x, x, x)[0] if kind == "multihead" else scripted(x)


def vit_block() -> Any:
    return EncoderBlock(4, 16, 24, 0.0, 0.0)


def swin_block() -> Any:
    return SwinTransformerBlock(16, 4, [4, 4], [2, 2])


def pruned_block(block: Any) -> tuple[Any, Any]:
    """A whole block, (pruned, masked)."""
    block = randomised(block)
    pruned, reference = copy.deepcopy(block), copy.deepcopy(block)
    for name, layer in block.named_modules():
        if isinstance(layer, tuple(OUT)):
            pruned.set_submodule(name, cut(layer, [0, 3]))
            reference.set_submodule(name, masked(layer, [0, 3]))
    return pruned, reference


BLOCKS = pytest.mark.parametrize(
    ("make", "x"), [(vit_block, tokens(2, 5, 16)), (swin_block, tokens(2, 7, 9, 16))], ids=["vit", "swin"]
)


@BLOCKS
def test_blocks_export(make: Callable[[], Any], x: Tensor) -> None:
    pruned, reference = pruned_block(make())
    program = torch.export.export(pruned, (x,))
    close(program.module()(x), reference(x))


@BLOCKS
def test_blocks_trace_symbolically(make: Callable[[], Any], x: Tensor) -> None:
    pruned, reference = pruned_block(make())
    close(torch.fx.symbolic_trace(pruned)(x), reference(x))


def test_a_whole_vision_transformer() -> None:
    net = VisionTransformer(image_size=8, patch_size=4, num_layers=2, num_heads=4, hidden_dim=16, mlp_dim=24)
    pruned, reference = pruned_block(net)
    x = tokens(2, 3, 8, 8)
    with torch.no_grad():
        close(pruned(x), reference(x))
        close(torch.export.export(pruned, (x,)).module()(x), reference(x))


# Classes that are not known


class Packed(nn.Module):
    """As timm's Attention: the width of all heads is an attribute of its own."""

    def __init__(self, dim: int = 12, heads: int = 4, head_dim: int = 3, key: str = "attn_dim") -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.dim, self.key = heads, head_dim, dim, key
        setattr(self, key, heads * head_dim)
        self.scale = head_dim**-0.5
        self.qkv = nn.Linear(dim, 3 * heads * head_dim)
        self.proj = nn.Linear(heads * head_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(*x.shape[:1], x.shape[2], getattr(self, self.key)))


class Separate(nn.Module):
    """As HuggingFace's: three projections, no output layer; one of them wrapped with its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size, self.all_head_size = 4, 3, 12
        self.query, self.value = nn.Linear(12, 12), nn.Linear(12, 12)
        self.key = nn.Sequential(nn.Linear(12, 12), nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], self.num_attention_heads, self.attention_head_size)
        q, k, v = (f(x).view(shape).transpose(1, 2) for f in (self.query, self.key, self.value))
        out = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return out.transpose(1, 2).reshape(*x.shape[:2], self.all_head_size)


class Grouped(nn.Module):
    """Two queries share a key and a value."""

    def __init__(self) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim, self.groups = 4, 2, 3, 2
        self.wq, self.wk, self.wv = nn.Linear(10, 12), nn.Linear(10, 6), nn.Linear(10, 6)
        self.wo = nn.Linear(12, 10)


class Conv(nn.Module):
    """Over images, and with more than one layer behind the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.dim_head, self.dim = 4, 3, 12
        self.to_qkv, self.to_out = nn.Conv2d(12, 36, 1), nn.Conv2d(12, 12, 1)
        self.local = nn.Conv2d(12, 12, 3, groups=12)


class Bias(nn.Module):
    """As timm's RelPosBias: a shape with the number of heads in it."""

    def __init__(self) -> None:
        super().__init__()
        self.bias_shape, self.window = (9, 9, 4), (3, 3)
        self.relative_position_bias_table = nn.Parameter(torch.randn(25, 4))


def sliced(layer: nn.Module, slices: dict[str, tuple[int, Tensor]]) -> Any:
    new = copy.deepcopy(layer)
    for name, (dim, index) in slices.items():
        take(new.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], dim, index)
    fit_heads(new, layer)
    return new


ONE, THREE = rows([0, 2], 4, 3), rows([0, 2], 4, 3, 3)


@pytest.mark.parametrize(("dim", "key"), [(12, "attn_dim"), (10, "attn_dim"), (10, "whatever")])
def test_packed_attention_of_an_unknown_class(dim: int, key: str) -> None:
    layer = randomised(Packed(dim, key=key))
    new = sliced(layer, {"qkv.weight": (0, THREE), "qkv.bias": (0, THREE), "proj.weight": (1, ONE)})
    assert type(new) is Packed
    assert (new.num_heads, new.head_dim, new.dim, getattr(new, key)) == (2, 3, dim, 6) and new.scale == layer.scale
    reference = copy.deepcopy(layer)
    reference.proj.weight.data[:, 3:6] = reference.proj.weight.data[:, 9:] = 0.0
    close(new(tokens(2, 5, dim)), reference(tokens(2, 5, dim)))


def test_separate_projections_of_an_unknown_class() -> None:
    layer = randomised(Separate())
    names = ("query", "key.0", "value")
    new = sliced(layer, {f"{name}.{part}": (0, ONE) for name in names for part in ("weight", "bias")})
    assert (new.num_attention_heads, new.attention_head_size, new.all_head_size) == (2, 3, 6)
    close(new(tokens(2, 5, 12)), layer(tokens(2, 5, 12))[..., ONE])


def test_keys_that_queries_share() -> None:
    few = rows([1], 2, 3)
    slices = {f"{name}.weight": (0, few) for name in ("wk", "wv")}
    new = sliced(Grouped(), {**slices, "wq.weight": (0, rows([2, 3], 4, 3)), "wo.weight": (1, rows([2, 3], 4, 3))})
    assert (new.n_heads, new.n_kv_heads, new.groups, new.head_dim) == (2, 1, 2, 3)


def test_convolutions_as_projections() -> None:
    new = sliced(Conv(), {"to_qkv.weight": (0, THREE), "to_out.weight": (1, ONE)})
    assert (new.heads, new.dim_head, new.dim) == (2, 3, 12)


def test_an_embedding_alone_changes_no_number_of_heads() -> None:
    for layer, out in ((Packed(12), "proj"), (Conv(), "to_out")):
        inward = "qkv" if out == "proj" else "to_qkv"
        new = sliced(layer, {f"{inward}.weight": (1, ONE), f"{out}.weight": (0, ONE)})
        assert {k: v for k, v in vars(new).items() if type(v) is int} == {
            k: v for k, v in vars(layer).items() if type(v) is int
        }


def test_parts_of_heads_change_no_number_of_heads() -> None:
    new = sliced(Packed(), {"qkv.weight": (0, torch.arange(29))})
    assert new.num_heads == 4


def test_shapes_of_position_biases() -> None:
    new = sliced(Bias(), {"relative_position_bias_table": (1, torch.tensor([0, 3]))})
    assert new.bias_shape == (9, 9, 2) and new.window == (3, 3)


def test_layers_without_heads_are_left_alone() -> None:
    for layer in (nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)), nn.LayerNorm((3, 4))):
        new = copy.deepcopy(layer)
        fit_heads(new, layer)
        assert vars(new).keys() == vars(layer).keys() and type(new) is type(layer)


# Reasons


def test_why_heads_stay() -> None:
    assert "add_bias_kv" in (why_heads_stay(MHA(8, 2, add_bias_kv=True)) or "")
    assert "add_zero_attn" in (why_heads_stay(MHA(8, 2, add_zero_attn=True)) or "")
    quantizable = torch.ao.nn.quantizable.MultiheadAttention
    assert "quantisation" in (why_heads_stay(quantizable(8, 2)) or "")
    for layer in (*(make() for make, _ in EVERY.values()), Packed(), nn.Linear(2, 2), cut(multihead(), [1])):
        assert why_heads_stay(layer) is None


def test_torchvision_is_not_needed() -> None:
    code = (
        "import sys, torch; from core.trace.layers.heads import fit_heads, why_heads_stay;"
        "a = torch.nn.MultiheadAttention(4, 2); fit_heads(a, a); why_heads_stay(a);"
        "sys.exit('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
