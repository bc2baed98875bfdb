"""Lessons in a real browser: each predicted wrong and right, moved through, failed and passed, the screen held against
core's numbers; signs that explain themselves; a small screen; and what axe says, light and dark.

One visitor plays all lessons in one tab, one after the other. Most facts are in the server's store before, from few
images; those of WORKED the server's own workers compute.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from core import (
    FACTS_VERSION,
    SCENES,
    Lesson,
    LessonStep,
    Scores,
    count_cost,
    desk_plan,
    evaluate_model,
    filled,
    find_lesson,
    find_result,
    job_key,
    list_lessons,
    list_repairs,
    open_subject,
    options_of,
)
from core.keep.networks import build_any
from core.keep.store import FILE_NAME, Store
from core.keep.workspace import Workspace, new_token
from pages.components.work import FIRST_CRITERION, FIRST_MODEL
from tests.browser.conftest import Server, Tabs
from tests.browser.desk_page import DeskPage
from tests.browser.test_stories import go
from tests.browser.waits import PATIENCE_S, eventually
from tests.core.learn.lesson_facts import quick_facts

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
PLAYED = [lesson.name for lesson in list_lessons() if lesson.facts]
WORKED = ("channel", "lasso")
REPAIR = "batchnorm"  # of the plan in the challenge: the quickest


def key_of(lesson: Lesson) -> str:
    return job_key("lesson", open_subject(FIRST_MODEL), lesson=lesson.facts, version=FACTS_VERSION)


@pytest.fixture(scope="module")
def prepared(app: Server) -> Server:
    """The server with the facts of most lessons in its store."""
    store = Store(app.home / FILE_NAME)
    for name in PLAYED:
        if name not in WORKED:
            lesson = find_lesson(name)
            store.put_result("lesson", key_of(lesson), quick_facts(FIRST_MODEL)[lesson.facts])
    store.close()
    return app


@dataclass(frozen=True)
class Learner:
    """One tab on the page Learn. ``faults``: what went wrong in its scripts."""

    page: Any
    home: Any
    faults: list[str]

    def facts(self, lesson: Lesson) -> dict[str, Any]:
        """What the server shows; a page may have it a moment before the store does."""
        store = Store(self.home / FILE_NAME)
        eventually(lambda: store.result("lesson", key_of(lesson)) is not None)
        found = store.result("lesson", key_of(lesson))
        store.close()
        return dict(found)

    def begin(self, name: str) -> None:
        """From the list; what stands open is left first."""
        back = self.page.get_by_role("button", name="All lessons")
        wanted = self.page.locator(f".st-key-open-{name}").get_by_role("button")
        back.or_(wanted).first.wait_for()
        if back.count():
            back.click()
        wanted.click()
        self.step(name, 1).wait_for()

    def step(self, name: str, number: int) -> Any:
        return self.page.locator(f".st-key-lesson-step-{name}-{number}")

    def go_on(self, name: str, number: int) -> Any:
        self.page.get_by_role("button", name="Go on").click()
        self.step(name, number).wait_for()
        return self.step(name, number)

    def stands_still(self) -> None:
        """There is no way on: none is drawn, and what the former step offered is gone."""
        self.page.get_by_role("button", name=re.compile("^(Go on|Finish)$")).wait_for(state="detached")


@pytest.fixture(scope="module")
def learner(prepared: Server, tabs: Tabs) -> Iterator[Learner]:
    page, faults = tabs(), []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(f"{prepared.address}/Learn")
    page.get_by_role("button", name="Begin").first.wait_for()
    yield Learner(page, prepared.home, faults)
    tabs.give_back(page)


def squeezed(text: str) -> str:
    """Without the marks of Markdown, and without spaces: a browser breaks lines where it likes."""
    return re.sub(r"[\s*`]", "", re.sub(r"(?m)^- ", "", text))


def shows(step: Any, text: str, facts: dict[str, Any]) -> None:
    wanted = squeezed(filled(text, facts))
    eventually(lambda: wanted in squeezed(step.text_content()), told=lambda: text)  # it may just be drawn anew


def answers(step: LessonStep, facts: dict[str, Any]) -> tuple[Any, Any]:
    """A wrong one and the right one."""
    truth, options = facts[step.answer], options_of(step, facts)
    if options:
        return next(key for key in options if key != str(truth)), str(truth)
    return round(1.5 * truth + 7, 3), round(truth, 6)


def give(place: Any, step: LessonStep, answer: Any, facts: dict[str, Any]) -> None:
    """Answer a question and send it off."""
    options = list(options_of(step, facts))
    if options:
        place.get_by_role("radiogroup").locator("label").nth(options.index(answer)).click()
    else:
        place.locator("input").fill(str(answer))
        place.locator("input").press("Enter")
    place.get_by_role("button", name="Lock in my prediction" if step.kind == "predict" else "Check").click()


def predict(place: Any, step: LessonStep, facts: dict[str, Any], *, right: bool) -> None:
    give(place, step, answers(step, facts)[right], facts)
    place.get_by_text("Locked in.").wait_for()
    eventually(lambda: place.locator("input:enabled").count() == 0)


def fail_and_pass(learner: Learner, place: Any, step: LessonStep, facts: dict[str, Any]) -> None:
    for right, told in enumerate((step.wrong, step.right)):
        give(place, step, answers(step, facts)[right], facts)
        start = re.sub(r"[*`].*", "", filled(told, facts)).strip()
        place.get_by_text(start).first.wait_for()
        shows(place, told, facts)
        if not right:
            learner.stands_still()


def move_to(place: Any, keys: str) -> str:
    """Press a key on the slider of the picture; the line below it afterwards."""
    place.get_by_role("slider").press(keys)
    return str(place.locator(".told").text_content())


def look(place: Any, step: LessonStep, facts: dict[str, Any]) -> None:
    """What stands in a step: its text, its picture at both ends, its formula, all with core's numbers."""
    shows(place, step.text, facts)
    if step.scene:
        told = SCENES[step.scene](facts)["told"]
        eventually(lambda: move_to(place, "Home") == told[0])
        eventually(lambda: move_to(place, "End") == told[-1])
    if step.view:
        place.locator(".js-plotly-plot, [data-testid=stDataFrame]").first.wait_for()
    if step.formula:
        numbers = place.locator(".numbers")
        eventually(lambda: numbers.text_content() == filled(step.numbers, facts), told=numbers.text_content)
        table = squeezed(place.locator(".ps-symbols").text_content())
        assert all(squeezed(filled(sign.value, facts)) in table for sign in step.symbols)


@pytest.mark.parametrize("name", PLAYED)
def test_a_lesson_is_played_wrong_and_right(learner: Learner, name: str) -> None:
    """First with wrong predictions, to its end, the check failed and passed; then again, foreseen."""
    lesson, page = find_lesson(name), learner.page
    learner.begin(name)
    facts = learner.facts(lesson)
    for number, step in enumerate(lesson.steps, start=1):
        place = learner.go_on(name, number) if number > 1 else learner.step(name, 1)
        look(place, step, facts)
        if step.kind == "predict":
            learner.stands_still()
            predict(place, step, facts, right=False)
        elif step.kind == "check":
            fail_and_pass(learner, place, step, facts)
        elif step.kind == "explain":
            shows(place, step.wrong, facts)
    if name == "channel":
        movers = learner.step(name, 3).locator(".mover")
        gone = movers.evaluate_all("all => all.filter((one) => one.style.opacity === '0').length")
        assert gone == facts["removed"][-1], "as many columns leave as the line below says"
    if name == "lasso":
        explains_itself(page, learner.step(name, 5), "λ", f"{facts['penalty']:.4g}")
        who_comes_in(learner.step(name, 3), facts)
    page.get_by_role("button", name="Finish").click()
    page.get_by_text("Lesson done.").wait_for()
    page.get_by_role("button", name="Start this lesson again").click()
    page.get_by_text("Lesson done.").wait_for(state="detached")
    last = max(number for number, step in enumerate(lesson.steps, start=1) if step.kind == "explain")
    for number, step in enumerate(lesson.steps[:last], start=1):
        place = learner.go_on(name, number) if number > 1 else learner.step(name, 1)
        if step.kind == "predict":
            predict(place, step, facts, right=True)
        elif step.kind == "explain":
            shows(place, step.right, facts)
    assert learner.faults == []


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


def who_comes_in(picture: Any, facts: dict[str, Any]) -> None:
    """Each step to the right lets the price fall; the newcomers are named in the line below."""
    assert "0 of" in move_to(picture, "Home")
    seen = ""
    for _ in range(facts["place"]):
        seen = move_to(picture, "ArrowRight")
        if f": {facts['nth']} of" in seen:
            break
    assert re.search(rf"new: channel .*\b{facts['pick']}\b", seen), seen


def test_the_challenge_is_failed_and_passed_on_the_real_desk(learner: Learner) -> None:
    """The whole network misses the goal; a ready-made plan with a repair, measured, meets it."""
    page, subject = learner.page, open_subject(FIRST_MODEL)
    whole = count_cost(subject.trace)
    learner.begin("challenge")
    shows(learner.step("challenge", 1), "at most 50 % of the MACs, at most 2 points of accuracy lost", {})
    desk = learner.go_on("challenge", 2)
    numbers = desk.locator(".numbers")
    assert f"{whole.macs:,} / {whole.macs:,} = 100.0 %, wanted: at most 50 %" in numbers.text_content()
    learner.stands_still()
    desk.get_by_role("link", name="Tune").click()
    half_the_macs(DeskPage(page, ""))
    go(DeskPage(page, ""), "Learn")
    store = Store(learner.home / FILE_NAME)
    scores = Scores.from_dict(find_result(store, "score", subject, criterion=FIRST_CRITERION))
    state, _ = store.workspace(re.search(r"[?&]w=([\w-]+)", page.url)[1])
    plan = desk_plan(subject.trace, scores, state["removed"])
    left = count_cost(subject.trace, plan).macs
    page.locator(".numbers", has_text=f"{left:,} / {whole.macs:,} = {100 * left / whole.macs:.1f} %").wait_for()
    measure_and_finish(page)
    numbers.wait_for()
    repaired, _ = build_any(subject, plan, REPAIR)
    dense, cut = (evaluate_model(one, subject.data.selection).value for one in (subject.loaded.module, repaired))
    told = f"{100 * dense:.1f} % − {100 * cut:.1f} % = {100 * (dense - cut):.1f} points, wanted: at most 2 points"
    eventually(lambda: told in numbers.text_content(), told=numbers.text_content)
    page.get_by_role("button", name="Finish").click()
    page.get_by_text("Lesson done.").wait_for()
    assert learner.faults == []


def half_the_macs(tune: DeskPage) -> None:
    """Take the ready-made plan on the page Tune, and have it repaired."""
    tune.wait_for_bars()
    tune.page.get_by_role("button", name="Start from a plan").click()
    tune.page.get_by_role("button", name="Half the MACs").click()
    tune.wait_until(lambda seen: seen["macs"].mark == "exact" and "50" in seen["macs"].change)
    tune.page.keyboard.press("Escape")
    title = next(row.title for row in list_repairs() if row.name == REPAIR)
    tune.page.get_by_role("combobox", name="After the cut").click()
    tune.page.get_by_role("option", name=f"Repair: {title.lower()}").click()


def measure_and_finish(page: Any) -> None:
    """Press what the desk offers until the goal is met; the page Tune may have begun to measure, or be done."""
    finish = page.get_by_role("button", name="Finish")
    measure = page.get_by_role("button", name=re.compile("Measure this plan|Start again"))
    limit = time.monotonic() + PATIENCE_S
    while not finish.count():
        assert time.monotonic() < limit, page.get_by_test_id("stMain").inner_text()[-900:]
        with contextlib.suppress(Exception):  # it was drawn anew under the pointer
            measure.or_(finish).first.wait_for(timeout=3000)
            if measure.count():
                measure.first.click(timeout=3000)


def finished(app: Server, name: str) -> str:
    """The link of work in which a lesson is done: all its steps are open."""
    lesson = find_lesson(name)
    facts = quick_facts(FIRST_MODEL)[lesson.facts]
    given = {str(number): answers(step, facts)[1] for number, step in enumerate(lesson.steps, start=1) if step.answer}
    done = {"lessons": {name: {"step": len(lesson.steps), "answers": given, "done": True}}}
    token, store = new_token(), Store(app.home / FILE_NAME)
    store.save_workspace(token, Workspace(token, model_source=FIRST_MODEL, choices=done).to_json(), 0)
    store.close()
    return f"{app.address}/Learn?w={token}"


def test_a_small_screen_a_finger_and_reduced_motion(prepared: Server, tabs: Tabs) -> None:
    page = tabs(viewport={"width": 400, "height": 800}, reduced_motion="reduce", has_touch=True)
    page.goto(f"{finished(prepared, 'pivots')}&lesson=pivots")
    page.get_by_text("Lesson done.").wait_for()
    facts = quick_facts(FIRST_MODEL)["pivots"]
    picture = page.locator(".st-key-lesson-step-pivots-3")
    told = SCENES["pivots"](facts)["told"]
    assert move_to(picture, "Home") == told[0]
    assert picture.locator(".bar").first.evaluate("node => getComputedStyle(node).transitionDuration") == "0s"
    picture.get_by_role("button", name="Play").click()
    eventually(lambda: picture.locator(".told").text_content() in told[2:])
    picture.get_by_role("button", name="Pause").click()
    button = page.get_by_role("button", name=re.compile("^P: "))
    button.tap()
    tip = button.locator(".tip")
    tip.wait_for(state="visible")
    box = tip.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 400
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    tabs.give_back(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(prepared: Server, tabs: Tabs, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    link = finished(prepared, "compensation")
    page = tabs(color_scheme=scheme)
    seen = [(f"{link}&lesson=compensation", "Lesson done.")]
    if scheme == "light":  # the list has no colours of its own
        seen.append((link, "Begin"))
    for address, text in seen:
        page.goto(address)
        page.get_by_text(text).first.wait_for()
        found = axe.Axe().run(page, context={"include": [["[data-testid=stMainBlockContainer]"]]})
        bad = [one for one in found.response["violations"] if one["impact"] in {"serious", "critical"}]
        assert not bad, [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in bad]
    tabs.give_back(page)
