"""How wide every tensor on a tape is under a plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array, vstack

from core.errors import PlanError
from core.records import Group, Plan, Trace
from core.trace.graph import Tape
from core.trace.labels import Dim, Key, WeightLabels
from core.trace.layout import Layout
from core.trace.rules import Flow

ONE = 0  # the dimension whose size is always 1
Extent = tuple[int, tuple[int, ...]]  # a constant, and the numbers of the dimensions it is multiplied by


class Dimensions:
    """The different dimensions of a network's tensors, numbered; their sizes under any plan come as one array.

    Number 0 is always 1. Then the layout's vectors, then the inputs that single consumers may choose (gathers), then
    what activations add to these.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace, self.layout = trace, trace.layout
        self._chosen = {key: 1 + len(self.layout.vectors) + at for at, key in enumerate(self.layout.gathers)}
        self._extra: dict[bytes, int] = {}
        self._extra_vectors: list[np.ndarray] = []

    def of(self, dim: Dim) -> int | None:
        """The number of a weight's dimension; None where no channel lives."""
        if not isinstance(dim, tuple):
            return None
        vector = self.layout.vector_of.get(dim)
        return self._chosen.get(dim, None if vector is None else 1 + vector)

    def extent(self, slot: int, axes: Sequence[int]) -> Extent:
        """How many positions a tensor of the tape has along ``axes`` together."""
        shape, labels = self.trace.tape.shapes[slot], self.trace.flow.get(slot)
        if isinstance(labels, WeightLabels):
            numbers = {axis: self.of(labels.dims[axis]) for axis in axes}
            fixed = math.prod(shape[axis] for axis, number in numbers.items() if number is None)
            return fixed, tuple(number for number in numbers.values() if number is not None)
        everywhere = math.prod(shape[axis] for axis in axes)
        if all(labels.shape[axis] == 1 for axis in axes):
            return everywhere, ()
        units = settled(self.layout.unit_of_label[labels.numpy()])
        varying = [axis for axis, size in enumerate(units.shape) if size > 1]
        if not varying or not set(varying) <= set(axes) or (units == self.layout.units).all():
            return everywhere, ()
        fixed = math.prod(shape[axis] for axis in axes if axis not in varying)
        return fixed, (self._of_units(units.reshape(-1)),)

    def _of_units(self, units: np.ndarray) -> int:
        key = units.tobytes()
        if key not in self._extra:
            self._extra[key] = 1 + len(self.layout.vectors) + len(self._chosen) + len(self._extra)
            self._extra_vectors.append(units)
        return self._extra[key]

    def finished(self) -> LiveSizes:
        """To be called once every extent was asked for."""
        layout, extra = self.layout, self._extra_vectors
        counts = layout.counts
        if extra:
            rows = np.repeat(np.arange(len(extra)), [len(units) for units in extra])
            columns = np.concatenate(extra)
            shape = (len(extra), layout.units + 1)
            counts = vstack([counts, csr_array((np.ones(len(columns), dtype=np.int64), (rows, columns)), shape=shape)])
        return LiveSizes(self.trace, csr_array(counts), dict(self._chosen))


class LiveSizes:
    """Sizes of all numbered dimensions under a plan, by a few array operations.

    counts: (dimensions, units + 1), how many positions each unit holds. ``chosen``: consumer's dimension -> its number.
    Nearly always all units of a group are alike, and only how many are kept matters; ``_alike`` holds what one of them
    takes of every dimension, and ``_single`` the units of the other groups, one by one.
    """

    def __init__(self, trace: Trace, counts: csr_array, chosen: Mapping[Key, int]) -> None:
        self.trace, self.chosen = trace, chosen
        layout = trace.layout
        self.groups = {group_id: number for number, group_id in enumerate(layout.first)}
        self.units = np.array([trace.by_id[group_id].units for group_id in layout.first] + [1], dtype=np.int64)
        home = np.repeat(np.arange(len(self.units)), self.units)  # unit -> group; the last is "always stays"
        held, squares = _summed(counts, home, 1), _summed(counts, home, 2)
        # As many times the sum of squares as there are units is the square of the sum only where all are equal.
        alike = (squares * self.units == held**2).all(axis=0)
        self.held = held  # (dimensions, groups + 1): positions of each group's units together
        self._alike = csr_array(np.where(alike, held // self.units, 0))
        self._odd = np.flatnonzero(~alike[home])
        self._single = csr_array(counts[:, self._odd])
        self._sources = np.array([layout.vector_of[key] for key in chosen], dtype=np.int64)
        self._choices = _Choices(layout)
        told = np.unique(home[np.concatenate([self._choices.unit, self._odd])]).tolist()
        self._by_unit = {group_id: layout.first[group_id] for group_id, number in self.groups.items() if number in told}

    def under(self, plan: Plan | None) -> tuple[np.ndarray, np.ndarray]:
        """(int64 size by number, bool per chosen dimension: narrower than its source).

        Raises PlanError when the plan names a group or unit that does not exist.
        """
        kept, choices = self.units.copy(), {}
        stays = np.ones(self.trace.layout.units + 1, dtype=bool)  # filled where it matters which units are kept
        for group_id, units in (plan.kept if plan else {}).items():
            number = self.groups.get(group_id)
            count = self.trace.group(group_id).units if number is None else int(self.units[number])
            if units[-1] >= count:
                raise PlanError(f"Group {group_id} has {count} units; the plan names unit {units[-1]}.")
            if len(units) == count:
                continue
            if number is None:
                choices[group_id] = units
                continue
            kept[number] = len(units)
            if group_id in self._by_unit:
                _keep_only(stays, self._by_unit[group_id], count, units)
        live = self._alike @ kept
        if len(self._odd):
            live = live + self._single @ stays[self._odd].astype(np.int64)
        given = live[self._sources]
        reads = self._choices.reads(choices, stays) if choices else given
        reads = np.where(reads > 0, reads, given)  # nothing of its choice is left: the choice is void
        vectors = len(self.trace.layout.vectors)
        return np.concatenate([[1], live[:vectors], reads, live[vectors:]]), reads < given


class _Choices:
    """The units that each gather chooses among, all behind one another."""

    def __init__(self, layout: Layout) -> None:
        self.first: dict[str, int] = {}
        sources, positions, fixed, total = [], [], [], 0
        for key, group in layout.gathers.items():
            chosen_by, vector = group.members[0].unit_of.numpy(), layout.vectors[layout.vector_of[key]]
            inside = chosen_by >= 0
            source = np.empty(group.units, dtype=np.int64)
            source[chosen_by[inside]] = vector[inside]
            sources.append(source)
            positions.append(np.bincount(chosen_by[inside], minlength=group.units))
            fixed.append(int((~inside).sum()))
            self.first[group.id] = total
            total += group.units
        empty = [np.zeros(0, dtype=np.int64)]
        self.unit = np.concatenate(sources or empty)  # of the layout
        self._positions = np.concatenate(positions or empty)
        self._fixed, self._starts = np.array(fixed, dtype=np.int64), np.array(list(self.first.values()), dtype=np.int64)
        self._units = {group.id: group.units for group in layout.gathers.values()}

    def reads(self, kept: Mapping[str, tuple[int, ...]], stays: np.ndarray) -> np.ndarray:
        """Channels that each consumer reads: what it chose and its sources still have."""
        chosen = stays[self.unit]
        for group_id, units in kept.items():
            wanted = np.zeros(self._units[group_id], dtype=bool)
            wanted[np.fromiter(units, np.int64, len(units))] = True
            chosen[self.first[group_id] : self.first[group_id] + len(wanted)] &= wanted
        result: np.ndarray = self._fixed + np.add.reduceat(self._positions * chosen, self._starts)
        return result


def _keep_only(stays: np.ndarray, first: int, count: int, units: tuple[int, ...]) -> None:
    stays[first : first + count] = False
    stays[first + np.fromiter(units, np.int64, len(units))] = True


def _summed(counts: csr_array, home: np.ndarray, power: int) -> np.ndarray:
    """int64 (dimensions, groups): the sum of counts**power over the units of each group."""
    rows, groups = counts.shape[0], int(home[-1]) + 1
    place = np.repeat(np.arange(rows) * groups, np.diff(counts.indptr)) + home[counts.indices]
    sums: np.ndarray = np.bincount(place, weights=counts.data**power, minlength=rows * groups).astype(np.int64)
    return sums.reshape(rows, groups)


def settled(units: np.ndarray) -> np.ndarray:
    """``units`` with size 1 along every axis where they do not change."""
    for axis, size in enumerate(units.shape):
        if size > 1:
            first = units.take([0], axis=axis)
            if (units == first).all():
                units = first
    return units


@dataclass(frozen=True)
class Choice:
    """What one consumer may read of the channels it is given.

    ``unit_of``: int64, position -> unit of the gather group, or -1. ``sources``: (group, its positions, their units).
    """

    group: str
    unit_of: np.ndarray
    sources: tuple[tuple[str, np.ndarray, np.ndarray], ...]


@dataclass(frozen=True)
class Place:
    """One axis of one tensor: its dense width, and how many of its positions each unit of each group holds.

    ``choice``: set where a gather may narrow it further.
    """

    size: int
    per_unit: tuple[tuple[str, np.ndarray], ...]  # (group, int64 (units,))
    choice: Choice | None = None

    def live(self, kept: Mapping[str, np.ndarray]) -> int:
        """The width under a plan. kept: group -> bool (units,), for the groups that lose units."""
        width = self.size - sum(int(counts[~kept[group]].sum()) for group, counts in self.per_unit if group in kept)
        if self.choice is None or self.choice.group not in kept:
            return width
        reads = np.append(kept[self.choice.group], True)[self.choice.unit_of]
        for group, positions, units in self.choice.sources:
            if group in kept:
                reads[positions] &= kept[group][units]
        return int(reads.sum()) or width  # nothing of its choice is left: the choice is void


class Widths:
    """The places of all tensors of ``tape``, a recording of ``trace.module`` (at any batch size)."""

    def __init__(self, trace: Trace, tape: Tape) -> None:
        self.tape, self._layout = tape, trace.layout
        if tape is trace.tape:
            self._flow, self._unit_of_label = trace.flow, trace.layout.unit_of_label
        else:
            self._flow = Flow(tape, constant=trace.flow.constant)
            self._flow.run()
            self._unit_of_label = self._units_by_weight()
        self._groups = [(group.id, trace.layout.first[group.id], group.units) for group in trace.prunable]
        self._places: dict[bytes, Place] = {}
        self._choices: dict[str, Place] = {}

    def _units_by_weight(self) -> np.ndarray:
        """The layout's number for each label of a flow of its own: the same channels meet the same weights."""
        book, layout = self._flow.book, self._layout
        tied = book.resolve()
        number = np.full(len(tied), layout.units)
        for key, labels in book.weights.items():
            if key in layout.vector_of:
                number[tied[labels.numpy()]] = layout.vectors[layout.vector_of[key]]
        by_label: np.ndarray = number[tied]
        by_label[0] = layout.units
        return by_label

    def axes(self, slot: int) -> dict[int, Place]:
        """The axes of a tensor that a plan can narrow."""
        labels, shape, layout = self._flow.get(slot), self.tape.shapes[slot], self._layout
        vectors: dict[int, np.ndarray] = {}
        chosen: dict[int, Group] = {}
        if isinstance(labels, WeightLabels):
            for axis, dim in enumerate(labels.dims):
                if isinstance(dim, tuple) and dim in layout.vector_of:
                    vectors[axis] = layout.vectors[layout.vector_of[dim]]
                    if dim in layout.gathers:
                        chosen[axis] = layout.gathers[dim]
        elif labels.numel() > 1:
            units = settled(self._unit_of_label[labels.numpy()])
            varying = [axis for axis, size in enumerate(units.shape) if size > 1]
            if len(varying) == 1:
                vectors[varying[0]] = units.reshape(-1)
        places = {axis: self._place(vector) for axis, vector in vectors.items() if len(vector) == shape[axis]}
        for axis, gather in chosen.items():
            places[axis] = self._chosen(places[axis], vectors[axis], gather)
        return {axis: place for axis, place in places.items() if place.per_unit or place.choice}

    def _chosen(self, place: Place, units: np.ndarray, gather: Group) -> Place:
        if gather.id not in self._choices:
            sources = []
            for group_id, first, size in self._groups:
                positions = np.flatnonzero((units >= first) & (units < first + size))
                if len(positions):
                    sources.append((group_id, positions, units[positions] - first))
            choice = Choice(gather.id, gather.members[0].unit_of.numpy(), tuple(sources))
            self._choices[gather.id] = replace(place, choice=choice)
        return self._choices[gather.id]

    def _place(self, units: np.ndarray) -> Place:
        key = units.tobytes()
        if key not in self._places:
            counts = []
            for group_id, first, size in self._groups:
                inside = units[(units >= first) & (units < first + size)]
                if len(inside):
                    counts.append((group_id, np.bincount(inside - first, minlength=size)))
            self._places[key] = Place(len(units), tuple(counts))
        return self._places[key]


def kept_masks(trace: Trace, plan: Plan | None) -> dict[str, np.ndarray]:
    """group -> bool (units,), for every group that loses units. Raises PlanError for an unknown group."""
    masks = {}
    for group_id, kept in (plan.kept if plan else {}).items():
        units = trace.group(group_id).units
        if len(kept) < units:
            mask = np.zeros(units, dtype=bool)
            mask[list(kept)] = True
            masks[group_id] = mask
    return masks
