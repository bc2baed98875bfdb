"""The page Learn in class: a teacher's link comes in, controls are held, plans go on the board, files are taken away.

Measured results are put into the store as a worker would file them; no worker runs here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from core import (
    Assignment,
    Plan,
    entries,
    evaluate_model,
    find_class,
    is_teacher,
    job_key,
    open_class,
    open_subject,
    plan_uniform,
    prune_model,
    score_channels,
    to_query,
)
from core.keep.store import open_store
from core.keep.workspace import Workspace, edit, new_token
from core.learn import classroom_board as classes
from pages.components import classroom_board, classroom_rules, session, work

PAGES = Path(__file__).resolve().parents[2] / "pages"
MODEL = "demo/digits-resnet"
TASK = Assignment(MODEL, lesson="challenge", criterion="weight-l2", budget=("macs", 0.9), drop=0.9,
                  frozen=("criterion", "starts", "scan", "recover"), hidden=("export",))  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path))
    work._parsed.clear()
    classroom_board._boards.clear()
    yield tmp_path
    open_store().close()
    work._parsed.clear()


def page(name: str = "8_Learn", **parameters: str) -> AppTest:
    at = AppTest.from_file(str(PAGES / f"{name}.py"), default_timeout=60)
    for key, value in parameters.items():
        at.query_params[key] = value
    at.session_state["_temporary_framed"] = True
    at.run()
    assert not at.exception, at.exception
    return at


def arrived(task: Assignment, code: str = "") -> AppTest:
    return page(**dict(pair.split("=") for pair in to_query(task, code).split("&")))


def record(at: AppTest) -> Workspace:
    found: Workspace = at.session_state[session.HELD]
    return found


def press(at: AppTest, label: str) -> AppTest:
    next(one for one in at.button if one.label == label).click()
    at.run()
    assert not at.exception, at.exception
    return at


def labels(at: AppTest) -> list[str]:
    return [one.label for one in at.button]


def said(at: AppTest) -> str:
    kinds = [*at.markdown, *at.caption, *at.success, *at.warning, *at.error, *at.info, *at.text]
    return "\n".join(str(one.value) for one in kinds)


def test_a_link_opens_its_network_lesson_and_rules() -> None:
    at = arrived(replace(TASK, seed=7))
    now = record(at)
    assert (now.model_source, now.criterion) == (MODEL, "weight-l2")
    assert at.subheader[0].value.startswith("The challenge")
    assert "at most 90 % of the MACs, at most 90 points of accuracy lost" in said(at)
    assert next(one for one in at.button if one.label == "All lessons").disabled
    assert now.choices[classroom_rules.TASK]["seed"] == 7
    token = now.token
    at.run()
    assert record(at).token == token, "a link that is taken in once is not taken in again"


def test_a_link_leaves_what_was_open_at_its_own_address() -> None:
    token = new_token()
    open_store().save_workspace(token, edit(Workspace(token, "demo/digits-vgg"), {"features.0": 2}, "x").to_json(), 0)
    at = page(w=token, **dict(pair.split("=") for pair in to_query(TASK).split("&")))
    assert record(at).token != token and record(at).model_source == MODEL and not record(at).history
    state, _ = open_store().workspace(token) or ({}, 0)
    assert state["model_source"] == "demo/digits-vgg" and state["removed"] == {"features.0": 2}


@pytest.mark.parametrize(("change", "words"), [
    ({"model": "/etc/passwd"}, "expected model"),
    ({"model": "demo/nonesuch"}, "nonesuch"),
    ({"weights": "/tmp/x.pt"}, "cannot name a file"),
    ({"lesson": "![x](http://e.org/x.png)"}, "characters that no such link"),
    ({"macs": "-3"}, "expected macs"),
    ({"class": "bako-timu-resa"}, "no class of that code"),
])  # fmt: skip
def test_a_bad_link_is_one_sentence_and_changes_nothing(change: dict[str, str], words: str) -> None:
    at = page(**({name: value for name, value in (pair.split("=") for pair in to_query(TASK).split("&"))} | change))
    (told,) = at.warning
    assert words in told.value and "e.org" not in told.value
    assert record(at).model_source == "" and classroom_rules.TASK not in record(at).choices
    at.run()
    assert not at.warning


def test_controls_are_held_with_the_reason_on_their_pages() -> None:
    at = arrived(TASK)
    token = record(at).token
    tune = page("4_Tune", w=token)
    tune.session_state["tune_settings"] = True  # its popover is filled when it is opened
    tune.run()
    assert next(one for one in tune.selectbox if one.label == "Which channels leave first").disabled
    assert next(one for one in tune.selectbox if one.label == "After the cut").disabled
    start = [one for one in tune.button if one.label == "Start from a plan"]
    assert len(start) == 1 and start[0].disabled and start[0].help == classroom_rules.REASON
    assert not record(tune).removed, "it opens with the whole network, not with a proposed plan"
    assert classroom_rules.HIDDEN_PAGE in said(page("7_Export", w=token))
    model = page("1_Model", w=token)
    assert next(one for one in model.selectbox if one.label == "Network").disabled and "Open" not in labels(model)
    channels = page("2_Channels", w=token)
    assert "Use this criterion for plans" not in labels(channels)
    assert not next(one for one in page("1_Model").selectbox if one.label == "Network").disabled


# The class


def measured(plan: Plan) -> None:
    """As the worker files it."""
    subject = open_subject(MODEL)
    module = prune_model(subject.loaded.module, subject.trace, plan) if plan.kept else subject.loaded.module
    accuracy = asdict(evaluate_model(module, subject.data.selection))
    key = job_key("evaluate_plan", subject, plan=plan.to_json(), repair="none")
    open_store().put_result("evaluate_plan", key, {"accuracy": accuracy})


def with_plan(at: AppTest) -> Plan:
    """A quarter of every group leaves on the learner's desk; measured, as is the whole network."""
    subject = open_subject(MODEL)
    ranked = score_channels(subject.trace, None, "weight-l2")
    key = job_key("score", subject, criterion="weight-l2")
    open_store().put_result("score", key, ranked.to_dict())
    plan = plan_uniform(subject.trace, ranked, 0.25)
    for one in (plan, Plan({})):
        measured(one)
    state, revision = open_store().workspace(record(at).token) or ({}, 0)
    removed = {
        group.id: group.units - len(plan.kept[group.id]) for group in subject.trace.prunable if group.id in plan.kept
    }
    changed = edit(Workspace.from_json(state, revision), removed, "a quarter")
    open_store().save_workspace(changed.token, changed.to_json(), revision)
    at.run()
    return plan


def joined(code: str, name: str) -> AppTest:
    at = arrived(TASK, code)
    at.text_input(key="class_name").input(name)
    return press(at, "Join")


def test_two_learners_hand_in_and_see_one_board() -> None:
    code, _ = open_class(open_store(), TASK, new_token())
    ada, bob = joined(code, "Ada"), joined(code, "[x](http://e.org)")
    assert record(ada).token != record(bob).token
    assert "Nickname: [x](http://e.org)" in [one.value for one in bob.text], "as it is, not as Markdown"
    assert "removes nothing yet" in said(ada)
    plan = with_plan(ada)
    press(ada, "Hand in this plan")
    (entry,) = entries(open_store(), code)
    subject = open_subject(MODEL)
    accuracy = evaluate_model(prune_model(subject.loaded.module, subject.trace, plan), subject.data.selection)
    assert entry.name == "Ada" and entry.told["value"] == accuracy.value and entry.told["passed"]
    assert next(one for one in ada.button if one.label == "On the board").disabled
    with_plan(bob)
    press(bob, "Hand in this plan")
    ada.run()
    table = ada.dataframe[-1].value
    assert list(table["Nickname"]) == ["Ada (you)", "[x](http://e.org)"]
    assert "2 learners, 2 plans handed in, 2 meet the goal" in said(ada)


def test_a_nickname_in_use_is_refused_where_it_was_typed() -> None:
    code, _ = open_class(open_store(), TASK, new_token())
    joined(code, "Ada")
    second = joined(code, "ada")
    assert "already" in second.error[0].value and second.text_input(key="class_name")


def test_a_class_counts_its_own_task_whatever_the_link_says() -> None:
    code, _ = open_class(open_store(), TASK, new_token())
    at = arrived(replace(TASK, drop=1.0, frozen=(), hidden=()), code)
    assert record(at).choices[classroom_rules.TASK] == find_class(open_store(), code).task.to_dict()


def test_a_teacher_opens_closes_and_takes_away_a_class() -> None:
    token = new_token()
    open_store().save_workspace(token, Workspace(token, MODEL).to_json(), 0)
    at = page(w=token)
    next(one for one in at.selectbox if one.key == "teach-lesson").set_value("norms")
    at.number_input(key="teach-share").set_value(25)
    press(at, "Open a class")
    code, key = record(at).choices[classroom_rules.CODE], record(at).choices[classroom_rules.KEY]
    task = find_class(open_store(), code).task
    assert (task.model, task.lesson, task.budget) == (MODEL, "norms", ("macs", 0.25))
    links = [one.value for one in at.code]
    assert any(f"class={code}" in one and key not in one for one in links)
    classes.join(open_store(), code, "a-token", "Ada")
    told = {
        "value": 0.9, "low": 0.88, "high": 0.92, "images": 360, "dense": {"value": 0.95, "low": 0.9, "high": 0.97},
        "costs": {"macs": 5, "params": 5, "size_bytes": 5}, "shares": {"macs": 0.5, "params": 0.5, "size_bytes": 0.5},
        "removed": 4, "repair": "none", "met": {}, "passed": False,
    }  # fmt: skip
    classes.hand_in(open_store(), code, "a-token", "plan", told)
    at.run()
    assert "1 learner, 1 plan handed in, 0 meet the goal" in said(at)
    press(at, "Close the class")
    assert find_class(open_store(), code).closed and "The class is closed" in said(at)
    again = page(**{"class": code, "key": key})
    assert record(again).choices[classroom_rules.KEY] == key and "key" not in again.query_params
    assert is_teacher(open_store(), code, key)
    wrong = page(**{"class": code, "key": "not the key"})
    assert "not the link of this class's teacher" in wrong.warning[0].value
    assert classroom_rules.KEY not in record(wrong).choices
    press(again, "Remove the class")
    assert "no class of that code" in said(at.run())


def test_a_class_is_joined_by_its_code_alone() -> None:
    code, _ = open_class(open_store(), TASK, new_token())
    at = page()
    at.text_input(key="join-code").input(code.upper().replace("-", " "))
    press(at, "Open the exercise")
    assert record(at).choices[classroom_rules.CODE] == code and record(at).model_source == MODEL
    lost = page()
    lost.text_input(key="join-code").input("no such code")
    press(lost, "Open the exercise")
    assert "no class of that code" in lost.warning[0].value


def test_progress_goes_out_and_comes_back() -> None:
    token = new_token()
    kept = {"channel": {"step": 3, "answers": {"2": "own"}, "done": False}}
    open_store().save_workspace(token, Workspace(token, MODEL, choices={"lessons": kept}).to_json(), 0)
    at = page(w=token)
    assert "Save progress" in [one.label for one in at.get("download_button")]
    fresh = page()
    packed = {"kind": "prunescope-progress", "format": 1, "network": "demo/digits-vgg", "lessons": kept}
    fresh.get("file_uploader")[-1].set_value(("progress.json", json.dumps(packed).encode(), "application/json")).run()
    press(fresh, "Go on from it")
    assert record(fresh).choices["lessons"] == kept


def test_the_chart_names_nobody_as_html_and_marks_ones_own() -> None:
    told: dict[str, Any] = {
        "value": 0.9, "low": 0.88, "high": 0.92, "dense": {"value": 0.95, "low": 0.9, "high": 0.97},
        "costs": {"macs": 5}, "shares": {"macs": 0.5}, "passed": True,
    }  # fmt: skip
    names = ["<b>Bob</b>", '<a href="http://e.org">x</a>', "Ada"]
    rows = []
    for n, name in enumerate(names):
        own = {"shares": {"macs": 0.2 + 0.3 * n}, "costs": {"macs": n}, "value": 0.8 + 0.05 * n}
        rows.append(classes.Entry(n, f"who{n}", name, told | own, 0.0))
    found = classroom_board.board_of(rows, TASK)
    plain = classroom_board.figure(found, TASK)
    figure = classroom_board.mark_own(plain, found, "who2")
    assert len(plain.data) == len(figure.data) - 1 and list(figure.data[-1].y) == [100 * rows[2].told["value"]]
    drawn = [word for trace in figure.data for word in trace.text or ()]
    drawn += [row[0] for trace in figure.data if trace.customdata is not None for row in trace.customdata]
    assert drawn and not any("<" in word for word in drawn) and "&lt;b&gt;Bob&lt;/b&gt;" in drawn
    assert [trace.name for trace in figure.data] == ["best so far", "goal met", "whole network", "yours"]
    assert len({(trace.marker.symbol, trace.marker.color) for trace in figure.data[1:]}) == 3
    assert "3 plans" in classroom_board.words(found, TASK)
