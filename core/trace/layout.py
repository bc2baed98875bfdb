"""Where every unit lives, as arrays: what surgery, cost and the trial read instead of walking over members."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from core.records import Group, Plan
from core.trace.labels import Dim, Key, Merged, WeightLabels

if TYPE_CHECKING:
    from core.trace.rules import Flow


@dataclass(frozen=True)
class Layout:
    """Units of all coupled groups are numbered through; number ``units`` stands for "no unit, always stays".

    ``first``: group -> the number of its first unit. ``unit_of_label``: label -> number. ``vectors``: one array of
    numbers for every different dimension; ``vector_of``: (state name, dimension) -> its index among them.
    ``gathers``: (consumer's weight, dimension) -> the gather group that may narrow it. ``reads_alone``: (consumer's
    weight, dimension) of layers that run as modules, so that what they are given is what this dimension reads.
    """

    units: int
    first: Mapping[str, int]
    unit_of_label: np.ndarray
    vectors: tuple[np.ndarray, ...]
    vector_of: Mapping[Key, int]
    gathers: Mapping[Key, Group]
    reads_alone: frozenset[Key]

    @cached_property
    def counts(self) -> csr_array:
        """(vectors, units + 1): how many positions of each vector each unit holds."""
        lengths = [len(vector) for vector in self.vectors]
        rows = np.repeat(np.arange(len(self.vectors)), lengths)
        columns = np.concatenate(self.vectors) if self.vectors else np.zeros(0, dtype=np.int64)
        ones = np.ones(len(columns), dtype=np.int64)
        return csr_array((ones, (rows, columns)), shape=(len(self.vectors), self.units + 1))

    def stays(self, plan: Plan | None, groups: Mapping[str, Group]) -> np.ndarray:
        """bool (units + 1,): which units a plan keeps. Groups it does not name keep all; gathers say nothing here."""
        kept = np.ones(self.units + 1, dtype=bool)
        for group_id, units in (plan.kept if plan else {}).items():
            if group_id in self.first:
                start, count = self.first[group_id], groups[group_id].units
                if len(units) < count:
                    kept[start : start + count] = False
                    kept[start + np.asarray(units)] = True
        return kept

    def sources(self, gather: Group) -> list[tuple[str, int]]:
        """(coupled group, its unit) for every unit of a gather."""
        member = gather.members[0]
        index = member.unit_of.numpy()
        vector = self.vectors[self.vector_of[member.tensor, member.dim]]
        names, starts = list(self.first), np.asarray(list(self.first.values()))
        found = []
        for unit in range(gather.units):
            number = int(vector[int(np.argmax(index == unit))])
            place = int(np.searchsorted(starts, number, side="right")) - 1
            found.append((names[place], number - int(starts[place])))
        return found

    def gathered(self, plan: Plan | None, stays: np.ndarray) -> dict[Key, np.ndarray]:
        """(weight, dimension) -> bool per position, for every consumer that a gather of the plan narrows.

        What it reads is what the gather chose and its sources still have; nothing of that left, the choice is void.
        """
        found = {}
        for key, group in self.gathers.items():
            units = plan.kept.get(group.id) if plan else None
            if units is not None and len(units) < group.units:
                sources = stays[self.vectors[self.vector_of[key]]]
                chosen = np.ones(group.units + 1, dtype=bool)
                chosen[: group.units] = False
                chosen[list(units)] = True
                reads = sources & chosen[group.members[0].unit_of.numpy()]
                if reads.any() and (reads != sources).any():
                    found[key] = reads
        return found


def promised(flow: Flow, layout: Layout, stays: np.ndarray, slot: int) -> tuple[int, ...]:
    """The shape that labels promise for a tensor of the tape when only some units stay."""
    dense = flow.tape.shapes[slot]
    labels = flow.get(slot)
    if isinstance(labels, WeightLabels):
        return tuple(_promised_along(dim, size, layout, stays) for dim, size in zip(labels.dims, dense, strict=True))
    if labels.numel() == 1:
        return dense
    mask = stays[layout.unit_of_label[labels.numpy()]]
    if mask.all():
        return dense
    if mask.ndim - mask.shape.count(1) == 1:
        return tuple(int(mask.sum()) if size > 1 else whole for size, whole in zip(mask.shape, dense, strict=True))
    others = [tuple(other for other in range(mask.ndim) if other != axis) for axis in range(mask.ndim)]
    return tuple(
        int(mask.any(axis=others[axis]).sum()) if mask.shape[axis] > 1 else whole for axis, whole in enumerate(dense)
    )


def _promised_along(dim: Dim, size: int, layout: Layout, stays: np.ndarray) -> int:
    if isinstance(dim, Merged):
        return math.prod(
            _promised_along(part, part_size, layout, stays)
            for part, part_size in zip(dim.parts, dim.sizes, strict=True)
        )
    vector = None if dim is None else layout.vector_of.get(dim)
    return size if vector is None else int(stays[layout.vectors[vector]].sum())


class LayoutBuilder:
    """Collects the label vectors of all weight dimensions, each different one once."""

    def __init__(self) -> None:
        self.labels: list[np.ndarray] = []
        self.vector_of: dict[Key, int] = {}
        self._seen: dict[tuple[int, int, int], int] = {}
        self._known: dict[int, tuple[int, Tensor]] = {}  # by id, and alive so that ids stay theirs

    def add(self, key: Key, labels: Tensor) -> None:
        known = self._known.get(id(labels))
        if known is not None:
            self.vector_of[key] = known[0]
            return
        identity = (labels.data_ptr(), labels.shape[0], labels.stride(0))
        if identity not in self._seen:
            self._seen[identity] = len(self.labels)
            self.labels.append(labels.numpy())
        self.vector_of[key] = self._seen[identity]
        self._known[id(labels)] = self._seen[identity], labels
