"""The page Compare: plans side by side, everything measured so far, where plans came from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core import AS_CUT, Plan, Scores, desk_plan, find_result, job_key, open_subject
from core.keep import workspace as records
from core.keep.store import open_store
from core.keep.workspace import Workspace, new_token
from pages.components import compare, origins, session, work
from tests.pages.stand_in import Jobs

PAGE = Path(__file__).parents[2] / "pages" / "6_Compare.py"
TIME = {"median_ms": 1.5, "low_ms": 1.4, "high_ms": 1.7, "device": "cpu", "threads": 1, "batch": 1}
pytestmark = pytest.mark.usefixtures("jobs")


def plan_of(removed: dict[str, int]) -> Plan:
    subject = open_subject(work.FIRST_MODEL)
    scores = Scores.from_dict(find_result(open_store(), "score", subject, criterion=work.FIRST_CRITERION))
    return desk_plan(subject.trace, scores, removed)


def measured(removed: dict[str, int], wrong: int, dense_ms: float = 3.0) -> None:
    """Put a result where a worker would have: the first ``wrong`` images get another class. dense_ms: of the dense
    network, timed in turns with the plan; alone it took 6.93 ms."""
    subject = open_subject(work.FIRST_MODEL)
    labels = subject.data.selection.labels.tolist()
    answers = [(label + 1) % 10 if i < wrong else label for i, label in enumerate(labels)]
    share = 1 - wrong / len(labels)
    accuracy = {"value": share, "low": share - 0.02, "high": min(1, share + 0.01), "images": len(labels)}
    accuracy["per_class"] = [share] * 10
    dense = {**TIME, "median_ms": dense_ms if removed else 6.93}
    result = {"accuracy": accuracy, "latency": TIME if removed else dense, "dense_latency": dense, "answers": answers}
    key = job_key("evaluate_plan", subject, plan=plan_of(removed).to_json(), repair=AS_CUT)
    open_store().put_result("evaluate_plan", key, result)


def work_with_plans() -> Workspace:
    record = Workspace(new_token(), work.FIRST_MODEL, criterion=work.FIRST_CRITERION)
    for name, removed in (("Half front", {"features.0": 16}), ("Less", {"features.0": 16, "features.3": 8})):
        record = records.edit(record, removed, "a bar", from_equaliser=True)
        record = records.save_plan(record, name, plan_of(dict(record.removed)).to_json(), f"note on {name}")
    return record


def open_page(record: Workspace) -> AppTest:
    open_store().save_workspace(record.token, record.to_json(), 0)
    app = AppTest.from_file(PAGE, default_timeout=60)
    app.query_params["w"] = record.token
    app.run()
    assert not app.exception
    return app


def html(app: AppTest) -> str:
    return " ".join(element.proto.body for element in app.main.get("html"))


def test_two_plans_side_by_side_with_flips_and_front(jobs: Jobs) -> None:
    measured({}, 0)
    measured({"features.0": 16}, 3)
    measured({"features.0": 16, "features.3": 8}, 20)
    record = records.choose(work_with_plans(), **{compare.CHOSEN: [compare.DENSE, "Half front", "Less"]})
    app = open_page(record)
    assert jobs.asked == [] and not app.error
    table = html(app)
    for words in ("Dense network", "Half front", "100.0 %", "99.2 %", "3 answers differ", "−50 % beside"):
        assert words in table, words
    assert "lost" in table and "data:image/png" in table
    said = " ".join(element.value for element in app.main.markdown)
    assert "**3 answers** of 360 differ, 3 lost, 0 won" in said
    kept = app.session_state[session.HELD].measured
    assert len(kept) == 3, "what was measured is remembered for the chart"
    charts = [element.proto.id for element in app.main.get("plotly_chart")]
    assert len(charts) == 3, "accuracy over cost, widths, classes"


def test_the_dense_time_is_of_the_turns_that_the_changes_speak_of(jobs: Jobs) -> None:
    """On a busy machine its time of another moment would contradict them."""
    measured({}, 0)
    measured({"features.0": 16}, 3)
    measured({"features.0": 16, "features.3": 8}, 20, dense_ms=2.0)
    alone = html(open_page(records.choose(work_with_plans(), **{compare.CHOSEN: [compare.DENSE]})))
    assert "6.93 ms" in alone and "turns" not in alone
    one = html(open_page(records.choose(work_with_plans(), **{compare.CHOSEN: [compare.DENSE, "Half front"]})))
    assert "6.93 ms" not in one and one.count("3.00 ms") == 2
    assert "−50 % beside the dense network:\n3.00 ms, timed in turns with it" in one
    assert "timed in turns with “Half front”" in one
    every = {compare.CHOSEN: [compare.DENSE, "Half front", "Less"]}
    two = html(open_page(records.choose(work_with_plans(), **every)))
    assert "2.00 to 3.00 ms" in two and "timed in turns with each of 2 plans" in two
    assert "−50 % beside" in two and "−25 % beside" in two


def test_what_is_not_measured_is_asked_for_and_can_be_stopped(jobs: Jobs) -> None:
    measured({}, 0)
    app = open_page(records.choose(work_with_plans(), **{compare.CHOSEN: [compare.DENSE, "Less"]}))
    assert len(jobs.asked) == 1 and "measuring …" in html(app)
    next(button for button in app.button if button.label == "Cancel").click()
    app.run()
    assert not app.exception and jobs.stopped
    assert any("was cancelled" in info.value for info in app.info)


def test_the_tree_names_origins_and_notes_and_a_plan_can_be_renamed(jobs: Jobs) -> None:
    record = records.choose(work_with_plans(), **{compare.CHOSEN: []})
    app = open_page(record)
    shown = html(app)
    assert "note on Less" in shown and "--depth:2" in shown and "2 groups by hand" in shown
    assert app.selectbox(key=origins.PICKED).value == "Less"
    app.text_input(key=origins.NAME).set_value("Least")
    app.text_area(key=origins.NOTE).set_value("<b>for the talk</b>")
    next(button for button in app.button if button.label == "Save").click()
    app.run()
    assert not app.exception
    names = {plan.name: plan for plan in app.session_state[session.HELD].plans}
    assert names["Least"].note == "<b>for the talk</b>" and names["Least"].parent == "Half front"
    assert "&lt;b&gt;for the talk" in html(app)
    next(button for button in app.button if button.label == "Put on the desk").click()
    app.run()
    assert app.session_state[session.HELD].removed == names["Least"].removed


def test_a_network_without_meaningful_accuracy_shows_costs_and_widths(jobs: Jobs) -> None:
    record = replace(work_with_plans(), data_source="random")
    app = open_page(records.choose(record, **{compare.CHOSEN: [compare.DENSE, "Less"]}))
    assert "says nothing here" in html(app) and not app.error
    assert len(app.main.get("plotly_chart")) == 1
