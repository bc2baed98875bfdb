"""Choose columns of a matrix that span it well."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import torch
from scipy.linalg.lapack import dpstrf as pstrf
from torch import Tensor

TALL, LARGE = 2, 2**20  # with so many times more rows than columns and entries, a plain factorisation first is quicker
AT_ONCE = 1024  # rows


def pivoted_qr(Z: Tensor) -> tuple[Tensor, Tensor]:
    """Greedy max over column orders P of |R_11|, |R_22|, ...: Z P = Q R, Q^T Q = I, R upper triangular.

    Each step takes the column with the largest part orthogonal to the columns already taken; |R_ii| is the length of
    that part. The first c pivots are a well-conditioned choice of c columns.

    Z: (rows, columns), finite. Gives (pivots, diagonal): int64 (columns,), the columns in the order taken; float64
    (columns,), |R_ii| in that order, not rising, 0 where the columns before already span the column (to rounding).
    LAPACK geqp3, in float64. Source: Businger and Golub 1965, "Linear least squares solutions by Householder
    transformations", Numer. Math. 7.
    """
    matrix = Z.detach().cpu().double().numpy()
    rows, columns = matrix.shape
    if not rows or not columns:
        return torch.arange(columns), torch.zeros(columns, dtype=torch.float64)
    if rows > TALL * columns and matrix.size > LARGE:  # R of the plain factorisation has the same products
        matrix = np.asarray(np.linalg.qr(matrix, mode="r"))
    triangle, pivots = scipy.linalg.qr(matrix, mode="r", pivoting=True, overwrite_a=False)
    diagonal = np.zeros(columns)
    found = np.abs(np.diagonal(triangle))
    diagonal[: len(found)] = np.minimum.accumulate(found)
    noise = np.finfo(np.float64).eps * max(rows, columns) * diagonal[0]
    diagonal[diagonal <= noise] = 0.0
    return torch.from_numpy(pivots.astype(np.int64)), torch.from_numpy(diagonal)


class Triangle:
    """R of Z = Q R for a matrix that comes in pieces of rows and is not kept: R^T R = Z^T Z, so that ``pivoted_qr``
    finds the same in both. Tall-skinny QR: Demmel, Grigori, Hoemmen, Langou 2012, SIAM J. Sci. Comput. 34."""

    def __init__(self, columns: int) -> None:
        self.R = np.zeros((0, columns))
        self._waiting: list[np.ndarray] = []

    def add(self, rows: Tensor) -> None:
        """rows: (some, columns), finite."""
        self._waiting.append(rows.detach().cpu().double().numpy())
        if sum(map(len, self._waiting)) >= max(AT_ONCE, TALL * self.R.shape[1]):
            self._take_in()

    def found(self) -> Tensor:
        """float64 (at most columns, columns)."""
        self._take_in()
        return torch.from_numpy(self.R)

    def _take_in(self) -> None:
        if self._waiting:
            self.R = np.asarray(np.linalg.qr(np.concatenate([self.R, *self._waiting]), mode="r"))
            self._waiting.clear()


def pivoted_cholesky(G: Tensor) -> tuple[Tensor, Tensor]:
    """The same pivots and |R_ii| from G = Z^T Z alone, (columns, columns), for many columns: P^T G P = R^T R.

    LAPACK pstrf, in float64: a third of a product's work and no square root of G; what lies below the root of the
    rounding error, where ``pivoted_qr`` still sees an order, is 0 here.
    """
    triangle, pivots, rank, _ = pstrf(np.array(G.detach().cpu().double().numpy(), order="F"), lower=0)
    diagonal = np.zeros(len(pivots))
    diagonal[:rank] = np.minimum.accumulate(np.abs(np.diagonal(triangle))[:rank])
    return torch.from_numpy(pivots.astype(np.int64) - 1), torch.from_numpy(diagonal)


def pivot_scores(pivots: Tensor, diagonal: Tensor) -> Tensor:
    """float64 (columns,): ``diagonal`` at each column, strictly falling along ``pivots``.

    Equal values are parted by the smallest step downwards, so that sorting by score gives the pivots back.
    """
    scores = np.zeros(len(pivots))
    ceiling = np.inf
    for column, value in zip(pivots.tolist(), diagonal.tolist(), strict=True):
        scores[column] = min(value, ceiling)
        ceiling = np.nextafter(scores[column], -np.inf)
    return torch.from_numpy(scores)
