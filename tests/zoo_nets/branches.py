"""Paths that part and meet again: additions, concatenations, gates, several uses of one layer, several answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo import zoo
from tests.zoo_nets.basic import pooled


def conv_bn(n_in: int, n_out: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution "0" without bias and batch norm "1"."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, size, stride=stride, padding=size // 2, bias=False), nn.BatchNorm2d(n_out)
    )


# stem 6.27.64 = 10368, a and b 6.6.9.64 = 20736 each, fc 24. 162 + 12, twice 324 + 12, fc 28.
@zoo(
    3, 8, 8, groups={"stem.0": 6, "a.0": 6}, locked={"fc": "output"}, macs=51864, params=874,
    members={"stem.0": ("stem.0", "b.0")},
)  # fmt: skip
class ResidualIdentity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.fc = conv_bn(3, 6), conv_bn(6, 6), conv_bn(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.fc(pooled(F.relu(x + self.b(F.relu(self.a(x))))))


# The same sums, written in place: the tape must replay without spoiling the shortcut.
@zoo(
    3, 8, 8, groups={"stem.0": 6, "a.0": 6}, locked={"fc": "output"}, macs=51864, params=874,
    members={"stem.0": ("stem.0", "b.0")},
)  # fmt: skip
class ResidualInPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.fc = conv_bn(3, 6), conv_bn(6, 6), conv_bn(6, 6), nn.Linear(6, 4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        y = self.b(self.act(self.a(x)))
        y += x
        y.mul_(0.5).clamp_(max=4.0)
        return self.fc(pooled(self.act(y)))


# stem 4.27.64 = 6912, a 8.4.9.16 = 4608, b 8.8.9.16 = 9216, down 8.4.16 = 512, fc 24.
# stem 116, a 288 + 16, b 576 + 16, down 32 + 16, fc 27.
@zoo(
    3, 8, 8, groups={"stem.0": 4, "a.0": 8, "b.0": 8}, locked={"fc": "output"}, macs=21272, params=1087,
    members={"b.0": ("b.0", "down.0")},
)  # fmt: skip
class ResidualProjection(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv_bn(3, 4), conv_bn(4, 8, stride=2), conv_bn(8, 8)
        self.down, self.fc = conv_bn(4, 8, size=1, stride=2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.b(F.relu(self.a(x)))
        return self.fc(pooled(F.relu(y + self.down(x))))


# As above without the projection: 6912 + 4608 + 9216 + 24; parameters 1087 - 48.
# b's channels 2..5 add to the stem's four; 0, 1, 6 and 7 add to zeros that the code writes.
@zoo(
    3, 8, 8, groups={"stem.0": 4, "a.0": 8}, locked={"b.0": "zero padding", "fc": "output"}, macs=20760, params=1039,
    members={"stem.0": ("stem.0", "b.0")},
)  # fmt: skip
class ResidualPadded(nn.Module):
    """CIFAR ResNet's option A: the shortcut drops every other position and pads with zero channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv_bn(3, 4), conv_bn(4, 8, stride=2), conv_bn(8, 8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.b(F.relu(self.a(x)))
        return self.fc(pooled(F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))))


# c0 4.27.64 = 6912, c1 3.4.9.64 = 6912, c2 3.7.9.64 = 12096, fc 30. c0 108, bn1 8, c1 108, bn2 14, c2 189, fc 33.
@zoo(3, 8, 8, groups={"c0": 4, "c1": 3, "c2": 3}, locked={"fc": "output"}, macs=25950, params=460)
class DenseBlock(nn.Module):
    """Every layer reads all before it; one batch norm runs over channels of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.c0, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.c1, self.bn2 = nn.Conv2d(4, 3, 3, padding=1, bias=False), nn.BatchNorm2d(7)
        self.c2, self.fc = nn.Conv2d(7, 3, 3, padding=1, bias=False), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c0(x)
        x = torch.cat([x, self.c1(F.relu(self.bn1(x)))], 1)
        x = torch.cat([x, self.c2(F.relu(self.bn2(x)))], 1)
        return self.fc(pooled(x))


# enc1 4.27.64 = 6912, enc2 6.4.9.16 = 3456, dec 5.10.9.64 = 28800, out 2.5.64 = 640.
# enc1 112, enc2 222, dec 455, out 12.
@zoo(
    3, 8, 8, groups={"enc1": 4, "enc2": 6, "dec": 5}, locked={"out": "output"}, macs=39808, params=801
)  # fmt: skip
class UNet(nn.Module):
    """A map as answer; a skip is concatenated with what came back up."""

    def __init__(self) -> None:
        super().__init__()
        self.enc1, self.enc2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.dec, self.out = nn.Conv2d(10, 5, 3, padding=1), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.enc1(x))
        deep = F.relu(self.enc2(F.max_pool2d(skip, 2)))
        up = F.interpolate(deep, scale_factor=2, mode="bilinear", align_corners=False)
        return self.out(F.relu(self.dec(torch.cat([skip, up], 1))))


# conv1 10368, conv2 4.9.9.64 = 20736, fc 12. conv1 168, conv2 328, fc 15. The image's three channels stay.
@zoo(3, 8, 8, groups={"conv1": 6, "conv2": 4}, locked={"fc": "output"}, macs=31116, params=511)
class ImageJoins(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(9, 4, 3, padding=1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, F.relu(self.conv1(x))], 1)
        return self.fc(pooled(F.relu(self.conv2(x))))


# conv1 13824, squeeze 16, excite 16, fc 24. conv1 216, bn 16, squeeze 18, excite 24, fc 27.
@zoo(
    3, 8, 8, groups={"conv1": 8, "squeeze": 2}, locked={"fc": "output"}, macs=13880, params=301,
    members={"conv1": ("conv1", "excite")},
)  # fmt: skip
class SqueezeExcitation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.squeeze, self.excite = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv1(x)))
        gate = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1))))
        return self.fc(pooled(x * torch.sigmoid(gate)))


# conv1 13824, gate 8.9.64 = 4608, fc 24. conv1 224, gate 73, fc 27. One gate channel serves all and is no group.
@zoo(3, 8, 8, groups={"conv1": 8}, locked={"fc": "output"}, macs=18456, params=324)
class SpatialGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.gate = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.conv1(x))
        return self.fc(pooled(x * torch.sigmoid(self.gate(x))))


# conv1 10368, shared twice 6.6.9.64 = 20736 each, fc 18. conv1 168, shared 330 once, fc 21.
@zoo(
    3, 8, 8, groups={"conv1": 6}, locked={"fc": "output"}, macs=51858, params=519,
    members={"conv1": ("conv1", "shared")},
)  # fmt: skip
class LayerUsedTwice(nn.Module):
    """What a layer writes it reads again: inputs and outputs leave together."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.shared = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        for _ in range(2):
            x = F.relu(self.shared(x))
        return self.fc(pooled(x))


# conv1 10368, two uses of one weight 20736 each, fc 18. conv1 168, first 324 + 6, second its bias 6, fc 21.
@zoo(
    3, 8, 8, groups={"conv1": 6}, locked={"fc": "output"}, macs=51858, params=525,
    members={"conv1": ("conv1", "first")},
)  # fmt: skip
class TiedWeights(nn.Module):
    """Two layers hold one weight: both must be told the new size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.first, self.second = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.second.weight = self.first.weight
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(pooled(F.relu(self.second(F.relu(self.first(F.relu(self.conv1(x))))))))


# stem 6.27.64 = 10368; the block runs at both scales: 6.6.9.(64 + 16) = 25920; fc 18. stem 168, block 324 + 12, fc 21.
@zoo(
    3, 8, 8, groups={"stem": 6}, locked={"fc": "output"}, macs=36306, params=525,
    members={"stem": ("stem", "block.0")},
)  # fmt: skip
class BlockAtTwoScales(nn.Module):
    """A whole module is used again, at another size of picture."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.fc = nn.Conv2d(3, 6, 3, padding=1), conv_bn(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.block(F.relu(self.stem(x))))
        return self.fc(pooled(self.block(F.avg_pool2d(x, 2))))


# conv1 10368, head 18, conv2 4.6.64 = 1536, aux 8. conv1 168, head 21, conv2 28, aux 10.
@zoo(
    3, 8, 8, groups={"conv1": 6, "conv2": 4}, locked={"head": "output", "aux": "output"}, macs=11930, params=227
)  # fmt: skip
class TwoAnswers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1)
        self.head, self.aux = nn.Linear(6, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.conv1(x))
        return {"logits": self.head(pooled(x)), "aux": self.aux(pooled(F.relu(self.conv2(x))))}


# conv1 10368, conv2 4.6.64 = 1536, fc 12. conv1 168, conv2 28, fc 15. Returned features cannot shrink.
@zoo(3, 8, 8, groups={"conv1": 6}, locked={"conv2": "output", "fc": "output"}, macs=11916, params=211)
class FeaturesReturned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.fc(pooled(features)), features
