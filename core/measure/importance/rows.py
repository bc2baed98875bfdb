"""Which image each row of a recorded tensor belongs to.

Most tensors hold image after image. Attention holds token after token, or heads beside images; what is summed there
image by image must know whose row is whose.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor, nn

from core.errors import MeasureError
from core.trace.graph import Tape, record_tape
from core.trace.replay import Replay

RESHAPES = {"view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten", "squeeze", "unsqueeze"}


class Rows:
    """The rows of every tensor on ``replay``'s tape, image by image.

    A dimension that has another length for another number of images is the one that holds the images.
    """

    def __init__(self, replay: Replay, module: nn.Module, images: Tensor) -> None:
        self.tape, self.module, self.example = replay.tape, module, images
        self.images = len(images)
        self.makers = {slot: step for step in self.tape.steps for slot in step.outputs}
        self.order: dict[tuple[int, int], Tensor | None] = {}

    def split(self, x: Tensor, slot: int, axis: int, purpose: str) -> Tensor:
        """``x``, the tensor in ``slot`` with channels along ``axis``, as (images, positions, channels).

        Raises MeasureError when images share rows.
        """
        rows = x.movedim(axis, -1)
        axis %= x.dim()
        if (slot, axis) not in self.order:
            self.order[slot, axis] = self._order(slot, axis, tuple(rows.shape[:-1]))
        order = self.order[slot, axis]
        if rows.shape[:-1].numel() % self.images:
            raise MeasureError(
                f"{purpose} needs a row of its own for every image; a layer reads a tensor of "
                f"{' x '.join(map(str, x.shape))} for {self.images} images. Use a criterion that needs no images."
            )
        if order is not None:
            rows = rows.flatten(0, -2)[order.to(x.device)]
        return rows.reshape(self.images, -1, rows.shape[-1])

    def _order(self, slot: int, axis: int, rows: tuple[int, ...]) -> Tensor | None:
        """Positions of the rows, image after image; None where they stand so already."""
        if self.images == 1 or (rows[0] == self.images and (axis == 1 or len(rows) == 1)):
            return None
        found = self._along(slot)
        if found is None or found[0] == axis:
            return None
        place, image = found[0] - (found[0] > axis), found[1]
        if place == 0 and bool((image.diff() >= 0).all()):
            return None
        shape = [1] * len(rows)
        shape[place] = -1
        return image.reshape(shape).expand(rows).flatten().argsort(stable=True)

    @cached_property
    def _other(self) -> Tape:
        """The same network for one image more. (For a single image, some steps would not be taken.)"""
        with torch.inference_mode(False):  # as the tape itself was recorded
            return record_tape(self.module, torch.cat([self.example, self.example[:1]]))

    def _along(self, slot: int) -> tuple[int, Tensor] | None:
        """(dimension that holds the images, image at each of its indices); None where that cannot be told."""
        shape, other = self.tape.shapes[slot], self._other.shapes.get(slot, ())
        varying = [place for place, (a, b) in enumerate(zip(shape, other, strict=False)) if a != b]
        if len(shape) != len(other) or len(varying) != 1:
            return None
        (place,) = varying
        if shape[place] == self.images:
            return place, torch.arange(self.images)
        step = self.makers.get(slot)
        for source in step.reads if step is not None else ():
            found = self._along(source)
            if found is not None and step is not None and step.name in RESHAPES:
                before, image = self.tape.shapes[source], found[1]
                flat = torch.arange(shape[place]) * math.prod(shape[place + 1 :])
                return place, image[flat // math.prod(before[found[0] + 1 :]) % before[found[0]]]
            if found is not None and len(found[1]) == shape[place]:
                return place, found[1]
        return None
