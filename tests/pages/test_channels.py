"""The channels page: what it shows is what core computed, and its choices reach the workspace."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from streamlit.testing.v1 import AppTest

import core.work.jobs
from core import (
    AS_CUT,
    Plan,
    Scores,
    Subject,
    desk_plan,
    draw_network,
    find_result,
    group_rows,
    job_key,
    list_criteria,
    open_subject,
    picture_widths,
    score_channels,
    widths_plan,
)
from core.keep.store import open_store
from core.keep.workspace import Workspace, new_token
from core.show.portraits import portrait_images, portray_plan

PAGE = Path(__file__).parents[2] / "pages" / "2_Channels.py"
MODEL = "demo/digits-resnet"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path))
    monkeypatch.setattr(core.work.jobs, "_manager", None)
    yield
    if core.work.jobs._manager is not None:
        core.work.jobs._manager.close()
    open_store().close()


@pytest.fixture
def subject() -> Subject:
    return open_subject(MODEL)


def keep(subject: Subject, criterion: str) -> Scores:
    """Scores by ``criterion``, as if they had been asked for before."""
    found = find_result(open_store(), "score", subject, criterion=criterion)
    if found is None:
        found = score_channels(subject.trace, subject.data.calibration, criterion).to_dict()
        open_store().put_result("score", job_key("score", subject, criterion=criterion), found)
    return Scores.from_dict(found)


def visit(**state: Any) -> AppTest:
    record = Workspace(new_token(), **{"model_source": MODEL, "criterion": "weight-l2", **state})
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


def bars(app: AppTest) -> list[dict[str, Any]]:
    (chart,) = app.get("plotly_chart")
    return json.loads(chart.proto.spec)["data"]


def text(app: AppTest) -> str:
    return " ".join(element.value for element in (*app.markdown, *app.caption, *app.latex))


def components(app: AppTest) -> list[dict[str, Any]]:
    """What every component of ours was sent."""
    return [json.loads(one.proto.json) for one in app.get("bidi_component")]


def strips(app: AppTest) -> str:
    return " ".join(element.proto.body for element in app.get("html"))


def test_bars_are_cores_scores_split_at_the_plan(subject: Subject) -> None:
    scores = keep(subject, "weight-l2")
    group = subject.trace.prunable[4]
    app = visit(removed={group.id: 20}, selected_group=group.id)
    drawn = {row[0]: value for part in bars(app) for row, value in zip(part["customdata"], part["y"], strict=True)}
    assert drawn == pytest.approx(dict(enumerate(scores.scores[group.id].tolist())))
    removed = next(part for part in bars(app) if part["name"].startswith("removed"))
    assert removed["name"] == "removed by the plan: 20"
    assert {row[0] for row in removed["customdata"]} == set(scores.ranking(group.id)[-20:])
    assert "no images" in text(app)


def test_the_map_has_every_prunable_group(subject: Subject) -> None:
    scores = keep(subject, "weight-l2")
    group = subject.trace.prunable[0]
    app = visit(removed={group.id: 3})
    (rows,) = (data["rows"] for data in components(app) if "rows" in data)
    assert [row["id"] for row in rows] == [one.id for one in subject.trace.prunable]
    for row in rows:
        assert row["scores"] == pytest.approx(scores.scores[row["id"]].tolist(), rel=1e-3)
    assert set(rows[0]["pruned"]) == set(scores.ranking(group.id)[-3:])
    locked = [one for one in subject.trace.groups if not one.prunable]
    (table,) = (one.dataframe[0].value for one in app.expander if "not in the map" in one.label)
    assert list(table["Group"]) == [one.name for one in locked]
    assert list(table["Why it stays"]) == [one.reason for one in locked]


def test_the_network_map_shows_the_groups_and_the_plans_widths(subject: Subject) -> None:
    keep(subject, "weight-l2")
    group = next(group for group in subject.trace.prunable if len(group.layers) > 1)
    app = visit(removed={group.id: 5}, selected_group=group.id)
    (picture,) = (data for data in components(app) if "groups" in data.get("picture", ()))
    assert picture["picture"] == json.loads(json.dumps(draw_network(subject.trace).to_json()))
    (sent,) = (data for data in components(app) if "widths" in data)
    assert sent["key"] == picture["key"] == subject.key and sent["selected"] == group.id
    plan = widths_plan(subject.trace, {group.id: 5})
    assert sent["widths"] == picture_widths(subject.trace, plan).to_json()
    (drawn,) = (one for one in picture["picture"]["groups"] if one[0] == group.id)
    assert sent["widths"]["kept"][drawn[1] - 1] == group.units - 5
    (same,) = (data for data in components(visit()) if "groups" in data.get("picture", ()))
    assert same == picture, "a plan does not change the picture"


def test_the_network_map_is_a_table_too(subject: Subject) -> None:
    keep(subject, "weight-l2")
    group = subject.trace.prunable[1]
    app = visit(removed={group.id: 4})
    (table,) = (one.dataframe[0].value for one in app.expander if "as a table" in one.label)
    rows = group_rows(subject.trace, widths_plan(subject.trace, {group.id: 4}))
    assert list(table["Group"]) == [row.name for row in rows]
    assert list(table["Before"]) == [row.units for row in rows] and list(table["After"]) == [row.kept for row in rows]
    assert list(table["Locked because"]) == [row.reason for row in rows]
    assert "several layers lose the same channels" in text(app)


def test_every_criterion_is_on_the_menu_with_its_words(subject: Subject) -> None:
    keep(subject, "weight-l2")
    app = visit()
    rows = list_criteria()
    assert app.selectbox(key="channels_menu").options == [row.title for row in rows]
    chosen = next(row for row in rows if row.name == "weight-l2")
    shown = text(app)
    assert chosen.summary in shown and chosen.source in shown and chosen.formula in shown


def test_looking_at_a_criterion_does_not_change_plans_until_it_is_said(subject: Subject) -> None:
    keep(subject, "weight-l2")
    other = keep(subject, "fpgm")
    group = subject.trace.prunable[1]
    app = visit(selected_group=group.id, removed={group.id: 4})
    app.selectbox(key="channels_menu").set_value("fpgm").run()
    assert saved(app).criterion == "weight-l2"
    assert "Plans use Weight L2 norm." in text(app)
    drawn = {row[0]: value for part in bars(app) for row, value in zip(part["customdata"], part["y"], strict=True)}
    assert drawn == pytest.approx(dict(enumerate(other.scores[group.id].tolist())))
    app.button(key="use_criterion").click().run()
    assert saved(app).criterion == "fpgm"
    assert saved(app).removed == {group.id: 4}
    assert "Plans use this criterion" in text(app)


def test_the_group_menu_selects_the_group_everywhere(subject: Subject) -> None:
    keep(subject, "weight-l2")
    group = subject.trace.prunable[4]
    app = visit()
    app.selectbox(key="channels_group").set_value(group.id).run()
    assert saved(app).selected_group == group.id
    members = app.dataframe[-1].value
    assert set(members["Layer"]) == {member.layer for member in group.members}
    assert str(group.units) in strips(app)


def test_a_picked_channel_is_told_with_its_rank(subject: Subject) -> None:
    scores = keep(subject, "weight-l2")
    group = subject.trace.prunable[2]
    channel = scores.ranking(group.id)[9]
    app = visit(selected_group=group.id, choices={"channel": {"id": group.id, "channel": channel}})
    assert f"Channel {channel}" in strips(app) and "rank 10, kept" in strips(app)
    app = visit(selected_group=group.id, choices={"channel": {"id": "gone", "channel": 9999}})
    assert f"Channel {scores.ranking(group.id)[0]}" in strips(app)


def test_scores_that_are_not_known_are_computed_by_a_job(subject: Subject) -> None:
    app = visit(criterion="weight-l1")
    until = time.monotonic() + 60
    while not app.get("plotly_chart"):
        assert time.monotonic() < until, text(app)
        time.sleep(0.5)
        app.run()
        assert not app.exception and not app.error
    expected = score_channels(subject.trace, None, "weight-l1")
    first = subject.trace.prunable[0].id
    drawn = {row[0]: value for part in bars(app) for row, value in zip(part["customdata"], part["y"], strict=True)}
    assert drawn == pytest.approx(dict(enumerate(expected.scores[first].tolist())))


def test_random_images_are_said_to_mean_nothing() -> None:
    keep(open_subject(MODEL, "", "random"), "weight-l2")
    app = visit(data_source="random")
    assert any("means nothing" in warning.value for warning in app.warning)


def test_a_selection_that_another_network_left_behind_does_no_harm(subject: Subject) -> None:
    keep(subject, "weight-l2")
    app = visit(selected_group="features.99", removed={"features.99": 3})
    assert app.selectbox(key="channels_group").value == subject.trace.prunable[0].id
    assert not any(part["name"].startswith("removed") for part in bars(app))
    assert saved(app).removed == {"features.99": 3}


def portrayed(app: AppTest) -> AppTest:
    """The same page when its jobs have ended."""
    until = time.monotonic() + 120
    while "Images that excite it most" not in text(app):
        assert time.monotonic() < until, text(app)
        time.sleep(0.5)
        app.run()
        assert not app.exception and not app.error, [error.value for error in app.error]
    return app


def keep_portrait(subject: Subject, unit: int, plan: Plan) -> dict[str, Any]:
    """A channel of the second group's portrait, as if it had been asked for before."""
    group = subject.trace.prunable[1].id
    told = {"group": group, "unit": unit, "place": "", "plan": plan.to_json(), "repair": AS_CUT}
    few = portrait_images(subject.data).take(torch.arange(20))
    found = portray_plan(subject, few, group, unit, "", plan, AS_CUT, steps=2)
    open_store().put_result("portrait", job_key("portrait", subject, **told), found)
    return found


def figures(app: AppTest) -> dict[str, dict[str, Any]]:
    drawn = [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]
    return {f"{place} {one['layout']['title']['text']}": one for place, one in enumerate(drawn)}


def test_a_channel_is_looked_at_only_when_it_was_picked(subject: Subject) -> None:
    keep(subject, "weight-l2")
    app = visit()
    assert not open_store().result("portrait", "any") and core.work.jobs.open_jobs().statuses(saved(app).token) == []
    app.button(key="portrait_ask").click().run()
    picked = saved(app).choices["channel"]
    assert picked["id"] == subject.trace.prunable[0].id
    assert [job.verb for job in core.work.jobs.open_jobs().statuses(saved(app).token)] == ["portrait"]
    portrayed(app)
    assert f"Channel {picked['channel']}" in " ".join(one.value for one in app.subheader)
    assert "No plan removes anything yet" in text(app)


def test_a_portrait_before_and_after_the_plan_is_cores(subject: Subject) -> None:
    scores = keep(subject, "weight-l2")
    first, group = subject.trace.prunable[:2]
    removed = {first.id: 10, group.id: 20}
    plan = desk_plan(subject.trace, scores, removed)
    unit = plan.kept[group.id][3]
    before, after = keep_portrait(subject, unit, Plan({})), keep_portrait(subject, unit, plan)
    app = visit(removed=removed, selected_group=group.id, choices={"channel": {"id": group.id, "channel": unit}})
    drawn = list(figures(app).values())[1:]
    assert [one["layout"]["title"]["text"].split(",")[0] for one in drawn] == [
        f"Filter weights in {group.id}", f"Filter weights in {group.id}", "Mean activation map", "Mean activation map",
    ]  # fmt: skip
    assert drawn[2]["data"][0]["z"] == before["mean_map"] and drawn[3]["data"][0]["z"] == after["mean_map"]
    assert drawn[2]["data"][0]["zmax"] == drawn[3]["data"][0]["zmax"], "one scale, so that both can be compared"
    kept = sum(value is not None for row in drawn[1]["data"][0]["z"] for value in row)
    assert kept == 9 * (32 - 10) and "10 inputs left with the plan" in text(app)
    assert "Mean excitement, before" in strips(app) and "Mean excitement, after" in strips(app)
    assert strips(app).count("<img") == 20 and "was " in strips(app)
    app.get("button_group")[0].set_value("peak").run()
    assert saved(app).choices["portrait_by"] == "peak" and "Peak excitement, before" in strips(app)


def test_a_channel_that_the_plan_removes_is_said_to_leave(subject: Subject) -> None:
    scores = keep(subject, "weight-l2")
    group = subject.trace.prunable[1]
    unit = scores.ranking(group.id)[-1]
    keep_portrait(subject, unit, Plan({}))
    app = visit(removed={group.id: 1}, selected_group=group.id, choices={"channel": {"id": group.id, "channel": unit}})
    assert "The plan removes this channel" in text(app) and "left" in strips(app)
    assert strips(app).count("<img") == 10 and len(figures(app)) == 3


def test_two_criteria_stand_side_by_side_with_their_correlation(subject: Subject) -> None:
    first, second = keep(subject, "weight-l2"), keep(subject, "fpgm")
    app = visit()
    app.selectbox(key="channels_beside_menu").set_value("fpgm").run()
    assert not app.exception and not app.error
    left, right = (data for data in components(app) if "rows" in data)
    assert not any(row["note"] for row in left["rows"])
    for row in right["rows"]:
        assert row["scores"] == pytest.approx(second.scores[row["id"]].tolist(), rel=1e-3)
        truth = spearmanr(first.scores[row["id"]], second.scores[row["id"]]).statistic
        assert float(row["note"].replace("−", "-")) == pytest.approx(truth, abs=0.0051)
    assert "Spearman's rank correlation" in text(app)
    assert "weight-l2" not in app.selectbox(key="channels_beside_menu").options
    app.selectbox(key="channels_menu").set_value("fpgm").run()
    assert app.selectbox(key="channels_beside_menu").value == "", "a criterion is not compared with itself"


def test_the_map_knows_the_filters_of_every_channel(subject: Subject) -> None:
    keep(subject, "weight-l2")
    (rows,) = (data["rows"] for data in components(visit()) if "rows" in data)
    group = next(one for one in subject.trace.prunable if len(one.layers) > 1)
    (sent,) = (row["members"] for row in rows if row["id"] == group.id)
    assert [one["layer"] for one in sent if one["makes"]] == list(group.layers)
    assert [one["layer"] for one in sent if not one["makes"]] == list(group.consumers)


def test_a_portrait_that_another_pick_dropped_begins_anew(subject: Subject) -> None:
    keep(subject, "weight-l2")
    group = subject.trace.prunable[0]
    cells = [{"id": group.id, "channel": channel} for channel in (1, 2)]
    app = visit(selected_group=group.id, choices={"channel": cells[0]})
    for cell in (cells[1], cells[0]):
        record = saved(app)
        changed = Workspace.from_json({**record.to_json(), "choices": {"channel": cell}}, record.revision)
        open_store().save_workspace(record.token, changed.to_json(), record.revision)
        app.run()
    portrayed(app)
    assert "Channel 1" in strips(app) and "cancelled" not in " ".join(one.value for one in app.info)
    assert core.work.jobs.open_jobs().statuses(record.token)[-1].state == "done"
