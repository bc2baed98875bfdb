"""The fresh process behind ``verify_export``: reload each file, compare, write verification.json, leave.

Run as ``python -m core.export.check DIRECTORY``. Exit status 0 when all files compute what was exported, else 1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from core.errors import CoreError
from core.export.files import REFERENCE, VERIFICATION, checksum, make_folder, write_text
from core.export.formats import FORMATS, Format
from core.export.recipe import plain, read_recipe
from core.export.verify import FileCheck, VerifyReport
from core.export.write import BATCH
from core.registry import Row


def check_export(directory: Path) -> VerifyReport:
    """The report on all files that the recipe lists. Never raises for what the files hold."""
    try:
        recipe = read_recipe(directory)
        listed = dict(recipe["files"])
        damaged = _damage(directory, REFERENCE, listed)
        if damaged is not None:
            raise CoreError(damaged)
        reference = safetensors.torch.load_file(directory / REFERENCE)
    except (CoreError, safetensors.SafetensorError, OSError, TypeError, ValueError) as error:
        return VerifyReport(False, str(error))
    rows = [row for row in FORMATS if row.value.file in listed]
    files = tuple(_check_file(directory, row, listed, reference) for row in rows)
    bad = [check for check in files if not check.ok]
    if bad:
        return VerifyReport(False, " ".join(check.message for check in bad), files)
    if not files:
        return VerifyReport(False, "The recipe lists no model file. Export again.")
    many = f"{len(files)} files reload" if len(files) > 1 else "The file reloads"
    return VerifyReport(True, f"{many} in a fresh process and compute what was exported.", files)


def _check_file(directory: Path, row: Row[Format], listed: dict[str, Any], reference: dict[str, Tensor]) -> FileCheck:
    file = row.value.file
    damaged = _damage(directory, file, listed)
    if damaged is not None:
        return FileCheck(file, row.name, False, damaged)
    images, expected, labels = reference["images"], reference["outputs"], reference.get("labels")
    try:
        # One batch of a single image too: a batch size must not be baked in.
        batches = [images[:1], *images.split(BATCH)]
        first, *rest = row.value.run(directory, batches)
    except Exception as error:  # runtimes raise whatever their many parts raise; a report is owed for every file
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return FileCheck(file, row.name, False, f"{file} does not reload: {lines[0][:240]}")
    return _compare(file, row, torch.cat([first, *rest]), torch.cat([expected[:1], expected]), labels)


def _compare(file: str, row: Row[Format], found: Tensor, expected: Tensor, labels: Tensor | None) -> FileCheck:
    images = len(expected) - 1
    if found.shape != expected.shape:
        shapes = f"{tuple(found.shape)}, expected {tuple(expected.shape)}"
        return FileCheck(file, row.name, False, f"{file} gives outputs of shape {shapes}.", images)
    absolute = float((found - expected).abs().max())
    scale = float(expected.abs().max()) or 1.0
    relative = absolute / scale
    ok = relative <= row.value.tolerance  # False for NaN
    message = f"{file} reloads and computes the same to {relative:.1e} relative on {images} images."
    if not ok:
        allowed = f"(allowed {row.value.tolerance:g})"
        message = f"{file} computes something else: outputs differ by {relative:.1e} relative {allowed}."
    accuracy = before = None
    if labels is not None:
        accuracy, before = (float((x[1:].argmax(1) == labels).double().mean()) for x in (found, expected))
        top = expected[1:].topk(min(2, expected.shape[1]), dim=1).values
        doubtful = (top[:, 0] - top[:, -1]).abs() <= 2 * row.value.tolerance * scale  # a tie may fall either way
        flipped = (found[1:].argmax(1) != expected[1:].argmax(1)) & ~doubtful
        if ok and bool(flipped.any()):
            ok, message = False, f"{file} gives other answers on {int(flipped.sum())} of {images} images."
    return FileCheck(file, row.name, ok, message, images, absolute, relative, accuracy, before)


def _damage(directory: Path, file: str, listed: dict[str, Any]) -> str | None:
    """One sentence when a file is not what was written, else None."""
    path, entry = directory / file, listed.get(file)
    if not path.is_file() or not isinstance(entry, dict):
        return f"{file} is missing. Export again."
    if path.stat().st_size != entry.get("size_bytes"):
        return f"{file} is damaged: {path.stat().st_size:,} bytes, expected {entry.get('size_bytes'):,}. Export again."
    if checksum(path) != entry.get("sha256"):
        return f"{file} is damaged: its checksum is not the one in the recipe. Export again."
    return None


def main(directory: str) -> int:
    folder = make_folder(directory)
    report = check_export(folder)
    text = json.dumps(plain(report.to_dict()), indent=1)
    write_text(folder / VERIFICATION, text)
    print(report.message)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
