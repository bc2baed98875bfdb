"""Published methods as values: criterion + ratio rule + solver + citation. One function runs them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import nn

from core.apply import prune_model, reconstruct_model
from core.errors import Cancelled, PlanError
from core.evaluate import Comparison, compare_models
from core.measure.cost import build_latency_table
from core.measure.importance import score_channels
from core.measure.sensitivity import scan_sensitivity
from core.plan import plan_budget
from core.records import ImageData, LoadedModel, Plan
from core.registry import Registry, Row
from core.trace import trace_channels

SCORE_IMAGES = 256
SCAN_IMAGES = 300
FRACTIONS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Recipe:
    """``criterion`` says which channels leave first, ``ratios`` how many per group ("uniform", or "sensitivity": equal
    marginal loss on the measured curves), ``solver`` what is rebuilt afterwards (a method of ``reconstruct_model``)."""

    criterion: str
    ratios: str = "sensitivity"
    solver: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What a recipe made: the plan, the new network, dense and pruned side by side on the report images, and a log of
    what was done with seconds."""

    plan: Plan
    module: nn.Module
    comparison: Comparison
    log: tuple[str, ...]


RECIPES: Registry[Recipe] = Registry("recipe")
RECIPES.add(
    Row("weight-l2", Recipe("weight-l2"), "Weight norm", "Filters with the smallest weights leave; nothing is rebuilt.",
        source="Li et al. 2017, arXiv 1608.08710 (there with L1)")
)  # fmt: skip
RECIPES.add(
    Row("weight-l2-ls", Recipe("weight-l2", solver="least-squares"), "Weight norm, least squares",
        "As weight norm; then each reader's weights are fitted to what the dense network computed.",
        source="reconstruction of He, Zhang, Sun 2017, arXiv 1707.06168, section 3.1")
)  # fmt: skip
RECIPES.add(
    Row("first-k-ls", Recipe("first-k", "uniform", "least-squares"), "First channels, least squares",
        "A baseline: the last channels leave whatever they do; then least squares.",
        source="baseline of He, Zhang, Sun 2017, arXiv 1707.06168")
)  # fmt: skip
RECIPES.add(
    Row("random-ls", Recipe("random", "uniform", "least-squares"), "Random channels, least squares",
        "A baseline: channels leave at random; then least squares.", source="baseline; seeded")
)  # fmt: skip
RECIPES.add(
    Row("chapr-qr", Recipe("qr", solver="least-squares"), "CHaPR: pivoted QR",
        "Channels whose contributions span the others' stay; then least squares. Reconstructed from the abstract.",
        source="Zhang, Davoodi, Hu 2019, arXiv 1908.03266; reconstructed from the abstract")
)  # fmt: skip


def run_recipe(
    name: str,
    loaded: LoadedModel,
    data: ImageData,
    budget: Mapping[str, float],
    *,
    on_progress: Callable[..., None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    seed: int = 0,
) -> Outcome:
    """Run a recipe from RECIPES on a loaded network.

    data: with its three parts: scores and rebuilding use calibration images, curves selection images, the comparison
    report images. budget: what may remain, e.g. {"macs": 0.5} or {"params": 0.25} (shares), {"accuracy_drop": 0.01},
    {"latency_ms": 3.0} (predicted from times measured here first).
    Raises CoreError for an unknown recipe or a budget that cannot be met, Cancelled when asked to stop.
    """
    recipe = RECIPES[name]
    started = perf_counter()
    log: list[str] = []

    def say(fraction: float, message: str) -> None:
        log.append(f"{perf_counter() - started:.1f} s  {message}")
        if on_progress is not None:
            on_progress(fraction, message)
        if cancelled is not None and cancelled():
            raise Cancelled(f"{name} was cancelled before: {message}.", tuple(log))

    say(0.0, "Tracing channels")
    trace = trace_channels(loaded.module, loaded.example)
    if not trace.prunable:
        raise PlanError(f"{loaded.name} has no group of channels that may leave: {trace.coupled[0].reason}.")
    say(0.05, f"Scoring channels by {recipe.criterion}")
    few = _first(data.calibration, SCORE_IMAGES)
    scores = score_channels(trace, few, recipe.criterion, seed=seed, cancelled=cancelled)
    curves = None
    if recipe.ratios == "sensitivity":
        say(0.2, "Scanning sensitivity on selection images")
        curves = scan_sensitivity(
            trace, data.selection, FRACTIONS, scores, limit=SCAN_IMAGES, seed=seed, cancelled=cancelled
        )
    say(0.6, "Choosing widths")
    table = build_latency_table(trace, cancelled=cancelled) if "latency_ms" in budget else None
    plan = plan_budget(trace, scores, curves, budget, table=table)
    say(0.65, "Building the smaller network")
    if recipe.solver is None:
        module = prune_model(loaded.module, trace, plan)
    else:
        module = reconstruct_model(loaded.module, trace, plan, data.calibration, recipe.solver)
    say(0.9, "Comparing on report images")
    comparison = compare_models(loaded.module, module, data.report)
    say(1.0, "Done")
    return Outcome(plan, module, comparison, tuple(log))


def _first(data: ImageData, count: int) -> ImageData:
    return data.take(torch.arange(min(count, len(data))))


def list_recipes() -> list[Row[Recipe]]:
    """Every recipe for menus, with title, summary and source."""
    return list(RECIPES)
