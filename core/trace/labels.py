"""Channel labels: an integer for every channel of every tensor on the tape, and which of them are tied together.

A label tensor has the rank of the tensor it describes and size 1 along every dimension where labels are constant.
0 means "no channel lives here" (batch, space, tokens). Weights name their dimensions instead; a dimension takes the
labels of the first channels that meet it, so that a chain of layers needs no ties at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

Key = tuple[str, int]  # (state name, dimension)


@dataclass(frozen=True)
class Merged:
    """Several dimensions of a weight flattened into one."""

    parts: tuple[Key | None, ...]
    sizes: tuple[int, ...]


Dim = Key | Merged | None


@dataclass(frozen=True)
class WeightLabels:
    """A weight or buffer, moved or rescaled at most: which state dimension each of its own is; None for size 1."""

    dims: tuple[Dim, ...]

    @property
    def named(self) -> list[int]:
        return [axis for axis, dim in enumerate(self.dims) if dim is not None]


class LabelBook:
    """Hands out labels, remembers which are tied, which are locked and why, and which weight dimension they index."""

    def __init__(self) -> None:
        self.count = 1
        self.edges: list[tuple[Tensor, Tensor]] = []
        self.locks: list[tuple[Tensor, str]] = []
        self.mixes: list[tuple[Tensor, str]] = []
        self.weights: dict[Key, Tensor] = {}
        self.sizes: dict[Key, int] = {}
        self.roles: dict[Key, str] = {}
        self.norms: list[tuple[str, str]] = []  # (direction, length): weight = length x direction / |direction|
        self.shifted: dict[Key, str] = {}
        self.computed: set[str] = set()  # weights that are not used as they are
        self._frozen: dict[Key, str] = {}  # dimensions whose channels may not leave, met or not yet met
        self._mixed: dict[Key, str] = {}  # the same for channels that are mixed

    def fresh(self, size: int) -> Tensor:
        labels = torch.arange(self.count, self.count + size)
        self.count += size
        return labels

    def weight(self, name: str, shape: tuple[int, ...]) -> WeightLabels:
        """State entry ``name`` by its dimensions; nothing is labelled yet."""
        for axis, size in enumerate(shape):
            self.sizes[name, axis] = size
        return WeightLabels(tuple((name, axis) if size > 1 else None for axis, size in enumerate(shape)))

    def vector(self, dim: Dim) -> Tensor | None:
        """Labels along a weight's dimension, made when nothing has met it yet; None where there are none."""
        if dim is None or isinstance(dim, Merged):
            if dim is not None:
                self.freeze(dim, "a weight is used in a way that has no rule")
            return None
        if dim not in self.weights:
            self.weights[dim] = self.fresh(self.sizes[dim])
            self._met(dim)
        return self.weights[dim]

    def join(self, labels: Tensor, dim: Dim) -> None:
        """The channels ``labels`` (one-dimensional) are those along ``dim``."""
        if isinstance(dim, tuple) and dim not in self.weights and self.sizes[dim] == labels.shape[0]:
            self.adopt(dim, labels)
            return
        known = self.vector(dim)
        if known is None:
            self.lock(labels, "meets a weight in a way that has no rule")
        else:
            self.tie(labels, known)

    def adopt(self, key: Key, labels: Tensor) -> None:
        """A dimension that nothing has met yet takes ``labels``."""
        self.weights[key] = labels
        self._met(key)

    def shift_dim(self, dim: Dim, reason: str) -> None:
        """A zero in this dimension of a weight does not stay a zero: what it reads cannot be hidden by zeros."""
        for key in dim.parts if isinstance(dim, Merged) else (dim,):
            if key is not None:
                self.shifted.setdefault(key, reason)

    def _met(self, key: Key) -> None:
        if key in self._frozen:
            self.lock(self.weights[key], self._frozen[key])
        if key in self._mixed:
            self.mix(self.weights[key], self._mixed[key])

    def freeze(self, dim: Dim, reason: str) -> None:
        """Channels that meet this dimension, now or later, may never leave."""
        for key in dim.parts if isinstance(dim, Merged) else (dim,):
            if key is not None:
                self._frozen.setdefault(key, reason)
                if key in self.weights:
                    self.lock(self.weights[key], reason)

    def set_role(self, dim: Dim, role: str) -> None:
        """Say what an operator does with a weight's dimension.

        A dimension that some operator consumes stays a consumer: that is where a mask belongs.
        """
        if isinstance(dim, tuple) and self.roles.get(dim) != "consumer":
            self.roles[dim] = role

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Channels with these labels can only leave together. Shapes broadcast; 0 ties nothing."""
        if a is b:
            return
        if a.shape != b.shape:
            a, b = torch.broadcast_tensors(a, b)
        one, two = a.reshape(-1).numpy(), b.reshape(-1).numpy()
        keep = (one != two) & (one > 0) & (two > 0)
        if keep.any():
            self.edges.append((torch.from_numpy(one[keep]), torch.from_numpy(two[keep])))

    def lock(self, labels: Tensor | WeightLabels | None, reason: str) -> None:
        """Channels with these labels may never leave."""
        if isinstance(labels, WeightLabels):
            for dim in labels.dims:
                self.freeze(dim, reason)
        elif labels is not None:
            named = _named(labels)
            if len(named):
                self.locks.append((named, reason))

    def mix(self, labels: Tensor, reason: str) -> None:
        """Something is computed over these channels together: the rest changes when one leaves."""
        named = _named(labels)
        if len(named):
            self.mixes.append((named, reason))

    def mix_dim(self, dim: Dim, reason: str) -> None:
        """The same for channels that meet a weight's dimension, now or later."""
        for key in dim.parts if isinstance(dim, Merged) else (dim,):
            if key is not None:
                self._mixed.setdefault(key, reason)
                if key in self.weights:
                    self.mix(self.weights[key], reason)

    def resolve(self) -> np.ndarray:
        """The unit number of every label."""
        if self.edges:
            a = torch.cat([edge[0] for edge in self.edges]).numpy()
            b = torch.cat([edge[1] for edge in self.edges]).numpy()
        else:
            a = b = np.zeros(0, dtype=np.int64)
        graph = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(self.count, self.count))
        unit_of: np.ndarray = connected_components(graph, directed=False)[1]
        return unit_of

    def reasons(self, unit_of: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
        """(reasons, number of the reason that locks each unit, number of the one that mixes it); -1 for none."""
        texts: list[str] = []

        def first(found: list[tuple[Tensor, str]]) -> np.ndarray:
            number = np.full(len(unit_of), -1)
            for labels, reason in reversed(found):  # the first to say so is written last
                if reason not in texts:
                    texts.append(reason)
                number[unit_of[labels.numpy()]] = texts.index(reason)
            return number

        return texts, first(self.locks), first(self.mixes)


def _named(labels: Tensor) -> Tensor:
    return labels[labels > 0].reshape(-1)


def compact(labels: Tensor) -> Tensor:
    """``labels`` with size 1 along every dimension where they do not change."""
    for axis, (size, stride) in enumerate(zip(labels.shape, labels.stride(), strict=True)):
        if size > 1:
            first = labels.narrow(axis, 0, 1)
            if stride == 0 or (labels.select(axis, 1).equal(first.squeeze(axis)) and bool((labels == first).all())):
                labels = first
    return labels


def no_labels(rank: int) -> Tensor:
    return torch.zeros((1,) * rank, dtype=torch.int64)


def varying(labels: Tensor) -> list[int]:
    """The axes along which labels change."""
    return [axis for axis, size in enumerate(labels.shape) if size > 1]


def reshaped(labels: Tensor, before: tuple[int, ...], after: tuple[int, ...]) -> Tensor:
    """Labels of a view: only the axes that carry labels are written out, so a large map costs nothing."""
    inner: list[int] = []
    outer: list[int] = []
    for sources, targets in _blocks(before, after):
        if any(labels.shape[axis] > 1 for axis in sources):
            inner += [before[axis] for axis in sources]
            outer += [after[axis] for axis in targets]
        else:
            inner += [1] * len(sources)
            outer += [1] * len(targets)
    return compact(labels.expand(inner).reshape(outer))


def _blocks(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Axes that turn into each other: the shortest runs with equal products, in order."""
    assert math.prod(before) == math.prod(after)
    blocks = []
    i = j = 0
    while i < len(before) or j < len(after):
        sources, targets, have, want = [], [], 1, 1
        if i < len(before):
            sources, have, i = [i], before[i], i + 1
        if j < len(after):
            targets, want, j = [j], after[j], j + 1
        while have != want:
            if (have < want and i < len(before)) or j >= len(after):
                sources.append(i)
                have, i = have * before[i], i + 1
            else:
                targets.append(j)
                want, j = want * after[j], j + 1
        blocks.append((sources, targets))
    return blocks


def tied_along(labels: Tensor, axis: int, book: LabelBook) -> Tensor:
    """``labels`` after everything along ``axis`` was tied together."""
    if labels.shape[axis] == 1:
        return labels
    first = labels.narrow(axis, 0, 1)
    book.tie(first, labels)
    return first
