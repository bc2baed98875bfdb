"""model.safetensors: the pruned network's weights, and the way back to a network through the recipe."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from core.apply.surgery import prune_model
from core.errors import ExportError
from core.export.files import RECIPE
from core.export.recipe import FORMAT_VERSION, read_recipe
from core.export.source import Source
from core.load import load_model, read_state_dict
from core.load.models import SOURCE_KEY
from core.records import LoadedModel, Plan, fingerprint_state
from core.trace import trace_channels

FILE = "model.safetensors"


def write_checkpoint(source: Source, path: Path) -> None:
    """The state dict of the pruned network; the header names the architecture it was pruned from."""
    recipe, state = source.recipe, source.module.state_dict()
    state = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    header = {"prunescope.format": str(FORMAT_VERSION), "prunescope.fingerprint": str(recipe["fingerprint"])}
    if recipe["model"]:
        header[SOURCE_KEY] = recipe["model"]["source"]
    safetensors.torch.save_file(state, path, header)


def load_exported(directory: str | Path) -> nn.Module:
    """The pruned network of an export folder, in eval mode: built from its recipe, filled with its weights.

    Raises ExportError when a file is missing or damaged, or when the weights are not the ones that were exported.
    """
    recipe = read_recipe(directory)
    if not recipe["model"]:
        raise ExportError(
            f"{RECIPE} names no architecture, so its weights have no network to go into. Export with loaded=."
        )
    try:
        module = _rebuild(recipe)
        state = read_state_dict(Path(directory) / FILE)
        module.load_state_dict(with_versions(state, module), strict=True)
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ExportError(
            f"{FILE} does not fit the network that {RECIPE} describes: {reason}. Export again."
        ) from error
    found = fingerprint_state(module.state_dict())
    if found != recipe["fingerprint"]:
        raise ExportError(
            f"{FILE} holds other weights than those exported: fingerprint {found}, expected {recipe['fingerprint']}. "
            "Export again."
        )
    return module.eval()


def with_versions(state: Mapping[str, Tensor], module: nn.Module) -> OrderedDict[str, Tensor]:
    """``state`` with the version numbers that some classes (MNASNet) ask of a state dict; files do not keep them."""
    named = OrderedDict(state)
    named._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    return named


def _rebuild(recipe: Mapping[str, Any]) -> nn.Module:
    """The pruned architecture with random weights."""
    model = recipe["model"]
    if model.get("made_from"):
        module = _rebuild({"model": {**model["made_from"]["model"]}, "plan": model["made_from"]["plan"]})
    else:
        module = load_model(model["source"], weights="random", num_classes=model["outputs"]).module
    kept = {str(name): tuple(int(unit) for unit in units) for name, units in recipe["plan"]["kept"].items()}
    trace = trace_channels(module, torch.zeros(1, *model["input"]))
    return prune_model(module, trace, Plan(kept), verify=False)


def read_export(path: Path) -> LoadedModel | None:
    """An export folder (or its model.safetensors or recipe.json) as a model source; None for any other path."""
    folder = path if path.is_dir() else path.parent
    if not (folder / RECIPE).is_file() or not (path.is_dir() or path.name in {FILE, RECIPE}):
        return None
    recipe = read_recipe(folder)
    try:
        model = recipe["model"] or {}
        example = torch.randn(1, *model.get("input", ()), generator=torch.Generator().manual_seed(0))
        classes = tuple(model["classes"]) if model.get("classes") else None
        name = f"{model.get('name', folder.name)}, pruned"
        return LoadedModel(load_exported(folder), example, name, str(path), FILE, model.get("data"), classes)
    except (KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{RECIPE} lacks {error}. Export again.") from error
