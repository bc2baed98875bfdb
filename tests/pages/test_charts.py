"""Charts from records made by hand: every number drawn is a number of the record, and conventions hold."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import plotly.graph_objects as go
import pytest

from core import RankedUnit, Sensitivity
from core.records import CurvePoint
from pages.components import charts

SOURCE = Path(__file__).parents[2] / "pages" / "components" / "charts.py"
NAMES = {"a": "first", "b": "second", "c": "not scanned"}


def point(removed: int, units: int, accuracy: float, loss: float) -> CurvePoint:
    kept = units - removed
    return CurvePoint(removed / units, kept, accuracy, accuracy - 0.03, min(1.0, accuracy + 0.02), loss, 200)


@pytest.fixture
def scan() -> Sensitivity:
    points = {
        "a": (point(0, 8, 0.95, 0.1), point(4, 8, 0.80, 0.6), point(6, 8, 0.30, 2.0)),
        "b": (point(0, 4, 0.95, 0.1), point(2, 4, 0.94, 0.2)),
    }
    return Sensitivity(points, point(0, 12, 0.95, 0.1), "weight-l2", True)


def by_name(figure: go.Figure, name: str) -> go.Scatter:
    return next(trace for trace in figure.data if trace.name.startswith(name))


def test_curves_draw_the_measured_points_in_percent(scan: Sensitivity) -> None:
    figure = charts.curves(scan, NAMES, focus="a", chance=0.25)
    curve = by_name(figure, "first")
    assert list(curve.x) == [0, 50, 75]
    assert list(curve.y) == pytest.approx([95, 80, 30])
    assert [row[0] for row in curve.customdata] == ["a"] * 3
    assert [row[1] for row in curve.customdata] == [0, 4, 6]
    assert curve.line.color == charts.FOCUS
    other = by_name(figure, "other groups")
    assert list(other.y) == pytest.approx([95, 94])
    assert other.customdata[0][0] == "b"
    assert other.line.color == charts.MUTED
    assert not any(trace.name == NAMES["c"] for trace in figure.data)


def test_only_the_focus_has_a_band_and_it_is_its_interval(scan: Sensitivity) -> None:
    figure = charts.curves(scan, NAMES, focus="a")
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert len(bands) == 1
    assert list(bands[0].y) == pytest.approx([97, 82, 32, 27, 77, 92])
    assert not [trace for trace in charts.curves(scan, NAMES).data if trace.fill == "toself"]


def test_references_tell_their_values(scan: Sensitivity) -> None:
    figure = charts.curves(scan, NAMES, focus="a", chance=0.25)
    assert list(by_name(figure, "dense network").y) == pytest.approx([95, 95])
    assert by_name(figure, "dense network").name == "dense network, 95.0 %"
    assert list(by_name(figure, "guessing").y) == [25, 25]
    assert not any(trace.name.startswith("guessing") for trace in charts.curves(scan, NAMES).data)


def test_loss_has_no_band_and_its_own_axis(scan: Sensitivity) -> None:
    figure = charts.curves(scan, NAMES, focus="a", quantity="loss", log=True, chance=0.25)
    assert list(by_name(figure, "first").y) == pytest.approx([0.1, 0.6, 2.0])
    assert not any(trace.fill == "toself" or trace.name.startswith("guessing") for trace in figure.data)
    assert figure.layout.yaxis.type == "log"
    assert "nats" in figure.layout.yaxis.title.text


def test_measured_is_solid_and_filled(scan: Sensitivity) -> None:
    for trace in charts.curves(scan, NAMES, focus="b").data:
        if trace.mode == "lines+markers":
            assert trace.line.dash is None
            assert trace.marker.symbol is None


@pytest.mark.parametrize("quantity", ["accuracy", "loss"])
def test_every_chart_has_a_title_axes_with_units_and_is_json(scan: Sensitivity, quantity: str) -> None:
    figures = [
        charts.curves(scan, NAMES, focus="a", quantity=quantity),
        charts.curve_tile(scan, "a", "first", quantity=quantity, focused=True),
    ]
    for figure in figures:
        assert figure.layout.title.text
        assert "%" in figure.layout.xaxis.title.text
        assert any(unit in figure.layout.yaxis.title.text for unit in ("%", "nats"))
        assert figure.layout.paper_bgcolor is None and figure.layout.font.color is None  # the theme's own
        assert json.loads(figure.to_json())["data"]
    assert "everything else dense" in figures[0].layout.title.subtitle.text


def test_tiles_share_their_axes(scan: Sensitivity) -> None:
    for options in ({}, {"quantity": "loss"}, {"quantity": "loss", "log": True}):
        tiles = [charts.curve_tile(scan, name, NAMES[name], **options) for name in ("a", "b")]
        assert tiles[0].layout.yaxis.range == tiles[1].layout.yaxis.range is not None
        assert tiles[0].layout.xaxis.range == tiles[1].layout.xaxis.range


def test_score_bars_stand_in_rank_order_and_split_at_the_plan() -> None:
    ranked = [RankedUnit(2, 9.0, 1, True), RankedUnit(0, 5.0, 2, True), RankedUnit(1, 1.0, 3, False)]
    figure = charts.score_bars(ranked, group="conv", criterion="Weight L2 norm", selected=0)
    kept, gone, selected = figure.data
    assert (list(kept.x), list(kept.y), kept.name) == ([1], [9.0], "kept: 2")
    assert (list(gone.x), list(gone.y), gone.name) == ([3], [1.0], "removed by the plan: 1")
    assert gone.marker.pattern.shape == "/"  # not by colour alone
    assert (list(selected.x), selected.marker.color) == ([2], charts.FOCUS)
    assert [trace.customdata[0][0] for trace in figure.data] == [2, 1, 0]
    assert figure.layout.title.subtitle.text == "Weight L2 norm"


def test_scores_are_written_short() -> None:
    assert charts.score_text(0.0000144449) == "1.444e−5"
    assert charts.score_text(-0.5) == "−0.5"
    assert charts.score_text(101.25) == "101.2"
    assert charts.score_text(3e12) == "3e12"


@pytest.mark.parametrize(("chosen", "scale"), [("png", 2), ("svg", 1)])
def test_one_button_saves_a_picture_of_the_chosen_kind(
    chosen: str, scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts.session, "choice", lambda name, default: chosen)
    found = charts.config("curves")
    assert (found["toImageButtonOptions"]["format"], found["toImageButtonOptions"]["scale"]) == (chosen, scale)
    assert found["modeBarButtons"] == [["toImage"]]
    assert found["toImageButtonOptions"]["filename"] == "curves"


def test_charts_know_no_streamlit() -> None:
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in names if name.startswith("streamlit")]
