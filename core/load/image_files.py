"""Data that come as files: a folder of images per class, and .npz arrays."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from core.errors import LoadError
from core.load.image_sources import IMAGENET_MEAN, IMAGENET_STD, ImageSource, bytes_to_images
from core.load.split import Indices

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
PIXEL_LIMIT = 80_000_000
SAVE = "np.savez(path, images=..., labels=...)"
TEST_FOLDERS = ("val", "valid", "validation", "test")


def image_folder(path: Path, size: int) -> ImageSource:
    """One class per folder in ``path``, in alphabetical order; RGB, cropped to a square about the middle and resized.

    When ``path`` holds ``train`` and ``val`` (or ``test``), the classes are one level deeper, and the second folder is
    the held-out set. Raises LoadError without images, with a single class or with an empty class.
    """
    names = _folders(path)
    test = next((name for name in TEST_FOLDERS if name in names), None)
    if "train" in names and test and len(names) <= 3:
        classes = _folders(path / "train")
        extra = set(_folders(path / test)) - set(classes)
        if extra:
            raise LoadError(
                f"{path.name}/{test} has classes that {path.name}/train lacks: {', '.join(sorted(extra)[:3])}."
            )
        files = [(label, file) for label, name in enumerate(classes) for file in _images(path / "train" / name)]
        first_test = len(files)
        files += [(label, file) for label, name in enumerate(classes) for file in _images(path / test / name)]
    else:
        classes, first_test = names, None
        files = [(label, file) for label, name in enumerate(classes) for file in _images(path / name)]
    labels = np.array([label for label, _ in files], dtype=np.int64)
    _check_classes(path, classes, labels)
    held_out = None if first_test is None else np.arange(len(labels)) >= first_test

    def decode(kept: Indices) -> Tensor:
        pixels = np.empty((len(kept), size, size, 3), dtype=np.uint8)
        for place, index in enumerate(kept):
            pixels[place] = _read_image(files[index][1], size)
        return bytes_to_images(pixels)

    return ImageSource(path.name, labels, tuple(classes), (3, size, size), decode, held_out=held_out, size=size)


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(path: Path) -> list[Path]:
    found = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    return sorted(file for file in found if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith("."))


def _check_classes(path: Path, classes: list[str], labels: Indices) -> None:
    if not len(labels):
        raise LoadError(f"There are no images in the folders of {path}. Expected one folder of images per class.")
    if len(classes) < 2:
        raise LoadError(f"{path} has one class, {classes[0]!r}. Expected at least two folders, one per class.")
    empty = [name for label, name in enumerate(classes) if label not in set(labels.tolist())]
    if empty:
        raise LoadError(f"{path}: the folder of class {empty[0]!r} has no images. Fill it or remove it.")


def _read_image(file: Path, size: int) -> NDArray[np.uint8]:
    try:
        with Image.open(file) as image:
            if image.width * image.height > PIXEL_LIMIT:
                raise LoadError(f"{file} has {image.width} x {image.height} pixels; at most {PIXEL_LIMIT:,} are read.")
            image.draft("RGB", (2 * size, 2 * size))
            return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise LoadError(f"{file} is not a readable image. Replace it or remove it.") from error


def npz_images(path: Path, limit_bytes: int) -> ImageSource:
    """``images`` uint8 N x H x W x 3, ``labels`` N, optionally ``mean``, ``std`` (3, of images in 0..1), ``classes``.

    Raises LoadError for missing or misshapen arrays, labels out of range, pickled content, and files that unpack to
    more than ``limit_bytes``.
    """
    arrays = _read_arrays(path, limit_bytes)
    missing = [key for key in ("images", "labels") if key not in arrays]
    if missing:
        found = ", ".join(list(arrays)[:6]) or "nothing"
        raise LoadError(
            f"{path.name} lacks {' and '.join(missing)}; it holds {found}. Expected images and labels: {SAVE}."
        )
    images, labels = arrays["images"], arrays["labels"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:]:
        raise LoadError(
            f"{path.name}: images should be uint8, N x H x W x 3; found {images.dtype}, {_size(images.shape)}. "
            "Save whole numbers from 0 to 255, colours last; grey images as three equal colours."
        )
    if not len(images):
        raise LoadError(f"{path.name} has 0 images.")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise LoadError(
            f"{path.name}: labels should be {len(images)} whole numbers, one per image; found {labels.dtype}, "
            f"{_size(labels.shape)}. Save the class number of every image, from 0."
        )
    labels = labels.astype(np.int64)
    classes = _class_names(path, arrays, labels)
    mean, std = (
        tuple(np.asarray(arrays[key], dtype=np.float64).ravel().tolist()) if key in arrays else default
        for key, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD))
    )
    shape = (3, images.shape[1], images.shape[2])
    return ImageSource(path.stem, labels, classes, shape, lambda kept: bytes_to_images(images[kept]), mean, std)


def _class_names(path: Path, arrays: dict[str, NDArray], labels: Indices) -> tuple[str, ...]:
    if "classes" in arrays:
        classes = tuple(str(title) for title in arrays["classes"].ravel())
    else:
        classes = tuple(str(label) for label in range(max(int(labels.max()) + 1, 2)))
    if labels.min() < 0 or labels.max() >= len(classes):
        raise LoadError(
            f"{path.name}: labels should lie in 0..{len(classes) - 1}; found {labels.min()} to {labels.max()}."
        )
    return classes


def _read_arrays(path: Path, limit_bytes: int) -> dict[str, NDArray]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > limit_bytes:
            raise LoadError(f"{path.name} unpacks to {size:,} bytes; at most {limit_bytes:,} bytes are read.")
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files if key in ("images", "labels", "mean", "std", "classes")}
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError) as error:
        pickled = "allow_pickle" in str(error)
        reason = "it holds pickled objects, which are never read" if pickled else "it is damaged or no .npz file"
        raise LoadError(f"{path.name} cannot be read: {reason}. Save it anew: {SAVE}.") from error


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(length) for length in shape) or "one number"
