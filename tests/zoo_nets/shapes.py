"""Views, cuts and foldings, computed from what comes in or written as numbers; and more than two axes of space."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo import zoo
from tests.zoo_nets.basic import pooled

FIXED = "its code fixes this width"


class _Tutorial(nn.Module):
    """The classic first network, for images of 3 x 32 x 32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.pool, self.conv2 = nn.Conv2d(3, 6, 5), nn.MaxPool2d(2, 2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 5 * 5, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def features(self, x: Tensor) -> Tensor:
        return self.pool(F.relu(self.conv2(self.pool(F.relu(self.conv1(x))))))

    def classify(self, x: Tensor) -> Tensor:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


# conv1 6.75.28.28 = 352800, conv2 16.150.10.10 = 240000, fc1 400.120 = 48000, fc2 120.84 = 10080, fc3 84.10 = 840.
# conv1 456, conv2 2416, fc1 48120, fc2 10164, fc3 850.
TUTORIAL_MACS, TUTORIAL_PARAMS = 651720, 62006


@zoo(
    3, 32, 32, groups={"conv1": 6, "fc1": 120, "fc2": 84}, locked={"conv2": FIXED, "fc3": "output"},
    macs=TUTORIAL_MACS, params=TUTORIAL_PARAMS, gathers={"gather:fc1": 16},
)  # fmt: skip
class TutorialFixedView(_Tutorial):
    """400 features are written into the view: with fewer channels, images would run into each other."""

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x).view(-1, 16 * 5 * 5))


@zoo(
    3, 32, 32, groups={"conv1": 6, "conv2": 16, "fc1": 120, "fc2": 84}, locked={"fc3": "output"},
    macs=TUTORIAL_MACS, params=TUTORIAL_PARAMS, gathers={},
)  # fmt: skip
class TutorialFlatten(_Tutorial):
    def forward(self, x: Tensor) -> Tensor:
        return self.classify(torch.flatten(self.features(x), 1))


@zoo(
    3, 32, 32, groups={"conv1": 6, "conv2": 16, "fc1": 120, "fc2": 84}, locked={"fc3": "output"},
    macs=TUTORIAL_MACS, params=TUTORIAL_PARAMS, gathers={},
)  # fmt: skip
class TutorialCountedView(_Tutorial):
    """The older idiom: multiply the sizes that came in."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        features = 1
        for size in x.size()[1:]:
            features *= size
        return self.classify(x.view(-1, features))


class _Between(nn.Module):
    """conv1 (3 -> 8), ``middle``, conv2 (``width`` -> 4, 1 x 1), fc."""

    width = 8

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(self.width, 4, 1), nn.Linear(4, 3)

    def middle(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(pooled(F.elu(self.conv2(self.middle(F.elu(self.conv1(x)))))))


EIGHT = {"macs": 13824 + 2048 + 12, "params": 224 + 36 + 15}  # conv1 8.27.64, conv2 4.8.64, fc 4.3
FOUR = {"macs": 13824 + 1024 + 12, "params": 224 + 20 + 15}  # conv2 reads four channels: 4.4.64
TWO = {"macs": 13824 + 2048 + 12, "params": 224 + 12 + 15}  # conv2 reads two, at twice the height and width: 4.2.256


@zoo(3, 8, 8, groups={"conv1": 4, "conv2": 4}, locked={"fc": "output"}, **FOUR, gathers={})
class HalvesByShape(_Between):
    """Halves of whatever comes in: channels i and i + 4 leave together."""

    width = 4

    def middle(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        return x[:, :half] * x[:, half:].sigmoid()


@zoo(3, 8, 8, groups={"conv2": 4}, locked={"conv1": "", "fc": "output"}, **FOUR, gathers={"gather:conv2": 4})
class HalvesByNumber(_Between):
    """The same with the numbers written down: of six channels, four and two would meet."""

    width = 4

    def middle(self, x: Tensor) -> Tensor:
        return x[:, :4] * x[:, 4:].sigmoid()


@zoo(3, 8, 8, groups={"conv1": 4, "conv2": 4}, locked={"fc": "output"}, **EIGHT, gathers={})
class HalvesJoinedByShape(_Between):
    def middle(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        return torch.cat([x[:, :half].tanh(), x[:, half:].cos()], 1)


@zoo(3, 8, 8, groups={"conv2": 4}, locked={"conv1": "", "fc": "output"}, **EIGHT, gathers={"gather:conv2": 4})
class HalvesJoinedByNumber(_Between):
    """Runs with fewer channels, but others than the masked network's would pass through each branch."""

    def middle(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :4].tanh(), x[:, 4:].cos()], 1)


@zoo(3, 8, 8, groups={"conv2": 4}, locked={"conv1": FIXED, "fc": "output"}, **EIGHT, gathers={"gather:conv2": 8})
class ReshapedByNumber(_Between):
    """Tokens and back, with the width written down."""

    def middle(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2).tanh().transpose(1, 2).reshape(x.shape[0], 8, *x.shape[2:])


@zoo(3, 8, 8, groups={"conv2": 4}, locked={"conv1": FIXED, "fc": "output"}, **EIGHT, gathers={"gather:conv2": 4})
class ShuffledByNumber(_Between):
    """A channel shuffle whose group size is a number."""

    def middle(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], 2, 4, *x.shape[2:]).transpose(1, 2).flatten(1, 2)


@zoo(3, 8, 8, groups={"conv1": 4, "conv2": 4}, locked={"fc": "output"}, **FOUR, gathers={})
class MaxOut(_Between):
    """The larger of each neighbouring pair: pairs leave together."""

    width = 4

    def middle(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, 2, *x.shape[2:]).amax(2)


@zoo(3, 8, 8, groups={"conv1": 4, "conv2": 4}, locked={"fc": "output"}, **FOUR, gathers={})
class MaxOutOfHalves(_Between):
    """The larger of two channels that lie half the width apart."""

    width = 4

    def middle(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], 2, x.shape[1] // 2, *x.shape[2:]).amax(1)


@zoo(3, 8, 8, groups={"conv1": 4, "conv2": 4}, locked={"fc": "output"}, **FOUR, gathers={})
class GatedByGlu(_Between):
    """PyTorch's own gated linear unit."""

    width = 4

    def middle(self, x: Tensor) -> Tensor:
        return F.glu(x, 1)


@zoo(3, 8, 8, groups={"conv1": 2, "conv2": 4}, locked={"fc": "output"}, **TWO, gathers={})
class PixelShuffledByModule(_Between):
    width = 2

    def __init__(self) -> None:
        super().__init__()
        self.shuffle = nn.PixelShuffle(2)

    def middle(self, x: Tensor) -> Tensor:
        return self.shuffle(x)


@zoo(3, 8, 8, groups={"conv1": 2, "conv2": 4}, locked={"fc": "output"}, **TWO, gathers={})
class PixelShuffledByViews(_Between):
    """Four neighbouring channels become one of twice the height and width."""

    width = 2

    def middle(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        x = x.view(batch, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(batch, channels // 4, 2 * height, 2 * width)


# conv2 reads 32 channels at 4 x 4: 4.32.16 = 2048 as well; 132 parameters.
UNFOLDED = {"macs": 13824 + 2048 + 12, "params": 224 + 132 + 15}


@zoo(3, 8, 8, groups={"conv1": 8, "conv2": 4}, locked={"fc": "output"}, **UNFOLDED, gathers={})
class PixelUnshuffledByModule(_Between):
    """Every channel becomes four of half the height and width."""

    width = 32

    def __init__(self) -> None:
        super().__init__()
        self.unshuffle = nn.PixelUnshuffle(2)

    def middle(self, x: Tensor) -> Tensor:
        return self.unshuffle(x)


@zoo(3, 8, 8, groups={"conv1": 8, "conv2": 4}, locked={"fc": "output"}, **UNFOLDED, gathers={})
class PixelUnshuffledByViews(_Between):
    width = 32

    def middle(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        x = x.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
        return x.reshape(batch, 4 * channels, height // 2, width // 2)


@zoo(3, 8, 8, groups={"conv1": 8, "conv2": 4}, locked={"fc": "output"}, **UNFOLDED, gathers={})
class Focus(_Between):
    """YOLOv5's stem: every other row and column, four pictures side by side."""

    width = 32

    def middle(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)


# conv2 runs at 16 x 16: 4.8.256 = 8192.
@zoo(
    3, 8, 8, groups={"conv1": 8, "conv2": 4}, locked={"fc": "output"}, macs=13824 + 8192 + 12, params=275, gathers={}
)  # fmt: skip
class Upsampled(_Between):
    """Resized by a module, cropped, padded by a module, resized to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.pad = nn.Upsample(scale_factor=2, mode="bilinear"), nn.ReflectionPad2d(1)

    def middle(self, x: Tensor) -> Tensor:
        larger = self.up(x)
        return F.interpolate(self.pad(larger[:, :, 1:-1, 2:-2]), size=larger.shape[2:], mode="nearest")


# 3 x 4 x 8 x 8: space 5.27.256 = 34560, time 6.15.256 = 23040, mix (at 2 x 4 x 4) 4.162.32 = 20736, fc 12.
# space 135, bn1 10, time 90, bn2 12, mix 652, fc 15.
@zoo(
    3, 4, 8, 8, groups={"space": 5, "time": 6, "mix": 4}, locked={"fc": "output"}, macs=78348, params=914, gathers={}
)  # fmt: skip
class VideoFactorised(nn.Module):
    """A 3-d convolution in two: over space, then over time (R(2+1)D)."""

    def __init__(self) -> None:
        super().__init__()
        self.space, self.bn1 = nn.Conv3d(3, 5, (1, 3, 3), padding=(0, 1, 1), bias=False), nn.BatchNorm3d(5)
        self.time, self.bn2 = nn.Conv3d(5, 6, (3, 1, 1), padding=(1, 0, 0), bias=False), nn.BatchNorm3d(6)
        self.mix, self.fc = nn.Conv3d(6, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn2(self.time(F.relu(self.bn1(self.space(x))))))
        return self.fc(pooled(F.relu(self.mix(F.max_pool3d(x, 2)))))


# 2 x 16: conv1 6.6.16 = 576, a and b 6.6.3.16 = 1728 each, up (16 positions) 6.4.2.16 = 768, fc 4.3 = 12.
# conv1 42, a and b 114 each, up 48 + 4, fc 15.
@zoo(
    2, 16, groups={"conv1": 6, "a": 6, "up": 4}, locked={"fc": "output"}, macs=4812, params=337,
    members={"conv1": ("conv1", "b")}, gathers={"gather:a": 6, "gather:up": 6},
)  # fmt: skip
class Waves(nn.Module):
    """Sound: causal dilated 1-d convolutions around a shortcut, then a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(2, 6, 3)
        self.a, self.b = nn.Conv1d(6, 6, 3, dilation=1), nn.Conv1d(6, 6, 3, dilation=2)
        self.up, self.fc = nn.ConvTranspose1d(6, 4, 2, stride=2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(F.pad(x, (2, 0))))
        y = F.relu(self.a(F.pad(x, (2, 0))))
        x = F.relu(x + self.b(F.pad(y, (4, 0))))
        return self.fc(F.avg_pool1d(F.relu(self.up(x)), 32).squeeze(-1))
