"""The tuning desk's curves: the selected group's own, and all of them with the plan on top."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from core import Sensitivity, desk_rows
from pages.components import charts
from pages.components.desk import Desk

_figures: OrderedDict[Any, tuple[Sensitivity, Any]] = OrderedDict()  # by curves and group
_figures_lock = threading.RLock()
FIGURES_KEPT = 64


@contextmanager
def curve_figure(desk: Desk, group_id: str) -> Iterator[Any]:
    """The group's own curve (a Plotly figure), with a line where its bar stands; ``curves`` must hold the group. Made
    once for everybody, for that takes 60 ms, and lent to one at a time with the line put in place."""
    assert desk.curves is not None
    row = next(row for row in desk_rows(desk.subject.trace, desk.curves, desk.record.removed) if row.id == group_id)
    with _figures_lock:
        held = _figures.pop((id(desk.curves), group_id), None)
        if held is None or held[0] is not desk.curves:
            held = (desk.curves, _bare_curve(desk.curves, group_id, row.name))
        _figures[id(desk.curves), group_id] = held
        while len(_figures) > FIGURES_KEPT:
            _figures.popitem(last=False)
        figure, at = held[1], 100 * row.removed_fraction
        line, text = figure.layout.shapes[0], figure.layout.annotations[0]
        line.x0 = line.x1 = text.x = at
        text.text, text.xanchor = f"now: {row.kept} of {row.units}", "left" if at < 60 else "right"
        yield figure


def _bare_curve(curves: Sensitivity, group_id: str, name: str) -> Any:
    figure = charts.curve_tile(curves, group_id, name, focused=True, height=260)
    # Put in front of what the tile may draw itself, so that it is found again.
    line = {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "xref": "x", "yref": "y domain"}
    line["line"] = {"color": charts.FOCUS, "width": 1.4, "dash": "dot"}
    text = {"x": 0, "y": 0.04, "yref": "paper", "text": "", "showarrow": False, "xshift": 4, "font": {"size": 11}}
    figure.layout.shapes = (line, *figure.layout.shapes)
    figure.layout.annotations = (text, *figure.layout.annotations)
    return figure


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
