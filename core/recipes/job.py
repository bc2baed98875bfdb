"""One run of a recipe: what is known so far, and the steps that all loops are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch
from torch import nn

from core.apply import prune_model, reconstruct_model
from core.apply.front_to_back import LayerStory, choose_and_rebuild
from core.errors import Cancelled, PlanError
from core.evaluate import evaluate_model
from core.measure.cost import LatencyTable, build_latency_table
from core.measure.importance import CRITERIA, score_channels
from core.measure.residuals import measure_residuals
from core.measure.sensitivity import scan_sensitivity
from core.plan import LossCurve, plan_counts, rebuilt_curves, scanned_curves, target_groups
from core.plan.budget import choose_counts
from core.plan.limits import check_budget
from core.plan.lossmodel import POWER, POWER_ALONE
from core.plan.rules import RATIO_RULES
from core.recipes.book import Recipe
from core.records import Accuracy, ImageData, LoadedModel, Plan, Scores, Trace
from core.trace import trace_channels

SCORE_IMAGES, SCAN_IMAGES, RESIDUAL_IMAGES = 256, 300, 512
SELECT_IMAGES = 1000  # at most, per measured plan
TRIAL_IMAGES = 256  # calibration images of a network that is built to be measured only
FRACTIONS = (0.25, 0.5, 0.75)
CRITERION_OF = {"greedy": "cap"}  # ways to choose whose scores have another name


@dataclass(frozen=True)
class Built:
    """A plan's network, with a story per layer where it was rebuilt front to back."""

    plan: Plan
    module: nn.Module
    stories: tuple[LayerStory, ...] = ()


@dataclass(frozen=True)
class Unfinished:
    """What a stopped run leaves: every part that was complete. ``built`` is usable as it stands; ``curve`` as in
    Outcome."""

    log: tuple[str, ...]
    scores: Scores | None = None
    counts: Mapping[str, int] | None = None
    built: Built | None = None
    curve: tuple[Any, ...] = ()


class Job:
    """``tell(fraction, message)`` notes a step in the log, reports it, and raises Cancelled when asked to stop."""

    def __init__(
        self,
        recipe: Recipe,
        loaded: LoadedModel,
        data: ImageData,
        budget: Mapping[str, float],
        on_progress: Callable[..., None] | None,
        cancelled: Callable[[], bool] | None,
        seed: int,
        table: LatencyTable | None = None,
    ) -> None:
        self.recipe, self.loaded, self.data, self.budget, self.seed = recipe, loaded, data, dict(budget), seed
        self.on_progress, self.cancelled = on_progress, cancelled
        self.known = Unfinished(())
        self.started = perf_counter()
        self.trace: Trace = trace_channels(loaded.module, loaded.example)
        self.groups = target_groups(self.trace, recipe.groups)
        self.table = table
        self.measured: dict[tuple[tuple[str, int], ...], Accuracy] = {}

    def tell(self, fraction: float, message: str, **learned: Any) -> None:
        line = f"{perf_counter() - self.started:.1f} s  {message}"
        self.known = replace(self.known, log=(*self.known.log, line), **learned)
        self.report(fraction, message)

    def report(self, fraction: float, message: str) -> None:
        if self.on_progress is not None:
            self.on_progress(fraction, message, self.known)
        self.check()

    def check(self) -> None:
        if self.cancelled is not None and self.cancelled():
            raise Cancelled("The recipe was cancelled.")

    def within(self, start: float, stop: float, *, curve: bool = False) -> Callable[..., None]:
        """A progress callback for a part of the work: its fractions become ``start`` to ``stop``. curve: what it is
        given besides is how the loop went so far."""

        def told(fraction: float, message: str, partial: Any = (), *_: Any) -> None:
            if curve:
                self.known = replace(self.known, curve=tuple(partial or ()))
            self.report(start + (stop - start) * fraction, message)

        return told

    def few(self, images: int) -> ImageData:
        part = self.data.calibration
        return part.take(torch.arange(min(images, len(part))))

    def prepare(self) -> None:
        """The latency table where the budget needs one and none was given; a malformed budget is refused before any
        work."""
        rest = {name: value for name, value in self.budget.items() if name != "latency_ms"}
        check_budget(rest or {"macs": 1.0}, None, judged=True)
        if "latency_ms" in self.budget and self.table is None:
            self.tell(0.02, "Measuring times of layers on this machine")
            self.table = build_latency_table(self.trace, cancelled=self.cancelled)
        check_budget(self.budget, self.table, judged=True)

    def score(self, start: float, stop: float) -> Scores:
        name = CRITERION_OF.get(self.recipe.criterion, self.recipe.criterion)
        self.tell(start, f"Scoring channels by {name}")
        few = self.few(SCORE_IMAGES) if CRITERIA[name].needs_images else None
        scores = score_channels(
            self.trace, few, name, seed=self.seed, on_progress=self.within(start, stop), cancelled=self.cancelled
        )
        self.known = replace(self.known, scores=scores)
        return scores

    def curves(self, scores: Scores | None, start: float, stop: float) -> dict[str, LossCurve] | None:
        """What the recipe's ratio rule needs to know of the groups."""
        needs = RATIO_RULES[self.recipe.ratios].needs
        told = self.within(start, stop)
        if needs == "residuals":
            self.tell(start, "Foretelling what rebuilding leaves, on calibration images")
            found = measure_residuals(
                self.trace, self.few(RESIDUAL_IMAGES), self.groups, seed=self.seed, on_progress=told,
                cancelled=self.cancelled,
            )  # fmt: skip
            alone = self.recipe.solver == "compensation"
            return rebuilt_curves(self.trace, found, power=POWER_ALONE if alone else POWER)
        if needs == "scan":
            assert scores is not None
            self.tell(start, "Scanning sensitivity on selection images")
            scan = scan_sensitivity(
                self.trace, self.data.selection, FRACTIONS, scores, groups=[group.id for group in self.groups],
                limit=SCAN_IMAGES, seed=self.seed, on_progress=told, cancelled=self.cancelled,
            )  # fmt: skip
            self.check()
            return scanned_curves(self.groups, scan)
        return None

    def choose(
        self,
        scores: Scores | None,
        curves: Mapping[str, LossCurve] | None,
        build: Callable[[Mapping[str, int], int], Built],
        at: float,
    ) -> dict[str, int]:
        """Units kept per group by the recipe's ratio rule; an accuracy drop is measured on whole plans."""
        self.tell(at, "Choosing widths")
        counts = choose_counts(
            self.trace, self.recipe.ratios, self.budget, groups=self.recipe.groups, scores=scores, curves=curves,
            table=self.table, measure=lambda counts: self.measure(counts, build, at),
        )  # fmt: skip
        self.known = replace(self.known, counts=counts)
        return counts

    def measure(
        self, counts: Mapping[str, int], build: Callable[[Mapping[str, int], int], Built], at: float
    ) -> Accuracy:
        """Selection images right with the network of these widths, built from few calibration images."""
        key = tuple(sorted(counts.items()))
        if key not in self.measured:
            self.report(at, f"Measuring whole plans on selection images: {len(self.measured) + 1}")
            built = build(counts, TRIAL_IMAGES) if counts else Built(Plan({}), self.loaded.module)
            self.known = replace(self.known, built=built if counts else self.known.built)
            self.measured[key] = evaluate_model(
                built.module, self.data.selection, limit=SELECT_IMAGES, cancelled=self.cancelled
            )
        return self.measured[key]

    def build_planned(self, scores: Scores, counts: Mapping[str, int], images: int) -> Built:
        """The highest scores stay; then the recipe's solver, or none."""
        removed = {name: self.trace.group(name).units - kept for name, kept in counts.items()}
        words = ", ".join(f"{name} {value:g}" for name, value in self.budget.items())
        plan = plan_counts(self.trace, scores, removed, f"budget {words}, {scores.criterion}")
        if self.recipe.solver is None:
            return Built(plan, prune_model(self.loaded.module, self.trace, plan))
        module = reconstruct_model(
            self.loaded.module, self.trace, plan, self.few(images), self.recipe.solver, images=images, seed=self.seed,
            cancelled=self.cancelled,
        )  # fmt: skip
        return Built(plan, module)

    def build_walking(
        self, counts: Mapping[str, int], images: int, on_progress: Callable[..., None] | None = None
    ) -> Built:
        """Chosen and rebuilt layer by layer."""
        found = choose_and_rebuild(
            self.loaded.module, self.trace, counts, self.data.calibration, self.recipe.criterion,
            solver=self.recipe.solver, seed=self.seed, on_progress=on_progress, cancelled=self.cancelled,
            **self._walking(images),
        )  # fmt: skip
        return Built(found.plan, found.module, found.stories)

    def _walking(self, images: int) -> dict[str, Any]:
        """The recipe's options for so many images. A network that is only measured does without the costly rounds."""
        options = {**self.recipe.options, "images": min(images, self.recipe.options.get("images", images))}
        return {**options, "rectify": 0} if images <= TRIAL_IMAGES else options

    def compact(self, plan: Plan, module: nn.Module) -> nn.Module:
        """``module`` at the plan's size: as it is, or cut where it is of full size with silent units (soft pruning)."""
        shapes, full = ({n: t.shape for n, t in m.state_dict().items()} for m in (module, self.loaded.module))
        return prune_model(module, self.trace, plan) if plan.kept and shapes == full else module


def require_parts(data: ImageData) -> None:
    """Raises PlanError when the images are one part already: nothing may be chosen on the images reported."""
    for part in ("calibration", "selection", "report"):
        if part not in data.parts or not len(data.parts[part]):
            raise PlanError(
                f"A recipe needs calibration, selection and report images; {data.name} has no {part} part. "
                "Load it without split=."
            )
