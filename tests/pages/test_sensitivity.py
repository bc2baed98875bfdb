"""The sensitivity page: curves and table are core's numbers; a scan can be started, watched, stopped and repeated."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import core.work.jobs
from core import (
    SURELY,
    Latency,
    LatencyTable,
    Limit,
    LossEstimate,
    Plan,
    Sensitivity,
    Subject,
    build_latency_table,
    desk_plan,
    drop_rows,
    job_key,
    latency_staircase,
    open_subject,
    predict_latency,
    rank_groups,
    scan_sensitivity,
)
from core.keep.device_tables import keep_device_table
from core.keep.store import open_store
from core.keep.timings import note_timing
from core.keep.workspace import Workspace, new_token
from core.work.tasks import score_subject
from pages.components import tables, work

PAGE = Path(__file__).parents[2] / "pages" / "3_Sensitivity.py"
MODEL = "demo/digits-vgg"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path))
    monkeypatch.setattr(core.work.jobs, "_manager", None)
    work._parsed.clear()
    yield
    if core.work.jobs._manager is not None:
        core.work.jobs._manager.close()
    open_store().close()


@pytest.fixture(scope="module")
def subject() -> Subject:
    return open_subject(MODEL)


@pytest.fixture(scope="module")
def scan(subject: Subject) -> Sensitivity:
    """A real scan, on few images to be quick."""
    return scan_sensitivity(subject.trace, subject.data.selection, (0.25, 0.5, 0.75), "weight-l1", limit=40)


@pytest.fixture(scope="module")
def table(subject: Subject) -> LatencyTable:
    """A real table, hastily timed."""
    return build_latency_table(subject.trace, threads=1, repeats=1)


def keep(verb: str, about: Subject, result: Any, **arguments: Any) -> None:
    """Store ``result`` as if its job had run."""
    open_store().put_result(verb, job_key(verb, about, **arguments), result)


def visit(found: Sensitivity | None, about: Subject, **state: Any) -> AppTest:
    """The page in a new workspace that looks at weight-l1, with ``found`` as a stored scan."""
    if found is not None:
        open_store().put_result("scan", job_key("scan", about, criterion="weight-l1"), found.to_dict())
    record = Workspace(new_token(), **{"model_source": MODEL, "criterion": "weight-l1", **state})
    open_store().save_workspace(record.token, record.to_json(), 0)
    app = AppTest.from_file(PAGE, default_timeout=60)
    app.query_params["w"] = record.token
    app.run()
    assert not app.exception and not app.error, [error.value for error in app.error]
    return app


def saved(app: AppTest) -> Workspace:
    token = app.query_params["w"]
    found = open_store().workspace(token if isinstance(token, str) else token[0])
    assert found is not None
    return Workspace.from_json(*found)


def traces(app: AppTest, at: int = 0) -> list[dict[str, Any]]:
    return json.loads(app.get("plotly_chart")[at].proto.spec)["data"]


def drawn(app: AppTest, at: int = 0) -> dict[str, tuple[list[float], list[float]]]:
    """Curves by group id."""
    return {part["customdata"][0][0]: (part["x"], part["y"]) for part in traces(app, at) if "customdata" in part}


def text(app: AppTest) -> str:
    return " ".join(element.value for element in (*app.markdown, *app.caption, *app.info))


def test_curves_are_the_scans_points(subject: Subject, scan: Sensitivity) -> None:
    app = visit(scan, subject, selected_group="features.7")
    curves = drawn(app)
    assert list(sorted(curves)) == sorted(scan.points)
    for group_id, points in scan.points.items():
        assert curves[group_id][0] == pytest.approx([100 * point.removed_fraction for point in points])
        assert curves[group_id][1] == pytest.approx([100 * point.accuracy for point in points])
    (band,) = [part for part in traces(app) if part.get("fill")]
    highs = [100 * point.high for point in scan.points["features.7"]]
    assert band["y"][: len(highs)] == pytest.approx(highs)
    assert any(part["name"] == "guessing, 10.0 %" for part in traces(app))


def test_the_table_ranks_what_core_says_is_lost(subject: Subject, scan: Sensitivity) -> None:
    app = visit(scan, subject)
    table = app.dataframe[1].value
    rows = drop_rows(subject.trace, scan)
    assert list(table["Group"]) == [row.name for row in rows]
    for number, share in enumerate((25, 50, 75)):
        lost = [100 * row.drops[number].lost for row in rows]  # type: ignore[union-attr]
        assert list(table[f"Lost at {share} %"]) == pytest.approx(lost)
    drop = rows[0].drops[1]
    assert drop is not None
    assert table["Interval at 50 %"][0] == f"{100 * drop.low:.1f} to {100 * drop.high:.1f}".replace("-", "−")


def test_it_says_what_the_curves_stand_on(subject: Subject, scan: Sensitivity) -> None:
    said = text(visit(scan, subject))
    assert "measured earlier, from the store" in said
    assert "40 of 360 selection images of digits" in said
    assert "seed 0" in said and "Weight L1 norm" in said


def test_a_demo_opens_with_its_curves(subject: Subject) -> None:
    app = visit(None, subject, criterion="")
    assert "shipped with this demo" in text(app)
    assert len(drawn(app)) == len(subject.trace.prunable)
    assert not [button for button in app.button if button.key == "start_scan"]


def test_the_group_menu_selects_everywhere_and_moves_the_focus(subject: Subject, scan: Sensitivity) -> None:
    app = visit(scan, subject)
    app.selectbox(key="menu_group").set_value("features.14").run()
    assert saved(app).selected_group == "features.14"
    focus = [part for part in traces(app) if part.get("name") == "features.14"]
    assert len(focus) == 1 and focus[0]["line"]["width"] == 3


def test_one_chart_per_group_and_the_loss(subject: Subject, scan: Sensitivity) -> None:
    app = visit(scan, subject, choices={"scan_view": "One by one", "scan_quantity": "loss"})
    charts = app.get("plotly_chart")
    assert len(charts) == len(scan.points)
    for number, (group_id, points) in enumerate(scan.points.items()):
        assert drawn(app, number)[group_id][1] == pytest.approx([point.loss for point in points])


def test_before_a_scan_there_is_one_button_that_says_what_it_does(subject: Subject) -> None:
    app = visit(None, subject)
    (start,) = [button for button in app.button if button.key == "start_scan"]
    assert start.label == "Scan 8 groups × 7 widths on 360 selection images"
    assert not app.get("plotly_chart")


def open_scan(app: AppTest) -> Any:
    """The newest job of the visitor."""
    return core.work.jobs.open_jobs().statuses(saved(app).token)[-1]


def images_seen(partial: Any) -> int:
    return sum(point.images for points in Sensitivity.from_dict(partial).points.values() for point in points)


def test_a_scan_is_watched_stopped_and_what_it_measured_stays(subject: Subject) -> None:
    app = visit(None, subject)
    app.button(key="start_scan").click().run()
    until = time.monotonic() + 120
    while not app.get("plotly_chart"):
        assert time.monotonic() < until, text(app)
        assert [button for button in app.button if button.label == "Cancel"]
        time.sleep(0.3)
        app.run()
        assert not app.exception and not app.error
    assert "being measured now" in text(app)
    reloaded = AppTest.from_file(PAGE, default_timeout=60)
    reloaded.query_params["w"] = saved(app).token
    assert "being measured now" in text(reloaded.run())
    first = images_seen(open_scan(app).partial)
    while images_seen(open_scan(app).partial) == first:
        assert time.monotonic() < until
        time.sleep(0.1)
    next(button for button in app.button if button.label == "Cancel").click().run()
    while "stopped early" not in text(app):
        assert time.monotonic() < until, text(app)
        time.sleep(0.3)
        app.run()
    assert len(drawn(app)) == len(subject.trace.prunable)
    assert any("was cancelled" in info.value for info in app.info)
    job = next(iter(core.work.jobs.open_jobs().statuses(saved(app).token)))
    curve = Sensitivity.from_dict(job.partial).points["features.0"]
    assert drawn(app)["features.0"][1] == pytest.approx([100 * point.accuracy for point in curve])
    next(button for button in app.button if button.label == "Go on").click().run()
    while (newest := open_scan(app)).id == job.id or newest.partial is None:
        assert time.monotonic() < until, newest
        time.sleep(0.05)
    core.work.jobs.open_jobs().cancel(newest.id)
    assert images_seen(newest.partial) >= images_seen(job.partial) > first, "it went on from where it was stopped"


def test_a_stored_scan_that_cannot_be_read_is_one_sentence(subject: Subject, scan: Sensitivity) -> None:
    open_store().put_result("scan", job_key("scan", subject, criterion="weight-l1"), {"points": {}, "dense": 3})
    record = Workspace(new_token(), model_source=MODEL, criterion="weight-l1")
    open_store().save_workspace(record.token, record.to_json(), 0)
    app = AppTest.from_file(PAGE, default_timeout=60)
    app.query_params["w"] = record.token
    app.run()
    assert not app.exception
    assert ["Scan again" in error.value for error in app.error] == [True]


def test_random_images_are_said_to_mean_nothing(scan: Sensitivity) -> None:
    app = visit(scan, open_subject(MODEL, "", "random"), data_source="random")
    assert any("means nothing" in warning.value for warning in app.warning)


def test_the_ranking_follows_the_limit_and_is_remembered(subject: Subject, scan: Sensitivity) -> None:
    app = visit(scan, subject)
    for points in (1.0, 20.0):
        if points != 1.0:
            app.number_input(key="menu_scan_limit_points").set_value(points).run()
        rows = rank_groups(subject.trace, scan, Limit("accuracy", points / 100))
        shown = app.dataframe[0].value
        assert list(shown["Group"]) == [row.room.name for row in rows]
        assert list(shown["Share"]) == pytest.approx([100 * row.share for row in rows])
        assert list(shown["MACs saved"]) == pytest.approx([100 * row.macs_share for row in rows])
        plus = ["+" if row.removed >= row.room.last else "" for row in rows]
        assert list(shown["May leave"]) == [f"{row.removed}{sign}" for row, sign in zip(rows, plus, strict=True)]
        assert any(part["name"].startswith(f"limit, {points:g} point") for part in traces(app))
    assert saved(app).choices["scan_limit_points"] == 20.0


def test_the_interval_can_judge_and_macs_can_rank(subject: Subject, scan: Sensitivity) -> None:
    choices = {"scan_limit_points": 30.0, "scan_judged": SURELY, "scan_order": "macs"}
    shown = visit(scan, subject, choices=choices).dataframe[0].value
    rows = rank_groups(subject.trace, scan, Limit("accuracy", 0.3), judged=SURELY, order="macs")
    assert list(shown["Group"]) == [row.room.name for row in rows]
    assert list(shown["Share"]) == pytest.approx([100 * row.room.surely / row.room.units for row in rows])


def test_stairs_under_the_curves_once_the_layers_are_timed(
    subject: Subject, scan: Sensitivity, table: LatencyTable
) -> None:
    app = visit(scan, subject)
    assert [button for button in app.button if button.key == "start_stairs"]
    assert len(app.get("plotly_chart")) == 1 and "Time saved" not in app.dataframe[0].value
    keep("latency_table", subject, table.to_dict())
    app = visit(scan, subject, selected_group="features.7", choices={"scan_order": "ms"})
    stairs = latency_staircase(subject.trace, "features.7", table)
    parts = [part for part in traces(app, 1) if "customdata" in part]
    drawn_at = {row[1]: y for part in parts for row, y in zip(part["customdata"], part["y"], strict=True)}
    assert drawn_at == dict(zip(stairs.kept, map(pytest.approx, stairs.ms), strict=True))
    curves_axis, stairs_axis = (json.loads(app.get("plotly_chart")[at].proto.spec)["layout"] for at in (0, 1))
    assert curves_axis["xaxis"]["range"] == stairs_axis["xaxis"]["range"]
    assert curves_axis["margin"]["l"] == stairs_axis["margin"]["l"]
    shown = app.dataframe[0].value
    rows = rank_groups(subject.trace, scan, Limit("accuracy", 0.01), table=table, order="ms")
    assert list(shown["Group"]) == [row.room.name for row in rows]
    assert list(shown["ms saved"]) == pytest.approx([row.ms_saved for row in rows])


def test_taylor_is_asked_for_and_drawn_dashed(subject: Subject, scan: Sensitivity) -> None:
    app = visit(scan, subject, selected_group="features.7", choices={"scan_quantity": "loss"})
    app.button(key="start_taylor").click().run()
    until = time.monotonic() + 120
    while not (dashed := [part for part in traces(app) if part["name"].startswith("Taylor estimate")]):
        assert time.monotonic() < until, text(app)
        assert not app.exception and not app.error
        time.sleep(0.3)
        app.run()
    stored = open_store().result("taylor_curves", job_key("taylor_curves", subject, criterion="weight-l1"))
    estimate = LossEstimate.from_dict(stored)
    assert dashed[0]["line"]["dash"] == "dash"
    assert dashed[0]["y"] == pytest.approx([scan.dense.loss + value for value in estimate.absolute["features.7"]])
    assert not [button for button in app.button if button.key == "start_taylor"]


def test_a_stored_estimate_that_cannot_be_read_is_one_sentence(subject: Subject, scan: Sensitivity) -> None:
    keep("taylor_curves", subject, {"absolute": 3}, criterion="weight-l1")
    open_store().put_result("scan", job_key("scan", subject, criterion="weight-l1"), scan.to_dict())
    record = Workspace(new_token(), model_source=MODEL, criterion="weight-l1", choices={"scan_quantity": "loss"})
    open_store().save_workspace(record.token, record.to_json(), 0)
    app = AppTest.from_file(PAGE, default_timeout=60)
    app.query_params["w"] = record.token
    app.run()
    assert not app.exception
    assert ["Estimate again" in error.value for error in app.error] == [True]


def test_the_zoom_shows_what_lies_near_the_limit(subject: Subject, scan: Sensitivity) -> None:
    app = visit(scan, subject)
    app.toggle(key="menu_scan_near").set_value(True).run()
    low, high = json.loads(app.get("plotly_chart")[0].proto.spec)["layout"]["yaxis"]["range"]
    level = 100 * scan.dense.accuracy
    assert low == pytest.approx(level - 4) and level <= high <= 100.3
    assert saved(app).choices["scan_near"] is True


def test_curves_can_start_from_the_plan(subject: Subject, scan: Sensitivity) -> None:
    choices = {"scan_from": "plan"}
    app = visit(scan, subject, choices=choices)
    assert "removes nothing yet" in text(app), "without a plan the dense network's curves stand there, and why"
    scores = score_subject(subject, "weight-l1")
    keep("score", subject, scores.to_dict(), criterion="weight-l1")
    plan = desk_plan(subject.trace, scores, {"features.7": 16})
    app = visit(scan, subject, removed={"features.7": 16}, choices=choices)
    assert "start from your plan" in text(app) and app.button(key="start_scan")
    found = scan_sensitivity(
        subject.trace, subject.data.selection, (0.25, 0.5, 0.75), scores, limit=40, plan=plan, groups=["features.7"]
    )
    keep("scan", subject, found.to_dict(), criterion="weight-l1", plan=plan.to_json())
    app = visit(scan, subject, removed={"features.7": 16}, choices=choices)
    curves = drawn(app)
    assert list(curves) == ["features.7"]
    assert curves["features.7"][0] == pytest.approx([100 * p.removed_fraction for p in found.points["features.7"]])
    assert curves["features.7"][0][0] > 0, "the first point is the plan's own"
    assert any(part["name"].startswith("plan's network") for part in traces(app))
    assert "from my plan" in text(app) and "against the plan's network" in text(app)
    rows = rank_groups(subject.trace, found, Limit("accuracy", 0.01), plan=plan)
    assert list(app.dataframe[0].value["MACs saved"]) == pytest.approx([100 * row.macs_share for row in rows])
    moved = visit(scan, subject, removed={"features.7": 17}, choices=choices)
    assert moved.button(key="start_scan"), "another plan is another scan"


def test_a_scan_that_cannot_be_read_can_be_made_again(subject: Subject) -> None:
    keep("scan", subject, {"points": 3}, criterion="weight-l1")
    record = Workspace(new_token(), model_source=MODEL, criterion="weight-l1")
    open_store().save_workspace(record.token, record.to_json(), 0)
    app = AppTest.from_file(PAGE, default_timeout=60)
    app.query_params["w"] = record.token
    app.run()
    assert not app.exception and ["Scan again" in error.value for error in app.error] == [True]
    app.button(key="scan_anew").click().run()
    assert not app.exception and not app.error
    assert open_store().result("scan", job_key("scan", subject, criterion="weight-l1")) is None or drawn(app)
    (job,) = core.work.jobs.open_jobs().statuses(record.token)
    assert job.verb == "scan" and job.state != "failed"
    core.work.jobs.open_jobs().cancel(job.id)


def test_the_staircase_says_what_it_shows(subject: Subject, scan: Sensitivity, table: LatencyTable) -> None:
    keep("latency_table", subject, table.to_dict())
    app = visit(scan, subject, selected_group="features.7")
    assert table.wall is not None
    (measured,) = [part for part in traces(app, 1) if part.get("name") == "dense, measured"]
    assert measured["y"] == [table.wall.median_ms]
    assert f"took {tables.ms(table.wall.median_ms)}" in text(app) and "Predicted wall-clock time" in text(app)
    key = job_key("latency_table", subject)
    dense = Latency(8.0, 7.5, 9.0, 40, table.batch, table.threads, table.device)
    plan = Plan({"features.7": tuple(range(8))})
    foretold = predict_latency(subject.trace, plan, table).median_ms
    note_timing(open_store(), key, subject.trace, plan, [dense, replace(dense, median_ms=6.0)])
    app = visit(scan, subject, selected_group="features.7")
    said = text(app)
    assert "took 8.00 ms" in said and f"took 6.00 ms where {tables.ms(foretold)} had been predicted" in said
    (measured,) = [part for part in traces(app, 1) if part.get("name") == "dense, measured"]
    assert measured["y"] == [8.0]
    widest = [y for part in traces(app, 1) if "customdata" in part for row, y in zip(part["customdata"], part["y"],
              strict=True) if row[0] == 0]  # fmt: skip
    assert widest == [pytest.approx(8.0)], "predictions and the measured time agree where both are known"


def test_the_staircase_of_another_device(subject: Subject, scan: Sensitivity, table: LatencyTable) -> None:
    keep("latency_table", subject, table.to_dict())
    app = visit(scan, subject, selected_group="features.7", choices={"latency_device": "there"})
    assert table.device in text(app), "nothing was brought yet: this machine"
    owner = saved(app).token
    steps = {
        key: replace(step, ms=tuple(tuple(5 * ms for ms in row) for row in step.ms))
        for key, step in table.steps.items()
    }
    plain = replace(table, steps=steps).to_csv().split("\n", 1)[1]
    there = keep_device_table(subject, owner, table, plain.encode(), "a phone")
    app.run()
    assert not app.exception and "a phone, 1 thread" in text(app) and "The sum of the times" in text(app)
    stairs = latency_staircase(subject.trace, "features.7", there)
    parts = [part for part in traces(app, 1) if "customdata" in part]
    found = {row[1]: y for part in parts for row, y in zip(part["customdata"], part["y"], strict=True)}
    assert found == dict(zip(stairs.kept, map(pytest.approx, stairs.ms), strict=True))
    app.button(key="forget_device").click().run()
    assert not app.exception and "a phone" not in text(app)
