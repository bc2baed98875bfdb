"""Layers that read some of the channels they are given: an index select in front of a convolution or linear layer.

``gather_index`` (int64, a buffer) names the channels read, in order. The layer stays an instance of its own class, and
its parameters keep their names.
"""

# The transposed layers use PyTorch's own helpers as it does; their annotations are narrower than their code.
# mypy: disable-error-code="arg-type"

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class GatherConv1d(nn.Conv1d):
    """Reads ``gather_index`` of the channels (axis 1) it is given."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input.index_select(1, self.gather_index), self.weight, self.bias)


class GatherConv2d(nn.Conv2d):
    """Reads ``gather_index`` of the channels (axis 1) it is given."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input.index_select(1, self.gather_index), self.weight, self.bias)


class GatherConv3d(nn.Conv3d):
    """Reads ``gather_index`` of the channels (axis 1) it is given."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input.index_select(1, self.gather_index), self.weight, self.bias)


class GatherConvTranspose1d(nn.ConvTranspose1d):
    """Reads ``gather_index`` of the channels (axis 1) it is given."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        input = input.index_select(1, self.gather_index)
        extra = self._output_padding(input, output_size, self.stride, self.padding, self.kernel_size, 1, self.dilation)
        return nn.functional.conv_transpose1d(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )


class GatherConvTranspose2d(nn.ConvTranspose2d):
    """Reads ``gather_index`` of the channels (axis 1) it is given."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        input = input.index_select(1, self.gather_index)
        extra = self._output_padding(input, output_size, self.stride, self.padding, self.kernel_size, 2, self.dilation)
        return nn.functional.conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )


class GatherConvTranspose3d(nn.ConvTranspose3d):
    """Reads ``gather_index`` of the channels (axis 1) it is given."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        input = input.index_select(1, self.gather_index)
        extra = self._output_padding(input, output_size, self.stride, self.padding, self.kernel_size, 3, self.dilation)
        return nn.functional.conv_transpose3d(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )


class GatherLinear(nn.Linear):
    """Reads ``gather_index`` of the features (last axis) it is given."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input.index_select(-1, self.gather_index), self.weight, self.bias)


KNOWN: dict[type, type] = {
    nn.Conv1d: GatherConv1d,
    nn.Conv2d: GatherConv2d,
    nn.Conv3d: GatherConv3d,
    nn.ConvTranspose1d: GatherConvTranspose1d,
    nn.ConvTranspose2d: GatherConvTranspose2d,
    nn.ConvTranspose3d: GatherConvTranspose3d,
    nn.Linear: GatherLinear,
}


def pick_inputs(layer: nn.Module, index: Tensor) -> None:
    """Make ``layer`` read only the channels ``index`` (int64) of what it is given. Its weight is already that narrow.

    A layer that gathers already picks among its own channels.
    """
    earlier = layer._buffers.get("gather_index")
    if earlier is not None:
        layer.gather_index = earlier[index.to(earlier.device)]
        return
    reference = next(layer.parameters())
    layer.register_buffer("gather_index", index.to(reference.device))
    layer.__class__ = KNOWN.get(type(layer)) or _gathering(type(layer))


def _gathering(kind: Any) -> type:
    """A subclass for a class of the user's own, made once."""
    axis = -1 if issubclass(kind, nn.Linear) else 1

    def forward(self: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        return kind.forward(self, input.index_select(axis, self.gather_index), *args, **kwargs)

    KNOWN[kind] = type(f"Gather{kind.__name__}", (kind,), {"forward": forward, "__module__": __name__})
    return KNOWN[kind]


def index_of(reads: Any, given: Any) -> Tensor:
    """Positions, among the channels that are ``given`` (bool), of those that a layer ``reads`` (bool)."""
    return torch.from_numpy(reads[given]).nonzero().flatten()
