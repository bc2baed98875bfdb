"""A click on a channel in the map shows what it looks at, in a real browser."""

from __future__ import annotations

import re

import pytest

from tests.browser.conftest import Server, Tabs
from tests.browser.waits import eventually

pytestmark = pytest.mark.browser
PATIENCE_MS = 180_000  # a busy machine may be slow; nothing here is a measurement


def test_a_clicked_channel_is_portrayed(app: Server, tabs: Tabs) -> None:
    page = tabs(viewport={"width": 480, "height": 900}, color_scheme="dark")
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{app.address}/Channels")
    page.get_by_role("button", name="Look closely").wait_for()  # the page's last widget: nothing moves any more
    canvas = page.locator(".heatmap canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] * 0.52, "y": 8})
    page.get_by_text("Where it looks, by Integrated Gradients").first.wait_for()
    heading = page.get_by_role("heading", name=re.compile(r"^Channel \d+ of ")).inner_text()
    canvas.hover(position={"x": box["width"] * 0.52, "y": 8})
    said = page.locator(".heatmap .readout b")  # the same cell, wherever the page stands
    eventually(lambda: heading == "Channel {1} of {0}".format(*said.inner_text().split(", channel ")))
    assert "filter" in page.locator(".readout .members").inner_text()
    pictures = page.locator(".ps-pictures img")
    pictures.last.scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelectorAll('.ps-pictures img').length === 10")
    assert pictures.evaluate_all("images => images.every((image) => image.complete && image.naturalWidth >= 128)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 480
    tabs.give_back(page)
