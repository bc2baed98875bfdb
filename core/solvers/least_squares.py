"""Least squares from second moments, in float64.

Objective: min over W, b of mean over rows of || y - W x - b ||^2 + r mean(diag Sxx) ||W||_F^2, with x of p entries,
y of q entries. Solution: W = Syx (Sxx + r mean(diag Sxx) I)^-1, b = E[y] - W E[x], where Sxx and Syx are centred
second moments. Without intercept b is 0 and moments are taken about 0. The tiny r keeps constant inputs harmless; what
it takes away elsewhere is given back by a few rounds on the remainder (iterated Tikhonov regularisation).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg.blas import dsyrk
from torch import Tensor

RIDGE = 1e-6
PIECE = 8192  # rows in float64 at a time
REFINED = 3


class Moments:
    """Sums over rows from which every regression of y on (some of) x follows; rows can be added in any portions."""

    def __init__(self, inputs: int, outputs: int = 0) -> None:
        self.rows = 0
        self.sum_x = torch.zeros(inputs, dtype=torch.float64)
        self.sum_y = torch.zeros(outputs, dtype=torch.float64)
        self._half = np.zeros((inputs, inputs), order="F")  # only its upper triangle is filled
        self.yx = torch.zeros(outputs, inputs, dtype=torch.float64)
        self.yy = torch.zeros(outputs, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor | None = None) -> None:
        """x: (rows, p). y: (rows, q), left out when q is 0."""
        for start in range(0, len(x), PIECE):
            part = x[start : start + PIECE].detach().double().cpu().contiguous()
            self.rows += len(part)
            self.sum_x += part.sum(0)
            if len(self._half):
                # a symmetric update: half the work of a product
                self._half = dsyrk(1.0, part.numpy().T, beta=1.0, c=self._half, overwrite_c=1)
            if y is not None:
                told = y[start : start + PIECE].detach().double().cpu()
                self.sum_y += told.sum(0)
                self.yx.addmm_(told.T, part)
                self.yy += told.square().sum(0)

    @property
    def xx(self) -> Tensor:
        """Sum of x x^T, (p, p)."""
        full = np.triu(self._half)
        full += np.triu(self._half, 1).T
        return torch.from_numpy(full)

    @property
    def mean_x(self) -> Tensor:
        """(p,)"""
        return self.sum_x / self.rows

    @property
    def mean_y(self) -> Tensor:
        """(q,)"""
        return self.sum_y / self.rows

    def covariance(self, *, centred: bool = True) -> Tensor:
        """Sxx, (p, p); about 0 instead of the mean when not ``centred``."""
        found = self.xx.div_(self.rows)  # in place: with many inputs each copy is large
        if centred:
            found -= torch.outer(self.mean_x, self.mean_x)
        return found

    def cross(self, *, centred: bool = True) -> Tensor:
        """Syx, (q, p)."""
        raw = self.yx / self.rows
        return raw - torch.outer(self.mean_y, self.mean_x) if centred else raw

    def error(self, W: Tensor, b: Tensor) -> float:
        """Mean over rows of || y - W x - b ||^2, summed over outputs. W: (q, p), b: (q,)."""
        W, b = W.double(), b.double()
        square = (self.yy / self.rows).sum() + ((W @ (self.xx / self.rows)) * W).sum() + b.square().sum()
        mixed = -(W * (self.yx / self.rows)).sum() + (b * (W @ self.mean_x)).sum() - (b * self.mean_y).sum()
        return max(0.0, float(square + 2 * mixed))


def solve_least_squares(moments: Moments, *, ridge: float = RIDGE, intercept: bool = True) -> tuple[Tensor, Tensor]:
    """The objective's W, (q, p), and b, (q,), float64; b is zero without ``intercept``."""
    W = divide_exactly(moments.cross(centred=intercept), moments.covariance(centred=intercept), ridge)
    b = moments.mean_y - W @ moments.mean_x if intercept else torch.zeros_like(moments.sum_y)
    return W, b


def compensate(
    W: Tensor, mean: Tensor, covariance: Tensor, kept: Tensor, *, ridge: float = RIDGE, intercept: bool = True
) -> tuple[Tensor, Tensor]:
    """Weights on the kept inputs that give back most of W x: the least squares of W x on x_S in closed form.

    W: (q, p). mean: (p,) and covariance: (p, p) of x (moments about 0 and no shift without ``intercept``). kept: bool
    (p,), the set S. Returns W' = W Sigma[:, S] Sigma[S, S]^-1, (q, |S|), and the shift of the bias
    W mu - W' mu_S, (q,). Source: Xie et al. 2021, "Pruning with Compensation", arXiv 2108.13728.
    """
    W = W.double()
    rebuilt = divide_exactly(W @ covariance[:, kept], covariance[kept][:, kept], ridge)
    shift = W @ mean - rebuilt @ mean[kept] if intercept else torch.zeros(len(W), dtype=torch.float64)
    return rebuilt, shift


def divide_exactly(B: Tensor, A: Tensor, ridge: float) -> Tensor:
    """``divide``, repeated on what the ridge left over: B A^-1 where A's inputs differ, harmless where they do not."""
    found = divide(B, A, ridge)
    for _ in range(REFINED):
        found = found + divide(B - found @ A, A, ridge)
    return found


def divide(B: Tensor, A: Tensor, ridge: float) -> Tensor:
    """B (A + ridge mean(diag A) I)^-1 for a symmetric positive semidefinite A. B: (q, p), A: (p, p)."""
    scale = float(A.diagonal().mean()) if len(A) else 0.0
    damped = A + (ridge * scale + 1e-30) * torch.eye(len(A), dtype=A.dtype)
    factor, failed = torch.linalg.cholesky_ex(damped)
    if int(failed) == 0:
        return torch.cholesky_solve(B.T, factor).T
    return B @ torch.linalg.pinv(damped, hermitian=True)  # rounding made A indefinite
