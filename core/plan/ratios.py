"""Ratios and scores in, a plan out."""

from __future__ import annotations

from collections.abc import Mapping

from core.errors import PlanError
from core.records import Group, Plan, Scores, Trace


def kept_units(group: Group, removed_fraction: float) -> int:
    """Units that stay: removed = round(fraction x units), at least one kept.

    Raises PlanError for a fraction outside 0..1.
    """
    if not 0.0 <= removed_fraction <= 1.0:
        raise PlanError(f"Group {group.id}: removed fraction must lie in 0..1; found {removed_fraction}.")
    return max(1, group.units - round(removed_fraction * group.units))


def plan_counts(trace: Trace, scores: Scores, removed: Mapping[str, int], origin: str = "") -> Plan:
    """A plan that removes ``removed[group_id]`` units of each named group, the lowest scores first.

    Raises PlanError for an unknown or locked group, or one without scores.
    """
    kept = {}
    for group_id, count in removed.items():
        group = trace.group(group_id)
        if count <= 0:
            continue
        if not group.prunable:
            raise PlanError(f"Group {group_id} cannot be pruned: {group.reason}. Leave it out of the plan.")
        if group_id not in scores.scores:
            raise PlanError(f"Group {group_id} has no {scores.criterion} scores. Score the channels again.")
        kept[group_id] = tuple(scores.ranking(group_id)[: max(1, group.units - count)])
    return Plan(kept, origin or f"by hand, {scores.criterion}")


def plan_fractions(trace: Trace, scores: Scores, fractions: Mapping[str, float]) -> Plan:
    """A plan that removes ``fractions[group_id]`` (0..1) of each named group's units, the lowest scores first."""
    removed = {name: trace.group(name).units - kept_units(trace.group(name), f) for name, f in fractions.items()}
    return plan_counts(trace, scores, removed)


def plan_uniform(trace: Trace, scores: Scores, removed_fraction: float) -> Plan:
    """The same ``removed_fraction`` (0..1) in every prunable group, the lowest scores first."""
    removed = {group.id: group.units - kept_units(group, removed_fraction) for group in trace.prunable}
    return plan_counts(trace, scores, removed, f"uniform {removed_fraction:.0%}, {scores.criterion}")
