"""Blocks that shuffle, cut or double channels, or fold them into space and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.random_blocks.basic import Apply, Block, fitted, project, space


def shuffle(x: Tensor, groups: int) -> Tensor:
    batch, width = x.shape[:2]
    return x.view(batch, groups, width // groups, *x.shape[2:]).transpose(1, 2).reshape(batch, -1, *x.shape[2:])


class _FixedShuffle(nn.Module):
    """Its width is noted when it is built."""

    def __init__(self, groups: int, width: int) -> None:
        super().__init__()
        self.groups, self.each = groups, width // groups

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(x.shape[0], self.groups, self.each, *x.shape[2:])
        return x.transpose(1, 2).reshape(x.shape[0], self.groups * self.each, *x.shape[3:])


@dataclass(frozen=True)
class Shuffle(Block):
    groups: Literal[2, 3]
    fixed: bool

    def make(self, x: Tensor) -> nn.Module:
        before, width = fitted(x.contiguous(), self.groups)
        groups = self.groups
        last = _FixedShuffle(groups, width) if self.fixed else Apply(lambda value: shuffle(value.contiguous(), groups))
        return nn.Sequential(before, last)


class _Halves(nn.Module):
    def __init__(self, how: str, width: int, x: Tensor, shuffled: bool) -> None:
        super().__init__()
        self.how, self.shuffled = how, shuffled
        self.left = width // 3 if how == "unequal" else width // 2
        rest = x[:, :1].expand(-1, width - self.left, *x.shape[2:])
        self.conv = project(rest, width - self.left)

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        if self.how == "chunk":
            left, right = x.chunk(2, 1)
        elif self.how == "split":
            left, right = torch.split(x, half, 1)
        elif self.how == "slice":
            left, right = x[:, :half], x[:, half:]
        elif self.how == "narrow":
            left, right = x.narrow(1, 0, half), x.narrow(1, half, half)
        elif self.how == "view":
            left, right = x.reshape(x.shape[0], 2, half, *x.shape[2:]).unbind(1)
        elif self.how == "fixed":
            left, right = torch.split(x, [self.left, self.left], 1)
        else:
            left, right = x[:, : self.left], x[:, self.left :]
        out = torch.cat([left, F.relu(self.conv(right))], 1)
        return shuffle(out, 2) if self.shuffled else out


@dataclass(frozen=True)
class Halves(Block):
    """Cut in two, work on one part, join; both parts are used."""

    how: Literal["chunk", "split", "slice", "narrow", "view", "fixed", "unequal"]
    shuffled: bool

    def make(self, x: Tensor) -> nn.Module:
        before, width = fitted(x, 6 if self.how == "unequal" else 2)
        return nn.Sequential(before, _Halves(self.how, width, x, self.shuffled))


def _by_pairs(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], x.shape[1] // 2, 2, *x.shape[2:])


GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "glu": lambda x: F.glu(x, 1),
    "chunk": lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1].sigmoid(),
    "star": lambda x: torch.mul(*(F.relu6(part) for part in x.chunk(2, 1))),
    "slice": lambda x: x[:, : x.shape[1] // 2] * x[:, x.shape[1] // 2 :].tanh(),
    "pairs": lambda x: torch.tanh(x[:, ::2]) * x[:, 1::2],
    "maxout": lambda x: _by_pairs(x).amax(2),
    "pair_mean": lambda x: _by_pairs(x).mean(2),
    "pair_softmax": lambda x: _by_pairs(x).softmax(2).sub(0.5).reshape_as(x),
    "half_mean": lambda x: x.reshape(x.shape[0], 2, x.shape[1] // 2, *x.shape[2:]).mean(1),
    "one_used": lambda x: x.chunk(2, 1)[0].relu(),
}


@dataclass(frozen=True)
class Gate(Block):
    """Channels that work in pairs."""

    kind: Literal[
        "glu", "chunk", "star", "slice", "pairs", "maxout", "pair_mean", "pair_softmax", "half_mean", "one_used"
    ]

    def make(self, x: Tensor) -> nn.Module:
        before, _ = fitted(x, 2)
        return nn.Sequential(before, Apply(GATES[self.kind]))


def _windowed(x: Tensor, inner: nn.Module) -> Tensor:
    """Windows of 2 x 2 as rows of their own, worked on, and put back."""
    batch, width, height, across = x.shape
    y = x.reshape(batch, width, height // 2, 2, across // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, width)
    y = inner(y)
    y = y.reshape(batch, height // 2, across // 2, 2, 2, -1).permute(0, 5, 1, 3, 2, 4)
    return y.reshape(batch, -1, height, across)


class _Windows(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + _windowed(x, self.linear)


@dataclass(frozen=True)
class Fold(Block):
    """Channels become space or space becomes channels."""

    dims: ClassVar[tuple[int, ...]] = (2,)
    kind: Literal["pixel_shuffle", "pixel_unshuffle", "by_hand", "windows", "patches", "merge"]

    def make(self, x: Tensor) -> nn.Module:
        even = all(size % 2 == 0 for size in x.shape[2:])
        if self.kind == "pixel_shuffle":
            before, _ = fitted(x, 4)
            return nn.Sequential(before, nn.PixelShuffle(2)) if max(x.shape[2:]) <= 6 else before
        if not even or x.shape[1] > 8:
            return nn.Identity()
        if self.kind == "pixel_unshuffle":
            return nn.PixelUnshuffle(2)
        if self.kind == "windows":
            return _Windows(x.shape[1])
        if self.kind == "patches":
            return Apply(lambda y: F.unfold(y, 2, stride=2).reshape(y.shape[0], -1, y.shape[2] // 2, y.shape[3] // 2))
        if self.kind == "merge":  # Swin's patch merging
            return Apply(lambda y: torch.cat([y[:, :, i::2, j::2] for j in (0, 1) for i in (0, 1)], 1))
        return Apply(lambda y: y.reshape(y.shape[0], y.shape[1], y.shape[2] // 2, 2, -1).transpose(2, 3).flatten(1, 2))


@dataclass(frozen=True)
class Upsample(Block):
    mode: Literal["nearest", "linear", "interpolate", "expand"]

    def make(self, x: Tensor) -> nn.Module:
        if max(x.shape[2:]) > 6:
            return nn.Identity()
        if self.mode == "nearest":
            return nn.Upsample(scale_factor=2)
        if self.mode == "linear":
            name = {1: "linear", 2: "bilinear", 3: "trilinear"}[x.dim() - 2]
            return nn.Upsample(scale_factor=2, mode=name, align_corners=False)
        if self.mode == "interpolate":
            return Apply(lambda y: F.interpolate(y, size=[size + 1 for size in y.shape[2:]]))
        return Apply(lambda y: y + y.mean(space(y), keepdim=True).expand(y.shape))


SIMPLE: tuple[type[Block], ...] = (Shuffle, Halves, Gate, Fold, Upsample)
