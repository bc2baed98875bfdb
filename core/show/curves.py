"""Measured curves, read: what every group can lose within a limit, what that saves, and how sure it is.

Everything here turns records into rows and series for people; nothing is measured.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from core.errors import MeasureError
from core.measure.cost import LatencyTable, count_cost, predict_latency
from core.measure.scan_result import outweighed
from core.measure.sensitivity import Sensitivity
from core.records import CurvePoint, Plan, Scores, Trace
from core.solvers.monotone import ROUNDING, rising

SURELY, PERHAPS, WITHIN, BEYOND = "surely", "perhaps", "within", "beyond"
COLUMNS = (
    "group", "units", "limit", "limit_of", "removed", "removed_surely", "removed_perhaps", "beyond_scan", "lost", "low",
    "high", "images", "measured", "macs_saved", "macs_saved_share", "latency_ms_saved", "latency_saved_share",
)  # fmt: skip


@dataclass(frozen=True)
class Limit:
    """What may be lost. ``quantity``: "accuracy" (``amount`` a share, 0.01 = 1 point) or "loss" (nats added)."""

    quantity: str
    amount: float

    def __post_init__(self) -> None:
        if self.quantity not in ("accuracy", "loss"):
            raise MeasureError(f"A limit is one of accuracy or loss; found {self.quantity!r}.")
        if not 0 <= self.amount < float("inf"):
            raise MeasureError(f"A limit is a number from 0 up; found {self.amount}.")


@dataclass(frozen=True)
class Lost:
    """What is lost against the dense network when ``removed`` units of one group alone leave: accuracy as a share, or
    nats of loss added. ``low``, ``high``: its 95 % interval, None where none is known. ``measured``: False between two
    measured widths, where all numbers are interpolated."""

    removed: int
    value: float
    low: float | None
    high: float | None
    images: int
    measured: bool = True

    def verdict(self, limit: Limit) -> str:
        """SURELY: the whole interval lies within the limit. BEYOND: none of it. PERHAPS: a part. Where no interval is
        known: WITHIN or BEYOND, as the value is."""
        if self.low is None or self.high is None:
            return WITHIN if self.value <= limit.amount else BEYOND
        if self.high <= limit.amount:
            return SURELY
        return PERHAPS if self.low <= limit.amount else BEYOND


@dataclass(frozen=True)
class Room:
    """The largest removals of one group alone that stay within a limit, as numbers of units.

    ``removed``: by the value, interpolated between measured widths; one beyond the limit does not count where wider
    ones within it outweigh it (isotonic regression, weighted by images). ``surely``: the widest measured one whose
    whole interval is within, and so it is for all before it. ``perhaps``: the widest whose interval reaches into the
    limit (both None where no interval is known). ``last``: as far as was measured; that removal may not be the end.
    """

    id: str
    name: str
    units: int
    removed: int
    surely: int | None
    perhaps: int | None
    last: int

    def count(self, judged: str) -> int:
        """``removed`` for WITHIN, ``surely`` or ``perhaps`` for the others where an interval is known."""
        found = {WITHIN: self.removed, SURELY: self.surely, PERHAPS: self.perhaps}[judged]
        return self.removed if found is None else found


@dataclass(frozen=True)
class RankRow:
    """A group's room and what removing ``removed`` units of it alone saves: multiply-adds exactly, milliseconds as
    predicted (None without a table), each also as a share of what the network takes that the scan started from.
    ``lost``: what it costs."""

    room: Room
    removed: int
    lost: Lost
    macs_saved: int
    macs_share: float
    ms_saved: float | None
    ms_share: float | None

    @property
    def share(self) -> float:
        return self.removed / self.room.units


@dataclass(frozen=True)
class LossEstimate:
    """First-order estimates of the loss added when a group's n lowest-scored units leave, for n = 0 .. units - 1.

    ``absolute[group_id][n]``: sum over these units of the mean over images of |dC/dz . z|, so nothing cancels.
    ``signed``: the same with signs, the first-order term of the mean loss itself. z: the unit's map where it is read,
    C: one image's cross-entropy, in nats. ``criterion``: whose scores say which units leave.
    """

    absolute: Mapping[str, tuple[float, ...]]
    signed: Mapping[str, tuple[float, ...]]
    criterion: str
    images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``LossEstimate.from_dict`` gives the same back."""
        parts = {"absolute": self.absolute, "signed": self.signed}
        plain = {part: {name: list(row) for name, row in rows.items()} for part, rows in parts.items()}
        return {**plain, "criterion": self.criterion, "images": self.images}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> LossEstimate:
        """Raises MeasureError when ``data`` is no stored estimate."""
        try:
            absolute, signed = (
                {name: tuple(map(float, row)) for name, row in data[part].items()} for part in ("absolute", "signed")
            )
            return LossEstimate(absolute, signed, str(data["criterion"]), int(data["images"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MeasureError(
                f"Expected a stored Taylor estimate; found something else ({error}). Estimate again."
            ) from error


def lost_points(sensitivity: Sensitivity, group_id: str, quantity: str) -> list[Lost]:
    """What was lost at every measured width, by rising removal, against the network the scan started from.

    Accuracy: the interval is paired where the scan kept what that takes, else Newcombe's for independent shares.
    """
    start, *points = sensitivity.points[group_id]
    units = round(start.kept / (1 - start.removed_fraction))
    known = 0.0 if quantity == "accuracy" else None
    first = Lost(units - start.kept, 0.0, known, known, start.images)
    return [first, *(_lost(sensitivity, point, units - point.kept, quantity) for point in points)]


def _lost(sensitivity: Sensitivity, point: CurvePoint, removed: int, quantity: str) -> Lost:
    if quantity == "loss":
        return Lost(removed, sensitivity.added(point), None, None, point.images)
    change = sensitivity.changed(point)
    return Lost(removed, -change.value, -change.high, -change.low, change.images)


def lost_at(found: Sequence[Lost], removed: int) -> Lost:
    """As ``lost_points``, at any width up to the last: linear between its neighbours, their ends too."""
    after = next((one for one in found if one.removed >= removed), found[-1])
    if after.removed <= removed:
        return after
    before = [one for one in found if one.removed < removed][-1]
    share = (removed - before.removed) / (after.removed - before.removed)

    def between(low: float | None, high: float | None) -> float | None:
        return None if low is None or high is None else low + share * (high - low)

    value = before.value + share * (after.value - before.value)
    ends = between(before.low, after.low), between(before.high, after.high)
    return Lost(removed, value, *ends, min(before.images, after.images), measured=False)


def room(trace: Trace, sensitivity: Sensitivity, group_id: str, limit: Limit) -> Room:
    """The largest removals of one group that stay within ``limit``: all smaller ones do, too.

    Raises MeasureError for a group without a curve.
    """
    if group_id not in sensitivity.points:
        raise MeasureError(f"Group {group_id} has no curve yet. Scan it first.")
    group, found = trace.group(group_id), _heard(lost_points(sensitivity, group_id, limit.quantity), limit)
    surely = perhaps = None
    lows = [one.low for one in found if one.low is not None]
    if len(lows) == len(found) and limit.quantity == "accuracy":
        sure = [one.verdict(limit) == SURELY for one in found]
        surely = found[(sure.index(False) if False in sure else len(sure)) - 1].removed
    removed = _within(found, limit)
    if surely is not None:
        perhaps = max(removed, _crossing(found, lows, limit.amount))
    return Room(group.id, group.name, group.units, removed, surely, perhaps, found[-1].removed)


def _heard(found: Sequence[Lost], limit: Limit) -> list[Lost]:
    """Without points on few images between points on many, but for those that few images suffice to say no to."""
    weak = outweighed([one.images for one in found])
    return [one for one, passed in zip(found, weak, strict=True) if not passed or _surely_beyond(one, limit)]


def _within(found: Sequence[Lost], limit: Limit) -> int:
    """The largest removal within ``limit`` by the rising curve nearest to what was measured, each width counted by its
    images: one that exceeds the limit by chance does not end it where wider ones stay within, one that surely exceeds
    it does. What was measured at the end that is found, or is interpolated there, is within the limit."""
    fitted = rising([one.value for one in found], [one.images for one in found])
    over = [value > limit.amount + ROUNDING for value in fitted]
    end = next((at for at, one in enumerate(found) if over[at] or _surely_beyond(one, limit)), len(found))
    start = max((at for at in range(end) if found[at].value <= limit.amount), default=0)
    kept = [found[start], *found[end : end + 1]]
    return _crossing(kept, [math.inf if math.isnan(one.value) else one.value for one in kept], limit.amount)


def _surely_beyond(one: Lost, limit: Limit) -> bool:
    return one.low is not None and one.verdict(limit) == BEYOND


def _crossing(found: Sequence[Lost], values: Sequence[float], amount: float) -> int:
    """The last whole number of removed units before ``values``, linear between widths, first exceed ``amount``."""
    for at in range(1, len(found)):
        if values[at] > amount:
            low, high = values[at - 1], values[at]
            steps = found[at].removed - found[at - 1].removed
            # A hair more, so that a value that is exactly the limit counts as within.
            return found[at - 1].removed + min(steps - 1, int(steps * (amount - low) / (high - low) + ROUNDING))
    return found[-1].removed


def rank_groups(
    trace: Trace,
    sensitivity: Sensitivity,
    limit: Limit,
    *,
    judged: str = WITHIN,
    table: LatencyTable | None = None,
    order: str = "share",
    plan: Plan | None = None,
) -> list[RankRow]:
    """Every scanned group with what it alone can lose within ``limit``, most first.

    plan: what the scan started from (None = the dense network); what it removed already is among the removed units,
    and saves nothing more. judged: WITHIN (by the value), SURELY or PERHAPS (by the interval, where there is one).
    order: "share" of the units, "macs" or "ms" saved (ms without ``table``: as "share"); ties keep network order.
    Raises MeasureError for another order, and when ``table`` belongs to another network.
    """
    if order not in ("share", "macs", "ms"):
        raise MeasureError(f"Groups are ranked by share, macs or ms; found {order!r}.")
    start = plan or Plan({})
    dense = count_cost(trace, start).macs
    whole = predict_latency(trace, start, table).median_ms if table is not None else None
    rows = []
    for group in trace.coupled:
        if group.id not in sensitivity.points:
            continue
        has = room(trace, sensitivity, group.id, limit)
        removed = has.count(judged)
        narrow = Plan({**start.kept, **_narrowed(trace, start, group.id, removed)})
        macs = dense - count_cost(trace, narrow).macs
        ms = (
            whole - predict_latency(trace, narrow, table).median_ms if table is not None and whole is not None else None
        )
        lost = lost_at(_heard(lost_points(sensitivity, group.id, limit.quantity), limit), removed)
        rows.append(
            RankRow(
                has, removed, lost, macs, macs / max(1, dense), ms, ms / whole if ms is not None and whole else None
            )
        )
    return sorted(rows, key=lambda row: -_worth(row, order))


def _narrowed(trace: Trace, start: Plan, group_id: str, removed: int) -> Mapping[str, tuple[int, ...]]:
    """A group's entry with ``removed`` units gone, among those that ``start`` keeps; none where it keeps no more."""
    left = start.kept.get(group_id, tuple(range(trace.group(group_id).units)))
    kept = max(1, trace.group(group_id).units - removed)
    return {group_id: left[:kept]} if kept < len(left) else {}


def _worth(row: RankRow, order: str) -> float:
    if order == "macs":
        return row.macs_saved
    return row.ms_saved if order == "ms" and row.ms_saved is not None else row.share


def rank_csv(rows: Sequence[RankRow], limit: Limit) -> str:
    """The ranking as CSV, in its order: COLUMNS. Accuracy in shares, loss in nats, empty where nothing is known."""
    lines: list[Sequence[Any]] = [COLUMNS]
    for row in rows:
        has, lost = row.room, row.lost
        lines.append(
            [
                has.id, has.units, limit.amount, limit.quantity, row.removed, has.surely, has.perhaps,
                int(row.removed >= has.last), lost.value, lost.low, lost.high, lost.images, int(lost.measured),
                row.macs_saved, row.macs_share, row.ms_saved, row.ms_share,
            ]
        )  # fmt: skip
    return write_csv(lines)


def estimate_losses(
    scores: Scores, contributions: Mapping[str, Sequence[tuple[float, float]]], images: int
) -> LossEstimate:
    """Sums of (absolute, signed) first-order changes per unit, in the order in which ``scores`` let the units leave.

    contributions: group id -> one pair per unit, from ``first_order_changes`` on ``images`` images.
    Raises MeasureError for a group without scores.
    """
    absolute: dict[str, tuple[float, ...]] = {}
    signed: dict[str, tuple[float, ...]] = {}
    for group_id, pairs in contributions.items():
        if group_id not in scores.scores:
            raise MeasureError(f"Group {group_id} has no {scores.criterion} scores. Score the channels again.")
        leaving = scores.ranking(group_id)[::-1][: len(pairs) - 1]
        absolute[group_id] = tuple(accumulate((pairs[unit][0] for unit in leaving), initial=0.0))
        signed[group_id] = tuple(accumulate((pairs[unit][1] for unit in leaving), initial=0.0))
    return LossEstimate(absolute, signed, scores.criterion, images)


def columns_csv(columns: Mapping[str, Sequence[Any]]) -> str:
    """A table as CSV: heads and their columns, all of one length."""
    return write_csv([list(columns), *zip(*columns.values(), strict=True)])


def write_csv(lines: Sequence[Sequence[Any]]) -> str:
    """Lines as CSV; None becomes an empty cell."""
    # A network's own layer names go to a spreadsheet: one that begins like a formula must stay text.
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "@") else cell for cell in line] for line in lines
    )
    return text.getvalue()
