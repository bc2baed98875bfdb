"""The three demo networks. Small enough to scan in seconds, wide enough that many channels can leave.

``assets/demos/make_demos.py`` trains them on the calibration part of their data; the weights lie beside it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DIGITS_VGG_WIDTHS = (32, 32, "pool", 64, 64, "pool", 128, 128, "pool", 160, 160)


class DigitsVgg(nn.Module):
    """VGG with batch norm: convolutions in a row, three poolings, one linear layer. (N, 1, 32, 32) -> (N, classes)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for width in DIGITS_VGG_WIDTHS:
            if isinstance(width, int):
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean(dim=(2, 3)))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, projected by a 1 x 1 convolution where shapes differ."""

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False),
                nn.BatchNorm2d(width),
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class DigitsResNet(nn.Module):
    """A stem and three stages of two residual blocks: 32, 64, 128 channels. (N, 1, 32, 32) -> (N, classes)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.stage1 = nn.Sequential(ResidualBlock(32, 32), ResidualBlock(32, 32))
        self.stage2 = nn.Sequential(ResidualBlock(32, 64, stride=2), ResidualBlock(64, 64))
        self.stage3 = nn.Sequential(ResidualBlock(64, 128, stride=2), ResidualBlock(128, 128))
        self.classifier = nn.Linear(128, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.stage3(self.stage2(self.stage1(self.stem(x))))
        return self.classifier(out.mean(dim=(2, 3)))


class InvertedBlock(nn.Module):
    """1 x 1 up, 3 x 3 depthwise, 1 x 1 down, added to the input (MobileNetV2, arXiv 1801.04381)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.expand = _conv_norm(channels, hidden, 1)
        self.depthwise = _conv_norm(hidden, hidden, 3, groups=hidden)
        self.project = _conv_norm(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(F.relu(self.depthwise(F.relu(self.expand(x)))))


class TwinBlock(nn.Module):
    """A 3 x 3 and a 1 x 1 branch side by side, concatenated (SqueezeNet's fire module, arXiv 1602.07360)."""

    def __init__(self, channels: int, wide: int, narrow: int) -> None:
        super().__init__()
        self.wide = _conv_norm(channels, wide, 3)
        self.narrow = _conv_norm(channels, narrow, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(torch.cat([self.wide(x), self.narrow(x)], dim=1))


class ShapesCnn(nn.Module):
    """A plain, an inverted, a two-branch and a residual block. (N, 3, 48, 48) -> (N, classes)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv_norm(3, 32, 3, stride=2), nn.ReLU())
        self.plain = nn.Sequential(_conv_norm(32, 48, 3), nn.ReLU(), nn.MaxPool2d(2))
        self.inverted = InvertedBlock(48, 144)
        self.twin = TwinBlock(48, 64, 32)
        self.pool = nn.MaxPool2d(2)
        self.residual = ResidualBlock(96, 128)
        self.classifier = nn.Linear(128, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.twin(self.inverted(self.plain(self.stem(x))))
        out = self.residual(self.pool(out))
        return self.classifier(out.mean(dim=(2, 3)))


def _conv_norm(channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width))
