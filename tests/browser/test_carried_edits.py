"""A headline carries the bars' edits: what the bars do with its answers, on the harness page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.waits import eventually

pytestmark = pytest.mark.browser

# A headline that takes every edit and answers when it is told to.
HEADLINE = """() => {
  window.taken = [];
  addEventListener('prunescope-edit', (event) => { event.preventDefault(); window.taken.push(event.detail); });
  addEventListener('prunescope-estimates', ({ detail }) => { window.moving = detail.moving; });
}"""


def answer(desk: Any, ack: int) -> None:
    detail = {"ack": ack, "loss_scale": 1.0}
    desk.page.evaluate("(detail) => dispatchEvent(new CustomEvent('prunescope-answer', { detail }))", detail)


def test_one_edit_travels_at_a_time_and_a_drawing_older_than_an_answer_takes_nothing_back(
    open_desk: Callable[..., Any],
) -> None:
    desk = open_desk()
    desk.page.evaluate(HEADLINE)
    desk.drag("g3", 0.5)
    desk.drag("g5", 0.25)
    eventually(lambda: desk.page.evaluate("window.taken.length"))
    (first,) = desk.page.evaluate("window.taken")
    assert first["steps"] == [{"g3": 32}] and desk.page.evaluate("window.moving")
    answer(desk, first["seq"])
    eventually(lambda: desk.page.evaluate("window.taken.length") > 1)
    first, second = desk.page.evaluate("window.taken")
    kept = desk.kept("g5")
    assert second["steps"] == [{"g5": kept}] and desk.page.evaluate("window.moving"), "the second is not answered yet"
    answer(desk, second["seq"])
    assert not desk.page.evaluate("window.moving"), "what stands there now is Python's"
    # Python never heard of these edits: it draws as one that began before them would, with values of its own.
    desk.page.get_by_role("button", name="Half").click()
    desk.wait(lambda echo: echo["rev"] == 1)
    desk.wait_kept("g0", 32)
    assert (desk.kept("g3"), desk.kept("g5")) == (32, kept)
