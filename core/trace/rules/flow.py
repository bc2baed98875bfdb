"""The walk along the tape, the labels of every slot on the way, and the table of rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.trace.graph import Ref, Step, Tape, needed_steps
from core.trace.labels import Key, LabelBook, WeightLabels, no_labels, tied_along, varying

Labels = Tensor | WeightLabels
Rule = Callable[["Flow", Step], None]
RULES: dict[str, Rule] = {}
ANY_POINTWISE = "any pointwise operator"  # the row for operators that PyTorch itself tags so


class Flow:
    """Labels of every slot while the tape is walked once.

    ``constant``: gives the values of a buffer by its state name, for operators whose effect depends on them.
    """

    def __init__(
        self, tape: Tape, book: LabelBook | None = None, constant: Callable[[str], Tensor] | None = None
    ) -> None:
        self.tape = tape
        self.book = book or LabelBook()
        self.constant = constant
        self.slots: dict[int, Labels] = {}
        self.unknown: Counter[str] = Counter()
        self.raw: set[int] = set()  # weights as they are stored, or only moved
        self.cuts: list[
            tuple[Tensor, list[int]]
        ] = []  # channels cut into rows by a view: labels, and the axes they fill

    def run(self) -> None:
        # What nothing reads (the averaged weights of an attention layer) says nothing about channels.
        for step in self.tape.steps if self.tape.aliases_written else needed_steps(self.tape):
            rule(step)(self, step)
        for slot in self.tape.output_slots:
            self.book.lock(self.get(slot), "feeds the output")
        self._settle_cuts()

    def get(self, slot: int) -> Labels:
        if slot not in self.slots:
            shape = self.tape.shapes[slot]
            name = self.tape.state.get(slot)
            self.slots[slot] = self.book.weight(name, shape) if name else no_labels(len(shape))
            if name:
                self.raw.add(slot)
        return self.slots[slot]

    def adopted(self, slot: int, channels: Tensor) -> bool:
        """Whether a vector that no operator has read before now takes the labels ``channels``: the usual case."""
        name, shape = self.tape.state.get(slot), self.tape.shapes[slot]
        if name is None or slot in self.slots or len(shape) != 1 or shape[0] == 1 or channels.shape[0] != shape[0]:
            return False
        key = (name, 0)
        if key in self.book.weights:
            return False
        self.raw.add(slot)
        self.slots[slot] = WeightLabels((key,))
        self.book.sizes[key] = shape[0]
        self.book.adopt(key, channels)
        return True

    def activation(self, slot: int) -> Tensor:
        """Labels as a tensor; a weight with several labelled dimensions is locked and counts as unlabelled."""
        labels = self.get(slot)
        if isinstance(labels, Tensor):
            return labels
        named = labels.named
        if len(named) > 1:
            self.book.lock(labels, "a weight is used in a way that has no rule")
            return no_labels(len(labels.dims))
        return self.along_dim(labels, named[0]) if named else no_labels(len(labels.dims))

    def along_dim(self, labels: WeightLabels, axis: int) -> Tensor:
        """A weight as a label tensor that varies along ``axis`` only."""
        vector = self.book.vector(labels.dims[axis])
        if vector is None:
            return no_labels(len(labels.dims))
        return vector.reshape([-1 if other == axis else 1 for other in range(len(labels.dims))])

    def along(self, slot: int, axis: int, what: str) -> Tensor | None:
        """Channel labels of a slot along ``axis``, one per position; None when no channels live there.

        Channels that also change along another axis (they were cut into rows) are tied along that one. Channels
        that lie only elsewhere are locked: ``what`` would read across them.
        """
        labels = self.activation(slot)
        axis %= labels.dim()
        if labels.shape[axis] == 1:
            if labels.numel() > 1:
                self.book.lock(labels, f"{what} runs across channels")
                return None
            if not int(labels.reshape(-1)[0]):
                return None
        for other in varying(labels):
            if other != axis:
                labels = tied_along(labels, other, self.book)
        size = self.tape.shapes[slot][axis]
        return labels.reshape(-1).expand(size) if labels.numel() == 1 else labels.reshape(-1)

    def set(self, step: Step, labels: Labels, output: int = 0) -> None:
        self.slots[step.outputs[output]] = labels

    def _settle_cuts(self) -> None:
        """Channels cut into rows stay a full grid: whole rows leave, or the same places of every row.

        Whole rows where something behind the view has tied each row together (attention heads), else the places.
        """
        for _ in range(3):
            before = len(self.book.edges)
            unit_of = self.book.resolve() if self.cuts else np.zeros(0)
            for labels, axes in self.cuts:
                units = unit_of[labels.numpy()]
                uneven = [axis for axis in axes if (units != units.take([0], axis=axis)).any()]
                for axis in axes:
                    if uneven and axis != uneven[-1]:
                        self.book.tie(labels.narrow(axis, 0, 1), labels)
            if len(self.book.edges) == before:
                return


def rule(step: Step) -> Rule:
    """By name, in-place or not; then by PyTorch's own tag; else locked and reported."""
    key = id(step.op), step.in_place
    if key not in _chosen:
        name = step.name[:-1] if step.in_place and step.name.endswith("_") else step.name
        _chosen[key] = RULES.get(name) or (RULES[ANY_POINTWISE] if torch.Tag.pointwise in step.op.tags else None)
    return _chosen[key] or (unknown if step.reads else nothing)


_chosen: dict[tuple[int, bool], Rule | None] = {}  # by id of the operator, and whether it works in place


def on(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def slot_of(value: Any) -> int:
    assert isinstance(value, Ref)
    return value.slot


def nothing(flow: Flow, step: Step) -> None:
    """A tensor made from nothing: no channels in it."""


def unknown(flow: Flow, step: Step) -> None:
    flow.unknown[step.name] += 1
    for slot in step.reads:
        flow.book.lock(flow.get(slot), f"operator {step.name} has no rule")


def key_of(dim: Any) -> Key | None:
    """The state dimension itself, where a weight's dimension is one."""
    return dim if isinstance(dim, tuple) else None
