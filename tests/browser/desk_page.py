"""The Tune page as a hand and an eye meet it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.browser.bars import Bars

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


class DeskPage(Bars):
    """The Tune page in one tab."""

    def __init__(self, page: Any, address: str) -> None:
        super().__init__(page)
        self.address = address

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

    def all_kept(self) -> dict[str, int]:
        columns = self.page.locator(".equaliser .columns .column").all()
        return {str(one.get_attribute("data-id")): self.kept(str(one.get_attribute("data-id"))) for one in columns}
