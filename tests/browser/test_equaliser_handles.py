"""What moves several bars at once, finds them, and shows them small; and what axe says of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.waits import eventually

pytestmark = pytest.mark.browser


def type_into(desk: Any, bar: Any, text: str) -> None:
    bar.focus()
    desk.page.keyboard.type(text)
    desk.page.keyboard.press("Enter")


def test_marked_bars_move_together_as_one_step(open_desk: Any) -> None:
    desk = open_desk()
    for group in ("g2", "g4"):
        desk.page.locator(f".column[data-id={group}] .name").click(modifiers=["Control"])
    desk.page.locator(".marks", has_text="2 marked").wait_for()
    desk.drag("g2", 0.5)
    echo = desk.wait(lambda echo: echo["values"]["g2"] == 32)
    units = int(desk.bar("g4").get_attribute("aria-valuemax"))
    assert echo["values"]["g4"] == units // 2 and echo["steps"] == 1
    assert echo["values"]["g3"] == int(desk.bar("g3").get_attribute("aria-valuemax")), "others stay"
    desk.page.keyboard.press("Escape")
    marked = desk.page.locator(".column.marked")
    eventually(lambda: marked.count() == 0)
    desk.page.locator(".column[data-id=g5] .fader").focus()
    desk.page.keyboard.press(" ")
    desk.page.locator(".column[data-id=g8] .name").click(modifiers=["Shift"])
    eventually(lambda: marked.count() == 4, told=marked.count)


def test_a_stage_moves_its_groups_only(open_desk: Any) -> None:
    desk = open_desk("stages=1")
    head = desk.page.locator(".stage-head").nth(1)
    assert head.get_attribute("role") == "slider" and head.get_attribute("aria-label") == "Stage stage 1, 4 groups"
    type_into(desk, head, "50")
    echo = desk.wait(lambda echo: echo["values"]["g4"] < int(desk.bar("g4").get_attribute("aria-valuemax")))
    for number in range(12):
        units = int(desk.bar(f"g{number}").get_attribute("aria-valuemax"))
        expected = units // 2 if 4 <= number < 8 else units
        assert echo["values"][f"g{number}"] == expected, number
    box = head.bounding_box()
    desk.page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20)
    desk.page.mouse.down()
    desk.page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 20, steps=4)
    desk.page.mouse.up()
    desk.wait(lambda echo: echo["values"]["g4"] == round(0.75 * int(desk.bar("g4").get_attribute("aria-valuemax"))))


def drops(desk: Any) -> dict[str, float]:
    """What each free group loses alone, in points, as its bar says."""
    import re

    found = {}
    for fader in desk.page.locator(".column .fader[aria-disabled=false]").all():
        told = re.search(r"([\d.]+) points? lost", fader.get_attribute("aria-valuetext") or "")
        if told:
            found[fader.get_attribute("aria-label")] = float(told.group(1))
    return found


def test_a_master_move_can_cost_every_group_the_same(open_desk: Any) -> None:
    desk = open_desk()
    desk.page.get_by_label("All groups and stages move").select_option("loss")
    type_into(desk, desk.bar("all"), "40")
    echo = desk.wait(lambda echo: echo["values"]["g0"] < 64)
    lost = sorted(drops(desk).values())
    assert len(lost) >= 9
    assert lost[-2] - lost[1] <= 1.5, f"equal losses but for the steps of a channel: {lost}"
    free = [f"g{number}" for number in range(12) if desk.bar(f"g{number}").get_attribute("aria-disabled") == "false"]
    units = {group: int(desk.bar(group).get_attribute("aria-valuemax")) for group in free}
    assert sum(echo["values"][group] for group in free) / sum(units.values()) == pytest.approx(0.6, abs=0.02)
    desk.page.get_by_label("All groups and stages move").select_option("time")
    type_into(desk, desk.bar("all"), "30")
    after = desk.wait(lambda now: now["values"] != echo["values"])
    kept = sum(after["values"][group] for group in free) / sum(units.values())
    assert kept == pytest.approx(0.7, abs=0.02)


def test_a_number_is_typed_under_a_bar(open_desk: Any) -> None:
    desk = open_desk()
    desk.page.locator(".column[data-id=g3] .count").click()
    field = desk.page.get_by_label("Channels of features.9 that stay")
    field.fill("17")
    field.press("Enter")
    desk.wait(lambda echo: echo["values"]["g3"] == 17)
    desk.page.locator(".column[data-id=g3] .count").click()
    field.fill("5")
    field.press("Escape")
    field.wait_for(state="detached")
    desk.page.wait_for_timeout(200)
    assert desk.kept("g3") == 17


def test_two_hundred_groups_have_an_overview_a_zoom_and_a_search(open_desk: Any) -> None:
    desk = open_desk("n=200&stages=1")
    window = desk.page.locator(".overview-window")
    narrow = window.bounding_box()["width"]
    assert 0 < narrow < 0.3 * desk.page.locator(".overview").bounding_box()["width"]
    box = desk.page.locator(".overview").bounding_box()
    desk.page.mouse.click(box["x"] + 0.8 * box["width"], box["y"] + 10)
    scroller = desk.page.locator(".scroller")
    eventually(lambda: scroller.evaluate("node => node.scrollLeft / node.scrollWidth") > 0.6)
    window.focus()
    desk.page.keyboard.press("Home")
    eventually(lambda: scroller.evaluate("node => node.scrollLeft") == 0)
    for _ in range(3):
        desk.page.get_by_label("Narrower bars").click()
    eventually(lambda: window.bounding_box()["width"] > 1.8 * narrow)
    desk.page.keyboard.press("/")
    desk.page.keyboard.type("150.conv")
    found = desk.page.locator(".find-told")
    eventually(lambda: found.inner_text() == "1 of 1", told=found.inner_text)
    assert desk.page.locator(".column.hit").count() == 1
    desk.page.keyboard.press("Enter")
    desk.wait(lambda echo: echo["selected"] == "g150")


def test_undo_works_wherever_the_focus_is_but_not_while_typing(open_desk: Any) -> None:
    desk = open_desk()
    desk.drag("g3", 0.5)
    desk.wait(lambda echo: echo["values"]["g3"] == 32)
    desk.page.get_by_label("Find a layer").fill("x")
    desk.page.keyboard.press("Control+z")
    desk.page.wait_for_timeout(300)
    assert desk.echo()["commands"] == []
    desk.page.get_by_label("Find a layer").blur()
    desk.page.keyboard.press("Control+z")
    desk.wait(lambda echo: echo["commands"] == ["undo"] and echo["values"]["g3"] == 64)
    desk.page.keyboard.press("?")
    desk.page.locator(".keys[open]").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_desk: Any, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    desk = open_desk("stages=1&n=60&start=mixed", color_scheme=scheme)
    found = axe.Axe().run(desk.page, context={"exclude": [["[data-testid=stCode]"]]})  # the harness's own echo
    serious = [one for one in found.response["violations"] if one["impact"] in ("serious", "critical")]
    assert not [(one["id"], node["target"], node["failureSummary"]) for one in serious for node in one["nodes"]]
