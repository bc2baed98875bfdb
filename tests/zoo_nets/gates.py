"""Attention over channels, branches and places: gates that are computed from what they gate."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo import zoo
from tests.zoo_nets.basic import pooled


# conv1 13824, split 8.8.9.64 = 36864, squeeze 16, excite 32, fc 12.
# conv1 224, split 576, bn 16, squeeze 20, excite 40, fc 15. Channel i of one half goes with i of the other.
@zoo(
    3, 8, 8, groups={"conv1": 8, "split": 4, "squeeze": 4}, locked={"fc": "output"}, macs=50748, params=891,
    members={"split": ("split", "excite")}, gathers={"gather:squeeze": 4, "gather:fc": 4},
)  # fmt: skip
class SplitAttention(nn.Module):
    """ResNeSt: two splits, weighed by a softmax between them."""

    def __init__(self) -> None:
        super().__init__()
        self.radix = 2
        self.conv1, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(4, 3)
        self.split, self.bn = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.squeeze, self.excite = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.split(F.relu(self.conv1(x)))))
        batch, channels, height, width = x.shape
        x = x.reshape(batch, self.radix, channels // self.radix, height, width)
        gate = self.excite(F.relu(self.squeeze(x.sum(1).mean((2, 3), keepdim=True))))
        gate = gate.view(batch, 1, self.radix, -1).transpose(1, 2).softmax(1).reshape(batch, -1, 1, 1)
        gate = gate.reshape(batch, self.radix, channels // self.radix, 1, 1)
        return self.fc(pooled((x * gate).sum(1)))


# conv1 10368, near and far 5.6.9.64 = 17280 each, squeeze 20, a and b 20 each, fc 15.
# conv1 168, near and far 275 each, squeeze 24, a and b 25 each, fc 18.
@zoo(
    3, 8, 8, groups={"conv1": 6, "near": 5, "squeeze": 4}, locked={"fc": "output"}, macs=45003, params=810,
    members={"near": ("near", "far", "a", "b")},
    gathers={
        "gather:near": 6, "gather:far": 6, "gather:squeeze": 5, "gather:fc": 5, "gather:a": 4, "gather:b": 4,
    },
)  # fmt: skip
class SelectiveKernels(nn.Module):
    """Two sizes of kernel, weighed channel by channel (Li et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(5, 3)
        self.near, self.far = nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(6, 5, 3, padding=2, dilation=2)
        self.squeeze, self.a, self.b = nn.Linear(5, 4), nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        both = torch.stack([F.relu(self.near(x)), F.relu(self.far(x))], 1)
        code = F.relu(self.squeeze(pooled(both.sum(1))))
        gates = torch.stack([self.a(code), self.b(code)], 1).softmax(1)
        return self.fc(pooled((both * gates[..., None, None]).sum(1)))


# conv1 13824, squeeze and excite twice 16 each = 64, spatial 2.49.64 = 6272, fc 24.
# conv1 224, squeeze 16, excite 16, spatial 98, fc 27.
@zoo(
    3, 8, 8, groups={"squeeze": 2}, locked={"conv1": "runs over channels", "fc": "output"}, macs=20184, params=381,
    members={"conv1": ("conv1", "excite")}, gathers={"gather:squeeze": 8, "gather:fc": 8},
)  # fmt: skip
class BlockAttention(nn.Module):
    """CBAM: the map of where to look is made from the mean and the maximum over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 3)
        self.squeeze, self.excite = nn.Conv2d(8, 2, 1, bias=False), nn.Conv2d(2, 8, 1, bias=False)
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu(self.conv1(x))
        mean, top = F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)
        gate = self.excite(F.relu(self.squeeze(mean))) + self.excite(F.relu(self.squeeze(top)))
        x = x * gate.sigmoid()
        where = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return self.fc(pooled(x * self.spatial(where).sigmoid()))


# conv1 13824, eca 8 positions of 3 = 24, fc 24. conv1 224, eca 3, fc 27.
@zoo(
    3, 8, 8, groups={}, locked={"conv1": "convolution", "fc": "output"}, macs=13872, params=254,
    gathers={"gather:fc": 8},
)  # fmt: skip
class ChannelConvolution(nn.Module):
    """ECA: a 1-d convolution runs along the channels, so each leans on its neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 3)
        self.eca = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu(self.conv1(x))
        gate = F.adaptive_avg_pool2d(x, 1).squeeze(-1).transpose(-1, -2)
        gate = self.eca(gate).transpose(-1, -2).unsqueeze(-1)
        return self.fc(pooled(x * gate.sigmoid().expand_as(x)))


# conv1 13824, squeeze (8 rows and 8 columns) 4.8.16 = 512, gates 8.4.8 = 256 each, fc 24.
# conv1 224, squeeze 36, bn 8, gates 40 each, fc 27.
@zoo(
    3, 8, 8, groups={"conv1": 8, "squeeze": 4}, locked={"fc": "output"}, macs=14872, params=375,
    members={"conv1": ("conv1", "rows", "columns")},
    gathers={"gather:squeeze": 8, "gather:fc": 8, "gather:rows": 4, "gather:columns": 4},
)  # fmt: skip
class CoordinateAttention(nn.Module):
    """Rows and columns are squeezed together and gate apart (Hou et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 3)
        self.squeeze, self.bn = nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)
        self.rows, self.columns = nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu(self.conv1(x))
        _, _, height, width = x.shape
        by_row = F.adaptive_avg_pool2d(x, (height, 1))
        by_column = F.adaptive_avg_pool2d(x, (1, width)).permute(0, 1, 3, 2)
        code = F.hardswish(self.bn(self.squeeze(torch.cat([by_row, by_column], 2))))
        by_row, by_column = code.split([height, width], 2)
        gate = self.rows(by_row).sigmoid() * self.columns(by_column.permute(0, 1, 3, 2)).sigmoid()
        return self.fc(pooled(x * gate))


# conv1 13824, mask 64, the weighed sum of positions 8.64 = 512, squeeze 16, excite 16, fc 24.
# conv1 224, mask 9, squeeze 18, norm 4, excite 24, fc 27.
@zoo(
    3, 8, 8, groups={"conv1": 8}, locked={"squeeze": "normalisation mixes channels", "fc": "output"},
    macs=14904, params=306, members={"conv1": ("conv1", "excite")},
    gathers={"gather:mask": 8, "gather:squeeze": 8, "gather:excite": 2, "gather:fc": 8},
)  # fmt: skip
class GlobalContext(nn.Module):
    """One attention map for all positions gathers a context that is added everywhere (Cao et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.mask, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 1, 1), nn.Linear(8, 3)
        self.squeeze, self.norm, self.excite = nn.Conv2d(8, 2, 1), nn.LayerNorm([2, 1, 1]), nn.Conv2d(2, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu(self.conv1(x))
        where = self.mask(x).flatten(2).softmax(-1).transpose(1, 2)
        context = (x.flatten(2) @ where).unsqueeze(-1)
        return self.fc(pooled(x + self.excite(F.relu(self.norm(self.squeeze(context))))))
