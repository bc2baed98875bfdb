"""What is drawn over measured curves, and the staircase under them. Plotly only; conventions as in charts.py."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10

import plotly.graph_objects as go

from core import BEYOND, PERHAPS, SURELY, WITHIN, Limit, LossEstimate, Lost, Sensitivity, Staircase, Wall
from pages.components import charts, tables

LIMIT = "#9A6BD1"  # violet: told from the focus, the curves and the greys by colour-blind eyes, on white and on black
SYMBOLS = {SURELY: "circle", WITHIN: "circle", PERHAPS: "circle-open", BEYOND: "x-thin"}
WORDS = {
    SURELY: "surely within the limit",
    WITHIN: "within the limit",
    PERHAPS: "perhaps within the limit",
    BEYOND: "beyond the limit",
}
TIME_AXIS = "predicted time, ms"


def limit_words(limit: Limit) -> str:
    """ "1 point lost", "0.1 nats added" """
    if limit.quantity == "loss":
        return f"{limit.amount:g} nats added"
    points = round(100 * limit.amount, 6)
    return f"{points:g} {'point' if points == 1 else 'points'} lost"


def lost_words(lost: Lost, quantity: str) -> str:
    """ "1.4 points [0.3, 2.5]", "0.12 nats" """
    if quantity == "loss":
        return f"{lost.value:.3g} nats".replace("-", "−")
    ends = "" if lost.low is None or lost.high is None else f" [{100 * lost.low:.1f}, {100 * lost.high:.1f}]"
    return f"{100 * lost.value:.1f} points{ends}".replace("-", "−")


def add_limit(figure: go.Figure, sensitivity: Sensitivity, limit: Limit) -> None:
    """A line where ``limit`` ends, named in the legend."""
    dense = sensitivity.dense
    level = dense.loss + limit.amount if limit.quantity == "loss" else 100 * (dense.accuracy - limit.amount)
    figure.add_trace(
        go.Scatter(
            x=[0, 100],
            y=[level, level],
            mode="lines",
            line={"color": LIMIT, "width": 1.6, "dash": "dashdot"},
            name=f"limit, {limit_words(limit)}",
            legendrank=3,
            hoverinfo="skip",
        )
    )


def mark_verdicts(figure: go.Figure, group_id: str, found: Sequence[Lost], limit: Limit) -> None:
    """Give the points of one group's measured curve the symbol of their verdict, and say it where one points at them.

    found: ``core.lost_points`` of the group, for the limit's quantity.
    """
    for trace in figure.data:
        if not trace.customdata or trace.customdata[0][0] != group_id or len(trace.x) != len(found):
            continue
        verdicts = [one.verdict(limit) for one in found]
        size = 1.2 * trace.marker.size
        trace.marker.symbol = [SYMBOLS[verdict] for verdict in verdicts]
        trace.marker.size = size
        trace.marker.line = {"width": 2, "color": trace.marker.color}
        trace.text = [
            f"lost {lost_words(one, limit.quantity)}: {WORDS[verdict]}" if one.removed else "nothing removed"
            for one, verdict in zip(found, verdicts, strict=True)
        ]
        trace.hovertemplate = trace.hovertemplate.replace("<extra>", "<br>%{text}<extra>")


def zoom(figure: go.Figure, sensitivity: Sensitivity, limit: Limit, *, log: bool) -> None:
    """Stretch the y axis to what lies near the limit: four times its reach, at least 4 points or 0.2 nats."""
    dense = sensitivity.dense
    if limit.quantity == "loss":
        far = max(4 * limit.amount, 0.2)
        low, high = dense.loss - 0.12 * far, dense.loss + far
        if log:
            low, high = log10(max(0.5 * dense.loss, 0.02 * far)), log10(high)
        figure.update_yaxes(range=[low, high])
    else:
        far = 100 * max(4 * limit.amount, 0.04)
        level = 100 * dense.accuracy
        figure.update_yaxes(range=[level - far, min(level + 0.25 * far, 100 + 0.06 * far)], tickvals=None, nticks=6)


def add_room(figure: go.Figure, removed: int, units: int) -> None:
    """A dotted upright at the largest removal within the limit, with its number in the legend."""
    line = {"color": LIMIT, "width": 1.4, "dash": "dot"}
    name = f"{removed} of {units} may leave"
    figure.add_vline(x=100 * removed / units, line=line, name=name, showlegend=True, legendrank=3)


def add_estimate(
    figure: go.Figure, sensitivity: Sensitivity, estimate: LossEstimate, group_id: str, *, colour: str = charts.FOCUS
) -> None:
    """The loss that Taylor foretells for one group, dashed: the dense loss and the sum of absolute contributions."""
    if group_id not in estimate.absolute:
        return
    absolute, signed = estimate.absolute[group_id], estimate.signed[group_id]
    units, dense = len(absolute), sensitivity.dense.loss
    figure.add_trace(
        go.Scatter(
            x=[100 * n / units for n in range(units)],
            y=[dense + value for value in absolute],
            customdata=[
                [group_id, n, units, value, f"{other:+.3g}".replace("-", "−")]
                for n, (value, other) in enumerate(zip(absolute, signed, strict=True))
            ],
            mode="lines",
            line={"color": colour, "width": 2.2, "dash": "dash"},
            name="Taylor estimate: dense + absolute sum",
            legendrank=2,
            hovertemplate=f"<b>estimated</b> by Taylor on {estimate.images} images"
            "<br>%{customdata[1]} of %{customdata[2]} channels removed (%{x:.1f} %)"
            "<br>absolute sum +%{customdata[3]:.3g} nats<br>with signs %{customdata[4]} nats<extra></extra>",
        )
    )


def staircase(
    stairs: Staircase,
    name: str,
    *,
    removed: int | None = None,
    wall: Wall | None = None,
    rest: str = "the rest dense",
    height: int = 300,
) -> go.Figure:
    """Predicted time of the whole network over the removed share of one group, on the x axis of the curves.

    Widths where a wider network is as quick are hollow: pruning to them gains nothing. removed: where the limit ends.
    wall: the dense network's measured time, drawn with its quartiles where nothing is removed. rest: in words.
    """
    units = stairs.kept[-1]
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(
            x=[100 * (1 - kept / units) for kept in stairs.kept],
            y=stairs.ms,
            mode="lines",
            line={"color": charts.CURVE, "width": 1.2, "dash": "dash"},
            showlegend=False,
            hoverinfo="skip",
        )
    )
    for gains in (True, False):
        if gains in stairs.gains:
            figure.add_trace(_widths(stairs, gains=gains))
    charts.house(
        figure, f"Latency over the width of {charts.shortened(name, 34)}", f"Predicted wall clock: {rest}", height
    )
    charts.share_axis(figure)
    charts.hold_left(figure)
    low, high = min(stairs.ms), max(stairs.ms)
    if wall is not None:
        figure.add_trace(_measured(wall))
        low, high = min(low, wall.low_ms), max(high, min(wall.high_ms, 2 * high))
    room = 0.12 * (high - low) or 0.1 * high
    figure.update_yaxes(title=TIME_AXIS, range=[max(0, low - room), high + room], nticks=5)
    if removed is not None:
        figure.add_vline(x=100 * removed / units, line={"color": LIMIT, "width": 1.4, "dash": "dot"})
    charts.legend_below(figure, 92)
    return figure


def _measured(wall: Wall) -> go.Scatter:
    return go.Scatter(
        x=[0],
        y=[wall.median_ms],
        error_y={
            "array": [wall.high_ms - wall.median_ms],
            "arrayminus": [wall.median_ms - wall.low_ms],
            "symmetric": False,
            "color": charts.FOCUS,
            "thickness": 1.6,
            "width": 5,
        },
        mode="markers",
        marker={"color": charts.FOCUS, "size": 9, "symbol": "diamond"},
        name="dense, measured",
        cliponaxis=False,
        hovertemplate=f"<b>measured</b>, dense network, {tables.moment(wall.when)}"
        f"<br>median {tables.ms(wall.median_ms)}, quartiles {tables.ms(wall.low_ms)} to {tables.ms(wall.high_ms)}"
        f"<br>{tables.plural(wall.repeats, 'run')}<extra></extra>",
    )


def _widths(stairs: Staircase, *, gains: bool) -> go.Scatter:
    units, dense = stairs.kept[-1], stairs.ms[-1]
    at = [(kept, ms) for kept, ms, gain in zip(stairs.kept, stairs.ms, stairs.gains, strict=True) if gain == gains]
    words = "quicker than every wider width" if gains else "gains nothing: a wider one is as quick"
    return go.Scatter(
        x=[100 * (1 - kept / units) for kept, _ in at],
        y=[ms for _, ms in at],
        customdata=[[units - kept, kept, tables.change(ms / dense - 1)] for kept, ms in at],
        mode="markers",
        marker={
            "color": charts.CURVE if gains else charts.REFERENCE,
            "size": 7 if units <= 80 else 5,
            "symbol": "circle" if gains else "circle-open",
        },
        name=words,
        hovertemplate="<b>%{customdata[1]} channels kept</b>, %{customdata[0]} removed (%{x:.1f} %)"
        f"<br>%{{y:.3g}} ms, %{{customdata[2]}}<br>{words}<extra></extra>",
    )
