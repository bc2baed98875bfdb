"""How wide every tensor on a tape is under a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from core.records import Plan, Trace
from core.trace.graph import Tape
from core.trace.labels import WeightLabels
from core.trace.rules import Flow


@dataclass(frozen=True)
class Place:
    """One axis of one tensor: its dense width, and how many of its positions each unit of each group holds."""

    size: int
    per_unit: tuple[tuple[str, np.ndarray], ...]  # (group, int64 (units,))

    def live(self, kept: Mapping[str, np.ndarray]) -> int:
        """The width under a plan. kept: group -> bool (units,), for the groups that lose units."""
        return self.size - sum(int(counts[~kept[group]].sum()) for group, counts in self.per_unit if group in kept)


class Widths:
    """The places of all tensors of ``tape``, a recording of ``trace.module`` (at any batch size)."""

    def __init__(self, trace: Trace, tape: Tape) -> None:
        self.tape = tape
        self._flow = Flow(tape)
        self._flow.run()
        self._units = {group.id: group.units for group in trace.prunable}
        unit_of, _ = self._flow.book.resolve()
        names = list(self._units)
        home, local = np.full(len(unit_of) + 1, -1), np.full(len(unit_of) + 1, -1)
        for group in trace.prunable:
            for member in group.members:
                labels = self._flow.book.weights.get((member.tensor, member.dim))
                if labels is not None:
                    inside = (member.unit_of >= 0).numpy()
                    units = unit_of[labels.numpy()[inside]]
                    home[units] = names.index(group.id)
                    local[units] = member.unit_of.numpy()[inside]
        self._names = names
        self._home, self._local = home[unit_of], local[unit_of]  # by label
        self._home[0] = -1  # label 0: no channel lives there
        self._places: dict[bytes, Place] = {}

    def axes(self, slot: int) -> dict[int, Place]:
        """The axes of a tensor that a plan can narrow."""
        labels, shape = self._flow.get(slot), self.tape.shapes[slot]
        vectors: Sequence[Tensor | None]
        if isinstance(labels, WeightLabels):
            vectors = labels.dims
        else:
            varying = [axis for axis, size in enumerate(labels.shape) if size > 1]
            vectors = [labels.reshape(-1) if varying == [axis] else None for axis in range(labels.dim())]
        places = {axis: self._place(vector) for axis, vector in enumerate(vectors) if vector is not None}
        return {axis: place for axis, place in places.items() if place.size == shape[axis] and place.per_unit}

    def _place(self, labels: Tensor) -> Place:
        key = labels.numpy().tobytes()
        if key not in self._places:
            known = labels.numpy() * (labels.numpy() < len(self._home))  # labels handed out later belong to no group
            home, local = self._home[known], self._local[known]
            counts = tuple(
                (self._names[number], np.bincount(local[home == number], minlength=self._units[self._names[number]]))
                for number in np.unique(home[home >= 0]).tolist()
            )
            self._places[key] = Place(len(labels), counts)
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
