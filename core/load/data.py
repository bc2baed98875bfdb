"""Images with labels from a name or a path, normalised, in three disjoint parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import LoadError
from core.load.architectures import Choice
from core.load.image_files import image_folder, npz_images
from core.load.image_sources import ImageSource, digits, drawn_shapes, random_images, torchvision_images
from core.load.split import keep_limited, partition
from core.records import PARTS, ImageData
from core.registry import Registry, Row, unknown_name

DATA_LIMIT_BYTES = 2 << 30  # of decoded float32 images

SOURCES: Registry[Callable[[], ImageSource]] = Registry("data source")
SOURCES.add(
    Row(
        "digits",
        digits,
        "Handwritten digits",
        "1,797 real 8 x 8 digits of scikit-learn, enlarged to 32 x 32, grey.",
        source="Alpaydin, Kaynak 1998, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository",
    )
)
SOURCES.add(
    Row(
        "shapes",
        drawn_shapes,
        "Shapes and textures",
        "4,000 drawn 48 x 48 colour pictures of ten kinds, always the same.",
        source="Drawn by core/load/shapes.py from a fixed seed",
    )
)
TORCHVISION_DATA = ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST")


def load_data(
    source: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | None = None,
    root: str | Path | None = None,
    shape: tuple[int, int, int] = (3, 224, 224),
) -> ImageData:
    """Images (float32, N x C x H x W, normalised), labels (int64, N), classes, and three disjoint parts.

    source: ``digits``, ``shapes``, ``random`` (noise of ``shape`` C x H x W with random labels), the path of an .npz or
    of a folder with one folder of images per class, or ``CIFAR10``, ``CIFAR100``, ``MNIST``, ``FashionMNIST`` under
    ``root``. split: "calibration", "selection" or "report" gives that part alone; None gives all images with the parts.
    The parts (60, 20, 20 %) depend on the data only; where the data have a test set of their own, selection and report
    are its halves. limit: how many images to keep of what is returned, balanced over classes; ``seed`` chooses which,
    and makes the random images. mean, std: per channel, of images in 0..1; by default the source's own. size: edge in
    pixels (folders: 224; others: as they are). Raises LoadError for unreadable, empty, unlabelled or too large data.
    """
    if limit is not None and limit < (3 if split is None else 1):
        least = "3, one for each part; name a split= for fewer" if split is None and limit > 0 else "1"
        raise LoadError(f"limit: expected at least {least}; found {limit}.")
    if split is not None and split not in PARTS:
        raise unknown_name("part", split, list(PARTS), LoadError)
    if size is not None and not 1 <= size <= 4096:
        raise LoadError(f"size: expected 1 to 4096 pixels; found {size}.")
    found = _open(str(source), limit if split is None else None, seed, size, root, shape)
    parts = _parts(found, split, limit, seed)
    chosen = np.sort(np.concatenate(parts))
    _check_bytes(found, len(chosen), size)
    images = _sized(found.decode(chosen), found.size or size)
    mean, std = _statistics(found, images.shape[1], mean, std)
    images = images.sub_(torch.tensor(mean).view(-1, 1, 1)).div_(torch.tensor(std).view(-1, 1, 1))
    name = found.name if split is None else f"{found.name} ({split})"
    places = {}
    if split is None:
        places = {
            part: torch.from_numpy(np.searchsorted(chosen, kept)) for part, kept in zip(PARTS, parts, strict=True)
        }
    labels = torch.from_numpy(found.labels[chosen])
    scaling = [f"{value:.4f}" for value in (*mean, *std)]
    chosen_by = None if limit is None else seed  # without a limit the seed chooses nothing
    identity = found.identity and " ".join(map(str, (found.identity, split, limit, chosen_by, size, *scaling)))
    return ImageData(images, labels, found.classes, name, mean, std, places, identity)


def list_data() -> list[Choice]:
    """Every data source by name. Folders and .npz files are given by their path instead."""
    rows = [Choice(row.name, row.title, row.summary) for row in SOURCES]
    rows.append(Choice("random", "Random noise", "Noise with random labels: for sizes and speed, not for accuracy."))
    summary = "Read from a folder where torchvision keeps it (root=); nothing is downloaded."
    return rows + [Choice(name, name, summary) for name in TORCHVISION_DATA]


def _open(
    source: str, limit: int | None, seed: int, size: int | None, root: str | Path | None, shape: tuple[int, int, int]
) -> ImageSource:
    if source in SOURCES:
        return SOURCES[source]()
    if source == "random":
        return random_images(shape if size is None else (shape[0], size, size), limit, seed)
    if source in TORCHVISION_DATA:
        if root is None:
            raise LoadError(f"{source} needs root=, the folder that holds it; nothing is downloaded.")
        return torchvision_images(source, Path(root))
    path = Path(source)
    if path.is_dir():
        return image_folder(path, size or 224)
    if path.is_file() and path.suffix == ".npz":
        return npz_images(path, DATA_LIMIT_BYTES)
    if path.is_file():
        raise LoadError(f"Expected a folder with one folder of images per class, or an .npz file; found {path.name!r}.")
    if path.suffix == ".npz" or len(path.parts) > 1:
        raise LoadError(f"There is no data at {path}. Check the path.")
    raise unknown_name("data source", source, [*SOURCES.names(), "random", *TORCHVISION_DATA], LoadError)


def _parts(found: ImageSource, split: str | None, limit: int | None, seed: int) -> list[np.ndarray]:
    if len(found.labels) < 3:
        raise LoadError(f"{found.name} has {len(found.labels)} images; at least 3 are needed, one for each part.")
    everything = partition(found.labels, found.held_out)
    parts = [everything[name] for name in PARTS] if split is None else [everything[split]]
    if limit is not None:
        parts = keep_limited(found.labels, parts, limit, seed)
    return parts


def _check_bytes(found: ImageSource, count: int, size: int | None) -> None:
    channels, height, width = found.shape
    needed = 4 * count * channels * max(height * width, (size or 0) ** 2)
    if needed > DATA_LIMIT_BYTES:
        most = DATA_LIMIT_BYTES // (needed // count)
        raise LoadError(
            f"{count:,} images of {found.name} take {needed:,} bytes; at most {DATA_LIMIT_BYTES:,} are held. "
            f"Use limit={most} or less, or a smaller size=."
        )


def _sized(images: Tensor, size: int | None) -> Tensor:
    if size is None or images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True)


def _statistics(
    found: ImageSource, channels: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    chosen = []
    for title, given, own in (("mean", mean, found.mean), ("std", std, found.std)):
        values = tuple(float(value) for value in (own if given is None else given))
        if len(values) != channels or not np.isfinite(values).all() or (title == "std" and min(values) <= 0):
            sort = "positive numbers" if title == "std" else "numbers"
            raise LoadError(f"{found.name}: {title} should be {channels} {sort}, one per channel; found {values}.")
        chosen.append(values)
    return chosen[0], chosen[1]
