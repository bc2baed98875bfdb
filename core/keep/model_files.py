"""Network files (.pt2, .onnx) that arrive from a browser: kept, and looked at in a process of their own.

Run as ``python -m core.keep.model_files FILE RESULT MEMORY_LIMIT_BYTES`` it is that process: it bounds its memory,
opens the file as data, traces it, and writes what it found. Exit status 2 with one sentence when the file is refused.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from core.errors import CoreError, LoadError
from core.keep.subject import uploads_folder
from core.keep.uploads import check_suffix, keep_stream, plain_name
from core.load import inspect_onnx, load_model
from core.load.sanitise import bound_memory
from core.trace import trace_channels

PT2, ONNX = ".pt2", ".onnx"
MODEL_SUFFIXES = (PT2, ONNX)
KEPT_MODELS = 4  # per person; the one uploaded longest ago leaves
FOLDER, RESULT = "network-", "examined.json"
MEMORY_LIMIT_BYTES, TIMEOUT_S = 6 << 30, 180.0


@dataclass(frozen=True)
class ModelFile:
    """A kept network file, and what was found when it was looked at.

    path: a source for ``load_model``. why_not: why it cannot be opened to be pruned, in one sentence; "" = it can.
    onnx: of an ONNX file, the fields of ``core.load.onnx.OnnxFile``; {} of a .pt2. latency_ms: median time of one image
    in ONNX Runtime on one thread of the server, None where it does not run or is no ONNX file.
    """

    path: Path
    why_not: str
    onnx: Mapping[str, Any]
    latency_ms: float | None


def keep_model_file(file: IO[bytes], name: str, owner: str) -> ModelFile:
    """A stranger's .pt2 or .onnx file in a folder of the owner's, with what is in it.

    It is looked at in a separate process with bounded memory and time; nothing in it is unpickled or run as code.
    Raises LoadError in one sentence when it is too large, neither kind of file, or refused; nothing stays behind then.
    An ONNX file that cannot be converted is kept all the same: ``why_not`` says why.
    """
    suffix = check_suffix(name, MODEL_SUFFIXES)
    home = uploads_folder(owner)
    raw = home / f"{secrets.token_hex(8)}{suffix}.part"
    try:
        folder = home / f"{FOLDER}{keep_stream(file, raw, name)}"
        folder.mkdir(exist_ok=True)
        path = folder / f"{plain_name(name)}{suffix}"
        os.replace(raw, path)
    finally:
        raw.unlink(missing_ok=True)
    try:
        found = examine_model_file(path)
    except LoadError as error:
        path.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
        raise LoadError(str(error).replace(path.name, Path(name).name)) from error
    _make_room(home, folder)
    return found


def examine_model_file(
    path: str | Path, *, memory_limit_bytes: int = MEMORY_LIMIT_BYTES, timeout_s: float = TIMEOUT_S
) -> ModelFile:
    """What is in a network file, looked at in a separate process; what was found is kept beside it.

    The process may take ``memory_limit_bytes`` more memory than an idle one (POSIX) and ``timeout_s`` seconds. Raises
    LoadError with the reason when the file is refused, or when a bound is met.
    """
    path = Path(path).resolve()
    result = path.with_name(f"{path.name}.{RESULT}")
    if not result.exists():
        _examine_apart(path, result, memory_limit_bytes, timeout_s)
    try:
        found = json.loads(result.read_text(encoding="utf-8"))
        return ModelFile(path, str(found["why_not"]), found["onnx"], found["latency_ms"])
    except (OSError, ValueError, KeyError) as error:
        raise LoadError(f"{path.name} is no longer on the server. Upload it again.") from error


def _examine_apart(path: Path, result: Path, memory_limit_bytes: int, timeout_s: float) -> None:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "core.keep.model_files", str(path), str(result), str(memory_limit_bytes)]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"{path.name} was not read within {timeout_s:.0f} s, so reading was stopped.") from error
    if done.returncode == 0 and result.is_file():
        return
    limit = f"{path.name} could not be read within {memory_limit_bytes >> 20:,} MiB of memory, so reading was stopped."
    raise LoadError(done.stdout.strip() if done.returncode == 2 and done.stdout.strip() else limit)


def _make_room(home: Path, newest: Path) -> None:
    os.utime(newest)
    folders = sorted(
        (one for one in home.iterdir() if one.is_dir() and one.name.startswith(FOLDER)),
        key=lambda one: one.stat().st_mtime,
    )
    for folder in folders[:-KEPT_MODELS]:
        shutil.rmtree(folder, ignore_errors=True)


def runtime_ms(path: str | Path) -> float | None:
    """Median milliseconds of one image in ONNX Runtime on one thread; None when the network does not run there."""
    import numpy as np
    import onnxruntime

    from core.export.runner import time_one

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        shape = [size if isinstance(size, int) else 1 for size in given.shape]
        return time_one(lambda images: session.run(None, {given.name: images}), np.zeros(shape, np.float32))
    except Exception:  # the runtime's errors have no common class; the time is extra
        return None


def examine(path: Path) -> dict[str, Any]:
    """The looking itself. Raises LoadError when the file is refused."""
    told: dict[str, Any] = {"why_not": "", "onnx": {}, "latency_ms": None}
    if path.suffix == ONNX:
        told |= {"onnx": inspect_onnx(path).to_dict(), "latency_ms": runtime_ms(path)}
    try:
        loaded = load_model(str(path))
        trace_channels(loaded.module, loaded.example)
    except CoreError as error:
        if path.suffix != ONNX:
            raise
        told["why_not"] = str(error)
    return told


def main(path: str, result: str, limit_bytes: int) -> int:
    bound_memory(limit_bytes)
    try:
        partial = Path(f"{result}.part")
        partial.write_text(json.dumps(examine(Path(path))), encoding="utf-8")
        partial.replace(result)
    except CoreError as error:
        print(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
