"""How a recipe goes about it: one loop a row, each from a Job to a built network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from core.apply import prune_model
from core.apply.front_to_back import rebuild_plan
from core.apply.iterative import prune_iteratively
from core.apply.soft import train_softly
from core.errors import PlanError
from core.measure.residuals import measure_residuals
from core.plan.limits import Limits
from core.plan.search import search_counts
from core.plan.structural import search_structure
from core.plan.targets import in_order
from core.recipes.compensated import CompensatedNetwork
from core.recipes.job import RESIDUAL_IMAGES, SELECT_IMAGES, TRIAL_IMAGES, Built, Job
from core.records import Plan
from core.registry import Registry, Row

FINAL_IMAGES = 5000  # at most: calibration images of the network that is given back
Made = tuple[Built, tuple[Any, ...]]  # the network, and the curve of how the loop came there
LOOPS: Registry[Callable[[Job], Made]] = Registry("loop")


def once(job: Job) -> Made:
    """Score, choose widths, cut, repair."""
    scores = job.score(0.05, 0.2)
    curves = job.curves(scores, 0.2, 0.5)

    def build(counts: Mapping[str, int], images: int) -> Built:
        return job.build_planned(scores, counts, images)

    counts = job.choose(scores, curves, build, 0.5)
    job.tell(0.7, "Building the smaller network")
    return build(counts, FINAL_IMAGES), ()


def front_to_back(job: Job) -> Made:
    """Choose widths; then choose channels and rebuild, layer by layer."""
    needs_scores = job.recipe.ratios in ("global", "sensitivity")
    scores = job.score(0.05, 0.15) if needs_scores else None
    counts = job.choose(scores, job.curves(scores, 0.15, 0.4), job.build_walking, 0.4)
    job.tell(0.5, "Choosing and rebuilding layer by layer")
    return job.build_walking(counts, FINAL_IMAGES, job.within(0.5, 0.9)), ()


def structural_search(job: Job) -> Made:
    """CaP: with an accuracy to keep and nothing else, halve towards the most that each layer can lose."""
    if set(job.budget) != {"accuracy_drop"}:
        return front_to_back(job)
    job.tell(0.05, "Reading statistics of the dense network")
    images = job.data.selection.take(torch.arange(min(SELECT_IMAGES, len(job.data.selection))))
    network = CompensatedNetwork(
        job.trace, job.groups, job.few(TRIAL_IMAGES), images, seed=job.seed, cancelled=job.cancelled
    )
    job.tell(0.15, "Binary search, layer by layer, on selection images")

    def told(fraction: float, message: str, steps: tuple[Any, ...]) -> None:
        job.tell(0.15 + 0.65 * fraction, message, curve=steps)

    groups = in_order(job.trace, job.groups)
    counts, steps = search_structure(groups, network.measure, job.budget["accuracy_drop"], on_progress=told)
    job.tell(0.8, "Compensating", counts=counts, curve=steps)
    found = rebuild_plan(
        job.loaded.module, job.trace, network.plan(counts), job.few(FINAL_IMAGES), solver=job.recipe.solver,
        seed=job.seed, on_progress=job.within(0.8, 0.9), cancelled=job.cancelled, **job.recipe.options,
    )  # fmt: skip
    return Built(found.plan, found.module, found.stories), steps


def search(job: Job) -> Made:
    """Measure whole rebuilt networks, refit the foretelling, go on with the best widths."""
    if "accuracy_drop" in job.budget:
        return front_to_back(job)
    job.tell(0.05, "Foretelling what rebuilding leaves, on calibration images")
    residuals = measure_residuals(
        job.trace, job.few(RESIDUAL_IMAGES), job.groups, seed=job.seed, on_progress=job.within(0.05, 0.15),
        cancelled=job.cancelled,
    )  # fmt: skip
    job.tell(0.15, "Measuring whole plans on selection images, correcting the foretelling")

    def told(fraction: float, message: str, trials: tuple[Any, ...]) -> None:
        job.tell(0.15 + 0.45 * fraction, message, curve=trials)

    found = search_counts(
        job.trace, residuals, job.budget, lambda counts: job.measure(counts, job.build_walking, 0.15),
        groups=job.recipe.groups, table=job.table, on_progress=told,
    )  # fmt: skip
    job.tell(0.6, "Choosing and rebuilding layer by layer", counts=found.best.counts)
    return job.build_walking(found.best.counts, FINAL_IMAGES, job.within(0.6, 0.9)), found.trials


def iterative(job: Job) -> Made:
    """Taylor: remove a few, train a little, again."""
    _no_floor(job)
    limits = Limits(job.trace, job.budget, job.table)

    def met(plan: Plan) -> bool:
        return limits.fits({name: job.trace.group(name).units - len(kept) for name, kept in plan.kept.items()})

    job.tell(0.05, "Removing the least important maps, training between")
    units = sum(group.units for group in job.trace.prunable)
    options = {"per_step": max(1, round(units / 100)), **job.recipe.options}
    found = prune_iteratively(
        job.loaded.module, job.trace, job.data, met, seed=job.seed, on_progress=job.within(0.05, 0.9, curve=True),
        cancelled=job.cancelled, **options,
    )  # fmt: skip
    return Built(found.plan, found.module), found.curve


def soft(job: Job) -> Made:
    """SFP: widths first, then training with the faintest filters silenced after every epoch."""
    _no_floor(job)
    counts = job.choose(None, None, lambda *_: Built(Plan({}), job.loaded.module), 0.05)
    units = {name: job.trace.group(name).units for name in counts}
    rates = {name: (units[name] - kept) / units[name] for name, kept in counts.items()}
    job.tell(0.1, "Training, the faintest filters silenced after every epoch")
    watched = job.data.selection.take(torch.arange(min(SELECT_IMAGES, len(job.data.selection))))
    found = train_softly(
        job.loaded.module, job.trace, job.data, rates, seed=job.seed, on_progress=job.within(0.1, 0.9, curve=True),
        cancelled=job.cancelled, **{"watch": watched, **job.recipe.options},
    )  # fmt: skip
    return Built(found.plan, prune_model(found.module, job.trace, found.plan)), found.log


def _no_floor(job: Job) -> None:
    if "accuracy_drop" in job.budget:
        raise PlanError(
            "This recipe trains while it prunes, so an accuracy to keep would mean many trainings. Give it a budget of "
            "macs, params or latency_ms."
        )


for _name, _loop, _title, _source in (
    ("once", once, "Cut once, then repair", "the usual baseline: Li et al. 2017, arXiv 1608.08710"),
    ("front-to-back", front_to_back, "Choose and rebuild layer by layer", "He, Zhang, Sun 2017, arXiv 1707.06168"),
    ("structural-search", structural_search, "Binary structural search", "Xie et al. 2021, arXiv 2108.13728"),
    ("search", search, "Search that corrects itself", "ours"),
    ("iterative", iterative, "Remove a few, train a little, again", "Molchanov et al. 2017, arXiv 1611.06440"),
    ("soft", soft, "Silence while training", "He, Kang, Dong, Fu, Yang 2018, arXiv 1808.06866"),
):
    LOOPS.add(Row(_name, _loop, _title, (_loop.__doc__ or "").strip(), source=_source))
