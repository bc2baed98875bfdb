"""Latency tables as CSV: out to another device, and back with the times that were taken there, checked at the door."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

from core.errors import MeasureError
from core.measure.cost.tables import LatencyTable, StepTimes
from core.measure.cost.wall import Wall

COLUMNS = ("operator", "key", "uses", "width_in", "width_out", "ms")
MAX_CSV_BYTES = 16 << 20
MAX_CSV_ROWS = 200_000
MAX_WIDTH = 1 << 20
MAX_MS = 1e7


def write_csv(table: LatencyTable) -> str:
    """See ``LatencyTable.to_csv``."""
    out = io.StringIO()
    facts = {name: value for name, value in asdict(replace(table, steps={})).items() if name != "steps"}
    out.write(f"# {json.dumps(facts)}\n")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for key, step in table.steps.items():
        for i, width_in in enumerate(step.widths_in):
            for j, width_out in enumerate(step.widths_out):
                ms = f"{step.ms[i][j] * step.in_network:.6g}"
                writer.writerow([step.operator, key, step.uses, width_in or "", width_out, ms])
    return out.getvalue()


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
    wall = _wall(facts)
    threads, batch = (_number(facts, name, getattr(table, name)) for name in ("threads", "batch"))
    if batch != table.batch:
        raise MeasureError(
            f"The latency CSV was measured with {batch} images at once, the table of this network has {table.batch}. "
            "Measure both with the same batch."
        )
    version = str(facts.get("torch_version", "unknown"))[:80]
    return replace(
        table, steps=steps, knots=knots, spread=spread, device=device[:200] or "another device", threads=threads,
        torch_version=version, imported=True, samples=0, networks=0, wall=wall,
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
        raise MeasureError(
            f"Latency CSV, line {first}: expected the columns {', '.join(COLUMNS)}; found {found!r}. "
            "Download the table of this network and change its column ms only."
        )
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


def _wall(facts: Mapping[str, Any]) -> Wall | None:
    """The dense network's time on the wall over there; without it the times of the rows are taken as wall time."""
    try:
        return Wall.from_dict(facts.get("wall")) if "knots" in facts else None
    except MeasureError as error:
        raise MeasureError(f"Latency CSV, line 1: {error}") from error


def _number(facts: Mapping[str, Any], name: str, default: int) -> int:
    value = facts.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1 << 16:
        raise MeasureError(f"Latency CSV, line 1: {name} is a whole number of 1 or more; found {value!r}.")
    return value
