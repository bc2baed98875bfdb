"""The equaliser and the heatmap under a real mouse and keyboard, on the harness page with made-up rows."""

from __future__ import annotations

import random
import re

import pytest

from tests.browser.component_harness import made_up
from tests.browser.waits import eventually, painted

pytestmark = pytest.mark.browser


def test_dragging_moves_bar_and_estimates_in_the_browser_and_commits_on_release(open_desk):
    desk = open_desk()
    before = {name: desk.estimate(name) for name in ("accuracy", "macs", "params", "latency")}
    desk.grab("g3", 0.5)
    assert desk.kept("g3") == 32
    assert desk.page.locator(".column[data-id=g3] .count").inner_text().split() == ["32", "of", "64"]
    eventually(lambda: all(desk.estimate(name) != text for name, text in before.items()))
    assert desk.echo()["phases"] == [], "Python is not needed while the hand moves"
    desk.page.mouse.up()
    echo = desk.wait(lambda echo: echo["values"]["g3"] == 32)
    assert echo["phases"] == ["commit"] and echo["steps"] == 1
    untouched = {row["id"]: row["units"] for row in made_up.make_rows(12) if row["id"] != "g3"}
    assert echo["values"] == {**untouched, "g3": 32}


def test_estimates_equal_the_sums_they_claim_to_be(open_desk):
    desk = open_desk("n=2")  # g0: 64 units free, g1: locked
    desk.drag("g0", 0.5)
    desk.wait(lambda echo: echo["values"]["g0"] == 32)
    rows = made_up.make_rows(2)
    kept = [32, rows[1]["units"]]
    for name, unit in (("macs", 1e6), ("params", 1e3)):
        terms = made_up.cost_terms(rows)[f"{name}_terms"]
        total = sum(coef * (a < 0 or kept[a]) * (b < 0 or kept[b]) for coef, a, b in terms)
        assert float(desk.estimate(name).split()[0]) == pytest.approx(total / unit, rel=0.005)
    at_half = next(accuracy for removed, accuracy, *_ in rows[0]["curve"] if removed == 0.5)
    assert desk.estimate("accuracy") == f"{100 * at_half:.1f} %"


def test_keyboard_moves_by_unit_tenth_and_to_the_ends_and_names_what_it_does(open_desk):
    desk = open_desk()
    bar = desk.bar("g3")
    assert bar.get_attribute("role") == "slider" and bar.get_attribute("aria-label") == "features.9"
    bar.focus()
    for key, kept in [("ArrowDown", 63), ("PageDown", 57), ("ArrowUp", 58), ("Home", 1), ("End", 64), ("PageDown", 58)]:
        desk.page.keyboard.press(key)
        desk.wait_kept("g3", kept)
    assert bar.get_attribute("aria-valuetext").startswith("58 of 64 channels kept, 9 % removed")
    echo = desk.wait(lambda echo: echo["values"]["g3"] == 58)
    assert echo["steps"] == 1, "a run of key presses is one gesture"


def test_typed_number_removes_that_many_percent(open_desk):
    desk = open_desk()
    desk.bar("g5").focus()
    desk.page.keyboard.type("25")
    assert desk.page.locator(".typed.shown").inner_text() == "remove 25 %"
    desk.page.keyboard.press("Enter")
    units = int(desk.bar("g5").get_attribute("aria-valuemax"))
    desk.wait(lambda echo: echo["values"]["g5"] == round(0.75 * units))
    desk.page.keyboard.type("99")
    desk.page.keyboard.press("Escape")
    desk.page.keyboard.press("Enter")
    painted(desk.page)
    assert desk.kept("g5") == round(0.75 * units)


def test_undo_and_redo_reach_python_after_the_edit_they_follow(open_desk):
    desk = open_desk()
    desk.drag("g3", 0.5)
    desk.page.keyboard.press("Control+z")
    echo = desk.wait(lambda echo: echo["commands"] == ["undo"] and echo["values"]["g3"] == 64)
    assert len(echo["phases"]) == 1
    desk.wait_kept("g3", 64)
    desk.page.wait_for_timeout(400)
    assert desk.kept("g3") == 64
    desk.page.keyboard.press("Control+Shift+z")
    desk.wait(lambda echo: echo["commands"] == ["undo", "redo"] and echo["values"]["g3"] == 32)
    desk.wait_kept("g3", 32)
    desk.page.wait_for_timeout(400)
    assert desk.kept("g3") == 32


def test_locked_bars_stay_and_say_why(open_desk):
    desk = open_desk()
    desk.drag("g11", 0.3)
    desk.page.keyboard.press("ArrowDown")
    painted(desk.page)
    assert desk.kept("g11") == 512
    assert "feeds the output" in desk.bar("g11").get_attribute("aria-valuetext")
    assert desk.bar("g11").get_attribute("aria-disabled") == "true"
    desk.page.locator(".column[data-id=g4] .lock").click()
    desk.wait(lambda echo: echo["locked"] == ["g4"])
    desk.drag("g4", 0.3)
    desk.bar("all").focus()
    desk.page.keyboard.type("50")
    desk.page.keyboard.press("Enter")
    echo = desk.wait(lambda echo: echo["values"]["g3"] == 32)
    assert echo["values"]["g4"] == int(desk.bar("g4").get_attribute("aria-valuemax")), "own lock holds under the master"
    desk.page.locator(".column[data-id=g4] .lock").click()
    desk.wait(lambda echo: echo["locked"] == [])


def test_master_moves_all_and_keeps_the_mix(open_desk):
    desk = open_desk()
    desk.drag("g3", 0.5)
    desk.wait(lambda echo: echo["values"]["g3"] == 32)
    desk.bar("all").focus()
    desk.page.keyboard.type("40")
    desk.page.keyboard.press("Enter")
    echo = desk.wait(lambda echo: echo["values"]["g0"] < 64)
    assert echo["values"]["g3"] / 64 == pytest.approx(echo["values"]["g0"] / 64 / 2, abs=0.02)
    desk.bar("all").focus()
    desk.page.keyboard.press("End")
    desk.wait(lambda echo: echo["values"]["g3"] == 64 and echo["values"]["g0"] == 64)


def test_python_changes_are_adopted_but_never_under_the_hand(open_desk):
    desk = open_desk()
    desk.page.get_by_role("button", name="Half").click()
    desk.wait(lambda echo: echo["rev"] == 1)
    for group in ("g1", "g3"):
        desk.wait_kept(group, 32)
    desk.grab("g3", 0.8)
    assert desk.kept("g3") == 51
    desk.page.get_by_role("button", name="All").evaluate("button => button.click()")
    desk.wait(lambda echo: echo["rev"] == 2)
    desk.page.wait_for_timeout(200)
    assert desk.kept("g3") == 51 and desk.kept("g1") == 32, "nothing moves while a bar is held"
    desk.page.mouse.up()
    echo = desk.wait(lambda echo: echo["values"]["g3"] == 51)
    assert echo["values"]["g1"] == 64
    desk.wait_kept("g1", 64)
    assert desk.kept("g3") == 51


def test_escape_takes_a_drag_back(open_desk):
    desk = open_desk()
    desk.grab("g3", 0.4)
    desk.page.keyboard.press("Escape")
    desk.page.mouse.up()
    desk.wait_kept("g3", 64)
    desk.page.wait_for_timeout(300)
    assert desk.kept("g3") == 64 and desk.echo()["phases"] == []


@pytest.mark.parametrize("slow", ["0", "0.4"])
def test_no_edit_is_lost_in_thirty_quick_drags(open_desk, slow):
    desk = open_desk(f"n=60&slow={slow}")
    rng = random.Random(5)
    wanted: dict[str, int] = {}
    for turn in range(30):
        group = f"g{turn % 20}"
        share = rng.uniform(0.55, 0.9) if turn < 20 else rng.uniform(0.15, 0.5)
        desk.drag(group, share)
        wanted[group] = desk.kept(group)
        units = int(desk.bar(group).get_attribute("aria-valuemax"))
        assert wanted[group] == pytest.approx(share * units, abs=1.5), "the bar follows the mouse"
    echo = desk.wait(lambda echo: all(echo["values"][group] == kept for group, kept in wanted.items()))
    assert echo["steps"] == 30, "every gesture is an undo step of its own"
    assert all(desk.kept(group) == kept for group, kept in wanted.items())


def test_previews_are_sent_only_when_asked_for(open_desk):
    desk = open_desk("live=1")
    desk.grab("g3", 0.5)
    desk.page.mouse.move(*middle(desk.bar("g3"), 0.3), steps=12)
    desk.wait(lambda echo: "drag" in echo["phases"])
    desk.page.mouse.up()
    desk.wait(lambda echo: echo["phases"][-1] == "commit" and echo["values"]["g3"] == desk.kept("g3"))


def middle(bar, share: float) -> tuple[float, float]:
    box = bar.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] * (1 - share)


def test_a_finger_drags_a_bar(open_desk):
    desk = open_desk("", viewport={"width": 500, "height": 900}, has_touch=True)
    touch = desk.page.context.new_cdp_session(desk.page)
    x, top = middle(desk.bar("g1"), 1.0)
    _, half = middle(desk.bar("g1"), 0.5)
    for kind, y in [("touchStart", top), ("touchMove", (top + half) / 2), ("touchMove", half), ("touchEnd", None)]:
        points = [] if y is None else [{"x": x, "y": y}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    desk.wait(lambda echo: echo["values"]["g1"] == 32)


def test_a_late_edit_changes_only_what_its_gestures_touched():
    from pages.components.equaliser import merge_edit

    edit = {"seq": 4, "phase": "commit", "rev": 1, "values": {"a": 9, "b": 8}, "steps": [{"a": 9}], "locked": []}
    assert merge_edit(edit, {"a": 2, "b": 2}, rev=1) == {"a": 9, "b": 8}
    assert merge_edit(edit, {"a": 2, "b": 2}, rev=2) == {"a": 9, "b": 2}


def test_clicking_a_name_selects_the_group(open_desk):
    desk = open_desk()
    desk.page.locator(".column[data-id=g7] .name").click()
    desk.wait(lambda echo: echo["selected"] == "g7")
    desk.page.locator(".column.selected[data-id=g7]").wait_for()


def test_snap_moves_in_multiples(open_desk):
    desk = open_desk("snap=8")
    desk.drag("g3", 0.55)
    desk.wait_kept("g3", 32)
    desk.page.keyboard.press("ArrowDown")
    desk.wait_kept("g3", 24)
    desk.page.keyboard.press("Home")
    desk.wait_kept("g3", 8)


def test_many_groups_scroll_and_stay_inside_a_narrow_dark_page(open_desk):
    desk = open_desk("n=200", viewport={"width": 500, "height": 900}, color_scheme="dark")
    assert desk.page.locator(".scroller").evaluate("node => node.scrollWidth > node.clientWidth")
    assert desk.page.evaluate("document.documentElement.scrollWidth") <= 500
    red, green, blue = colour(desk.page.locator(".cap").first, "background-color")
    assert max(red, green, blue) < 60, "caps take the dark background"
    red, green, blue = colour(desk.page.locator(".column[data-id=g1] .count b"), "color")
    assert min(red, green, blue) > 180


def colour(locator, name: str) -> tuple[int, ...]:
    text = locator.evaluate(f"node => getComputedStyle(node).getPropertyValue('{name}')")
    return tuple(int(float(part)) for part in re.findall(r"[\d.]+", text)[:3])


def test_heatmap_reads_out_sorts_and_picks(open_desk):
    desk = open_desk("part=heatmap")
    canvas = desk.page.locator(".heatmap canvas")
    box = canvas.bounding_box()
    desk.page.mouse.move(box["x"] + 3, box["y"] + 5)
    readout = desk.page.locator(".readout")
    desk.page.wait_for_function("node => node.textContent.includes('channel 0')", arg=readout.element_handle())
    assert re.fullmatch(
        r"features\.0, channel 0: [\d.]+ loss change, squared, rank \d+ of 64(, pruned)?", readout.inner_text()
    )
    desk.page.get_by_label("Sort channels by score").check()
    desk.page.mouse.move(box["x"] + 4, box["y"] + 5)
    desk.page.wait_for_function("node => node.textContent.includes('rank 1 of 64')", arg=readout.element_handle())
    desk.page.mouse.click(box["x"] + 4, box["y"] + 5)
    echo = desk.wait(lambda echo: echo["picked"] is not None)
    assert echo["picked"]["id"] == "g0" and echo["returned"] == echo["picked"]
    desk.page.keyboard.press("End")
    eventually(lambda: "rank 64 of 64, pruned" in readout.inner_text(), told=readout.inner_text)
    desk.page.keyboard.press("ArrowDown")
    eventually(lambda: readout.inner_text().startswith("features.3"), told=readout.inner_text)
    desk.page.keyboard.press("Enter")
    desk.wait(lambda echo: echo["picked"]["id"] == "g1")


def test_the_heatmap_names_the_filters_and_shows_notes(open_desk):
    desk = open_desk("part=heatmap&notes=1")
    box = desk.page.locator(".heatmap canvas").bounding_box()
    desk.page.mouse.move(box["x"] + 3, box["y"] + 5)
    members = desk.page.locator(".readout .members")
    members.wait_for()
    assert members.inner_text() == "Made by filter 0 of a, b, c and 1 more; filters 0-3 of packed, read by next, last"
    notes = desk.page.locator(".heatmap .notes div")
    assert notes.count() == 12 and notes.first.inner_text() == "0.50"
    assert desk.page.locator(".legend").inner_text().endswith("how alike")
    frame = desk.page.locator(".heatmap").bounding_box()
    last = notes.last.bounding_box()
    assert last["x"] + last["width"] <= frame["x"] + frame["width"] + 1
    assert abs(last["y"] - desk.page.locator(".heatmap .labels div").last.bounding_box()["y"]) < 1


def test_the_second_heatmap_is_sorted_along_with_the_first(open_desk):
    desk = open_desk("part=heatmap&second=1")
    sorts = desk.page.get_by_label("Sort channels by score")
    readout = desk.page.locator(".readout").nth(1)
    assert sorts.count() == 2 and desk.page.get_by_label("Same order as the other map").nth(0).is_hidden()

    def told() -> str:
        box = desk.page.locator(".heatmap canvas").nth(1).bounding_box()
        for right, down, here in ((8, 30, False), (4, 5, True)):
            desk.page.mouse.move(box["x"] + right, box["y"] + down)
            eventually(lambda here=here: ("features.0," in readout.inner_text()) == here, told=readout.inner_text)
        return readout.inner_text()

    assert "channel 0:" in told()
    sorts.nth(0).check()
    eventually(sorts.nth(1).is_checked)
    assert "rank 64 of 64" in told(), "the best of the first are the worst of the second"
    desk.page.get_by_label("Same order as the other map").nth(1).uncheck()
    assert "rank 1 of 64" in told(), "its own order, when that is wanted"
    sorts.nth(0).uncheck()
    assert sorts.nth(1).is_checked(), "then it goes its own way"
    desk.page.get_by_label("Same order as the other map").nth(1).check()
    eventually(lambda: not sorts.nth(1).is_checked())
    assert "channel 0:" in told()
