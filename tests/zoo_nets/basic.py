"""One path from image to answer. MACs count convolutions and linear layers; a k x k kernel is written k.k."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo import zoo


def pooled(x: Tensor) -> Tensor:
    """Mean over all positions: N x C."""
    return x.mean(dim=tuple(range(2, x.dim())))


# conv1 8.3.(3.3).(8.8) = 13824, conv2 6.8.(3.3).(4.4) = 6912, fc 24.5 = 120.
# conv1 216 + 8, bn1 16, conv2 432, bn2 12, fc 120 + 5.
@zoo(3, 8, 8, groups={"conv1": 8, "conv2": 6}, locked={"fc": "output"}, macs=20856, params=809)
class Plain(nn.Module):
    """Flatten after a 2 x 2 map: every channel is four features of the linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.adaptive_avg_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        return self.fc(torch.flatten(x, 1))


# As Plain without statistics: conv1 6.3.9.64 = 10368, conv2 4.6.9.64 = 13824, fc (4.64).2 = 512.
# conv1 162, conv2 216, fc 512.
@zoo(3, 8, 8, groups={"conv1": 6, "conv2": 4}, locked={"fc": "output"}, macs=24704, params=890)
class NoBiasChannelsLast(nn.Module):
    """No bias anywhere; flattened position by position, so a channel's features lie four apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(6, 4, 3, padding=1, bias=False)
        self.fc = nn.Linear(256, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv2(torch.tanh(self.conv1(x))))
        return self.fc(x.permute(0, 2, 3, 1).flatten(1))


# fc1 12.10 = 120, fc2 10.6 = 60, fc3 6.3 = 18. fc1 130, bn 20, fc2 66, fc3 21.
@zoo(3, 2, 2, groups={"fc1": 10, "fc2": 6}, locked={"fc3": "output"}, macs=198, params=237)
class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.bn = nn.Linear(12, 10), nn.BatchNorm1d(10)
        self.fc2, self.fc3 = nn.Linear(10, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.fc1(x.flatten(1))))
        return self.fc3(F.dropout(F.gelu(self.fc2(x)), 0.5, self.training))


# conv1 6.2.3.16 = 576, conv2 4.6.3.16 = 1152, fc 12. conv1 36 + 6, bn 12, conv2 72 + 4, fc 15.
@zoo(2, 16, groups={"conv1": 6, "conv2": 4}, locked={"fc": "output"}, macs=1740, params=145)
class OneD(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn = nn.Conv1d(2, 6, 3, padding=1), nn.BatchNorm1d(6)
        self.conv2, self.fc = nn.Conv1d(6, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv1(x)))
        return self.fc(F.adaptive_avg_pool1d(F.relu(self.conv2(x)), 1).flatten(1))


# conv1 4.1.27.64 = 6912, conv2 3.4.64 = 768, fc 6. conv1 108 + 4, bn 8, conv2 12 + 3, fc 8.
@zoo(1, 4, 4, 4, groups={"conv1": 4, "conv2": 3}, locked={"fc": "output"}, macs=7686, params=143)
class ThreeD(nn.Module):
    """One input channel, three axes of space."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn = nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4)
        self.conv2, self.fc = nn.Conv3d(4, 3, 1), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(pooled(F.relu(self.conv2(F.relu(self.bn(self.conv1(x)))))))


# stem 4.27.64 = 6912, expand 12.4.64 = 3072, dw 12.9.64 = 6912, project 4.12.64 = 3072, fc 12.
# stem 108 + 8, expand 48 + 24, dw 108 + 24, project 48 + 8, fc 15.
@zoo(
    3, 8, 8, groups={"stem": 4, "expand": 12}, locked={"fc": "output"}, macs=19980, params=391,
    members={"stem": ("stem", "project")},
)  # fmt: skip
class InvertedResidual(nn.Module):
    """MobileNetV2's block: the depthwise convolution passes each channel on alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.expand, self.bn1 = nn.Conv2d(4, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.dw, self.bn2 = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12)
        self.project, self.bn3 = nn.Conv2d(12, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.bn0(self.stem(x)))
        y = F.relu6(self.bn2(self.dw(F.relu6(self.bn1(self.expand(x))))))
        return self.fc(pooled(x + self.bn3(self.project(y))))


# conv1 6.27.64 = 10368, dw 12.9.64 = 6912, pw 5.12.64 = 3840, fc 15. conv1 168, dw 108 + 12, pw 60 + 5, fc 18.
@zoo(3, 8, 8, groups={"conv1": 6, "pw": 5}, locked={"fc": "output"}, macs=21135, params=371)
class DepthMultiplier(nn.Module):
    """Depthwise with two outputs per input: a unit is one channel in front of it and two behind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.dw = nn.Conv2d(6, 12, 3, padding=1, groups=6)
        self.pw, self.fc = nn.Conv2d(12, 5, 1), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(pooled(F.relu(self.pw(F.relu(self.dw(F.relu(self.conv1(x))))))))


# conv1 8.27.64 = 13824, grouped 8.2.9.64 = 9216, fc 24. conv1 216, bn1 16, grouped 144, bn2 16, fc 27.
@zoo(3, 8, 8, groups={"conv1": 4}, locked={"fc": "output"}, macs=23064, params=419)
class Grouped(nn.Module):
    """Four groups of two channels: only whole groups can leave, before and behind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
        self.bn2, self.fc = nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.fc(pooled(F.relu(self.bn2(self.grouped(x)))))


# conv1 (stride 2) 6.27.16 = 2592, up 16.(6.4).(2.2) = 1536, conv2 5.4.64 = 1280, fc 15.
# conv1 162, bn 12, up 96 + 4, conv2 20 + 5, fc 18.
@zoo(3, 8, 8, groups={"conv1": 6, "up": 4, "conv2": 5}, locked={"fc": "output"}, macs=5423, params=317)
class Transposed(nn.Module):
    """A transposed convolution holds inputs first, outputs second, and works once per input position."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6)
        self.up, self.conv2 = nn.ConvTranspose2d(6, 4, 2, stride=2), nn.Conv2d(4, 5, 1)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.up(F.relu(self.bn(self.conv1(x)))))
        return self.fc(pooled(F.relu(self.conv2(x))))


# conv1 2592, up 16.6.(2.2) = 384, fc 18. conv1 168, up 24 + 6, fc 21.
@zoo(3, 8, 8, groups={"conv1": 6}, locked={"fc": "output"}, macs=2994, params=219)
class TransposedDepthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.up, self.fc = nn.ConvTranspose2d(6, 6, 2, stride=2, groups=6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(pooled(F.relu(self.up(F.relu(self.conv1(x))))))


# conv1 2592, up 16.(6.2).(2.2) = 768, fc 12. conv1 168, up 48 + 4, fc 15.
@zoo(3, 8, 8, groups={"conv1": 2}, locked={"fc": "output"}, macs=3372, params=235)
class TransposedGrouped(nn.Module):
    """Two groups, each of three channels in and two out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.up, self.fc = nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(pooled(F.relu(self.up(F.relu(self.conv1(x))))))


# conv1 8.27.64 = 13824, conv2 6.8.9.64 = 27648, fc 18. conv1 216, gn1 16, conv2 432, gn2 12, fc 21.
@zoo(3, 8, 8, groups={"conv1": 4, "conv2": 3}, locked={"fc": "output"}, macs=41490, params=697)
class GroupNormed(nn.Module):
    """Two channels share a mean and a variance: they leave together."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.gn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.GroupNorm(4, 8)
        self.conv2, self.gn2 = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.GroupNorm(3, 6)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.gn1(self.conv1(x)))
        return self.fc(pooled(F.relu(self.gn2(self.conv2(x)))))


# conv1 13824, conv2 4.8.9.64 = 18432, fc 12. conv1 224, in1 16, conv2 292, fc 15.
@zoo(3, 8, 8, groups={"conv1": 8, "conv2": 4}, locked={"fc": "output"}, macs=32268, params=547)
class InstanceNormed(nn.Module):
    """Each channel is normalised by its own picture; once with an affine, once without."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.in1 = nn.Conv2d(3, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True)
        self.conv2, self.in2 = nn.Conv2d(8, 4, 3, padding=1), nn.InstanceNorm2d(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.in1(self.conv1(x)))
        return self.fc(pooled(F.relu(self.in2(self.conv2(x)))))


# conv1 10368, conv2 4.6.64 = 1536, fc 12. bn0 6, conv1 168, act1 6, scale 6, conv2 28, act2 1, fc 15.
@zoo(3, 8, 8, groups={"conv1": 6, "conv2": 4}, locked={"fc": "output"}, macs=11916, params=230)
class Scaled(nn.Module):
    """Batch norm on the image, a slope per channel, a learnt scale per channel, one slope for all."""

    def __init__(self) -> None:
        super().__init__()
        self.bn0, self.conv1 = nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, padding=1)
        self.act1, self.scale = nn.PReLU(6), nn.Parameter(torch.ones(6, 1, 1))
        self.conv2, self.act2, self.fc = nn.Conv2d(6, 4, 1), nn.PReLU(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.conv1(self.bn0(x))) * self.scale
        return self.fc(pooled(self.act2(self.conv2(x))))


# conv 6.27.64 = 10368, linear 18. 162 + 18; the statistics are buffers.
@zoo(3, 8, 8, groups={"kernel": 6}, locked={"readout": "output"}, macs=10386, params=180)
class Functional(nn.Module):
    """No layers: parameters of the model itself, used by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(6, 3, 3, 3))
        self.readout = nn.Parameter(torch.zeros(3, 6))
        self.register_buffer("running_mean", torch.zeros(6))
        self.register_buffer("running_var", torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.kernel, padding=1)
        x = F.batch_norm(x, self.running_mean, self.running_var)
        return F.linear(pooled(F.leaky_relu(x, 0.1)), self.readout)
