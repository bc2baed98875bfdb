"""A class in real browsers: the teacher sets an exercise, two learners open it, hand in, and all see one board."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Tabs
from tests.browser.desk_page import DeskPage

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def test_a_teacher_and_two_learners_share_a_board(app: Any, tabs: Tabs, tmp_path: Path) -> None:
    teacher, *learners = (tabs(viewport={"width": width, "height": 900}) for width in (1400, 1280, 1200))
    faults: list[str] = []
    for page in (teacher, *learners):
        page.on("pageerror", lambda error: faults.append(str(error)))
    link = open_class(teacher, app.address)
    assert "key=" not in link and "w=" not in link

    shown = [take_part(page, link, name) for page, name in zip(learners, ("Ada", "<b>Bob</b>"), strict=True)]
    assert len(set(shown)) == 2, "each learner has work of their own"
    assert learners[0].get_by_test_id("stSidebar").get_by_role("link", name="Export").count() == 0
    for page, share in zip(learners, (0.4, 0.7), strict=True):
        choose_a_plan(page, share)
    hand_in(learners)  # side by side, as in a class
    for page in (teacher, *learners):
        page.get_by_text("2 learners, 2 plans handed in").wait_for()

    with teacher.expect_download() as waiting:
        teacher.get_by_role("button", name="Board as CSV").click()
    board = tmp_path / "board.csv"
    waiting.value.save_as(board)
    rows = [line.split(",") for line in board.read_text().splitlines()[1:]]
    assert [row[0] for row in rows] == ["Ada", "<b>Bob</b>"]
    assert len({row[7] for row in rows}) == 2 and all(0 < float(row[2]) <= 1 for row in rows)
    assert faults == []
    for page in (teacher, *learners):
        tabs.give_back(page)


def open_class(page: Any, address: str) -> str:
    """Freeze the criterion, hide the export, open the class; the learners' link."""
    page.goto(f"{address}/Learn")
    page.get_by_text("For teachers: set an exercise").click()
    for control, how in (("criterion", "frozen"), ("export", "hidden")):
        page.locator(f".st-key-teach-hold-{control}").get_by_text(how, exact=True).click()
        page.locator(f".st-key-teach-hold-{control} [data-selected=true]").get_by_text(how).wait_for()
    page.get_by_role("button", name="Open a class").click()
    code = page.locator(".st-key-class-card code").first
    code.wait_for()
    assert re.search(r"Class \w{4}-\w{4}-\w{4}", page.locator(".st-key-class-card").inner_text())
    return str(code.inner_text())


def take_part(page: Any, link: str, name: str) -> str:
    """Open the link and join; the token of the work that was made for it."""
    page.goto(link)
    page.get_by_label("Your nickname on the board").fill(name)
    page.get_by_role("button", name="Join", exact=True).click()
    page.get_by_text(f"Nickname: {name}", exact=True).wait_for()
    page.wait_for_url(re.compile(r"[?&]w="))
    return str(page.url.partition("w=")[2])


def choose_a_plan(page: Any, share: float) -> None:
    """Drag a bar on the page Tune, where the criterion cannot be chosen; then back to the class."""
    page.get_by_test_id("stSidebar").get_by_role("link", name="Tune").click()
    desk = DeskPage(page, "")
    desk.wait_for_bars()
    page.get_by_role("button", name="Settings").click()
    page.get_by_text("Your teacher's link holds this as it is.").first.wait_for()
    assert page.get_by_role("combobox", name="Which channels leave first").is_disabled()
    page.keyboard.press("Escape")
    desk.drag("features.10", share)
    desk.wait_until(lambda seen: seen["macs"].mark == "exact")
    page.get_by_test_id("stSidebar").get_by_role("link", name="Learn").click()


def hand_in(pages: list[Any]) -> None:
    """Press what the class card offers until every plan is on the board. A plan or the whole network may still be
    missing: then it is measured first."""
    limit, waiting = time.monotonic() + 240, list(pages)
    while waiting:
        page = waiting[0]
        ready = page.get_by_role("button", name=re.compile("Hand in this plan|Measure this plan"))
        if page.get_by_role("button", name="On the board").count():
            waiting.pop(0)
            continue
        assert time.monotonic() < limit, page.get_by_test_id("stMain").inner_text()[-800:]
        with contextlib.suppress(Exception):  # it was drawn anew under the pointer
            if ready.count() and ready.is_enabled(timeout=1000):
                ready.click(timeout=3000)
        waiting.append(waiting.pop(0))
        page.wait_for_timeout(100)
    for page in pages:
        page.get_by_text(re.compile(r"learners?, [12] plans? handed in")).wait_for()
