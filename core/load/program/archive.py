"""A .pt2 file, read as data: its graph as JSON, its weights as plain bytes.

PyTorch's own ``torch.export.load`` unpickles parts of the file without restriction, evaluates expressions in it and
looks functions up by name, so it is not used on files from strangers. This reader takes the graph and the raw tensors,
and leaves everything else in the file unread: example inputs (pickled), guards (Python text), symbolic expressions.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import LoadError
from core.load.program.graph import read_graph
from core.load.program.steps import Program

LIMIT_BYTES, GRAPH_BYTES = 2 << 30, 128 << 20
REMEDY = "Export it again: torch.export.save(torch.export.export(model.eval(), (images,)), path)."
# The numbers that the format gives to types of numbers (torch/_export/serde/schema.py).
TYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
NAME = re.compile(r"[\w-]+")
KINDS = ("weights", "constants")


def read_program(path: str | Path, *, limit_bytes: int = LIMIT_BYTES) -> Program:
    """The program in a .pt2 file. Nothing is unpickled, evaluated or run.

    Raises LoadError, in one sentence, when the file is no .pt2, is damaged or too large, holds pickled tensors or
    objects, uses operators that are not on the list, or takes anything but one batch of images.
    """
    path = Path(path)
    if not path.is_file():
        raise LoadError(f"There is no file at {path}. Check the path.")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _entries(archive, path.name, limit_bytes)
            graph = _json(archive, entries, "models/model.json", path.name)
            tensors: dict[str, Tensor] = {}
            for kind in KINDS:
                tensors |= _tensors(archive, entries, kind, path.name, limit_bytes)
        return read_graph(graph, tensors, path.name)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, RecursionError, OverflowError) as error:
        # Arbitrary JSON was taken for a graph: whatever does not fit shows as one of these.
        raise LoadError(f"{path.name} is damaged: its graph does not make sense ({_brief(error)}). {REMEDY}") from error
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise LoadError(f"{path.name} is damaged or no .pt2 file ({_brief(error)}). {REMEDY}") from error
    except (RuntimeError, MemoryError) as error:
        raise LoadError(f"{path.name} cannot be read ({_brief(error)}). {REMEDY}") from error


def _entries(archive: zipfile.ZipFile, file: str, limit_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """By path below the archive's own folder."""
    infos = archive.infolist()
    size = sum(info.file_size for info in infos)
    if size > limit_bytes:
        raise LoadError(f"{file} unpacks to {size:,} bytes; at most {limit_bytes:,} bytes are read.")
    found = {info.filename.partition("/")[2]: info for info in infos}
    if len(found) != len(infos):
        raise LoadError(f"{file} is damaged: it holds two entries of one name. {REMEDY}")
    if "models/model.json" not in found:
        if any(name.startswith("data/aotinductor") for name in found):
            raise LoadError(f"{file} holds compiled machine code, which is never run. {REMEDY}")
        older = any("serialized_exported_program" in info.filename for info in infos)
        kind = "was written by an older PyTorch" if older else "is a zip file, but no program of torch.export"
        raise LoadError(f"{file} {kind}. {REMEDY}")
    return found


def _json(archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo], name: str, file: str) -> Any:
    info = entries[name]
    if info.file_size > GRAPH_BYTES:
        raise LoadError(f"{file} has a graph of {info.file_size:,} bytes; at most {GRAPH_BYTES:,} bytes are read.")
    return json.loads(archive.read(info))


def _tensors(
    archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo], kind: str, file: str, limit_bytes: int
) -> dict[str, Tensor]:
    config = f"data/{kind}/model_{kind}_config.json"
    if config not in entries:
        return {}
    found: dict[str, Tensor] = {}
    storages: dict[str, bytearray] = {}
    total = 0
    for name, entry in _json(archive, entries, config, file)["config"].items():
        check_name(name, file)
        meta, stored = entry["tensor_meta"], entry["path_name"]
        if entry.get("use_pickle") or meta is None:
            raise LoadError(f"Refused to read {file}: {name!r} is pickled, and only plain tensors are read. {REMEDY}")
        if stored not in storages:
            storages[stored] = bytearray(archive.read(entries[f"data/{kind}/{stored}"]))
        value = _tensor(storages[stored], meta, name, file)
        total += value.numel() * value.element_size()
        if total > limit_bytes:
            raise LoadError(f"{file} describes {total:,} bytes of tensors; at most {limit_bytes:,} bytes are read.")
        found[name] = value.clone()
    return found


def check_name(name: str, file: str) -> None:
    """Raises LoadError unless ``name`` is that of a tensor in a network: words and numbers with dots between."""
    if not all(NAME.fullmatch(part) for part in name.split(".")) or ".__" in f".{name}" or len(name) > 300:
        raise LoadError(f"{file} is damaged: {name[:60]!r} is not a name of a tensor. {REMEDY}")


def _tensor(storage: bytearray, meta: Mapping[str, Any], name: str, file: str) -> Tensor:
    if meta["dtype"] not in TYPES:
        raise LoadError(f"{file}: tensor {name!r} has a type of numbers that is not read. {REMEDY}")
    kind = TYPES[meta["dtype"]]
    sizes, strides = (tuple(_int(one["as_int"]) for one in meta[key]) for key in ("sizes", "strides"))
    offset = _int(meta["storage_offset"]["as_int"])
    if not math.prod(sizes):
        return torch.empty(sizes, dtype=kind)
    if len(sizes) != len(strides) or len(sizes) > 16:
        raise ValueError("sizes and strides differ in number")
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    width = torch.empty(0, dtype=kind).element_size()
    if (last + 1) * width > len(storage) or len(storage) % width:
        raise LoadError(f"{file} is damaged: the bytes of {name!r} are cut short. {REMEDY}")
    return torch.frombuffer(storage, dtype=kind).as_strided(sizes, strides, offset)


def _int(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 40:
        raise ValueError(f"{value!r:.40} is no size")
    return value


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120].rstrip(' .')}" if lines else type(error).__name__
