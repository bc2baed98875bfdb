"""The latency table: milliseconds of a network's operators at several widths, on one machine.

Kernels work on blocks of channels, so time over width is a staircase, and widths that fill whole blocks often take
another, faster kernel than all others. Both kinds of widths are measured; a width in between is interpolated among
widths of its own kind only, so the steps stay.
"""

from __future__ import annotations

import csv
import io
import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from core.errors import MeasureError

BLOCK = 8  # channels that vector units and tensor cores take at once (or a multiple of them)
COLUMNS = ("operator", "key", "uses", "width_in", "width_out", "ms")
MAX_CSV_BYTES = 16 << 20
MAX_CSV_ROWS = 200_000
MAX_WIDTH = 1 << 20
MAX_MS = 1e7
AGAIN = "Measure the table again."


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
    dense network. ``spread``: first and third quartile of the dense network's time, as shares of what is predicted.
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
            key: {
                "operator": s.operator, "uses": s.uses, "in": s.widths_in, "out": s.widths_out, "ms": s.ms,
                "in_network": s.in_network,
            }
            for key, s in self.steps.items()
        }  # fmt: skip
        return {**{name: getattr(self, name) for name in self.__dataclass_fields__}, "steps": steps}

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
            return LatencyTable(steps, knots, (low, high), dict(data["untimed"]), **rest)
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
        out = io.StringIO()
        facts = {name: value for name, value in asdict(replace(self, steps={})).items() if name != "steps"}
        out.write(f"# {json.dumps(facts)}\n")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        for key, step in self.steps.items():
            for i, width_in in enumerate(step.widths_in):
                for j, width_out in enumerate(step.widths_out):
                    ms = f"{step.ms[i][j] * step.in_network:.6g}"
                    writer.writerow([step.operator, key, step.uses, width_in or "", width_out, ms])
        return out.getvalue()

    def from_csv(self, text: str, device: str) -> LatencyTable:
        """A table of the same network with the times of ``text``, taken on another device.

        text: as ``to_csv`` writes it; every operator of this table must be there, each with a full grid of widths up to
        its dense one. Whole networks were not timed there unless the first line of facts tells: then the time is the
        sum of the operators. device: its name. Raises MeasureError with the line when something does not fit.
        """
        return read_csv(self, text, device)


def read_csv(table: LatencyTable, text: str, device: str) -> LatencyTable:
    """See ``LatencyTable.from_csv``."""
    if len(text) > MAX_CSV_BYTES:
        raise MeasureError(
            f"The latency CSV has {len(text) >> 20} MB; at most {MAX_CSV_BYTES >> 20} MB are read. Keep fewer widths."
        )
    facts, rows = _facts(text)
    grids: dict[str, dict[tuple[int, int], float]] = {}
    for line, row in rows:
        key, pair, ms = _row(line, row, table)
        if pair in grids.setdefault(key, {}):
            raise MeasureError(
                f"Latency CSV, line {line}: {row[0]} at widths {pair} is there twice. Remove one of them."
            )
        grids[key][pair] = ms
    steps = {key: _grid(step, grids.get(key)) for key, step in table.steps.items()}
    knots, spread = _knots(facts, table, steps)
    threads, batch = (_number(facts, name, getattr(table, name)) for name in ("threads", "batch"))
    if batch != table.batch:
        raise MeasureError(
            f"The latency CSV was measured with {batch} images at once, the table of this network has {table.batch}. "
            "Measure both with the same batch."
        )
    version = str(facts.get("torch_version", "unknown"))[:80]
    return replace(
        table, steps=steps, knots=knots, spread=spread, device=device[:200] or "another device", threads=threads,
        torch_version=version, imported=True, samples=0, networks=0,
    )  # fmt: skip


def _facts(text: str) -> tuple[dict[str, Any], list[tuple[int, list[str]]]]:
    """(facts of the first line, rows with their line numbers)."""
    facts: dict[str, Any] = {}
    lines = text.lstrip("\ufeff").splitlines()
    first = 1
    if lines and lines[0].startswith("#"):
        try:
            found = json.loads(lines[0][1:])
        except ValueError as error:
            raise MeasureError(
                f"Latency CSV, line 1: expected facts as JSON after #; found {lines[0][:60]!r}."
            ) from error
        if not isinstance(found, dict):
            raise MeasureError(f"Latency CSV, line 1: expected facts as a JSON object; found {lines[0][:60]!r}.")
        facts, lines, first = found, lines[1:], 2
    if not lines or tuple(cell.strip() for cell in lines[0].split(",")) != COLUMNS:
        found = lines[0][:80] if lines else "nothing"
        raise MeasureError(f"Latency CSV, line {first}: expected the columns {', '.join(COLUMNS)}; found {found!r}.")
    if len(lines) > MAX_CSV_ROWS:
        raise MeasureError(f"The latency CSV has {len(lines)} rows; at most {MAX_CSV_ROWS} are read.")
    try:
        rows = list(csv.reader(lines[1:]))
    except csv.Error as error:
        raise MeasureError(f"The latency CSV cannot be read: {error}. Save it as plain CSV with commas.") from error
    return facts, [(first + 1 + at, row) for at, row in enumerate(rows) if row]


def _row(line: int, row: list[str], table: LatencyTable) -> tuple[str, tuple[int, int], float]:
    if len(row) != len(COLUMNS):
        raise MeasureError(f"Latency CSV, line {line}: expected {len(COLUMNS)} cells; found {len(row)}.")
    operator, key, _, width_in, width_out, time = row
    if key not in table.steps:
        raise MeasureError(
            f"Latency CSV, line {line}: {operator[:60]!r} is no operator of this network at this size. Export the CSV "
            "of this network here, measure its rows on the other device, and keep the column 'key' as it is."
        )
    try:
        pair, ms = (int(width_in or 0), int(width_out or 0)), float(time)
    except ValueError as error:
        raise MeasureError(f"Latency CSV, line {line}: widths are whole numbers and ms a number; {error}.") from error
    if not (0 <= pair[0] <= MAX_WIDTH and 0 <= pair[1] <= MAX_WIDTH):
        raise MeasureError(f"Latency CSV, line {line}: widths lie in 0..{MAX_WIDTH}; found {pair[0]} and {pair[1]}.")
    if not (math.isfinite(ms) and 0 <= ms <= MAX_MS):
        raise MeasureError(f"Latency CSV, line {line}: ms lies in 0..{MAX_MS:.0f}; found {time!r}.")
    return key, pair, ms


def _grid(step: StepTimes, found: Mapping[tuple[int, int], float] | None) -> StepTimes:
    if not found:
        raise MeasureError(f"The latency CSV has no row for {step.operator}. Every operator of the network is needed.")
    widths_in, widths_out = (tuple(sorted({pair[side] for pair in found})) for side in (0, 1))
    for i in widths_in:
        for j in widths_out:
            if (i, j) not in found:
                raise MeasureError(
                    f"The latency CSV lacks {step.operator} at widths {i or '-'} and {j}: each operator needs every "
                    "pair of its widths."
                )
    if (widths_in[-1], widths_out[-1]) != (step.widths_in[-1], step.widths_out[-1]):
        raise MeasureError(
            f"The latency CSV has {step.operator} up to the widths {widths_in[-1]} and {widths_out[-1]}; expected its "
            f"dense ones, {step.widths_in[-1]} and {step.widths_out[-1]}."
        )
    ms = tuple(tuple(found[i, j] for j in widths_out) for i in widths_in)
    return replace(step, widths_in=widths_in, widths_out=widths_out, ms=ms, in_network=1.0)


def _knots(
    facts: Mapping[str, Any], table: LatencyTable, steps: Mapping[str, StepTimes]
) -> tuple[tuple[tuple[float, float], ...], tuple[float, float]]:
    dense = sum(s.ms[-1][-1] * s.uses for s in steps.values() if not s.operator.startswith("gather "))
    if "knots" not in facts:
        return ((max(dense, 1e-9), max(dense, 1e-9)),), (1.0, 1.0)
    try:
        knots = tuple((float(x), float(y)) for x, y in facts["knots"])
        low, high = (float(share) for share in facts.get("spread", (1.0, 1.0)))
    except (TypeError, ValueError) as error:
        raise MeasureError(
            "Latency CSV, line 1: expected knots as pairs of numbers and spread as two shares."
        ) from error
    numbers = [number for knot in knots for number in knot] + [low, high]
    if not 1 <= len(knots) <= 16 or not all(math.isfinite(x) and 0 < x <= MAX_MS for x in numbers):
        raise MeasureError("Latency CSV, line 1: knots are 1 to 16 pairs of positive milliseconds; found others.")
    if any(b[0] <= a[0] or b[1] < a[1] for a, b in pairwise(knots)):
        raise MeasureError("Latency CSV, line 1: knots rise; these do not.")
    return knots, (low, high)


def _number(facts: Mapping[str, Any], name: str, default: int) -> int:
    value = facts.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1 << 16:
        raise MeasureError(f"Latency CSV, line 1: {name} is a whole number of 1 or more; found {value!r}.")
    return value
