"""Blocks that layers are made of: convolutions, norms, activations, pooling.

A block is a frozen record whose fields list what they may be, plainest first: the fields draw the block, shrink it and
print it. ``make(x)`` builds its module for a tensor shaped like ``x`` (N x C x space).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

Width = Literal[4, 2, 3, 6, 8]
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE_NORMS = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


@dataclass(frozen=True)
class Block:
    """``dims``: the numbers of space dimensions it is defined for."""

    dims: ClassVar[tuple[int, ...]] = (1, 2, 3)

    def make(self, x: Tensor) -> nn.Module:
        raise NotImplementedError


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def space(x: Tensor) -> tuple[int, ...]:
    """The dimensions to reduce over."""
    return tuple(range(2, x.dim()))


def chain(blocks: tuple[Block, ...], x: Tensor) -> tuple[nn.Sequential, Tensor]:
    """The blocks' modules one after another, and what they make of ``x``."""
    layers = []
    for block in blocks:
        layers.append(block.make(x).to(x.dtype).eval())
        with torch.no_grad():
            x = layers[-1](x.clone())
    return nn.Sequential(*layers), x


def project(x: Tensor, width: int) -> nn.Module:
    """A 1 x 1 convolution to ``width`` channels."""
    return CONVS[x.dim() - 2](x.shape[1], width, 1)


def fitted(x: Tensor, multiple: int) -> tuple[nn.Module, int]:
    """What makes the channels of ``x`` a multiple of ``multiple`` (nothing where they are), and their number."""
    width = -(-x.shape[1] // multiple) * multiple
    return (nn.Identity() if width == x.shape[1] else project(x, width)), width


class ChannelsLast(nn.Module):
    """Works on the last dimension of N x space x C."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.movedim(1, -1)).movedim(-1, 1)


ActName = Literal[
    "relu", "none", "relu_", "gelu", "silu", "hardswish", "sigmoid", "tanh", "elu", "leaky_", "prelu", "prelu_channel",
    "softplus", "clamp", "mish", "affine", "where", "dropout", "softmax", "abs", "crelu", "masked_fill", "square",
]  # fmt: skip
ACTS: dict[str, Callable[[Tensor], Tensor]] = {
    "hardswish": F.hardswish,
    "softplus": F.softplus,
    "clamp": lambda x: x.clamp(-0.8, 1.2),
    "mish": F.mish,
    "affine": lambda x: x * 2 + 1,
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "softmax": lambda x: x.softmax(1),
    "abs": torch.abs,
    "crelu": lambda x: F.relu(torch.cat([x, -x], 1)),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0.0),
    "square": lambda x: 0.5 * x.square() / (1 + x.abs()),
}


def activation(name: str, width: int) -> nn.Module:
    layers: dict[str, Callable[[], nn.Module]] = {
        "none": nn.Identity, "relu": nn.ReLU, "relu_": lambda: nn.ReLU(inplace=True), "gelu": nn.GELU, "silu": nn.SiLU,
        "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "elu": nn.ELU, "leaky_": lambda: nn.LeakyReLU(0.1, inplace=True),
        "prelu": nn.PReLU, "prelu_channel": lambda: nn.PReLU(width), "dropout": lambda: nn.Dropout(0.1),
    }  # fmt: skip
    return layers[name]() if name in layers else Apply(ACTS[name])


NormName = Literal[
    "none", "batch", "batch_plain", "batch_passing", "group", "group_one", "group_plain", "instance", "instance_affine",
    "instance_running", "layer", "rms", "local_response",
]  # fmt: skip


def normalisation(name: str, x: Tensor) -> nn.Module:
    """Norms that need more than one position get batch norm where there is only one."""
    dims, width = x.dim() - 2, x.shape[1]
    if prod(x.shape[2:]) < 2 and name not in {"none", "layer", "rms"}:
        name = "batch"
    groups = next(count for count in (3, 2, 1) if width % count == 0)
    layers: dict[str, Callable[[], nn.Module]] = {
        "none": nn.Identity,
        "batch": lambda: BATCH_NORMS[dims](width),
        "batch_plain": lambda: BATCH_NORMS[dims](width, affine=False),
        "batch_passing": lambda: BATCH_NORMS[dims](width, track_running_stats=False),
        "group": lambda: nn.GroupNorm(groups, width),
        "group_one": lambda: nn.GroupNorm(1, width),
        "group_plain": lambda: nn.GroupNorm(groups, width, affine=False),
        "instance": lambda: INSTANCE_NORMS[dims](width),
        "instance_affine": lambda: INSTANCE_NORMS[dims](width, affine=True),
        "instance_running": lambda: INSTANCE_NORMS[dims](width, affine=True, track_running_stats=True),
        "layer": lambda: ChannelsLast(nn.LayerNorm(width)),
        "rms": lambda: ChannelsLast(nn.RMSNorm(width)),
        "local_response": lambda: nn.LocalResponseNorm(3),
    }
    return layers[name]()


WrapName = Literal["none", "weight_norm", "old_weight_norm", "spectral", "old_spectral"]


def wrapped(layer: nn.Module, name: str) -> nn.Module:
    """``layer`` with its weight computed from others at every call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old forms are deprecated; networks in the wild have them
        ways = {
            "weight_norm": parametrizations.weight_norm,
            "old_weight_norm": nn.utils.weight_norm,
            "spectral": parametrizations.spectral_norm,
            "old_spectral": nn.utils.spectral_norm,
        }
        return ways[name](layer) if name in ways else layer


@dataclass(frozen=True)
class Conv(Block):
    """The plain layer with all that may stand around it."""

    width: Width
    kernel: Literal[1, 3]
    stride: Literal[1, 2]
    padding: Literal["zeros", "circular", "reflect", "replicate"]
    dilation: Literal[1, 2]
    bias: bool
    norm: NormName
    act: ActName
    wrap: WrapName

    def make(self, x: Tensor) -> nn.Module:
        around = self.dilation * (self.kernel // 2)
        mode = self.padding if around < min(x.shape[2:]) else "zeros"
        conv = CONVS[x.dim() - 2](
            x.shape[1], self.width, self.kernel, self.stride, around, self.dilation, bias=self.bias, padding_mode=mode
        ).to(x.dtype)
        y = conv(x).detach()
        return nn.Sequential(wrapped(conv, self.wrap), normalisation(self.norm, y), activation(self.act, self.width))


@dataclass(frozen=True)
class Depthwise(Block):
    """One filter (or two) per channel, mixed by a 1 x 1 convolution behind or not."""

    multiplier: Literal[1, 2]
    stride: Literal[1, 2]
    norm: NormName
    act: ActName
    pointwise: Literal["none", 4, 6]

    def make(self, x: Tensor) -> nn.Module:
        width = x.shape[1] * self.multiplier
        conv = CONVS[x.dim() - 2](x.shape[1], width, 3, self.stride, 1, groups=x.shape[1]).to(x.dtype)
        y = conv(x).detach()
        z = activation(self.act, width).to(y.dtype)(y)
        point = nn.Identity() if self.pointwise == "none" else project(z, self.pointwise)
        return nn.Sequential(conv, normalisation(self.norm, y), activation(self.act, width), point)


@dataclass(frozen=True)
class Grouped(Block):
    """Channels convolved group by group; whole groups may leave."""

    groups: Literal[2, 3]
    each: Literal[1, 2, 3]
    kernel: Literal[1, 3]
    norm: NormName
    act: ActName

    def make(self, x: Tensor) -> nn.Module:
        before, width = fitted(x, self.groups)
        out = self.groups * self.each
        conv = CONVS[x.dim() - 2](width, out, self.kernel, padding=self.kernel // 2, groups=self.groups)
        y = torch.zeros(1, out, *x.shape[2:], dtype=x.dtype)
        return nn.Sequential(before, conv, normalisation(self.norm, y), activation(self.act, out))


@dataclass(frozen=True)
class Transposed(Block):
    """A convolution that enlarges, grouped or not, depthwise too. Small space only: it doubles it."""

    groups: Literal["one", "two", "each"]
    each: Literal[2, 1, 3]
    stride: Literal[1, 2]
    norm: NormName
    act: ActName

    def make(self, x: Tensor) -> nn.Module:
        before, width = fitted(x, 2 if self.groups == "two" else 1)
        groups = {"one": 1, "two": 2, "each": width}[self.groups]
        stride = self.stride if max(x.shape[2:]) <= 6 else 1
        out = self.each * (4 if groups == 1 else groups)
        conv = TRANSPOSED[x.dim() - 2](width, out, 3, stride, 1, output_padding=stride - 1, groups=groups)
        y = torch.zeros(1, out, *(size * stride for size in x.shape[2:]), dtype=x.dtype)
        return nn.Sequential(before, conv, normalisation(self.norm, y), activation(self.act, out))


@dataclass(frozen=True)
class Act(Block):
    act: ActName

    def make(self, x: Tensor) -> nn.Module:
        return activation(self.act, x.shape[1])


@dataclass(frozen=True)
class Norm(Block):
    norm: NormName

    def make(self, x: Tensor) -> nn.Module:
        return normalisation(self.norm, x)


@dataclass(frozen=True)
class Pool(Block):
    kind: Literal["max", "avg", "adaptive_avg", "adaptive_max", "max_overlap", "avg_ceil", "lp"]

    def make(self, x: Tensor) -> nn.Module:
        dims = x.dim() - 2
        if min(x.shape[2:]) < (3 if self.kind in {"max_overlap", "avg_ceil"} else 2):
            return nn.Identity()
        kinds: dict[str, Callable[[], nn.Module]] = {
            "max": lambda: {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}[dims](2),
            "avg": lambda: {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}[dims](2),
            "adaptive_avg": lambda: {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[dims](
                2
            ),
            "adaptive_max": lambda: {1: nn.AdaptiveMaxPool1d, 2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d}[dims](
                2
            ),
            "max_overlap": lambda: {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}[dims](3, 1, 1),
            "avg_ceil": lambda: {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}[dims](3, 2, 1, ceil_mode=True),
            "lp": lambda: {1: nn.LPPool1d, 2: nn.LPPool2d, 3: nn.LPPool3d}[dims](2, 2),
        }
        return kinds[self.kind]()


SIMPLE: tuple[type[Block], ...] = (Conv, Depthwise, Grouped, Transposed, Act, Norm, Pool)
