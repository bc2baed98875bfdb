"""The charts of page Compare: accuracy over cost with its front, widths, classes. Colour and symbol name a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from core import SeenPlan, Trace
from pages.components import charts, tables

# Okabe and Ito's, then their symbols, so that no plan is told by colour alone. The dense network is grey.
COLOURS = ("#1A82C4", "#D55E00", "#009E73", "#CC79A7", "#B58900", "#7A5CC0")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
DENSE_COLOUR, DENSE_SYMBOL = charts.REFERENCE, "circle-open"
COST_TITLES = {"macs": "MACs", "params": "Parameters", "size_bytes": "Size", "latency_ms": "Latency"}
WRITE = {"macs": tables.count, "params": tables.count, "size_bytes": tables.size, "latency_ms": tables.ms}
SCALE = {"size_bytes": 1 / 2**20}
AXES = {
    "macs": "MACs per image",
    "params": "parameters",
    "size_bytes": "size, MB",
    "latency_ms": "latency, ms, as measured at different times",
}
MOST_CLASSES = 25


@dataclass(frozen=True)
class Look:
    """How one of the compared plans is drawn."""

    colour: str
    symbol: str


def looks(names: Sequence[str], dense: str) -> dict[str, Look]:
    """One look per plan, in order; the dense network is always grey."""
    others = [name for name in names if name != dense]
    found = {name: Look(COLOURS[i % len(COLOURS)], SYMBOLS[i % len(SYMBOLS)]) for i, name in enumerate(others)}
    return {**found, dense: Look(DENSE_COLOUR, DENSE_SYMBOL)}


def front_chart(
    seen: Sequence[SeenPlan],
    front: Sequence[int],
    cost: str,
    named: Mapping[str, str],
    shown: Mapping[str, Look],
    *,
    height: int = 400,
) -> go.Figure:
    """Accuracy over ``cost`` of every plan measured so far. front: numbers of ``seen``, by cost, joined by steps.
    named: names by key. shown: looks of the compared ones, by key. Every point's customdata begins with its number."""
    figure = go.Figure()
    at = [one.costs[cost] * SCALE.get(cost, 1) for one in seen]
    if front:
        x, y = [at[i] for i in front], [100 * seen[i].accuracy for i in front]
        line = {"color": charts.REFERENCE, "width": 1.4, "shape": "hv"}
        figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, name="Pareto front", hoverinfo="skip"))
    plain = [i for i, one in enumerate(seen) if one.key not in shown]
    groups = [("measured", [i for i in plain if i not in front], charts.MUTED, "circle-open", 8)]
    groups.append(("on the front", [i for i in plain if i in front], charts.REFERENCE, "circle", 9))
    for key, look in shown.items():
        mine = [i for i, one in enumerate(seen) if one.key == key]
        groups.append((named.get(key, "this plan"), mine, look.colour, look.symbol, 12))
    for title, members, colour, symbol, size in groups:
        if members:
            figure.add_trace(_points(title, [seen[i] for i in members], [at[i] for i in members], members, named, cost))
            figure.data[-1].update(marker={"color": colour, "symbol": symbol, "size": size, "line": {"width": 1.6}})
    charts.house(figure, f"Accuracy over {COST_TITLES[cost]}", "Measured; bars are 95 % intervals", height)
    charts.legend_below(figure, 96)
    charts.hold_left(figure)
    figure.update_xaxes(title=AXES[cost], rangemode="tozero", exponentformat="SI")
    figure.update_yaxes(title=charts.ACCURACY_AXIS)
    return figure


def _points(
    title: str,
    seen: Sequence[SeenPlan],
    at: Sequence[float],
    numbers: Sequence[int],
    named: Mapping[str, str],
    cost: str,
) -> go.Scatter:
    return go.Scatter(
        x=list(at),
        y=[100 * one.accuracy for one in seen],
        error_y={
            "array": [100 * (one.high - one.accuracy) for one in seen],
            "arrayminus": [100 * (one.accuracy - one.low) for one in seen],
            "thickness": 1,
            "width": 0,
            "color": charts.FAINT if title in ("measured", "on the front") else charts.MUTED,
        },
        customdata=[
            [number, named.get(one.key) or one.label or "a plan", WRITE[cost](one.costs[cost]), one.images]
            for number, one in zip(numbers, seen, strict=True)
        ],
        mode="markers",
        selected={"marker": {"opacity": 1}},
        unselected={"marker": {"opacity": 1}},
        name=title,
        hovertemplate="<b>%{customdata[1]}</b><br>%{y:.1f} % on %{customdata[3]} images<br>%{customdata[2]}"
        "<extra></extra>",
    )


def widths_chart(
    trace: Trace,
    plans: Mapping[str, Mapping[str, int]],
    drawn: Mapping[str, Look],
    *,
    focus: str = "",
    height: int = 400,
) -> go.Figure:
    """Kept share of every group that may shrink, a line per plan, in network order. plans: removed units by group."""
    figure = go.Figure()
    groups = trace.prunable
    for name, removed in plans.items():
        kept = [group.units - removed.get(group.id, 0) for group in groups]
        look = drawn[name]
        figure.add_trace(
            go.Scatter(
                x=list(range(len(groups))),
                y=[100 * now / group.units for now, group in zip(kept, groups, strict=True)],
                customdata=[[g.id, g.name, now, g.units] for now, g in zip(kept, groups, strict=True)],
                mode="lines+markers",
                line={"color": look.colour, "width": 1.4},
                marker={"color": look.colour, "symbol": look.symbol, "size": 8, "line": {"width": 1.4}},
                selected={"marker": {"opacity": 1}},
                unselected={"marker": {"opacity": 1}},
                name=name,
                hovertemplate=f"<b>{name}</b><br>%{{customdata[1]}}: %{{customdata[2]}} of %{{customdata[3]}}"
                "<extra></extra>",
            )
        )
    at = next((number for number, group in enumerate(groups) if group.id == focus), None)
    if at is not None:
        figure.add_vline(x=at, line={"color": charts.FOCUS, "width": 1, "dash": "dot"})
    charts.house(figure, "Widths", "Channels kept in each group, in network order", height)
    charts.legend_below(figure, 96)
    charts.hold_left(figure)
    few = len(groups) <= 24
    ticks = {"tickvals": list(range(len(groups))), "ticktext": [charts.shortened(g.name, 14) for g in groups]}
    figure.update_xaxes(**(ticks if few else {"title": "groups"}), range=[-0.5, len(groups) - 0.5])
    figure.update_yaxes(title="channels kept, %", range=[-3, 104], tickvals=[0, 25, 50, 75, 100])
    return figure


def classes_chart(classes: Sequence[str], plans: Mapping[str, Sequence[float]], drawn: Mapping[str, Look]) -> go.Figure:
    """Accuracy of every class, a dot per plan; of many classes those where the plans differ most."""
    spread = [_spread([values[i] for values in plans.values()]) for i in range(len(classes))]
    order = sorted(range(len(classes)), key=lambda i: -spread[i])[:MOST_CLASSES]
    rows = sorted(order) if len(classes) <= MOST_CLASSES else order
    figure = go.Figure()
    for name, values in plans.items():
        look = drawn[name]
        figure.add_trace(
            go.Scatter(
                x=[100 * values[i] if values[i] == values[i] else None for i in rows],
                y=[classes[i] for i in rows],
                mode="markers",
                marker={"color": look.colour, "symbol": look.symbol, "size": 10, "line": {"width": 1.6}},
                name=name,
                hovertemplate=f"<b>%{{y}}</b><br>{name}: %{{x:.1f}} %<extra></extra>",
            )
        )
    few = len(classes) <= MOST_CLASSES
    told = "On selection images" if few else f"The {MOST_CLASSES} classes of {len(classes)} that differ most"
    charts.house(figure, "Accuracy per class", told, 150 + 24 * len(rows))
    charts.legend_below(figure, 84)
    edges = {"include": [90.0], "clipmax": 100.4}  # room for a point at 100 %, none for more
    figure.update_xaxes(title="right answers, %", autorangeoptions=edges, showgrid=True, gridcolor=charts.FAINT)
    figure.update_yaxes(type="category", autorange="reversed", automargin=True, ticks="")
    return figure


def _spread(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return max(known) - min(known) if known else -1.0
