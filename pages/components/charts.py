"""Plotly figures from records. No Streamlit in them: the same figure can be shown, tested or written to a file.

Conventions, kept everywhere: measured is a solid line with filled points, estimated is dashed or hollow; a reference
(the dense network, guessing) is thin and grey. One group is in focus, in its own colour; the others are muted. Colours
are Okabe and Ito's, which colour-blind eyes tell apart, in tones that show on white and on black. Backgrounds and text
are left to the theme, so a picture saved from either theme is readable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any

import plotly.graph_objects as go

from core import CurvePoint, RankedUnit, Sensitivity
from pages.components import session

FOCUS, FOCUS_BAND = "#D55E00", "rgba(213, 94, 0, 0.24)"
CURVE, CURVE_BAND = "#1A82C4", "rgba(26, 130, 196, 0.28)"
KEPT, GONE = CURVE, "rgba(128, 138, 142, 0.55)"
MUTED, REFERENCE = "rgba(128, 138, 142, 0.55)", "rgb(128, 138, 142)"
PLAN = "#009E73"
FAINT = "rgba(128, 138, 142, 0.22)"
SINGLY = "Measured: this group alone, everything else dense"
FROM_PLAN = "Measured: this group alone, everything else as in the plan"
REMOVED_AXIS = "removed share of channels, %"
ACCURACY_AXIS = "accuracy on selection images, %"
LOSS_AXIS = "cross-entropy on selection images, nats"
LOG_TICKS = [digit * 10.0**power for power in range(-5, 4) for digit in (1, 2, 5)]
PICTURE, PICTURES = "picture_format", {"png": "PNG", "svg": "SVG"}
# Where room is made by measuring letters: a saved picture cannot have the page's own font, and would overlap with it.
SAVED_FONT = "Arial, Helvetica, sans-serif"
MANY_BARS = 160  # beyond it gaps between bars are only noise


def picture_format() -> str:
    """How this person takes pictures: "png" or "svg"."""
    return str(session.choice(PICTURE, "png"))


def config(filename: str) -> dict[str, Any]:
    """The chart's buttons: one, to save a picture called ``filename``: a PNG at twice the size or, where this person
    chose so, an SVG."""
    kind = picture_format()
    picture = {"format": kind, "filename": filename, "scale": 2 if kind == "png" else 1}
    return {
        "displaylogo": False,
        "modeBarButtons": [["toImage"]],
        "toImageButtonOptions": picture,
        "scrollZoom": False,
        "doubleClick": False,
    }


def curves(
    sensitivity: Sensitivity,
    names: Mapping[str, str],
    *,
    focus: str = "",
    quantity: str = "accuracy",
    log: bool = False,
    chance: float | None = None,
    height: int = 440,
) -> go.Figure:
    """All scanned groups in one chart: accuracy (or loss) against the removed share, each group alone.

    names: group id -> what to call it, in the order to draw. focus: the group in colour, with its 95 % band; its trace
    is the last of the curves. quantity: "accuracy" in percent, or "loss" in nats (no interval is known for it; ``log``
    draws it on a logarithmic axis). chance: accuracy of guessing, a share. Every point's customdata begins with its
    group id.
    """
    figure = go.Figure()
    scanned = [group_id for group_id in names if group_id in sensitivity.points]
    for number, group_id in enumerate(other for other in scanned if other != focus):
        others = "other groups" if number == 0 else None
        figure.add_trace(_curve(sensitivity, group_id, names[group_id], quantity, MUTED, 1.4, others, legend="others"))
    if focus in scanned:
        if quantity == "accuracy":
            figure.add_trace(_band(sensitivity, focus, FOCUS_BAND, "95 % interval"))
        figure.add_trace(_curve(sensitivity, focus, names[focus], quantity, FOCUS, 3.0, names[focus], marker=8))
    _add_references(figure, sensitivity, quantity, chance)
    what = "Accuracy" if quantity == "accuracy" else "Loss"
    house(figure, f"{what} when one group alone loses channels", singly(sensitivity), height)
    _share_axes(figure, quantity, log)
    legend_below(figure, 96)
    hold_left(figure)
    return figure


def mark_plan(figure: go.Figure, stands: Sequence[tuple[str, str, str, float, float]]) -> None:
    """Where a plan takes each curve: (group id, name, "24 of 32", removed share, accuracy of this group alone)."""
    figure.add_trace(
        go.Scatter(
            x=[100 * one[3] for one in stands],
            y=[100 * one[4] for one in stands],
            customdata=[[one[0], one[1], one[2]] for one in stands],
            mode="markers",
            marker={"color": PLAN, "size": 11, "symbol": "diamond-open", "line": {"width": 2}},
            selected={"marker": {"opacity": 1}},
            unselected={"marker": {"opacity": 1}},
            name="this plan",
            hovertemplate="<b>%{customdata[1]}</b><br>%{customdata[2]} channels kept<br>alone %{y:.1f} %"
            "<extra></extra>",
        )
    )


def singly(sensitivity: Sensitivity) -> str:
    """What a scan's curves are, in words."""
    return FROM_PLAN if sensitivity.plan_key else SINGLY


def start_name(sensitivity: Sensitivity) -> str:
    """What a scan calls the network it starts from."""
    return "plan's network" if sensitivity.plan_key else "dense network"


def curve_tile(
    sensitivity: Sensitivity,
    group_id: str,
    name: str,
    *,
    focused: bool = False,
    quantity: str = "accuracy",
    log: bool = False,
    chance: float | None = None,
    height: int = 220,
) -> go.Figure:
    """One group's curve, small, on the same axes as every other tile. Arguments as in ``curves``."""
    figure = go.Figure()
    colour, band = (FOCUS, FOCUS_BAND) if focused else (CURVE, CURVE_BAND)
    if quantity == "accuracy":
        figure.add_trace(_band(sensitivity, group_id, band, "95 % interval"))
    figure.add_trace(_curve(sensitivity, group_id, name, quantity, colour, 2.2, name, marker=6))
    _add_references(figure, sensitivity, quantity, chance)
    house(figure, shortened(name, 30), "", height)
    _share_axes(figure, quantity, log)
    figure.update_layout(showlegend=False, margin={"l": 54, "r": 8, "t": 34, "b": 42}, title_font_size=13)
    figure.update_xaxes(title={"text": "removed, %", "font_size": 11, "standoff": 4}, tickfont_size=11)
    short = "accuracy, %" if quantity == "accuracy" else "loss, nats"
    figure.update_yaxes(title={"text": short, "font_size": 11, "standoff": 4}, tickfont_size=11, nticks=4)
    if log:
        figure.update_yaxes(tickvals=LOG_TICKS[::3], ticktext=[f"{tick:g}" for tick in LOG_TICKS[::3]])
    if quantity == "loss":
        values = [point.loss for points in sensitivity.points.values() for point in points]
        figure.update_yaxes(range=_loss_range(values, log))
    return figure


def score_bars(
    ranked: Sequence[RankedUnit], *, group: str, criterion: str, selected: int | None = None, height: int = 350
) -> go.Figure:
    """A group's scores, highest first: what the plan keeps is blue, what it removes grey and hatched.

    ranked: as ``core.ranked_units`` gives it. selected: the unit in the focus colour. Every bar's customdata begins
    with its unit.
    """
    figure = go.Figure()
    kept = [one for one in ranked if one.kept]
    gone = [one for one in ranked if not one.kept]
    # The selected bar is a trace of its own, so that the legend can name its colour.
    parts = (
        (f"kept: {len(kept)}", [one for one in kept if one.unit != selected], KEPT, ""),
        (f"removed by the plan: {len(gone)}", [one for one in gone if one.unit != selected], GONE, "/"),
        (f"channel {selected}", [one for one in ranked if one.unit == selected], FOCUS, ""),
    )
    for name, bars, colour, pattern in parts:
        if bars:
            figure.add_trace(
                go.Bar(
                    x=[one.rank for one in bars],
                    y=[one.score for one in bars],
                    customdata=[[one.unit, "kept" if one.kept else "removed by the plan"] for one in bars],
                    name=name,
                    marker={"color": colour, "pattern": {"shape": pattern, "size": 5, "solidity": 0.25}},
                    selected={"marker": {"opacity": 1}},
                    unselected={"marker": {"opacity": 1}},
                    hovertemplate="<b>channel %{customdata[0]}</b>, %{customdata[1]}"
                    f"<br>rank %{{x}} of {len(ranked)}<br>score %{{y:.4g}}<extra></extra>",
                )
            )
    house(figure, f"Scores in {shortened(group, 34)}, highest first", criterion, height)
    figure.update_layout(bargap=0.0 if len(ranked) > MANY_BARS else 0.15, barmode="overlay", hovermode="closest")
    figure.update_layout(showlegend=True)
    legend_below(figure, 84)
    figure.update_xaxes(title="rank within the group (1 = kept longest)", range=[0.4, len(ranked) + 0.6])
    figure.update_yaxes(title="score", exponentformat="power")
    return figure


def score_text(score: float) -> str:
    """Four digits, small and large ones with a power: 0.00001444 -> "1.444e−5"."""
    text = f"{score:.4g}"
    if "e" in text:
        digits, power = text.split("e")
        text = f"{digits}e{int(power)}"
    return text.replace("-", "−")


def _curve(
    sensitivity: Sensitivity,
    group_id: str,
    name: str,
    quantity: str,
    colour: str,
    width: float,
    shown: str | None,
    *,
    marker: int = 4,
    legend: str = "",
) -> go.Scatter:
    points = sensitivity.points[group_id]
    scale = 100 if quantity == "accuracy" else 1
    reading = "accuracy %{y:.1f} % [%{customdata[3]:.1f}, %{customdata[4]:.1f}]"
    if quantity == "loss":
        reading = "loss %{y:.3g} nats"
    return go.Scatter(
        x=[100 * point.removed_fraction for point in points],
        y=[scale * getattr(point, quantity) for point in points],
        customdata=[
            [group_id, points[0].kept - point.kept, points[0].kept, 100 * point.low, 100 * point.high, _basis(point)]
            for point in points
        ],
        mode="lines+markers",
        line={"color": colour, "width": width},
        marker={"color": colour, "size": marker},
        # A click selects a point; without this Plotly would fade all others.
        selected={"marker": {"opacity": 1}},
        unselected={"marker": {"opacity": 1}},
        name=shown or name,
        showlegend=shown is not None,
        legendgroup=legend or group_id,
        legendrank=3 if legend else 1,
        hovertemplate=f"<b>{name}</b><br>%{{customdata[1]}} of %{{customdata[2]}} channels removed (%{{x:.1f}} %)"
        f"<br>{reading}<br>%{{customdata[5]}}<extra></extra>",
    )


def _basis(point: CurvePoint) -> str:
    """What a point stands on, and how far its answers are from the dense network's where that was measured."""
    apart = "" if point.kl is None else f", {point.kl:.3g} nats of KL divergence from dense"
    return f"{point.images} images{apart}"


def _band(sensitivity: Sensitivity, group_id: str, colour: str, name: str) -> go.Scatter:
    points = sensitivity.points[group_id]
    shares = [100 * point.removed_fraction for point in points]
    return go.Scatter(
        x=shares + shares[::-1],
        y=[100 * point.high for point in points] + [100 * point.low for point in reversed(points)],
        fill="toself",
        fillcolor=colour,
        line={"width": 0},
        mode="lines",
        name=name,
        legendrank=2,
        hoverinfo="skip",
    )


def _add_references(figure: go.Figure, sensitivity: Sensitivity, quantity: str, chance: float | None) -> None:
    """Lines for the dense network and for guessing, as traces: the legend names them and tells their values."""
    if quantity == "accuracy":
        levels = [(start_name(sensitivity), 100 * sensitivity.dense.accuracy, "solid", " %")]
        if chance is not None:
            levels.append(("guessing", 100 * chance, "dot", " %"))
    else:
        levels = [(start_name(sensitivity), sensitivity.dense.loss, "solid", " nats")]
    for name, level, dash, unit in levels:
        number = f"{level:.1f}" if unit == " %" else f"{level:.3g}"
        figure.add_trace(
            go.Scatter(
                x=[0, 100],
                y=[level, level],
                mode="lines",
                line={"color": REFERENCE, "width": 1.2, "dash": dash},
                name=f"{name}, {number}{unit}",
                legendrank=4,
                hoverinfo="skip",
            )
        )


def share_axis(figure: go.Figure) -> None:
    """The x axis that all charts over the removed share have in common."""
    figure.update_xaxes(title=REMOVED_AXIS, range=[-1.5, 101.5], tickvals=[0, 25, 50, 75, 100])


def hold_left(figure: go.Figure) -> None:
    """The same left edge whatever the tick labels are, so that charts under one another share their x axis. The title
    stands over the axis, clear of the upright one, and is a little smaller for that."""
    figure.update_layout(margin_l=64, title={"xref": "paper", "font": {"size": 14}})
    figure.update_yaxes(automargin=False)


def legend_below(figure: go.Figure, height: int) -> None:
    """The legend under the chart, in ``height`` pixels that also hold the axis."""
    figure.update_layout(legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0})
    figure.update_layout(margin_b=height)


def _share_axes(figure: go.Figure, quantity: str, log: bool) -> None:
    share_axis(figure)
    if quantity == "accuracy":
        figure.update_yaxes(title=ACCURACY_AXIS, range=[-2, 103], tickvals=[0, 25, 50, 75, 100])
    else:
        figure.update_yaxes(title=LOSS_AXIS + (", log" if log else ""), type="log" if log else "linear")
        figure.update_yaxes(rangemode="normal" if log else "tozero")
        if log:
            figure.update_yaxes(tickvals=LOG_TICKS, ticktext=[f"{tick:g}" for tick in LOG_TICKS])


def _loss_range(values: Sequence[float], log: bool) -> list[float]:
    if not log:
        return [0, 1.05 * max(values, default=1.0)]
    positive = [value for value in values if value > 0] or [1.0]
    return [log10(min(positive)) - 0.1, log10(max(positive)) + 0.1]


def house(figure: go.Figure, title: str, subtitle: str, height: int) -> None:
    """What all figures share. No ``subtitle``: ""."""
    # From the very left: over the axis alone a narrow screen would cut it off.
    heading: dict[str, Any] = {"text": title, "x": 0, "xref": "container", "xanchor": "left", "font": {"size": 15}}
    if subtitle:
        heading["subtitle"] = {"text": subtitle, "font": {"size": 12, "color": REFERENCE}}
    figure.update_layout(
        title=heading,
        height=height,
        margin={"l": 60, "r": 14, "t": 64 if subtitle else 40, "b": 54},
        hovermode="closest",
        hoverlabel={"align": "left", "namelength": -1},
        dragmode=False,
        legend={"itemclick": False, "itemdoubleclick": False, "font": {"size": 12, "family": SAVED_FONT}},
        legend_title_text="",
    )
    figure.update_xaxes(showgrid=False, zeroline=False, fixedrange=True, ticks="outside", ticklen=4, tickcolor=FAINT)
    figure.update_yaxes(gridcolor=FAINT, zeroline=False, fixedrange=True, tickfont_family=SAVED_FONT)


def shortened(text: str, longest: int) -> str:
    """``text`` in ``longest`` letters; of a layer's long name the end tells most."""
    return text if len(text) <= longest else f"…{text[1 - longest :]}"
