"""Do criteria agree? Spearman's rank correlation between the scores that several of them give to the same units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from core.errors import MeasureError
from core.records import Scores, Trace


@dataclass(frozen=True)
class Agreement:
    """Spearman correlations of ``criteria``, each matrix float64, (criteria, criteria), in -1..1; NaN where one side
    gives every unit the same score.

    within: mean over the groups of their own matrices (a group counts where both sides vary), for choosing channels
    inside a layer. overall: all units of all groups ranked together, scores as they are, for choosing across layers.
    scaled: the same with each group's scores divided by their L2 norm first, as Molchanov et al. 2017, section 2.2,
    rank across layers. by_group: the matrix of each group. units: how many units were ranked.
    """

    criteria: tuple[str, ...]
    groups: tuple[str, ...]
    units: int
    within: Tensor
    overall: Tensor
    scaled: Tensor
    by_group: Mapping[str, Tensor]

    def between(self, first: str, second: str) -> tuple[float, float, float]:
        """(within, overall, scaled) of two criteria. Raises MeasureError when one was not compared."""
        for name in (first, second):
            if name not in self.criteria:
                raise MeasureError(f"{name!r} was not compared. Compared were {', '.join(self.criteria)}.")
        a, b = self.criteria.index(first), self.criteria.index(second)
        return float(self.within[a, b]), float(self.overall[a, b]), float(self.scaled[a, b])


def compare_criteria(trace: Trace, scores: Mapping[str, Scores], groups: Sequence[str] | None = None) -> Agreement:
    """How alike several criteria (the oracle may be one) rank the same units. scores: a name to show -> Scores.

    groups: ids; None = the prunable coupled groups that all ``scores`` have. Ties get the mean of their ranks (Spearman
    1904; Kendall 1945 for ties). Raises MeasureError for fewer than two criteria, groups that some lack, other numbers
    of units, scores that are not finite, or when there is nothing to rank.
    """
    if len(scores) < 2:
        raise MeasureError(f"Expected scores by two or more criteria to compare, found {len(scores)}.")
    shared = [group.id for group in trace.prunable if all(group.id in found.scores for found in scores.values())]
    chosen = shared if groups is None else list(dict.fromkeys(groups))
    tables = {name: _table(trace, scores, name) for name in chosen}
    units = sum(table.shape[1] for table in tables.values())
    if units < 2:
        raise MeasureError("These scores have no group in common with two units to rank. Score the same network first.")
    lengths = {name: np.linalg.norm(table, axis=1, keepdims=True) for name, table in tables.items()}
    scaled = [table / np.where(lengths[name] > 0, lengths[name], 1.0) for name, table in tables.items()]
    by_group = {name: spearman(table) for name, table in tables.items()}
    return Agreement(
        tuple(scores),
        tuple(chosen),
        units,
        torch.stack(list(by_group.values())).nanmean(0),
        spearman(np.concatenate(list(tables.values()), axis=1)),
        spearman(np.concatenate(scaled, axis=1)),
        by_group,
    )


def spearman(table: np.ndarray) -> Tensor:
    """Pearson's correlation of the rows' ranks, ties at their mean rank. table: (rows, items); gives (rows, rows)."""
    ranks = rankdata(table, method="average", axis=1)
    apart = ranks - ranks.mean(axis=1, keepdims=True)
    products = torch.from_numpy(apart @ apart.T)
    lengths = products.diagonal().sqrt()
    found = (products / torch.outer(lengths, lengths)).clamp(-1, 1)
    return torch.where(torch.outer(lengths, lengths) > 0, found, float("nan"))


def _table(trace: Trace, scores: Mapping[str, Scores], group: str) -> np.ndarray:
    """(criteria, units) of one group."""
    units = trace.group(group).units
    rows = []
    for name, found in scores.items():
        values = found.scores.get(group)
        if values is None:
            raise MeasureError(f"{name} has no scores for group {group}. Choose groups that all of them have.")
        if values.shape != (units,) or not bool(values.isfinite().all()):
            raise MeasureError(
                f"Group {group}: expected {units} finite scores by {name}, found {tuple(values.shape)}. "
                "Score this network again."
            )
        rows.append(values.double().cpu().numpy())
    return np.stack(rows)
