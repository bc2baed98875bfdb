"""torchvision's attention with fewer heads than channels / head width; imported only when a network has such a layer.

Swin (Liu et al. 2021, arXiv:2103.14030), Swin V2 (Liu et al. 2022, arXiv:2111.09883), MaxViT (Tu et al. 2022,
arXiv:2204.01697). Letters in shapes: N batch, H W image, C channels, B windows of all images, T tokens of one window,
h heads, d width of a head (h d = C until heads leave).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from core.load.torchvision_guard import import_torchvision
from core.trace.layers.attention import merge_heads, split_heads

import_torchvision()
from torchvision.models.maxvit import RelativePositionalMultiHeadAttention  # noqa: E402 - only after the guard
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2  # noqa: E402 - idem


def padded_size(height: int, width: int, window: list[int]) -> tuple[int, int]:
    return (height + window[0] - 1) // window[0] * window[0], (width + window[1] - 1) // window[1] * window[1]


def true_shift(tall: int, wide: int, window: list[int], shift: list[int]) -> tuple[int, int]:
    """A map that is one window along an axis has nothing to shift there."""
    return 0 if window[0] >= tall else shift[0], 0 if window[1] >= wide else shift[1]


def cut_windows(x: Tensor, window: list[int]) -> Tensor:
    """(N, H, W, C), H and W multiples of the window -> (B, T, C)."""
    x = x.unflatten(2, [-1, window[1]]).unflatten(1, [-1, window[0]])
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def into_windows(x: Tensor, window: list[int], shift: list[int]) -> Tensor:
    """(N, H, W, C) -> (B, T, C), zeros where the last windows reach beyond the image."""
    tall, wide = padded_size(x.size(1), x.size(2), window)
    down, right = true_shift(tall, wide, window, shift)
    x = F.pad(x, [0, 0, 0, wide - x.size(2), 0, tall - x.size(1)])
    if down + right > 0:
        x = x.roll([-down, -right], [1, 2])
    return cut_windows(x, window)


def mask_seams(logits: Tensor, image: Tensor, window: list[int], shift: list[int]) -> Tensor:
    """(B, h, T, T) with -100 added where tokens meet in a window only because the shift wrapped the image around."""
    tall, wide = padded_size(image.size(1), image.size(2), window)
    down, right = true_shift(tall, wide, window, shift)
    if down + right == 0:
        return logits
    rows = torch.arange(tall, device=logits.device) >= tall - down
    columns = torch.arange(wide, device=logits.device) >= wide - right
    side = cut_windows((2 * rows.int().unsqueeze(1) + columns.int())[None, :, :, None], window)  # (B / N, T, 1)
    seams = (side != side.transpose(1, 2)).to(logits.dtype) * -100.0
    return (logits.unflatten(0, [-1, seams.size(0)]) + seams.unsqueeze(1)).flatten(0, 1)


def out_of_windows(x: Tensor, image: Tensor, window: list[int], shift: list[int]) -> Tensor:
    """(B, T, C) -> (N, H, W, C): undoes ``into_windows(image, ...)``."""
    tall, wide = padded_size(image.size(1), image.size(2), window)
    down, right = true_shift(tall, wide, window, shift)
    x = x.unflatten(1, window).unflatten(0, [-1, tall // window[0], wide // window[1]])
    x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    if down + right > 0:
        x = x.roll([down, right], [1, 2])
    return x[:, : image.size(1), : image.size(2)].contiguous()


# To torch.fx each is one step, as torchvision's own function is: they ask for sizes that no symbolic trace knows.
torch.fx.wrap("into_windows")
torch.fx.wrap("mask_seams")
torch.fx.wrap("out_of_windows")
torch.fx.wrap("split_heads")


class HeadedShiftedWindowAttention(ShiftedWindowAttention):
    """Swin's attention: qkv.weight (3 h d, C), proj.weight (C, h d), relative_position_bias_table (n, h)."""

    def in_bias(self) -> Tensor | None:
        return self.qkv.bias

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        """(B, h, T, d) twice -> (B, h, T, T)."""
        return (q * self.head_dim**-0.5) @ k.transpose(-2, -1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H, W, C)."""
        windows = into_windows(x, self.window_size, self.shift_size)
        q, k, v = split_heads(F.linear(windows, self.qkv.weight, self.in_bias()), self.num_heads)
        logits = self.logits(q, k) + self.get_relative_position_bias()
        weights = mask_seams(logits, x, self.window_size, self.shift_size).softmax(-1)
        weights = F.dropout(weights, self.attention_dropout, self.training)
        out = F.linear(merge_heads(weights @ v), self.proj.weight, self.proj.bias)
        out = F.dropout(out, self.dropout, self.training)
        return out_of_windows(out, x, self.window_size, self.shift_size)


class HeadedShiftedWindowAttentionV2(HeadedShiftedWindowAttention, ShiftedWindowAttentionV2):
    """Swin V2's: cosine attention with logit_scale (h, 1, 1), the position bias from cpb_mlp with h outputs."""

    def in_bias(self) -> Tensor | None:
        """The keys have no bias, whatever the stored one says."""
        bias = self.qkv.bias
        if bias is not None:
            third = bias.numel() // 3
            bias = bias.clone()
            bias[third : 2 * third].zero_()
        return bias

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        scale = self.logit_scale.clamp(max=math.log(100.0)).exp()
        return F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * scale


class HeadedRelativePositionalMultiHeadAttention(RelativePositionalMultiHeadAttention):
    """MaxViT's: to_qkv.weight (3 h d, C), merge.weight (C, h d); scale_factor stays the dense layer's."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, windows, T, C) -> (N, windows, T, C)."""
        q, k, v = split_heads(self.to_qkv(x), self.n_heads)
        logits = q @ (k * self.scale_factor).transpose(-2, -1) + self.get_relative_positional_bias()
        return self.merge(merge_heads(logits.softmax(-1) @ v))
