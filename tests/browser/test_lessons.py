"""Lessons in a real browser: predicted wrong and right, moved through, failed and passed; signs that explain
themselves; and what axe says of the page, light and dark."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from core import FACTS_VERSION, LessonStep, filled, find_lesson, job_key, open_subject, options_of
from core.keep.store import FILE_NAME, Store
from core.keep.workspace import Workspace, new_token
from core.learn.facts import facts_of as compute_facts
from pages.components.work import FIRST_MODEL
from tests.browser.conftest import Server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
PATIENCE_MS = 120_000


def facts_of(app: Server, name: str) -> dict[str, Any]:
    """What the server's worker computed for the lesson, and shows."""
    key = job_key("lesson", open_subject(FIRST_MODEL), lesson=find_lesson(name).facts, version=FACTS_VERSION)
    store = Store(app.home / FILE_NAME)
    found = store.result("lesson", key)
    store.close()
    return dict(found)


def open_lesson(tabs: Callable[..., Any], app: Server, name: str, **options: Any) -> Any:
    page = tabs(**options)
    page.set_default_timeout(PATIENCE_MS)
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto(f"{app.address}/Learn?lesson={name}")
    page.get_by_role("button", name="Go on").wait_for()
    return page


def step_of(page: Any, name: str, number: int) -> Any:
    return page.locator(f".st-key-lesson-step-{name}-{number}")


def go_on(page: Any, name: str, number: int) -> Any:
    page.get_by_role("button", name="Go on").click()
    step = step_of(page, name, number)
    step.wait_for()
    return step


def choose(step: Any, options: dict[str, str], key: str, facts: dict[str, Any], button: str) -> None:
    step.locator("label", has_text=filled(options[key], facts).replace("`", "")).first.click()
    step.get_by_role("button", name=button).click()


def wrong_and_right(step: LessonStep, facts: dict[str, Any]) -> tuple[str, str]:
    truth = str(facts[step.answer])
    return next(key for key in options_of(step, facts) if key != truth), truth


def move(step: Any, keys: str, times: int) -> str:
    """Press a key on the slider of the picture; the line below it afterwards."""
    slider = step.get_by_role("slider")
    for _ in range(times):
        slider.press(keys)
    return str(step.locator(".told").text_content())


def test_the_path_is_walked_and_the_check_is_failed_and_passed(app: Server, tabs: Callable[..., Any]) -> None:
    page, lesson = open_lesson(tabs, app, "lasso"), find_lesson("lasso")
    facts = facts_of(app, "lasso")
    step = go_on(page, "lasso", 2)
    wrong, _ = wrong_and_right(lesson.steps[1], facts)
    choose(step, options_of(lesson.steps[1], facts), wrong, facts, "Lock in my prediction")
    step.get_by_text("Locked in.").wait_for()
    picture = go_on(page, "lasso", 3)
    assert "0 of" in move(picture, "Home", 1)
    seen = ""
    for _ in range(facts["place"]):  # each step to the right; the newcomers are named in the line below
        seen = move(picture, "ArrowRight", 1)
        if f": {facts['nth']} of" in seen:
            break
    assert re.search(rf"new: channel .*\b{facts['pick']}\b", seen), seen
    told = go_on(page, "lasso", 4)
    assert f"channel {facts['strongest']} at {facts['strongest_beta']:.2f}" in told.text_content()
    formula = go_on(page, "lasso", 5)
    explains_itself(page, formula, "λ", f"{facts['penalty']:.4g}")
    check = go_on(page, "lasso", 6)
    wrong, right = wrong_and_right(lesson.steps[5], facts)
    choose(check, options_of(lesson.steps[5], facts), wrong, facts, "Check")
    check.get_by_text("Not that one.").wait_for()
    assert page.get_by_role("button", name="Finish").count() == 0
    choose(check, options_of(lesson.steps[5], facts), right, facts, "Check")
    check.get_by_text(f"Right: channel {right}").wait_for()
    page.get_by_role("button", name="Finish").click()
    page.get_by_text("Lesson done.").wait_for()
    assert page.faults == []
    page.close()


def explains_itself(page: Any, formula: Any, sign: str, value: str) -> None:
    """Under the pointer, and reached by the keyboard; nothing is covered."""
    button = formula.get_by_role("button", name=re.compile(f"^{sign}: ")).first
    tip = button.locator(".tip")
    assert not tip.is_visible()
    button.hover()
    tip.wait_for(state="visible")
    assert value in tip.text_content()
    page.mouse.move(0, 0)
    tip.wait_for(state="hidden")
    button.focus()
    tip.wait_for(state="visible")
    numbers, shown = formula.locator(".numbers").bounding_box(), tip.bounding_box()
    assert shown["y"] >= numbers["y"] + numbers["height"]


def test_channels_leave_when_played_and_a_finger_finds_the_signs(app: Server, tabs: Callable[..., Any]) -> None:
    small = {"viewport": {"width": 400, "height": 800}, "reduced_motion": "reduce", "has_touch": True}
    page, lesson = open_lesson(tabs, app, "channel", **small), find_lesson("channel")
    facts = facts_of(app, "channel")
    step = go_on(page, "channel", 2)
    _, right = wrong_and_right(lesson.steps[1], facts)
    choose(step, options_of(lesson.steps[1], facts), right, facts, "Lock in my prediction")
    picture = go_on(page, "channel", 3)
    assert f"{facts['macs']:,} MACs" in move(picture, "Home", 1)
    assert picture.locator(".mover").first.evaluate("node => getComputedStyle(node).transitionDuration") == "0s"
    picture.get_by_role("button", name="Play").click()
    page.wait_for_function(
        "text => [...document.querySelectorAll('*')].some((one) => one.shadowRoot?.querySelector('.told')"
        "?.textContent.includes(text))", arg=f"{facts['left_macs'][2]:,} MACs",
    )  # fmt: skip
    picture.get_by_role("button", name="Pause").click()
    last = f"{facts['left_macs'][-1]:,} MACs"
    assert last in move(picture, "End", 1)
    gone = picture.locator(".mover").evaluate_all("all => all.filter((one) => one.style.opacity === '0').length")
    assert gone == facts["removed"][-1]
    assert "You saw it coming" in go_on(page, "channel", 4).text_content()
    formula = go_on(page, "channel", 5)
    button = formula.get_by_role("button", name=re.compile("^C out: "))
    button.tap()
    tip = button.locator(".tip")
    tip.wait_for(state="visible")
    box = tip.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 400
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    check = go_on(page, "channel", 6)
    for value, answer in ((1.5 * facts["half_macs"], "Not yet"), (facts["half_macs"], "Right: ")):
        check.locator("input").fill(f"{value:.3f}")
        check.locator("input").press("Enter")
        check.get_by_role("button", name="Check").click()
        check.get_by_text(answer).wait_for()
    assert page.faults == []
    page.close()


@pytest.fixture(scope="module")
def finished(app: Server) -> str:
    """The link of work in which a lesson is done: all its steps are open."""
    lesson, subject = find_lesson("compensation"), open_subject(FIRST_MODEL)
    facts = compute_facts(lesson.facts, subject)
    answers = {
        str(number): str(facts[step.answer]) if options_of(step, facts) else float(facts[step.answer])
        for number, step in enumerate(lesson.steps, start=1) if step.answer
    }  # fmt: skip
    done = {"lessons": {lesson.name: {"step": len(lesson.steps), "answers": answers, "done": True}}}
    token, store = new_token(), Store(app.home / FILE_NAME)
    store.put_result("lesson", job_key("lesson", subject, lesson=lesson.facts, version=FACTS_VERSION), facts)
    store.save_workspace(token, Workspace(token, model_source=FIRST_MODEL, choices=done).to_json(), 0)
    store.close()
    return f"{app.address}/Learn?w={token}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(finished: str, tabs: Callable[..., Any], scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = tabs(color_scheme=scheme)
    page.set_default_timeout(PATIENCE_MS)
    seen = [(f"{finished}&lesson=compensation", "Lesson done.")]
    if scheme == "light":  # the list has no colours of its own
        seen.append((finished, "Begin"))
    for address, text in seen:
        page.goto(address)
        page.get_by_text(text).first.wait_for()
        found = axe.Axe().run(page, context={"include": [["[data-testid=stMainBlockContainer]"]]})
        bad = [one for one in found.response["violations"] if one["impact"] in {"serious", "critical"}]
        assert not bad, [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in bad]
    page.close()
