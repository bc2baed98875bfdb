"""The Tune page as a hand and an eye meet it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

READ = """() => {
  const roots = [...document.querySelectorAll('*')].map((node) => node.shadowRoot).filter(Boolean);
  const cells = [document, ...roots].flatMap((root) => [...root.querySelectorAll('.headline .cell')]);
  return cells.map((cell) => {
    const text = (name) => cell.querySelector(`.${name}`).textContent;
    const busy = cell.querySelector('.mark').classList.contains('busy');
    return [cell.dataset.figure, [text('value'), text('mark'), text('change'), text('dense'), text('detail'), busy]];
  });
}"""


@dataclass(frozen=True)
class Cell:
    """One headline number as it stands on the screen."""

    value: str
    mark: str
    change: str
    dense: str
    detail: str
    busy: bool

    @property
    def settled(self) -> bool:
        """Measured on all images."""
        return self.mark == "measured" and not self.busy


class DeskPage:
    """One tab. ``faults``: what went wrong in its scripts."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.faults: list[str] = []
        page.on("pageerror", lambda error: self.faults.append(str(error)))

    def open(self) -> None:
        """A newcomer's own work, at once on the Tune page."""
        self.page.goto(f"{self.address}/Tune")
        self.wait_for_bars()

    def wait_for_bars(self) -> None:
        self.page.locator(".equaliser .column .fader").first.wait_for(timeout=60_000)
        self.page.locator(".headline .cell").first.wait_for(timeout=60_000)

    def cells(self) -> dict[str, Cell]:
        return {name: Cell(*texts) for name, texts in self.page.evaluate(READ)}

    def wait_until(self, holds: Callable[[dict[str, Cell]], bool], seconds: float = 90) -> dict[str, Cell]:
        """The headline as soon as ``holds``; fails with what it shows instead."""
        limit = time.monotonic() + seconds
        while True:
            seen = self.cells()
            if seen and holds(seen):
                return seen
            assert time.monotonic() < limit, f"the headline stayed at {seen}"
            self.page.wait_for_timeout(15)

    def bar(self, group: str) -> Any:
        return self.page.locator(f".column[data-id='{group}'] .fader")

    def kept(self, group: str) -> int:
        return int(self.bar(group).get_attribute("aria-valuenow"))

    def all_kept(self) -> dict[str, int]:
        columns = self.page.locator(".equaliser .columns .column").all()
        return {str(one.get_attribute("data-id")): self.kept(str(one.get_attribute("data-id"))) for one in columns}

    def grab(self, group: str, share: float) -> None:
        """Press on the bar's cap and move it to ``share`` of its height, without letting go."""
        self.bar(group).scroll_into_view_if_needed()
        box = self.bar(group).bounding_box()
        now = float(self.bar(group).evaluate("node => node.style.getPropertyValue('--kept')"))
        x = box["x"] + box["width"] / 2
        self.page.mouse.move(x, box["y"] + box["height"] * (1 - now))
        self.page.mouse.down()
        self.page.mouse.move(x, box["y"] + box["height"] * (1 - share), steps=5)

    def drag(self, group: str, share: float) -> None:
        self.grab(group, share)
        self.page.mouse.up()

    def focus_bar(self, group: str) -> None:
        self.bar(group).focus()
