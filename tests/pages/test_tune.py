"""The tuning page's logic: what it opens with, what a hand may do, what it says when something is missing or fails.

No browser here: an edit is given as the component would send it (see tests/browser for the real one).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from core import AS_CUT, Plan, Scores, count_cost, desk_plan, find_result, job_key, list_criteria, open_subject
from core.keep.store import open_store
from core.keep.workspace import Workspace, new_token
from core.work.jobs import QueueFull
from pages.components import desk, moves, session, tables, work
from tests.pages.stand_in import Jobs

PAGE = Path(__file__).parents[2] / "pages" / "4_Tune.py"
CRITERIA = [row.name for row in list_criteria()]
MEASURED = {
    "accuracy": {"value": 0.95, "low": 0.92, "high": 0.97, "images": 360},
    "latency": {"median_ms": 1.5, "low_ms": 1.4, "high_ms": 1.7, "device": "cpu", "threads": 1, "batch": 1},
    "dense_latency": {"median_ms": 3.0, "low_ms": 2.9, "high_ms": 3.1, "device": "cpu", "threads": 1, "batch": 1},
}


@pytest.fixture(autouse=True)
def _nothing_is_cancelled_by_hand(jobs: Jobs) -> Iterator[None]:
    yield
    assert jobs.stopped == []


def opened(**state: Any) -> AppTest:
    """The page with both of its popovers open, unless told otherwise."""
    app = AppTest.from_file(PAGE, default_timeout=60)
    for name, value in {"tune_starts": True, "tune_settings": True, **state}.items():
        app.session_state[name] = value
    app.run()
    assert not app.exception
    return app


def record(app: AppTest) -> Any:
    return app.session_state[session.HELD]


def sent(app: AppTest, name: str) -> dict[str, Any]:
    """The data that went to the component ``name``."""
    found = [node.proto for node in nodes(app.main) if type(getattr(node, "proto", None)).__name__ == "BidiComponent"]
    return next(json.loads(proto.json) for proto in found if proto.component_name.endswith(name))


def nodes(node: Any) -> Iterator[Any]:
    yield node
    for child in getattr(node, "children", {}).values():
        yield from nodes(child)


def cells(app: AppTest) -> dict[str, dict[str, Any]]:
    return {cell["name"]: cell for cell in sent(app, "headline")["cells"]}


def kept(app: AppTest) -> dict[str, int]:
    return {row["id"]: row["kept"] for row in sent(app, "equaliser")["rows"]}


def press(app: AppTest, label: str) -> AppTest:
    next(button for button in app.button if button.label == label).click()
    app.run()
    assert not app.exception
    return app


def edited(app: AppTest, *steps: dict[str, int], locked: tuple[str, ...] = ()) -> AppTest:
    """As the equaliser's message would: through the page's own handler, in the app's session."""
    edit = {"phase": "commit", "rev": 0, "values": {}, "steps": list(steps), "locked": list(locked)}
    in_session(app, lambda: moves.on_edit(edit))
    app.run()
    assert not app.exception
    return app


def in_session(app: AppTest, act: Any) -> None:
    """Run ``act`` where session.py finds this app's workspace and address."""
    held, query = app.session_state[session.HELD], {session.TOKEN_PARAMETER: app.session_state[session.HELD].token}
    state = {session.HELD: held}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.st, "session_state", state)
        patch.setattr(session.st, "query_params", query)
        act()
    app.session_state[session.HELD] = state[session.HELD]


def measured(plan: Plan, **changes: Any) -> None:
    """Put a result for ``plan`` where a worker would have put it."""
    subject = open_subject("demo/digits-vgg")
    key = job_key("evaluate_plan", subject, plan=plan.to_json(), repair=AS_CUT)
    open_store().put_result("evaluate_plan", key, {**MEASURED, **changes})


def plan_now(app: AppTest) -> Plan:
    subject = open_subject("demo/digits-vgg")
    scores = Scores.from_dict(find_result(open_store(), "score", subject, criterion=work.FIRST_CRITERION))
    return desk_plan(subject.trace, scores, record(app).removed)


def test_it_opens_with_the_proposed_plan_one_undo_from_dense(jobs: Jobs) -> None:
    app = opened()
    subject = open_subject("demo/digits-vgg")
    proposal = find_result(open_store(), "propose", subject, criterion=work.FIRST_CRITERION)
    assert proposal["removed"] and record(app).removed == proposal["removed"]
    assert proposal["dense_accuracy"]["value"] - proposal["accuracy"]["value"] <= 0.01 + 1e-9
    assert record(app).history[0].label == "Proposed: at most 1 point lost"
    press(app, "Undo")
    assert record(app).removed == {}
    assert cells(app)["macs"]["change"] == "0 %"
    app.run()
    assert record(app).removed == {}, "it is proposed once"
    press(app, "Redo")
    assert record(app).removed == proposal["removed"]


def test_costs_are_exact_and_the_rest_says_what_it_is(jobs: Jobs) -> None:
    app = edited(opened(), {"features.10": 20})
    shown, cost = cells(app), count_cost(open_subject("demo/digits-vgg").trace, plan_now(app))
    assert shown["macs"]["value"] == tables.count(cost.macs) and shown["macs"]["mark"] == "exact"
    assert shown["params"]["value"] == tables.count(cost.params)
    assert shown["size_bytes"]["value"] == tables.size(cost.size_bytes)
    assert shown["accuracy"]["mark"] == "estimated" and shown["accuracy"]["busy"]
    assert shown["latency"]["value"] == "measuring this machine …" and "25 %" in shown["latency"]["detail"]
    assert sent(app, "headline")["pending"]
    assert jobs.verbs().count("latency_table") == 1, "asked for once"


def test_the_estimate_is_the_sum_that_the_browser_makes(jobs: Jobs) -> None:
    app = edited(opened(), {"features.10": 32, "features.0": 24})
    data = sent(app, "equaliser")
    lost = 0.0
    for row in data["rows"]:
        removed = 1 - row["kept"] / row["units"]
        if removed > 0:
            at, accuracy = zip(*[(point[0], point[1]) for point in row["curve"]], strict=True)
            lost += data["dense_accuracy"] - float(np.interp(removed, at, accuracy))
    wanted = max(data["chance"], data["dense_accuracy"] - lost)
    assert cells(app)["accuracy"]["value"] == tables.percent(wanted)


def test_a_measured_plan_shows_its_numbers_and_no_other_plan_does(jobs: Jobs) -> None:
    app = edited(opened(), {"features.10": 20})
    measured(plan_now(app))
    app.run()
    shown = cells(app)
    assert shown["accuracy"]["value"] == "95.0 %" and shown["accuracy"]["mark"] == "measured"
    interval, images, estimate = shown["accuracy"]["detail"].splitlines()
    assert (interval, images) == ("95 %: 92.0 to 97.0 %", "360 selection images")
    assert estimate.startswith("estimate was "), "predicted beside measured"
    assert shown["latency"]["value"] == "1.50 ms" and shown["latency"]["change"] == "−50 %"
    assert "cpu, 1 thread" in shown["latency"]["detail"]
    edited(app, {"features.10": 21})
    assert cells(app)["accuracy"]["mark"] == "estimated"
    press(app, "Undo")
    assert cells(app)["accuracy"]["value"] == "95.0 %", "back at the plan, its value is there at once"


def test_noting_what_was_measured_asks_for_no_new_drawing_and_an_edit_does(jobs: Jobs) -> None:
    app = edited(opened(), {"features.10": 20})
    measured(plan_now(app))
    app.run()
    (noted,) = record(app).measured.values()
    assert noted["accuracy"]["value"] == 0.95
    subject, states = open_subject("demo/digits-vgg"), []
    in_session(app, lambda: states.append(desk.state_of(desk.gather(record(app), subject), False)))
    assert states == [app.session_state[session.TEMPORARY + "tune_drawn"]]
    in_session(app, lambda: moves.on_edit({"phase": "commit", "steps": [{"features.10": 21}], "locked": []}))
    in_session(app, lambda: states.append(desk.state_of(desk.gather(record(app), subject), False)))
    assert states[0] != states[1]
    assert sent(app, "headline")["ack"] == 0, "the strip takes edits"


def test_what_popovers_hold_is_made_when_they_are_opened(jobs: Jobs) -> None:
    app = opened(tune_starts=False, tune_settings=False)
    labels = {button.label for button in app.button}
    assert {"Undo", "Dense"} < labels and "Half the MACs" not in labels
    assert [box.label for box in app.selectbox] == ["After the cut"]


def test_a_preview_that_a_newer_plan_replaced_is_asked_for_again(jobs: Jobs) -> None:
    app = edited(opened(), {"features.10": 20})
    first = [entry for entry in jobs.asked if entry[0] == "evaluate_plan"]
    assert all(slot == "preview" for _, _, slot in first)
    jobs.say_of["evaluate_plan"] = {"state": "cancelled", "replaced": True}
    app.run()
    again = [entry for entry in jobs.asked if entry[0] == "evaluate_plan"]
    assert len(again) == len(first) + 1 and again[-1][1]["plan"] == first[-1][1]["plan"]


def test_a_preview_that_was_stopped_by_hand_stays_stopped(jobs: Jobs) -> None:
    app = edited(opened(), {"features.10": 20})
    asked = jobs.verbs().count("evaluate_plan")
    jobs.say_of["evaluate_plan"] = {"state": "cancelled"}
    app.run()
    assert jobs.verbs().count("evaluate_plan") == asked
    press(app, "Start again")
    assert jobs.verbs().count("evaluate_plan") == asked + 1


def test_a_failed_measurement_says_why_and_can_be_started_again(jobs: Jobs) -> None:
    jobs.say_of["evaluate_plan"] = {"state": "failed", "error": "Memory ran out. Try fewer images."}
    app = opened()
    assert [error.value for error in app.error] == ["Memory ran out. Try fewer images."]
    asked = jobs.verbs().count("evaluate_plan")
    press(app, "Start again")
    assert jobs.verbs().count("evaluate_plan") == asked + 1


def test_each_gesture_is_a_step_and_a_locked_group_does_not_move(jobs: Jobs) -> None:
    app = opened()
    steps = len(record(app).history)
    edited(app, {"features.10": 40}, {"features.10": 30, "features.0": 16}, {"classifier": 2})
    assert [step.label for step in record(app).history[steps:]] == ["features.10: 40 of 64", "2 groups"]
    assert kept(app)["features.10"] == 30 and kept(app)["classifier"] == 10
    edited(app, locked=("features.10",))
    press(app, "Half the MACs")
    assert kept(app)["features.10"] == 30, "a start plan leaves a person's lock alone"
    rows = {row["id"]: row for row in sent(app, "equaliser")["rows"]}
    assert rows["features.10"]["locked"] and rows["features.10"]["reason"] is None
    assert rows["classifier"]["reason"] == "feeds the output"


@pytest.mark.parametrize(
    ("label", "part", "least", "most"),
    [("Half the MACs", "macs", 0.47, 0.5), ("A quarter of the parameters", "params", 0.2, 0.25)],
)
def test_start_plans_meet_their_budget(jobs: Jobs, label: str, part: str, least: float, most: float) -> None:
    app = press(opened(), label)
    trace = open_subject("demo/digits-vgg").trace
    share = getattr(count_cost(trace, plan_now(app)), part) / getattr(count_cost(trace), part)
    assert least <= share <= most
    assert record(app).history[-1].label == label


def test_what_a_start_plan_waits_for_is_said(jobs: Jobs) -> None:
    app = opened()
    button = next(button for button in app.button if button.label == "2× faster here")
    assert button.disabled and "timed on this machine" in button.help


def test_the_same_share_and_dense(jobs: Jobs) -> None:
    app = opened()
    press(app, "Remove 50 % of every group")
    assert kept(app)["features.24"] == 80 and kept(app)["features.0"] == 16
    press(app, "Dense")
    assert kept(app)["features.24"] == 160 and record(app).can_undo


def test_named_plans_are_kept_listed_and_restored(jobs: Jobs) -> None:
    app = edited(opened(), {"features.10": 20})
    measured(plan_now(app))
    app.text_input(key="tune_name").set_value("Narrow ten")
    press(app, "Save")
    table = app.dataframe[0].value
    assert list(table["Plan"]) == ["Narrow ten"] and list(table["Accuracy"]) == ["95.0 %"]
    press(app, "Dense")
    in_session(app, lambda: moves.restore_plan("Narrow ten"))
    app.run()
    assert kept(app)["features.10"] == 20
    press(app, "Save")
    assert "1 to 80 characters" in app.warning[0].value


def test_another_criterion_keeps_the_widths_and_asks_for_what_it_needs(jobs: Jobs) -> None:
    app = opened()
    before = kept(app)
    app.selectbox(key="tune_criterion").set_value("activation-mean" if "activation-mean" in CRITERIA else "random")
    app.run()
    assert not app.exception
    assert kept(app) == before and record(app).criterion != ""
    assert "scan" in jobs.verbs()


def test_random_weights_and_images_are_said_to_mean_nothing_but_cost_works(jobs: Jobs) -> None:
    fresh = Workspace(new_token(), model_source="torchvision/resnet18", data_source="random")
    app = AppTest.from_file(PAGE, default_timeout=120)
    app.session_state[session.HELD] = fresh
    app.query_params[session.TOKEN_PARAMETER] = fresh.token
    app.run()
    assert not app.exception
    shown = cells(app)
    assert shown["accuracy"]["silent"] and shown["accuracy"]["detail"] == "Random weights"
    assert shown["macs"]["mark"] == "exact" and sent(app, "equaliser")["dense_accuracy"] is None
    assert "scan" not in jobs.verbs() and "propose" not in jobs.verbs()
    group = next(row["id"] for row in sent(app, "equaliser")["rows"] if not row["locked"])
    edited(app, {group: 10})
    assert cells(app)["macs"]["change"].startswith("−"), "costs do not wait for scores"
    assert not app.error


def test_a_full_queue_hides_nothing_and_is_asked_less_often(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> str:
        raise QueueFull("32 jobs are waiting on this server, the most it takes.")

    monkeypatch.setattr(jobs, "submit", full)
    app = opened()
    assert not app.error and len(sent(app, "equaliser")["rows"]) > 5
    strip = sent(app, "headline")
    assert strip["pending"] and strip["poll_ms"] > 2000
    monkeypatch.undo()
