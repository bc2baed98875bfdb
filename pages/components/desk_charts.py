"""The tuning desk's curves: the selected group's own, and all of them with the plan on top."""

from __future__ import annotations

from typing import Any

from plotly.basedatatypes import BaseFigure

from core import DeskRow, Recent, Sensitivity, desk_rows
from pages.components import charts
from pages.components.desk import Desk

FIGURES_KEPT = 64
_specs: Recent[tuple[Sensitivity, dict[str, Any]]] = Recent(FIGURES_KEPT)  # by curves and group, each with its curves


class Drawn(BaseFigure):
    """A figure that Plotly wrote out before (``to_dict``): that takes it 10 ms, nearly all for the theme."""

    def __init__(self, spec: dict[str, Any]) -> None:
        object.__setattr__(self, "_spec", spec)  # and nothing else of a figure

    def to_dict(self) -> dict[str, Any]:
        return self._spec


def curve_figure(desk: Desk, group_id: str) -> Drawn:
    """The group's own curve, with a line where its bar stands; ``curves`` must hold the group. Made once for everybody,
    but for the line."""
    curves = desk.curves
    assert curves is not None
    row = next(row for row in desk_rows(desk.subject.trace, curves, desk.record.removed) if row.id == group_id)

    def make() -> tuple[Sensitivity, dict[str, Any]]:
        return curves, charts.curve_tile(curves, group_id, row.name, focused=True, height=260).to_dict()

    _, spec = _specs.get((id(curves), group_id), make)
    layout, (line, text) = spec["layout"], _place(row)
    marks = {"shapes": [*layout.get("shapes", ()), line], "annotations": [*layout.get("annotations", ()), text]}
    return Drawn({**spec, "layout": {**layout, **marks}})


def _place(row: DeskRow) -> tuple[dict[str, Any], dict[str, Any]]:
    """A line, and the words on it."""
    at = 100 * row.removed_fraction
    line = {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "xref": "x", "yref": "y domain"}
    line["line"] = {"color": charts.FOCUS, "width": 1.4, "dash": "dot"}
    text = {"x": at, "y": 0.04, "yref": "paper", "text": f"now: {row.kept} of {row.units}", "showarrow": False}
    return line, {**text, "xanchor": "left" if at < 60 else "right", "xshift": 4, "font": {"size": 11}}


def plan_figure(desk: Desk, focus: str) -> Any:
    """All curves (a Plotly figure), each with a mark where the plan takes it; ``curves`` must be there."""
    assert desk.curves is not None
    rows = [row for row in desk_rows(desk.subject.trace, desk.curves, desk.record.removed) if row.curve]
    figure = charts.curves(desk.curves, {row.id: row.name for row in rows}, focus=focus, height=380)
    at = [min(row.removed_fraction, row.curve[-1][0]) for row in rows]
    charts.mark_plan(
        figure,
        [(row.id, row.name, f"{row.kept} of {row.units}", x, desk.curves.accuracy(row.id, x))
         for row, x in zip(rows, at, strict=True)],
    )  # fmt: skip
    return figure
