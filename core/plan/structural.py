"""CaP's binary structural search with step constraint: layer by layer, halve towards the most that may leave.

Xie et al. 2021, "Pruning with Compensation", arXiv 2108.13728. The authors search on test data; here ``measure`` looks
at images for choosing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import Cancelled, PlanError
from core.plan.budget import Measure
from core.plan.ratios import kept_units
from core.records import Accuracy, Group

STEPS = 5  # halvings per layer: its pruned fraction is found to 1/32


@dataclass(frozen=True)
class Step:
    """One layer. threshold: accuracy it had to keep; tried: (pruned fraction, accuracy) in order; removed: units."""

    group: str
    threshold: float
    tried: tuple[tuple[float, float], ...]
    removed: int
    accuracy: float

    def to_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "tried": [list(pair) for pair in self.tried]}


def search_structure(
    groups: tuple[Group, ...],
    measure: Measure,
    drop: float,
    *,
    steps: int = STEPS,
    on_progress: Callable[..., None] | None = None,
) -> tuple[dict[str, int], tuple[Step, ...]]:
    """Units kept per group (those that lose some), and a Step per group, in the order of ``groups``.

    p_start: ``measure({})``, the dense accuracy; p_end = p_start - drop, the lowest accepted. Before layer l of L the
    threshold is p_start - l (p_start - p_end) / L, so that no layer uses up what others need. ``steps`` halvings of
    the layer's pruned fraction in 0..1: with it the network is masked, compensated and measured; the largest fraction
    that kept the threshold is committed. Raises PlanError for a drop outside 0..1; Cancelled, out of ``measure``, with
    (counts, steps) so far in ``partial``.
    """
    if not 0.0 <= drop <= 1.0:
        raise PlanError(f"accuracy_drop: expected a share in 0..1, found {drop}.")
    counts: dict[str, int] = {}
    told: list[Step] = []
    try:
        dense = measure({})
        now = dense
        for number, group in enumerate(groups, start=1):
            threshold = dense.value - number * drop / len(groups)
            step, now = _one(group, counts, measure, threshold, now, steps)
            told.append(step)
            if step.removed:
                counts[group.id] = group.units - step.removed
            if on_progress is not None:
                message = f"{group.name}: {step.removed} of {group.units} may leave, {100 * now.value:.1f} % right"
                on_progress(number / len(groups), message, tuple(told))
    except Cancelled as stopped:
        raise Cancelled("The structural search was cancelled.", (counts, tuple(told))) from stopped
    return counts, tuple(told)


def _one(
    group: Group, counts: Mapping[str, int], measure: Measure, threshold: float, now: Accuracy, steps: int
) -> tuple[Step, Accuracy]:
    low, high = 0.0, 1.0
    removed, tried, seen = 0, [], {0: now}
    for _ in range(steps):
        middle = (low + high) / 2
        leaves = group.units - kept_units(group, middle)
        if leaves not in seen:
            seen[leaves] = measure({**counts, group.id: group.units - leaves})
        tried.append((middle, seen[leaves].value))
        if seen[leaves].value >= threshold - 1e-12:
            low, removed = middle, leaves
        else:
            high = middle
    return Step(group.id, threshold, tuple(tried), removed, seen[removed].value), seen[removed]
