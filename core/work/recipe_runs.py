"""Recipes as the page Recover runs them: the worker's verb, and its result as plain JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from time import perf_counter
from typing import Any

from torch import nn

from core.apply import AS_CUT, prune_model
from core.apply.finetune import finetune_model
from core.apply.iterative import IterationPoint
from core.apply.soft import SoftEpoch
from core.errors import Cancelled
from core.evaluate import compare_models
from core.keep.networks import keep_network
from core.keep.shelf import find_result, job_key
from core.keep.store import open_store
from core.keep.subject import Subject, open_subject
from core.keep.timings import newest_table
from core.measure.cost import LatencyTable, count_cost
from core.plan.search import Trial
from core.plan.structural import Step
from core.recipes import Recipe, run_recipe
from core.records import Plan, fingerprint_state
from core.show.cookbook import OWN

Progress = Callable[..., None]
NUMBERS = 6  # significant digits of what is only drawn
MOST_PATH = 4096  # numbers in one layer's path; a longer one is left out


def cook(
    model: str,
    weights: str,
    data: str,
    recipe: str,
    own: Mapping[str, Any],
    budget: Mapping[str, float],
    finetune: int,
    seed: int,
    on_progress: Progress,
    cancelled: Callable[[], bool],
) -> dict[str, Any]:
    """Run a recipe, train what it made for ``finetune`` seconds (0 = not at all), and measure it on the selection
    images beside the dense network.

    recipe: a name of RECIPES, or OWN for the fields of ``Recipe`` in ``own``. budget: as in ``run_recipe``.
    Result: {"plan" (its JSON), "network" (the name of its weights, "" where they are the dense network's own),
    "accuracy", "dense_accuracy", "difference" [value, low, high], "macs", "params", "size_bytes" and the same of the
    dense network with "dense_", "seconds", "log", "stories" (a ``LayerStory`` each), "curve" (how its loop came
    there)}. Partial: {"curve", "stories"}, and of a run that was stopped also "plan" and "network" where a complete
    one was there. Nothing here sees the report images but the comparison inside ``run_recipe``, which is not told.
    """
    subject = open_subject(model, weights, data)
    table = latency_table(subject) if "latency_ms" in budget else None
    watch = _Watch(on_progress, cancelled, 0.75 if finetune else 0.95)
    chosen = Recipe(**own) if recipe == OWN else recipe
    try:
        outcome = run_recipe(
            chosen, subject.loaded, subject.data, budget, on_progress=watch.tell, cancelled=cancelled, seed=seed,
            table=table,
        )  # fmt: skip
    except Cancelled as stopped:
        raise Cancelled(str(stopped), _unfinished(subject, stopped.partial)) from stopped
    module, log = outcome.module, list(outcome.log)
    result: dict[str, Any] = {"stories": stories_json(outcome.stories), "curve": curve_json(outcome.curve)}
    if finetune:
        log.append(f"{watch.seconds():.1f} s  Fine-tuning for at most {finetune} s")
        module = watch.train(subject, module, finetune, seed)
    result |= {"plan": outcome.plan.to_json(), "network": _kept(subject, outcome.plan, module)}
    seconds = watch.seconds()
    log.append(f"{seconds:.1f} s  Measuring on selection images")
    on_progress(0.96, "Measuring on selection images")
    found = compare_models(subject.loaded.module, module, subject.data.selection, cancelled=cancelled)
    result |= {"accuracy": asdict(found.b), "dense_accuracy": asdict(found.a), "seconds": seconds, "log": log}
    result["difference"] = [found.difference, found.low, found.high]
    for prefix, plan in (("", outcome.plan), ("dense_", Plan({}))):
        cost = count_cost(subject.trace, plan)
        result |= {f"{prefix}{name}": getattr(cost, name) for name in ("macs", "params", "size_bytes")}
    return result


def latency_table(subject: Subject) -> LatencyTable | None:
    """The times measured of this network on this machine, corrected by every plan that was timed since; None when they
    are not known."""
    store = open_store()
    found = find_result(store, "latency_table", subject)
    if found is None:
        return None
    return newest_table(store, job_key("latency_table", subject), subject.trace, LatencyTable.from_dict(found))


class _Watch:
    """Hands on what a run tells; a picture only when there is more of it than before."""

    def __init__(self, on_progress: Progress, cancelled: Callable[[], bool], share: float) -> None:
        self.on_progress, self.cancelled, self.share = on_progress, cancelled, share
        self.started = perf_counter()
        self.shown = 0

    def seconds(self) -> float:
        return perf_counter() - self.started

    def tell(self, fraction: float, message: str, partial: object = None) -> None:
        curve = curve_json(getattr(partial, "curve", ()))
        more = len(curve) > self.shown
        self.shown = len(curve)
        self.on_progress(self.share * fraction, message, {"curve": curve, "stories": []} if more else None)

    def train(self, subject: Subject, module: nn.Module, seconds: int, seed: int) -> nn.Module:
        def told(fraction: float, message: str, *_: object) -> None:
            self.on_progress(self.share + (0.95 - self.share) * fraction, f"Fine-tuning: {message}")

        tuned = finetune_model(
            module, subject.data.calibration, seconds=float(seconds), teacher=subject.loaded.module,
            keep=subject.data.selection, seed=seed, on_progress=told, cancelled=self.cancelled,
        )  # fmt: skip
        return tuned.module


def _unfinished(subject: Subject, partial: object) -> dict[str, Any]:
    """What a run that was stopped leaves: the way so far, and the network as far as it had come."""
    built = getattr(partial, "built", None)
    left: dict[str, Any] = {"curve": curve_json(getattr(partial, "curve", ())), "stories": []}
    if built is not None and built.plan.kept:
        left["stories"] = stories_json(built.stories)
        left |= {"plan": built.plan.to_json(), "network": _kept(subject, built.plan, built.module)}
    return left


def _kept(subject: Subject, plan: Plan, module: nn.Module) -> str:
    """The name of the kept weights; "" where cutting alone gives them."""
    cut = prune_model(subject.loaded.module, subject.trace, plan, verify=False)
    if fingerprint_state(cut.state_dict()) == fingerprint_state(module.state_dict()):
        return ""
    return keep_network(module, plan)


def stories_json(stories: object) -> list[dict[str, Any]]:
    """Layer stories as plain JSON; [] for anything else. Numbers that are only drawn are rounded."""
    if not isinstance(stories, Sequence) or not all(hasattr(story, "rebuilt_error") for story in stories):
        return []
    told = []
    for story in stories:
        fields = asdict(story) if is_dataclass(story) and not isinstance(story, type) else {}
        told.append({**fields, "order": list(fields["order"]), "path": _path_json(fields["path"])})
    return told


def _path_json(path: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name): _rounded(value) for name, value in path.items() if _length(value) <= MOST_PATH}


def _length(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(_length(item) for item in value.values())
    return sum(_length(item) for item in value) if isinstance(value, list | tuple) else 1


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.{NUMBERS}g}") if isinstance(value, float) else value


def curve_json(points: object) -> list[dict[str, Any]]:
    """How a loop came there, as plain JSON, [] for anything else. "kind" says which: "maps" (iterative pruning: step,
    maps, macs, accuracy), "epochs" (soft pruning: epoch, silent, changed, accuracy), "trials" (whole plans measured:
    accuracy, loss, foretold), "layers" (structural search: group, tried, accuracy, threshold)."""
    return [told for told in map(_point_json, points if isinstance(points, Sequence) else ()) if told]


def _point_json(point: object) -> dict[str, Any]:
    if isinstance(point, IterationPoint):
        return {"kind": "maps", **{name: getattr(point, name) for name in ("step", "maps", "macs", "accuracy")}}
    if isinstance(point, SoftEpoch):
        silent = sum(len(units) for units in point.zeroed.values())
        epoch = point.epoch
        return {"kind": "epochs", "epoch": epoch.epoch, "silent": silent, "changed": point.changed,
                "accuracy": epoch.watched}  # fmt: skip
    if isinstance(point, Trial):
        loss = {"loss": point.accuracy.loss, "foretold": point.foretold}
        return {"kind": "trials", "accuracy": point.accuracy.value, **loss}
    if isinstance(point, Step):
        told = {"group": point.group, "tried": [list(pair) for pair in point.tried], "removed": point.removed}
        return {"kind": "layers", **told, "threshold": point.threshold, "accuracy": point.accuracy}
    return {}


def repair_of(result: Mapping[str, Any]) -> str:
    """How the network of a recipe's result is built again: the name of its kept weights, or as cut."""
    return str(result["network"] or AS_CUT)
