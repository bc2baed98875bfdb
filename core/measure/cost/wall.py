"""From the table's own clock to the clock on the wall.

Operators are timed in processor time at a quiet moment: that is what widths can be compared by. A person waits for wall
time, which is longer wherever other programs run. So the dense network is timed on the wall when the table is made, and
again beside every plan that is measured later; predictions follow the newest of these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from core.errors import MeasureError

TRUST = 0.01  # a foretold saving of the square root of this counts as much as the belief that it comes true
SAVING = (0.5, 1.5)  # beyond this a measurement says more about the moment than about the plan
LEAST = 0.02  # of the dense network's time: no prediction is below
AGAIN = "Measure the table again."


@dataclass(frozen=True)
class Timing:
    """The network of a plan and the dense one, timed in turns on the wall after a table was made: milliseconds.

    ``widths``: how many units each group keeps. ``low_ms``, ``high_ms``: quartiles of the dense network. ``when``: UTC.
    """

    widths: Mapping[str, int]
    plan_ms: float
    dense_ms: float
    low_ms: float
    high_ms: float
    repeats: int
    threads: int
    batch: int
    device: str
    when: str

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Timing:
        """Raises MeasureError when ``data`` is none."""
        try:
            widths = {str(name): int(kept) for name, kept in data["widths"].items()}
            plan, dense, low, high = (_time(data[name]) for name in ("plan_ms", "dense_ms", "low_ms", "high_ms"))
            repeats, threads, batch = (int(data[name]) for name in ("repeats", "threads", "batch"))
            about = (repeats, threads, batch, str(data["device"]), str(data["when"])[:40])
            return Timing(widths, plan, dense, low, high, *about)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MeasureError(f"Expected a stored time of a plan; {error!r} is missing or wrong. {AGAIN}") from error


@dataclass(frozen=True)
class Check:
    """What was foretold for a plan the moment before it was measured, and what the clock said: milliseconds, UTC."""

    foretold_ms: float
    measured_ms: float
    when: str

    @property
    def off(self) -> float:
        """By how much the prediction was too low, relative: 0.06 = measured 6 % more."""
        return self.measured_ms / self.foretold_ms - 1


@dataclass(frozen=True)
class Wall:
    """The dense network's wall time (median and quartiles in ms), and what turns the table's clock into it.

    ``factor``: wall milliseconds for one of the table's. ``saving``: how much of a foretold saving was had by the
    plans that were measured (1 = all, as at first). ``repeats``: of the dense network. ``when``: UTC. ``last``: the
    newest check.
    """

    factor: float
    median_ms: float
    low_ms: float
    high_ms: float
    repeats: int
    when: str
    saving: float = 1.0
    last: Check | None = None

    def ms(self, own_ms: float, dense_ms: float) -> float:
        """Wall time of what takes ``own_ms`` by the table's clock, the dense network taking ``dense_ms`` by it."""
        return self.factor * max(LEAST * dense_ms, dense_ms - self.saving * (dense_ms - own_ms))

    def after(self, timing: Timing, foretold_ms: float, saving: float) -> Wall:
        """As things stand with ``timing`` the newest. foretold_ms: what was predicted for its plan before."""
        return replace(
            self,
            factor=self.factor * timing.dense_ms / self.median_ms,
            median_ms=timing.dense_ms,
            low_ms=timing.low_ms,
            high_ms=timing.high_ms,
            repeats=timing.repeats,
            when=timing.when,
            saving=saving,
            last=Check(foretold_ms, timing.plan_ms, timing.when),
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any] | None) -> Wall | None:
        """None stays None: tables of earlier versions know no wall. Raises MeasureError when ``data`` is none."""
        if data is None:
            return None
        try:
            times = {name: _time(data[name]) for name in ("factor", "median_ms", "low_ms", "high_ms")}
            saving, last = _time(data.get("saving", 1.0)), data.get("last")
            check = (
                Check(_time(last["foretold_ms"]), _time(last["measured_ms"]), str(last["when"])[:40]) if last else None
            )
            return Wall(**times, repeats=int(data["repeats"]), when=str(data["when"])[:40], saving=saving, last=check)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MeasureError(
                f"Expected the dense network's time beside the table; {error!r} is missing or wrong. {AGAIN}"
            ) from error


def saving_of(foretold: Sequence[float], had: Sequence[float]) -> float:
    """The share of foretold savings that came true: argmin of sum_i (h_i - b f_i)^2 + TRUST (b - 1)^2 over b in SAVING.

    foretold, had: savings as shares of the dense network's time.
    """
    top = sum(f * h for f, h in zip(foretold, had, strict=True)) + TRUST
    found = top / (sum(f * f for f in foretold) + TRUST)
    return min(max(found, SAVING[0]), SAVING[1])


def _time(value: Any) -> float:
    """A positive number, as times, factors and shares are."""
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{value!r} is no positive number")
    return number
