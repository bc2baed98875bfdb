"""Files that appear whole or not at all, and the names an export uses."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from core.errors import ExportError

RECIPE, REFERENCE, VERIFICATION = "recipe.json", "reference.safetensors", "verification.json"
REPORT = "report.html"


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a file beside ``path``, then put it in place in one step."""
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    write_whole(path, write)


def make_folder(directory: str | Path) -> Path:
    """``directory`` as a folder that can be written. Raises ExportError when it cannot."""
    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error.strerror or str(error)) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _unusable(folder, "no permission to write there")
    return folder


def _unusable(folder: Path, why: str) -> ExportError:
    return ExportError(f"Expected a folder to export to; {folder} cannot be used: {why}. Choose another folder.")


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
