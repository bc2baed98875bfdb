"""The harness page as a hand and an eye meet it, and what Python holds behind it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from tests.browser.bars import Bars
from tests.browser.waits import AT_REST, PATIENCE_S, eventually


class HarnessPage(Bars):
    """The harness page in one tab."""

    def __init__(self, page: Any, address: str, query: str) -> None:
        super().__init__(page)
        page.goto(f"{address}/?{query}")
        page.locator(".equaliser .column, .heatmap canvas").first.wait_for()
        page.locator("[data-testid=stCode]").wait_for()
        page.locator(AT_REST).wait_for()

    def wait_kept(self, group: str, kept: int) -> None:
        """Bars are painted once per frame, so a key press shows in the next one."""
        eventually(lambda: self.kept(group) == kept, told=lambda: self.kept(group))

    def echo(self) -> dict[str, Any]:
        """What Python holds, as the harness prints it."""
        held: dict[str, Any] = json.loads(self.page.locator("[data-testid=stCode]").inner_text())
        return held

    def wait(self, holds: Callable[[dict[str, Any]], bool], seconds: float = PATIENCE_S) -> dict[str, Any]:
        limit = time.monotonic() + seconds
        while not holds(echo := self.echo()):
            assert time.monotonic() < limit, f"Python never agreed: {echo}"
            self.page.wait_for_timeout(20)
        return echo

    def estimate(self, name: str) -> str:
        return str(self.page.locator(f"[data-figure={name}] .figure-value").inner_text())
