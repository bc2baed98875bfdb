"""What a layer reads for sampled output positions: patches of a convolution's input, rows of a linear layer's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from core.errors import MeasureError
from core.trace.replay import Replay
from core.trace.sites import ReadSite, normed_by


@dataclass(frozen=True)
class Sample:
    """Rows to draw at one place: which image, and where in it and which output, as shares in 0..1."""

    images: Tensor
    position: Tensor
    output: Tensor

    def within(self, first: int, count: int) -> Sample:
        """The rows of images ``first`` to ``first + count``, numbered from 0."""
        here = (self.images >= first) & (self.images < first + count)
        return Sample(self.images[here] - first, self.position[here], self.output[here])


def reader_weight(replay: Replay, site: ReadSite) -> Tensor:
    """The reading layer's weight as (outputs, channels, kernel positions); one of direction and length as it works."""
    weight = replay.state[site.weight]
    made_by = normed_by(replay.tape, replay.steps, site.weight)
    if made_by is not None:
        direction, length = (replay.value(value.slot, {}, {}) for value in made_by.args[:2])
        weight = torch._weight_norm(direction, length, *made_by.args[2:])
    weight = weight.movedim(site.dim, 1)
    return weight.reshape(*weight.shape[:2], -1)


def read_rows(replay: Replay, site: ReadSite, x: Tensor, sample: Sample, images: int) -> Tensor:
    """Float64 (rows, channels, kernel positions): what the layer reads for one output position a row.

    x: the tensor read, of ``images`` images. Raises MeasureError when it does not hold a part for each of them.
    """
    if (x.shape[0] % images and site.axis == 1) or (x.numel() // x.shape[-1]) % images:
        raise MeasureError(f"{site.weight} reads a tensor without a row of its own for every image: it has no scores.")
    if replay.steps[site.step].name == "convolution":
        return patches(replay, site, x, sample).transpose(1, 2).double().cpu()
    return tokens(x, sample, images)[:, :, None].double().cpu()


def tokens(x: Tensor, sample: Sample, images: int) -> Tensor:
    """Sampled rows of what a linear layer reads: (rows, channels)."""
    rows = x.reshape(images, -1, x.shape[-1])
    return rows[sample.images.to(x.device), (sample.position * rows.shape[1]).long().to(x.device)]


def patches(replay: Replay, site: ReadSite, x: Tensor, sample: Sample) -> Tensor:
    """What a convolution reads for one output position a row: (rows, kernel positions, channels), 0 in padding."""
    step = replay.steps[site.step]
    stride, padding, dilation, transposed = step.args[3], step.args[4], step.args[5], bool(step.args[6])
    spatial = x.shape[2:]
    kernel = replay.state[site.weight].shape[-len(spatial) :]
    outputs = replay.tape.shapes[step.outputs[0]][2:]
    rest = (sample.position * torch.tensor(outputs).prod()).long()
    flat = torch.zeros(len(rest), 1, dtype=torch.int64)
    inside = torch.ones(len(rest), 1, dtype=torch.bool)
    scale = 1
    for axis in reversed(range(len(spatial))):
        at, rest = rest % outputs[axis], rest // outputs[axis]
        s, p, d = (values[axis if len(values) > 1 else 0] for values in (stride, padding, dilation))
        taps = torch.arange(kernel[axis]) * d
        where = at[:, None] + p - taps if transposed else at[:, None] * s - p + taps
        valid = (where % s == 0) if transposed else torch.ones_like(where, dtype=torch.bool)
        where = where // s if transposed else where
        valid &= (where >= 0) & (where < spatial[axis])
        flat = (where.clamp(0, spatial[axis] - 1)[:, :, None] * scale + flat[:, None, :]).flatten(1)
        inside = (valid[:, :, None] & inside[:, None, :]).flatten(1)
        scale *= spatial[axis]
    found = x.flatten(2)[sample.images[:, None].to(x.device), :, flat.to(x.device)]
    return found * inside[:, :, None].to(found)
