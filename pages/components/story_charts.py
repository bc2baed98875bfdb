"""Figures of a recipe at work, from the plain JSON of its job. No Streamlit here, as in charts.py.

What a method does not tell is left out, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from pages.components import charts

CHOSEN, LEFT_OUT = charts.CURVE, charts.MUTED
DECADES = [10.0**power for power in range(-9, 7)]
Story = Mapping[str, Any]


def path_figure(story: Story) -> go.Figure | None:
    """How the choice was made; None for a method without a path."""
    path = story["path"]
    draw = next((draw for need, draw in _PATHS.items() if need in path), None)
    return draw(story) if draw is not None else None


def lasso_figure(story: Story) -> go.Figure:
    """Coefficients against lambda, falling to the right as the penalty grows; without them, how many take part."""
    path, figure = story["path"], go.Figure()
    stay = set(list(story["order"])[: story["kept"]])
    known = path.get("coefficients")
    if known:
        for unit, values in sorted(known.items(), key=lambda one: int(one[0]) in stay):
            kept = int(unit) in stay
            figure.add_trace(_line(path["knots"], values, f"channel {unit}", kept))
        _legend(figure, ("stays", "leaves"))
        title, what = "The LASSO path: coefficients", "coefficient β of a channel"
    else:
        figure.add_trace(
            go.Scatter(
                x=path["lambdas"], y=path["counts"], mode="lines", line={"color": CHOSEN, "shape": "hv"},
                name="channels that take part",
                hovertemplate="λ %{x:.3g}<br>%{y} channels take part<extra></extra>",
            )
        )  # fmt: skip
        title, what = "The LASSO path: how many take part", "channels that take part"
    _finish(figure, story, title)
    figure.update_xaxes(title="penalty λ, log", type="log")
    figure.update_xaxes(tickvals=DECADES, ticktext=[f"{tick:g}" for tick in DECADES])
    figure.update_yaxes(title=what)
    if path["lambda"] > 0:
        figure.add_vline(x=path["lambda"], line={"color": charts.FOCUS, "width": 1.6, "dash": "dot"})
        line = {"color": charts.FOCUS, "width": 1.6, "dash": "dot"}
        name = f"where {story['kept']} take part"
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", name=name, line=line))
    return figure


def qr_figure(story: Story) -> go.Figure:
    """|R_ii| in the order of the pivots: what each channel adds that the ones before cannot give."""
    path, figure, kept = story["path"], go.Figure(), story["kept"]
    for name, begin, end, colour, pattern in (
        ("stays", 0, kept, CHOSEN, ""),
        ("leaves", kept, len(path["pivots"]), charts.GONE, "/"),
    ):
        figure.add_trace(
            go.Bar(
                x=list(range(begin + 1, end + 1)), y=path["diagonal"][begin:end], name=f"{name}: {end - begin}",
                customdata=path["pivots"][begin:end],
                marker={"color": colour, "pattern": {"shape": pattern, "size": 5, "solidity": 0.25}},
                hovertemplate="<b>channel %{customdata}</b><br>pivot %{x}<br>|R| %{y:.3g}<extra></extra>",
            )
        )  # fmt: skip
    _finish(figure, story, "Pivoted QR: what each channel adds")
    figure.update_layout(bargap=0.0 if len(path["pivots"]) > charts.MANY_BARS else 0.15)
    figure.update_xaxes(title="pivot (1 = chosen first)")
    figure.update_yaxes(title="|R<sub>ii</sub>|", exponentformat="power")
    return figure


def greedy_figure(story: Story) -> go.Figure:
    """L(S) as it falls: what least squares would leave, over what there was, with 1, 2, ... channels."""
    left, figure, kept = story["path"]["left"], go.Figure(), story["kept"]
    counts = list(range(1, len(left) + 1))
    figure.add_trace(
        go.Scatter(
            x=counts, y=[100 * share for share in left], mode="lines", name="what would be left",
            line={"color": CHOSEN, "width": 2.2}, customdata=list(story["order"])[: len(left)],
            hovertemplate="%{x} channels, channel %{customdata} last<br>%{y:.3g} % left<extra></extra>",
        )
    )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=[kept], y=[100 * left[kept - 1]], mode="markers", name=f"{kept} stay",
            marker={"color": charts.FOCUS, "size": 10, "symbol": "diamond"},
            hovertemplate="%{x} channels stay<br>%{y:.3g} % left<extra></extra>",
        )
    )  # fmt: skip
    _finish(figure, story, "Forward greedy: what is left to explain")
    figure.update_xaxes(title="channels chosen")
    figure.update_yaxes(title="L(S), % of the outputs' variance", rangemode="tozero")
    return figure


_PATHS = {"lambdas": lasso_figure, "pivots": qr_figure, "left": greedy_figure}


def errors_figure(stories: Sequence[Story], picked: int) -> go.Figure:
    """Error of every rebuilt layer as cut and rebuilt, the picked one in colour."""
    figure = go.Figure()
    layers = [(at, story) for at, story in enumerate(stories) if story["raw_error"] > 0]
    least = min((one["rebuilt_error"] for _, one in layers if one["rebuilt_error"] > 0), default=1e-6) / 2
    for field, name, symbol in (("raw_error", "as cut", "circle-open"), ("rebuilt_error", "rebuilt", "circle")):
        for colour, part in (
            (charts.CURVE, [one for one in layers if one[0] != picked]),
            (charts.FOCUS, [one for one in layers if one[0] == picked]),
        ):
            figure.add_trace(
                go.Scatter(
                    x=[str(at + 1) for at, _ in part], y=[100 * max(least, story[field]) for _, story in part],
                    mode="markers", name=name, showlegend=colour == charts.CURVE,
                    marker={"symbol": symbol, "size": 11 if colour == charts.FOCUS else 7, "color": colour},
                    customdata=[story["layer"] for _, story in part],
                    hovertemplate=f"<b>%{{customdata}}</b><br>{name}: %{{y:.3g}} % of the variance<extra></extra>",
                )
            )  # fmt: skip
    charts.house(figure, "Error of every layer", "As cut and rebuilt, on calibration images", 360)
    charts.legend_below(figure, 84)
    names = [str(at + 1) for at, _ in layers]
    figure.update_xaxes(title="layer, front to back", type="category", nticks=12)
    figure.update_xaxes(categoryorder="array", categoryarray=names)
    figure.update_yaxes(title="error, % of variance, log", type="log")
    figure.update_yaxes(tickvals=charts.LOG_TICKS, ticktext=[f"{tick:g}" for tick in charts.LOG_TICKS])
    return figure


def fall(points: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Accuracy against the MACs that remain, as maps leave and the rest is trained in between; time goes right."""
    seen = [point for point in points if point["accuracy"] is not None]
    figure = go.Figure(
        go.Scatter(
            x=[100 * point["macs"] for point in seen], y=[100 * point["accuracy"] for point in seen],
            mode="lines+markers", line={"color": charts.CURVE, "width": 2.2}, marker={"size": 6},
            customdata=[[point["step"], point["maps"]] for point in seen], name="accuracy",
            hovertemplate="step %{customdata[0]}: %{customdata[1]} maps, %{x:.1f} % of the MACs"
            "<br>accuracy %{y:.1f} %<extra></extra>",
        )
    )  # fmt: skip
    charts.house(figure, "Accuracy as maps leave", "On selection images; nothing is chosen by it", 340)
    least = min((100 * point["macs"] for point in points), default=100.0)
    lowest = min((100 * point["accuracy"] for point in seen), default=100.0)
    figure.update_xaxes(title="MACs that remain, % of the dense network", range=[101, min(80.0, least - 2)])
    figure.update_yaxes(title="accuracy, %", range=[max(0.0, min(90.0, lowest - 3)), 101])
    return figure


def soft_epochs(points: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Filters that are silent after each epoch, split into those that were so before and those that are new."""
    epochs = [point["epoch"] for point in points]
    figure = go.Figure()
    for name, values, colour, pattern in (
        ("silent before, too", [point["silent"] - point["changed"] for point in points], charts.GONE, "/"),
        ("newly silent", [point["changed"] for point in points], charts.CURVE, ""),
    ):
        figure.add_trace(
            go.Bar(
                x=epochs, y=values, name=name,
                marker={"color": colour, "pattern": {"shape": pattern, "size": 5, "solidity": 0.25}},
                hovertemplate=f"epoch %{{x}}: %{{y}} filters {name}<extra></extra>",
            )
        )  # fmt: skip
    watched = [point for point in points if point["accuracy"] is not None]
    if watched:
        figure.add_trace(
            go.Scatter(
                x=[point["epoch"] for point in watched], y=[100 * point["accuracy"] for point in watched], yaxis="y2",
                mode="lines+markers", name="accuracy, right axis", line={"color": charts.FOCUS, "width": 2.2},
                hovertemplate="epoch %{x}: accuracy %{y:.1f} %<extra></extra>",
            )
        )  # fmt: skip
    charts.house(figure, "Filters silenced after every epoch", "", 340)
    charts.legend_below(figure, 84)
    second = {"title": "accuracy, %", "overlaying": "y", "side": "right", "showgrid": False, "fixedrange": True}
    figure.update_layout(barmode="stack", yaxis2=second, margin={"r": 56})
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(title="filters", selector={"anchor": "x"})
    return figure


def trials(points: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Whole plans as they were built and measured, one after the other, beside what was foretold of each."""
    numbers = list(range(1, len(points) + 1))
    best = min(range(len(points)), key=lambda at: points[at]["loss"])
    figure = go.Figure()
    for at in (False, True):
        chosen = [n for n in numbers if (n - 1 == best) == at]
        figure.add_trace(
            go.Scatter(
                x=chosen, y=[100 * points[n - 1]["accuracy"] for n in chosen], mode="markers",
                name="least loss: taken" if at else "measured",
                marker={
                    "color": charts.FOCUS if at else charts.CURVE, "size": 11, "symbol": "diamond" if at else "circle",
                },
                customdata=[[points[n - 1]["loss"]] for n in chosen],
                hovertemplate="plan %{x}<br>accuracy %{y:.1f} %<br>loss %{customdata[0]:.3g} nats<extra></extra>",
            )
        )  # fmt: skip
    charts.house(figure, "Whole plans, built and measured", "Accuracy on selection images", 340)
    charts.legend_below(figure, 84)
    figure.update_xaxes(title="plan", dtick=1, range=[0.5, len(points) + 0.5])
    figure.update_yaxes(title="accuracy, %")
    return figure


def layers(points: Sequence[Mapping[str, Any]]) -> go.Figure:
    """CaP's structural search: every pruned share that was tried of a layer, and the one that was kept."""
    figure = go.Figure()
    names = [charts.shortened(point["group"], 18) for point in points]
    tried = [(name, share, right) for name, point in zip(names, points, strict=True) for share, right in point["tried"]]
    figure.add_trace(
        go.Scatter(
            x=[name for name, _, _ in tried], y=[100 * share for _, share, _ in tried], mode="markers", name="tried",
            marker={"color": charts.MUTED, "size": 8, "symbol": "circle-open"},
            customdata=[100 * right for _, _, right in tried],
            hovertemplate="%{x}<br>%{y:.0f} % removed: accuracy %{customdata:.1f} %<extra></extra>",
        )
    )  # fmt: skip
    kept = [
        max((share for share, right in point["tried"] if right >= point["threshold"]), default=0.0) for point in points
    ]
    figure.add_trace(
        go.Scatter(
            x=names, y=[100 * share for share in kept], mode="markers", name="kept its threshold",
            marker={"color": charts.CURVE, "size": 11}, customdata=[100 * point["threshold"] for point in points],
            hovertemplate="%{x}<br>%{y:.0f} % leave; threshold %{customdata:.1f} %<extra></extra>",
        )
    )  # fmt: skip
    charts.house(figure, "Binary structural search", "Pruned share of each layer, front to back", 340)
    charts.legend_below(figure, 110)
    figure.update_xaxes(title="group", type="category", nticks=16)
    figure.update_yaxes(title="removed, %", range=[-4, 104])
    return figure


def _line(x: Sequence[float], y: Sequence[float], name: str, kept: bool) -> go.Scatter:
    style = {"color": CHOSEN if kept else LEFT_OUT, "width": 1.6 if kept else 1.0, "dash": "solid" if kept else "dot"}
    words = f"<b>{name}</b>, {'stays' if kept else 'leaves'}<br>λ %{{x:.3g}}<br>β %{{y:.3g}}<extra></extra>"
    return go.Scatter(x=x, y=y, mode="lines", name=name, line=style, showlegend=False, hovertemplate=words)


def _legend(figure: go.Figure, names: tuple[str, str]) -> None:
    for name, kept in zip(names, (True, False), strict=True):
        line = {"color": CHOSEN if kept else LEFT_OUT, "width": 2, "dash": "solid" if kept else "dot"}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", name=name, line=line))


def _finish(figure: go.Figure, story: Story, title: str) -> None:
    charts.house(figure, title, f"{charts.shortened(story['layer'], 40)}, on calibration images", 360)
    charts.legend_below(figure, 84)
