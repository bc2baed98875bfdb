"""What ``verify_export`` does: look for damage, run each file in a fresh process, compare what it computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from core.errors import CoreError
from core.export import runner
from core.export.files import REFERENCE, checksum
from core.export.formats import FORMATS, Format
from core.export.recipe import read_recipe
from core.export.trust import is_ours
from core.export.verify import TIMEOUT_S, FileCheck, VerifyReport
from core.registry import Row

BATCH = 50
ENGINE, PYTHON = "checkpoint", "python"  # what this program's own code builds, and what needs none of it
FAMILIES = ("demo", "cifar", "torchvision", "timm")
Jobs = list[dict[str, Any]]
RunJobs = Callable[[Path, Jobs, Path, bool, float], str | None]


def check_export(
    directory: Path, *, timeout_s: float = TIMEOUT_S, run_code: bool = False, run: RunJobs | None = None
) -> VerifyReport:
    """The report on all files that the recipe lists. Never raises for what the files hold. run: how jobs are run; in a
    fresh process unless a test says otherwise."""
    try:
        recipe = read_recipe(directory)
        listed = dict(recipe["files"])
        damaged = _damage(directory, REFERENCE, listed)
        if damaged is not None:
            raise CoreError(damaged)
        reference = safetensors.torch.load_file(directory / REFERENCE)
        _ = reference["images"].shape, reference["outputs"].shape
    except (CoreError, safetensors.SafetensorError, OSError, TypeError, ValueError, KeyError) as error:
        return VerifyReport(False, str(error))
    rows = [row for row in FORMATS if row.value.file in listed]
    trusted = run_code or is_ours(recipe)
    refused = {row.name: why for row in rows if (why := _refusal(directory, row, recipe, trusted)) is not None}
    runnable = [row for row in rows if row.name not in refused]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        wrong = _run_all(directory, runnable, recipe, work, timeout_s, run or run_fresh)
        files = tuple(
            FileCheck(row.value.file, row.name, False, refused[row.name])
            if row.name in refused
            else _judge(row, runnable.index(row), work, reference, wrong, row.name == ENGINE and _by_name(recipe))
            for row in rows
        )
    return _summary(files)


def _summary(files: tuple[FileCheck, ...]) -> VerifyReport:
    bad = [check for check in files if not check.ok]
    if bad:
        return VerifyReport(False, " ".join(check.message for check in bad), files)
    if not files:
        return VerifyReport(False, "The recipe lists no model file. Export again.")
    many = f"{len(files)} files reload" if len(files) > 1 else "The file reloads"
    return VerifyReport(True, f"{many} in a fresh process and compute what was exported.", files)


def _refusal(directory: Path, row: Row[Format], recipe: Mapping[str, Any], trusted: bool) -> str | None:
    """Why a file is not loaded at all, in one sentence; None when it is."""
    homeless = row.name == ENGINE and not _by_name(recipe)
    needs = (row.name, *row.value.needs)
    if homeless and FORMATS[PYTHON].file not in recipe["files"]:
        return f"{row.value.file}: the recipe names no architecture. Export with loaded=, or write model.py too."
    for needed in (*needs, PYTHON) if homeless else needs:
        damaged = _damage(directory, FORMATS[needed].file, recipe["files"])
        if damaged is not None:
            return damaged
    if (row.value.runs_code or homeless) and not trusted:
        return (
            f"{row.value.file} was not run: it was not written by this installation, and loading it runs what is in "
            "it. If you trust where it comes from, verify it with run_code=True (prunescope report --run-code)."
        )
    return None


def _by_name(recipe: Mapping[str, Any]) -> bool:
    """Whether the recipe names a network that this program can build; else weights go into model.py."""
    model = recipe["model"]
    if not isinstance(model, Mapping):
        return False
    return "made_from" in model or str(model.get("source")).partition("/")[0] in FAMILIES


def _run_all(
    directory: Path, rows: Sequence[Row[Format]], recipe: Mapping[str, Any], work: Path, timeout_s: float, run: RunJobs
) -> dict[int, str]:
    """What went wrong, by number of the job, beyond what its process wrote down itself."""
    wrong: dict[int, str] = {}
    jobs: Jobs = []
    for number, row in enumerate(rows):
        job: dict[str, Any] = {"number": number, "format": row.name, "file": row.value.file, "batch": BATCH}
        job["engine"] = False
        if row.name == ENGINE and _by_name(recipe):
            job["engine"] = True
        elif row.name == ENGINE:
            job |= {"format": PYTHON, "file": FORMATS[PYTHON].file}
        jobs.append(job)
    deadline = time.monotonic() + timeout_s
    for engine in (False, True):
        left = [job for job in jobs if job["engine"] is engine]
        while left:
            failed = run(directory, left, work, engine, max(0.01, deadline - time.monotonic()))
            begun = _number(work / "begun.json")
            left = [job for job in left if not (work / f"{job['number']}.json").exists()]
            if failed is None or not left:
                break
            late = time.monotonic() >= deadline
            fatal = [job for job in left if job["number"] == begun]
            for job in left if late or not fatal else fatal:
                wrong[job["number"]] = failed
            left = [] if late else [job for job in left if job["number"] not in wrong]
    return wrong


def _number(path: Path) -> int | None:
    return int(path.read_text(encoding="utf-8")) if path.exists() else None


def run_fresh(directory: Path, jobs: Jobs, work: Path, engine: bool, timeout_s: float) -> str | None:
    """Run jobs in a fresh process. What happened in words when it did not end well, else None."""
    script = Path(runner.__file__).resolve()
    asked = {"folder": str(directory), "reference": REFERENCE, "jobs": jobs, "engine": engine}
    (work / "begun.json").unlink(missing_ok=True)
    (work / "jobs.json").write_text(json.dumps({**asked, "threads": torch.get_num_threads()}), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1"}
    flags = ["-I", "-B"]
    if engine:
        environment["PYTHONPATH"], flags = str(script.parents[2]), []
    try:
        done = subprocess.run(
            [sys.executable, *flags, str(script), str(work)],
            cwd=work, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"was not checked within {timeout_s:.0f} s, so the check was stopped."
    if done.returncode == 0:
        return None
    last = (done.stderr.strip().splitlines() or ["it left no message"])[-1][:200]
    return f"ended the process that loaded it (status {done.returncode}: {last})."


def _judge(
    row: Row[Format], number: int, work: Path, reference: Mapping[str, Tensor], wrong: Mapping[int, str], engine: bool
) -> FileCheck:
    file = row.value.file
    if number in wrong:
        return FileCheck(file, row.name, False, f"{file} {wrong[number]}", with_engine=engine)
    told_path = work / f"{number}.json"
    if not told_path.exists():
        return FileCheck(file, row.name, False, f"{file} was not checked: its process ended early.", with_engine=engine)
    told = json.loads(told_path.read_text(encoding="utf-8"))
    if "error" in told:
        return FileCheck(file, row.name, False, f"{file} does not reload: {told['error']}", with_engine=engine)
    found = safetensors.torch.load_file(work / f"{number}.safetensors")["outputs"]
    expected = torch.cat([reference["outputs"][:1], reference["outputs"]])
    return _compare(row, found, expected, reference.get("labels"), told.get("latency_ms"), engine)


def _compare(
    row: Row[Format],
    found: Tensor,
    expected: Tensor,
    labels: Tensor | None,
    latency_ms: float | None,
    engine: bool,
) -> FileCheck:
    file, images = row.value.file, len(expected) - 1
    if found.shape != expected.shape:
        shapes = f"{tuple(found.shape)}, expected {tuple(expected.shape)}"
        return FileCheck(file, row.name, False, f"{file} gives outputs of shape {shapes}.", images, with_engine=engine)
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
    return FileCheck(
        file, row.name, ok, message, images, absolute, relative, accuracy, before, latency_ms, engine
    )  # fmt: skip


def _damage(directory: Path, file: str, listed: Mapping[str, Any]) -> str | None:
    """One sentence when a file is not what was written, else None."""
    path, entry = directory / file, listed.get(file)
    if not path.is_file() or not isinstance(entry, dict):
        return f"{file} is missing. Export again."
    if path.stat().st_size != entry.get("size_bytes"):
        return f"{file} is damaged: {path.stat().st_size:,} bytes, expected {entry.get('size_bytes')}. Export again."
    if checksum(path) != entry.get("sha256"):
        return f"{file} is damaged: its checksum is not the one in the recipe. Export again."
    return None
