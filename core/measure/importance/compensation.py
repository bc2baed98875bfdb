"""Importance when the rest makes up for what leaves: the greedy order of CaP."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from core.measure.importance.criteria import CRITERIA, Criterion, Request
from core.measure.importance.moments import Reading, score_by_readings
from core.records import Group
from core.registry import Row
from core.solvers.greedy import Design, forward_greedy
from core.solvers.pivoted_qr import pivot_scores

ROWS_PER_INPUT = 8  # a layer's weights are solved for: enough rows for a stable fit


def cap(request: Request) -> dict[str, Tensor]:
    """The share of the readers' output error that the units chosen before leave, each reader's weights solved anew.

    Forward greedy on L(S) = sum over readers of
    (tr(W Sigma W^T) - tr(W Sigma[:, S] Sigma[S, S]^-1 Sigma[S, :] W^T)) / energy, with Sigma the centred covariance of
    a reader's input patches (Xie et al. 2021, arXiv 2108.13728): at each step the unit that lowers L most is added,
    with all its patch entries in all readers. The first unit scores L(nothing), the next what the first leaves, and so
    on: falling along the order. Other groups' channels are kept all along. Constant units score lowest: a bias replaces
    them. A gather is scored on its one reader.
    """
    return score_by_readings(request, "Compensation-aware order", order_scores, rows_per_input=ROWS_PER_INPUT)


def order_scores(group: Group, readings: Sequence[Reading]) -> Tensor:
    """(units,): L before the unit is added."""
    designs = [Design(reading.W, reading.covariance, reading.unit_of, 1 / reading.energy) for reading in readings]
    order, left = forward_greedy(designs, group.units)
    return pivot_scores(order, left[:-1])


CRITERIA.add(
    Row(
        "cap",
        Criterion(cap, needs_images=True, options={"positions": None}),
        "Compensation-aware order (CaP)",
        "Adds channels one by one, always the one from which the next layers, re-solved, make their outputs best.",
        r"\Theta_{s_k} = L(\{s_1,\dots,s_{k-1}\}),\quad L(S) = \mathrm{tr}(W\Sigma W^\top) - "
        r"\mathrm{tr}(W\Sigma_{:S}\Sigma_{SS}^{-1}\Sigma_{S:}W^\top)",
        "Xie et al. 2021, Pruning with Compensation, arXiv 2108.13728",
    )
)
