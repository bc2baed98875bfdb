"""What must not be pruned, each for another reason, beside something that may."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo import zoo
from tests.zoo_nets.basic import pooled


class _Middle(nn.Module):
    """conv1 (3 -> 6), ``middle``, conv2 (6 -> 4), fc. conv1 168, conv2 28, fc 15 parameters."""

    width = 6

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(self.width, 4, 1), nn.Linear(4, 3)

    def middle(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(pooled(F.relu(self.conv2(self.middle(F.elu(self.conv1(x)))))))


MACS = 10368 + 4 * 6 * 64 + 12  # conv1 6.27.64, conv2 4.6.64, fc 4.3


@zoo(3, 8, 8, groups={"conv2": 4}, locked={"conv1": "cumsum runs across", "fc": "output"}, macs=MACS, params=211)
class RunningSum(_Middle):
    def middle(self, x: Tensor) -> Tensor:
        return x.cumsum(1)


@zoo(3, 8, 8, groups={"conv2": 4}, locked={"conv1": "sort runs across", "fc": "output"}, macs=MACS, params=211)
class Sorted(_Middle):
    def middle(self, x: Tensor) -> Tensor:
        return x.sort(dim=1).values


@zoo(3, 8, 8, groups={"conv1": 6, "conv2": 4}, locked={"fc": "output"}, macs=MACS, params=211)
class FlippedInSpace(_Middle):
    """The same family of operators along an axis without channels locks nothing."""

    def middle(self, x: Tensor) -> Tensor:
        return x.flip(-1).roll(2, -2).softmax(3)


@zoo(3, 8, 8, groups={"conv2": 4}, locked={"conv1": "softmax runs across", "fc": "output"}, macs=MACS, params=211)
class SoftmaxOverChannels(_Middle):
    def middle(self, x: Tensor) -> Tensor:
        return x.softmax(1)


@zoo(3, 8, 8, groups={"conv2": 4}, locked={"conv1": "runs", "fc": "output"}, macs=MACS, params=211)
class LocalResponse(_Middle):
    """AlexNet's normalisation looks at neighbouring channels."""

    def middle(self, x: Tensor) -> Tensor:
        return F.local_response_norm(x, 3)


@zoo(3, 8, 8, groups={"conv2": 4}, locked={"conv1": "mean runs over channels", "fc": "output"}, macs=MACS, params=211)
class CentredOverChannels(_Middle):
    def middle(self, x: Tensor) -> Tensor:
        return x - x.mean(1, keepdim=True)


@zoo(
    3, 8, 8, groups={"conv2": 4}, locked={"conv1": "operator renorm has no rule", "fc": "output"}, macs=MACS,
    params=211, unknown={"renorm": 1},
)  # fmt: skip
class NoRule(_Middle):
    """An operator nobody wrote a rule for is named, not guessed."""

    def middle(self, x: Tensor) -> Tensor:
        return torch.renorm(x, 2, 1, 3.0)


@zoo(3, 8, 8, groups={"conv2": 4}, locked={"conv1": "fixed width", "fc": "output"}, macs=MACS, params=211)
class FixedScale(_Middle):
    """Six numbers written in the code cannot become four."""

    def middle(self, x: Tensor) -> Tensor:
        return x * torch.linspace(0.5, 1.5, 6, device=x.device).reshape(6, 1, 1)


# conv2 reads five of six channels: 10368 + 4.5.64 + 12; conv2 24.
@zoo(
    3, 8, 8, groups={"conv2": 4}, locked={"conv1": "cut at a fixed channel", "fc": "output"}, macs=11660, params=207
)  # fmt: skip
class FirstFive(_Middle):
    width = 5

    def middle(self, x: Tensor) -> Tensor:
        return x[:, :5]


@zoo(
    3, 8, 8, groups={"conv2": 4}, locked={"conv1": "cut at a fixed channel", "fc": "output"}, macs=MACS, params=211
)  # fmt: skip
class UnequalParts(_Middle):
    def middle(self, x: Tensor) -> Tensor:
        small, large = x.split([2, 4], dim=1)
        return torch.cat([F.relu(large), torch.tanh(small)], 1)


# conv1 10368, conv2 4.6.64, fc 12; the norm adds 12 parameters.
@zoo(3, 8, 8, groups={"conv2": 4}, locked={"conv1": "normalisation", "fc": "output"}, macs=MACS, params=223)
class LayerNormed(_Middle):
    """A group norm with one group is a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, 6)

    def middle(self, x: Tensor) -> Tensor:
        return self.norm(x)


# conv1 10368, the product of two maps 36.64, fc 36.3 = 108. conv1 168, fc 111.
@zoo(3, 8, 8, groups={}, locked={"conv1": "attention", "fc": "output"}, macs=12780, params=279)
class Gram(nn.Module):
    """Every channel times every other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x)).flatten(2)
        return self.fc((x @ x.transpose(1, 2) / 64).flatten(1))


# dw 9.(8.8).9 = 5184, fc 27. dw 81 + 9, fc 30. Three filters on each colour.
@zoo(3, 8, 8, groups={}, locked={"dw": "network's input", "fc": "output"}, macs=5211, params=120)
class DepthwiseFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dw, self.fc = nn.Conv2d(3, 9, 3, padding=1, groups=3), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(pooled(F.relu(self.dw(x))))


# conv1 10368, conv2 1536, fc 12: the writes into a view add nothing.
@zoo(
    3, 8, 8, groups={"conv1": 6, "conv2": 4}, locked={"fc": "output"}, macs=MACS, params=211, replays=False
)  # fmt: skip
class BorderCleared(_Middle):
    """Writes through a view of space: prunable, but the tape cannot be run again in parts."""

    def middle(self, x: Tensor) -> Tensor:
        x[:, :, 0].mul_(0.0)
        return x


# conv1 162 + 6 bias (held as direction and length: 6 more), conv2 28, fc 15.
@zoo(
    3, 8, 8, groups={"conv1": 6, "conv2": 4}, locked={"fc": "output"}, macs=MACS, params=217,
)  # fmt: skip
class WeightNormed(_Middle):
    """A weight that is computed from others at every call has no place to cut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.utils.parametrizations.weight_norm(self.conv1)

    def middle(self, x: Tensor) -> Tensor:
        return x


# As LayerNormed, without weights: the code says two groups, whatever reaches it.
@zoo(3, 8, 8, groups={"conv2": 4}, locked={"conv1": "group norm has no weights", "fc": "output"}, macs=MACS, params=211)
class BareGroupNorm(_Middle):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(3, 6, affine=False)

    def middle(self, x: Tensor) -> Tensor:
        return self.norm(x)
