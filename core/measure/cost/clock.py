"""A clock for machines that others use too: times beside a reference, networks beside the dense one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from core.errors import Cancelled

# Other programs only ever add time: the table keeps what the machine does when it is hardly disturbed.
QUIET = 25  # percentile of a call's times relative to the reference
BEST = 10  # percentile of the reference's times
LEAST = 3  # rounds, however long they take
ROW, ROW_MS = 4, 300.0  # runs of one whole network after another, where they do not take longer
AGREE = 0.012  # two halves of the runs differ by so little (median over networks): enough
SWEEPS = 8  # before that is asked
PATIENCE = 3.0  # times as long as in a quiet hour it may take
REFERENCE_MS = 4.0  # the reference is timed after this much of other work

Stop = Callable[[], bool]


@dataclass
class Clock:
    """Times calls relative to a reference that is timed between them.

    ``reference``: its milliseconds, all of them.
    """

    device: torch.device
    cancelled: Stop | None = None
    reference: list[float] = field(default_factory=list)
    samples: int = 0

    def __post_init__(self) -> None:
        alone = self.device.type == "cpu" and torch.get_num_threads() == 1
        self.now = time.thread_time if alone else time.perf_counter
        x, w = (torch.rand(shape, device=self.device) for shape in ((1, 64, 14, 14), (64, 64, 3, 3)))
        self._work: Callable[[], Tensor] = lambda: torch.relu_(torch.conv2d(x, w, padding=1))
        for _ in range(5):
            self._look()
        self.reference.clear()

    def rounds(self, calls: Sequence[Callable[[], object]], most: int, seconds: float) -> np.ndarray:
        """Time of each call in units of the reference: (rounds, calls). All calls take their turn in every round.

        At most ``most`` rounds; at least ``LEAST`` of them even when they take longer than ``seconds``.
        """
        begin = time.perf_counter()
        rows: list[np.ndarray] = []
        while len(rows) < most and (len(rows) < LEAST or time.perf_counter() - begin < seconds):
            rows.append(self._round(calls))
        return np.array(rows)

    def turns(self, calls: Sequence[Callable[[], object]], most: int, seconds: float) -> list[np.ndarray]:
        """Milliseconds of whole networks, an array for each. calls[0], the dense one, has a turn beside every other.

        Each runs some times in a row, as it does in use: in turns call by call it would find the library's kernels
        forgotten and its weights far away. This goes on until two halves of the runs agree on how long each takes
        beside the dense one, ``most`` turns were had, or time is up (processor time, where that is the clock); every
        network has ``LEAST`` turns even then.
        """
        begin, own = time.perf_counter(), self.now()
        rows: list[list[float]] = [[] for _ in calls]
        sweeps = 0
        while True:
            spent = max(self.now() - own, (time.perf_counter() - begin) / PATIENCE)
            late = sweeps >= most or spent > seconds
            if sweeps >= LEAST and (late or (sweeps >= SWEEPS and sweeps % 4 == 0 and disagreement(rows) < AGREE)):
                return [np.array(row) for row in rows]
            for at in range(min(1, len(calls) - 1), len(calls)):
                for network in (at, 0) if at else (0,):
                    rows[network].extend(self._row(calls[network]))
            sweeps += 1

    def _row(self, call: Callable[[], object]) -> list[float]:
        """Once to bring its weights near, then some times in a row."""
        self._look()
        warm = self._checked(call)
        return [self._checked(call) for _ in range(ROW if ROW * warm < ROW_MS else 1)]

    def _checked(self, call: Callable[[], object]) -> float:
        if self.cancelled is not None and self.cancelled():
            raise Cancelled("Measuring the latency table was cancelled.")
        self.samples += 1
        return self._time(call)

    def quiet_ms(self) -> float:
        """The reference's time when the machine is hardly disturbed."""
        return float(np.percentile(self.reference, BEST))

    def _round(self, calls: Sequence[Callable[[], object]]) -> np.ndarray:
        row = np.zeros(len(calls))
        before, since, first = self._look(), 0.0, 0
        for at, call in enumerate(calls):
            row[at] = self._checked(call)
            since += row[at]
            if since >= REFERENCE_MS or at == len(calls) - 1:
                after = self._look()
                row[first : at + 1] /= (before + after) / 2
                before, since, first = after, 0.0, at + 1
        return row

    def _look(self) -> float:
        found = min(self._time(self._work), self._time(self._work))
        self.reference.append(found)
        return found

    def _time(self, call: Callable[[], object]) -> float:
        start = self.now()
        call()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return 1e3 * (self.now() - start)


def disagreement(rows: Sequence[Sequence[float]]) -> float:
    """How far two halves of the runs differ about each network's time beside the dense one: median, relative."""
    first = [low(np.array(row[: len(row) // 2])) for row in rows]
    second = [low(np.array(row[len(row) // 2 :])) for row in rows]
    apart = [abs((a / first[0]) / (b / second[0]) - 1) for a, b in zip(first[1:], second[1:], strict=True)]
    return float(np.median(apart)) if apart else 0.0


def low(times: np.ndarray) -> np.ndarray:
    """The lower quartile along the first axis."""
    found: np.ndarray = np.percentile(times, QUIET, axis=0)
    return found
