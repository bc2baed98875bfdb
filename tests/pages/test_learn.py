"""The page Learn: every lesson from its list to its end, right and wrong, and what is kept.

Facts are computed here, not by a worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from streamlit.testing.v1 import AppTest

from core import (
    SCENES,
    Assignment,
    LessonStep,
    filled,
    find_lesson,
    lesson_pictures,
    list_lessons,
    options_of,
    to_query,
)
from core.keep.store import open_store
from core.keep.workspace import Workspace, new_token
from pages.components import lesson_desk, work
from tests.core.learn.lesson_facts import MODEL, quick_facts

PAGE = str(Path(__file__).resolve().parents[2] / "pages" / "8_Learn.py")
LESSONS = {lesson.name: lesson for lesson in list_lessons()}


@pytest.fixture(scope="module")
def facts() -> dict[str, dict[str, Any]]:
    return quick_facts()


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
    yield at
    open_store().close()


def opened(at: AppTest, name: str) -> AppTest:
    at.query_params["lesson"] = name
    return at.run()


def press(at: AppTest, label: str, number: int = 0) -> AppTest:
    return [one for one in at.button if one.label == label][number].click().run()


def offers(at: AppTest, label: str) -> bool:
    return any(one.label == label for one in at.button)


def said(at: AppTest) -> str:
    return "\n".join(one.value for one in [*at.markdown, *at.caption, *at.success, *at.warning])


def html(at: AppTest) -> str:
    return "\n".join(one.proto.body for one in at.get("html"))


def answers(step: LessonStep, known: dict[str, Any]) -> tuple[Any, Any]:
    """The right answer to a question and a wrong one."""
    truth, options = known[step.answer], options_of(step, known)
    if options:
        return str(truth), next(key for key in options if key != str(truth))
    return float(truth), float(truth) * 1.5 + 7


def give(at: AppTest, step: LessonStep, value: Any) -> AppTest:
    """Answer the newest question."""
    asked = [one for one in (at.radio if isinstance(value, str) else at.number_input) if not one.disabled]
    asked = [one for one in asked if str(one.key).startswith("answer-")]
    asked[-1].set_value(value).run()
    return press(at, "Lock in my prediction" if step.kind == "predict" else "Check")


@pytest.mark.parametrize("name", [name for name in LESSONS if name != "challenge"])
@pytest.mark.parametrize("foreseen", [True, False])
def test_a_lesson_is_played_to_its_end(page: AppTest, facts: dict[str, Any], name: str, foreseen: bool) -> None:
    """With right predictions and right checks; and with wrong predictions, and a wrong answer before the right one."""
    lesson = LESSONS[name]
    known = facts[lesson.facts]
    opened(page, name)
    assert page.subheader[0].value == lesson.title
    for number, step in enumerate(lesson.steps, start=1):
        assert not page.exception and not page.error
        last = number == len(lesson.steps)
        if step.kind == "predict":
            assert not offers(page, "Go on"), "first say what you think"
            give(page, step, answers(step, known)[0 if foreseen else 1])
            assert page.radio[-1].disabled and "Locked in" in said(page)
        elif step.kind == "explain":
            assert filled(step.right if foreseen else step.wrong, known).strip() in said(page)
        elif step.kind == "check":
            assert not offers(page, "Finish" if last else "Go on")
            if not foreseen:
                give(page, step, answers(step, known)[1])
                assert page.warning[-1].value == filled(step.wrong, known)
                assert not offers(page, "Finish" if last else "Go on")
            give(page, step, answers(step, known)[0])
            assert page.success[-1].value == filled(step.right, known)
        assert all(f'aria-label="{one.sign}: ' in html(page) for one in step.symbols)
        press(page, "Finish" if last else "Go on")
    assert "Lesson done" in said(page)
    press(page, "Start this lesson again")
    assert "Lesson done" not in said(page) and offers(page, "Go on") and not page.radio


def test_the_list_opens_a_lesson_and_keeps_what_was_done(page: AppTest) -> None:
    page.run()
    assert not page.exception
    assert len([one for one in page.button if one.label == "Begin"]) == len(LESSONS) == 13
    press(page, "Begin")
    assert page.subheader[0].value == "What a channel does, and what it costs"
    press(page, "Go on")
    press(page, "Lock in my prediction")
    assert not offers(page, "Go on"), "nothing was chosen"
    press(page, "All lessons")
    assert not page.subheader and offers(page, "Go on") and "step 2 of 6" in said(page)


@pytest.mark.parametrize("scene", sorted(SCENES))
def test_a_scene_tells_of_every_step(scene: str, facts: dict[str, Any]) -> None:
    """What the browser is given holds together: a text, a label and a drawing for each step, all finite."""
    lesson = next(one for one in LESSONS.values() for step in one.steps if step.scene == scene)
    drawn = SCENES[scene](facts[lesson.facts])
    assert len(drawn["told"]) == len(drawn["steps"]) >= 2 and 0 <= drawn["start"] < len(drawn["told"])
    assert drawn["alt"] and drawn["label"] and all(drawn["told"])
    if drawn["kind"] == "lines":
        assert all(len(one["y"]) == len(drawn["told"]) for one in drawn["series"])
        values = [value for one in drawn["series"] for value in one["y"] if value is not None]
    elif drawn["kind"] == "bars":
        assert len(drawn["frames"]) == len(drawn["told"])
        assert all(len(one["values"]) == len(drawn["items"]) for one in drawn["frames"])
        values = [value for one in drawn["frames"] for value in one["values"]]
    else:
        assert len(drawn["frames"]) == len(drawn["told"])
        return
    assert drawn["low"] <= min(values) and max(values) <= drawn["high"] + 1e-6
    assert 2 <= len(drawn["ticks"]) <= 8


def test_numbers_in_scenes_are_the_facts(facts: dict[str, Any]) -> None:
    known, drawn = facts["channel"], SCENES["leaving"](facts["channel"])
    assert f"{known['macs']:,} MACs, 100.0%" in drawn["told"][0]
    assert [len(frame) for frame in drawn["frames"]] == known["removed"]
    known, drawn = facts["pivots"], SCENES["pivots"](facts["pivots"])
    assert f"now channel {known['second']}" in drawn["told"][2]
    known, drawn = facts["harm"], SCENES["classes"](facts["harm"])
    assert f"{known['pruned']:.1%}" in drawn["told"][known["chosen"]]


def test_the_challenge_judges_the_plan_on_the_desk(page: AppTest) -> None:
    opened(page, "challenge")
    press(page, "Go on")
    table = page.dataframe[0].value
    assert list(table["Verdict"]) == ["not yet", "not measured yet"]
    assert not offers(page, "Finish")


def test_the_goal_in_the_text_is_the_one_in_force(page: AppTest) -> None:
    opened(page, "challenge")
    own = "at most 50 % of the MACs, at most 2 points of accuracy lost"
    assert f"**{own}**" in said(page)
    task = Assignment(MODEL, lesson="challenge", budget=("params", 0.25), drop=0.05)
    for part in to_query(task).split("&"):
        page.query_params[part.partition("=")[0]] = part.partition("=")[2]
    page.run()
    assert not page.exception
    text = next(one.value for one in page.markdown if "Everything so far" in one.value)
    assert "at most 25 % of the parameters, at most 5 points of accuracy lost" in text and own not in said(page)
    press(page, "Go on")
    assert "wanted: at most 25 %" in html(page) and page.dataframe[0].value["Wanted"][0] == "at most 25 %"


def test_answers_given_on_another_network_do_not_stand_in_the_way(page: AppTest) -> None:
    token = page.query_params["w"]
    token = token[0] if isinstance(token, list) else token
    answers = {"2": "a group of another network", "5": "true", "7": 40.0}
    progress = {"sensitivity": {"step": 7, "answers": answers, "done": True}}
    record = Workspace(token, model_source=MODEL, choices={"lessons": progress})
    open_store().save_workspace(token, record.to_json(), open_store().revision(token))
    opened(page, "sensitivity")
    assert not page.exception and not page.error and "Lesson done" in said(page)
    assert not page.radio[0].disabled and offers(page, "Start this lesson again")


@pytest.mark.parametrize("name", [name for name in LESSONS if name != "challenge"])
def test_a_lesson_prints_what_it_shows(facts: dict[str, dict[str, Any]], name: str) -> None:
    lesson = LESSONS[name]
    drawn = lesson_pictures(lesson, facts[lesson.facts])
    assert set(drawn) == {number for number, step in enumerate(lesson.steps, start=1) if step.scene or step.view}
    for picture in drawn.values():
        tree = ElementTree.fromstring(picture)
        for svg in tree.iter("svg"):
            _, _, width, height = map(float, str(svg.get("viewBox")).split())
            places = [one.split(",") for line in svg.iter("polyline") for one in str(line.get("points")).split()]
            places += [(dot.get("cx"), dot.get("cy")) for dot in svg.iter("circle")]
            places += [(box.get("x"), box.get("y")) for box in svg.iter("rect")]
            assert places and all(-1 <= float(x) <= width + 1 and -1 <= float(y) <= height + 1 for x, y in places)


def test_a_printed_chart_shows_the_facts(facts: dict[str, dict[str, Any]]) -> None:
    known = facts["norms"]
    drawn = ElementTree.fromstring(lesson_pictures(LESSONS["norms"], known)[3])
    dots = list(drawn.iter("circle"))
    assert len(dots) == known["units"]
    heights = [float(str(dot.get("cy"))) for dot in dots]
    assert heights.index(max(heights)) == known["tried"].index(known["least"]), "the lowest dot is the least loss"
    assert [dot.get("fill") for dot in dots].index("#000") == known["tried"].index(known["smallest"])
    known = facts["least_squares"]
    text = "".join(ElementTree.fromstring(lesson_pictures(LESSONS["repair"], known)[3]).itertext())
    assert f"as cut: {100 * known['cut']:.4g}" in text and f"least squares: {100 * known['solved']:.4g}" in text


def whole(value: float, images: int) -> dict[str, Any]:
    return {"accuracy": {"value": value, "images": images}}


@pytest.mark.parametrize(
    ("images", "accuracy", "verdict"), [(360, 0.97, "passed"), (360, 0.9, "not yet"), (100, 0.97, "not measured yet")]
)
def test_accuracies_are_compared_on_the_same_images(
    page: AppTest, monkeypatch: pytest.MonkeyPatch, images: int, accuracy: float, verdict: str
) -> None:
    ensure = work.ensure
    monkeypatch.setattr(work, "measured", lambda *_: whole(accuracy, 360))
    monkeypatch.setattr(
        work, "ensure",
        lambda verb, about, **given: work.Work(whole(0.98, images), None) if verb == "evaluate_plan" else ensure(
            verb, about, **given
        ),
    )  # fmt: skip
    opened(page, "challenge")
    press(page, "Go on")
    assert list(page.dataframe[0].value["Verdict"]) == ["not yet", verdict]


def test_a_plan_whose_channels_are_not_chosen_is_not_priced(page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "plan", lambda *_: None)
    opened(page, "challenge")
    press(page, "Go on")
    assert not page.dataframe and "Waiting for the scores" in page.info[0].value
    assert not offers(page, "Finish")
    assert lesson_desk.Judged(None, None, None, None, None).met({"macs": 0.5}) == {"macs": None}  # type: ignore[arg-type]


def test_a_lesson_that_does_not_exist_is_named(page: AppTest) -> None:
    opened(page, "juggling")
    assert "There is no lesson called 'juggling'" in page.error[0].value
    assert find_lesson("challenge").steps[-1].kind == "desk"
