"""The harness page as a hand and an eye meet it, and what Python holds behind it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any


class HarnessPage:
    """The harness page in one tab."""

    def __init__(self, page: Any, address: str, query: str) -> None:
        self.page = page
        self.faults: list[str] = []
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.goto(f"{address}/?{query}")
        page.locator(".equaliser .column, .heatmap canvas").first.wait_for(timeout=30_000)
        page.locator("[data-testid=stCode]").wait_for(timeout=30_000)
        page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for(timeout=30_000)

    def bar(self, group: str) -> Any:
        return self.page.locator(f".column[data-id={group}] .fader" if group != "all" else ".master .fader")

    def kept(self, group: str) -> int:
        return int(self.bar(group).get_attribute("aria-valuenow"))

    def wait_kept(self, group: str, kept: int) -> None:
        """Bars are painted once per frame, so a key press shows in the next one."""
        self.page.locator(f".column[data-id={group}] .fader[aria-valuenow='{kept}']").wait_for(timeout=3000)

    def echo(self) -> dict[str, Any]:
        """What Python holds, as the harness prints it."""
        held: dict[str, Any] = json.loads(self.page.locator("[data-testid=stCode]").inner_text())
        return held

    def wait(self, holds: Callable[[dict[str, Any]], bool], seconds: float = 10) -> dict[str, Any]:
        limit = time.monotonic() + seconds
        while not holds(echo := self.echo()):
            assert time.monotonic() < limit, f"Python never agreed: {echo}"
            self.page.wait_for_timeout(20)
        return echo

    def grab(self, group: str, share: float) -> None:
        """Press on the bar's cap and move to ``share`` of its height, without letting go."""
        self.bar(group).scroll_into_view_if_needed()
        box = self.bar(group).bounding_box()
        now = float(self.bar(group).evaluate("node => node.style.getPropertyValue('--kept')"))
        x = box["x"] + box["width"] / 2
        self.page.mouse.move(x, box["y"] + box["height"] * (1 - now))
        self.page.mouse.down()
        self.page.mouse.move(x, box["y"] + box["height"] * (1 - share), steps=4)

    def drag(self, group: str, share: float) -> None:
        self.grab(group, share)
        self.page.mouse.up()

    def estimate(self, name: str) -> str:
        return str(self.page.locator(f"[data-figure={name}] .figure-value").inner_text())
