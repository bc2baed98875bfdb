"""Grids of numbers as Plotly heatmaps: filters and maps. No Streamlit here.

Colours are safe for colour-blind eyes: blue over grey to vermilion where zero is the middle, cividis where it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from core import Mosaic
from pages.components.charts import config, score_text

__all__ = ["config", "ends", "filter_grid", "largest", "map_grid", "number", "ordinal"]
DIVERGING = [(0.0, "#0072B2"), (0.25, "#6FB1DA"), (0.5, "#E9E9E6"), (0.75, "#E8935A"), (1.0, "#C04F00")]
CELL, MOST = 30, 320  # pixels: of a cell and of a grid, at most
BAR, LEAST = 84, 300  # pixels: beside it for its scale, and a figure's width at least
Grid = Sequence[Sequence[float | None]]


def number(value: float) -> str:
    """Three digits: 0.0123 -> "0.0123"."""
    return score_text(float(f"{value:.3g}"))


def ordinal(rank: int) -> str:
    """1 -> "1st"."""
    ending = "th" if 10 <= rank % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank}{ending}"


def largest(*grids: Grid) -> float:
    """The largest size of any number."""
    return max((abs(value) for grid in grids for row in grid for value in row if value is not None), default=1.0)


def ends(*grids: Grid) -> tuple[float, float]:
    """Lowest and highest of all."""
    values = [value for grid in grids for row in grid for value in row if value is not None]
    return min(values), max(values)


def filter_grid(mosaic: Mosaic, title: str, limit: float) -> go.Figure:
    """A filter's kernels; the scale runs from -limit to limit. Where the input left, nothing is drawn."""
    figure = go.Figure(
        go.Heatmap(
            z=mosaic.values,
            customdata=mosaic.inputs,
            zmin=-limit,
            zmax=limit,
            colorscale=DIVERGING,
            hoverongaps=False,
            hovertemplate="input channel %{customdata}<br>weight %{z:.4g}<extra></extra>",
            colorbar=_bar("weight"),
        )
    )
    return _square(figure, title, len(mosaic.values), len(mosaic.values[0]))


def map_grid(grid: Grid, title: str, span: tuple[float, float]) -> go.Figure:
    """A map of activations, the colours running over ``span``."""
    figure = go.Figure(
        go.Heatmap(
            z=grid,
            zmin=span[0],
            zmax=span[1],
            colorscale="Cividis",
            hovertemplate="row %{y}, column %{x}<br>activation %{z:.4g}<extra></extra>",
            colorbar=_bar("activation"),
        )
    )
    return _square(figure, title, len(grid), len(grid[0]))


def _bar(title: str) -> dict[str, Any]:
    return {
        "title": {"text": title, "side": "right", "font": {"size": 11}},
        "thickness": 10,
        "nticks": 5,
        "tickfont": {"size": 11},
        "exponentformat": "power",
    }


def _square(figure: go.Figure, title: str, rows: int, columns: int) -> go.Figure:
    """Cells are square, the first row on top; the figure is as wide as it needs to be."""
    cell = min(CELL, MOST / columns, MOST / rows)
    wide, high = cell * columns, cell * rows
    room = max(LEAST, wide + BAR)
    heading = {"text": title, "x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 14}}
    figure.update_layout(title=heading, width=room + 8, height=high + 46, dragmode=False)
    figure.update_layout(margin={"l": 2, "r": 6, "t": 38, "b": 8}, plot_bgcolor="rgba(0,0,0,0)")
    figure.update_layout(hoverlabel={"align": "left"})
    figure.update_traces(colorbar_x=(wide + 6) / room, colorbar_xanchor="left", colorbar_xpad=0)
    bare = {"visible": False, "fixedrange": True}
    figure.update_xaxes(**bare, range=[-0.5, columns - 0.5], domain=[0, wide / room])
    figure.update_yaxes(**bare, range=[rows - 0.5, -0.5])
    return figure
