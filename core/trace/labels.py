"""Channel labels: an integer for every channel of every tensor on the tape, and which of them are tied together.

A label tensor has the rank of the tensor it describes and size 1 along every dimension where labels are constant.
0 means "no channel lives here" (batch, space, tokens). Weights carry one label vector per dimension instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor


@dataclass(frozen=True)
class WeightLabels:
    """Labels of a weight or buffer, one int64 vector per dimension; None for a dimension of size 1."""

    dims: tuple[Tensor | None, ...]

    def compact(self) -> Tensor | None:
        """As an ordinary label tensor; None when more than one dimension is labelled."""
        named = [axis for axis, labels in enumerate(self.dims) if labels is not None]
        if len(named) > 1:
            return None
        shape = [1] * len(self.dims)
        if not named:
            return torch.zeros(shape, dtype=torch.int64)
        labels = self.dims[named[0]]
        assert labels is not None
        shape[named[0]] = len(labels)
        return labels.reshape(shape)


class LabelBook:
    """Hands out labels, remembers which are tied, which are locked and why, and which weight dimension they index."""

    def __init__(self) -> None:
        self.count = 1
        self.edges: list[tuple[Tensor, Tensor]] = []
        self.locks: list[tuple[Tensor, str]] = []
        self.weights: dict[tuple[str, int], Tensor] = {}
        self.roles: dict[tuple[str, int], str] = {}
        self.views: dict[int, WeightLabels] = {}  # id of a label vector's owner is not needed: dims find it back
        self.owner: dict[int, tuple[str, int]] = {}  # first label of a block -> the weight dimension it was made for

    def fresh(self, size: int) -> Tensor:
        labels = torch.arange(self.count, self.count + size)
        self.count += size
        return labels

    def weight(self, name: str, shape: tuple[int, ...]) -> WeightLabels:
        """The labels of state entry ``name``, made at first use so that shared weights share them."""
        for axis, size in enumerate(shape):
            if size > 1 and (name, axis) not in self.weights:
                labels = self.fresh(size)
                self.weights[name, axis] = labels
                self.owner[int(labels[0])] = (name, axis)
        return WeightLabels(tuple(self.weights.get((name, axis)) for axis in range(len(shape))))

    def set_role(self, labels: Tensor | None, role: str) -> None:
        """Say what an operator does with the weight dimension these labels were made for.

        A dimension that some operator consumes stays a consumer: that is where a mask belongs.
        """
        if labels is not None and len(labels):
            key = self.owner.get(int(labels[0]))
            if key is not None and self.roles.get(key) != "consumer":
                self.roles[key] = role

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Channels with these labels can only leave together. Shapes broadcast; 0 ties nothing."""
        a, b = torch.broadcast_tensors(a, b)
        a, b = a.reshape(-1), b.reshape(-1)
        keep = (a > 0) & (b > 0) & (a != b)
        if keep.any():
            self.edges.append((a[keep], b[keep]))

    def lock(self, labels: Tensor | WeightLabels | None, reason: str) -> None:
        """Channels with these labels may never leave."""
        if isinstance(labels, WeightLabels):
            for vector in labels.dims:
                self.lock(vector, reason)
        elif labels is not None:
            named = labels[labels > 0].reshape(-1)
            if len(named):
                self.locks.append((named.unique(), reason))

    def resolve(self) -> tuple[np.ndarray, dict[int, str]]:
        """(unit number of every label, reason by unit number for locked units)."""
        if self.edges:
            a = torch.cat([edge[0] for edge in self.edges]).numpy()
            b = torch.cat([edge[1] for edge in self.edges]).numpy()
        else:
            a = b = np.zeros(0, dtype=np.int64)
        graph = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(self.count, self.count))
        _, unit_of = connected_components(graph, directed=False)
        reasons: dict[int, str] = {}
        for labels, reason in self.locks:
            for unit in np.unique(unit_of[labels.numpy()]).tolist():
                reasons.setdefault(unit, reason)
        return unit_of, reasons


def compact(labels: Tensor) -> Tensor:
    """``labels`` with size 1 along every dimension where they do not change."""
    for axis in range(labels.dim()):
        if labels.shape[axis] > 1:
            first = labels.narrow(axis, 0, 1)
            if labels.stride(axis) == 0 or bool((labels == first).all()):
                labels = first
    return labels


def no_labels(rank: int) -> Tensor:
    return torch.zeros((1,) * rank, dtype=torch.int64)
