"""Fit one layer: from sampled rows of what it reads and what it should give to its new weights, never worse than raw.

Objective: min over W, b of mean over rows of || t - W x_S - b ||^2 with t = u - base, where u is what the original
network holds behind the layer (batch norm and additions included) and ``base`` what the changed network's other
branches add there: for the last layer of a residual branch that is Y2 + (Y1 - Y1') (He, Zhang, Sun 2017, arXiv
1707.06168, section 3.2). ``rectified``: || relu(u) - relu(W x_S + b + base) ||^2 instead, lowered by least squares on
targets that are moved to the fit wherever the original is cut to zero (after Zhang et al. 2015, arXiv 1505.06798).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from core.solvers.least_squares import Moments, compensate, divide

PIECE = 8192  # rows at a time
SCARCE = 8  # rows per unknown under which a fit leans on the weights it starts from
LEAN = 0.05


Piece = tuple[Tensor, Tensor, Tensor | None]


@dataclass
class Rows:
    """Sampled rows of one layer. x: (rows, p) in parts; u: (rows, q) the original's values behind the layer; base:
    (rows, q), what the other branches of the changed network add. ``keep``: hold the rows, for more than moments."""

    inputs: int
    outputs: int
    keep: bool
    moments: Moments = field(init=False)
    x: list[Tensor] = field(default_factory=list)
    u: list[Tensor] = field(default_factory=list)
    base: list[Tensor | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.moments = Moments(self.inputs, self.outputs)

    def add(self, x: Tensor, u: Tensor, base: Tensor | None) -> None:
        x, u = x.cpu(), u.cpu()
        base = None if base is None else base.cpu()
        self.moments.add(x, u if base is None else u - base)
        if self.keep:
            self.x.append(x.float())
            self.u.append(u.float())
            self.base.append(None if base is None else base.float())

    def pieces(self, places: Tensor) -> list[Piece]:
        """(x of the inputs at ``places``, u, base), a few thousand rows each."""
        size = max(1, PIECE // max(1, len(self.x[0])))
        found: list[Piece] = []
        for start in range(0, len(self.x), size):
            x, u = (torch.cat(parts[start : start + size]) for parts in (self.x, self.u))
            bases = [base for base in self.base[start : start + size] if base is not None]
            found.append((x[:, places], u, torch.cat(bases) if bases else None))
        return found


@dataclass(frozen=True)
class Fit:
    """W: (q, kept inputs), b: (q,), float64. Errors: mean squared, summed over outputs, over the targets' variance."""

    W: Tensor
    b: Tensor
    raw_error: float
    error: float


def fit_rows(
    rows: Rows, kept: Tensor, W: Tensor, b: Tensor, *, ridge: float, intercept: bool, rectify: int, cut: Tensor
) -> Fit:
    """New weights on the inputs ``kept`` (bool (p,)), or the raw ones where those fit better.

    W: (q, kept inputs) and b: (q,), the raw weights. rectify: rounds with moved targets (0: plain least squares); they
    need rows that were kept. cut: bool (q,), outputs that a rectifier cuts.
    """
    moments, places = rows.moments, kept.nonzero().flatten()
    A = moments.covariance(centred=intercept)[places[:, None], places]
    mean = moments.mean_x[places]
    damping = max(ridge, LEAN * len(places) / max(1, moments.rows)) if moments.rows < SCARCE * len(places) else ridge

    def solved(cross: Tensor, mean_y: Tensor) -> tuple[Tensor, Tensor]:
        """The ridge pulls towards the raw weights, not towards zero."""
        found = W + divide(cross - W @ A, A, damping)
        return found, mean_y - found @ mean if intercept else b.clone()

    raised = moments.cross(centred=intercept)[:, places]
    if not intercept:
        raised = raised - torch.outer(b, mean)
    best, shift = solved(raised, moments.mean_y)

    def plain_error(weights: Tensor, bias: Tensor) -> float:
        full = torch.zeros(len(W), rows.inputs, dtype=torch.float64)
        full[:, places] = weights
        return moments.error(full, bias)

    raw_error, error = plain_error(W, b), plain_error(best, shift)
    spread = float((moments.yy / moments.rows - moments.mean_y.square()).sum())
    if rectify and rows.keep and bool(cut.any()):
        pieces = rows.pieces(places)
        bent, bent_shift = best, shift
        for _ in range(rectify):
            mean_y, cross = _moved(pieces, bent, bent_shift, cut)
            cross = cross - torch.outer(mean_y, mean) if intercept else cross - torch.outer(b, mean)
            bent, bent_shift = solved(cross, mean_y)
        if plain_error(bent, bent_shift) <= raw_error:  # better than raw by both measures
            best, shift = bent, bent_shift
        spread, raw_error, error = _cut_errors(pieces, cut, ((W, b), (best, shift)))
    raw_error, error = (value / max(spread, 1e-12) for value in (raw_error, error))
    if not (error <= raw_error and bool(best.isfinite().all() and shift.isfinite().all())):
        return Fit(W, b, raw_error, raw_error)
    return Fit(best, shift, raw_error, error)


def _moved(pieces: Sequence[Piece], W: Tensor, b: Tensor, cut: Tensor) -> tuple[Tensor, Tensor]:
    """Mean t, (q,), and mean t x^T, (q, kept): t is u, but where the original is cut, the fit itself, at most zero.

    || t' - f ||^2 with these targets lies above the rectified error and touches it at the fit: it can only fall.
    """
    total = torch.zeros(len(W), dtype=torch.float64)
    cross = torch.zeros_like(W)
    for x, u, base in pieces:
        fit = torch.addmm(b.float(), x, W.float().T)
        fit = fit if base is None else fit.add_(base)
        target = torch.where((u > 0) | ~cut, u, fit.clamp(max=0))
        target = target if base is None else target - base
        total += target.double().sum(0)
        cross += (target.T @ x).double()
    count = sum(len(x) for x, _, _ in pieces)
    return total / count, cross / count


def _cut_errors(
    pieces: Sequence[Piece], cut: Tensor, candidates: Sequence[tuple[Tensor, Tensor]]
) -> tuple[float, float, float]:
    """The variance of the rectified values behind the layer, and each candidate's squared error there."""
    sums = torch.zeros(len(cut), dtype=torch.float64)
    squares, errors = 0.0, [0.0] * len(candidates)
    for x, u, base in pieces:
        wanted = torch.where(cut, u.clamp(min=0), u)
        sums += wanted.double().sum(0)
        squares += float(wanted.double().square().sum())
        for number, (W, b) in enumerate(candidates):
            fit = torch.addmm(b.float(), x, W.float().T)
            fit = fit if base is None else fit.add_(base)
            fit = torch.where(cut, fit.clamp(min=0), fit)
            errors[number] += float((fit - wanted).double().square().sum())
    count = sum(len(x) for x, _, _ in pieces)
    spread = squares / count - float((sums / count).square().sum())
    return spread, errors[0] / count, errors[1] / count


def compensate_moments(
    moments: Moments, W: Tensor, kept: Tensor, *, ridge: float, intercept: bool, rescale: bool
) -> Fit:
    """The closed form of Xie et al. 2021 (arXiv 2108.13728) from moments of x alone, or the raw weights where better.

    W: (q, p), all weights; kept: bool (p,). ``b`` is what the bias gains. rescale: multiply each output's row by
    sqrt(variance before / variance after), as the authors' code does.
    """
    covariance, mean = moments.covariance(centred=intercept), moments.mean_x
    best, shift = compensate(W, mean, covariance, kept, ridge=ridge, intercept=intercept)
    raw = W[:, kept]
    before = ((W @ covariance) * W).sum(1)
    if rescale:
        inner = covariance[kept][:, kept]
        after = ((best @ inner) * best).sum(1)
        best = best * torch.where(after > 1e-9 * before, (before / after.clamp(min=1e-300)).sqrt(), 1.0)[:, None]
        shift = W @ mean - best @ mean[kept] if intercept else shift
    spread = max(float(before.sum()), 1e-12)
    raw_error, error = (
        lost(W, weights, kept, bias, moments) / spread
        for weights, bias in ((raw, torch.zeros_like(shift)), (best, shift))
    )
    if not (error <= raw_error and bool(best.isfinite().all())):
        return Fit(raw, torch.zeros_like(shift), raw_error, raw_error)
    return Fit(best, shift, raw_error, error)


def lost(W: Tensor, rebuilt: Tensor, kept: Tensor, shift: Tensor, moments: Moments) -> float:
    """Mean || W x - W' x_S - shift ||^2 from the moments of x."""
    rest = W.clone()
    rest[:, kept] -= rebuilt
    raw = moments.xx / moments.rows
    value = ((rest @ raw) * rest).sum() - 2 * (shift * (rest @ moments.mean_x)).sum() + shift.square().sum()
    return max(0.0, float(value))
