"""What is being worked on: a loaded network, images for it, and its trace. core/keep/opening.py keeps those in use."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

from core.config import home_folder
from core.errors import LoadError
from core.keep.opening import Opening, Openings
from core.load import load_data, load_model
from core.records import ImageData, LoadedModel, Trace
from core.registry import unknown_name
from core.trace import trace_channels

# Images a random source draws, and the most taken from a folder: enough for curves, little enough to keep in memory.
RANDOM_IMAGES, FOLDER_IMAGES = 120, 1500


@dataclass(frozen=True)
class Subject:
    """One network with its images and its trace; the three strings it was asked for by open it again anywhere."""

    model_source: str
    weights: str
    data_source: str
    loaded: LoadedModel
    data: ImageData
    trace: Trace

    @cached_property
    def key(self) -> str:
        """Changes with the weights and with the images: what was measured under one key holds only there."""
        return digest(self.loaded.fingerprint, self.data.fingerprint)

    @property
    def source_name(self) -> str:
        """``model_source`` to be shown: of a file its name alone."""
        path = Path(self.model_source)
        return path.name if path.is_absolute() else self.model_source

    @property
    def chance(self) -> float:
        """Accuracy of guessing, a share."""
        return 1 / max(1, len(self.data.classes))

    @property
    def meaningful(self) -> bool:
        """Whether accuracies say something: weights that were learned, on real images."""
        return self.loaded.weights is not None and self.real_images

    @property
    def real_images(self) -> bool:
        """False for random images: their accuracy says nothing, and pages say so."""
        return split_address(self.data_source)[0] != "random"


def digest(*parts: Any) -> str:
    """16 hex digits of any JSON values."""
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def data_address(source: str, *, root: str = "", size: int | None = None) -> str:
    """A data source with what it needs besides its name, in one string: "CIFAR10?root=/data", "/pictures?size=64"."""
    details = urlencode({name: value for name, value in (("root", root), ("size", size)) if value}, safe="/")
    return f"{source}?{details}" if details else source


def split_address(address: str) -> tuple[str, str, int | None]:
    """Source, root and size from what ``data_address`` made; a name without them gives "" and None."""
    source, mark, tail = address.rpartition("?")
    details = parse_qs(tail) if mark else {}
    if not details or not set(details) <= {"root", "size"} or not details.get("size", ["1"])[0].isdigit():
        return address, "", None
    size = details.get("size")
    return source, details.get("root", [""])[0], int(size[0]) if size else None


def _stamp(source: str) -> float:
    """A file that was changed since is another file."""
    path = Path(source).expanduser() if source else None
    return path.stat().st_mtime if path is not None and path.exists() else 0.0


def open_subject(model_source: str, weights: str = "", data_source: str = "") -> Subject:
    """Load the network, its images and its trace; the last few are kept and must not be changed.

    weights: as in ``load_model`` ("" = None). data_source: as in ``load_data``, or a ``data_address``; "" takes what
    suits the model.
    Raises LoadError or TraceError with a sentence for the user; nothing opened before is affected.
    """
    return _subjects.get(*_asked(model_source, weights, data_source))


def begin_opening(
    model_source: str, weights: str = "", data_source: str = "", *, who: str, anew: bool = False
) -> Opening[Subject]:
    """As ``open_subject``, but returns at once: a thread opens it, one for all who ask for the same. ``anew``: try
    again also what failed a moment ago. Once ``who`` does not wait any longer, ``leave_opening`` says so."""
    return _subjects.begin(*_asked(model_source, weights, data_source), who=who, anew=anew)


def leave_opening(opening: Opening[Subject], who: str) -> None:
    """``who`` does not wait any more; when nobody else does, it is given up."""
    _subjects.leave(opening, who)


def _asked(model_source: str, weights: str, data_source: str) -> tuple[Hashable, Callable[[Opening[Subject]], Subject]]:
    name = (model_source, weights, data_source, _stamp(weights), _stamp(split_address(data_source)[0]))

    def build(opening: Opening[Subject]) -> Subject:
        opening.tell("Building the network and reading its weights")
        loaded = load_model(model_source, weights=weights or None)
        opening.tell("Reading the images")
        address = data_source or loaded.data or "random"
        data = _images(address, loaded)
        opening.tell("Running it once to see which channels hang together")
        return Subject(model_source, weights, address, loaded, data, trace_channels(loaded.module, data.images[:1]))

    return name, build


def _images(address: str, loaded: LoadedModel) -> ImageData:
    source, root, size = split_address(address)
    channels, height, width = loaded.example.shape[1:]
    if source == "random":
        data = load_data(source, shape=(channels, height, width), size=size, limit=RANDOM_IMAGES)
    elif Path(source).expanduser().is_dir():
        data = load_data(Path(source).expanduser(), size=size or height, limit=FOLDER_IMAGES)
    elif root:
        data = load_data(source, size=size, root=Path(root).expanduser(), limit=FOLDER_IMAGES)
    else:
        data = load_data(source, size=size)
    if data.images.shape[1] != channels:
        raise LoadError(
            f"{loaded.name} reads images with {channels} channel(s); {data.name} has {data.images.shape[1]}. "
            "Choose other images, or another model."
        )
    return data


def _bytes_of(subject: Subject) -> int:
    tensors = [*subject.loaded.module.parameters(), *subject.loaded.module.buffers(), subject.data.images]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


_subjects: Openings[Subject] = Openings(_bytes_of, least=4, most=16, most_bytes=2 * 2**30)


def uploads_folder(owner: str) -> Path:
    """Where one person's uploaded files are kept."""
    return _owned("uploads", owner)


def exports_folder(owner: str) -> Path:
    """Where one person's exported networks are kept."""
    return _owned("exports", owner)


def _owned(kind: str, owner: str) -> Path:
    if not owner.replace("-", "").replace("_", "").isalnum():
        raise unknown_name("workspace", owner, [])
    folder = home_folder() / kind / owner
    folder.mkdir(parents=True, exist_ok=True)
    return folder
