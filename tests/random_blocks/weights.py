"""Blocks that use their weights in ways of their own: functional calls, products by hand, weights made from others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune

from tests.random_blocks.basic import CONVS, Block

FUNCTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
BACK = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class _Product(nn.Module):
    def __init__(self, kind: str, width: int, out: int, dims: int) -> None:
        super().__init__()
        self.kind, self.dims = kind, dims
        shape = (out, width, *(1,) * dims) if kind in {"conv", "tied", "standardised", "positive"} else (out, width)
        self.weight = nn.Parameter(torch.zeros(shape))
        self.bias = nn.Parameter(torch.zeros(out))
        if kind == "low_rank":
            self.weight, self.second = nn.Parameter(torch.zeros(2, width)), nn.Parameter(torch.zeros(out, 2))

    def forward(self, x: Tensor) -> Tensor:
        weight, conv = self.weight, FUNCTIONS[self.dims]
        if self.kind == "conv":
            return conv(x, weight, self.bias)
        if self.kind == "tied":  # down and up again by one weight
            return BACK[self.dims](F.relu(conv(x, weight, self.bias)), weight)
        if self.kind == "standardised":
            axes = tuple(range(1, weight.dim()))
            spread = weight.var(axes, keepdim=True, correction=0).add(1e-3).sqrt()
            return conv(x, (weight - weight.mean(axes, keepdim=True)) / spread, self.bias)
        if self.kind == "positive":
            return conv(x, weight.abs(), self.bias)
        if self.kind == "linear":
            return F.linear(x.movedim(1, -1), weight, self.bias).movedim(-1, 1)
        if self.kind == "einsum":
            return torch.einsum("nc...,oc->no...", x, weight)
        rows = x.flatten(2)
        if self.kind == "matmul":
            y = weight @ rows
        elif self.kind == "right":
            y = (rows.transpose(1, 2) @ weight.t()).transpose(1, 2)
        elif self.kind == "bmm":
            y = torch.bmm(weight.expand(x.shape[0], -1, -1), rows)
        elif self.kind == "low_rank":
            y = self.second @ weight @ rows
        else:
            y = torch.baddbmm(self.bias[:, None], weight.unsqueeze(0).repeat(x.shape[0], 1, 1), rows)
        return y.reshape(x.shape[0], -1, *x.shape[2:])


@dataclass(frozen=True)
class Product(Block):
    """A 1 x 1 convolution, written in other words."""

    kind: Literal[
        "conv", "linear", "matmul", "right", "einsum", "bmm", "baddbmm", "low_rank", "tied", "standardised", "positive"
    ]
    width: Literal[4, 3, 6]

    def make(self, x: Tensor) -> nn.Module:
        return _Product(self.kind, x.shape[1], self.width, x.dim() - 2)


class _Scaled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 0.7


class _Centred(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight - weight.mean(tuple(range(1, weight.dim())), keepdim=True)


@dataclass(frozen=True)
class Parametrised(Block):
    """A layer whose weight a parametrisation makes from another, or that an earlier tool has masked."""

    kind: Literal["scaled", "centred", "masked", "linear_norm", "transposed_norm", "bias_scaled"]

    def make(self, x: Tensor) -> nn.Module:
        layer: nn.Module = CONVS[x.dim() - 2](x.shape[1], 4, 3, padding=1)
        if self.kind == "masked":
            return prune.random_unstructured(layer, "weight", 0.3)
        if self.kind == "linear_norm":  # the norm runs over outputs: one length per input channel
            return nn.utils.parametrizations.weight_norm(layer, dim=1)
        if self.kind == "transposed_norm":
            return nn.utils.parametrizations.weight_norm(layer, dim=None)
        made = _Centred() if self.kind == "centred" else _Scaled()
        parametrize.register_parametrization(layer, "bias" if self.kind == "bias_scaled" else "weight", made)
        return layer


class _Strict(nn.Module):
    """Notes a width when it is built and insists on it."""

    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        self.width, self.how = width, how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "assert":
            assert x.shape[1] == self.width, "another width than it was built for"
        elif self.how == "branch":
            return x.tanh() if x.shape[1] == self.width else x
        elif self.how == "view":
            return x.reshape(x.shape[0], self.width, *x.shape[2:])
        elif self.how == "expand":
            return x * x.new_ones(1).expand(self.width).view(-1, *(1,) * (x.dim() - 2))
        elif self.how == "each":  # over a range that was noted
            return torch.cat([x[:, i : i + 1].relu() for i in range(self.width)], 1)
        elif self.how == "each_there":
            return torch.cat([x[:, i : i + 1].relu() for i in range(x.shape[1])], 1)
        return x[:, : self.width]


@dataclass(frozen=True)
class Strict(Block):
    how: Literal["slice", "assert", "branch", "view", "expand", "each", "each_there"]

    def make(self, x: Tensor) -> nn.Module:
        return _Strict(x.shape[1], self.how)


SIMPLE: tuple[type[Block], ...] = (Product, Parametrised, Strict)
