"""Do the files reload, in a process that knows nothing but them, and compute the same?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.errors import ExportError
from core.export.files import VERIFICATION

TIMEOUT_S = 600.0


@dataclass(frozen=True)
class FileCheck:
    """One exported file. ``accuracy``: share right on the stored images, ``expected_accuracy`` what it was at export;
    None without labels. Errors compare outputs with those stored; None when the file could not be run."""

    file: str
    format: str
    ok: bool
    message: str
    images: int = 0
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    accuracy: float | None = None
    expected_accuracy: float | None = None


@dataclass(frozen=True)
class VerifyReport:
    """``ok``: every exported file reloaded and computed the same. ``message`` says so in one sentence."""

    ok: bool
    message: str
    files: tuple[FileCheck, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> VerifyReport:
        files = tuple(FileCheck(**entry) for entry in data["files"])
        return VerifyReport(bool(data["ok"]), str(data["message"]), files)


def verify_export(directory: str | Path, *, timeout_s: float = TIMEOUT_S) -> VerifyReport:
    """Reload every file of an export in a fresh Python process and compare with what was stored at export.

    Writes verification.json beside them. Files that are damaged, missing or different give a report with ``ok`` False
    and a sentence each; nothing is raised for them. Raises ExportError only when ``directory`` is no folder.
    """
    folder = Path(directory).resolve()
    if not folder.is_dir():
        raise ExportError(f"There is no folder {folder.name} to verify. Export first.")
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    (folder / VERIFICATION).unlink(missing_ok=True)
    command = [sys.executable, "-m", "core.export.check", str(folder)]
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        return VerifyReport.from_dict(json.loads((folder / VERIFICATION).read_text(encoding="utf-8")))
    except subprocess.TimeoutExpired:
        return VerifyReport(False, f"Verification did not finish within {timeout_s:.0f} s and was stopped.")
    except (OSError, ValueError, KeyError, TypeError):
        last = (done.stderr.strip().splitlines() or ["it left no message"])[-1][:200]
        return VerifyReport(False, f"The process that verifies ended with status {done.returncode}: {last}")
