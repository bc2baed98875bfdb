"""The pictures of the lessons, drawn from a lesson's facts. A row of VIEWS per picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from pages.components import charts

Facts = Mapping[str, Any]
ROLES = {"producer": "makes them", "follower": "follows, channel by channel", "consumer": "reads them"}


def show(view: str, facts: Facts, key: str) -> None:
    """Draw ``view``; a table where there is nothing to plot."""
    if view == "members":
        rows = [{"Layer": name, "What it does with these channels": ROLES[role]} for role, name in facts["rows"]]
        st.dataframe(rows, hide_index=True, width="stretch")
        return
    if view == "layer_costs":
        _cost_table(facts)
        return
    st.plotly_chart(VIEWS[view](facts), key=key, config=charts.config(view))


def _cost_table(facts: Facts) -> None:
    touched = [row for row in facts["rows"] if row[1] != row[2]]
    rest = [row for row in facts["rows"] if row[1] == row[2]]
    rows = [_cost_row(f"{name}{' (makes it)' if name == facts['layer'] else ' (reads it)'}", *cost)
            for name, *cost in touched]  # fmt: skip
    if rest:
        rows.append(_cost_row(f"{len(rest)} other layers", *(sum(row[at] for row in rest) for at in (1, 2, 3))))
    rows.append(_cost_row("Whole network", *(sum(row[at] for row in facts["rows"]) for at in (1, 2, 3))))
    st.dataframe(rows, hide_index=True, width="stretch")


def _cost_row(name: str, dense: int, one: int, half: int) -> dict[str, str]:
    return {
        "Layer": name,
        "MACs now": f"{dense:,}",
        "One channel less": f"{one:,}",
        "Saved": f"{dense - one:,}",
    }


def norm_scatter(facts: Facts) -> go.Figure:
    """Filter norm against the true change of the loss, one dot per channel; the smallest norm stands out."""
    return _scatter(facts, "norms", facts["smallest"], "smallest norm", "L2 norm of the filter",
                    "Small filter, small loss?")  # fmt: skip


def taylor_scatter(facts: Facts) -> go.Figure:
    """Taylor's estimate against the true change of the loss, one dot per channel."""
    return _scatter(facts, "scores", facts["first"], "smallest estimate", "Taylor's estimate",
                    "What Taylor guesses, and what happens")  # fmt: skip


def _scatter(facts: Facts, across: str, special: int, words: str, axis: str, title: str) -> go.Figure:
    figure, x, losses, tried = go.Figure(), facts[across], facts["losses"], facts["tried"]
    marked = tried.index(special)
    for name, places, colour, symbol in (
        ("channels", [at for at in range(len(x)) if at != marked], charts.CURVE, "circle"),
        (words, [marked], charts.FOCUS, "diamond"),
    ):
        figure.add_trace(
            go.Scatter(
                x=[x[at] for at in places],
                y=[1000 * losses[at] for at in places],
                customdata=[tried[at] for at in places],
                mode="markers",
                marker={"color": colour, "size": 11 if symbol == "diamond" else 8, "symbol": symbol},
                name=name,
                hovertemplate="<b>channel %{customdata}</b><br>" + axis + " %{x:.3g}<br>loss changes by %{y:.2f} "
                "thousandths<extra></extra>",
            )
        )
    figure.add_hline(y=0, line={"color": charts.REFERENCE, "width": 1, "dash": "dot"})
    charts.house(figure, title, "Measured: one channel hidden at a time", 400)
    figure.update_xaxes(title_text=axis)
    figure.update_yaxes(title_text="change of the loss, thousandths of a nat")
    charts.legend_below(figure, 96)
    return figure


def three_groups(facts: Facts) -> go.Figure:
    """Accuracy of three groups at half their width, with 95 % intervals."""
    names, values = [row[0] for row in facts["rows"]], [100 * row[1] for row in facts["rows"]]
    low = [value - 100 * row[2] for value, row in zip(values, facts["rows"], strict=True)]
    high = [100 * row[3] - value for value, row in zip(values, facts["rows"], strict=True)]
    figure = go.Figure(
        go.Scatter(
            x=values,
            y=names,
            mode="markers",
            marker={"color": charts.CURVE, "size": 11},
            error_x={"type": "data", "array": high, "arrayminus": low, "color": charts.CURVE, "thickness": 2},
            hovertemplate="<b>%{y}</b><br>%{x:.1f} %<extra></extra>",
            showlegend=False,
        )
    )
    figure.add_vline(x=100 * facts["dense"], line={"color": charts.REFERENCE, "width": 1, "dash": "dot"})
    charts.house(figure, "Half of one group's channels gone", "Measured; the dotted line is the whole network", 260)
    figure.update_xaxes(title_text="accuracy, %", range=[0, 103])
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def ladder(facts: Facts) -> go.Figure:
    """Accuracy of the whole network, of the cut, and of the cut after each repair, with 95 % intervals."""
    names = {"whole": "whole network", "cut": "as cut", "batchnorm": "batch norm", "least-squares": "least squares"}
    rows = [[names[name], *values] for name, *values in facts["ladder"]]
    return _intervals(
        rows, [charts.REFERENCE, charts.FOCUS, charts.CURVE, charts.CURVE], 100, "The recovery ladder",
        "Measured on selection images, 95 % intervals", "accuracy, %", "%{y}: %{x:.1f} %",
    )  # fmt: skip


def times(facts: Facts) -> go.Figure:
    """Time of the whole network and of two plans with equally many MACs; where they would lie if time followed MACs."""
    rows = [row[:4] for row in facts["times"]]
    figure = _intervals(
        rows, [charts.REFERENCE, charts.CURVE, charts.CURVE], 1, "The same MACs, two times",
        f"Median and quartiles, {facts['device']}, {facts['threads']} thread(s)", "milliseconds", "%{y}: %{x:.2f} ms",
    )  # fmt: skip
    figure.add_vline(x=facts["linear_ms"], line={"color": charts.FOCUS, "width": 1.6, "dash": "dot"})
    return figure


def _intervals(
    rows: list[list[Any]], colours: list[str], scale: float, title: str, subtitle: str, axis: str, hover: str
) -> go.Figure:
    """Rows of (name, value, low, high), one under the other."""
    figure = go.Figure()
    for (name, value, low, high), colour in zip(rows, colours, strict=True):
        figure.add_trace(
            go.Scatter(
                x=[scale * value], y=[name], mode="markers+text", marker={"color": colour, "size": 12},
                text=[f"{scale * value:.4g}"], textposition="top center", cliponaxis=False,
                error_x={"type": "data", "array": [scale * (high - value)], "arrayminus": [scale * (value - low)],
                         "color": colour, "thickness": 2},
                hovertemplate=f"<b>{hover}</b><br>{scale * low:.4g} to {scale * high:.4g}<extra></extra>",
                showlegend=False,
            )
        )  # fmt: skip
    charts.house(figure, title, subtitle, 300)
    highest = max(scale * row[3] for row in rows)
    figure.update_xaxes(title_text=axis, range=[0, 1.06 * highest])
    figure.update_yaxes(range=[len(rows) - 0.5, -0.9], automargin=True)
    return figure


VIEWS: dict[str, Callable[[Facts], go.Figure]] = {
    "norm_scatter": norm_scatter,
    "taylor_scatter": taylor_scatter,
    "three_groups": three_groups,
    "ladder": ladder,
    "times": times,
}
