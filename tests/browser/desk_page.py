"""The Tune page as a hand and an eye meet it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.browser.bars import Bars
from tests.browser.waits import PATIENCE_S

# Where the strip stands is looked for once: this is asked many times a second, and a search takes long in a large page.
READ = """() => {
  if (!window.stripRoot?.host.isConnected || !window.stripRoot.querySelector('.headline')) {
    const roots = [...document.querySelectorAll('*')].map((node) => node.shadowRoot).filter(Boolean);
    window.stripRoot = roots.find((root) => root.querySelector('.headline'));
  }
  return [...window.stripRoot?.querySelectorAll('.headline .cell') ?? []].map((cell) => {
    const text = (name) => cell.querySelector(`.${name}`).textContent;
    const busy = cell.querySelector('.mark').classList.contains('busy');
    return [cell.dataset.figure, [text('value'), text('mark'), text('change'), text('dense'), text('detail'), busy]];
  });
}"""
KEPT = """columns => Object.fromEntries(columns.map(
  (one) => [one.dataset.id, Number(one.querySelector('.fader').getAttribute('aria-valuenow'))]))"""


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
        self.page.locator(".equaliser .column .fader").first.wait_for()
        self.page.locator(".headline .cell").first.wait_for()

    def cells(self) -> dict[str, Cell]:
        return {name: Cell(*texts) for name, texts in self.page.evaluate(READ)}

    def wait_until(self, holds: Callable[[dict[str, Cell]], bool], seconds: float = PATIENCE_S) -> dict[str, Cell]:
        """The headline as soon as ``holds``; fails with what it shows instead."""
        begun = time.monotonic()
        while True:
            seen, waited = self.cells(), time.monotonic() - begun
            if seen and holds(seen):
                return seen
            assert waited < seconds, f"the headline stayed at {seen}"
            self.page.wait_for_timeout(min(15 + 50 * waited, 150))  # known to a twentieth, and little in the way

    def all_kept(self) -> dict[str, int]:
        columns = self.page.locator(".equaliser .columns .column")
        return {str(group): int(kept) for group, kept in columns.evaluate_all(KEPT).items()}
