"""Blocks with more than one way through: sums, gates, concatenations, squeeze-excitation, layers that work twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.random_blocks.basic import (
    CONVS,
    TRANSPOSED,
    ActName,
    Apply,
    Block,
    ChannelsLast,
    NormName,
    activation,
    chain,
    normalisation,
    project,
    space,
)

Join = Literal[
    "sum", "sum_", "sub", "product", "gate", "cat", "stack_sum", "stack_mean", "where", "maximum", "lerp", "addcmul",
    "scaled", "cat_reversed",
]  # fmt: skip


def join(parts: list[Tensor], how: str, alpha: Tensor) -> Tensor:
    first, second = parts[0], parts[1]
    if how == "sum_":
        second = second * 1.0
        for part in parts[2:]:
            second += part
        second += first
        return second
    if how == "sub":
        return first - sum(parts[1:], torch.zeros_like(first))
    if how == "product":
        return first * torch.tanh(second)
    if how == "gate":
        return first * torch.sigmoid(second)
    if how == "cat":
        return torch.cat(parts, 1)
    if how == "cat_reversed":
        return torch.cat(parts[::-1], dim=-(first.dim() - 1))
    if how == "stack_sum":
        return torch.stack(parts).sum(0)
    if how == "stack_mean":
        return torch.stack(parts, 1).mean(1)
    if how == "where":
        return torch.where(first > second, first, 0.5 * first + 0.5 * second)
    if how == "maximum":
        return torch.maximum(first, second)
    if how == "lerp":
        return torch.lerp(first, second, 0.3)
    if how == "addcmul":
        return torch.addcmul(first, first.tanh(), second, value=0.5)
    if how == "scaled":
        return first + alpha * second
    return sum(parts[1:], first)


class _Merged(nn.Module):
    def __init__(self, branches: list[nn.Module], fits: list[nn.Module], how: str) -> None:
        super().__init__()
        self.branches, self.fits, self.how = nn.ModuleList(branches), nn.ModuleList(fits), how
        self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        parts = [fit(branch(x)) for branch, fit in zip(self.branches, self.fits, strict=True)]
        size = parts[0].shape[2:]
        parts = [part if part.shape[2:] == size else F.interpolate(part, size=size) for part in parts]
        return join(parts, self.how, self.alpha)


@dataclass(frozen=True)
class Merge(Block):
    """Branches over one input, joined: a residual where the first is empty, a dense block or an inception with cat.

    Where a join needs equal widths, a branch of another width gets a 1 x 1 convolution behind it.
    """

    branches: tuple[tuple[Block, ...], ...]
    how: Join

    def make(self, x: Tensor) -> nn.Module:
        built = [chain(branch, x) for branch in self.branches]
        width = built[0][1].shape[1]
        equal = not self.how.startswith("cat")
        fits = [project(y, width) if equal and y.shape[1] != width else nn.Identity() for _, y in built]
        return _Merged([layers for layers, _ in built], fits, self.how)


class _SqueezeExcite(nn.Module):
    def __init__(self, x: Tensor, hidden: int, form: str, act: str, gate: str) -> None:
        super().__init__()
        width = x.shape[1]
        self.form, self.act, self.gate = form, activation(act, hidden), activation(gate, width)
        if form == "linear":
            self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        else:
            conv = CONVS[x.dim() - 2]
            self.fc1, self.fc2 = conv(width, hidden, 1), conv(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean(space(x), keepdim=True)
        if self.form == "linear":
            y = self.gate(self.fc2(self.act(self.fc1(squeezed.flatten(1)))))
            return x * y.view(y.shape[0], -1, *(1,) * (x.dim() - 2))
        return x * self.gate(self.fc2(self.act(self.fc1(squeezed)))).expand_as(x)


@dataclass(frozen=True)
class SqueezeExcite(Block):
    hidden: Literal[2, 3]
    form: Literal["conv", "linear"]
    act: Literal["relu", "silu", "prelu_channel"]
    gate: Literal["sigmoid", "hardswish", "tanh"]

    def make(self, x: Tensor) -> nn.Module:
        return _SqueezeExcite(x, self.hidden, self.form, self.act, self.gate)


class _Attend(nn.Module):
    def __init__(self, kind: str, x: Tensor) -> None:
        super().__init__()
        self.kind, conv = kind, CONVS[x.dim() - 2]
        if kind == "space":
            self.conv = conv(2, 1, 3, padding=1)
        elif kind == "one_map":
            self.conv = conv(x.shape[1], 1, 1)
        elif kind == "efficient":
            self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        else:
            self.conv = conv(x.shape[1], x.shape[1], 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "space":  # reads a mean and a maximum over channels
            return x * self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()
        if self.kind == "efficient":  # runs along the channels
            y = x.flatten(2).mean(2).unsqueeze(1)
            return x * self.conv(y).sigmoid().view(x.shape[0], -1, *(1,) * (x.dim() - 2))
        if self.kind == "select":  # a softmax that weighs two branches, channel by channel
            y = torch.stack([self.conv(x), x], 1)
            return (y * y.mean(tuple(range(3, y.dim())), keepdim=True).softmax(1)).sum(1)
        return x * self.conv(x).sigmoid()


@dataclass(frozen=True)
class Attend(Block):
    """Attention over space or channels, without tokens."""

    kind: Literal["one_map", "space", "efficient", "select", "full"]

    def make(self, x: Tensor) -> nn.Module:
        return _Attend(self.kind, x)


class _Twice(nn.Module):
    def __init__(self, inner: nn.Module, last: nn.Module, between: bool) -> None:
        super().__init__()
        self.inner, self.last, self.between = inner, last, between

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.inner(x))
        if y.shape != x.shape:
            y = F.interpolate(y, size=x.shape[2:])
        return self.last(self.inner(F.relu(y) if self.between else y))


@dataclass(frozen=True)
class Twice(Block):
    """The same layers run twice on their own result."""

    body: tuple[Block, ...]
    between: bool

    def make(self, x: Tensor) -> nn.Module:
        inner, y = chain(self.body, x)
        return _Twice(inner, project(y, x.shape[1]), self.between)


class _Shared(nn.Module):
    def __init__(self, x: Tensor, how: str) -> None:
        super().__init__()
        conv, width = CONVS[x.dim() - 2], x.shape[1]
        self.first, self.second, self.how = conv(width, 4, 1), conv(width, 4, 1, bias=False), how
        if how == "module":
            self.second = self.first
        else:
            self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x), self.second(x.flip(-1))
        if self.how == "functional":
            right = F.relu(right) + x.flatten(2).transpose(1, 2).matmul(self.first.weight.flatten(1).t()).transpose(
                1, 2
            ).reshape(right.shape)
        return torch.cat([left, right.tanh()], 1) if self.how != "sum" else left + right.tanh()


@dataclass(frozen=True)
class Shared(Block):
    """One weight in two layers, or one layer on two inputs."""

    how: Literal["cat", "sum", "module", "functional"]

    def make(self, x: Tensor) -> nn.Module:
        return _Shared(x, self.how)


class _ConvNeXt(nn.Module):
    def __init__(self, x: Tensor, hidden: int, norm: str, grn: bool) -> None:
        super().__init__()
        dims, width = x.dim() - 2, x.shape[1]
        self.conv = CONVS[dims](width, width, 3, padding=1, groups=width)
        self.norm = normalisation(norm, x)
        self.mlp = ChannelsLast(nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)))
        self.gamma = nn.Parameter(torch.ones(width, *(1,) * dims))
        self.grn = grn

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        if self.grn:  # global response over channels
            length = y.pow(2).mean(space(y), keepdim=True)
            y = y + y * length / (length.mean(1, keepdim=True) + 1e-6)
        return x + self.gamma * self.mlp(y)


@dataclass(frozen=True)
class ConvNeXt(Block):
    hidden: Literal[4, 6]
    norm: Literal["layer", "batch", "none"]
    grn: bool

    def make(self, x: Tensor) -> nn.Module:
        return _ConvNeXt(x, self.hidden, self.norm, self.grn)


class _UNet(nn.Module):
    def __init__(self, down: nn.Module, inner: nn.Module, up: nn.Module, last: nn.Module, how: str) -> None:
        super().__init__()
        self.down, self.inner, self.up, self.last, self.how = down, inner, up, last, how

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(self.inner(F.relu(self.down(x))))
        if y.shape[2:] != x.shape[2:]:
            y = F.interpolate(y, size=x.shape[2:])
        y = torch.cat([x, y], 1) if self.how == "cat" else x + y
        return F.relu(self.last(y))


@dataclass(frozen=True)
class UNet(Block):
    """Down, blocks at half size, up, and the input beside or added."""

    body: tuple[Block, ...]
    how: Literal["cat", "sum"]
    up: Literal["transposed", "interpolate"]
    norm: NormName
    act: ActName

    def make(self, x: Tensor) -> nn.Module:
        dims, width = x.dim() - 2, x.shape[1]
        down = CONVS[dims](width, 4, 3, 2, 1).to(x.dtype)
        inner, y = chain(self.body, down(x).detach())
        wide = width if self.how == "sum" else 3
        if self.up == "transposed" and max(y.shape[2:]) <= 6:
            up: nn.Module = TRANSPOSED[dims](y.shape[1], wide, 2, 2)
        else:
            up = nn.Sequential(project(y, wide), Apply(lambda z: F.interpolate(z, scale_factor=2)))
        both = x[:, :1].expand(-1, width + wide if self.how == "cat" else width, *x.shape[2:])
        last = CONVS[dims](both.shape[1], 4, 3, padding=1)
        after = x[:, :1].expand(-1, 4, *x.shape[2:])
        tail = nn.Sequential(last, normalisation(self.norm, after), activation(self.act, 4))
        return _UNet(down, inner, up, tail, self.how)


SIMPLE: tuple[type[Block], ...] = (SqueezeExcite, Attend, Shared, ConvNeXt)
