"""How one choice of units is run on a program: from which step, and physically narrower or with zeros."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from core.measure.scan.arithmetic import step_macs
from core.measure.scan.narrow import Masks, Narrowed, Narrower, NotNarrowError, pick
from core.measure.scan.program import Env, Line, Program
from core.records import Group, Plan, Trace
from core.trace.hiding import hidden_state, masked
from core.trace.labels import Key

PAYS = 0.97  # a narrower run is worth its odd widths and its copies when it saves this much arithmetic
Kept = Mapping[str, Sequence[int]]


@dataclass
class Run:
    """A run from step ``start``. ``lines``: rewritten calls (None = the program's own). ``picks``: slot -> (axis,
    positions) of what the base has made. ``weights``: makes the weights that differ. ``macs``: per image.
    ``narrowed``: None when it runs at full width. ``end``: from this step on a narrower run is at full width again."""

    start: int
    macs: float
    lines: list[Line] | None = None
    picks: dict[int, list[tuple[int, Tensor]]] = field(default_factory=dict)
    weights: Callable[[], Env] = dict
    narrowed: Narrowed | None = None
    end: int = 0


class Runs:
    """Runs of one program. ``base``: the network that forks leave from, all units but those of ``plan``."""

    def __init__(self, trace: Trace, program: Program, plan: Plan, *, narrow: bool) -> None:
        self.trace, self.program, self.plan = trace, program, plan
        self.batch = program.tape.shapes[program.tape.input][0]
        self.dense_macs = [step_macs(step, program.tape.shapes) for step in program.steps]
        self.narrower: Narrower | None = None
        with suppress(NotNarrowError):
            self.narrower = Narrower(trace, program) if narrow else None
        self.base = self._base()

    def _base(self) -> Run:
        if not self.plan.kept:
            return Run(0, sum(self.dense_macs) / self.batch)
        try:
            return self._narrow(self.plan, 0, None)
        except NotNarrowError:
            return self.hidden({}, 0)

    def hide_base(self) -> None:
        """Give up running the base narrower."""
        self.base = self.hidden({}, 0)

    def of(self, group: Group, kept: Sequence[int]) -> Run:
        """The cheaper run, for mixing groups the narrower one, because only there the norm sees what is left."""
        hidden = self.instead(group, kept)
        if not kept:
            return hidden
        try:
            start = first_reader(self.program, group)
            if group.mixing:
                start = min([start, *self._whole(Plan({group.id: tuple(kept)})).touched[:1]])
            narrow = self._narrow(Plan({**self.plan.kept, group.id: tuple(kept)}), start, self.base.narrowed)
        except NotNarrowError:
            return hidden
        return narrow if group.mixing or narrow.macs <= PAYS * hidden.macs else hidden

    def instead(self, group: Group, kept: Sequence[int]) -> Run:
        """The run at full width; where the base is narrower it has to start at the beginning."""
        start = 0 if self.base.narrowed is not None else first_reader(self.program, group)
        return self.hidden({group.id: kept}, start)

    def hidden(self, kept: Kept, start: int) -> Run:
        """From ``start`` at full width, with zeros where readers would see what ``plan`` and ``kept`` drop."""
        chosen = {**self.plan.kept, **kept}
        return Run(start, sum(self.dense_macs[start:]) / self.batch, weights=lambda: self._with_zeros(chosen))

    def _with_zeros(self, kept: Kept) -> Env:
        masks = consumer_masks(self.trace, kept)
        program = self.program
        edits = hidden_state(masks, program.state, self.trace.norms)
        made: Env = {}
        for slot, name in program.tape.state.items():
            if slot in program.folded.made:
                dims = {dim: mask for (other, dim), mask in masks.items() if other == name}
                if dims:
                    made[slot] = program.placed(slot, masked(program.values[slot], dims))
            elif name in edits and slot in program.values:
                made[slot] = program.placed(slot, edits[name])
        return made

    def _whole(self, plan: Plan) -> Narrowed:
        if self.narrower is None:
            raise NotNarrowError
        return self.narrower.narrow(plan)

    def _narrow(self, plan: Plan, start: int, base: Narrowed | None) -> Run:
        narrowed, program = self._whole(plan), self.program
        shapes = {**program.tape.shapes, **narrowed.shapes}
        macs = sum(self.dense_macs[start:])
        for index in narrowed.touched:
            if index >= start:
                macs += step_macs(program.steps[index], shapes, narrowed.reads.get(index)) - self.dense_macs[index]
        lines = [narrowed.lines.get(index, line) for index, line in enumerate(program.lines)]
        picks = self._picks(narrowed, base, start) if start else {}
        end = narrowed.touched[-1] + 1 if narrowed.touched else start
        return Run(start, macs / self.batch, lines, picks, lambda: self._smaller(narrowed), narrowed, end)

    def _picks(self, new: Narrowed, base: Narrowed | None, start: int) -> dict[int, list[tuple[int, Tensor]]]:
        """What tensors made before ``start`` and read after it lose, as positions in what the base has made."""
        tape, steps = self.program.tape, self.program.steps
        before = {slot for step in steps[:start] for slot in step.outputs} | {tape.input}
        read = {slot for step in steps[start:] for slot in step.reads} | set(tape.output_slots)
        found = {}
        for slot in before & read:
            had: Masks = base.masks.get(slot, {}) if base is not None else {}
            picks = []
            for axis, mask in new.masks.get(slot, {}).items():
                left = mask[had[axis]] if axis in had else mask
                if not left.all():
                    picks.append((axis, self._index(left)))
            if picks:
                found[slot] = picks
        return found

    def _index(self, mask: np.ndarray) -> Tensor:
        return torch.from_numpy(np.flatnonzero(mask)).to(self.program.device)

    def _smaller(self, narrowed: Narrowed) -> Env:
        """The weights that are smaller under a plan."""
        made = {}
        for slot, masks in narrowed.masks.items():
            if slot in self.program.values:
                tensor = self.program.values[slot]
                for axis, mask in masks.items():
                    tensor = pick(tensor, axis, self._index(mask))
                made[slot] = self.program.placed(slot, tensor)
        return made


def consumer_masks(trace: Trace, kept: Kept) -> dict[Key, Tensor]:
    """(state name, dimension) -> bool per position that its consumers may still read, where that is not all."""
    found: dict[Key, Tensor] = {}
    for group_id, units in kept.items():
        group = trace.group(group_id)
        stays = torch.zeros(group.units + 1, dtype=torch.bool)
        stays[list(units)] = True
        stays[-1] = True  # index -1: a channel of another group
        for member in group.by_role("consumer"):
            key, mask = (member.tensor, member.dim), stays[member.unit_of]
            mask = mask & found[key] if key in found else mask
            if not bool(mask.all()):
                found[key] = mask
    return found


def first_reader(program: Program, group: Group) -> int:
    """Index of the first step that reads a weight through which the group is read; the end when nothing does."""
    names = {member.tensor for member in group.by_role("consumer")}
    state = program.tape.state
    found = (index for index, step in enumerate(program.steps) if any(state.get(slot) in names for slot in step.reads))
    return next(found, len(program.steps))
