"""Search for widths that corrects itself: foretell from curves, measure whole plans, refit the foretelling, again.

Model: excess loss of a plan = s sum over groups of exp(a kind + b depth) (error left)^power, kind +1 for gathers and -1
for all others, depth from -1 (first) to 1 (last). s, a, b and the power are fitted to what whole plans, built and
rebuilt, were measured to lose; a plan of equal marginal loss under the fit is measured next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from core.errors import Cancelled
from core.measure.cost.tables import LatencyTable
from core.measure.residuals import Residuals
from core.plan.budget import Measure, choose_counts
from core.plan.lossmodel import POWER, LossCurve, foretold, rebuilt_curves
from core.plan.targets import in_order, target_groups
from core.records import Accuracy, Trace

ROUNDS = 4
START = (POWER, 0.0, 0.0)
DESIGN = (START, (POWER + 0.15, 0.5, -0.4), (POWER - 0.15, -0.5, 0.4))  # spread, so that a fit can tell them apart
SPREAD = (0.15, 0.7, 0.6)  # how far each number may plausibly be from START
NOISE = 6.0  # over the root of the number of images: standard error of the logarithm of a measured excess loss
LEAST = 1e-3  # nats


@dataclass(frozen=True)
class Trial:
    """One whole plan. counts: units kept per group; accuracy: measured, on images for choosing; factors: (power, a, b)
    that it was proposed with; foretold: its excess loss by the fit so far (nats), None before there was one."""

    counts: Mapping[str, int]
    accuracy: Accuracy
    factors: tuple[float, float, float]
    foretold: float | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "counts": dict(self.counts),
            "accuracy": self.accuracy.value,
            "loss": self.accuracy.loss,
            "factors": list(self.factors),
            "foretold": self.foretold,
        }


@dataclass(frozen=True)
class Searched:
    """``best``: the trial that lost least, those that START makes implausible only where clearly so. ``trials``: all,
    in order. ``dense``: the dense network's."""

    best: Trial
    trials: tuple[Trial, ...]
    dense: Accuracy


def search_counts(
    trace: Trace,
    residuals: Residuals,
    budget: Mapping[str, float],
    measure: Measure,
    *,
    groups: str = "gathers",
    table: LatencyTable | None = None,
    rounds: int = ROUNDS,
    on_progress: Callable[..., None] | None = None,
) -> Searched:
    """The widths within ``budget`` ("macs", "params", "latency_ms") that were measured to lose least.

    residuals: of the groups of ``groups``, a row of GROUP_SETS. measure: what the network of these widths does, built
    and rebuilt; it is called once for the dense network ({}) and at most ``rounds`` times more. ``on_progress(fraction,
    message, trials so far)``. Raises PlanError for a budget out of reach; a Cancelled out of ``measure`` leaves with
    the trials so far in ``partial``.
    """
    model = _Model(trace, residuals, groups)
    tell = on_progress or (lambda *_: None)
    trials: list[Trial] = []
    try:
        dense = measure({})
        for number in range(rounds):
            factors, scale = (DESIGN[number], None) if number < len(DESIGN) else model.fit(trials, dense)
            curves = model.curves(factors)
            counts = choose_counts(trace, "rebuilt-error", budget, groups=groups, curves=curves, table=table)
            if any(trial.counts == counts for trial in trials):
                break
            said = None if scale is None else scale * foretold(curves, trace, counts)
            trials.append(Trial(counts, measure(counts), factors, said))
            tell((number + 1) / rounds, f"Plan {number + 1}: {trials[-1].accuracy}", tuple(trials))
    except Cancelled as stopped:
        raise Cancelled("The search was cancelled.", tuple(trials)) from stopped
    return Searched(min(trials, key=lambda trial: _doubted(trial, dense)), tuple(trials), dense)


def _doubted(trial: Trial, dense: Accuracy) -> float:
    """Logarithm of the measured excess loss, with what the measurement's noise may have made of an unlikely plan. Few
    images, or such as the network was trained on, would else pick a plan for their sake alone."""
    excess = max(LEAST, trial.accuracy.loss - dense.loss)
    return float(np.log(excess) + _noise(dense) * _away(trial.factors))


def _noise(dense: Accuracy) -> float:
    return max(0.1, NOISE / float(np.sqrt(dense.images)))


def _away(factors: tuple[float, float, float]) -> float:
    """How implausible factors are: the square of their distance from START in units of SPREAD."""
    return float((((np.array(factors) - START) / SPREAD) ** 2).sum())


class _Model:
    """The foretelling, and its fit."""

    def __init__(self, trace: Trace, residuals: Residuals, groups: str) -> None:
        self.trace, self.residuals = trace, residuals
        chosen = target_groups(trace, groups)
        place = {group.id: number for number, group in enumerate(in_order(trace, chosen))}
        rank = np.array([place[group.id] for group in chosen])
        depth = 2 * rank / max(1, len(chosen) - 1) - 1
        self.features = {
            group.id: (1.0 if group.gather_of else -1.0, float(deep)) for group, deep in zip(chosen, depth, strict=True)
        }

    def curves(self, factors: tuple[float, float, float]) -> dict[str, LossCurve]:
        power, a, b = factors
        weights = {name: float(np.exp(a * kind + b * depth)) for name, (kind, depth) in self.features.items()}
        return rebuilt_curves(self.trace, self.residuals, power=power, weights=weights)

    def fit(self, trials: list[Trial], dense: Accuracy) -> tuple[tuple[float, float, float], float]:
        """(power, a, b) and s, the most plausible given all trials and START."""
        told = np.log([max(LEAST, trial.accuracy.loss - dense.loss) for trial in trials])

        def gaps(point: np.ndarray) -> np.ndarray:
            curves = self.curves(_bounded(point))
            return told - np.log([max(1e-300, foretold(curves, self.trace, trial.counts)) for trial in trials])

        def cost(point: np.ndarray) -> float:
            found = gaps(point)
            return float(((found - found.mean()) ** 2).sum() / _noise(dense) ** 2 + _away(_bounded(point)))

        best = minimize(cost, np.array(START), method="Nelder-Mead", options={"maxfev": 120, "xatol": 0.01}).x
        return _bounded(best), float(np.exp(gaps(best).mean()))


def _bounded(point: np.ndarray) -> tuple[float, float, float]:
    power, a, b = point.tolist()
    return min(1.1, max(0.5, power)), min(1.0, max(-1.0, a)), min(1.0, max(-1.0, b))
