"""Widths that modules keep as numbers of their own, and use: ``self.width`` in ``torch.split(x, self.width, 1)``.

No label tells that such a number is a width. But when the narrowed network fails at a step, and a module that is
running holds a number equal to the width that did not follow, setting that number is worth a try; the trial says
whether it was right, and every pruned network is compared with the masked one besides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from core.trace.graph import Tape
from core.trace.layout import Layout, promised
from core.trace.rules import Flow

WIDTH_NAMES = re.compile(r"channel|chs|width|plane|dim|feature|filter|hidden|embed|inner|group|size")
# Numbers that only happen to equal a width. Any other name ("c", "w") is tried alone, after those that speak.
NO_WIDTH = re.compile(r"^_|kernel|stride|padding|dilation|class|depth|level|stage|block|layer|index|seed|iter|step")


@dataclass(frozen=True)
class WrittenWidth:
    """Module ``path`` keeps, as ``attribute``, the size of ``axis`` of the tensor in ``slot`` of the tape."""

    path: str
    attribute: str
    slot: int
    axis: int


def written_values(
    written: Iterable[WrittenWidth], flow: Flow, layout: Layout, stays: np.ndarray
) -> dict[tuple[str, str], int]:
    """(path, attribute) -> the number it must be when only some units stay."""
    return {(one.path, one.attribute): promised(flow, layout, stays, one.slot)[one.axis] for one in written}


def candidates(
    module: nn.Module, running: Iterable[str], slots: Iterable[int], flow: Flow, layout: Layout, stays: np.ndarray
) -> list[tuple[WrittenWidth, ...]]:
    """What to try, module by module from the innermost ``running`` one: its numbers that equal a width of ``slots``
    which did not follow."""
    moved: dict[int, tuple[int, int]] = {}
    for slot in slots:
        dense = flow.tape.shapes[slot]
        for axis, size in enumerate(promised(flow, layout, stays, slot)):
            if size != dense[axis]:
                moved.setdefault(dense[axis], (slot, axis))
    found = []
    for path in list(running)[::-1]:
        values = vars(module.get_submodule(path))
        equal = [
            WrittenWidth(path, name, *moved[value])
            for name, value in values.items()
            if type(value) is int and value in moved and not NO_WIDTH.search(name.lower())
        ]
        named = tuple(one for one in equal if WIDTH_NAMES.search(one.attribute.lower()))
        if named:
            found.append(named)
        found += [(one,) for one in equal if one not in named]
    return found


def harms(step: int, flow: Flow, layout: Layout, stays: np.ndarray) -> bool:
    """Whether nothing that ``step`` reads or makes should be narrower: a number that makes it fail is wrong."""
    slots = _slots(flow.tape, step)
    return all(promised(flow, layout, stays, slot) == flow.tape.shapes[slot] for slot in slots)


def alike(
    module: nn.Module, found: Iterable[WrittenWidth], step: int, tape: Tape, known: Iterable[WrittenWidth]
) -> tuple[WrittenWidth, ...]:
    """The same numbers in other modules of the same class, at the same place of their code. step: where it showed."""
    have = {(one.path, one.attribute) for one in (*known, *found)}
    more = []
    for one in found:
        kind = type(module.get_submodule(one.path))
        if not tape.spans.get(one.path):
            continue
        offset = step - tape.spans[one.path][0][0]
        place = _slots(tape, step).index(one.slot)
        for path, spans in tape.spans.items():
            other = spans[0][0] + offset if spans else len(tape.steps)
            layer = module.get_submodule(path)
            if type(layer) is not kind or (path, one.attribute) in have or other >= len(tape.steps):
                continue
            if _same_call(tape, other, step):
                slot = _slots(tape, other)[place]
                sizes = tape.shapes[slot]
                if one.axis < len(sizes) and getattr(layer, one.attribute, None) == sizes[one.axis]:
                    more.append(WrittenWidth(path, one.attribute, slot, one.axis))
                    have.add((path, one.attribute))
    return tuple(more)


def _same_call(tape: Tape, one: int, other: int) -> bool:
    return tape.steps[one].op is tape.steps[other].op and len(_slots(tape, one)) == len(_slots(tape, other))


def _slots(tape: Tape, step: int) -> list[int]:
    return [*tape.steps[step].reads, *tape.steps[step].outputs]


def set_written(module: nn.Module, values: Mapping[tuple[str, str], int]) -> None:
    for (path, attribute), value in values.items():
        setattr(module.get_submodule(path), attribute, value)
