"""The picture of the recovery ladder. No Streamlit here, as in charts.py."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from core import RUNNING, WAITING, DenseLevel, RungRow
from pages.components import charts, tables

STATES = {RUNNING: "being measured …", WAITING: "waiting", "missing": "not measured yet"}
ROW_HEIGHT, NOT_YET = 58, charts.MUTED
NEAR = 0.1  # a share: ten points


def figure(rows: Sequence[RungRow], level: DenseLevel | None, *, near: bool = False) -> go.Figure:
    """The ladder: a row per rung, accuracy with its 95 % interval; hollow and near the edge what is not measured yet.
    near: only what is close to the dense network; rungs far below stand as arrows at the edge."""
    drawn = go.Figure()
    low, high = _range(rows, level, near)
    names = [_label(row) for row in rows]
    if level is not None:
        drawn.add_vrect(x0=100 * level.low, x1=100 * level.high, fillcolor=charts.FAINT, line_width=0, layer="below")
        line = {"color": charts.REFERENCE, "width": 1.6}
        drawn.add_vline(x=100 * level.value, line=line, layer="below")
        name = f"dense network, {tables.percent(level.value)}"
        drawn.add_trace(go.Scatter(x=[None], y=[names[0]], mode="lines", line=line, name=name))
    measured = [(row, name) for row, name in zip(rows, names, strict=True) if row.accuracy is not None]
    drawn.add_trace(
        go.Scatter(
            x=[100 * row.accuracy[0] for row, _ in measured if row.accuracy], y=[name for _, name in measured],
            mode="lines", line={"color": charts.MUTED, "width": 1.2, "dash": "dot"}, showlegend=False, hoverinfo="skip",
        )
    )  # fmt: skip
    for row, name in measured:
        drawn.add_trace(_mark(row, name, low))
    for row, name in zip(rows, names, strict=True):
        if row.accuracy is None:
            drawn.add_trace(_hollow(row, name, low + 0.03 * (high - low)))  # clear of its name
    charts.house(drawn, "The recovery ladder", "Accuracy on selection images; bars and band are 95 % intervals", 10)
    drawn.update_layout(height=150 + ROW_HEIGHT * len(rows), margin={"t": 64})
    drawn.update_yaxes(categoryorder="array", categoryarray=names[::-1], ticks="", showgrid=True, automargin=True)
    drawn.update_yaxes(range=[-0.6, len(rows) - 0.4])
    drawn.update_xaxes(title="accuracy, %", range=[low, high], showgrid=True, gridcolor=charts.FAINT)
    charts.legend_below(drawn, 84)
    return drawn


def _label(row: RungRow) -> str:
    if row.accuracy is None or row.difference is None:
        return f"<b>{charts.shortened(row.title, 22)}</b><br>{STATES[row.state]}"
    said = f"{tables.percent(row.accuracy[0])}, {tables.points(row.difference[0])} points"
    return f"<b>{charts.shortened(row.title, 22)}</b><br>{said}"


def _mark(row: RungRow, name: str, edge: float) -> go.Scatter:
    assert row.accuracy is not None and row.difference is not None
    beyond = 100 * row.accuracy[0] < edge
    value, low, high = (100 * share for share in row.accuracy)
    colour = charts.FOCUS if row.kept else charts.CURVE
    least, most = (tables.points(share) for share in row.difference[1:])
    return go.Scatter(
        x=[edge if beyond else value],
        y=[name],
        mode="markers",
        cliponaxis=False,
        marker={
            "color": colour, "size": 13, "symbol": "triangle-left" if beyond else "diamond" if row.kept else "circle",
        },
        error_x={
            "type": "data", "symmetric": False, "array": [high - value], "arrayminus": [value - low],
            "color": colour, "thickness": 2.2, "width": 5, "visible": not beyond,
        },
        name="kept" if row.kept else "measured",
        legendgroup="kept" if row.kept else "measured",
        showlegend=row.kept,
        hovertemplate=f"<b>{row.title}</b><br>accuracy {value:.1f} % [{low:.1f}, {high:.1f}]"
        f"<br>{tables.points(row.difference[0])} points to dense [{least}, {most}]"
        f"<br>{row.seconds or 0:.1f} s to build<extra></extra>",
    )  # fmt: skip


def _hollow(row: RungRow, name: str, edge: float) -> go.Scatter:
    running = row.state == RUNNING
    return go.Scatter(
        x=[edge],
        y=[name],
        mode="markers",
        marker={
            "color": charts.CURVE if running else NOT_YET, "size": 13, "symbol": "circle-open",
            "line": {"width": 2.5 if running else 1.6},
        },
        cliponaxis=False,
        showlegend=False,
        hovertemplate=f"<b>{row.title}</b><br>{STATES[row.state]}<extra></extra>",
    )  # fmt: skip


def _range(rows: Sequence[RungRow], level: DenseLevel | None, near: bool) -> tuple[float, float]:
    """The axis in percent: from a little below the lowest interval to a little above the highest. near: of those rungs
    whose accuracy is within NEAR points of the dense network, or of the best where none is."""
    found = [row.accuracy for row in rows if row.accuracy is not None]
    if level is None or not found:
        return 0.0, 101.0
    if near:
        least = min(level.value, max(value for value, _, _ in found)) - NEAR
        found = [one for one in found if one[0] >= least]
    ends = [100 * share for one in found for share in one]
    ends += [100 * level.low, 100 * level.high]
    room = max(0.5, 0.06 * (max(ends) - min(ends)))
    return max(0.0, min(ends) - room), min(100 + room / 3, max(ends) + room)
