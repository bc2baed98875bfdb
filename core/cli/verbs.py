"""What each command does: a few calls of the engine, and a plain JSON value with whether all is well."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from core.apply.repair import build_network
from core.errors import CoreError, PlanError
from core.evaluate import compare_models
from core.export import apply_recipe, export_model, verify_export
from core.export.files import write_text
from core.export.recipe import plain
from core.keep.model_files import runtime_ms
from core.load import inspect_onnx, load_data, load_model
from core.measure.cost import count_cost, measure_latency
from core.measure.importance import affordable_images, score_channels
from core.measure.sensitivity import scan_sensitivity
from core.plan import plan_uniform
from core.recipes import list_recipes, run_recipe
from core.records import ImageData, LoadedModel, Plan, Trace
from core.trace import trace_channels

Told = tuple[dict[str, Any], bool]
Tell = Callable[..., None]
SCORE_IMAGES, RANDOM_IMAGES = 256, 120


def scan(options: argparse.Namespace, tell: Tell) -> Told:
    """Curves of every group on selection images."""
    fractions = _fractions(options.fractions)
    if options.out and not Path(options.out).resolve().parent.is_dir():
        raise CoreError(f"--out: there is no folder {Path(options.out).resolve().parent}. Make it, or choose another.")
    loaded, data, trace = _open(options)
    scores = _scores(trace, data, options.criterion)
    found = scan_sensitivity(trace, data.selection, fractions, scores, limit=options.limit, on_progress=tell)
    if options.out:
        write_text(Path(options.out), json.dumps(plain(found.to_dict())))
    groups = {
        name: [
            {"removed": point.removed_fraction, "accuracy": point.accuracy, "low": point.low, "high": point.high,
             "images": point.images}
            for point in points
        ]
        for name, points in found.points.items()
    }  # fmt: skip
    told = {"model": loaded.name, "data": data.name, "criterion": options.criterion, "dense": found.dense.accuracy}
    return plain({**told, "groups": groups, "file": options.out}), found.complete


def export(options: argparse.Namespace, tell: Tell) -> Told:
    """Prune by a share, a plan or a recipe; write; verify."""
    ways = [name for name in ("remove", "plan", "recipe") if getattr(options, name) is not None]
    if len(ways) != 1:
        raise CoreError(f"Expected one of --remove, --plan and --recipe; found {', '.join(ways) or 'none'}.")
    if options.recipe is not None:
        known = [row.name for row in list_recipes()]
        if options.recipe not in known:
            raise CoreError(f"There is no recipe called {options.recipe!r}. There are: {', '.join(known)}.")
        if options.macs is None and options.params is None:
            raise CoreError("Expected what may remain: give --macs or --params, a share in 0..1, with --recipe.")
    loaded, data, trace = _open(options)
    module, plan, repair = _prune(options, loaded, data, trace, tell)
    return _write(options, loaded, data, trace, module, plan, repair, tell)


def apply(options: argparse.Namespace, tell: Tell) -> Told:
    """The recipe's cut in a fresh copy; whether the weights are those that were exported, bit by bit."""
    loaded = load_model(options.model, weights=options.weights) if options.model else None
    if loaded is None and options.weights:
        loaded = load_model(_named(options.recipe), weights=options.weights)
    data = _data(options, loaded) if options.data else None
    found = apply_recipe(options.recipe, loaded, data, any_weights=options.any_weights)
    images = data or _data(options, found.loaded)
    told, fine = _write(options, found.loaded, images, found.trace, found.module, found.plan, found.repair, tell)
    return {**told, "exact": found.exact}, fine and (found.exact or options.any_weights)


def report(options: argparse.Namespace, tell: Tell) -> Told:
    """Verify, and rewrite report.html."""
    folder = Path(options.folder)
    tell(0.0, "Reloading every file in a fresh process")
    found = verify_export(folder, run_code=options.run_code)
    return plain({**found.to_dict(), "report": str(folder / "report.html")}), found.ok


def inspect(options: argparse.Namespace, tell: Tell) -> Told:
    """Layers, cost and groups; for ONNX also when it cannot be pruned, with the reason."""
    told: dict[str, Any] = {}
    if Path(options.model).suffix == ".onnx" and Path(options.model).is_file():
        told["onnx"] = inspect_onnx(options.model).to_dict()
        told |= {"latency_ms": runtime_ms(options.model)} if options.time else {}
    try:
        loaded = load_model(options.model, weights=options.weights)
    except CoreError as error:
        if not told:
            raise
        return plain({**told, "prunable": False, "why_not": str(error)}), True
    trace = trace_channels(loaded.module, loaded.example)
    cost = count_cost(trace)
    groups = [
        {"id": g.id, "units": g.units, "prunable": g.prunable, "reason": g.reason, "layers": list(g.layers)}
        for g in trace.coupled
    ]
    told |= {"name": loaded.name, "input": list(loaded.example.shape[1:]), "macs": cost.macs, "params": cost.params,
             "size_bytes": cost.size_bytes, "prunable": bool(trace.prunable), "groups": groups,
             "layers": {name: asdict(layer) for name, layer in cost.per_layer.items()},
             "uncounted": dict(cost.uncounted)}  # fmt: skip
    if options.time:
        told["latency"] = asdict(measure_latency(loaded.module, loaded.example))
    return plain(told), True


def _fractions(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 <= one < 1 for one in found):
        raise CoreError(f"--fractions: expected shares in 0..1 with commas, such as 0.25,0.5; found {text!r}.")
    return found


def _open(options: argparse.Namespace) -> tuple[LoadedModel, ImageData, Trace]:
    loaded = load_model(options.model, weights=options.weights)
    data = _data(options, loaded)
    return loaded, data, trace_channels(loaded.module, data.images[:1])


def _data(options: argparse.Namespace, loaded: LoadedModel | None) -> ImageData:
    source = options.data or (loaded.data if loaded is not None else None) or "random"
    channels, height, width = loaded.example.shape[1:] if loaded is not None else (3, 224, 224)
    if source == "random":
        return load_data(source, shape=(channels, height, width), limit=RANDOM_IMAGES)
    if Path(source).expanduser().is_dir():
        return load_data(Path(source).expanduser(), size=options.size or height)
    return load_data(source, size=options.size)


def _scores(trace: Trace, data: ImageData, criterion: str) -> Any:
    part = data.calibration
    few = part.take(_first(affordable_images(trace, criterion, min(SCORE_IMAGES, len(part)))))
    return score_channels(trace, few, criterion)


def _first(count: int) -> Any:
    import torch

    return torch.arange(count)


def _prune(
    options: argparse.Namespace, loaded: LoadedModel, data: ImageData, trace: Trace, tell: Tell
) -> tuple[nn.Module, Plan, str]:
    if options.recipe is not None:
        budget = {name: getattr(options, name) for name in ("macs", "params") if getattr(options, name) is not None}
        outcome = run_recipe(options.recipe, loaded, data, budget, on_progress=tell)
        return outcome.module, outcome.plan, "recipe"
    if options.plan is not None:
        plan = _read_plan(options.plan)
    else:
        if not 0 <= options.remove < 1:
            raise CoreError(f"--remove: expected a share in 0..1, found {options.remove}.")
        plan = plan_uniform(trace, _scores(trace, data, options.criterion), options.remove)
    module, plan = build_network(loaded.module, trace, plan, data.calibration, options.repair, on_progress=tell)
    return module, plan, options.repair


def _read_plan(path: str) -> Plan:
    try:
        text = Path(path).read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, ValueError) as error:
        raise PlanError(f"Expected a plan as JSON at {path}; it cannot be read ({str(error)[:80]}).") from error
    inner = found.get("plan") if isinstance(found, dict) else None
    return Plan.from_json(json.dumps(inner) if isinstance(inner, dict) else text)


def _write(
    options: argparse.Namespace, loaded: LoadedModel, data: ImageData, trace: Trace, module: nn.Module, plan: Plan,
    repair: str, tell: Tell,
) -> Told:  # fmt: skip
    real = data.name.split()[0] != "random"
    measurements: dict[str, Any] = {"repair": repair, "data": data.report.name}
    if real:
        tell(0.5, "Comparing on report images")
        comparison = compare_models(loaded.module, module, data.report)
        measurements |= {"dense": {"accuracy": asdict(comparison.a)}, "pruned": {"accuracy": asdict(comparison.b)}}
    formats: Any = options.formats if options.formats == "all" else options.formats.split(",")
    done = export_model(
        module, plan, options.out, formats, loaded=loaded, trace=trace, measurements=measurements,
        data=data.report if real else None, on_progress=tell,
    )  # fmt: skip
    told: dict[str, Any] = {"folder": done.directory, "files": list(done.files), "failed": dict(done.failed)}
    cost, dense = count_cost(trace, plan), count_cost(trace)
    told["macs"], told["params"] = [dense.macs, cost.macs], [dense.params, cost.params]
    if real:
        told["accuracy"] = [comparison.a.value, comparison.b.value]
        told["difference"] = [comparison.low, comparison.difference, comparison.high]
    fine = not done.failed
    if not options.no_verify:
        tell(0.9, "Reloading every file in a fresh process")
        found = verify_export(options.out)
        told["verified"], fine = found.to_dict(), fine and found.ok
    return plain(told), fine


def _named(recipe: str) -> str:
    """The network a recipe names, for weights that were given apart."""
    from core.export.recipe import read_recipe

    path = Path(recipe)
    model = read_recipe(path if path.is_dir() else path.parent)["model"] or {}
    if not model.get("source"):
        raise CoreError("The recipe names no network. Name it with --model.")
    return str(model["source"])


__all__ = ["apply", "export", "inspect", "report", "scan"]
