"""Tables under the curves: what every group can lose within the limit, and what it loses at three widths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from core import (
    PERHAPS,
    SURELY,
    WITHIN,
    Drop,
    DropRow,
    LatencyTable,
    Limit,
    Plan,
    RankRow,
    Sensitivity,
    Subject,
    curves_csv,
    drop_rows,
    rank_csv,
    rank_groups,
)
from pages.components import charts, choices, curve_marks, downloads, session, tables

JUDGED, ORDER = "scan_judged", "scan_order"
JUDGES = {WITHIN: "Measured value", SURELY: "Surely", PERHAPS: "Perhaps"}
ORDERS = {"share": "Share that may leave", "macs": "MACs saved", "ms": "Time saved"}
TABS = ("What may leave within the limit", "What is lost at 25, 50 and 75 %")


def show(
    subject: Subject,
    sensitivity: Sensitivity,
    table: LatencyTable | None,
    limit: Limit,
    focus: str,
    named: str,
    plan: Plan | None = None,
) -> None:
    """Both tables, as tabs. named: what downloaded files are called. plan: what the scan started from."""
    room, drops = st.tabs(TABS)
    with room:
        _show_ranking(subject, sensitivity, table, limit, focus, named, plan)
    with drops:
        _show_drops(subject, sensitivity, focus, named)


def _show_ranking(
    subject: Subject,
    sensitivity: Sensitivity,
    table: LatencyTable | None,
    limit: Limit,
    focus: str,
    named: str,
    plan: Plan | None,
) -> None:
    judged = WITHIN
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        if limit.quantity == "accuracy":
            judged = choices.segments(JUDGED, "Within, judged by", JUDGES)
        orders = ORDERS if table is not None else {name: ORDERS[name] for name in ("share", "macs")}
        order = choices.segments(ORDER, "Rank by", orders)
    rows = rank_groups(subject.trace, sensitivity, limit, judged=judged, table=table, order=order, plan=plan)
    key = "ranking"
    at = next(number for number, row in enumerate(rows) if row.room.id == focus)
    session.set_widget_value(key, {"selection": {"rows": [at]}})
    st.dataframe(
        [_rank_cells(row, limit) for row in rows],
        key=key,
        hide_index=True,
        width="stretch",
        column_config=_rank_columns(limit),
        on_select=lambda: _pick(key, [row.room.id for row in rows]),
        selection_mode="single-row",
    )
    st.caption(_rank_words(limit, table, plan))
    downloads.csv("Ranking as CSV", lambda: rank_csv(rows, limit), f"ranking-{named}")


def _rank_cells(row: RankRow, limit: Limit) -> dict[str, Any]:
    has = row.room
    cells: dict[str, Any] = {
        "Group": has.name,
        "Channels": has.units,
        "May leave": f"{row.removed}{'+' if row.removed >= has.last else ''}",
        "Share": 100 * row.share,
    }
    if has.surely is not None and has.perhaps is not None:
        cells["Surely to perhaps"] = f"{has.surely} to {has.perhaps}{'+' if has.perhaps >= has.last else ''}"
    cells["Lost"] = curve_marks.lost_words(row.lost, limit.quantity)
    cells["MACs saved"] = 100 * row.macs_share
    if row.ms_saved is not None and row.ms_share is not None:
        cells["ms saved"] = row.ms_saved
        cells["Time saved"] = 100 * row.ms_share
    return cells


def _rank_columns(limit: Limit) -> dict[str, Any]:
    percent = {name: st.column_config.NumberColumn(name, format="%.1f %%") for name in ("MACs saved", "Time saved")}
    return {
        **percent,
        "Group": st.column_config.TextColumn("Group", pinned=True),
        "Share": st.column_config.ProgressColumn("Share", format="%.0f %%", min_value=0, max_value=100),
        "ms saved": st.column_config.NumberColumn("ms saved", format="%.3f"),
        "Lost": st.column_config.TextColumn("Lost then" if limit.quantity == "loss" else "Lost then, 95 % interval"),
    }


def _rank_words(limit: Limit, table: LatencyTable | None, plan: Plan | None) -> str:
    words = (
        []
        if plan is None
        else ["Counts include what your plan removes already; what is lost and saved is against the plan's network."]
    )
    words += [
        f"The most channels one group alone can lose while {curve_marks.limit_words(limit)} is not exceeded, by the "
        "rising curve nearest to what was measured. + means the scan went no further."
    ]
    if limit.quantity == "accuracy":
        words.append(
            "“Surely” counts measured widths whose whole 95 % interval is within the limit, “perhaps” those whose "
            "interval reaches into it; between measured widths values are interpolated."
        )
    else:
        words.append("No interval is known for the loss; between measured widths it is interpolated.")
    words.append("MACs are counted exactly.")
    if table is not None:
        words.append(f"Times are predicted: wall clock, {tables.table_text(table)}.")
    return " ".join(words)


def _show_drops(subject: Subject, sensitivity: Sensitivity, focus: str, named: str) -> None:
    """Points of accuracy lost at three widths, each group alone; most lost at the middle one first."""
    rows = drop_rows(subject.trace, sensitivity)
    st.caption(
        f"Percentage points of accuracy below the {charts.start_name(sensitivity)} when 25, 50 or 75 % of one group's "
        "channels leave, with the 95 % interval of the difference. Click a heading to sort; tick a row to select its "
        "group."
    )
    table = [_drop_cells(row) for row in rows]
    at = next(number for number, row in enumerate(rows) if row.id == focus)
    session.set_widget_value("drops", {"selection": {"rows": [at]}})
    st.dataframe(
        table,
        key="drops",
        hide_index=True,
        width="stretch",
        column_config={name: st.column_config.NumberColumn(name, format="%.1f") for name in table[0] if "Lost" in name},
        on_select=lambda: _pick("drops", [row.id for row in rows]),
        selection_mode="single-row",
    )
    downloads.csv("All measured points as CSV", lambda: curves_csv(sensitivity), f"sensitivity-{named}")


def _drop_cells(row: DropRow) -> dict[str, Any]:
    cells: dict[str, Any] = {"Group": row.name, "Channels": row.units}
    for share, drop in zip((25, 50, 75), row.drops, strict=True):
        cells[f"Lost at {share} %"] = None if drop is None else 100 * drop.lost
        cells[f"Interval at {share} %"] = tables.MISSING if drop is None else _interval_text(drop)
    return cells


def _interval_text(drop: Drop) -> str:
    text = f"{100 * drop.low:.1f} to {100 * drop.high:.1f}".replace("-", "−")
    return text if drop.measured else f"{text} (between measured widths)"


def _pick(key: str, ids: Sequence[str]) -> None:
    """A ticked row selects its group everywhere."""
    picked = (session.widget_value(key) or {}).get("selection", {}).get("rows", [])
    if picked and picked[0] < len(ids):
        session.select_group(ids[picked[0]])
