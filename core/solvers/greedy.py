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

    A unit brings all of its inputs at once, in all layers. Of units that gain alike, the first is taken. Source: Xie et
    al. 2021, "Pruning with Compensation", arXiv 2108.13728; C[S, S] is inverted block by block.
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
        gains = torch.where(waiting, gains.nan_to_num(nan=0.0), -1.0)
        best = int(torch.nonzero(gains == gains.max())[0])
        for layer in layers:
            layer.take(best)
        order.append(int(held[best]))
        left.append(max(0.0, left[-1] - float(gains[best])))
        waiting[best] = False
        if int(waiting.sum()) < HOLD * len(held):
            for layer in layers:
                layer.hold(waiting)
            held, waiting = held[waiting], waiting[waiting]
    return torch.tensor(order, dtype=torch.int64), torch.tensor(left, dtype=torch.float64)


class _Layer:
    """What is left of a layer's inputs and of its outputs' share in them once the units taken are accounted for.

    C: (units x size, units x size), V = W C: (q, units x size); a unit with fewer than ``size`` inputs is filled up
    with inputs of its own that nothing depends on, and so are units that were taken.
    """

    def __init__(self, design: Design, units: int, ridge: float) -> None:
        W, C, self.weight = design.W.double(), design.covariance.double(), design.weight
        if len(W) > len(C):
            W = torch.linalg.qr(W, mode="r").R  # only W^T W counts
        C = C + (ridge * float(C.diagonal().mean()) + 1e-30) * torch.eye(len(C), dtype=torch.float64)
        V = W @ C
        self.total = float((V * W).sum())
        stays = design.unit_of < 0
        if bool(stays.any()):
            factor = torch.linalg.cholesky_ex(C[stays][:, stays]).L
            P = torch.linalg.solve_triangular(factor, C[stays], upper=False)
            Q = torch.linalg.solve_triangular(factor, V[:, stays].T, upper=False)
            self.total -= float(Q.square().sum())
            C, V = C - P.T @ P, V - Q.T @ P
        places = [(design.unit_of == unit).nonzero().flatten() for unit in range(units)]
        index = torch.nn.utils.rnn.pad_sequence(places, batch_first=True, padding_value=-1)
        self.size = index.shape[1]
        real, entry = (index >= 0).flatten().nonzero().flatten(), index[index >= 0]
        self.C = torch.eye(index.numel(), dtype=torch.float64)
        self.C[real[:, None], real] = C[entry[:, None], entry]
        self.V = torch.zeros(len(V), index.numel(), dtype=torch.float64)
        self.V[:, real] = V[:, entry]

    def gains(self) -> Tensor:
        """How much each unit held would lower the layer's error, (held,)."""
        units = self.C.shape[0] // self.size
        blocks = self.C.reshape(units, self.size, units, self.size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        crossed = self.V.reshape(len(self.V), units, self.size).permute(1, 2, 0)
        if self.size == 1:
            return crossed.square().sum((1, 2)) / blocks.flatten()
        factors = torch.linalg.cholesky_ex(blocks).L
        return torch.linalg.solve_triangular(factors, crossed, upper=False).square().sum((1, 2))

    def take(self, unit: int) -> None:
        """Account for a unit (counted among those held)."""
        own = slice(unit * self.size, (unit + 1) * self.size)
        factor = torch.linalg.cholesky_ex(self.C[own, own]).L
        P = torch.linalg.solve_triangular(factor, self.C[own], upper=False)
        Q = torch.linalg.solve_triangular(factor, self.V[:, own].T, upper=False)
        self.C.addmm_(P.T, P, alpha=-1)
        self.V.addmm_(Q.T, P, alpha=-1)
        self.C[own] = self.C[:, own] = 0.0
        self.C[own, own] = torch.eye(self.size, dtype=torch.float64)
        self.V[:, own] = 0.0

    def hold(self, units: Tensor) -> None:
        """Drop all units but these, bool (held,)."""
        inputs = units.repeat_interleave(self.size).nonzero().flatten()
        self.C, self.V = self.C[inputs[:, None], inputs], self.V[:, inputs]
