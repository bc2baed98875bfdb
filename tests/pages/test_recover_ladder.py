"""The recovery ladder on its page: what it shows in each state, what it asks for, what keeping a rung does.

No worker here: rungs are put where a worker would have filed them (tests/core/test_recovery.py has the real ones).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from core import AS_CUT, Plan, Scores, desk_plan, find_result, job_key, open_subject, prune_model
from core.keep.networks import keep_network
from core.keep.store import open_store
from core.keep.workspace import Workspace, new_token, undo
from core.show.recovery import FINETUNE, rung_arguments
from pages.components import ladder, moves, session, work
from tests.pages.headline_of import headline_cells
from tests.pages.stand_in import Jobs

ROOT = Path(__file__).parents[2]
REMOVED = {"features.10": 32, "features.24": 80}
SECONDS = 30  # what the page asks for at first
pytestmark = pytest.mark.usefixtures("jobs")


def visit(**values: Any) -> AppTest:
    record = Workspace(new_token(), work.FIRST_MODEL, **{"removed": REMOVED, **values})
    open_store().save_workspace(record.token, record.to_json(), 0)
    app = AppTest.from_file(ROOT / "pages" / "5_Recover.py", default_timeout=60)
    app.query_params["w"] = record.token
    return again(app)


def again(app: AppTest) -> AppTest:
    app.run()
    assert not app.exception and not app.error, [error.value for error in app.error]
    return app


def press(app: AppTest, label: str) -> AppTest:
    next(button for button in app.button if button.label == label).click()
    return again(app)


def saved(app: AppTest) -> Workspace:
    token = app.query_params["w"]
    found = open_store().workspace(token if isinstance(token, str) else token[0])
    assert found is not None
    return Workspace.from_json(*found)


def said(app: AppTest) -> str:
    return " ".join(element.value for element in (*app.markdown, *app.caption, *app.info, *app.warning))


def labels(app: AppTest) -> list[str]:
    return [button.label for button in app.button]


def marks(app: AppTest) -> dict[str, dict[str, Any]]:
    """The picture's points by the title of their rung."""
    data = json.loads(app.get("plotly_chart")[0].proto.spec)["data"]
    points = [part for part in data if part.get("mode") == "markers" and part["y"]]
    return {part["y"][0].partition("</b>")[0].removeprefix("<b>"): part for part in points}


def plan_now() -> Plan:
    subject = open_subject(work.FIRST_MODEL)
    scores = Scores.from_dict(find_result(open_store(), "score", subject, criterion=work.FIRST_CRITERION))
    return desk_plan(subject.trace, scores, REMOVED)


def filed(name: str, correct: int, network: str = "") -> None:
    """Put a rung where the job would have filed it; 360 images, the dense network right on 358."""
    value, lost = correct / 360, (correct - 358) / 360
    accuracy = {"value": value, "low": value - 0.02, "high": value + 0.01, "images": 360, "correct": correct, "loss": 1}
    rung = {
        "name": name, "title": name, "accuracy": accuracy, "seconds": 2.5, "plan": plan_now().to_json(),
        "difference": [lost, lost - 0.01, lost + 0.005], **({"network": network} if network else {}),
    }  # fmt: skip
    arguments = rung_arguments(plan_now().to_json(), name, SECONDS)
    open_store().put_result("rung", job_key("rung", open_subject(work.FIRST_MODEL), **arguments), rung)


def test_a_plan_that_removes_nothing_has_nothing_to_win_back() -> None:
    app = visit(removed={})
    assert "This plan removes nothing" in said(app) and not app.get("plotly_chart")


def test_before_it_is_climbed_it_says_what_it_will_do_and_asks_for_every_rung(jobs: Jobs) -> None:
    app = visit()
    assert "built five ways" in said(app)
    assert {mark["marker"]["symbol"] for mark in marks(app).values()} == {"circle-open"}
    assert not jobs.asked, "nothing long is started unasked"
    press(app, "Measure the ladder")
    ((verb, arguments, slot),) = jobs.asked
    assert (verb, slot, arguments["seconds"]) == ("ladder", "ladder", SECONDS)
    assert arguments["rungs"] == [AS_CUT, "batchnorm", "least-squares", "compensation", FINETUNE]
    assert Plan.from_json(arguments["plan"]) == plan_now()
    assert next(button for button in app.button if button.label == "Measure the ladder").disabled
    assert "Cancel" in labels(app)


def test_without_training_the_ladder_ends_before_it(jobs: Jobs) -> None:
    press(visit(choices={ladder.TRAIN: "0"}), "Measure the ladder")
    assert FINETUNE not in jobs.asked[0][1]["rungs"]


def test_what_stands_is_solid_what_is_asked_for_is_hollow(jobs: Jobs) -> None:
    app = press(visit(), "Measure the ladder")
    filed(AS_CUT, 200)
    filed("batchnorm", 340)
    found = marks(again(app))
    assert found["As cut"]["x"] == [pytest.approx(100 * 200 / 360)]
    assert found["Batch norm"]["error_x"]["arrayminus"] == [pytest.approx(2.0)]
    assert found["As cut"]["marker"]["symbol"] == "diamond", "as cut is how the network is built so far"
    assert [found[name]["marker"]["symbol"] for name in ("Least squares", "Fine-tuning")] == ["circle-open"] * 2
    table = app.dataframe[0].value
    assert list(table["Rung"]) == ["As cut (kept)", "Batch norm"]
    assert [found[name]["y"][0].partition("<br>")[2] for name in ("Least squares", "Fine-tuning")] == [
        "being measured …",
        "waiting",
    ]
    assert table["To dense, points"][1] == pytest.approx(100 * (340 - 358) / 360)
    assert "Dense network: 99.4 %" in said(app)


def test_a_cancel_keeps_the_rungs_and_going_on_asks_for_the_rest(jobs: Jobs) -> None:
    app = press(visit(), "Measure the ladder")
    filed(AS_CUT, 200)
    press(app, "Cancel")
    assert "was cancelled" in said(app) and marks(app)["As cut"]["marker"]["symbol"] == "diamond"
    press(app, "Go on")
    assert jobs.asked[-1][1]["rungs"] == ["batchnorm", "least-squares", "compensation", FINETUNE]


def test_a_failure_says_why_and_can_be_started_again(jobs: Jobs) -> None:
    app = press(visit(), "Measure the ladder")
    jobs.say = {"state": "failed", "error": "Memory ran out. Try fewer images."}
    app.run()
    assert [error.value for error in app.error] == ["Memory ran out. Try fewer images."]
    next(button for button in app.button if button.label == "Start again").click()
    app.run()
    assert len(jobs.asked) == 2


def test_a_kept_repair_is_what_tune_and_export_build() -> None:
    filed(AS_CUT, 200)
    filed("least-squares", 350)
    app = press(visit(), "Keep this rung")
    record = saved(app)
    assert work.repair(record, plan_now()) == "least-squares", "the best rung is the one offered first"
    assert "Kept: **Least squares**" in said(app) and "Kept" in labels(app)
    assert marks(app)["Least squares"]["marker"]["symbol"] == "diamond"
    assert headline_cells(app)["accuracy"]["value"] == "97.2 %", "the strip says what the rung was measured to be"


def test_a_trained_network_is_kept_for_its_plan_alone() -> None:
    subject = open_subject(work.FIRST_MODEL)
    name = keep_network(prune_model(subject.loaded.module, subject.trace, plan_now()), plan_now())
    filed("batchnorm", 340)
    filed(FINETUNE, 356, network=name)
    app = press(visit(), "Keep this rung")
    record = saved(app)
    assert work.repair(record, plan_now()) == name and work.repair(record, Plan({})) == AS_CUT
    assert work.measured(record, subject, plan_now())["accuracy"]["correct"] == 356
    assert work.network_key(record, plan_now()).endswith(name)
    session_choice(app, "batchnorm")
    press(again(app), "Keep this rung")
    assert work.repair(saved(app), plan_now()) == "batchnorm"


def test_a_network_that_came_with_the_plan_stands_beside_the_ladder() -> None:
    subject = open_subject(work.FIRST_MODEL)
    name = keep_network(prune_model(subject.loaded.module, subject.trace, plan_now()), plan_now())
    filed(AS_CUT, 200)
    accuracy = {"value": 0.98, "low": 0.96, "high": 0.99, "loss": 0.1, "correct": 353, "images": 360}
    entry = {"name": name, "title": "CP", "used": True, "accuracy": accuracy, "difference": [-0.01, -0.02, 0.0]}
    app = visit(choices={work.NETWORKS: {plan_now().key: {**entry, "seconds": 9.0}}})
    assert marks(app)["CP"]["marker"]["symbol"] == "diamond" and "is no rung" in said(app)
    session_choice(app, AS_CUT)
    press(again(app), "Keep this rung")
    assert work.repair(saved(app), plan_now()) == AS_CUT and marks(app)["CP"]["marker"]["symbol"] == "circle"
    session_choice(app, name)
    press(again(app), "Keep this rung")
    assert work.repair(saved(app), plan_now()) == name, "it can be had back"


def session_choice(app: AppTest, name: str) -> None:
    state, revision = open_store().workspace(saved(app).token)  # type: ignore[misc]
    state["choices"][ladder.KEEP] = name
    open_store().save_workspace(saved(app).token, state, revision)


def test_a_taken_plan_is_one_step_with_its_own_units(monkeypatch: pytest.MonkeyPatch) -> None:
    app = visit()
    subject = open_subject(work.FIRST_MODEL)
    before = work.plan(saved(app), subject)
    own = Plan({"features.0": tuple(range(3, 20)), "features.10": tuple(range(32))}, "CP")
    held = {session.HELD: saved(app)}
    monkeypatch.setattr(session.st, "session_state", held)
    monkeypatch.setattr(session.st, "query_params", {"w": saved(app).token})
    moves.take_plan(own, "CP")
    record = saved(app)
    assert work.plan(record, subject) == own and record.history[-1].label == "CP"
    assert work.plan(undo(record), subject) == before
