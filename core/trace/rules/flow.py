"""The walk along the tape, the labels of every slot on the way, and the table of rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from core.trace.graph import Ref, Step, Tape
from core.trace.labels import LabelBook, WeightLabels, no_labels

Labels = Tensor | WeightLabels
Rule = Callable[["Flow", Step], None]
RULES: dict[str, Rule] = {}
ANY_POINTWISE = "any pointwise operator"  # the row for operators that PyTorch itself tags so


class Flow:
    """Labels of every slot while the tape is walked once."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.book = LabelBook()
        self.slots: dict[int, Labels] = {}
        self.unknown: Counter[str] = Counter()

    def run(self) -> None:
        for step in self.tape.steps:
            rule(step)(self, step)
        for slot in self.tape.output_slots:
            self.book.lock(self.get(slot), "feeds the output")

    def get(self, slot: int) -> Labels:
        if slot not in self.slots:
            shape = self.tape.shapes[slot]
            name = self.tape.state.get(slot)
            self.slots[slot] = self.book.weight(name, shape) if name else no_labels(len(shape))
        return self.slots[slot]

    def activation(self, slot: int) -> Tensor:
        """Labels as a tensor; a weight with several labelled dimensions is locked and counts as unlabelled."""
        labels = self.get(slot)
        if isinstance(labels, Tensor):
            return labels
        as_tensor = labels.compact()
        if as_tensor is None:
            self.book.lock(labels, "a weight is used in a way that has no rule")
            return no_labels(len(labels.dims))
        return as_tensor

    def along(self, slot: int, axis: int, what: str) -> Tensor | None:
        """Channel labels of a slot along ``axis``, one per position; None when no channels live there.

        Locks them when they also change along another axis.
        """
        labels = self.activation(slot)
        axis %= labels.dim()
        if any(size > 1 for other, size in enumerate(labels.shape) if other != axis):
            self.book.lock(labels, f"{what} reads its channels in a mixed order")
            return None
        size = self.tape.shapes[slot][axis]
        vector = labels.reshape(-1).expand(size) if labels.numel() == 1 else labels.reshape(-1)
        if not bool((vector > 0).any()):
            return None
        return vector

    def set(self, step: Step, labels: Labels, output: int = 0) -> None:
        self.slots[step.outputs[output]] = labels

    def full(self, slot: int) -> Tensor:
        return self.activation(slot).expand(self.tape.shapes[slot])


def rule(step: Step) -> Rule:
    """By name, in-place or not; then by PyTorch's own tag; else locked and reported."""
    name = step.name[:-1] if step.in_place and step.name.endswith("_") else step.name
    if name in RULES:
        return RULES[name]
    if torch.Tag.pointwise in step.op.tags:
        return RULES[ANY_POINTWISE]
    return unknown if step.reads else constant


def on(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def slot_of(value: Any) -> int:
    assert isinstance(value, Ref)
    return value.slot


def constant(flow: Flow, step: Step) -> None:
    """A tensor made from nothing: no channels in it."""


def unknown(flow: Flow, step: Step) -> None:
    flow.unknown[step.name] += 1
    for slot in step.reads:
        flow.book.lock(flow.get(slot), f"operator {step.name} has no rule")
