"""Blocks that move positions, multiply by constants, or write into what they were given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.random_blocks.basic import Apply, Block, space


def _mirror(x: Tensor) -> Tensor:
    around = (1, 1) * (x.dim() - 2)
    return F.pad(x, around, mode="reflect") if min(x.shape[2:]) > 1 else F.pad(x, around, mode="replicate")


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "flip": lambda x: x.flip(-1),
    "roll": lambda x: torch.roll(x, 1, -1),
    "pad": lambda x: F.pad(x, (1, 0)),
    "pad_value": lambda x: F.pad(x, (1, 1), value=0.7),
    "pad_reflect": _mirror,
    "pad_circular": lambda x: F.pad(x, (1, 1) * (x.dim() - 2), mode="circular"),
    "swap": lambda x: x.transpose(2, -1),
    "every_other": lambda x: x[..., ::2],
    "crop": lambda x: x[..., 1:] if x.shape[-1] > 1 else x,
    "minus_mean": lambda x: x - x.mean(space(x), keepdim=True),
    "over_deviation": lambda x: x / (1 + x.var(space(x), keepdim=True, correction=0)),
    "cumsum_space": lambda x: 0.3 * x.cumsum(-1),
    "sort_space": lambda x: x.sort(-1).values,
    "softmax_space": lambda x: x.flatten(2).softmax(-1).reshape(x.shape) * 8,
    "topk_space": lambda x: x.topk(1, -1).values,
    "repeat_space": lambda x: torch.cat([x, x.flip(-1)], -1) if x.shape[-1] <= 6 else x,
    "gather_space": lambda x: x.index_select(-1, torch.tensor([0, x.shape[-1] - 1], device=x.device)),
    "unfold_space": lambda x: x.unfold(-1, 1, 1).squeeze(-1),
    "contiguous": lambda x: x.transpose(1, -1).contiguous().transpose(1, -1),
    "reverse_channels": lambda x: x.flip(1),
    "roll_channels": lambda x: torch.roll(x, 1, 1),
    "pad_channels": lambda x: F.pad(x, (0, 0) * (x.dim() - 2) + (1, 2)),
    "pad_channels_value": lambda x: F.pad(x, (0, 0) * (x.dim() - 2) + (0, 2), value=0.5),
    "first_half": lambda x: x[:, : max(1, x.shape[1] // 2)],
    "even_channels": lambda x: x[:, ::2],
    "twice_channels": lambda x: torch.cat([x, x], 1),
    "repeat_channels": lambda x: x.repeat(1, 2, *(1,) * (x.dim() - 2)),
    "interleave_channels": lambda x: x.repeat_interleave(2, 1),
    "minus_channel_mean": lambda x: x - x.mean(1, keepdim=True),
    "unit_length": lambda x: F.normalize(x, dim=1),
    "cumsum_channels": lambda x: x.cumsum(1),
    "one_channel": lambda x: x * x.mean(1, keepdim=True).sigmoid(),
    "first_channel": lambda x: x * x[:, :1].sigmoid(),
    "last_channel": lambda x: x[:, -1:] + x,
    "unbind_sum": lambda x: torch.stack(x.unbind(-1)).sum(0).unsqueeze(-1).expand_as(x) / 4,
}
MoveName = Literal[
    "flip", "roll", "pad", "pad_value", "pad_reflect", "pad_circular", "swap", "every_other", "crop", "minus_mean",
    "over_deviation", "cumsum_space", "sort_space", "softmax_space", "topk_space", "repeat_space", "gather_space",
    "unfold_space", "contiguous", "reverse_channels", "roll_channels", "pad_channels", "pad_channels_value",
    "first_half", "even_channels", "twice_channels", "repeat_channels", "interleave_channels", "minus_channel_mean",
    "unit_length", "cumsum_channels", "one_channel", "first_channel", "last_channel", "unbind_sum",
]  # fmt: skip


@dataclass(frozen=True)
class Move(Block):
    """One function of the positions or of the channels."""

    kind: MoveName

    def make(self, x: Tensor) -> nn.Module:
        if self.kind in {"twice_channels", "repeat_channels", "interleave_channels"} and x.shape[1] > 12:
            return nn.Identity()
        return Apply(MOVES[self.kind])


class _Constant(nn.Module):
    """Multiplied by (or added to) something that does not depend on the image."""

    def __init__(self, kind: str, x: Tensor) -> None:
        super().__init__()
        self.kind = kind
        shape = (x.shape[1], *(1,) * (x.dim() - 2))
        if kind in {"layer_scale", "shift", "flat"}:
            self.gamma = nn.Parameter(torch.ones(shape[0] if kind == "flat" else shape))
        elif kind in {"scalar"}:
            self.gamma = nn.Parameter(torch.ones(1))
        elif kind == "image":
            self.gamma = nn.Parameter(torch.ones(1, *x.shape[1:]))
        elif kind == "buffer":
            self.register_buffer("gamma", torch.rand(1, *shape) + 0.5)
        elif kind == "hidden_buffer":
            self.register_buffer("gamma", torch.rand(1, *shape) + 0.5, persistent=False)
        elif kind == "attribute":
            self.gamma = torch.linspace(0.5, 1.5, shape[0], dtype=x.dtype).reshape(shape)

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, *(1,) * (x.dim() - 2))
        if self.kind == "shift":
            return x + self.gamma
        if self.kind == "flat":
            return x * self.gamma.view(shape)
        if self.kind == "ramp":  # follows the width, but a narrower ramp is another ramp
            return x * torch.linspace(0.5, 1.5, x.shape[1], dtype=x.dtype, device=x.device).view(shape)
        if self.kind == "ones":
            return x + torch.ones(x.shape[1], dtype=x.dtype, device=x.device).view(shape)
        if self.kind == "like":
            return x * torch.full_like(x, 0.7) + torch.zeros_like(x)
        if self.kind == "width":  # a number that follows the width
            return x / x.shape[1] ** 0.5
        if self.kind == "positions":
            return x * torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device) / x.shape[-1]
        return x * self.gamma


@dataclass(frozen=True)
class Constant(Block):
    kind: Literal[
        "layer_scale", "shift", "flat", "scalar", "image", "buffer", "hidden_buffer", "attribute", "ramp", "ones",
        "like", "width", "positions",
    ]  # fmt: skip

    def make(self, x: Tensor) -> nn.Module:
        return _Constant(self.kind, x)


def _halves_by_hand(x: Tensor) -> Tensor:
    out = torch.zeros(x.shape[0], 2 * x.shape[1], *x.shape[2:], dtype=x.dtype, device=x.device)
    out[:, : x.shape[1]] = x
    out[:, x.shape[1] :] = torch.tanh(x)
    return out


def _cleared(x: Tensor, where: str) -> Tensor:
    x = x * 1.0
    if where == "border":
        x[:, :, 0].mul_(0.0)
    elif where == "set":
        x[..., -1] = 0.5
    elif where == "channel":
        x[:, 0] = 0.0
    elif where == "half":
        x[:, : x.shape[1] // 2].mul_(0.5)
    elif where == "chained":
        x.mul_(0.5).add_(1)
    elif where == "view":
        x.flatten(2).mul_(0.5)
    elif where == "shift":
        y = torch.zeros_like(x)
        y[:, 1:] = x[:, :-1]
        y[:, :1] = x[:, :1]
        return y
    elif where == "copy":
        y = torch.empty_like(x)
        y.copy_(x)
        return y
    elif where == "add_view":
        y = x.sigmoid()
        return y + x[..., :1].add_(1.0)
    elif where == "fill":
        y = x.new_zeros(x.shape)
        y += x
        return y
    return x


@dataclass(frozen=True)
class Write(Block):
    """In-place operators, on the whole and through views."""

    where: Literal[
        "chained", "border", "set", "view", "copy", "fill", "add_view", "channel", "half", "shift", "by_hand"
    ]

    def make(self, x: Tensor) -> nn.Module:
        if self.where == "by_hand":
            return Apply(_halves_by_hand) if x.shape[1] <= 12 else nn.Identity()
        where = self.where
        return Apply(lambda value: _cleared(value, where))


SIMPLE: tuple[type[Block], ...] = (Move, Constant, Write)
