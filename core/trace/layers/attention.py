"""Attention whose heads together may be narrower than the embedding (Vaswani et al. 2017, arXiv:1706.03762, eq. 1).

Letters in shapes: N batch, L queries, S keys, E embedding, h heads, d width of a head (h d = E until heads leave).
Plain tensor code: what TorchScript, torch.export and torch.fx could read before heads leave, they can read after.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(..., L, 3 h d) -> query, key and value, each (..., h, L, d)."""
    parts = qkv.unflatten(-1, [3, heads, -1]).movedim(-3, 0).transpose(-3, -2)
    return parts[0], parts[1], parts[2]


def merge_heads(x: Tensor) -> Tensor:
    """(..., h, L, d) -> (..., L, h d)."""
    return x.transpose(-3, -2).flatten(-2)


def project(
    x: Tensor, packed: Tensor | None, separate: list[Tensor | None], bias: Tensor | None, third: int, heads: int
) -> Tensor:
    """(N, L, E) -> (N, h, L, d) by third 0 (query), 1 (key) or 2 (value) of ``packed`` (3 h d, E), or its own."""
    weight = separate[third] if packed is None else packed.chunk(3)[third]
    assert weight is not None
    return (
        F.linear(x, weight, None if bias is None else bias.chunk(3)[third]).unflatten(-1, [heads, -1]).transpose(1, 2)
    )


def merge_masks(attn_mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """What is added to the logits, broadcastable to (N, h, L, S).

    ``attn_mask``: (L, S) or (N h, L, S); ``padding``: (N, S). Raises RuntimeError when the first has another shape.
    """
    mask = F._canonical_mask(attn_mask, "attn_mask", None, "", q.dtype, False)
    if mask is not None:
        expected = [q.size(2), k.size(2)]
        if mask.dim() == 3:
            expected = [q.size(0) * q.size(1), q.size(2), k.size(2)]
        if list(mask.shape) != expected:
            raise RuntimeError(
                f"The shape of the attn_mask is {mask.shape}, but should be {expected}: {q.size(1)} heads are left."
            )
        if mask.dim() == 3:
            mask = mask.unflatten(0, [q.size(0), q.size(1)])
    padding = F._canonical_mask(padding, "key_padding_mask", F._none_or_dtype(attn_mask), "attn_mask", q.dtype)
    if padding is None:
        return mask
    padding = padding.view(q.size(0), 1, 1, k.size(2))
    return padding if mask is None else mask + padding


def unnest(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sequences of many lengths, as nn.TransformerEncoder makes of a padding mask -> (N, L, E), what is padding."""
    padded = x.to_padded_tensor(0.0)
    lengths = x._nested_tensor_size()[:, :1].to(padded.device)
    return padded, torch.arange(padded.size(1), device=padded.device).unsqueeze(0) >= lengths


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packed: Tensor | None,
    separate: list[Tensor | None],
    in_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    heads: int,
    batch_first: bool,
    dropout: float,
    padding: Tensor | None,
    attn_mask: Tensor | None,
    need_weights: bool,
    average_weights: bool,
    is_causal: bool,
) -> tuple[Tensor, Tensor | None]:
    """What nn.MultiheadAttention.forward returns, for out_weight (E, h d) with any number of heads."""
    nested = query.is_nested
    if nested:
        query, padding = unnest(query)
        key = value = query
    batched = F._mha_shape_check(query, key, value, padding, attn_mask, heads)  # type: ignore[attr-defined]
    if is_causal and attn_mask is None:
        raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
    alike = query is key and key is value
    if not batched or not batch_first:
        query = query.transpose(0, 1) if batched else query.unsqueeze(0)
        key = query if alike else key.transpose(0, 1) if batched else key.unsqueeze(0)
        value = query if alike else value.transpose(0, 1) if batched else value.unsqueeze(0)
        padding = padding if batched or padding is None else padding.unsqueeze(0)
    if alike and packed is not None:
        q, k, v = split_heads(F.linear(query, packed, in_bias), heads)
    else:
        q = project(query, packed, separate, in_bias, 0, heads)
        k = project(key, packed, separate, in_bias, 1, heads)
        v = project(value, packed, separate, in_bias, 2, heads)
    weights: Tensor | None = None
    if need_weights:
        mask = merge_masks(attn_mask, padding, q, k)
        logits = (q * q.size(-1) ** -0.5) @ k.transpose(-2, -1)
        weights = F.dropout((logits if mask is None else logits + mask).softmax(-1), dropout)
        out = weights @ v
        if average_weights:
            weights = weights.mean(1)
        if not batched:
            weights = weights.squeeze(0)
    else:
        causal = is_causal and padding is None  # the mask is then known, and need not be read
        mask = None if causal else merge_masks(attn_mask, padding, q, k)
        out = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
    out = F.linear(merge_heads(out), out_weight, out_bias)
    if not batched:
        out = out.squeeze(0)
    elif not batch_first:
        out = out.transpose(0, 1)
    if nested and padding is not None:
        out = torch._nested_tensor_from_mask(out, padding.logical_not(), mask_check=False)
    return out, weights


torch.fx.wrap("attend")  # nn.MultiheadAttention is a leaf to torch.fx; its subclass here would not be


class HeadedMultiheadAttention(nn.MultiheadAttention):
    """nn.MultiheadAttention with fewer heads than embed_dim / head_dim.

    in_proj_weight is (3 h d, E), or q/k/v_proj_weight (h d, ...), and out_proj.weight (E, h d).
    ``_qkv_same_embed_dim`` is False: it keeps nn.TransformerEncoderLayer from its fused kernel, which takes d = E / h.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As nn.MultiheadAttention.forward; a mask per head names only the heads that are left."""
        separate: list[Tensor | None] = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        return attend(
            query,
            key,
            value,
            self.in_proj_weight,
            separate,
            self.in_proj_bias,
            self.out_proj.weight,
            self.out_proj.bias,
            self.num_heads,
            self.batch_first,
            self.dropout if self.training else 0.0,
            key_padding_mask,
            attn_mask,
            need_weights,
            average_attn_weights,
            is_causal,
        )
