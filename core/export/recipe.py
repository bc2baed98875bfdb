"""recipe.json: how a pruned network came about, enough to build it again around its weights."""

from __future__ import annotations

import json
import math
import os
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.apply.repair import AS_CUT, REPAIRS
from core.apply.surgery import kept_positions, prune_model
from core.errors import ExportError
from core.export.files import RECIPE, checksum
from core.measure.cost import count_cost
from core.records import ImageData, LoadedModel, Plan, Trace, fingerprint_state

FORMAT_VERSION = 1
LIMIT_BYTES = 64 << 20
WEIGHTS = "weights"


def describe(
    module: nn.Module,
    plan: Plan,
    loaded: LoadedModel | None,
    trace: Trace | None,
    measurements: Mapping[str, Any] | None,
    data: ImageData | None,
) -> dict[str, Any]:
    """The recipe without its list of files. Weights are named, never by a path of this machine."""
    known = trace or loaded
    recipe: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "model": _describe_model(loaded, trace),
        "plan": {
            "kept": plain(plan.kept),
            "origin": plan.origin,
            "key": plan.key,
        },
        "method": _describe_method(module, plan, trace, measurements or {}),
        "fingerprint": fingerprint_state(module.state_dict()),
        "input": list(known.example.shape[1:]) if known is not None else [],
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "measurements": plain(measurements or {}),
        "data": _describe_data(data),
        "versions": _versions(),
        "machine": {"system": f"{platform.system()} {platform.machine()}", "cores": os.cpu_count(),
                    "threads": torch.get_num_threads()},
    }  # fmt: skip
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
        recipe["layers"] = _describe_layers(trace, plan)
        recipe["costs"] = _describe_costs(trace, plan)
    return recipe


def _describe_method(
    module: nn.Module, plan: Plan, trace: Trace | None, measurements: Mapping[str, Any]
) -> dict[str, Any]:
    """How the weights came about. repair: a name of REPAIRS, which makes them again, bit by bit, from the dense network
    and its calibration images; WEIGHTS where only the file has them."""
    repair = str(measurements.get("repair") or "")
    if trace is not None:
        cut = prune_model(trace.module, trace, plan, verify=False).state_dict()
        same = fingerprint_state(cut) == fingerprint_state(module.state_dict())
        repair = AS_CUT if same else WEIGHTS if repair == AS_CUT else repair
    known = repair in REPAIRS
    return {"plan": plan.origin, "repair": repair if known else WEIGHTS, "seed": 0, "threads": torch.get_num_threads()}


def _describe_costs(trace: Trace, plan: Plan) -> dict[str, Any]:
    """Exact, by arithmetic; multiply-adds are per image."""
    dense, pruned = count_cost(trace), count_cost(trace, plan)
    totals = {
        name: {"macs": cost.macs, "params": cost.params, "size_bytes": cost.size_bytes}
        for name, cost in (("dense", dense), ("pruned", pruned))
    }
    layers = [
        {"layer": name, "channels": old.out_channels, "kept": new.out_channels, "params_before": old.params,
         "params_after": new.params, "macs_before": old.macs, "macs_after": new.macs}
        for name, old in dense.per_layer.items()
        for new in [pruned.per_layer[name]]
    ]  # fmt: skip
    return {**totals, "layers": layers}


def _describe_layers(trace: Trace, plan: Plan) -> dict[str, dict[str, Any]]:
    """layer -> its channels when dense, and the indices of those that stay; every layer whose channels may leave."""
    found: dict[str, dict[str, Any]] = {}
    for group in trace.prunable:
        kept = set(plan.kept.get(group.id, range(group.units)))
        for member in group.by_role("producer"):
            if member.dim == 0 and member.tensor.endswith("weight"):
                units = member.unit_of.tolist()
                before = found.get(member.layer)
                stays = {place for place, unit in enumerate(units) if unit < 0 or unit in kept}
                stays &= set(before["kept"]) if before else stays
                found[member.layer] = {"channels": len(units), "kept": sorted(stays)}
    return found


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
        earlier = read_recipe(folder)
        if earlier["model"]:
            described["made_from"] = {key: earlier[key] for key in ("model", "plan")}
    return described


def _describe_data(data: ImageData | None) -> dict[str, Any] | None:
    """The images that reference.safetensors draws from, and how the network wants its input: (value - mean) / std."""
    if data is None:
        return None
    normalised = {"mean": list(data.mean), "std": list(data.std), "classes": list(data.classes)}
    return {"name": data.name, "images": len(data), "fingerprint": data.fingerprint, **normalised}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("prunescope", "torchvision", "numpy", "onnx", "onnxruntime"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "from source" if package == "prunescope" else "not installed"
    return found


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
