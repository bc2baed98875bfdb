"""Files that arrive from a browser: streamed to disk within a bound, checked, kept under a name of our own."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path
from typing import IO

from core.errors import LoadError
from core.keep.subject import uploads_folder
from core.load.weights import SUFFIXES, sanitise_weights

UPLOAD_LIMIT_BYTES = 200 << 20
KEPT_FILES = 12  # per person; the oldest leave
CHUNK_BYTES = 1 << 20


def keep_weights(file: IO[bytes], name: str, owner: str) -> Path:
    """A stranger's weights as a .safetensors file in the owner's folder; what it is called follows from its content.

    Nothing is unpickled here: a separate process with bounded memory reads the tensors and writes them anew. Raises
    LoadError when the file is too large, no weights file, or refused; nothing stays behind then.
    """
    suffix = check_suffix(name, SUFFIXES)
    folder = uploads_folder(owner)
    raw = folder / f"{secrets.token_hex(8)}{suffix}"
    try:
        digest = keep_stream(file, raw, name)
        kept = folder / f"{plain_name(name)}-{digest}.safetensors"
        if not kept.exists():
            try:
                sanitise_weights(raw, kept)
            except LoadError as error:
                raise LoadError(str(error).replace(raw.name, name)) from error
    finally:
        raw.unlink(missing_ok=True)
    _make_room(folder, kept)
    return kept


def keep_images(file: IO[bytes], name: str, owner: str) -> Path:
    """An .npz file in the owner's folder, as it came; ``load_data`` reads it without unpickling. Raises LoadError when
    it is too large or no .npz file by name."""
    suffix = check_suffix(name, (".npz",))
    folder = uploads_folder(owner)
    raw = folder / f"{secrets.token_hex(8)}{suffix}.part"
    try:
        kept = folder / f"{plain_name(name)}-{keep_stream(file, raw, name)}{suffix}"
        os.replace(raw, kept)
    finally:
        raw.unlink(missing_ok=True)
    _make_room(folder, kept)
    return kept


def check_suffix(name: str, allowed: tuple[str, ...]) -> str:
    """The ending of a file's name, in small letters. Raises LoadError when it is none of ``allowed``."""
    suffix = Path(name).suffix.lower()
    if suffix not in allowed:
        raise LoadError(f"Expected a file ending in {', '.join(allowed)}; found {Path(name).name!r}.")
    return suffix


def plain_name(name: str) -> str:
    """The stem of a file's name in letters, digits, - and _ alone."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", Path(name).stem)[:60].strip("-") or "file"


def keep_stream(file: IO[bytes], target: Path, name: str, limit_bytes: int | None = None) -> str:
    """Copy an upload in small pieces; 12 hex digits of the content. Raises LoadError for an empty or too large one."""
    digest, size, most = hashlib.sha256(), 0, limit_bytes or UPLOAD_LIMIT_BYTES
    with target.open("wb") as out:
        while piece := file.read(CHUNK_BYTES):
            size += len(piece)
            if size > most:
                raise LoadError(f"{name} is larger than {most >> 20} MiB, the most that is taken.")
            digest.update(piece)
            out.write(piece)
    if not size:
        raise LoadError(f"{name} is empty: expected a file with content, found 0 bytes. Save or copy it again.")
    return digest.hexdigest()[:12]


def _make_room(folder: Path, newest: Path) -> None:
    newest.touch()
    files = sorted((path for path in folder.iterdir() if path.is_file()), key=lambda path: path.stat().st_mtime)
    for path in files[:-KEPT_FILES]:
        path.unlink(missing_ok=True)
