"""recipe.json: how a pruned network came about, enough to build it again around its weights."""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.apply.surgery import kept_positions
from core.errors import ExportError
from core.export.files import RECIPE, checksum
from core.records import ImageData, LoadedModel, Plan, Trace, fingerprint_state

FORMAT_VERSION = 1
LIMIT_BYTES = 64 << 20


def describe(
    module: nn.Module,
    plan: Plan,
    loaded: LoadedModel | None,
    trace: Trace | None,
    measurements: Mapping[str, Any] | None,
    data: ImageData | None,
) -> dict[str, Any]:
    """The recipe without its list of files. Weights are named, never by a path of this machine."""
    recipe: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "model": _describe_model(loaded, trace),
        "plan": {
            "kept": plain(plan.kept),
            "origin": plan.origin,
            "key": plan.key,
        },
        "fingerprint": fingerprint_state(module.state_dict()),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "measurements": plain(measurements or {}),
        "data": _describe_data(data),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "prunescope": _version()},
    }
    if trace is not None:
        recipe["groups"] = {
            group.id: {
                "units": group.units,
                "kept": len(plan.kept.get(group.id, range(group.units))),
                "layers": group.layers,
            }
            for group in trace.prunable
        }
        layers: dict[str, dict[str, list[int]]] = {}
        for (name, dim), mask in kept_positions(trace, plan).items():
            layers.setdefault(name, {})[str(dim)] = mask.nonzero().flatten().tolist()
        recipe["kept_channels"] = layers
    return recipe


def _describe_model(loaded: LoadedModel | None, trace: Trace | None) -> dict[str, Any] | None:
    if loaded is None:
        return None
    source = Path(loaded.source)
    described: dict[str, Any] = {
        "name": loaded.name,
        "source": source.name if source.is_absolute() else loaded.source,
        "weights": Path(loaded.weights).name if loaded.weights else None,
        "weights_fingerprint": loaded.fingerprint,
        "data": loaded.data,
        "input": list((trace.example if trace is not None else loaded.example).shape[1:]),
        "classes": list(loaded.classes) if loaded.classes else None,
        "outputs": trace.tape.shapes[trace.tape.output_slots[0]][-1] if trace is not None else None,
    }
    folder = source if source.is_dir() else source.parent
    if source.exists() and (folder / RECIPE).is_file():
        # A network that was itself an export: what it was made from travels along, its folder may not.
        described["made_from"] = {key: read_recipe(folder)[key] for key in ("model", "plan")}
    return described


def _describe_data(data: ImageData | None) -> dict[str, Any] | None:
    """The images that reference.safetensors draws from, and how the network wants its input: (value - mean) / std."""
    if data is None:
        return None
    normalised = {"mean": list(data.mean), "std": list(data.std), "classes": list(data.classes)}
    return {"name": data.name, "images": len(data), "fingerprint": data.fingerprint, **normalised}


def _version() -> str:
    try:
        return metadata.version("prunescope")
    except metadata.PackageNotFoundError:
        return "from source"


def plain(value: Any) -> Any:
    """JSON values only: tuples become lists, and numbers that JSON has no word for become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_text(recipe: Mapping[str, Any]) -> str:
    """JSON to read: indented, but a list of numbers stays on one line."""
    text = json.dumps(recipe, indent=1, allow_nan=False)
    return re.sub(r"\[[\s\d.,e+-]+\]", lambda match: " ".join(match[0].split()), text)


def list_files(directory: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Size and checksum by file name."""
    return {
        name: {"size_bytes": (directory / name).stat().st_size, "sha256": checksum(directory / name)} for name in names
    }


def read_recipe(directory: str | Path) -> dict[str, Any]:
    """The recipe of an export folder. Raises ExportError when it is missing, damaged or of a later format."""
    path = Path(directory) / RECIPE
    if not path.is_file():
        raise ExportError(f"Expected an exported network in {Path(directory).name}; it has no {RECIPE}. Export again.")
    if path.stat().st_size > LIMIT_BYTES:
        raise ExportError(f"{RECIPE} is larger than {LIMIT_BYTES:,} bytes: it is not a recipe. Export again.")
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ExportError(f"{RECIPE} is damaged: {str(error)[:80]}. Export again.") from error
    if not isinstance(recipe, dict) or not {"format", "model", "plan", "fingerprint", "files"} <= recipe.keys():
        raise ExportError(f"{RECIPE} is not a recipe of an exported network. Export again.")
    if recipe["format"] != FORMAT_VERSION:
        raise ExportError(
            f"{RECIPE} has format {recipe['format']}; this version reads format {FORMAT_VERSION}. Update Prunescope."
        )
    return recipe
