"""The page Learn: a lesson from its list to its end, right and wrong, and what is kept. Facts are computed here, not by
a worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from core import list_lessons, open_subject
from core.keep.store import open_store
from core.keep.workspace import Workspace, new_token
from core.learn import facts as facts_module
from core.learn.facts import FACTS, facts_of
from pages.components import work

PAGE = str(Path(__file__).resolve().parents[2] / "pages" / "8_Learn.py")
MODEL = "demo/digits-resnet"


@pytest.fixture(scope="module")
def facts() -> dict[str, dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(facts_module, "IMAGES", 16)
        return {name: facts_of(name, open_subject(MODEL)) for name in FACTS}


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any]) -> Iterator[AppTest]:
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path))
    ensure = work.ensure
    monkeypatch.setattr(
        work, "ensure",
        lambda verb, about, **given: work.Work(facts[given["lesson"]], None) if verb == "lesson" else ensure(
            verb, about, **given
        ),
    )  # fmt: skip
    token = new_token()
    open_store().save_workspace(token, Workspace(token, model_source=MODEL).to_json(), 0)
    at = AppTest.from_file(PAGE, default_timeout=60)
    at.query_params["w"] = token
    at.session_state["_temporary_framed"] = True
    yield at.run()
    open_store().close()


def press(at: AppTest, label: str, number: int = 0) -> AppTest:
    return [one for one in at.button if one.label == label][number].click().run()


def said(at: AppTest) -> str:
    return "\n".join(one.value for one in [*at.markdown, *at.caption, *at.success, *at.warning])


def test_the_list_opens_a_lesson(page: AppTest) -> None:
    assert not page.exception
    assert len([one for one in page.button if one.label == "Begin"]) >= 6
    press(page, "Begin")
    assert page.subheader[0].value == "What a channel does, and what it costs"
    press(page, "All lessons")
    assert not page.subheader


def test_a_lesson_is_played_to_its_end_with_a_wrong_prediction(page: AppTest, facts: dict[str, Any]) -> None:
    press(page, "Begin")
    known = facts["channel"]
    assert f"**{known['units']} channels**" in said(page)
    press(page, "Go on")
    assert not [one for one in page.button if one.label == "Go on"]  # first say what you think
    press(page, "Lock in my prediction")
    assert not [one for one in page.button if one.label == "Go on"]
    page.radio[0].set_value("own").run()
    press(page, "Lock in my prediction")
    assert page.radio[0].disabled and "Locked in" in said(page)
    press(page, "Go on")  # what was saved
    table = page.dataframe[0].value
    assert f"{known['own']:,}" in set(table["Saved"])
    press(page, "Go on")
    assert "easily forgotten" in said(page) and f"{known['others']:,}" in said(page)
    press(page, "Go on")
    assert page.latex
    press(page, "Go on")
    page.number_input[0].set_value(known["half_macs"] * 0.9).run()
    press(page, "Check")
    assert page.warning and not [one for one in page.button if one.label == "Finish"]
    page.number_input[0].set_value(known["half_macs"]).run()
    press(page, "Check")
    assert f"{known['half_macs']:.2f} million" in page.success[0].value
    press(page, "Finish")
    assert "Lesson done" in said(page)
    press(page, "All lessons")
    assert [one for one in page.button if one.label == "Look again"]
    assert "1 of " in said(page) or page.get("progress")


@pytest.mark.parametrize("name", ["norms", "sensitivity", "coupled", "taylor"])
def test_every_lesson_is_played_to_its_end_with_right_answers(page: AppTest, facts: dict[str, Any], name: str) -> None:
    page.query_params["lesson"] = name
    page.run()
    known = facts[name]
    for _ in range(12):
        if "Lesson done" in said(page):
            break
        for label in ("Lock in my prediction", "Check"):
            if [one for one in page.button if one.label == label]:
                answer(page, known, name)
                press(page, label)
        assert not page.exception
        press(page, "Finish" if [one for one in page.button if one.label == "Finish"] else "Go on")
    assert "Lesson done" in said(page)
    assert "saw it coming" in said(page) or "Right" in said(page)


def answer(page: AppTest, known: dict[str, Any], name: str) -> None:
    """Give the newest question its right answer."""
    open_radio = [one for one in page.radio if not one.disabled]
    open_number = [one for one in page.number_input if not one.disabled]
    if open_number:
        value = known[{"sensitivity": "needed", "coupled": "touched", "taylor": "first_loss_milli"}[name]]
        open_number[-1].set_value(float(value)).run()
        return
    keys = _keys(list(open_radio[-1].options), known)
    truth = next(str(known[one]) for one in ("pick", "interval_answer", "answer") if str(known.get(one)) in keys)
    open_radio[-1].set_value(truth).run()


def _keys(words: list[str], known: dict[str, Any]) -> list[str]:
    """AppTest shows an option's words; its keys are in the facts or in the lesson's file."""
    for name in ("candidates", "groups", "ways"):
        pairs = known.get(name)
        if isinstance(pairs, list) and words == [str(text) for _, text in pairs]:
            return [str(key) for key, _ in known[name]]
    return [
        key
        for one in list_lessons()
        for step in one.steps
        for key, text in step.options.items()
        if one.facts and len(words) == len(step.options) and (text in words or "{" in text)
    ]


def test_the_challenge_judges_the_plan_on_the_desk(page: AppTest) -> None:
    page.query_params["lesson"] = "challenge"
    page.run()
    press(page, "Go on")
    table = page.dataframe[0].value
    assert list(table["Verdict"]) == ["not yet", "not measured yet"] or "not yet" in list(table["Verdict"])
    assert not [one for one in page.button if one.label == "Finish"]


def test_a_lesson_that_does_not_exist_is_named(page: AppTest) -> None:
    page.query_params["lesson"] = "juggling"
    page.run()
    assert "There is no lesson called 'juggling'" in page.error[0].value
