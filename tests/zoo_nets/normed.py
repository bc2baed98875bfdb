"""Normalisations of weights and of activations: what still may leave, and what hangs on a whole weight or pixel."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo import zoo
from tests.zoo_nets.basic import pooled


class _ThreeConvs(nn.Module):
    """conv1 (3 -> 6), conv2 (6 -> 5), conv3 (5 -> 4, 1 x 1), fc: parameters 168, 275, 24, 15."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 3, padding=1)
        self.conv3, self.fc = nn.Conv2d(5, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu(self.conv2(F.elu(self.conv1(x))))
        return self.fc(pooled(F.elu(self.conv3(x))))


MACS = 10368 + 17280 + 1280 + 12  # conv1 6.27.64, conv2 5.54.64, conv3 4.5.64, fc 4.3
PARAMS = 168 + 275 + 24 + 15


# A length for each of conv1's and conv2's outputs: 6 + 5 more.
@zoo(3, 8, 8, groups={"conv1": 6, "conv2": 5, "conv3": 4}, locked={"fc": "output"}, macs=MACS, params=PARAMS + 11)
class WeightNormedTwice(_ThreeConvs):
    """Direction and length apart: what is read may leave too, since the lengths can be set anew."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.utils.parametrizations.weight_norm(self.conv1)
        self.conv2 = nn.utils.parametrizations.weight_norm(self.conv2)


# As above, held as weight_g and weight_v, with the weight made by a hook.
@zoo(3, 8, 8, groups={"conv1": 6, "conv2": 5, "conv3": 4}, locked={"fc": "output"}, macs=MACS, params=PARAMS + 11)
class WeightNormedByHook(_ThreeConvs):
    """The older way, which many published networks still carry."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.conv1, self.conv2 = nn.utils.weight_norm(self.conv1), nn.utils.weight_norm(self.conv2)


# The two vectors of the power iteration are buffers.
@zoo(
    3, 8, 8, groups={"conv3": 4}, macs=MACS, params=PARAMS,
    locked={"conv1": "whole weight", "conv2": "whole weight", "fc": "output"}, gathers={"gather:conv3": 5},
)  # fmt: skip
class SpectralNormed(_ThreeConvs):
    """Divided by its largest singular value: neither rows nor columns may leave."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2 = nn.utils.parametrizations.spectral_norm(self.conv2)


@zoo(
    3, 8, 8, groups={"conv3": 4}, macs=MACS, params=PARAMS,
    locked={"conv1": "whole weight", "conv2": "whole weight", "fc": "output"}, gathers={"gather:conv3": 5},
)  # fmt: skip
class SpectralNormedByHook(_ThreeConvs):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = nn.utils.spectral_norm(self.conv2)


class StandardisedConv2d(nn.Conv2d):
    """Every filter at mean 0 and variance 1 over all that it reads (Qiao et al. 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.var((1, 2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class StandardisedByBatchNorm(nn.Conv2d):
    """The same by batch norm over the filters, as timm writes it."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, training=True, momentum=0.0, eps=1e-5).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


@zoo(
    3, 8, 8, groups={"conv2": 5, "conv3": 4}, locked={"conv1": "weight", "fc": "output"}, macs=MACS, params=PARAMS,
    gathers={},
)  # fmt: skip
class WeightStandardised(_ThreeConvs):
    """conv2's filters may leave, each is standardised alone; what it reads (conv1) may not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = StandardisedConv2d(3, 6, 3, padding=1), StandardisedConv2d(6, 5, 3, padding=1)


@zoo(
    3, 8, 8, groups={"conv2": 5, "conv3": 4}, locked={"conv1": "weight", "fc": "output"}, macs=MACS, params=PARAMS,
    gathers={},
)  # fmt: skip
class WeightStandardisedByBatchNorm(_ThreeConvs):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = StandardisedByBatchNorm(3, 6, 3, padding=1)
        self.conv2 = StandardisedByBatchNorm(6, 5, 3, padding=1)


# A tracked instance norm carries its means and variances as buffers: 12 and 10 affine parameters.
@zoo(
    3, 8, 8, groups={"conv1": 6, "conv2": 5, "conv3": 4}, locked={"fc": "output"}, macs=MACS, params=PARAMS + 22,
    gathers={},
)  # fmt: skip
class InstanceNormTracked(_ThreeConvs):
    """Instance norms that learnt their statistics use those in eval mode, as a batch norm does."""

    def __init__(self) -> None:
        super().__init__()
        self.in1 = nn.InstanceNorm2d(6, affine=True, track_running_stats=True)
        self.in2 = nn.InstanceNorm2d(5, affine=True, track_running_stats=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu(self.in2(self.conv2(F.elu(self.in1(self.conv1(x))))))
        return self.fc(pooled(F.elu(self.conv3(x))))


# conv1 6.27.64, dw 6.9.64 = 3456, conv2 5.6.64 = 1920, fc 15; conv1 162, slopes 6, dw 54, slopes 6, conv2 30, gn 10,
# slope 5, fc 18.
@zoo(
    3, 8, 8, groups={"conv1": 6}, locked={"conv2": "normalisation", "fc": "output"}, macs=15759, params=291,
    gathers={"gather:fc": 5}, mixing={"conv2": 5},
)  # fmt: skip
class SlopesAndLayerNorm(nn.Module):
    """Slopes per channel behind a convolution, a depthwise one, and a layer norm in a group norm's clothes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.act1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.PReLU(6)
        self.dw, self.act2 = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), nn.PReLU(6)
        self.conv2, self.norm, self.act3 = nn.Conv2d(6, 5, 1, bias=False), nn.GroupNorm(1, 5), nn.PReLU(5)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act2(self.dw(self.act1(self.conv1(x))))
        return self.fc(pooled(self.act3(self.norm(self.conv2(x)))))


class ChannelsLastNorm(nn.LayerNorm):
    """Layer norm over the channels of N x C x H x W."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


# stem 8.48.4 = 1536, dw 8.49.4 = 1568, fc1 4.8.16 = 512, fc2 512, head 24.
# stem 392, norm0 16, dw 400, norm 16, fc1 144, fc2 136, scale 8, norm2 16, head 27.
@zoo(
    3, 8, 8, groups={"fc1": 16}, locked={"stem": "its normalisation mixes channels", "head": "output"},
    macs=4152, params=1155, members={"stem": ("stem", "fc2")},
    gathers={"gather:fc1": 8, "gather:head": 8}, mixing={"stem": 8},
)  # fmt: skip
class ConvNeXtBlock(nn.Module):
    """A norm behind the stem, a large depthwise kernel, a channels-last hidden layer, layer scale, a last norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 8, 4, stride=4), ChannelsLastNorm(8)
        self.dw, self.norm = nn.Conv2d(8, 8, 7, padding=3, groups=8), nn.LayerNorm(8)
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)
        self.layer_scale = nn.Parameter(torch.ones(8, 1, 1))
        self.norm2, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm0(self.stem(x))
        y = self.fc2(F.gelu(self.fc1(self.norm(self.dw(x).permute(0, 2, 3, 1)))))
        x = x + self.layer_scale * y.permute(0, 3, 1, 2)
        return self.head(self.norm2(pooled(x)))


# stem 1536, fc1 512, fc2 512, head 24. stem 392, fc1 144, gain and shift 32, fc2 136, head 27.
@zoo(
    3, 8, 8, groups={"stem": 8}, locked={"fc1": "channels", "head": "output"}, macs=2584, params=731,
    members={"stem": ("stem", "fc2")}, gathers={"gather:fc1": 8, "gather:head": 8, "gather:fc2": 16},
)  # fmt: skip
class ResponseNormed(nn.Module):
    """ConvNeXt V2's global response norm weighs each hidden channel against the mean of all."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 3)
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)
        self.gain, self.shift = nn.Parameter(torch.zeros(16)), nn.Parameter(torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        y = F.gelu(self.fc1(x))
        size = y.norm(p=2, dim=(1, 2), keepdim=True)
        y = y + self.shift + self.gain * y * size / (size.mean(-1, keepdim=True) + 1e-6)
        return self.head((x + self.fc2(y)).mean((1, 2)))


# stem 1536, gate 4.8.12 = 384, up 384, down 384, head 24. stem 392, norm 8, gate 108, up 108, down 104, head 27.
@zoo(
    3, 8, 8, groups={"gate": 12}, locked={"stem": "pruned differs from masked", "head": "output"},
    macs=2712, params=747, members={"gate": ("gate", "up"), "stem": ("stem", "down")}, mixing={"stem": 8},
    gathers={"gather:gate": 8, "gather:up": 8, "gather:head": 8},
)  # fmt: skip
class RootMeanSquareNormed(nn.Module):
    """Divided by the root of the mean square over channels; a gated hidden layer of two halves in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.RMSNorm(8, eps=1e-6), nn.Linear(8, 3)
        self.gate, self.up, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        y = self.norm(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return self.head(x.mean(1))
