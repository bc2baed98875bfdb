"""The equaliser's bars as a hand meets them, wherever they stand."""

from __future__ import annotations

from typing import Any

from tests.browser.waits import PATIENCE_S, painted


class Bars:
    """One tab with bars in it. ``faults``: what went wrong in its scripts."""

    def __init__(self, page: Any) -> None:
        self.page = page
        page.set_default_timeout(1000 * PATIENCE_S)
        self.faults: list[str] = []
        page.on("pageerror", lambda error: self.faults.append(str(error)))

    def bar(self, group: str) -> Any:
        """A group's bar; "all": the master's."""
        return self.page.locator(f".column[data-id='{group}'] .fader" if group != "all" else ".master .fader")

    def kept(self, group: str) -> int:
        return int(self.bar(group).get_attribute("aria-valuenow"))

    def grab(self, group: str, share: float) -> None:
        """Press on the bar's cap and move it to ``share`` of its height, without letting go; until that is painted."""
        self.bar(group).scroll_into_view_if_needed()
        box = self.bar(group).bounding_box()
        now = float(self.bar(group).evaluate("node => node.style.getPropertyValue('--kept')"))
        x = box["x"] + box["width"] / 2
        self.page.mouse.move(x, box["y"] + box["height"] * (1 - now))
        self.page.mouse.down()
        self.page.mouse.move(x, box["y"] + box["height"] * (1 - share), steps=5)
        painted(self.page)

    def drag(self, group: str, share: float) -> None:
        self.grab(group, share)
        self.page.mouse.up()
        painted(self.page)

    def focus_bar(self, group: str) -> None:
        self.bar(group).focus()
