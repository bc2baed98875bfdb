"""Random changes that leave an image's class as it is, made on tensors: a shift by a few pixels, a mirror image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import TrainError
from core.registry import unknown_name

WAYS = ("auto", "none", "shift", "flip-shift")
EDGE = 8  # an image is shifted by at most one eighth of its edge, 4 pixels of 32


def way_to_augment(way: str, images: Tensor) -> str:
    """ "none", "shift" or "flip-shift" for ``way``.

    "auto" mirrors pictures with colours and only shifts those without: digits and letters in a mirror are others.
    Raises TrainError for an unknown way.
    """
    if way not in WAYS:
        raise unknown_name("way to augment", way, list(WAYS), TrainError)
    if images.dim() != 4 or min(images.shape[2:]) < EDGE:
        return "none"
    if way == "auto":
        return "flip-shift" if images.shape[1] == 3 else "shift"
    return way


def augment_images(images: Tensor, way: str, generator: torch.Generator) -> Tensor:
    """N x C x H x W, every image shifted by its own random step (what comes in at the edge is mirrored), and with
    "flip-shift" half of them mirrored left to right. The random numbers come from ``generator``, on the CPU."""
    if way == "none":
        return images
    count, _, height, width = images.shape
    reach = max(1, height // EDGE), max(1, width // EDGE)
    rows, columns = (
        torch.arange(size) + torch.randint(2 * most + 1, (count, 1), generator=generator)
        for size, most in zip((height, width), reach, strict=True)
    )
    if way == "flip-shift":
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(images, (reach[1], reach[1], reach[0], reach[0]), mode="reflect").movedim(1, -1)
    rows, columns = rows.to(images.device), columns.to(images.device)
    image = torch.arange(count, device=images.device)
    picked = padded[image[:, None, None], rows[:, :, None], columns[:, None, :]]  # N x H x W x C
    return picked.movedim(-1, 1)
