"""How many units leave each group: one rule a row, each a way from the dense network to the smallest.

A rule lists widths on that way; a budget takes the first that fits, to the unit. So every rule meets every budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from core.errors import PlanError
from core.measure.cost.tables import LatencyTable
from core.plan.limits import Counts
from core.plan.lossmodel import LossCurve, Saving
from core.plan.ratios import kept_units
from core.plan.targets import in_order
from core.records import Group, Scores, Trace
from core.registry import Registry, Row

STEPS = 64  # chunks a group is taken away in before the last one is trimmed unit by unit
SHARES = 1000  # widths on a rule's way
DEEP_RATIO, DEEP_SHARE = 1.5, 0.5


@dataclass(frozen=True)
class Situation:
    """What a rule may look at. ``curves``: of the groups that have one. ``budget``: its quantities say what counts as
    saved."""

    trace: Trace
    groups: tuple[Group, ...]
    budget: Mapping[str, float] = field(default_factory=dict)
    scores: Scores | None = None
    curves: Mapping[str, LossCurve] | None = None
    table: LatencyTable | None = None


@dataclass(frozen=True)
class RatioRule:
    """``path``: removed units per group, from none to all but one, never back. ``needs``: "scores", "scan" (curves as
    cut), "residuals" (curves of what rebuilding leaves), or nothing."""

    path: Callable[[Situation], list[Counts]]
    needs: str = ""


RATIO_RULES: Registry[RatioRule] = Registry("ratio rule")


def list_ratio_rules() -> list[Row[RatioRule]]:
    """Every rule for menus, with title, summary and source."""
    return list(RATIO_RULES)


def uniform_path(situation: Situation) -> list[Counts]:
    return _shares_path(situation.groups, [1.0] * len(situation.groups))


def shallow_deep_path(situation: Situation) -> list[Counts]:
    """Keep ratios 1 : DEEP_RATIO; deep are the later DEEP_SHARE of the groups, each gather beside its reader."""
    groups = situation.groups
    deep = {group.id for group in in_order(situation.trace, groups)[round(len(groups) * (1 - DEEP_SHARE)) :]}
    return _shares_path(groups, [DEEP_RATIO if group.id in deep else 1.0 for group in groups])


def global_path(situation: Situation) -> list[Counts]:
    """One threshold for all scores, each group's scores divided by their L2 norm; the lowest leave first."""
    if situation.scores is None:
        raise PlanError("A global threshold needs scores. Score the channels first.")
    values, owners = [], []
    for number, group in enumerate(situation.groups):
        found = situation.scores.scores[group.id].double().numpy()
        ordered = np.sort(found / (np.linalg.norm(found) or 1.0))[:-1]  # the best of each group stays
        values.append(ordered)
        owners.append(np.full(len(ordered), number))
    order = np.argsort(np.concatenate(values or [np.zeros(0)]), kind="stable")
    owner = np.concatenate(owners or [np.zeros(0, dtype=int)])[order]
    path = []
    for stop in sorted({round(len(order) * share / SHARES) for share in range(SHARES + 1)}):
        counts = np.bincount(owner[:stop], minlength=len(situation.groups)).tolist()
        path.append(dict(zip((group.id for group in situation.groups), counts, strict=True)))
    return path


def marginal_path(situation: Situation) -> list[Counts]:
    """Next leaves a chunk of the group with least loss per share of the budget's quantities saved: equal marginal loss.

    The price of a group is that of its cheapest removal from here, however large: where a curve rises steeply and then
    flattens, its first chunk alone tells too high a price.
    """
    curves = situation.curves
    if curves is None:
        raise PlanError("Equal marginal loss needs curves. Scan the network first.")
    groups = [group for group in situation.groups if group.id in curves]
    names = [name for name in situation.budget if name != "accuracy_drop"] or ["macs"]
    saving = Saving(situation.trace, groups, names, situation.table)
    removed = np.zeros(len(groups), dtype=int)
    units = np.array([group.units for group in groups], dtype=int)
    chunk = np.maximum(1, units // STEPS)
    path = [dict.fromkeys((group.id for group in groups), 0)]
    loss = _table([curves[group.id].loss for group in groups])
    drops = [curves[group.id].drop for group in groups]
    drop = _table([np.zeros(group.units) if d is None else d for group, d in zip(groups, drops, strict=True)])
    rows, allowed = np.arange(len(groups)), _allowed(situation, drops)
    index = {group.id: number for number, group in enumerate(groups)}
    fades = np.array([index.get(curves[group.id].fades_with or "", len(groups)) for group in groups], dtype=int)
    jumps = chunk[:, None] * np.arange(1, 1 + int((units // chunk).max(initial=0)))
    while groups:
        reach = np.minimum(removed[:, None] + jumps, units[:, None] - 1)
        after = reach[:, 0]
        gain = saving.per_unit(units - removed)[:, None] * (reach - removed[:, None])
        kept_share = np.append((units - removed) / units, 1.0)
        rise = (loss[rows[:, None], reach] - loss[rows, removed][:, None]) * kept_share[fades][:, None]
        relief = np.bincount(fades, loss[rows, removed], minlength=len(groups) + 1)[:-1] / units
        rise -= relief[:, None] * (reach - removed[:, None])
        price = (rise / np.maximum(gain, 1e-12)).min(axis=1)
        dropped = drop[rows, removed].sum() - drop[rows, removed] + drop[rows, after]
        price[(after == removed) | (dropped > allowed)] = np.inf
        best = int(np.argmin(price))
        if math.isinf(price[best]):
            break
        removed[best] = after[best]
        path.append({**path[-1], groups[best].id: int(after[best])})
    return path


def _allowed(situation: Situation, drops: Sequence[np.ndarray | None]) -> float:
    """The largest sum of the groups' own measured drops; none where curves know no accuracy."""
    if any(drop is None for drop in drops):
        return math.inf
    return situation.budget.get("accuracy_drop", math.inf) + 1e-12


def _shares_path(groups: Sequence[Group], keep_ratios: Sequence[float]) -> list[Counts]:
    """Kept share of a group: its ratio times a number that falls from 1 to 0, at most all."""
    path: list[Counts] = []
    for step in range(SHARES + 1):
        removed = {
            group.id: group.units - kept_units(group, 1 - min(1.0, ratio * (1 - step / SHARES)))
            for group, ratio in zip(groups, keep_ratios, strict=True)
        }
        if not path or removed != path[-1]:
            path.append(removed)
    return path


def _table(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of different lengths as one array, padded with zeros that are never read."""
    table = np.zeros((len(rows), max((len(row) for row in rows), default=0)))
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return table


RATIO_RULES.add(
    Row("uniform", RatioRule(uniform_path), "Uniform", "Every group loses the same share of its units.",
        r"k_g = k", "baseline; Li et al. 2017, arXiv 1608.08710, within a stage")
)  # fmt: skip
RATIO_RULES.add(
    Row("shallow-deep", RatioRule(shallow_deep_path), "Shallow : deep = 1 : 1.5",
        "The later half of the groups keeps one and a half times the share that the earlier half keeps.",
        r"k_{\mathrm{shallow}} : k_{\mathrm{deep}} = 1 : 1.5", "He, Zhang, Sun 2017, arXiv 1707.06168, section 4.1.1")
)  # fmt: skip
RATIO_RULES.add(
    Row("global", RatioRule(global_path, "scores"), "One threshold for all",
        "Scores of each group are divided by their L2 norm; then the lowest leave wherever they are.",
        r"\hat\Theta_i = \Theta_i / \sqrt{\textstyle\sum_{j \in g} \Theta_j^2}",
        "Molchanov et al. 2017, arXiv 1611.06440, section 2.2")
)  # fmt: skip
RATIO_RULES.add(
    Row("sensitivity", RatioRule(marginal_path, "scan"), "Equal marginal loss, as cut",
        "Units leave where the measured curves lose least for what is saved, until all would lose alike.",
        r"\frac{\partial L_g}{\partial k_g} \Big/ \frac{\partial C}{\partial k_g} = \lambda",
        "textbook: Lagrange multipliers; curves of single groups as in Li et al. 2017, arXiv 1608.08710")
)  # fmt: skip
RATIO_RULES.add(
    Row("rebuilt-error", RatioRule(marginal_path, "residuals"), "Equal marginal error, rebuilt",
        "Units leave where solving the next layers anew leaves least error at the outputs for what is saved.",
        r"\frac{\partial\, \mathrm{tr}\,F R_g(k_g)}{\partial k_g} \Big/ \frac{\partial C}{\partial k_g} = \lambda",
        "residuals of Xie et al. 2021, arXiv 2108.13728; weights after Hassibi and Stork 1993")
)  # fmt: skip
