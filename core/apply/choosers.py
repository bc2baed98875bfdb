"""Ways to choose which of a layer's inputs stay, from what the layer sees and what it should give. A row per way.

Every way gets centred second moments over sampled rows: of the inputs x as the layer sees them now, and of x with the
targets y. So a choice takes into account what was pruned in front of the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.measure.importance.criteria import add_by_unit
from core.registry import Registry, Row
from core.solvers.greedy import Design, forward_greedy
from core.solvers.lasso import LassoPath, lasso_path
from core.solvers.least_squares import RIDGE, divide
from core.solvers.pivoted_qr import pivoted_cholesky, pivoted_qr


@dataclass(frozen=True)
class Seen:
    """One layer. W: (q, p), its weights. covariance: (p, p) of x. cross: (q, p), of the targets with x. spread: the sum
    of the targets' variances. unit_of: int64 (p,), -1 for inputs that stay. All centred, float64."""

    W: Tensor
    covariance: Tensor
    cross: Tensor
    spread: float
    unit_of: Tensor
    units: int


@dataclass(frozen=True)
class Choice:
    """order: units, those to keep first. path: plain numbers to draw how the choice was made."""

    order: tuple[int, ...]
    path: Mapping[str, Any]


MANY_UNITS = 1024  # beyond, what costs the cube of their number is cut short
DRAWN_UNITS, DRAWN_KNOTS = 32, 48  # of a LASSO path, at most

Chooser = Callable[[Seen, int], Choice]
CHOOSERS: Registry[Chooser] = Registry("way to choose")


def choose_by_lasso(seen: Seen, count: int) -> Choice:
    """The support of beta where ``count`` coefficients are not zero, on the exact path of

    min over beta of 1/2N ||Y - sum_i beta_i X_i W_i^T||^2 + lambda ||beta||_1 (He, Zhang, Sun 2017, equation 3).
    Largest |beta| first; then the others as they would enter. Where the path never holds that many (columns that others
    span), the missing ones are taken in the same way.
    """
    gram, toward = _contributions(seen)
    path = lasso_path(gram, toward, until=count if seen.units > MANY_UNITS else None)
    sizes = (path.betas != 0).sum(1)
    reached = (sizes >= count).nonzero().flatten()
    place = int(reached[0]) if len(reached) else int(sizes.argmax())
    beta = path.betas[place].abs()
    chosen = [unit for unit in torch.argsort(beta, descending=True, stable=True).tolist() if beta[unit] > 0]
    later = [unit for unit in torch.argsort(path.entered, descending=True, stable=True).tolist() if unit not in chosen]
    story = {
        "lambdas": path.lambdas.tolist(),
        "counts": sizes.tolist(),
        "lambda": float(path.lambdas[place]),
        "betas": path.betas[place].tolist(),
        "entered": path.entered.tolist(),
        **_drawn(path, place, [*chosen, *later][:DRAWN_UNITS]),
    }
    return Choice((*chosen, *later), story)


def _drawn(path: LassoPath, place: int, units: list[int]) -> dict[str, Any]:
    """Coefficients of a few units at a few knots, ``place`` among them: enough for a picture."""
    knots = torch.linspace(0, len(path.lambdas) - 1, min(DRAWN_KNOTS, len(path.lambdas))).round().long().tolist()
    at = sorted({*knots, place})
    return {
        "knots": path.lambdas[at].tolist(),
        "coefficients": {str(unit): path.betas[at, unit].tolist() for unit in units},
    }


def choose_by_qr(seen: Seen, count: int) -> Choice:
    """The pivots of Z P = Q R; column i of Z: what unit i adds to every output at every sampled row.

    R of any square root of Z^T Z has the same pivots and the same |R_ii|, so Z itself is never built. After Zhang,
    Davoodi, Hu 2019 (CHaPR, arXiv 1908.03266); reconstructed from the abstract.
    """
    del count  # the order holds for every count
    gram = _contributions(seen)[0]
    if seen.units > MANY_UNITS:
        pivots, diagonal = pivoted_cholesky(gram)
    else:
        values, vectors = torch.linalg.eigh(gram)
        pivots, diagonal = pivoted_qr(values.clamp(min=0).sqrt()[:, None] * vectors.T)
    return Choice(tuple(pivots.tolist()), {"pivots": pivots.tolist(), "diagonal": diagonal.tolist()})


def choose_by_greedy(seen: Seen, count: int) -> Choice:
    """Always the unit whose addition lowers most what is left when the layer is solved for anew:

    L(S) = tr(Syy) - tr(Syx[:, S] Sxx[S, S]^-1 Sxy[S, :]), Xie et al. 2021, "Pruning with Compensation", arXiv
    2108.13728. There the targets are the layer's own outputs, so that Syx = W Sigma; any target will do.
    """
    del count
    best = divide(seen.cross, seen.covariance, RIDGE)
    order, left = forward_greedy([Design(best, seen.covariance, seen.unit_of)], seen.units)
    beyond = max(0.0, seen.spread - float((best * seen.cross).sum()))  # what no choice can give
    share = (left + beyond) / max(seen.spread, 1e-300)
    return Choice(tuple(order.tolist()), {"left": share.tolist()})


def _contributions(seen: Seen) -> tuple[Tensor, Tensor]:
    """(units, units): Z^T Z / N, and (units,): Z^T y / N, of what units add to the outputs; y without what stays."""
    fixed = seen.unit_of < 0
    cross = seen.cross - seen.W[:, fixed] @ seen.covariance[fixed] if bool(fixed.any()) else seen.cross
    entries = seen.covariance * (seen.W.T @ seen.W)
    gram = add_by_unit(seen.units, seen.unit_of, add_by_unit(seen.units, seen.unit_of, entries).T)
    return (gram + gram.T) / 2, add_by_unit(seen.units, seen.unit_of, (seen.W * cross).sum(0))


_ROWS: tuple[Row[Chooser], ...] = (
    Row(
        "lasso",
        choose_by_lasso,
        "LASSO path",
        "A penalty on the use of channels falls until exactly as many as asked for take part.",
        r"\min_\beta \tfrac{1}{2N}\lVert Y - \textstyle\sum_i \beta_i X_i W_i^\top\rVert_F^2 "
        r"+ \lambda\lVert\beta\rVert_1",
        "He, Zhang, Sun 2017, arXiv 1707.06168",
    ),
    Row(
        "qr",
        choose_by_qr,
        "Pivoted QR",
        "Keeps channels whose contributions to the outputs cannot be made from those already kept.",
        r"Z P = Q R,\quad Z_{(s,o),i} = \langle X_i[s], W_i[o]\rangle",
        "Zhang, Davoodi, Hu 2019, CHaPR, arXiv 1908.03266 (reconstructed from the abstract)",
    ),
    Row(
        "greedy",
        choose_by_greedy,
        "Forward greedy",
        "Adds channels one by one, always the one that lowers most what least squares would leave.",
        r"L(S) = \mathrm{tr}\,\Sigma_{yy} - \mathrm{tr}(\Sigma_{yS}\Sigma_{SS}^{-1}\Sigma_{Sy})",
        "Xie et al. 2021, Pruning with Compensation, arXiv 2108.13728",
    ),
)
for _row in _ROWS:
    CHOOSERS.add(_row)
