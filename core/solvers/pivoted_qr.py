"""Choose columns of a matrix that span it well."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import torch
from scipy.linalg.lapack import dpstrf as pstrf
from torch import Tensor


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
    triangle, pivots = scipy.linalg.qr(matrix, mode="r", pivoting=True, overwrite_a=False)
    diagonal = np.zeros(columns)
    found = np.abs(np.diagonal(triangle))
    diagonal[: len(found)] = np.minimum.accumulate(found)
    noise = np.finfo(np.float64).eps * max(rows, columns) * diagonal[0]
    diagonal[diagonal <= noise] = 0.0
    return torch.from_numpy(pivots.astype(np.int64)), torch.from_numpy(diagonal)


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
