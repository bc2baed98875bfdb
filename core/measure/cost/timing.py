"""Measure the latency table of a network on this machine.

Every kind of operator is timed once, alone, at whole blocks of channels and beside them. What the sum of operators
misses (the interpreter between them, colder caches) is read off whole networks: the dense one, two uniformly narrow
ones and some of random widths, drawn here with a seed of their own. From them come a factor for each family of
operators and a constant, by non-negative least squares that holds the factors together where networks do not tell.

A shared machine changes its speed from second to second. So a fixed piece of arithmetic is timed between the calls
throughout, every call is taken relative to it, and the lower quartile over rounds is scaled to the speed the machine
has when it is hardly disturbed. With one thread on a processor, time is the thread's own: while other programs have
their turn it stands still. (A long call meets more of their turns than the short ones it is made of; that would look
like overhead.) Whole networks take turns with the dense one, and are taken relative to it, until two halves of the runs
agree. A person waits for wall time, so the dense network's is taken at the beginning and at the end; what the table
foretells is scaled to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn

from core.errors import Cancelled, MeasureError
from core.measure.cost.clock import LEAST, PATIENCE, SWEEPS, Clock, Stop, low
from core.measure.cost.latency import check_runs, device_name, time_rounds
from core.measure.cost.lookup import family_sums
from core.measure.cost.memory import keeping_memory
from core.measure.cost.steps import Run, StepCall, sized_copy, step_model, uniform_plan, widths
from core.measure.cost.tables import LatencyTable, StepTimes
from core.measure.cost.wall import Wall
from core.measure.cost.ways import prepare_run
from core.records import Plan, Trace, fingerprint_state
from core.trace.graph import named_state
from core.trace.modes import evaluating, thread_count

NARROW = (0.5, 0.25, 0.06)  # kept shares of uniformly narrow networks that are timed whole; the last is mostly overhead
RANDOM = 12  # networks of random widths that are timed whole
WHOLE = 0.35  # share of the time for whole networks
PREPARING = 2  # rounds that it takes to make the tensors and warm up
MEMORY_BYTES = 128 << 20  # tensors that may be alive at once while operators are timed
WALL_REPEATS, WALL_SECONDS = 25, 2.5  # of the dense network on the wall, before and after
TURNS = 150  # calls at most that take turns: PyTorch's library on processors remembers about 1000 kernels it has made
ANCHOR = 4.0  # the square root of the dense network's weight among the whole networks
USUAL, ROBUST = 0.05, 8  # errors of a network beyond it count less; rounds of reweighting
PULL = 0.15  # how strongly factors are held near each other, beside the relative error of a network
FAMILIES = ("convolution", "grouped", "product", "other")

Progress = Callable[..., None]


def build_latency_table(
    trace: Trace,
    *,
    batch: int = 1,
    threads: int | None = None,
    points: int = 4,
    repeats: int = 15,
    max_seconds: float = 60.0,
    on_progress: Progress | None = None,
    cancelled: Stop | None = None,
) -> LatencyTable:
    """Time every kind of operator of the traced network at about ``points`` whole blocks of channels in and out, as
    many widths beside them, and some whole networks.

    At most ``repeats`` rounds. max_seconds: rounds, then widths, are cut until the time should suffice; three rounds of
    the fewest widths are made even past it. Where other programs run it is processor time, up to three times as long.
    The network itself is not changed; operators run on made-up tensors.
    Raises MeasureError when the network does not run at that batch, Cancelled when asked to stop (nothing is kept: a
    table is whole or useless).
    """
    if points < 2 or batch < 1 or repeats < 1 or not max_seconds > 0:
        raise MeasureError(
            f"Latency table: expected 2 points, a batch and repeats of 1 or more, and some seconds; found {points}, "
            f"{batch}, {repeats}, {max_seconds}."
        )
    tell = on_progress or (lambda *_: None)
    model = step_model(trace, batch)
    device = next((p.device for p in trace.module.parameters()), torch.device("cpu"))
    with thread_count(threads) as used, torch.inference_mode(), keeping_memory():
        tell(0.0, "Measuring whole networks")
        clock = Clock(device, cancelled)
        wall = _wall(trace, batch, cancelled)
        plans, measured, spread = _whole_networks(trace, batch, 4 * repeats, WHOLE * max_seconds, clock, tell)
        tell(WHOLE, "Measuring operators")
        seconds = (1 - WHOLE) * max_seconds
        steps, untimed = _time_steps((*model.calls, *model.gathers), points, repeats, seconds, clock, tell)
        wall += _wall(trace, batch, cancelled)
    quiet = clock.quiet_ms()
    steps = {key: replace(s, ms=tuple(tuple(quiet * ms for ms in row) for row in s.ms)) for key, s in steps.items()}
    state = fingerprint_state(named_state(trace.module))
    table = LatencyTable(
        steps, (), spread, untimed, device_name(device), used, batch, torch.__version__, state,
        clock.samples, len(plans),
    )  # fmt: skip
    tell(1.0, "Latency table is ready")
    return on_the_wall(calibrated(trace, table, plans, quiet * measured), wall)


def _wall(trace: Trace, batch: int, cancelled: Stop | None) -> list[float]:
    """Wall milliseconds of the dense network."""
    image = trace.example[:1].repeat(batch, *[1] * (trace.example.dim() - 1))
    device = next((p.device for p in trace.module.parameters()), image.device)
    image = image.to(device)
    with evaluating(trace.module):
        check_runs(trace.module, image)
        call = prepare_run(trace.module, image, "eager")
        call()
        return time_rounds([call], WALL_REPEATS, 0.0, WALL_SECONDS, cancelled)[0]


def on_the_wall(table: LatencyTable, wall_ms: Sequence[float]) -> LatencyTable:
    """``table`` with what it foretells of the dense network scaled to the median of ``wall_ms``."""
    first, median, third = np.percentile(wall_ms, [25, 50, 75]).tolist()
    when = datetime.now(UTC).isoformat(timespec="seconds")
    factor = median / max(table.knots[-1][1], 1e-9)
    return replace(table, wall=Wall(factor, median, first, third, len(wall_ms), when))


def calibrated(
    trace: Trace, table: LatencyTable, plans: Sequence[Plan | None], measured_ms: np.ndarray
) -> LatencyTable:
    """``table`` with factors of the families and knots that meet whole networks. plans[0]: None, the dense one."""
    sums = np.array([family_sums(trace, plan, table, FAMILIES) for plan in plans])
    factors, constant = _fit(sums, measured_ms)
    kinds = {call.key: call.family for call in step_model(trace, table.batch).calls}
    scale = dict(zip(FAMILIES, factors.tolist(), strict=True))
    steps = {key: replace(s, in_network=scale[kinds.get(key, "other")]) for key, s in table.steps.items()}
    operators = sums @ factors
    dense = max(float(operators[0]), 1e-9)
    knots = ((dense / 4, dense / 4 + constant), (dense, dense + constant))
    return replace(table, steps=steps, knots=knots)


def _fit(sums: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, float]:
    """Minimise sum_n w_n ((sums_n . f + c) / y_n - 1)^2 + PULL^2 |f - f0|^2 + small c, over f, c >= 0.

    f0: the factor that all families would share. w: 1, less for a network that is further off than usual (Huber 1964);
    more for the dense network, which comes first, was timed most, and is what all predictions are scaled to.
    """
    total = sums.sum(axis=1)
    shared = float(np.median(measured / np.maximum(total, 1e-9)))
    plain = np.column_stack([sums * shared, np.full(len(sums), measured.min())]) / measured[:, None]
    weights = np.ones(len(sums))
    weights[0] = ANCHOR
    for _ in range(ROBUST):
        found = _weighted(plain, weights)
        weights[1:] = np.sqrt(np.minimum(1.0, USUAL / np.maximum(np.abs(plain[1:] @ found - 1), 1e-9)))
    return shared * found[:-1], float(found[-1] * measured.min())


def _weighted(plain: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Non-negative least squares of ``plain`` x = 1, rows weighted, x pulled to (1, .., 1, 0)."""
    design = plain * weights[:, None]
    pull = PULL * np.eye(plain.shape[1])
    towards = np.ones(plain.shape[1])
    towards[-1] = 0.0
    found: np.ndarray = nnls(np.vstack([design, pull]), np.concatenate([weights, PULL * towards]))[0]
    return found


def random_widths(trace: Trace, count: int) -> list[Plan]:
    """Plans for times only: any units would do. Even numbers around one share, odd ones with each group its own."""
    rng = np.random.default_rng(20_240_229)
    plans = []
    for number in range(count):
        middle = 0.2 + 0.75 * (number + 0.5) / count
        kept = {}
        for group in trace.prunable:
            share = rng.uniform(0.1, 1.0) if number % 2 else middle + rng.uniform(-0.2, 0.2)
            kept[group.id] = tuple(range(min(group.units, max(1, round(share * group.units)))))
        plans.append(Plan(kept))
    return plans


def _whole_networks(
    trace: Trace, batch: int, turns: int, seconds: float, clock: Clock, tell: Progress
) -> tuple[list[Plan | None], np.ndarray, tuple[float, float]]:
    """(plans, their networks' times in units of the reference, quartiles of the dense one's over its median)."""
    image = trace.example[:1].repeat(batch, *[1] * (trace.example.dim() - 1)).to(clock.device)
    plans: list[Plan | None] = [None]
    networks: list[nn.Module] = [trace.module]
    with evaluating(trace.module):
        begin = clock.now()
        check_runs(trace.module, image)
        trace.module(image)
        dense_s = (clock.now() - begin) / 2
        more = (
            [*(uniform_plan(trace, share) for share in NARROW), *random_widths(trace, RANDOM)] if trace.prunable else []
        )
        for plan in more[: max(1, int(seconds / (1.6 * 2 * LEAST * dense_s)))]:
            network = sized_copy(trace, plan)
            if network is not None:
                plans.append(plan)
                networks.append(network)
        tell(0.1 * WHOLE, f"Timing {len(networks)} whole networks")
        calls = [lambda network=network: network(image) for network in networks]
        rows = clock.turns(calls, turns, seconds)
        dense = low(clock.rounds(calls[:1], 2 * SWEEPS, 0.1 * seconds))[0]
    first, third = np.percentile(rows[0], [25, 75])
    times = np.array([low(row) for row in rows])
    return plans, dense * times / times[0], (1.0, float(third / first))


@dataclass
class _Kind:
    """Steps that do the same work; ``runs`` at every pair of widths that is timed."""

    call: StepCall
    uses: int
    runs: dict[tuple[int, int], Run]


def _time_steps(
    calls: Sequence[StepCall], points: int, repeats: int, seconds: float, clock: Clock, tell: Progress
) -> tuple[dict[str, StepTimes], dict[str, int]]:
    """Each kind of operator once, several at a time in turns, so that caches are as cold as in a network.

    Milliseconds come in units of the reference.
    """
    alike: dict[str, list[StepCall]] = {}
    for call in calls:
        alike.setdefault(call.key, []).append(call)
    points, rounds = _effort(alike, points, repeats, seconds, clock)
    end = time.perf_counter() + PATIENCE * seconds
    steps: dict[str, StepTimes] = {}
    untimed: dict[str, int] = {}
    waiting: list[tuple[str, _Kind]] = []
    alive = 0

    def measure() -> None:
        jobs = [(key, pair, run) for key, kind in waiting for pair, run in kind.runs.items()]
        times = low(clock.rounds([run.function for _, _, run in jobs], rounds, end - time.perf_counter()))
        found = {(key, pair): float(ms) for (key, pair, _), ms in zip(jobs, times, strict=True)}
        for key, kind in waiting:
            widths_in, widths_out = (tuple(sorted({pair[side] for pair in kind.runs})) for side in (0, 1))
            ms = tuple(tuple(found[key, (i, j)] for j in widths_out) for i in widths_in)
            steps[key] = StepTimes(kind.call.title, kind.uses, widths_in, widths_out, ms)
        waiting.clear()

    for number, (key, same) in enumerate(alike.items()):
        if clock.cancelled is not None and clock.cancelled():
            raise Cancelled("Measuring the latency table was cancelled.")
        runs = same[0].prepare(points)
        if runs is None:
            untimed[same[0].operator] = untimed.get(same[0].operator, 0) + len(same)
            continue
        waiting.append((key, _Kind(same[0], len(same), runs)))
        alive += sum(run.bytes for run in runs.values())
        if alive > MEMORY_BYTES or sum(len(kind.runs) for _, kind in waiting) > TURNS:
            measure()
            alive = 0
        tell(WHOLE + (1 - WHOLE) * number / len(alike), f"Measured {number + 1} of {len(alike)} kinds of operators")
    if waiting:
        measure()
    return steps, untimed


def _effort(
    alike: dict[str, list[StepCall]], points: int, repeats: int, seconds: float, clock: Clock
) -> tuple[int, int]:
    """(points, rounds) that should take ``seconds`` at most, told by one run of each kind at its dense width."""
    dense: list[tuple[StepCall, float]] = []
    for same in alike.values():
        runs = same[0].prepare(0)
        if runs is not None:
            (run,) = runs.values()
            begin = clock.now()
            run.function()
            dense.append((same[0], clock.now() - begin))
    for fewer in range(points, 1, -1):
        rounds = int(seconds / max(1e-9, sum(took * _shares(call, fewer) for call, took in dense))) - PREPARING
        if rounds >= LEAST or fewer == 2:
            break
    return fewer, min(max(rounds, LEAST), repeats)


def _shares(call: StepCall, points: int) -> float:
    """How many dense runs all pairs of widths take together."""
    single = call.place_in is None or call.place_out is None
    total = 1.0
    for place in (call.place_in, call.place_out):
        if place is not None:
            total *= sum(width / place.size for width in widths(place, points, single))
    return total
