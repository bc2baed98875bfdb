"""Attention between places: tokens by heads, windows, all positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo import zoo
from tests.zoo_nets.basic import pooled


# 4 tokens and a class token, width 8. patch 8.48.4 = 1536, packed 5.8.24 = 960, scores 2 heads . 5.5.4 = 200, mix 200,
# out 5.8.8 = 320, fc1 5.8.12 = 480, fc2 480, head 24.
# patch 392, token 8, position 40, norms 16 each, attention 192 + 24 + 64 + 8, fc1 108, fc2 104, head 27.
@zoo(
    3, 8, 8, groups={"attention": 2, "fc1": 12}, locked={"patch": "normalisation", "head": "output"},
    macs=4200, params=1015, members={"patch": ("patch", "attention.out_proj", "fc2")},
    gathers={"gather:fc1": 8, "gather:head": 8},
)  # fmt: skip
class VisionTransformer(nn.Module):
    """Whole heads may leave, and hidden channels; the trunk is normalised over its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(1, 5, 8))
        self.norm1, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.norm3, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(self.norm3(x)[:, 0])


# patch 1536, packed 4.8.24 = 768, scores and mix 2.4.4.4 = 128 each, out 256, fc1 384, fc2 384, head 24.
# patch 392, attention 288, fc1 108, fc2 104, norms 32, head 27.
@zoo(
    3, 8, 8, groups={"layer.self_attn": 2, "layer.linear1": 12}, locked={"patch": "normalisation", "head": "output"},
    macs=3608, params=951, members={"patch": ("patch", "layer.self_attn.out_proj", "layer.linear2")},
    gathers={"gather:layer.linear1": 8, "gather:head": 8},
)  # fmt: skip
class EncoderLayer(nn.Module):
    """PyTorch's own block, which has a fast path of its own that reads its weights directly."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 3)
        self.layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=12, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(self.layer(x).mean(1))


# patch 1536, packed 4.8.24 = 768, scores and mix 128 each, out 256, head 24. patch 392, attention 288, head 27.
# Without a norm the trunk is free as well.
@zoo(
    3, 8, 8, groups={"patch": 8, "attention": 2}, locked={"head": "output"}, macs=2840, params=707,
    members={"patch": ("patch", "attention.out_proj")},
)  # fmt: skip
class AttentionWeightsAsked(nn.Module):
    """Averaged attention weights are an average over heads: asked for, but unused here. Sequence first."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.attention = nn.Conv2d(3, 8, 4, stride=4), nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).permute(2, 0, 1)
        y, _ = self.attention(x, x, x)
        return self.head((x + y).mean(0))


class _Block(nn.Module):
    """patch, norm, an attention module, head: patch 392, norm 16, qkv 216, proj 72, head 27 parameters."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.patch, self.norm, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8), nn.Linear(8, 3)
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head((x + self.attention(self.norm(x))).mean(1))


MACS = 1536 + 768 + 128 + 128 + 256 + 24  # patch, qkv 4.8.24, scores 2.4.4.4, mix, proj 4.8.8, head
PARAMS = 392 + 16 + 216 + 72 + 27
GATHERS = {"gather:attention.qkv": 8, "gather:head": 8}
TRUNK = {"patch": "normalisation mixes channels", "head": "output"}
BORN = {"patch": ("patch", "attention.proj")}


class PackedHeads(nn.Module):
    """The usual hand-written form: head count and head width are attributes, the inner width is what comes out."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.scale = self.head_dim**-0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, -1))


@zoo(
    3, 8, 8, groups={"attention.qkv": 2}, locked=TRUNK, macs=MACS, params=PARAMS, members=BORN, gathers=GATHERS
)  # fmt: skip
class HeadAttention(_Block):
    def __init__(self) -> None:
        super().__init__(PackedHeads(8, 2))


class SeparateHeads(nn.Module):
    """Three layers instead of one, and the fused operator."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.num_heads, self.head_dim).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        mixed = F.scaled_dot_product_attention(self.heads(self.q(x)), self.heads(self.k(x)), self.heads(self.v(x)))
        return self.proj(mixed.transpose(1, 2).flatten(2))


@zoo(
    3, 8, 8, groups={"attention.q": 2}, locked=TRUNK, macs=MACS, params=PARAMS,
    members={**BORN, "attention.q": ("attention.q", "attention.k", "attention.v")},
    gathers={"gather:attention.q": 8, "gather:attention.k": 8, "gather:attention.v": 8, "gather:head": 8},
)  # fmt: skip
class FusedAttention(_Block):
    def __init__(self) -> None:
        super().__init__(SeparateHeads(8, 2))


class SplitByWidth(nn.Module):
    """Heads cut from the width of what comes in: fewer heads would be wider ones."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, channels = x.shape
        each = channels // self.heads
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, each).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) * each**-0.5
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, channels))


@zoo(
    3, 8, 8, groups={}, locked={**TRUNK, "attention.qkv": ""}, macs=MACS, params=PARAMS,
    members=BORN, gathers={**GATHERS, "gather:attention.proj": 2},
)  # fmt: skip
class HeadsFromTheTrunk(_Block):
    """Its code needs the packed layer at three times the trunk's width."""

    def __init__(self) -> None:
        super().__init__(SplitByWidth(8, 2))


class NormedHeads(nn.Module):
    """Queries and keys are normalised head by head (Dehghani et al. 2023)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q_norm, self.k_norm = nn.LayerNorm(self.head_dim), nn.LayerNorm(self.head_dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        mixed = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, self.num_heads * self.head_dim))


# Two norms over four channels: 16 more parameters.
@zoo(
    3, 8, 8, groups={"attention.qkv": 2}, locked=TRUNK, macs=MACS, params=PARAMS + 16, members=BORN, gathers=GATHERS
)  # fmt: skip
class NormedQueries(_Block):
    """A norm inside each head asks nothing of whole heads."""

    def __init__(self) -> None:
        super().__init__(NormedHeads(8, 2))


class WindowHeads(nn.Module):
    """Attention inside 2 x 2 windows, with a learnt bias per head and relative position, looked up by a buffer."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.table = nn.Parameter(torch.zeros(9, num_heads))
        place = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
        apart = place[:, None] - place[None, :] + 1
        self.register_buffer("index", (3 * apart[..., 0] + apart[..., 1]).flatten())

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        x = x.view(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, channels)
        qkv = self.qkv(x).reshape(len(x), 4, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        scores = (qkv[0] * self.head_dim**-0.5) @ qkv[1].transpose(-2, -1)
        scores = scores + self.table[self.index].view(4, 4, -1).permute(2, 0, 1).unsqueeze(0)
        x = self.proj((scores.softmax(-1) @ qkv[2]).transpose(1, 2).flatten(2))
        x = x.view(batch, height // 2, width // 2, 2, 2, channels).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(batch, height, width, channels)


# 16 tokens in 4 windows: patch 8.12.16 = 1536, qkv 16.8.24 = 3072, scores 4 windows . 2.4.4.4 = 512, mix 512,
# proj 16.8.8 = 1024, head 24. patch 104, norm 16, qkv 216, proj 72, table 18, head 27.
@zoo(
    3, 8, 8, groups={"attention.qkv": 2}, locked=TRUNK, macs=6680, params=453, members=BORN, gathers=GATHERS
)  # fmt: skip
class WindowAttention(nn.Module):
    """Swin's block without the shift: a head takes its column of the bias table along."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm, self.head = nn.Conv2d(3, 8, 2, stride=2), nn.LayerNorm(8), nn.Linear(8, 3)
        self.attention = WindowHeads(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        return self.head((x + self.attention(self.norm(x))).mean((1, 2)))


# conv1 8.27.64 = 13824, theta, phi and value 4.8.64 = 2048 each, scores 64.64.4 = 16384, mix 16384, back 8.4.64 = 2048,
# fc 24. conv1 224, theta, phi and value 36 each, back 40, fc 27.
@zoo(
    3, 8, 8, groups={"conv1": 8, "value": 4}, macs=54808, params=399,
    locked={"theta": "sums over its channels", "phi": "sums over its channels", "fc": "output"},
    members={"conv1": ("conv1", "back")},
    gathers={"gather:theta": 8, "gather:phi": 8, "gather:value": 8, "gather:fc": 8},
)  # fmt: skip
class NonLocal(nn.Module):
    """Every position looks at every other: queries and keys are summed away, values pass channel by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 3)
        self.theta, self.phi = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.value, self.back = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu(self.conv1(x))
        scores = self.theta(x).flatten(2).transpose(1, 2) @ self.phi(x).flatten(2)
        y = scores.softmax(-1) @ self.value(x).flatten(2).transpose(1, 2)
        y = y.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])
        return self.fc(pooled(x + self.back(y)))
