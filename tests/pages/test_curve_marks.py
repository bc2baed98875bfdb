"""What is drawn over curves: every number is a number of the records, and measured is told from estimated."""

from __future__ import annotations

import json
from dataclasses import replace

import plotly.graph_objects as go
import pytest

from core import Limit, LossEstimate, Sensitivity, Staircase, lost_points
from core.records import CurvePoint
from pages.components import charts, curve_marks

NAMES = {"a": "first", "b": "second"}
STAIRS = Staircase("conv", (1, 2, 3, 4), (1.5, 1.5, 2.1, 2.0), (False, True, False, True))


def point(removed: int, units: int, accuracy: float, loss: float) -> CurvePoint:
    kept = units - removed
    return CurvePoint(removed / units, kept, accuracy, accuracy - 0.03, min(1.0, accuracy + 0.02), loss, 200)


@pytest.fixture
def scan() -> Sensitivity:
    points = {
        "a": (point(0, 8, 0.95, 0.1), point(2, 8, 0.95, 0.1), point(4, 8, 0.92, 0.3), point(6, 8, 0.30, 2.0)),
        "b": (point(0, 4, 0.95, 0.1), point(2, 4, 0.94, 0.2)),
    }
    return Sensitivity(points, point(0, 12, 0.95, 0.1), "weight-l2", True)


def by_name(figure: go.Figure, name: str) -> go.Scatter:
    return next(trace for trace in figure.data if (trace.name or "").startswith(name))


@pytest.mark.parametrize(
    ("limit", "level", "name"),
    [
        (Limit("accuracy", 0.01), 94.0, "limit, 1 point lost"),
        (Limit("accuracy", 0.025), 92.5, "limit, 2.5 points lost"),
        (Limit("loss", 0.25), 0.35, "limit, 0.25 nats added"),
    ],
)
def test_the_limit_lies_below_the_dense_network(scan: Sensitivity, limit: Limit, level: float, name: str) -> None:
    figure = charts.curves(scan, NAMES, focus="a", quantity=limit.quantity)
    curve_marks.add_limit(figure, scan, limit)
    line = by_name(figure, "limit")
    assert line.name == name and list(line.y) == pytest.approx([level, level]) and line.line.dash == "dashdot"


def test_points_wear_their_verdict_and_say_it(scan: Sensitivity) -> None:
    figure = charts.curves(scan, NAMES, focus="a")
    curve_marks.mark_verdicts(figure, "a", lost_points(scan, "a", "accuracy"), Limit("accuracy", 0.03))
    curve = by_name(figure, "first")
    assert list(curve.marker.symbol) == ["circle", "circle-open", "circle-open", "x-thin"]
    assert curve.text[0] == "nothing removed" and curve.text[3].endswith("beyond the limit")
    assert curve.text[2].startswith("lost 3.0 points [") and "perhaps" in curve.text[2]
    assert "%{text}" in curve.hovertemplate and curve.customdata[2][5] == "200 images"
    assert "%{text}" not in by_name(figure, "other groups").hovertemplate


def test_a_point_says_how_far_it_is_from_dense_where_that_is_known(scan: Sensitivity) -> None:
    start, *rest = scan.points["b"]
    points = {"b": (start, *(replace(one, kl=0.0123, lost=3, gained=1) for one in rest))}
    found = replace(scan, points=points)
    told = by_name(charts.curves(found, NAMES, focus="b"), "second").customdata[1][5]
    assert told == "200 images, 0.0123 nats of KL divergence from dense"
    assert lost_points(found, "b", "accuracy")[1].value == pytest.approx((3 - 1) / 200)


def test_the_estimate_is_dashed_and_adds_to_the_dense_loss(scan: Sensitivity) -> None:
    estimate = LossEstimate({"a": (0.0, 0.1, 0.3)}, {"a": (0.0, -0.1, 0.1)}, "weight-l2", 50)
    figure = charts.curves(scan, NAMES, focus="a", quantity="loss")
    curve_marks.add_estimate(figure, scan, estimate, "a")
    line = by_name(figure, "Taylor estimate")
    assert list(line.y) == pytest.approx([0.1, 0.2, 0.4]) and line.line.dash == "dash"
    assert "absolute" in line.name and "50 images" in line.hovertemplate
    assert [row[4] for row in line.customdata] == ["+0", "−0.1", "+0.1"]
    before = len(figure.data)
    curve_marks.add_estimate(figure, scan, estimate, "b")
    assert len(figure.data) == before


def test_widths_that_gain_nothing_are_hollow() -> None:
    figure = curve_marks.staircase(STAIRS, "conv", removed=2)
    good, idle = by_name(figure, "quicker"), by_name(figure, "gains nothing")
    assert (list(good.x), list(good.y)) == ([50, 0], [1.5, 2.0])
    assert (list(idle.x), list(idle.y)) == ([75, 25], [1.5, 2.1])
    assert (good.marker.symbol, idle.marker.symbol) == ("circle", "circle-open")
    assert [row[1] for row in idle.customdata] == [1, 3]
    assert figure.layout.yaxis.title.text == "predicted time, ms" and figure.layout.title.text
    assert figure.layout.shapes[0].x0 == 50


def test_the_stairs_stand_under_the_curves(scan: Sensitivity) -> None:
    above, below = charts.curves(scan, NAMES, focus="a"), curve_marks.staircase(STAIRS, "conv")
    assert above.layout.xaxis.range == below.layout.xaxis.range
    for side in ("l", "r"):
        assert above.layout.margin[side] == below.layout.margin[side]
    assert above.layout.yaxis.automargin is False and below.layout.yaxis.automargin is False


@pytest.mark.parametrize("log", [False, True])
def test_the_zoom_holds_the_limit(scan: Sensitivity, log: bool) -> None:
    figure = charts.curves(scan, NAMES, focus="a", quantity="loss", log=log)
    curve_marks.zoom(figure, scan, Limit("loss", 0.5), log=log)
    low, high = (10**end if log else end for end in figure.layout.yaxis.range)
    assert low < scan.dense.loss < scan.dense.loss + 0.5 < high == pytest.approx(2.1)


def test_figures_are_plain_json(scan: Sensitivity) -> None:
    figure = charts.curves(scan, NAMES, focus="a")
    curve_marks.add_limit(figure, scan, Limit("accuracy", 0.01))
    curve_marks.mark_verdicts(figure, "a", lost_points(scan, "a", "accuracy"), Limit("accuracy", 0.01))
    curve_marks.add_room(figure, 3, 8)
    assert json.loads(figure.to_json())["layout"]["shapes"][0]["name"] == "3 of 8 may leave"
