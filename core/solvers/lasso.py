"""The exact LASSO path, from second moments.

Objective: min over beta of 1/2 beta^T G beta - b^T beta + lambda ||beta||_1, for every lambda from infinity down to 0.
With G = Z^T Z / N and b = Z^T y / N this is 1/(2N) ||y - Z beta||^2 + lambda ||beta||_1 up to a constant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg.blas import dger
from torch import Tensor

SPANNED = 1e-10  # a column whose remaining share of its length is below this says nothing new
END = 1e-9  # of the first lambda: below it, rounding decides what enters


@dataclass(frozen=True)
class LassoPath:
    """beta is linear in lambda between knots. lambdas: (knots,), falling to 0. betas: (knots, p), float64.

    entered: (p,), the lambda at which each column first became non-zero; 0 where it never does.
    """

    lambdas: Tensor
    betas: Tensor
    entered: Tensor

    def at(self, strength: float) -> Tensor:
        """beta at lambda = ``strength``, (p,)."""
        lambdas = self.lambdas.tolist()
        if strength >= lambdas[0]:
            return self.betas[0]
        place = next(index for index, value in enumerate(lambdas) if value <= strength)
        high, low = lambdas[place - 1], lambdas[place]
        share = (high - strength) / (high - low)
        return self.betas[place - 1] + share * (self.betas[place] - self.betas[place - 1])


def lasso_path(G: Tensor, b: Tensor, *, until: int | None = None) -> LassoPath:
    """Least angle regression with the LASSO's own step: a coefficient that reaches 0 leaves, and may come back.

    G: (p, p), symmetric, positive semidefinite. b: (p,). until: stop at the first knot with so many coefficients that
    are not zero (None: go on to lambda = 0). A column that those in the path span already never enters, and
    of columns that tie the first enters first. Source: Efron, Hastie, Johnstone, Tibshirani 2004, "Least angle
    regression", Annals of Statistics 32; the active block is inverted one column at a time by the sweep operator.
    """
    path = _Path(G.detach().cpu().double().numpy(), b.detach().cpu().double().numpy())
    for _ in range(16 * len(b) + 16):  # a path has a few knots per column; the bound only stops a cycle of rounding
        if path.finished() or (until is not None and path.taking_part() >= until):
            break
        path.step()
    return path.result()


class _Path:
    def __init__(self, G: np.ndarray, b: np.ndarray) -> None:
        self.b, self.lengths = b, np.diag(G).copy()
        # -G_AA^-1 on active columns, G_IA G_AA^-1 between, the Schur complement on the rest
        self.swept = np.array(G, order="C")
        self.usable = self.lengths > np.finfo(np.float64).eps * max(self.lengths.max(initial=0.0), 1e-300)
        self.active = np.zeros(len(b), dtype=bool)
        self.signs, self.entered = np.zeros(len(b)), np.zeros(len(b))
        self.strength = float(np.abs(b[self.usable]).max(initial=0.0))
        self.end = END * self.strength
        self.at_rest = np.zeros(len(b), dtype=bool)  # joined or left at this very knot, which is not to happen twice
        self.knots: list[tuple[float, np.ndarray]] = [(self.strength, np.zeros(len(b)))]

    def finished(self) -> bool:
        return self.strength <= self.end

    def taking_part(self) -> int:
        return int(np.count_nonzero(self.knots[-1][1]))

    def step(self) -> None:
        """From one knot to the next: as far as no column joins or leaves."""
        beta, correlation, move, fall = self._solution()
        waiting = self.usable & ~self.active
        rising, falling = (waiting & ~(self.at_rest & (self.signs == sign)) for sign in (1, -1))
        with np.errstate(divide="ignore", invalid="ignore"):
            up = np.where(rising & (fall < 1), np.maximum(self.strength - correlation, 0) / (1 - fall), np.inf)
            down = np.where(falling & (fall > -1), np.maximum(self.strength + correlation, 0) / (1 + fall), np.inf)
            out = np.where(self.active & ~self.at_rest & (beta * move < 0), -beta / move, np.inf)
        joins, leaves = np.minimum(up, down), out
        join, leave = int(joins.argmin()), int(leaves.argmin())
        length = min(joins[join], leaves[leave], self.strength)
        self.strength -= float(length)
        if length > 0:
            self.at_rest[:] = False
        if self.finished():
            self.strength = 0.0
        elif leaves[leave] <= joins[join]:
            self._sweep(leave, -1.0)
            self.active[leave] = False
            self.at_rest[leave] = True
        else:
            self._join(join, 1.0 if up[join] <= down[join] else -1.0)
        if length > 0:
            self.knots.append((self.strength, np.where(self.active, beta + length * move, 0.0)))

    def _solution(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(beta, Z^T residual), and how fast beta grows and the residual's part falls while lambda falls.

        From the closed form, so that no error adds up along the path.
        """
        here = np.stack([self.b - self.strength * self.signs, self.signs], axis=1)
        made, toward = (self.swept @ np.where(self.active[:, None], here, 0.0)).T
        beta, move = np.where(self.active, -made, 0.0), np.where(self.active, -toward, 0.0)
        return beta, self.b - made, move, np.where(self.active, 0.0, toward)

    def _join(self, column: int, sign: float) -> None:
        if self.swept[column, column] <= SPANNED * self.lengths[column]:
            self.usable[column] = False
            return
        self._sweep(column, 1.0)
        self.active[column] = self.at_rest[column] = True
        self.signs[column] = sign
        if self.entered[column] == 0:
            self.entered[column] = self.strength

    def _sweep(self, k: int, direction: float) -> None:
        """Take column k into the inverted block (1) or out of it (-1). Goodnight 1979, "A tutorial on the SWEEP"."""
        pivot = self.swept[k, k]
        row = self.swept[k].copy()
        dger(-1.0 / pivot, row, row, a=self.swept.T, overwrite_a=1)  # in place: the path's cost is this memory traffic
        self.swept[k] = self.swept[:, k] = direction * row / pivot
        self.swept[k, k] = -1.0 / pivot

    def result(self) -> LassoPath:
        lambdas = torch.tensor([strength for strength, _ in self.knots], dtype=torch.float64)
        betas = torch.from_numpy(np.stack([beta for _, beta in self.knots]))
        return LassoPath(lambdas, betas, torch.from_numpy(self.entered))
