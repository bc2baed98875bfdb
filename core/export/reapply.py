"""A recipe cut into a fresh copy of the dense network: the same channels, the same repair, the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from core.apply.repair import REPAIRS, build_network
from core.apply.surgery import prune_model
from core.errors import CoreError, ExportError
from core.export.checkpoint import with_versions
from core.export.recipe import RECIPE, WEIGHTS, read_recipe
from core.load import load_data, load_model, read_state_dict
from core.records import ImageData, LoadedModel, Plan, Trace, fingerprint_state
from core.trace import trace_channels

CHECKPOINT = "model.safetensors"


@dataclass(frozen=True)
class Applied:
    """``module``: the network the recipe describes, new; ``loaded``, ``trace``, ``plan``: what it was cut from and how.
    ``exact``: its weights are those that were exported, bit by bit; ``repair``: how they were made."""

    module: nn.Module
    plan: Plan
    loaded: LoadedModel
    trace: Trace
    exact: bool
    repair: str = WEIGHTS


def apply_recipe(
    recipe: str | Path, loaded: LoadedModel | None = None, data: ImageData | None = None, *, any_weights: bool = False
) -> Applied:
    """Prune a dense network as the recipe in an export folder (or recipe.json itself) says.

    loaded: the dense network; None opens the one the recipe names. data: images whose calibration part a repair uses;
    None loads the ones the recipe names. any_weights: take a network with other weights than the recipe was made on,
    which keeps the same channels of it. A network that was trained after the cut is read from model.safetensors beside
    the recipe. Raises ExportError when the recipe is damaged, or was made on other weights or another network.
    """
    path = Path(recipe)
    folder = path if path.is_dir() else path.parent
    found = read_recipe(folder)
    model, plan = found["model"] or {}, _plan(found)
    loaded = loaded or _dense(model)
    expected = model.get("weights_fingerprint")
    same = expected is None or loaded.fingerprint == expected
    if not same and not any_weights:
        raise ExportError(
            f"{RECIPE} was made on other weights: fingerprint {expected}, these have {loaded.fingerprint}. Give the "
            "weights it was made on, or ask for the same channels of these (any_weights=True)."
        )
    trace = trace_channels(loaded.module, loaded.example)
    _check_layers(found, trace)
    repair = (found.get("method") or {}).get("repair", WEIGHTS)
    if repair in REPAIRS:
        images = data if data is not None or repair == "none" else _images(model, repair)
        calibration = images.calibration if images is not None else None
        module, plan = build_network(loaded.module, trace, plan, calibration, repair)  # type: ignore[arg-type]
    elif same and (folder / CHECKPOINT).is_file():
        module = prune_model(loaded.module, trace, plan, verify=False)
        try:
            module.load_state_dict(with_versions(read_state_dict(folder / CHECKPOINT), module), strict=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:160]
            raise ExportError(f"{CHECKPOINT} does not fit the network of {RECIPE}: {reason}.") from error
        module.eval()
    else:
        raise ExportError(
            f"The network of {RECIPE} was trained after the cut, so its weights are in {CHECKPOINT} alone; that file "
            "is not beside it, or other weights were given."
        )
    exact = fingerprint_state(module.state_dict()) == found["fingerprint"]
    return Applied(module, plan, loaded, trace, exact, repair)


def _plan(recipe: Mapping[str, Any]) -> Plan:
    try:
        kept = {str(name): tuple(int(unit) for unit in units) for name, units in recipe["plan"]["kept"].items()}
        return Plan(kept, str(recipe["plan"].get("origin", "")))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ExportError(f"{RECIPE} holds no plan that can be read ({error}). Export again.") from error


def _dense(model: Mapping[str, Any]) -> LoadedModel:
    source = model.get("source")
    if not source:
        raise ExportError(f"{RECIPE} names no network. Give the dense one.")
    weights = model.get("weights")
    chosen = None if weights == "shipped" else weights if weights == "pretrained" else "random" if not weights else None
    if weights and weights not in ("shipped", "pretrained"):
        raise ExportError(f"{RECIPE} was made on weights from {weights!r}. Give them: --weights, or loaded=.")
    return load_model(str(source), weights=chosen, num_classes=model.get("outputs"))


def _images(model: Mapping[str, Any], repair: str) -> ImageData:
    name = model.get("data")
    if not name:
        raise ExportError(f"{RECIPE} repairs by {repair!r} with images it does not name. Give them as data.")
    try:
        return load_data(str(name))
    except CoreError as error:
        raise ExportError(f"The images that {RECIPE} repairs with cannot be opened: {error}") from error


def _check_layers(recipe: Mapping[str, Any], trace: Trace) -> None:
    """The layers that the recipe names must be there, with as many channels."""
    shapes = {name: tuple(value.shape) for name, value in trace.module.state_dict().items()}
    for name, one in (recipe.get("layers") or {}).items():
        found = shapes.get(f"{name}.weight") or shapes.get(f"{name}.in_proj_weight") or shapes.get(name)
        if found is None or one["channels"] not in found:
            here = "is not there" if found is None else f"has {found[0]} channels"
            raise ExportError(f"{RECIPE} belongs to another network: its layer {name!r} {here}.")
