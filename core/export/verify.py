"""Do the files reload, in a process that knows nothing but them, and compute the same?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.errors import ExportError
from core.export.files import VERIFICATION, write_text

TIMEOUT_S = 600.0


@dataclass(frozen=True)
class FileCheck:
    """One exported file. ``accuracy``: share right on the stored images, ``expected_accuracy`` what it was at export;
    None without labels. Errors compare outputs with those stored; None when the file could not be run. ``latency_ms``:
    median for one image in the process that checked it. ``with_engine``: it was loaded by Prunescope's own code; all
    others were loaded where that cannot be imported."""

    file: str
    format: str
    ok: bool
    message: str
    images: int = 0
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    accuracy: float | None = None
    expected_accuracy: float | None = None
    latency_ms: float | None = None
    with_engine: bool = False


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


def verify_export(
    directory: str | Path, *, timeout_s: float = TIMEOUT_S, run_code: bool = False, strict: bool = False
) -> VerifyReport:
    """Reload every file of an export in a fresh Python process and compare with what was stored at export.

    Writes verification.json beside them, and the result into report.html. Files that are damaged, missing or different
    give a report with ``ok`` False and a sentence each; nothing is raised for them unless ``strict``. Files that run
    code when they are loaded are run only when they were written by this installation, or with ``run_code``. Raises
    ExportError when ``directory`` is no folder, or, with ``strict``, when a file is not what was exported.
    """
    from core.export.check import check_export
    from core.export.recipe import plain
    from core.export.report import write_report

    folder = Path(directory).resolve()
    if not folder.is_dir():
        raise ExportError(f"There is no folder {folder.name} to verify. Export first.")
    (folder / VERIFICATION).unlink(missing_ok=True)
    report = check_export(folder, timeout_s=timeout_s, run_code=run_code)
    write_text(folder / VERIFICATION, json.dumps(plain(report.to_dict()), indent=1))
    write_report(folder)
    if strict and not report.ok:
        raise ExportError(report.message)
    return report
