"""Maps that are written into, sampled at other places, unfolded into windows, or looked at across channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo import zoo
from tests.zoo_nets.basic import pooled


# 3 x 8 x 8: conv1 6.27.64 = 10368, conv2 5.54.64 = 17280, fc 15. conv1 168, conv2 275, fc 18.
@zoo(
    3, 8, 8, groups={"conv1": 6, "conv2": 5}, locked={"fc": "output"}, macs=27663, params=461, gathers={}, replays=False
)  # fmt: skip
class CircularPadding(nn.Module):
    """The image goes on at its other side (panoramas, periodic physics)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular")
        self.conv2 = nn.Conv2d(6, 5, 3, padding=1, padding_mode="circular")
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(pooled(F.relu(self.conv2(F.relu(self.conv1(x))))))


# 3 x 8 x 8: conv1 6.27.64 = 10368, where 6.6 = 36, conv2 5.54.64 = 17280, fc 15. conv1 168, where 42, conv2 275, fc 18.
@zoo(
    3, 8, 8, groups={"conv1": 6, "conv2": 5}, locked={"where": "says where to sample", "fc": "output"},
    macs=27699, params=503, gathers={"gather:where": 6, "gather:conv2": 6},
)  # fmt: skip
class SpatialTransformer(nn.Module):
    """One layer says how to turn the map that the next one reads (Jaderberg et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.where = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 6)
        self.conv2, self.fc = nn.Conv2d(6, 5, 3, padding=1), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        theta = self.where(pooled(x)).view(-1, 2, 3)
        x = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
        return self.fc(pooled(F.relu(self.conv2(x))))


# 3 x 8 x 8: conv1 4.27.64 = 6912, mix 36.36.64 = 82944, conv2 5.36.64 = 11520, fc 15.
# conv1 112, mix 36.36 + 36 = 1332, conv2 185, fc 18.
@zoo(
    3, 8, 8, groups={"conv1": 4, "mix": 4, "conv2": 5}, locked={"fc": "output"}, macs=101391, params=1647, gathers={}
)  # fmt: skip
class UnfoldedWindows(nn.Module):
    """Every window becomes channels, is mixed, and is added back where it came from."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.mix = nn.Conv2d(3, 4, 3, padding=1), nn.Conv1d(36, 36, 1)
        self.conv2, self.fc = nn.Conv2d(4, 5, 3, padding=1), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        windows = F.relu(self.mix(F.unfold(x, 3, padding=1)))
        x = F.fold(windows, x.shape[2:], 3, padding=1)
        return self.fc(pooled(F.relu(self.conv2(x))))


# 3 x 8 x 8: conv1 6.27.64 = 10368, look 2.9.64 = 1152, conv2 5.54.64 = 17280, fc 15. conv1 168, look 19, conv2 275, 18.
@zoo(
    3, 8, 8, groups={"conv2": 5}, locked={"conv1": "runs over channels", "fc": "output"}, macs=28815, params=480,
    gathers={"gather:conv2": 6},
)  # fmt: skip
class LooksAcrossChannels(nn.Module):
    """Spatial attention from the largest and the mean channel at each place (CBAM)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.look = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)
        self.conv2, self.fc = nn.Conv2d(6, 5, 3, padding=1), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        seen = torch.cat([x.max(dim=1, keepdim=True).values, x.mean(dim=1, keepdim=True)], 1)
        return self.fc(pooled(F.relu(self.conv2(x * torch.sigmoid(self.look(seen))))))
