"""State dicts from files that may come from strangers.

Nothing is unpickled: ``.safetensors`` holds no code, and ``.pt``/``.pth`` go through PyTorch's weights-only reader,
which refuses every name outside its short list. Sizes are bounded before and after reading. ``sanitise_weights`` does
the reading in a separate process with bounded memory, for files that arrive over the network.
"""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from core.errors import LoadError

WEIGHTS_LIMIT_BYTES = 2 << 30
SUFFIXES = (".safetensors", ".pt", ".pth")
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.")
REMEDY = "Save the weights alone: torch.save(model.state_dict(), path), or as .safetensors."


def read_state_dict(path: str | Path, *, limit_bytes: int = WEIGHTS_LIMIT_BYTES) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors``, ``.pt`` or ``.pth`` file by name, on the CPU.

    Common wrappings come off: {"state_dict": ...}, {"model": ...}, and the prefix "module." that parallel training
    puts before every name. Raises LoadError when the file is missing, larger than ``limit_bytes`` (also once
    unpacked), not a weights file, or holds anything but tensors.
    """
    path = checked_file(path, limit_bytes)
    try:
        found = safetensors.torch.load_file(path) if path.suffix == ".safetensors" else _read_torch(path, limit_bytes)
    except safetensors.SafetensorError as error:
        raise _unreadable(path, error) from error
    return _checked_state(_unwrap(found), path.name, limit_bytes)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The text entries in a ``.safetensors`` header. Raises LoadError when the file cannot be read."""
    path = checked_file(path, WEIGHTS_LIMIT_BYTES)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> LoadError:
    told = f"{path.name} is not a readable .safetensors file ({_first_line(error)})."
    return LoadError(f"{told} Expected a whole one: copy it again, or save it anew with safetensors.torch.save_file.")


def checked_file(path: str | Path, limit_bytes: int) -> Path:
    """``path`` as a Path. Raises LoadError unless it is a plain weights file of at most ``limit_bytes``."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise LoadError(f"Expected a weights file ending in {', '.join(SUFFIXES)}; found {path.name!r}.")
    if not path.is_file():
        raise LoadError(f"There is no weights file at {path}. Check the path.")
    size = path.stat().st_size
    if size > limit_bytes:
        raise LoadError(f"{path.name} has {size:,} bytes; weights files of at most {limit_bytes:,} bytes are read.")
    return path


def _read_torch(path: Path, limit_bytes: int) -> object:
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PK\x03\x04":
        _check_unpacked_size(path, limit_bytes)
    elif start[:1] != b"\x80":  # every pickle that torch.save ever wrote opens with this byte
        raise LoadError(f"{path.name} is not a PyTorch weights file: it begins with {start!r}. {REMEDY}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        wants = f"it asks to run {named[1]}" if named else "it holds more than tensors"
        raise LoadError(f"Refused to read {path.name}: {wants}, and only plain tensors are read. {REMEDY}") from error
    except MemoryError as error:
        raise LoadError(f"{path.name} asks for more memory than there is.") from error
    except Exception as error:  # the reader meets arbitrary bytes here and has no error class of its own
        raise LoadError(f"{path.name} is damaged or no weights file ({_first_line(error)}). {REMEDY}") from error


def _check_unpacked_size(path: Path, limit_bytes: int) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise LoadError(f"{path.name} is damaged: its zip directory cannot be read. Copy or save it again.") from error
    if size > limit_bytes:
        raise LoadError(f"{path.name} unpacks to {size:,} bytes; at most {limit_bytes:,} bytes are read.")


def _unwrap(found: object) -> object:
    for _ in range(3):
        if not isinstance(found, Mapping):
            return found
        inner = next((found[key] for key in WRAPPERS if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        found = inner
    for prefix in PREFIXES:
        if isinstance(found, Mapping) and found and all(str(name).startswith(prefix) for name in found):
            found = {str(name).removeprefix(prefix): value for name, value in found.items()}
    return found


def _checked_state(found: object, name: str, limit_bytes: int) -> dict[str, Tensor]:
    if not isinstance(found, Mapping) or not found:
        raise LoadError(f"{name} holds {type(found).__name__}, not a table of named tensors. {REMEDY}")
    state: dict[str, Tensor] = {}
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise LoadError(f"{name}: entry {str(key)[:80]!r} is {type(value).__name__}, not a tensor. {REMEDY}")
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise LoadError(f"{name}: entry {key[:80]!r} is not an ordinary dense tensor.")
        state[key] = value.detach()
    # A few bytes can describe a huge tensor by stepping over the same storage; it would grow when copied.
    size = sum(value.numel() * value.element_size() for value in state.values())
    if size > limit_bytes:
        raise LoadError(f"{name} describes {size:,} bytes of tensors; at most {limit_bytes:,} bytes are read.")
    return state


def sanitise_weights(
    source: str | Path,
    destination: str | Path,
    memory_limit_bytes: int = 4 << 30,
    *,
    timeout_s: float = 120,
) -> None:
    """Read a stranger's weights file in a separate process and write its tensors to ``destination`` (.safetensors).

    The process may take ``memory_limit_bytes`` more memory than an idle one (POSIX systems; elsewhere only the file
    bounds of ``read_state_dict`` hold) and ``timeout_s`` seconds. ``destination`` appears whole or not at all.
    Raises LoadError with the reason when the file is refused, or when a bound is met.
    """
    source, destination = Path(source).resolve(), Path(destination).resolve()
    root = Path(__file__).resolve().parents[2]
    partial = destination.with_name(f"{destination.name}.{os.getpid()}.part")
    command = [sys.executable, "-m", "core.load.sanitise", str(source), str(partial), str(memory_limit_bytes)]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if done.returncode == 0 and partial.is_file():
            partial.replace(destination)
            return
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"{source.name} was not read within {timeout_s:.0f} s, so reading was stopped.") from error
    finally:
        partial.unlink(missing_ok=True)
    message = done.stdout.strip() if done.returncode == 2 else ""
    limit = f"{source.name} could not be read within {memory_limit_bytes:,} bytes of memory, so reading was stopped."
    raise LoadError(message or limit)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:120].rstrip(" .") if text else type(error).__name__
