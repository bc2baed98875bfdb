"""Run a recipe: whichever loop it takes, the same checks before and the same comparison after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from core.apply.front_to_back import LayerStory
from core.errors import Cancelled
from core.evaluate import Comparison, compare_models
from core.measure.cost import LatencyTable
from core.recipes.book import RECIPES, Recipe
from core.recipes.job import Built, Job, Unfinished, require_parts
from core.recipes.loops import LOOPS
from core.records import ImageData, LoadedModel, Plan


@dataclass(frozen=True)
class Outcome:
    """What a recipe made: the plan, the new network, dense and pruned side by side on the report images, and a log of
    what was done with seconds. ``stories``: one per layer that was rebuilt front to back. ``curve``: how the loop came
    there: trials of a search, steps of CaP's, removals of Taylor's, epochs of SFP's; () for the others."""

    plan: Plan
    module: nn.Module
    comparison: Comparison
    log: tuple[str, ...]
    stories: tuple[LayerStory, ...] = ()
    curve: tuple[Any, ...] = ()
    recipe: Recipe | None = None


def run_recipe(
    name: str | Recipe,
    loaded: LoadedModel,
    data: ImageData,
    budget: Mapping[str, float],
    *,
    on_progress: Callable[..., None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    seed: int = 0,
    table: LatencyTable | None = None,
    **changes: Any,
) -> Outcome:
    """Run a recipe from RECIPES, or one of your own, on a loaded network, which is left alone.

    data: with its three parts: scores, rebuilding and training use calibration images, every choice selection images,
    the comparison report images. budget: what may remain, e.g. {"macs": 0.5} or {"params": 0.25} (shares),
    {"accuracy_drop": 0.01} (measured on selection images), {"latency_ms": 3.0} (predicted from times measured here
    first, or from ``table``); several hold at once, and the result never exceeds them. changes: fields of ``Recipe`` in
    place of its own; ``options`` are added to its own. ``on_progress(fraction, message, partial)``: ``partial`` is an
    Unfinished.
    Raises CoreError for an unknown recipe or a budget that cannot be met; Cancelled when asked to stop, with an
    Unfinished in ``partial`` that holds everything complete.
    """
    recipe = RECIPES[name] if isinstance(name, str) else name
    if "options" in changes:
        changes["options"] = {**recipe.options, **changes["options"]}
    recipe = replace(recipe, **changes)
    loop = LOOPS[recipe.loop]
    require_parts(data)
    job = Job(recipe, loaded, data, budget, on_progress, cancelled, seed, table)
    try:
        job.tell(0.0, "Traced channels")
        job.prepare()
        built, curve = loop(job)
        built.module.eval()
        job.tell(0.9, "Comparing on report images", built=built, curve=curve)
        comparison = compare_models(
            loaded.module, built.module, data.report, on_progress=job.within(0.9, 1.0), cancelled=cancelled
        )
        job.tell(1.0, "Done")
    except Cancelled as stopped:
        raise _stopped(job, stopped) from stopped
    return Outcome(built.plan, built.module, comparison, job.known.log, built.stories, curve, recipe)


def _stopped(job: Job, stopped: Cancelled) -> Cancelled:
    """With what the part that was stopped had complete: the last state of a training loop, or the layers that a walk
    had rebuilt. A whole network that was built before, to be measured, is worth more than the latter."""
    known, partial = job.known, stopped.partial
    plan, module = getattr(partial, "plan", None), getattr(partial, "module", None)
    if isinstance(plan, Plan) and isinstance(module, nn.Module) and known.built is None:
        module = job.compact(plan, module)
        known = replace(known, built=Built(plan, module, getattr(partial, "stories", ())))
    for name in ("curve", "log"):
        found = getattr(partial, name, None)
        if found:
            known = replace(known, curve=tuple(found))
    if isinstance(partial, tuple) and partial and not known.curve:
        known = replace(known, curve=partial)
    last = known.log[-1].split("  ", 1)[-1] if known.log else "the start"
    return Cancelled(f"The recipe was cancelled; the last step begun was: {last}.", known)


__all__ = ["Outcome", "Unfinished", "run_recipe"]
