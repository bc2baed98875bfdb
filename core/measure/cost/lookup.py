"""Latency of any plan from a table measured on this machine.

Every operator of the tape is timed at a small grid of widths; between measured widths times are interpolated, so the
staircase of vectorised kernels stays. What the sum of operators misses (the interpreter between them, caches) is
read off whole networks timed in the same build: the dense one and two narrow ones.
"""

from __future__ import annotations

import csv
import io
import json
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from core.errors import Cancelled, MeasureError
from core.measure.cost.latency import measure_together, time_rounds
from core.measure.cost.steps import StepCall, sized_copy, step_model, uniform_plan
from core.measure.cost.widths import Place, kept_masks
from core.records import Latency, Plan, Trace, fingerprint_state
from core.trace.graph import named_state
from core.trace.modes import thread_count

KNOT_SHARES = (0.5, 0.25)  # kept shares of the narrow networks that are timed whole
# Other programs only ever add time, often a whole time slice: the table keeps what the machine does undisturbed.
QUIET = 25  # percentile
MEMORY_BYTES = 128 << 20  # tensors that may be alive at once while operators are timed


@dataclass(frozen=True)
class StepTimes:
    """Milliseconds of one operator: ``ms[i][j]`` with ``widths_in[i]`` channels read and ``widths_out[j]`` made.

    An operator with one width (batch norm, pooling, depthwise) has it in ``widths_out``; ``widths_in`` is then (0,).
    """

    operator: str
    uses: int  # how many steps of the network are like this
    widths_in: tuple[int, ...]
    widths_out: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]

    def at(self, width_in: int, width_out: int) -> float:
        """Bilinear between the measured widths, constant beyond them."""
        i, s = _between(self.widths_in, width_in)
        j, t = _between(self.widths_out, width_out)
        row = self.ms[i]
        low = row[j] * (1 - t) + row[j + 1] * t if t else row[j]
        if not s:
            return low
        row = self.ms[i + 1]
        return low * (1 - s) + (row[j] * (1 - t) + row[j + 1] * t if t else row[j]) * s


@dataclass(frozen=True)
class LatencyTable:
    """Times of a network's operators on one machine. ``steps``: by operator signature.

    ``knots``: (sum of operator times, measured time of the whole network) in ms, rising. ``spread``: first and third
    quartile of the dense network, as shares of the first. ``untimed``: operators that could not be run alone; they
    count as nothing by themselves and are carried by the knots.
    """

    steps: Mapping[str, StepTimes]
    knots: tuple[tuple[float, float], ...]
    spread: tuple[float, float]
    untimed: Mapping[str, int]
    device: str
    threads: int
    batch: int
    torch_version: str
    fingerprint: str

    def whole(self, operators_ms: float) -> float:
        """Time of the network whose operators take ``operators_ms`` together."""
        if len(self.knots) == 1:
            ((operators, measured),) = self.knots
            return operators_ms * measured / max(operators, 1e-9)
        i = min(max(bisect_right([knot[0] for knot in self.knots], operators_ms) - 1, 0), len(self.knots) - 2)
        (x0, y0), (x1, y1) = self.knots[i], self.knots[i + 1]
        slope = (y1 - y0) / max(x1 - x0, 1e-9)
        return max(y0 + slope * (operators_ms - x0), 0.1 * self.knots[0][1])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``LatencyTable.from_dict`` gives the same table back."""
        steps = {
            key: {"operator": s.operator, "uses": s.uses, "in": s.widths_in, "out": s.widths_out, "ms": s.ms}
            for key, s in self.steps.items()
        }
        return {**self.__dict__, "steps": steps, "untimed": dict(self.untimed)}

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> LatencyTable:
        """Raises MeasureError when ``data`` is no latency table."""
        try:
            steps = {
                key: StepTimes(s["operator"], s["uses"], tuple(s["in"]), tuple(s["out"]), tuple(map(tuple, s["ms"])))
                for key, s in data["steps"].items()
            }
            knots = tuple((float(x), float(y)) for x, y in data["knots"])
            low, high = data["spread"]
            rest = {name: data[name] for name in ("device", "threads", "batch", "torch_version", "fingerprint")}
            return LatencyTable(steps, knots, (low, high), dict(data["untimed"]), **rest)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MeasureError(f"Expected a latency table; {error!r} is missing or wrong. Measure it again.") from error

    @staticmethod
    def from_json(text: str) -> LatencyTable:
        try:
            data = json.loads(text)
        except ValueError as error:
            raise MeasureError(f"Expected a latency table in JSON; found {text[:40]!r}. Measure it again.") from error
        return LatencyTable.from_dict(data)

    def to_csv(self) -> str:
        """One row per operator and width: operator, uses, width_in, width_out, ms."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["operator", "uses", "width_in", "width_out", "ms"])
        for step in self.steps.values():
            for i, width_in in enumerate(step.widths_in):
                for j, width_out in enumerate(step.widths_out):
                    writer.writerow([step.operator, step.uses, width_in or "", width_out, f"{step.ms[i][j]:.6f}"])
        return out.getvalue()


def build_latency_table(
    trace: Trace,
    *,
    batch: int = 1,
    threads: int | None = None,
    points: int = 4,
    repeats: int = 15,
    on_progress: Callable[..., None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> LatencyTable:
    """Time every operator of the traced network at ``points`` widths in and out, and three whole networks.

    The network itself is not changed; operators run on made-up tensors. Raises MeasureError when the network does not
    run at that batch, Cancelled when asked to stop (nothing is kept: a table is whole or useless).
    """
    if points < 2 or batch < 1:
        raise MeasureError(f"Latency table: expected 2 widths and 1 image or more; found {points} and {batch}.")
    tell = on_progress or (lambda *_: None)
    calls = step_model(trace, batch).calls
    with thread_count(threads) as used, torch.inference_mode():
        tell(0.0, "Measuring whole networks")
        plans = [None, *(uniform_plan(trace, share) for share in KNOT_SHARES)] if trace.prunable else [None]
        built = [(trace.module if plan is None else sized_copy(trace, plan), plan) for plan in plans]
        plans = [plan for module, plan in built if module is not None]
        modules = [module for module, _ in built if module is not None]
        times = measure_together(
            modules, trace.example, batch=batch, repeats=3 * repeats, min_seconds=0.3, max_seconds=20,
            cancelled=cancelled,
        )  # fmt: skip
        steps, untimed = _time_steps(calls, points, repeats, tell, cancelled)
    whole = times[0]
    spread = (1.0, whole.high_ms / whole.low_ms)
    state = fingerprint_state(named_state(trace.module))
    table = LatencyTable(
        steps, (), spread, untimed, whole.device, used, batch, torch.__version__, state,
    )  # fmt: skip
    sums = [operators_ms(trace, plan, table) for plan in plans]
    tell(1.0, "Latency table is ready")
    measured = [time.low_ms for time in times]  # the percentile QUIET
    return LatencyTable(**{**table.__dict__, "knots": _rising(list(zip(sums, measured, strict=True)))})


def predict_latency(trace: Trace, plan: Plan | None, table: LatencyTable) -> Latency:
    """Estimated time of the network ``plan`` describes (None = dense), from ``table``; ``measured`` is False.

    The quartiles are the dense network's own, scaled. Raises MeasureError when the table belongs to another network.
    """
    median = table.whole(operators_ms(trace, plan, table))
    low, high = (share * median for share in table.spread)
    return Latency(median, low, high, 0, table.batch, table.threads, table.device, measured=False)


def operators_ms(trace: Trace, plan: Plan | None, table: LatencyTable) -> float:
    """Sum of the table's operator times at the widths of ``plan``."""
    masks = kept_masks(trace, plan)
    widths: dict[int, int] = {}  # by place: many steps share one
    total = 0.0
    for call in step_model(trace, table.batch).calls:
        times = table.steps.get(call.key)
        if times is None:
            if call.operator in table.untimed:
                continue
            raise MeasureError(
                f"The latency table does not know {call.operator} at this size: it was measured for another network. "
                "Measure a table for this one."
            )
        pair = []
        for place in (call.place_in, call.place_out):
            if place is None:
                pair.append(0)
                continue
            if id(place) not in widths:
                widths[id(place)] = place.live(masks)
            pair.append(widths[id(place)])
        total += times.at(*pair)
    return total


def latency_terms(trace: Trace, table: LatencyTable) -> list[tuple[float, str | None, str | None]]:
    """Estimated milliseconds of any plan as a sum of coef x kept(a) x kept(b) over groups (None = factor 1).

    An approximation for the browser while a bar is dragged: every operator's grid is replaced by its least-squares
    fit a + b in + c out + d in out, and the knots by one line. The dense network is met exactly; ``predict_latency``
    keeps the staircase and stays the authority.
    """
    terms: dict[tuple[str | None, str | None], float] = {}
    for call in step_model(trace, table.batch).calls:
        times = table.steps.get(call.key)
        if times is None:
            continue
        inside, outside = (_affine(place) for place in (call.place_in, call.place_out))
        coefs = _bilinear_fit(times)
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
    terms = {key: slope * coef for key, coef in terms.items()}
    full = {group.id: group.units for group in trace.prunable} | {None: 1}
    dense = sum(coef * full[a] * full[b] for (a, b), coef in terms.items())
    terms[None, None] = terms.get((None, None), 0.0) + float(table.knots[-1][1]) - dense
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


def _between(widths: tuple[int, ...], width: int) -> tuple[int, float]:
    """Index of the measured width below, and how far on to the next (0 when beyond either end)."""
    i = bisect_right(widths, width) - 1
    if i < 0:
        return 0, 0.0
    if i >= len(widths) - 1:
        return len(widths) - 1, 0.0
    return i, (width - widths[i]) / (widths[i + 1] - widths[i])


def _rising(knots: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """By operator time, without those that fall back below a narrower network: that was noise. Dense stays."""
    dense = max(knots)
    result = [dense]
    for knot in sorted(knots[1:], reverse=True):
        if knot[0] < result[0][0] - 1e-9 and knot[1] < result[0][1]:
            result.insert(0, knot)
    return tuple(result)


def _time_steps(
    calls: Sequence[StepCall],
    points: int,
    repeats: int,
    tell: Callable[..., None],
    cancelled: Callable[[], bool] | None,
) -> tuple[dict[str, StepTimes], dict[str, int]]:
    """Each kind of operator once, several at a time in turns, so that caches are as cold as in a network."""
    uses: dict[str, list[StepCall]] = {}
    for call in calls:
        uses.setdefault(call.key, []).append(call)
    steps: dict[str, StepTimes] = {}
    untimed: dict[str, int] = {}
    jobs: list[tuple[str, int, int, Callable[[], object]]] = []
    found: dict[tuple[str, int, int], float] = {}
    alive = 0

    def measure() -> None:
        nonlocal alive
        for job, row in zip(jobs, time_rounds([job[3] for job in jobs], repeats, cancelled=cancelled), strict=True):
            found[job[:3]] = float(np.percentile(row, QUIET))
        jobs.clear()
        alive = 0

    for number, (key, alike) in enumerate(uses.items()):
        if cancelled is not None and cancelled():
            raise Cancelled("Measuring the latency table was cancelled.")
        call = alike[0]
        runs = call.prepare(points)
        if runs is None:
            untimed[call.operator] = untimed.get(call.operator, 0) + len(alike)
            continue
        for (i, j), run in runs.items():
            jobs.append((key, i, j, run.function))
            alive += run.bytes
        widths_in, widths_out = (tuple(sorted({pair[side] for pair in runs})) for side in (0, 1))
        steps[key] = StepTimes(call.title, len(alike), widths_in, widths_out, ())
        if alive > MEMORY_BYTES:
            measure()
        tell(0.2 + 0.8 * number / len(uses), f"Measured {number + 1} of {len(uses)} kinds of operators")
    measure()
    for key, step in steps.items():
        ms = tuple(tuple(found[key, i, j] for j in step.widths_out) for i in step.widths_in)
        steps[key] = StepTimes(step.operator, step.uses, step.widths_in, step.widths_out, ms)
    return steps, untimed
