"""Data that come by name: digits, shapes, noise, torchvision's small data sets.

A source knows its labels at once and decodes images only when told which, so a limit costs what it keeps.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from core.errors import LoadError
from core.load.shapes import CLASSES as SHAPES
from core.load.shapes import IDENTITY, make_shapes
from core.load.split import Indices, partition
from core.load.torchvision_guard import import_torchvision

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageSource:
    """decode: sorted indices -> float32 images in 0..1, n x C x H x W. shape: (C, H, W) of what it gives.

    held_out: True for images of the data's own test set; None when they have none. size: set when decode has already
    brought images to the size asked for. identity: see ImageData; empty where images come from files.
    """

    name: str
    labels: Indices
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    decode: Callable[[Indices], Tensor]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    held_out: NDArray[np.bool_] | None = None
    size: int | None = None
    identity: str = ""


@cache
def digits() -> ImageSource:
    """scikit-learn's digits (UCI, Alpaydin and Kaynak 1998): 1,797 of 8 x 8 in 0..16, enlarged to 32 x 32."""
    pixels, labels = digit_table()
    small = torch.from_numpy(pixels).float().div(16).unsqueeze(1)
    images = F.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    mean, std = _calibration_statistics(images, labels)
    classes = tuple(str(digit) for digit in range(10))
    identity = f"digits 32 bilinear {hashlib.sha256(pixels.astype(np.uint8).tobytes()).hexdigest()}"
    return ImageSource("digits", labels, classes, (1, 32, 32), lambda kept: images[kept], mean, std, identity=identity)


def digit_table() -> tuple[NDArray[np.float64], Indices]:
    """The digits as stored: N x 8 x 8 in 0..16, and their labels."""
    package = importlib.util.find_spec("sklearn")
    stored = Path(package.origin).parent / "datasets/data/digits.csv.gz" if package and package.origin else None
    if stored is None or not stored.is_file():
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return bunch.images, bunch.target.astype(np.int64)
    # Reading the table itself spares the first page the seconds that importing all of scikit-learn takes.
    with gzip.open(stored, "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)


@cache
def drawn_shapes() -> ImageSource:
    """The drawn pictures of core/load/shapes.py."""
    images, labels = make_shapes()
    kept = partition(labels)["calibration"]
    mean, std = _calibration_statistics(bytes_to_images(images[kept]), None)
    shape = (3, *images.shape[1:3])
    return ImageSource(
        "shapes", labels, SHAPES, shape, lambda kept: bytes_to_images(images[kept]), mean, std, identity=IDENTITY
    )


def random_images(shape: tuple[int, int, int], count: int | None, seed: int) -> ImageSource:
    """Noise, uniform in 0..1, with ten labels at random: 256 images, or ``count`` when that is more."""
    if len(shape) != 3 or min(shape) < 1 or max(shape) > 4096:
        raise LoadError(f"shape: expected (channels, height, width), each 1 to 4096; found {shape}.")
    labels = np.random.default_rng([seed, 1]).integers(0, 10, max(count or 0, 256))

    def decode(kept: Indices) -> Tensor:
        rngs = (np.random.default_rng([seed, 2, int(index)]) for index in kept)
        return torch.from_numpy(np.stack([rng.random(shape, dtype=np.float32) for rng in rngs]))

    middle, spread = (0.5,) * shape[0], (12**-0.5,) * shape[0]
    return ImageSource("random", labels, tuple(f"random {k}" for k in range(10)), shape, decode, middle, spread)


def torchvision_images(name: str, root: Path) -> ImageSource:
    """Torchvision's training and test images together; the test images are marked as held out.

    Its CIFAR reader unpickles, but only files whose checksums are those of the published ones. Raises LoadError when
    ``root`` does not hold the data set.
    """
    dataset = getattr(import_torchvision().datasets, name)
    try:
        halves = [dataset(str(root), train=train, download=False) for train in (True, False)]
    except (RuntimeError, OSError, ValueError) as error:
        raise LoadError(
            f"{name} was not found under {root}, or its files are damaged. Put torchvision's copy of it there."
        ) from error
    labels = np.concatenate([np.asarray(half.targets, dtype=np.int64) for half in halves])
    images = np.concatenate([np.asarray(half.data) for half in halves])
    images = images if images.ndim == 4 else images[..., None]
    held_out = np.arange(len(labels)) >= len(halves[0].targets)
    shape = (images.shape[3], images.shape[1], images.shape[2])
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    if shape[0] == 1:
        mean, std = _calibration_statistics(bytes_to_images(images[~held_out][:10_000]), None)
    classes = tuple(str(title) for title in halves[0].classes)
    return ImageSource(name, labels, classes, shape, lambda kept: bytes_to_images(images[kept]), mean, std, held_out)


def bytes_to_images(images: NDArray[np.uint8]) -> Tensor:
    """uint8, N x H x W x C -> float32 in 0..1, N x C x H x W."""
    return torch.tensor(images).permute(0, 3, 1, 2).contiguous().float().div_(255)


def _calibration_statistics(images: Tensor, labels: Indices | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel; of the calibration part when labels are given."""
    if labels is not None:
        images = images[partition(labels)["calibration"]]
    spread, middle = torch.std_mean(images, dim=(0, 2, 3))
    return tuple(middle.tolist()), tuple(spread.tolist())
