"""What the front-to-back walk is told, and what it tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.records import Plan
from core.solvers.least_squares import RIDGE

SOLVERS = ("least-squares", "compensation")
IMAGES, POSITIONS = 5000, 10  # as in He, Zhang, Sun 2017


@dataclass(frozen=True)
class LayerStory:
    """What happened at one layer. group: the group chosen there ("" when it only was fitted again); order: its units
    as the method would keep them; path: what a page draws. Errors: mean squared error of what the layer gives, over its
    variance, before and after its weights were rebuilt."""

    group: str
    layer: str
    method: str
    kept: int
    units: int
    order: tuple[int, ...]
    raw_error: float
    rebuilt_error: float
    rows: int
    path: Mapping[str, Any]


@dataclass(frozen=True)
class Rebuilt:
    """The units kept, the new network of exactly that shape, and a story per layer, in the order they were rebuilt."""

    plan: Plan
    module: nn.Module
    stories: tuple[LayerStory, ...]


@dataclass(frozen=True)
class Settings:
    """solver: one of SOLVERS, or None to only choose. correct_branches: fit the last layer of a branch to what the
    whole sum should be. rectify: rounds of least squares that heed the ReLU behind a layer. refit: also fit layers that
    lost no input but read changed ones. rescale: scale a compensated layer's outputs to their old variance. blend: mix
    every image with another one. A network has learned its training images by heart; of blends it is less sure, and
    what it computes for them is more like what it computes for unseen images. renorm: at the end, take the statistics
    of all batch norms behind a change anew. renew: compensate by statistics of the network as compensated so far; the
    paper takes those of the original (ours)."""

    solver: str | None = "least-squares"
    correct_branches: bool = True
    rectify: int = 0
    refit: bool = False
    rescale: bool = False
    blend: bool = False
    renorm: bool = False
    renew: bool = False
    images: int = IMAGES
    positions: int = POSITIONS
    ridge: float = RIDGE
    batch_size: int = 64
    seed: int = 0


def blend_images(batches: list[Tensor], seed: int) -> list[Tensor]:
    """Every image x as s x + (1 - s) x', with another image x' and s between 1/2 and 1, both random."""
    images = torch.cat(batches)
    generator = torch.Generator().manual_seed(seed)
    other = torch.randperm(len(images), generator=generator).to(images.device)
    share = 0.5 + 0.5 * torch.rand(len(images), *[1] * (images.dim() - 1), generator=generator).to(images)
    return list((share * images + (1 - share) * images[other]).split(len(batches[0])))
