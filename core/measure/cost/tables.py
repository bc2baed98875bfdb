"""The latency table: milliseconds of a network's operators at several widths, on one machine.

Kernels work on blocks of channels, so time over width is a staircase, and widths that fill whole blocks often take
another, faster kernel than all others. Both kinds of widths are measured; a width in between is interpolated among
widths of its own kind only, so the steps stay.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from core.errors import MeasureError
from core.measure.cost.wall import AGAIN, Wall

BLOCK = 8  # channels that vector units and tensor cores take at once (or a multiple of them)


@dataclass(frozen=True)
class Axis:
    """Where every width 0..n lies among the measured ones: between ``low`` and ``high``, ``share`` of the way."""

    low: np.ndarray
    high: np.ndarray
    share: np.ndarray

    @staticmethod
    def of(widths: Sequence[int]) -> Axis:
        """Linear between the nearest measured widths of the same kind (whole blocks or not), constant beyond them."""
        size = widths[-1] + 1
        low, high, share = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64), np.zeros(size)
        whole = [at for at, width in enumerate(widths) if width % BLOCK == 0]
        others = [at for at, width in enumerate(widths) if width % BLOCK]
        for kind, steps in ((whole, range(0, size, BLOCK)), (others, range(size))):
            at = kind if len(kind) > 1 else list(range(len(widths)))
            known = [widths[i] for i in at]
            for width in steps:
                if (kind is others) and width % BLOCK == 0:
                    continue
                i = min(max(bisect_right(known, width) - 1, 0), len(known) - 1)
                j = min(i + 1, len(known) - 1)
                low[width], high[width] = at[i], at[j]
                if i != j and width > known[i]:
                    share[width] = (width - known[i]) / (known[j] - known[i])
        return Axis(low, high, share)


@dataclass(frozen=True)
class StepTimes:
    """Milliseconds of one operator: ``ms[i][j]`` with ``widths_in[i]`` channels read and ``widths_out[j]`` made.

    An operator with one width (batch norm, pooling, depthwise) has it in ``widths_out``; ``widths_in`` is then (0,).
    ``uses``: how many steps of the network are like this. ``in_network``: how many times as long it takes inside the
    network as alone, estimated for its family of operators.
    """

    operator: str
    uses: int
    widths_in: tuple[int, ...]
    widths_out: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]
    in_network: float = 1.0

    @cached_property
    def axes(self) -> tuple[Axis, Axis]:
        return Axis.of(self.widths_in), Axis.of(self.widths_out)

    def at(self, width_in: int, width_out: int) -> float:
        """Milliseconds of the operator alone: bilinear among measured widths of the same kind."""
        rows, columns = self.axes
        i, j = min(width_in, self.widths_in[-1]), min(width_out, self.widths_out[-1])
        s, t = float(rows.share[i]), float(columns.share[j])
        a, b, c, d = rows.low[i], rows.high[i], columns.low[j], columns.high[j]
        low = self.ms[a][c] * (1 - t) + self.ms[a][d] * t
        return low * (1 - s) + (self.ms[b][c] * (1 - t) + self.ms[b][d] * t) * s


@dataclass(frozen=True)
class LatencyTable:
    """Times of a network's operators on one machine. ``steps``: by operator signature.

    ``knots``: (sum of operator times inside the network, time of the whole network) in ms, rising; the last is the
    dense network, both by the table's own clock. ``wall``: what turns that into wall time, None where nobody knows.
    ``spread``: first and third quartile of the dense network's time by the own clock, as shares of what is predicted.
    ``untimed``: operators that could not be run alone; they count as nothing and are carried by the knots.
    ``samples``: calls that were timed. ``networks``: whole networks that were.
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
    samples: int = 0
    networks: int = 0
    imported: bool = field(default=False)
    wall: Wall | None = None

    def whole(self, operators_ms: float) -> float:
        """Wall time of the network whose operators take ``operators_ms`` together."""
        own = self.own(operators_ms)
        return own if self.wall is None else self.wall.ms(own, self.knots[-1][1])

    def own(self, operators_ms: float) -> float:
        """As ``whole``, by the table's own clock."""
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
            key: {
                "operator": s.operator, "uses": s.uses, "in": s.widths_in, "out": s.widths_out, "ms": s.ms,
                "in_network": s.in_network,
            }
            for key, s in self.steps.items()
        }  # fmt: skip
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**fields, "steps": steps, "wall": self.wall and self.wall.to_dict()}

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> LatencyTable:
        """Tables of earlier versions are read as well. Raises MeasureError when ``data`` is no latency table."""
        try:
            steps = {
                key: StepTimes(
                    s["operator"], s["uses"], tuple(s["in"]), tuple(s["out"]), tuple(map(tuple, s["ms"])),
                    float(s.get("in_network", 1.0)),
                )
                for key, s in data["steps"].items()
            }  # fmt: skip
            knots = tuple((float(x), float(y)) for x, y in data["knots"])
            low, high = data["spread"]
            rest = {name: data[name] for name in ("device", "threads", "batch", "torch_version", "fingerprint")}
            rest |= {name: data[name] for name in ("samples", "networks", "imported") if name in data}
            wall = Wall.from_dict(data.get("wall"))
            return LatencyTable(steps, knots, (low, high), dict(data["untimed"]), **rest, wall=wall)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MeasureError(f"Expected a latency table; {error!r} is missing or wrong. {AGAIN}") from error

    @staticmethod
    def from_json(text: str) -> LatencyTable:
        try:
            data = json.loads(text)
        except ValueError as error:
            raise MeasureError(f"Expected a latency table in JSON; found {text[:40]!r}. {AGAIN}") from error
        return LatencyTable.from_dict(data)

    def to_csv(self) -> str:
        """A first line of facts, then one row per operator and width; ``from_csv`` reads it.

        Columns: operator, key, uses, width_in (empty where there is none), width_out, ms inside the network.
        """
        from core.measure.cost.table_csv import write_csv  # here: it builds tables itself

        return write_csv(self)

    def from_csv(self, text: str, device: str) -> LatencyTable:
        """A table of the same network with the times of ``text``, taken on another device.

        text: as ``to_csv`` writes it; every operator of this table must be there, each with a full grid of widths up to
        its dense one. Whole networks were not timed there unless the first line of facts tells: then the time is the
        sum of the operators. device: its name. Raises MeasureError with the line when something does not fit.
        """
        from core.measure.cost.table_csv import read_csv

        return read_csv(self, text, device)
