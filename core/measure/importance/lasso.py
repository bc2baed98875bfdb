"""Importance by the LASSO path: the sooner a channel enters while the penalty falls, the more it matters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.measure.importance.criteria import CRITERIA, Criterion, Request
from core.measure.importance.moments import Reading, score_by_readings
from core.records import Group
from core.registry import Row
from core.solvers.lasso import lasso_path


def lasso(request: Request) -> dict[str, Tensor]:
    """The lambda at which each unit enters the LASSO path of He, Zhang, Sun 2017 (arXiv 1707.06168, equation 3).

    min over beta of 1/2 sum over readers r of mean ||Y_r - sum_i beta_i Z_ri||^2 / energy_r + lambda ||beta||_1, with
    Z_ri what unit i adds to reader r's outputs (bias left out) and Y_r the sum of them: channels of other groups that a
    reader sees stay as they are. lambda is thus a share of the readers' energy. 0: the unit never enters, because it
    adds nothing that those before it do not. The whole path is exact; a unit that leaves and comes back counts from
    its first entry. A gather is scored on its one reader.
    """
    return score_by_readings(request, "LASSO path", entry_scores)


def entry_scores(group: Group, readings: Sequence[Reading]) -> Tensor:
    """(units,): lambda at first entry."""
    G = torch.zeros(group.units, group.units, dtype=torch.float64)
    for reading in readings:
        G += reading.contribution_gram(group.units) / reading.energy
    return lasso_path(G, G.sum(1)).entered


CRITERIA.add(
    Row(
        "lasso",
        Criterion(lasso, needs_images=True, options={"positions": None}),
        "LASSO path",
        "Lets channels in one by one while a penalty on their use falls; those the next layers need most come first.",
        r"\Theta_i = \max\{\lambda : \beta_i(\lambda) \ne 0\},\quad \beta(\lambda) = \arg\min_\beta "
        r"\tfrac12\lVert Y - \textstyle\sum_i \beta_i Z_i\rVert^2 + \lambda\lVert\beta\rVert_1",
        "He, Zhang, Sun 2017, Channel Pruning for Accelerating Very Deep Neural Networks, arXiv 1707.06168",
    )
)
