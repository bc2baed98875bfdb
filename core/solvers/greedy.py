"""Forward greedy choice of inputs from which a layer's outputs can be made again.

Objective: the order of units in which each next one lowers L(S) most, with
L(S) = sum over layers of weight (tr(W C W^T) - tr(W C[:, S] C[S, S]^-1 C[S, :] W^T)), C = Sigma + r mean(diag Sigma) I:
the squared error left when every layer's weights on the inputs S are solved for anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.solvers.least_squares import RIDGE

HOLD = 0.75  # of what the layers hold must be waiting, or they are made smaller
DUE = 128  # rows of updates that are kept back: matrices far larger than the caches are written that much less often
MANY, SHARE = 1024, 256  # while more units wait than MANY, one in SHARE is taken at once


@dataclass(frozen=True)
class Design:
    """One layer. W: (q, p). covariance: (p, p) of its inputs. unit_of: int64 (p,), the unit that each input belongs to,
    -1 for one that always stays. weight: how much the layer's squared error counts."""

    W: Tensor
    covariance: Tensor
    unit_of: Tensor
    weight: float = 1.0


def forward_greedy(designs: Sequence[Design], units: int, *, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
    """The order in which units are added, int64 (units,), and L before the first and after each, float64 (units + 1,).

    A unit brings all of its inputs at once, in all layers. Of units that gain alike, the first is taken. While more
    than 1024 units wait, one in 256 is taken at once, as if none made another superfluous; L between them
    is a straight line. Source: Xie et al. 2021, "Pruning with Compensation", arXiv 2108.13728; C[S, S] is inverted
    block by block.
    """
    layers = [_Layer(design, units, ridge) for design in designs]
    left = [sum(layer.total * layer.weight for layer in layers)]
    held = torch.arange(units)  # units that the layers still hold; those taken are dropped now and then
    waiting = torch.ones(units, dtype=torch.bool)
    order: list[int] = []
    while len(order) < units:
        gains = torch.zeros(len(held), dtype=torch.float64)
        for layer in layers:
            gains += layer.weight * layer.gains()
        gains = torch.where(waiting, gains.nan_to_num(nan=0.0).clamp(min=0.0), -1.0)
        best = _best(gains, units - len(order))
        gained = sum(layer.weight * layer.take(best) for layer in layers)
        order += held[best].tolist()
        before = left[-1]
        left += [max(0.0, before - gained * (number + 1) / len(best)) for number in range(len(best))]
        waiting[best] = False
        if int(waiting.sum()) < HOLD * len(held):
            for layer in layers:
                layer.hold(waiting)
            held, waiting = held[waiting], waiting[waiting]
    return torch.tensor(order, dtype=torch.int64), torch.tensor(left, dtype=torch.float64)


def _best(gains: Tensor, waiting: int) -> Tensor:
    """Places of the units to take now, best first."""
    if waiting <= MANY:
        return torch.nonzero(gains == gains.max())[0]
    return torch.argsort(gains, descending=True, stable=True)[: waiting // SHARE]


class _Layer:
    """What is left of a layer's inputs and of its outputs' share in them once the units taken are accounted for.

    C - P^T P: (units x size, units x size), V - Q^T P: (q, units x size), V = W C at first; P and Q are updates that
    are due. ``blocks``, ``squares``: (units, size, size), what stands on the diagonals of C and of V^T V, up to date. A
    unit with fewer than ``size`` inputs is filled up with inputs of its own that nothing depends on, and so are units
    that were taken.
    """

    P: Tensor
    Q: Tensor

    def __init__(self, design: Design, units: int, ridge: float) -> None:
        W, C, self.weight = design.W.double(), design.covariance.double(), design.weight
        if len(W) > len(C):
            W = torch.linalg.qr(W, mode="r").R  # only W^T W counts
        damping = ridge * float(C.diagonal().mean()) + 1e-30
        V = W @ C + damping * W
        self.total = float((V * W).sum())
        stays = design.unit_of < 0
        if bool(stays.any()):
            C = C + damping * torch.eye(len(C), dtype=torch.float64)
            damping = 0.0
            factor = torch.linalg.cholesky_ex(C[stays][:, stays]).L
            P = torch.linalg.solve_triangular(factor, C[stays], upper=False)
            Q = torch.linalg.solve_triangular(factor, V[:, stays].T, upper=False)
            self.total -= float(Q.square().sum())
            C, V = C - P.T @ P, V - Q.T @ P
        places = [(design.unit_of == unit).nonzero().flatten() for unit in range(units)]
        index = torch.nn.utils.rnn.pad_sequence(places, batch_first=True, padding_value=-1)
        self.size = index.shape[1]
        real, entry = (index >= 0).flatten().nonzero().flatten(), index[index >= 0]
        if len(real) == index.numel():
            self.C, self.V = C[entry[:, None], entry], V[:, entry]
        else:
            self.C = torch.eye(index.numel(), dtype=torch.float64)
            self.C[real[:, None], real] = C[entry[:, None], entry]
            self.V = torch.zeros(len(V), index.numel(), dtype=torch.float64)
            self.V[:, real] = V[:, entry]
        self.C.diagonal()[real] += damping
        self._renew()

    def gains(self) -> Tensor:
        """How much each unit held would lower the layer's error, (held,)."""
        if self.size == 1:
            return (self.squares / self.blocks).flatten()
        factors = torch.linalg.cholesky_ex(self.blocks).L
        return torch.cholesky_solve(self.squares, factors).diagonal(dim1=1, dim2=2).sum(1)

    def take(self, units: Tensor) -> float:
        """Account for units (counted among those held); by how much the error falls."""
        own = (units[:, None] * self.size + torch.arange(self.size)).flatten()
        block = self.C[own][:, own] - self.P[:, own].T @ self.P[:, own]
        factor = torch.linalg.cholesky_ex(block).L
        P = torch.linalg.solve_triangular(factor, self.C[own] - self.P[:, own].T @ self.P, upper=False)
        crossed = self.V[:, own].T - self.P[:, own].T @ self.Q
        Q = torch.linalg.solve_triangular(factor, crossed, upper=False)
        T = self._by_unit(Q @ self.V - (Q @ self.Q.T) @ self.P)
        due = self._by_unit(P)
        self.blocks -= due.mT @ due
        mixed = T.mT @ due
        self.squares += due.mT @ (Q @ Q.T) @ due - mixed - mixed.mT
        self.P, self.Q = torch.cat([self.P, P]), torch.cat([self.Q, Q])
        for matrix in (self.P, self.V):
            matrix[:, own] = 0.0
        self.C[own] = self.C[:, own] = 0.0
        self.C[own, own] = 1.0
        self.blocks[units], self.squares[units] = torch.eye(self.size, dtype=torch.float64), 0.0
        if len(self.P) >= DUE:
            self._settle()
        return float(Q.square().sum())

    def hold(self, units: Tensor) -> None:
        """Drop all units but these, bool (held,)."""
        inputs = units.repeat_interleave(self.size).nonzero().flatten()
        self._settle()
        self.C, self.V = self.C[inputs[:, None], inputs], self.V[:, inputs]
        self._renew()

    def _by_unit(self, rows: Tensor) -> Tensor:
        """(k, units x size) as (units, k, size)."""
        return rows.reshape(len(rows), -1, self.size).transpose(0, 1)

    def _settle(self) -> None:
        """Apply the updates that are due."""
        self.C.addmm_(self.P.T, self.P, alpha=-1)
        self.V.addmm_(self.Q.T, self.P, alpha=-1)
        self._renew()

    def _renew(self) -> None:
        units = len(self.C) // self.size
        blocks = self.C.reshape(units, self.size, units, self.size).diagonal(dim1=0, dim2=2)
        self.blocks = blocks.permute(2, 0, 1).contiguous()
        columns = self._by_unit(self.V)
        self.squares = columns.mT @ columns
        self.P, self.Q = (torch.zeros(0, width, dtype=torch.float64) for width in (len(self.C), len(self.V)))
