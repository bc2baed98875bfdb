"""Numbers as people read them. Formatting only: nothing is measured or decided here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

import streamlit as st

from core import Cost, CurvePoint, LatencyTable, LayerRow

MISSING = "–"
_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_COMPACT = {name: st.column_config.NumberColumn(format="compact") for name in ("MACs", "Parameters")}
LAYER_COLUMNS = {
    **_COMPACT,
    "Layer": st.column_config.TextColumn(pinned=True, width="medium"),
    **{name: st.column_config.TextColumn(width="medium") for name in ("Kind", "Group", "May leave")},
}
PLAN_COLUMNS = {
    "Layer": st.column_config.TextColumn(pinned=True, width=140),
    "Kept": st.column_config.ProgressColumn(format="%.0f %%", min_value=0, max_value=100, width=110),
    **{
        f"{name} {when}": st.column_config.NumberColumn(format="compact")
        for name in ("MACs", "Parameters")
        for when in ("before", "after")
    },
}
_BYTES = ((2**30, "GB"), (2**20, "MB"), (2**10, "kB"))


def count(n: float | None, unit: str = "") -> str:
    """Three digits with a prefix of thousands: 1240000 -> "1.24 M"; whole numbers below 10,000 stay as they are."""
    if n is None or not math.isfinite(n):
        return MISSING
    text = f"{n:,.0f}" if abs(n) < 1e4 and n == int(n) else ""
    for size_, letter in _STEPS:
        if not text and abs(n) >= 0.9995 * size_:
            text = f"{_three(n / size_)} {letter}"
    return f"{text or _three(n)} {unit}".strip()


def percent(x: float | None, digits: int = 1) -> str:
    """A share as a percentage: 0.9625 -> "96.3 %"."""
    return MISSING if x is None or not math.isfinite(x) else f"{100 * x:.{digits}f} %"


def change(x: float | None, digits: int = 1) -> str:
    """A relative change with its sign: -0.38 -> "−38.0 %"."""
    return MISSING if x is None or not math.isfinite(x) else _signed(100 * x, digits) + " %"


def points(x: float | None, digits: int = 1) -> str:
    """A difference of two accuracies, in percentage points: -0.012 -> "−1.2"."""
    return MISSING if x is None or not math.isfinite(x) else _signed(100 * x, digits)


def relative(now: float | None, before: float | None, digits: int = 0) -> str | None:
    """How far ``now`` is from ``before``: "−28 %"; None when they are the same or unknown."""
    if now is None or not before or now == before:
        return None
    return change(now / before - 1, digits)


def ms(x: float | None) -> str:
    """Milliseconds with three digits: 3.214 -> "3.21 ms"."""
    return MISSING if x is None or not math.isfinite(x) else f"{_three(x)} ms"


def size(bytes_: float | None) -> str:
    """Bytes in powers of 1,024: 2500000 -> "2.38 MB"."""
    if bytes_ is None:
        return MISSING
    for step, name in _BYTES:
        if bytes_ >= 0.9995 * step:
            return f"{_three(bytes_ / step)} {name}"
    return f"{bytes_:.0f} bytes"


def accuracy_text(accuracy: Mapping[str, Any] | None) -> str:
    """The fields of core's ``Accuracy``: "96.3 % [94.0, 97.8] on 360 images"."""
    if not accuracy:
        return MISSING
    value, low, high = (100 * accuracy[name] for name in ("value", "low", "high"))
    return f"{value:.1f} % [{low:.1f}, {high:.1f}] on {accuracy['images']:,} images"


def interval(low: float, high: float, digits: int = 1) -> str:
    """Two shares as a 95 % interval in percent: "94.0 to 97.8 %"."""
    return f"{100 * low:.{digits}f} to {100 * high:.{digits}f} %"


def latency_text(latency: Mapping[str, Any] | None) -> str:
    """The fields of core's ``Latency``: "3.21 ms [3.10, 3.40]"; the bracket holds the quartiles."""
    if not latency:
        return MISSING
    return f"{ms(latency['median_ms'])} [{_three(latency['low_ms'])}, {_three(latency['high_ms'])}]"


def cost_html(cost: Cost, accuracy: CurvePoint | None = None) -> str:
    """What a network costs and, when it was measured, how often it is right, as a row of numbers."""
    items = [("Accuracy, measured", percent(accuracy.accuracy), f"{accuracy.images:,} images")] if accuracy else []
    items += [
        ("Parameters", count(cost.params), ""),
        ("MACs per image", count(cost.macs), ""),
        ("Size", size(cost.size_bytes), ""),
    ]
    return strip_html(items, plain=True)


def difference_text(difference: Mapping[str, float]) -> str:
    """A difference of accuracies with its interval, in points: "−1.2 points [−2.4, 0.0]"."""
    value, low, high = (points(difference[name]) for name in ("value", "low", "high"))
    return f"{value} points [{low}, {high}]"


def device_text(latency: Mapping[str, Any]) -> str:
    """Where a time was measured: "cpu, 1 thread, batch of 1"."""
    return f"{latency['device']}, {plural(latency['threads'], 'thread')}, batch of {latency['batch']}"


def table_text(table: LatencyTable) -> str:
    """In which setting a latency table foretells: "AMD EPYC, 1 thread, batch of 1"."""
    return f"{table.device}, {plural(table.threads, 'thread')}, batch of {table.batch}"


def moment(when: str) -> str:
    """A stored UTC time: "21 Nov, 18:40 UTC"; what is none comes back as it is."""
    try:
        found = datetime.fromisoformat(when)
    except ValueError:
        return when
    return f"{found.day} {found:%b, %H:%M} UTC"


def numbers(values: Sequence[float]) -> str:
    """A short list of numbers: "0.485, 0.456, 0.406"."""
    return ", ".join(f"{value:.4g}" for value in values)


def plural(n: int, one: str, many: str = "") -> str:
    """ "1 image", "3 images"."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def layer_table(rows: Sequence[LayerRow]) -> dict[str, list[Any]]:
    """The columns of a table of layers, dense."""
    return {
        "Layer": [row.layer for row in rows],
        "Kind": [row.kind for row in rows],
        "Channels in": [row.dense.in_channels for row in rows],
        "Channels out": [row.dense.out_channels for row in rows],
        "Group": [row.group for row in rows],
        "May leave": ["yes" if row.prunable else f"no: {row.reason}" for row in rows],
        "MACs": [row.dense.macs for row in rows],
        "Parameters": [row.dense.params for row in rows],
    }


def plan_table(rows: Sequence[LayerRow]) -> dict[str, list[Any]]:
    """The columns of a table of layers, before and after the plan."""
    return {
        "Layer": [row.layer for row in rows],
        "Channels": [_before_after(row.dense.out_channels, row.planned.out_channels) for row in rows],
        "Kept": [100 * row.planned.out_channels / max(1, row.dense.out_channels) for row in rows],
        "MACs before": [row.dense.macs for row in rows],
        "MACs after": [row.planned.macs for row in rows],
        "Parameters before": [row.dense.params for row in rows],
        "Parameters after": [row.planned.params for row in rows],
        "Kind": [row.kind for row in rows],
    }


def _before_after(before: int, after: int) -> str:
    return f"{before:,}" if before == after else f"{before:,} → {after:,}"


def strip_html(items: Sequence[tuple[str, str, str]], *, plain: bool = False) -> str:
    """Headline numbers as one row: (what, how much, beside it). ``plain``: without lines above and below."""
    cells = "".join(
        f"<div><dt>{escape(what)}</dt><dd>{escape(value)}<small>{escape(beside)}</small></dd></div>"
        for what, value, beside in items
    )
    return f'<dl class="ps-strip{" plain" if plain else ""}">{cells}</dl>'


def pictures_html(pictures: Sequence[tuple[str, str]]) -> str:
    """Small pictures in a grid: (data URL, caption)."""
    cells = "".join(
        f'<figure><img src="{source}" alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>'
        for source, caption in pictures
    )
    return f'<div class="ps-pictures">{cells}</div>'


def _three(x: float) -> str:
    # Rounded first: 0.9999 has as many digits after the point as 1.00, not as 0.999.
    digits = 2 - math.floor(math.log10(abs(float(f"{x:.2e}")))) if x else 2
    return f"{x:,.{max(0, min(digits, 6))}f}"


def _signed(x: float, digits: int) -> str:
    text = f"{abs(x):.{digits}f}"
    sign = "" if float(text) == 0 else "+" if x > 0 else "−"
    return f"{sign}{text}"
