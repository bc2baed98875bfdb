"""Latency of any plan from a table measured before: a sum over operators, corrected by whole networks.

What a plan costs is read at its own widths, with the steps of the staircase kept; an index select in front of a
consumer that gathers is priced as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from core.errors import MeasureError, PlanError
from core.measure.cost.steps import StepCall, StepModel, step_model
from core.measure.cost.tables import Axis, LatencyTable, StepTimes
from core.measure.cost.wall import Timing, saving_of
from core.measure.cost.widths import Place, kept_masks
from core.records import Latency, Plan, Trace


class LiveWidths:
    """The widths of ``places`` under any plan.

    Nearly always all units of a group hold as many positions of a place, and only how many are kept matters; then it
    is one product of matrices. Which units are kept is asked for the other places, and where a gather chooses.
    """

    def __init__(self, trace: Trace, places: Sequence[Place]) -> None:
        self.trace, self.places = trace, tuple(places)
        self._number = {group.id: number for number, group in enumerate(trace.prunable)}
        self._sizes = np.array([*(place.size for place in places), 0], dtype=np.int64)
        self._each = np.zeros((len(places) + 1, len(self._number)), dtype=np.int64)
        self._odd: list[int] = []
        self._choosing: dict[str, list[int]] = {}
        for at, place in enumerate(places):
            for group, counts in place.per_unit:
                self._each[at, self._number[group]] = counts[0]
            if any((counts != counts[0]).any() for _, counts in place.per_unit):
                self._odd.append(at)
            if place.choice is not None:
                self._choosing.setdefault(place.choice.group, []).append(at)

    def under(self, plan: Plan | None) -> np.ndarray:
        """int64 (places + 1,): the widths that ``plan`` leaves; the last is 0. Raises PlanError for a plan that does
        not fit the network."""
        lost = np.zeros(len(self._number), dtype=np.int64)
        asked = set(self._odd)
        for group_id, kept in (plan.kept if plan else {}).items():
            units = self.trace.group(group_id).units
            if kept[-1] >= units:
                raise PlanError(f"Group {group_id} has {units} units; the plan names unit {kept[-1]}.")
            if group_id in self._number:
                lost[self._number[group_id]] = units - len(kept)
            elif len(kept) < units:
                asked.update(self._choosing.get(group_id, ()))
        widths: np.ndarray = self._sizes - self._each @ lost
        if asked and plan:
            masks = kept_masks(self.trace, plan)
            for at in asked:
                widths[at] = self.places[at].live(masks)
        return widths

    def over(self, plan: Plan | None, group_id: str, counts: Sequence[int]) -> np.ndarray:
        """int64 (counts, places + 1): ``under`` a plan in which one group keeps its first 1, 2, .. units instead."""
        rest = {name: kept for name, kept in (plan.kept if plan else {}).items() if name != group_id}
        chosen = any(name in self._choosing for name in (*rest, group_id))
        if self._odd or chosen:
            return np.stack([self.under(Plan({**rest, group_id: tuple(range(count))})) for count in counts])
        lost = self.trace.group(group_id).units - np.asarray(counts)
        return self.under(Plan(rest)) - np.outer(lost, self._each[:, self._number[group_id]])


@dataclass(frozen=True)
class Prices:
    """A table laid out along the operators of one network: the time of all of them in a few array operations.

    ``live``: the different widths of the network. Per operator: ``at_in``, ``at_out`` its places (the last stands for
    "none"), ``start_in``, ``start_out`` where its axes begin in ``low``, ``high``, ``share``, ``first`` and ``stride``
    of its grid in ``ms``. ``given``: for index selects the place they choose from, -1 for all else.
    """

    calls: tuple[StepCall, ...]
    live: LiveWidths
    at_in: np.ndarray
    at_out: np.ndarray
    given: np.ndarray
    start_in: np.ndarray
    start_out: np.ndarray
    first: np.ndarray
    stride: np.ndarray
    low: np.ndarray
    high: np.ndarray
    share: np.ndarray
    ms: np.ndarray

    @staticmethod
    def of(trace: Trace, model: StepModel, table: LatencyTable) -> Prices:
        """Raises MeasureError when the table was measured for another network."""
        calls = [(call, times) for call in model.calls if (times := _known(call, table)) is not None]
        calls += [(call, table.steps[call.key]) for call in model.gathers if call.key in table.steps]
        numbers: dict[int, int] = {}
        places: list[Place] = []

        def number(place: Place | None) -> int:
            if place is None:
                return -1
            if id(place) not in numbers:
                numbers[id(place)] = len(places)
                places.append(place)
            return numbers[id(place)]

        at_in, at_out, given = (
            np.array([number(place) for place in row], dtype=np.int64)
            for row in (
                [call.place_in for call, _ in calls],
                [call.place_out for call, _ in calls],
                [call.given for call, _ in calls],
            )
        )
        grids = _Grids()
        starts = np.array([grids.add(call, times) for call, times in calls], dtype=np.int64).reshape(len(calls), 4)
        low, high, share, ms = grids.arrays()
        return Prices(
            tuple(call for call, _ in calls), LiveWidths(trace, places), at_in, at_out, given,
            starts[:, 0], starts[:, 1], starts[:, 2], starts[:, 3], low, high, share, ms,
        )  # fmt: skip

    def operators(self, widths: np.ndarray, only: np.ndarray | None = None) -> np.ndarray:
        """(..., operators): milliseconds of every operator inside the network. widths: (..., places + 1).

        only: the numbers of the operators that are asked for, None = all.
        """
        asked = np.arange(len(self.calls)) if only is None else only
        made, given = widths[..., self.at_out[asked]], self.given[asked]
        x, y = self.start_in[asked] + widths[..., self.at_in[asked]], self.start_out[asked] + made
        rows = [self.first[asked] + self.stride[asked] * end[x] for end in (self.low, self.high)]
        s, t = self.share[x], self.share[y]
        a, b = (self.ms[row + self.low[y]] * (1 - t) + self.ms[row + self.high[y]] * t for row in rows)
        times: np.ndarray = a * (1 - s) + b * s
        times[(given >= 0) & (made >= widths[..., given])] = 0.0
        return times


class _Grids:
    """Collects axes and grids behind one another, each kind of operator once."""

    def __init__(self) -> None:
        self._axes: list[Axis] = []
        self._ms: list[np.ndarray] = []
        self._seen: dict[str, tuple[int, int, int, int]] = {}
        self._axis_end = self._ms_end = 0

    def add(self, call: StepCall, times: StepTimes) -> tuple[int, int, int, int]:
        """(start_in, start_out, first, stride) of an operator."""
        if call.key not in self._seen:
            starts = []
            for axis, place in zip(times.axes, (call.place_in, call.place_out), strict=True):
                starts.append(self._axis_end)
                self._axes.append(_reaching(axis, place.size if place else 0))
                self._axis_end += len(self._axes[-1].low)
            self._seen[call.key] = (starts[0], starts[1], self._ms_end, len(times.widths_out))
            self._ms.append(times.in_network * np.array(times.ms).reshape(-1))
            self._ms_end += len(self._ms[-1])
        return self._seen[call.key]

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        names = ("low", "high", "share")
        low, high, share = (np.concatenate([getattr(a, name) for a in self._axes] or [[]]) for name in names)
        return low, high, share, np.concatenate(self._ms or [np.zeros(0)])


def _reaching(axis: Axis, size: int) -> Axis:
    """``axis`` up to ``size``: wider than measured costs what the widest does."""
    more = max(0, size + 1 - len(axis.low))
    return Axis(*(np.pad(values, (0, more), mode="edge") for values in (axis.low, axis.high, axis.share)))


def _known(call: StepCall, table: LatencyTable) -> StepTimes | None:
    times = table.steps.get(call.key)
    if times is None and call.operator not in table.untimed:
        raise MeasureError(
            f"The latency table does not know {call.operator} at this size: it was measured for another network. "
            "Measure a table for this one."
        )
    return times


def prices(trace: Trace, table: LatencyTable) -> Prices:
    """Prepared once per trace and table. Raises MeasureError when the table belongs to another network."""
    known: list[tuple[Mapping[str, StepTimes], Prices]] = trace.__dict__.setdefault("_prices", [])
    for held, found in known:
        if held is table.steps:  # a correction changes what surrounds them, not the steps
            return found
    made = Prices.of(trace, step_model(trace, table.batch), table)
    known[:] = [
        *known[-3:],
        (table.steps, made),
    ]  # a page holds one table or two; more would only be kept from being freed
    return made


def predict_latency(trace: Trace, plan: Plan | None, table: LatencyTable) -> Latency:
    """Estimated wall time of the network ``plan`` describes (None = dense), from ``table``; ``measured`` is False.

    The dense network's is what was measured of it last. The quartiles are the dense network's own, scaled. Raises
    MeasureError when the table belongs to another network.
    """
    median, wall = table.whole(operators_ms(trace, plan, table)), table.wall
    spread = table.spread if wall is None else (wall.low_ms / wall.median_ms, wall.high_ms / wall.median_ms)
    low, high = (share * median for share in spread)
    return Latency(median, low, high, 0, table.batch, table.threads, table.device, measured=False)


def corrected(trace: Trace, table: LatencyTable, timings: Sequence[Timing]) -> LatencyTable:
    """``table`` as it stands after ``timings``, the newest last: the dense network takes what it took then, and what
    plans save is scaled by how much of the foretold savings was had.

    Timings in another setting (threads, batch, device) and tables that know no wall are left as they are. Raises
    MeasureError when the table belongs to another network.
    """
    foretold: list[float] = []
    had: list[float] = []
    start = table
    for timing in timings:
        same = (timing.threads, timing.batch, timing.device) == (table.threads, table.batch, table.device)
        if table.wall is None or not same or any(name not in trace.by_id for name in timing.widths):
            continue
        operators = operators_ms(trace, Plan({name: tuple(range(n)) for name, n in timing.widths.items()}), table)
        foretold.append(1 - start.own(operators) / start.knots[-1][1])
        had.append(1 - timing.plan_ms / timing.dense_ms)
        wall = table.wall.after(timing, table.whole(operators), saving_of(foretold, had))
        table = replace(table, wall=wall)
    return table


def operators_ms(trace: Trace, plan: Plan | None, table: LatencyTable) -> float:
    """Sum of the table's operator times inside the network, at the widths of ``plan``."""
    found = prices(trace, table)
    return float(found.operators(found.live.under(plan)).sum())


def latency_over(
    trace: Trace, plan: Plan | None, table: LatencyTable, group_id: str, counts: Sequence[int]
) -> list[float]:
    """Predicted milliseconds when ``group_id`` keeps each of ``counts`` units, all else as in ``plan``."""
    found = prices(trace, table)
    widths = found.live.over(plan, group_id, counts)
    moves = (widths != widths[0]).any(axis=0)
    moved = moves[found.at_in] | moves[found.at_out] | moves[found.given]
    still = found.operators(widths[0], np.flatnonzero(~moved)).sum()
    sums = still + found.operators(widths, np.flatnonzero(moved)).sum(axis=1)
    return [table.whole(float(ms)) for ms in sums]


def family_sums(trace: Trace, plan: Plan | None, table: LatencyTable, families: Sequence[str]) -> list[float]:
    """As ``operators_ms``, for each family of operators."""
    found = prices(trace, table)
    times = found.operators(found.live.under(plan))
    of = np.array([call.family for call in found.calls])
    return [float(times[of == family].sum()) for family in families]


def latency_terms(trace: Trace, table: LatencyTable) -> list[tuple[float, str | None, str | None]]:
    """Estimated milliseconds of any plan as a sum of coef x kept(a) x kept(b) over groups (None = factor 1).

    An approximation for the browser while a bar is dragged: every operator's grid is replaced by its least-squares
    fit a + b in + c out + d in out, and the knots by one line. The dense network is met exactly; ``predict_latency``
    keeps the staircase and stays the authority. Gathers are no part of it.
    """
    terms: dict[tuple[str | None, str | None], float] = {}
    fits: dict[str, np.ndarray] = {}
    for call in step_model(trace, table.batch).calls:
        times = table.steps.get(call.key)
        if times is None:
            continue
        inside, outside = (_affine(place) for place in (call.place_in, call.place_out))
        if call.key not in fits:
            fits[call.key] = times.in_network * _bilinear_fit(times)
        coefs = fits[call.key]
        for coef, first, second in (
            (coefs[0], {None: 1.0}, {None: 1.0}), (coefs[1], inside, {None: 1.0}),
            (coefs[2], {None: 1.0}, outside), (coefs[3], inside, outside),
        ):  # fmt: skip
            for a, x in first.items():
                for b, y in second.items():
                    group_a, group_b = [*sorted(name for name in (a, b) if name), None, None][:2]
                    terms[group_a, group_b] = terms.get((group_a, group_b), 0.0) + coef * x * y
    x, y = np.array(table.knots).T
    slope = float(np.polyfit(x, y, 1)[0]) if len(x) > 1 else float(y[0] / max(x[0], 1e-9))
    slope *= table.wall.factor * table.wall.saving if table.wall is not None else 1.0
    terms = {key: slope * coef for key, coef in terms.items()}
    full = {group.id: group.units for group in trace.prunable} | {None: 1}
    dense = sum(coef * full[a] * full[b] for (a, b), coef in terms.items())
    terms[None, None] = terms.get((None, None), 0.0) + table.whole(float(x[-1])) - dense
    return [(coef, a, b) for (a, b), coef in terms.items() if coef]


def _affine(place: Place | None) -> dict[str | None, float]:
    """Width of a place as a constant plus a share per kept unit of each group."""
    if place is None:
        return {None: 0.0}
    sizes: dict[str | None, float] = {None: float(place.size)}
    for group, counts in place.per_unit:
        sizes[group] = float(counts.mean())
        sizes[None] -= float(counts.sum())
    return sizes


def _bilinear_fit(times: StepTimes) -> np.ndarray:
    grid_in, grid_out = np.meshgrid(times.widths_in, times.widths_out, indexing="ij")
    x, y = grid_in.reshape(-1).astype(float), grid_out.reshape(-1).astype(float)
    design = np.stack([np.ones_like(x), x, y, x * y], axis=1)
    fitted: np.ndarray = np.linalg.lstsq(design, np.array(times.ms).reshape(-1), rcond=None)[0]
    return fitted
