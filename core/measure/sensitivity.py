"""What the network loses when one group alone loses channels: a curve per group.

Removing a group's channels changes nothing before the first layer that reads them. So each batch walks the tape once,
and at each group's first reader the walk forks: for every fraction only the rest of the tape runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from core.errors import MeasureError
from core.measure.forks import Fork, ForkEngine, Latch
from core.measure.importance import score_channels
from core.measure.walk import batches, example_losses, require_images
from core.records import CurvePoint, Group, ImageData, Scores, Trace, fingerprint_state, sorted_points
from core.registry import unknown_name
from core.solvers.intervals import wilson
from core.trace.graph import named_state

Progress = Callable[..., None]
Stop = Callable[[], bool]
FRACTIONS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)


@dataclass(frozen=True)
class Sensitivity:
    """Curves of a scan. ``points[group_id]``: by rising removed fraction, the first is the dense network.

    A point's ``removed_fraction`` is removed units / units. ``dense``: the whole network, ``kept`` = all prunable
    units. ``complete``: False while a scan runs and when it was cancelled; every point tells its number of images.
    """

    points: Mapping[str, tuple[CurvePoint, ...]]
    dense: CurvePoint
    criterion: str
    complete: bool
    model_fingerprint: str = ""
    data_fingerprint: str = ""

    def accuracy(self, group_id: str, removed_fraction: float) -> float:
        """Share of images still right when round(removed_fraction x units) units of the group leave.

        Exact where that many were measured, linear between. Raises MeasureError beyond the last point.
        """
        low, high, share = self._neighbours(group_id, removed_fraction)
        return _between(low.accuracy, high.accuracy, share)

    def loss(self, group_id: str, removed_fraction: float) -> float:
        """Mean cross-entropy in nats, as ``accuracy``."""
        low, high, share = self._neighbours(group_id, removed_fraction)
        return _between(low.loss, high.loss, share)

    def interval(self, group_id: str, removed_fraction: float) -> tuple[float, float]:
        """95 % Wilson interval of ``accuracy``; between measured points its ends are interpolated."""
        low, high, share = self._neighbours(group_id, removed_fraction)
        return _between(low.low, high.low, share), _between(low.high, high.high, share)

    def images_used(self, group_id: str, removed_fraction: float) -> int:
        """Images behind ``accuracy``; between measured points the smaller number."""
        low, high, _ = self._neighbours(group_id, removed_fraction)
        return min(low.images, high.images)

    def _neighbours(self, group_id: str, removed_fraction: float) -> tuple[CurvePoint, CurvePoint, float]:
        if group_id not in self.points:
            raise unknown_name("scanned group", group_id, list(self.points), MeasureError)
        points = self.points[group_id]
        units = points[0].kept
        removed = removed_units(units, removed_fraction)
        counts = [units - point.kept for point in points]
        if removed in counts:
            point = points[counts.index(removed)]
            return point, point, 0.0
        if removed > counts[-1]:
            raise MeasureError(
                f"Group {group_id} was measured up to {counts[-1]} of {units} units removed; {removed} asked for. "
                "Scan with a larger fraction."
            )
        after = next(index for index, count in enumerate(counts) if count > removed)
        share = (removed - counts[after - 1]) / (counts[after] - counts[after - 1])
        return points[after - 1], points[after], share

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``Sensitivity.from_dict`` gives the same curves back."""
        return {
            "points": {name: [asdict(point) for point in points] for name, points in self.points.items()},
            "dense": asdict(self.dense),
            "criterion": self.criterion,
            "complete": self.complete,
            "model_fingerprint": self.model_fingerprint,
            "data_fingerprint": self.data_fingerprint,
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Sensitivity:
        """Raises MeasureError when the table is not a stored scan."""
        try:
            points = {name: tuple(CurvePoint(**point) for point in rows) for name, rows in data["points"].items()}
            rest = {name: data[name] for name in ("criterion", "complete", "model_fingerprint", "data_fingerprint")}
            return Sensitivity(points, CurvePoint(**data["dense"]), **rest)
        except (KeyError, TypeError, AttributeError) as error:
            raise MeasureError(
                f"Expected a stored sensitivity scan; found something else ({error}). Scan again."
            ) from error


def _between(low: float, high: float, share: float) -> float:
    return low if share == 0.0 else low + share * (high - low)


def removed_units(units: int, removed_fraction: float) -> int:
    """round(fraction x units), at least one kept. Raises MeasureError for a fraction outside 0..1."""
    if not 0.0 <= removed_fraction <= 1.0:
        raise MeasureError(f"A removed fraction lies in 0..1; found {removed_fraction}.")
    return min(units - 1, round(removed_fraction * units))


@dataclass
class _Tally:
    correct: int = 0
    images: int = 0
    loss: float = 0.0

    def plus(self, other: _Tally) -> _Tally:
        return _Tally(self.correct + other.correct, self.images + other.images, self.loss + other.loss)

    def point(self, kept: int, units: int) -> CurvePoint:
        low, high = wilson(self.correct, self.images)
        share, loss = self.correct / self.images, self.loss / self.images
        return CurvePoint((units - kept) / units if units else 0.0, kept, share, low, high, loss, self.images)


Tallies = dict[Fork | None, _Tally]  # None: the dense network


def scan_sensitivity(
    trace: Trace,
    data: ImageData,
    fractions: Sequence[float] = FRACTIONS,
    criterion: str | Scores = "weight-l2",
    *,
    groups: Sequence[str] | None = None,
    limit: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    on_progress: Progress | None = None,
    cancelled: Stop | None = None,
    scores_data: ImageData | None = None,
    model_fingerprint: str | None = None,
    data_fingerprint: str | None = None,
) -> Sensitivity:
    """Accuracy and loss with round(fraction x units) of one group's lowest-scored units gone, all else dense.

    data: images N x C x H x W with labels; all of them are used unless ``limit`` says how many (drawn by ``seed``).
    criterion: its name, or scores made before; a criterion that needs images gets ``scores_data``, else ``data``.
    groups: ids, None = every prunable one. The values equal those of a pruned copy evaluated on the same images.
    ``on_progress(fraction, message, partial)``: after every batch ``partial`` is the Sensitivity of the images so far,
    in between it is None. When ``cancelled()``, what was measured is returned with ``complete`` False.
    fingerprints: stored in the result; computed when None. The network is left as it was.
    Raises MeasureError for no images or fractions outside 0..1, PlanError for a group that is unknown.
    """
    data = require_images(data, "A sensitivity scan")
    if limit is not None and limit < 1:
        raise MeasureError(f"limit: expected 1 image or more, found {limit}.")
    chosen = _chosen_groups(trace, groups)
    for fraction in fractions:
        removed_units(2, fraction)
    if isinstance(criterion, str):
        criterion = score_channels(trace, scores_data or data, criterion, seed=seed, cancelled=cancelled)
    forks = _plan_forks(chosen, criterion, fractions)
    scan = _Scan(
        trace,
        data,
        chosen,
        criterion.criterion,
        fingerprint_state(named_state(trace.module)) if model_fingerprint is None else model_fingerprint,
        data.fingerprint if data_fingerprint is None else data_fingerprint,
    )
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:limit]
    return scan.run(forks, order, batch_size, on_progress, cancelled)


def _chosen_groups(trace: Trace, groups: Sequence[str] | None) -> tuple[Group, ...]:
    chosen = trace.prunable if groups is None else tuple(trace.group(name) for name in groups)
    for group in chosen:
        if not group.prunable:
            raise MeasureError(f"Group {group.id} cannot be pruned: {group.reason}. Leave it out of the scan.")
    return chosen


def _plan_forks(groups: Sequence[Group], scores: Scores, fractions: Sequence[float]) -> list[Fork]:
    forks = []
    for group in groups:
        if group.id not in scores.scores:
            raise MeasureError(f"Group {group.id} has no {scores.criterion} scores. Score the channels again.")
        ranking = scores.ranking(group.id)
        for removed in sorted({removed_units(group.units, fraction) for fraction in fractions} - {0}):
            forks.append(Fork(group, tuple(sorted(ranking[: group.units - removed]))))
    return forks


@dataclass
class _Scan:
    """A scan's subject, and how its counts become curves."""

    trace: Trace
    data: ImageData
    groups: Sequence[Group]
    criterion: str
    model_fingerprint: str
    data_fingerprint: str

    def run(
        self, forks: list[Fork], order: Tensor, batch_size: int, on_progress: Progress | None, cancelled: Stop | None
    ) -> Sensitivity:
        totals: Tallies = {}
        engine = ForkEngine(self.trace, forks)
        parts = list(order.split(max(1, batch_size)))
        stopped = Latch(cancelled)
        for number, (images, labels) in enumerate(batches(self.data, order, batch_size, self.trace.module)):
            found: Tallies = {}
            for fork, logits in engine.outputs(images, stopped):
                found[fork] = self._count(logits, labels)
                if on_progress is not None and fork is not None:
                    done = (number + len(found) / (len(forks) + 1)) / len(parts)
                    on_progress(done, f"Batch {number + 1} of {len(parts)}: {fork.group.name}", None)
            if stopped.set and totals:
                break  # curves stay on one set of images: a batch that is not finished is left out
            totals = {fork: totals[fork].plus(tally) if totals else tally for fork, tally in found.items()}
            if stopped.set:
                break
            if on_progress is not None:
                seen = totals[None].images
                message = f"{seen} of {len(order)} images"
                on_progress((number + 1) / len(parts), message, self.curves(totals, seen == len(order)))
        return self.curves(totals, not stopped.set)

    def _count(self, logits: Tensor, labels: Tensor) -> _Tally:
        losses = example_losses(logits, labels, self.data)
        return _Tally(int((logits.argmax(1) == labels).sum()), len(labels), float(losses.sum()))

    def curves(self, totals: Tallies, complete: bool) -> Sensitivity:
        """The curves that the counts so far amount to; groups without any measured point are left out."""
        dense = totals[None]
        points: dict[str, list[CurvePoint]] = {}
        for fork, tally in totals.items():
            if fork is not None:
                rows = points.setdefault(fork.group.id, [dense.point(fork.group.units, fork.group.units)])
                rows.append(tally.point(len(fork.kept), fork.group.units))
        if complete:
            for group in self.groups:
                points.setdefault(group.id, [dense.point(group.units, group.units)])
        units = sum(group.units for group in self.trace.prunable)
        return Sensitivity(
            {group.id: sorted_points(points[group.id]) for group in self.groups if group.id in points},
            dense.point(units, units),
            self.criterion,
            complete,
            self.model_fingerprint,
            self.data_fingerprint,
        )
