"""Channels that are shuffled, cut, doubled or folded into space."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo import zoo
from tests.zoo_nets.basic import pooled
from tests.zoo_nets.branches import conv_bn


def shuffled(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.shape
    return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(batch, -1, height, width)


# stem 13824, conv 4.4.9.64 = 9216, fc 24. stem 216 + 16, conv 144 + 8, fc 27.
# Halves must stay equal, so channels i and i + 4 leave together; the shuffle puts conv's channel i beside the stem's.
@zoo(
    3, 8, 8, groups={"stem.0": 4}, locked={"fc": "output"}, macs=23064, params=411,
    members={"stem.0": ("stem.0", "conv.0")},
)  # fmt: skip
class ChannelShuffle(nn.Module):
    """ShuffleNetV2's unit: cut in half, work on one half, join, shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.fc = conv_bn(3, 8), conv_bn(4, 4), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = F.relu(self.stem(x)).chunk(2, dim=1)
        x = torch.cat([left, F.relu(self.conv(right))], 1)
        return self.fc(pooled(shuffled(x, 2)))


# conv1 8.27.64 = 13824, conv2 3.4.64 = 768, fc 9. conv1 224, conv2 15, fc 12.
# Channel i of one half gates i of the other.
@zoo(3, 8, 8, groups={"conv1": 4, "conv2": 3}, locked={"fc": "output"}, macs=14601, params=251)
class GatedHalves(nn.Module):
    """A gated linear unit, built from chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(4, 3, 1), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.conv1(x).chunk(2, dim=1)
        return self.fc(pooled(F.relu(self.conv2(value * torch.sigmoid(gate)))))


# conv1 13824, conv2 4.2.9.256 = 18432, fc 12. conv1 224, conv2 76, fc 15. Four channels make one of twice the size.
@zoo(3, 8, 8, groups={"conv1": 2, "conv2": 4}, locked={"fc": "output"}, macs=32268, params=315)
class PixelShuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(pooled(F.relu(self.conv2(F.pixel_shuffle(self.conv1(x), 2)))))


# conv1 10368, conv2 4.12.64 = 3072, fc 12. conv1 168, conv2 52, fc 15.
@zoo(3, 8, 8, groups={"conv1": 6, "conv2": 4}, locked={"fc": "output"}, macs=13452, params=235)
class BothSigns(nn.Module):
    """Concatenated rectifiers: each channel is read twice, six apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(12, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = F.relu(torch.cat([x, -x], 1))
        return self.fc(pooled(F.relu(self.conv2(x))))


# conv1 10368, fc1 (6 + 6).5 = 60, fc2 15. conv1 168, fc1 65, fc2 18.
@zoo(3, 8, 8, groups={"conv1": 6, "fc1": 5}, locked={"fc2": "output"}, macs=10443, params=251)
class MeanAndMax(nn.Module):
    """Two summaries of every channel, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.fc1, self.fc2 = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(12, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu(self.conv1(x))
        both = torch.cat([pooled(x), x.amax(dim=(2, 3))], dim=1)
        return self.fc2(F.relu(self.fc1(both)))


# patch 8.(3.4.4).4 = 1536, fc1 (4 tokens) 4.8.16 = 512, fc2 512, head 24.
# patch 392, norm 16, fc1 144, fc2 136, head 27.
@zoo(
    3, 8, 8, groups={"fc1": 16}, locked={"patch": "normalisation", "head": "output"}, macs=2584, params=715,
    members={"patch": ("patch", "fc2")},
)  # fmt: skip
class TokenBlock(nn.Module):
    """ConvNeXt's order of axes: layer norm mixes the channels it runs over, the hidden ones between are free."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8)
        self.fc1, self.fc2, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x)
        y = self.fc2(F.gelu(self.fc1(self.norm(x.permute(0, 2, 3, 1)))))
        return self.head(pooled(x + y.permute(0, 3, 1, 2)))


# patch 1536 (4 tokens of 8), packed 24.8.4 = 768, scores 2 heads . 4.4.4 = 128, mixing 128, out 8.8.4 = 256,
# fc1 4.8.12 = 384, fc2 384, head 24. patch 392, attention 192 + 24 + 64 + 8, fc1 108, fc2 104, head 27.
@zoo(
    3, 8, 8, groups={"patch": 8, "attention": 2, "fc1": 12}, macs=3608, params=919, locked={"head": "output"},
    members={"patch": ("patch", "attention.out_proj", "fc2")},
)  # fmt: skip
class Attention(nn.Module):
    """Whole heads may leave, and the width of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.attention = nn.Conv2d(3, 8, 4, stride=4), nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc1, self.fc2, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.fc2(F.relu(self.fc1(x)))
        return self.head(x.mean(1))
