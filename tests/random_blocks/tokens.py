"""Blocks over tokens: what transformers are made of, on the positions of a small image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.random_blocks.basic import Block, fitted

Style = Literal["multihead", "qkv", "qkv_chunk", "qkv_width", "separate", "fused", "einsum", "own_number", "single"]


class HandAttention(nn.Module):
    """Attention written by hand, in the ways it is found in the wild. Input and output: N x tokens x width."""

    def __init__(self, width: int, heads: int, each: int, style: str, bias: bool) -> None:
        super().__init__()
        self.num_heads, self.style, self.scale = heads, style, each**-0.5
        inner = width if style == "qkv_width" else heads * each
        self.head_dim = inner // heads
        if style in {"separate", "single"}:
            self.q, self.k = nn.Linear(width, inner, bias=bias), nn.Linear(width, inner, bias=bias)
            self.v = nn.Linear(width, inner, bias=bias)
        else:
            self.qkv = nn.Linear(width, 3 * inner, bias=bias)
        self.proj = nn.Linear(inner, width)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v: N x heads x tokens x each."""
        batch, count, width = x.shape
        if self.style == "separate":
            q, k, v = (layer(x).view(batch, count, self.num_heads, -1).transpose(1, 2) for layer in self._three())
            return q, k, v
        if self.style == "qkv_chunk":
            q, k, v = self.qkv(x).chunk(3, -1)
            shape = (batch, count, -1, self.head_dim)
            return q.view(shape).transpose(1, 2), k.view(shape).transpose(1, 2), v.view(shape).transpose(1, 2)
        each = width // self.num_heads if self.style == "qkv_width" else self.head_dim
        if self.style == "own_number":  # the number of heads follows the width, nothing is noted
            each = -1
        qkv = self.qkv(x).reshape(batch, count, 3, self.num_heads, each).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        return q, k, v

    def _three(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.q, self.k, self.v

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "single":  # one head over everything: queries and keys narrow, values wide
            weights = (self.q(x) @ self.k(x).transpose(1, 2) * self.scale).softmax(-1)
            return self.proj(weights @ self.v(x))
        q, k, v = self.parts(x)
        if self.style == "fused":
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.style == "einsum":
            y = torch.einsum("bhqk,bhkd->bhqd", torch.einsum("bhqd,bhkd->bhqk", q * self.scale, k).softmax(-1), v)
        else:
            y = (q * self.scale @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))


class _Multihead(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, bias=bias, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Tokens(nn.Module):
    """N x C x space as N x tokens x C, through a stack with residuals, and back."""

    def __init__(
        self, stack: list[nn.Module], norms: list[nn.Module], extra: Tensor | None, where: Tensor | None
    ) -> None:
        super().__init__()
        self.stack, self.norms = nn.ModuleList(stack), nn.ModuleList(norms)
        self.token = None if extra is None else nn.Parameter(extra)
        self.position = None if where is None else nn.Parameter(where)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        y = x.flatten(2).transpose(1, 2)
        if self.token is not None:
            y = torch.cat([self.token.expand(y.shape[0], -1, -1), y], 1)
        if self.position is not None:
            y = y + self.position
        for norm, layer in zip(self.norms, self.stack, strict=True):
            y = y + layer(norm(y))
        if self.token is not None:
            y = y[:, 1:] + y[:, :1]
        return y.transpose(1, 2).reshape(x.shape[0], -1, *size)


@dataclass(frozen=True)
class Transformer(Block):
    """Attention and a hidden layer, each with a residual."""

    style: Style
    heads: Literal[2, 3, 1]
    each: Literal[2, 3, 1]
    hidden: Literal["none", 4, 6]
    norm: Literal["none", "layer"]
    token: bool
    position: bool
    bias: bool

    def make(self, x: Tensor) -> nn.Module:
        tied = self.style in {"multihead", "qkv_width"}
        before, width = fitted(x, self.heads if tied else 1)
        count = x[0, 0].numel() + self.token
        if self.style == "multihead":
            stack: list[nn.Module] = [_Multihead(width, self.heads, self.bias)]
        else:
            stack = [HandAttention(width, self.heads, self.each, self.style, self.bias)]
        if self.hidden != "none":
            stack.append(nn.Sequential(nn.Linear(width, self.hidden), nn.GELU(), nn.Linear(self.hidden, width)))
        norms: list[nn.Module] = [nn.LayerNorm(width) if self.norm == "layer" else nn.Identity() for _ in stack]
        extra = torch.zeros(1, 1, width) if self.token else None
        where = torch.zeros(1, count, width) if self.position else None
        return nn.Sequential(before, Tokens(stack, norms, extra, where))


class _Mixer(nn.Module):
    def __init__(self, kind: str, count: int, width: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "mixer":  # a hidden layer over positions
            self.inner: nn.Module = nn.Sequential(nn.Linear(count, 4), nn.GELU(), nn.Linear(4, count))
        elif kind == "lstm":
            self.inner = nn.LSTM(width, 3, batch_first=True)
        elif kind == "encoder":
            self.inner = nn.TransformerEncoderLayer(width, 1, 5, batch_first=True, dropout=0.0)
        else:
            self.inner = nn.Sequential(nn.Linear(width, 6), nn.GELU(), nn.Linear(6, width))

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(2)
        if self.kind == "mixer":
            return x + self.inner(y).view_as(x)
        y = y.transpose(1, 2)
        y = self.inner(y)[0] if self.kind == "lstm" else self.inner(y)
        return y.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])


@dataclass(frozen=True)
class Mixer(Block):
    kind: Literal["hidden", "mixer", "lstm", "encoder"]

    def make(self, x: Tensor) -> nn.Module:
        return _Mixer(self.kind, x[0, 0].numel(), x.shape[1])


SIMPLE: tuple[type[Block], ...] = (Transformer, Mixer)
