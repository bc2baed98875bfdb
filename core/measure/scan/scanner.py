"""A scan at work: batches, rounds, counts, and the curves they amount to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from core.measure.cost.memory import keeping_memory
from core.measure.forks import Fork, ForkEngine, Latch
from core.measure.scan.rounds import Round, rounds
from core.measure.scan.tally import Answers, Tally
from core.measure.scan_result import Sensitivity
from core.measure.walk import batches, example_losses
from core.records import CurvePoint, Group, ImageData, Plan, Trace, sorted_points
from core.trace.modes import one_thread

Progress = Callable[..., None]
BETWEEN_PARTIALS = 0.5  # seconds


@dataclass
class Scan:
    """``order``: the images (int64 indices), each point on a beginning of it. ``result``: what a finished result says
    about its origin. ``effort``: share of the whole work after which to stop."""

    trace: Trace
    data: ImageData
    groups: Sequence[Group]
    forks: Sequence[Fork]
    plan: Plan
    order: Tensor
    batch: int
    result: Sensitivity
    decision: float
    effort: float
    on_progress: Progress | None
    stopped: Latch
    start: Tally = field(default_factory=Tally)
    tallies: dict[Fork, Tally] = field(default_factory=dict)
    older: dict[str, list[CurvePoint]] = field(default_factory=dict)  # of the scan that is resumed, not asked for now

    def run(self) -> Sensitivity:
        """Go on until all is measured, the effort is spent or the caller says stop."""
        places = -(-len(self.order) // self.batch)
        self.engine = ForkEngine(self.trace, self.forks, self.plan, narrow=True, places=places)
        self.began, self.told = time.monotonic(), 0.0
        self.macs: Mapping[Fork, float] = {}
        self.before = self.inside = 0.0
        starts = [self.start]
        # Batch after batch takes buffers of the same sizes; runs in lanes need all cores.
        with keeping_memory(), one_thread() if self.engine.replayed else nullcontext():
            for chosen in rounds(self.forks, self.tallies, starts, len(self.order), self.batch, self.decision):
                self._round(chosen)
                starts[0] = self.start
                if self._over():
                    break
        return self.curves()

    def _round(self, chosen: Round) -> None:
        if chosen.whole and self.effort < 1.0:
            chosen = replace(chosen, forks=self._affordable(chosen))
        worked = False
        for position in range(0, chosen.images, self.batch):
            end = min(position + self.batch, len(self.order))
            due = [fork for fork in chosen.forks if position <= self._seen(fork) < end]
            if due or self.start.images < end:
                self._batch(chosen, position, end, due)
                worked = True
                if self._over():
                    return
                if time.monotonic() - self.told > BETWEEN_PARTIALS:
                    self._tell(chosen, curves=True)
        if worked:
            self._tell(chosen, curves=True)

    def _affordable(self, chosen: Round) -> list[Fork]:
        """Those of the round's forks, in its order, that can see all its images before the effort is spent; if none
        can, the first, for what is left."""
        if not self.macs:
            self._batch_at(0, min(self.batch, len(self.order)))
        left = (self.effort - self.done()) * len(self.order) * sum(self.macs.values())
        found = []
        for fork in chosen.forks:
            work = self.macs[fork] * (chosen.images - self._seen(fork))
            if work <= left:
                left -= work
                found.append(fork)
        return found or list(chosen.forks[:1])

    def _batch_at(self, position: int, end: int) -> tuple[Tensor, Tensor]:
        """Images and labels from ``position`` to ``end`` of the order, as many as a batch has."""
        indices, count = self.order[position:end], end - position
        if count < self.batch:  # another batch size would be another program; the surplus is not counted
            indices = torch.cat([indices, indices[-1:].expand(self.batch - count)])
        images, labels = next(batches(self.data, indices, self.batch, self.trace.module))
        if not self.macs:
            self.macs = self.engine.macs(images)
            self.before = self.done()
        return images, labels

    def _batch(self, chosen: Round, position: int, end: int, due: Sequence[Fork]) -> None:
        count = end - position
        images, labels = self._batch_at(position, end)
        found: dict[Fork, Tensor] = {}
        for fork, logits in self.engine.outputs(images, self.stopped, due, position):
            if not found:
                example_losses(logits, labels, self.data)  # says what is wrong with outputs or labels
            if fork is None:
                base = logits[:count]
            else:
                found[fork] = logits[:count]
                self.inside += self.macs[fork] * count
                self._tell(chosen)
        start = Answers(base, labels[:count])
        for fork, logits in found.items():
            tally, answers = self.tallies.get(fork, Tally()), Answers(logits, labels[:count])
            self.tallies[fork] = tally.plus(answers, start, position)
        self.start = self.start.plus(start, start, position)
        self.inside = 0.0

    def _seen(self, fork: Fork) -> int:
        return self.tallies[fork].images if fork in self.tallies else 0

    def done(self) -> float:
        """Share of the whole scan's arithmetic."""
        total = len(self.order)
        whole = total * sum(self.macs.values())
        if not whole:
            return min(1.0, self.start.images / total)
        counted = sum(macs * min(self._seen(fork), total) for fork, macs in self.macs.items())
        return min(1.0, (counted + self.inside) / whole)

    @property
    def complete(self) -> bool:
        return all(seen >= len(self.order) for seen in (self.start.images, *map(self._seen, self.forks)))

    def _over(self) -> bool:
        return self.stopped.set or (self.effort < 1.0 and self.done() >= self.effort)

    def _tell(self, chosen: Round, *, curves: bool = False) -> None:
        if self.on_progress is None:
            return
        now, done, left = time.monotonic(), self.done(), ""
        if done - self.before > 0.01:
            left = f", about {_spoken((1.0 - done) * (now - self.began) / (done - self.before))} left"
        partial = None
        if curves:
            partial, self.told = self.curves(), now
        self.on_progress(done, f"{chosen.what} ({chosen.images} images){left}", partial)

    def curves(self) -> Sensitivity:
        """The curves that the counts so far amount to; groups without any measured point are left out."""
        kept = {group.id: len(self.plan.kept.get(group.id, range(group.units))) for group in self.trace.groups}
        points: dict[str, list[CurvePoint]] = {}
        known = {group.id: group for group in self.groups}
        for fork, tally in self.tallies.items():
            points.setdefault(fork.group.id, []).append(tally.point(len(fork.kept), fork.group.units))
        for group_id, rows in self.older.items():
            points.setdefault(group_id, []).extend(rows)
            known.setdefault(group_id, self.trace.group(group_id))
        if self.complete:
            for group in self.groups:
                points.setdefault(group.id, [])
        for group_id, rows in points.items():
            rows.append(self.start.point(kept[group_id], known[group_id].units))
        units = sum(group.units for group in self.trace.prunable)
        left = sum(kept[group.id] for group in self.trace.prunable)
        curves = {name: sorted_points(points[name]) for name in known if name in points}
        dense = self.start.point(left, units)
        return replace(self.result, points=curves, dense=dense, complete=self.complete)


def _spoken(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{seconds / 3600:.1f} h"
