"""The curves of a scan: what the network loses when one group alone loses channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from core.errors import MeasureError
from core.records import CurvePoint
from core.registry import unknown_name
from core.solvers.intervals import newcombe, paired_interval

WEAK = 0.25  # share of the images of those beside it below which a point says less than they do
NAMES = ("seed", "plan_key", "scores_key")  # not in scans that were stored earlier


@dataclass(frozen=True)
class Change:
    """Accuracy minus the starting network's on the same images, and its 95 % interval (shares)."""

    value: float
    low: float
    high: float
    images: int


@dataclass(frozen=True)
class Sensitivity:
    """Curves of a scan. ``points[group_id]``: by rising removed fraction, the first is the network it starts from.

    A point's ``removed_fraction`` is removed units / units. ``dense``: the starting network (dense, or as a plan left
    it), ``kept`` = all its prunable units. ``complete``: False while a scan runs and when it was stopped; every point
    tells its number of images, the first so many in the order that ``seed`` draws. ``plan_key``: the plan a scan
    started from ("" = dense). ``scores_key``: the scores that said which units leave first.
    """

    points: Mapping[str, tuple[CurvePoint, ...]]
    dense: CurvePoint
    criterion: str
    complete: bool
    model_fingerprint: str = ""
    data_fingerprint: str = ""
    seed: int = 0
    plan_key: str = ""
    scores_key: str = ""

    def accuracy(self, group_id: str, removed_fraction: float) -> float:
        """Share of images still right when round(removed_fraction x units) units of the group leave.

        Exact where that many were measured, linear between; a point on less than a quarter of the images of points on
        both of its sides is passed over, because these say more. Raises MeasureError beyond the last point.
        """
        return self._between(group_id, removed_fraction, lambda point: point.accuracy)

    def loss(self, group_id: str, removed_fraction: float) -> float:
        """Mean cross-entropy in nats, as ``accuracy``."""
        return self._between(group_id, removed_fraction, lambda point: point.loss)

    def loss_added(self, group_id: str, removed_fraction: float) -> float:
        """Mean cross-entropy minus the starting network's on the same images, in nats; between points, interpolated."""
        return self._between(group_id, removed_fraction, self.added)

    def added(self, point: CurvePoint) -> float:
        """``loss_added`` of one point. A scan stored without the start's loss on its images has that on all."""
        return point.loss - (self.dense.loss if point.start_loss is None else point.start_loss)

    def interval(self, group_id: str, removed_fraction: float) -> tuple[float, float]:
        """95 % Wilson interval of ``accuracy``; between measured points its ends are interpolated."""
        low, high, share = self._neighbours(group_id, removed_fraction)
        return _between(low.low, high.low, share), _between(low.high, high.high, share)

    def change(self, group_id: str, removed_fraction: float) -> Change:
        """Accuracy minus the starting network's, on the same images, with its paired interval (Agresti and Min 2005);
        Newcombe's for independent shares where a stored scan has no paired counts. Between points, interpolated."""
        low, high, share = self._neighbours(group_id, removed_fraction)
        a, b = self.changed(low), self.changed(high)
        ends = [_between(x, y, share) for x, y in ((a.value, b.value), (a.low, b.low), (a.high, b.high))]
        return Change(ends[0], ends[1], ends[2], min(a.images, b.images))

    def changed(self, point: CurvePoint) -> Change:
        """``change`` of one point."""
        if point.lost is None or point.gained is None:
            start = self.dense
            ends = newcombe((point.accuracy, point.low, point.high), (start.accuracy, start.low, start.high))
            return Change(point.accuracy - start.accuracy, *ends, point.images)
        ends = paired_interval(point.lost, point.gained, point.images)
        return Change((point.gained - point.lost) / point.images, *ends, point.images)

    def images_used(self, group_id: str, removed_fraction: float) -> int:
        """Images behind ``accuracy``; between measured points the smaller number."""
        low, high, _ = self._neighbours(group_id, removed_fraction)
        return min(low.images, high.images)

    def _between(self, group_id: str, removed_fraction: float, value: Callable[[CurvePoint], float]) -> float:
        low, high, share = self._neighbours(group_id, removed_fraction)
        return _between(value(low), value(high), share)

    def _neighbours(self, group_id: str, removed_fraction: float) -> tuple[CurvePoint, CurvePoint, float]:
        if group_id not in self.points:
            raise unknown_name("scanned group", group_id, list(self.points), MeasureError)
        points = self.points[group_id]
        weak = outweighed([point.images for point in points])
        points = tuple(point for point, passed in zip(points, weak, strict=True) if not passed)
        units = all_units(points)
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
        if removed < counts[0]:
            raise MeasureError(
                f"Group {group_id} had lost {counts[0]} of {units} units when this scan began; {removed} asked for. "
                "Scan again without a plan."
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
            **{name: getattr(self, name) for name in NAMES},
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Sensitivity:
        """Raises MeasureError when the table is not a stored scan."""
        try:
            points = {name: tuple(CurvePoint(**point) for point in rows) for name, rows in data["points"].items()}
            rest = {name: data[name] for name in ("criterion", "complete", "model_fingerprint", "data_fingerprint")}
            rest.update({name: data[name] for name in NAMES if name in data})
            return Sensitivity(points, CurvePoint(**data["dense"]), **rest)
        except (KeyError, TypeError, AttributeError) as error:
            raise MeasureError(
                f"Expected a stored sensitivity scan; found something else ({error}). Scan again."
            ) from error


def _between(low: float, high: float, share: float) -> float:
    return low if share == 0.0 else low + share * (high - low)


def outweighed(images: Sequence[int]) -> list[bool]:
    """Which points of a curve are on few images between points on many: chance moves those by more than a straight
    line past them would miss. images: of each point, along the curve."""
    ends = [(max(images[:at], default=0), max(images[at + 1 :], default=0)) for at in range(len(images))]
    return [count < WEAK * min(beside) for count, beside in zip(images, ends, strict=True)]


def all_units(points: Sequence[CurvePoint]) -> int:
    """A group's units, from its curve: the first point keeps them all, or what a plan left of them."""
    return round(points[0].kept / (1.0 - points[0].removed_fraction))


def removed_units(units: int, removed_fraction: float) -> int:
    """round(fraction x units), at least one kept. Raises MeasureError for a fraction outside 0..1."""
    if not 0.0 <= removed_fraction <= 1.0:
        raise MeasureError(f"A removed fraction lies in 0..1; found {removed_fraction}.")
    return min(units - 1, round(removed_fraction * units))
