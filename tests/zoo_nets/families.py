"""Whole architectures in small: what people bring."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo import zoo
from tests.zoo_nets.basic import pooled
from tests.zoo_nets.branches import conv_bn


class _Bottle(nn.Module):
    """6 -> 4 -> 6 around a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv_bn(6, 4, size=1), conv_bn(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.b(F.relu(self.a(x))))


# stem 6.27.64 = 10368, a 4.6.64 = 1536 and b 6.36.64 = 13824 twice, fc 24. stem 174, a 32, b 228, fc 28.
@zoo(
    3, 8, 8, groups={"stem.0": 6, "one.a.0": 4, "two.a.0": 4}, locked={"fc": "output"}, macs=41112, params=722,
    members={"stem.0": ("stem.0", "one.b.0", "two.b.0")},
    gathers={"gather:one.a.0": 6, "gather:two.a.0": 6, "gather:fc": 6},
)  # fmt: skip
class ResidualTrunk(nn.Module):
    """A trunk that all blocks add to; each block's first convolution, and the last layer, may read a part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.fc = conv_bn(3, 6), _Bottle(), _Bottle(), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(pooled(self.two(self.one(F.relu(self.stem(x))))))


# stem 10368; x at 8 x 8: three 6.54.64 = 20736, one 6.6.64 = 2304; fc 18. stem 174, three 336, one 48, bn 12, fc 21.
@zoo(
    3, 8, 8, groups={"stem.0": 6}, locked={"fc": "output"}, macs=33426, params=591,
    members={"stem.0": ("stem.0", "three.0", "one.0")},
    gathers={"gather:three.0": 6, "gather:one.0": 6, "gather:fc": 6},
)  # fmt: skip
class ReparameterBlock(nn.Module):
    """RepVGG in training form: 3 x 3, 1 x 1 and a bare batch norm side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.three, self.one = conv_bn(3, 6), conv_bn(6, 6), conv_bn(6, 6, size=1)
        self.bn, self.fc = nn.BatchNorm2d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.fc(pooled(F.relu(self.three(x) + self.one(x) + self.bn(x))))


# down1 4.27.64 = 6912, down2 6.36.16 = 3456, floor 8.54.4 = 1728, up2 (4 positions) 8.6.4.4 = 768,
# dec2 6.108.16 = 10368, up1 (16 positions) 6.4.4.16 = 1536, dec1 4.72.64 = 18432, out 2.4.64 = 512.
# down1 116, down2 228, floor 448, up2 198, dec2 660, up1 100, dec1 296, out 10.
@zoo(
    3, 8, 8, macs=43712, params=2056, locked={"out": "output"},
    groups={"down1.0": 4, "down2.0": 6, "floor.0": 8, "up2": 6, "dec2.0": 6, "up1": 4, "dec1.0": 4},
)  # fmt: skip
class UNetTwoLevels(nn.Module):
    """Two skips; the way up is by transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.floor = conv_bn(3, 4), conv_bn(4, 6), conv_bn(6, 8)
        self.up2, self.dec2 = nn.ConvTranspose2d(8, 6, 2, stride=2), conv_bn(12, 6)
        self.up1, self.dec1 = nn.ConvTranspose2d(6, 4, 2, stride=2), conv_bn(8, 4)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip1 = F.relu(self.down1(x))
        skip2 = F.relu(self.down2(F.max_pool2d(skip1, 2)))
        x = F.relu(self.floor(F.max_pool2d(skip2, 2)))
        x = F.relu(self.dec2(torch.cat([self.up2(x), skip2], 1)))
        x = F.relu(self.dec1(torch.cat([self.up1(x), skip1], 1)))
        return self.out(x)


# On 16 x 16. c3 (8 x 8) 4.27.64 = 6912, c4 (4 x 4) 6.36.16 = 3456, c5 (2 x 2) 8.54.4 = 1728,
# lat5 5.8.4 = 160, lat4 5.6.16 = 480, lat3 5.4.64 = 1280, out5 5.45.4 = 900, out4 3600, out3 14400.
# c3 112, c4 222, c5 440, lat5 45, lat4 35, lat3 25, outs 230 each.
@zoo(
    3, 16, 16, groups={"c3": 4, "c4": 6, "c5": 8, "lat5": 5}, macs=32916, params=1569,
    locked={"out5": "output", "out4": "output", "out3": "output"}, members={"lat5": ("lat5", "lat4", "lat3")},
    gathers={
        "gather:c4": 4, "gather:lat3": 4, "gather:c5": 6, "gather:lat4": 6,
        "gather:out5": 5, "gather:out4": 5, "gather:out3": 5,
    },
)  # fmt: skip
class FeaturePyramid(nn.Module):
    """A detection backbone: three scales, joined from the top down, returned by name."""

    def __init__(self) -> None:
        super().__init__()
        self.c3 = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.c4 = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.c5 = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.lat5, self.lat4, self.lat3 = nn.Conv2d(8, 5, 1), nn.Conv2d(6, 5, 1), nn.Conv2d(4, 5, 1)
        self.out5 = nn.Conv2d(5, 5, 3, padding=1)
        self.out4 = nn.Conv2d(5, 5, 3, padding=1)
        self.out3 = nn.Conv2d(5, 5, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        c3 = F.relu(self.c3(x))
        c4 = F.relu(self.c4(c3))
        p5 = self.lat5(F.relu(self.c5(c4)))
        p4 = self.lat4(c4) + F.interpolate(p5, size=c4.shape[-2:], mode="nearest")
        p3 = self.lat3(c3) + F.interpolate(p4, size=c3.shape[-2:], mode="nearest")
        return {"p3": self.out3(p3), "p4": self.out4(p4), "p5": self.out5(p5)}


# On 16 x 16. c3 6912, c4 3456, lat3 5.4.64 = 1280, lat4 5.6.16 = 480, head 4.45.(64 + 16) = 14400, answer 2.4.80 = 640.
# c3 112, c4 222, lat3 25, lat4 35, head 184, answer 10.
@zoo(
    3, 16, 16, groups={"c3": 4, "c4": 6, "lat3": 5, "head": 4}, locked={"answer": "output"}, macs=27168, params=588,
    members={"lat3": ("lat3", "lat4")}, gathers={"gather:lat3": 4, "gather:c4": 4},
)  # fmt: skip
class HeadAtTwoScales(nn.Module):
    """One head answers at both scales, so both must show it the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.c3, self.c4 = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.lat3, self.lat4 = nn.Conv2d(4, 5, 1), nn.Conv2d(6, 5, 1)
        self.head, self.answer = nn.Conv2d(5, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        c3 = F.relu(self.c3(x))
        scales = [self.lat3(c3), self.lat4(F.relu(self.c4(c3)))]
        return [self.answer(F.relu(self.head(scale))) for scale in scales]


class Auxiliary(nn.Module):
    """7 -> 2 -> 3, for training only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(7, 2, 1), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(pooled(F.relu(self.conv(x))))


# stem 10368, one 3.6.64 = 1152, three 4.54.64 = 13824, last 5.7.64 = 2240, fc 15; the auxiliary head does not run.
# stem 168, one 21, three 220, aux 16 + 9, last 40, fc 18.
@zoo(
    3, 8, 8, groups={"stem": 6, "one": 3, "three": 4, "last": 5, "aux.conv": 2},
    locked={"fc": "output", "aux.fc": "output"}, macs=27599, params=492,
)  # fmt: skip
class AuxiliaryHead(nn.Module):
    """GoogLeNet in small: a second head looks at the middle, only while training."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.three = (
            nn.Conv2d(3, 6, 3, padding=1),
            nn.Conv2d(6, 3, 1),
            nn.Conv2d(6, 4, 3, padding=1),
        )
        self.aux, self.last, self.fc = Auxiliary(), nn.Conv2d(7, 5, 1), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = F.relu(self.stem(x))
        x = F.relu(torch.cat([self.one(x), self.three(x)], 1))
        answer = self.fc(pooled(F.relu(self.last(x))))
        return (answer, self.aux(x)) if self.training else answer


# stem 10368, cv1 8.6.64 = 3072, inner 4.36.64 = 9216, cv2 5.12.64 = 3840, fc 15.
# stem 168, cv1 56, inner 148, cv2 65, fc 18.
@zoo(
    3, 8, 8, groups={"stem": 6, "cv1": 4, "cv2": 5}, locked={"fc": "output"}, macs=26511, params=455,
    members={"cv1": ("cv1", "inner")},
)  # fmt: skip
class CrossStage(nn.Module):
    """YOLO's C2f: halves, a block on the second, all joined."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.cv1, self.inner = (
            nn.Conv2d(3, 6, 3, padding=1),
            nn.Conv2d(6, 8, 1),
            nn.Conv2d(4, 4, 3, padding=1),
        )
        self.cv2, self.fc = nn.Conv2d(12, 5, 1), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(F.silu(self.cv1(F.silu(self.stem(x)))).chunk(2, 1))
        parts.append(parts[-1] + F.silu(self.inner(parts[-1])))
        return self.fc(pooled(F.silu(self.cv2(torch.cat(parts, 1)))))


# stem 10368, grouped 9.2.9.64 = 10368 in three groups, last 4.9.64 = 2304, fc 12.
# stem 168, grouped 162 + 9, last 40, fc 15. Two of stem's channels and three of grouped's are one unit.
@zoo(
    3, 8, 8, groups={"stem": 3, "last": 4}, locked={"fc": "output"}, macs=23052, params=394, gathers={}
)  # fmt: skip
class UnevenGroups(nn.Module):
    """ResNeXt's convolution with more channels out than in."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 9, 3, padding=1, groups=3)
        self.last, self.fc = nn.Conv2d(9, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(pooled(F.relu(self.last(F.relu(self.grouped(F.relu(self.stem(x))))))))


# stem 10368, a 4.6.64 = 1536, mix 6.10.64 = 3840 = b, fc 18. stem 168, a 28, bn 20, b 66, fc 21.
@zoo(
    3, 8, 8, groups={"stem": 6, "a": 4, "b": 6}, locked={"fc": "output"}, macs=15762, params=303,
)  # fmt: skip
class PreActivationDense(nn.Module):
    """One batch norm over joined channels of two layers, in front of what reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.bn = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1), nn.BatchNorm2d(10)
        self.b, self.fc = nn.Conv2d(10, 6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        joined = torch.cat((self.a(F.relu(x)), x), dim=1)
        return self.fc(pooled(F.relu(self.b(F.relu(self.bn(joined))))))


class Generator(nn.Module):
    """A convolution whose kernel another network writes (dynamic filters)."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.kernel = nn.Linear(6, 4), nn.Linear(4, 54)

    def forward(self, x: Tensor) -> Tensor:
        kernels = self.kernel(F.elu(self.code(pooled(x)))).reshape(-1, 1, 3, 3)
        batch, channels, height, width = x.shape
        folded = F.conv2d(x.reshape(1, -1, height, width), kernels, padding=1, groups=batch * channels)
        return folded.reshape(batch, channels, height, width)


# stem 10368, code 24, kernel 216, its convolution 6.9.64 = 3456, fc 18. stem 168, code 28, kernel 270, fc 21.
@zoo(
    3, 8, 8, groups={"dynamic.code": 4}, locked={"stem": "", "dynamic.kernel": "", "fc": "output"}, macs=14082,
    params=487,
)  # fmt: skip
class DynamicFilters(nn.Module):
    """The kernel is computed for each picture: the channels it meets stay, what it is computed from may leave."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.dynamic, self.fc = nn.Conv2d(3, 6, 3, padding=1), Generator(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(pooled(F.relu(self.dynamic(F.relu(self.stem(x))))))
