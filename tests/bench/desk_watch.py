"""What the desk's benchmarks share: a server with a fresh home, a hand that drags, clocks inside the page, a summary.

Times are the page's own, in milliseconds: from the event's time stamp to the frame in which the new text stood.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.browser.conftest import Server, start_app
from tests.conftest import find_chromium

MOVES, FRAME_MS = 12, 16  # of a hand's drag

# Fills window.found: "drag" (every pointermove to its painted frame), and since the last release "exact" (exact costs
# and a latency that is not the browser's own), "measured" (accuracy), "undone" (since Undo was pressed, the MACs of
# window.wanted, exact) and "back" (the same with its accuracy measured). Without a headline only "drag" is filled.
WATCH = """() => {
  const found = window.found = { drag: [], exact: null, measured: null, undone: null, back: null };
  const roots = () => [...document.querySelectorAll('*')].map((node) => node.shadowRoot).filter(Boolean);
  const all = (selector) => roots().flatMap((root) => [...root.querySelectorAll(selector)]);
  const cells = Object.fromEntries(all('.headline .cell').map((cell) => [cell.dataset.figure, cell]));
  const bars = all('.columns .fader');
  const text = (name, part) => cells[name]?.querySelector(`.${part}`).textContent ?? '';
  const picture = () => bars.map((bar) => bar.style.getPropertyValue('--kept')).join() + text('macs', 'value');
  let down = false, released = 0, pressed = 0;
  addEventListener('pointerdown', (event) => {
    const button = event.composedPath().find((node) => node.tagName === 'BUTTON');
    pressed = button && button.textContent.includes('Undo') ? event.timeStamp : 0;
    down = !button;
    released = 0;
  }, true);
  addEventListener('pointermove', (event) => {
    if (!down) return;
    const before = picture();
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => picture() !== before && found.drag.push(performance.now() - event.timeStamp);
      channel.port2.postMessage(0);
    });
  }, true);
  addEventListener('pointerup', (event) => {
    if (!down) return;
    down = false;
    released = event.timeStamp;
    found.exact = found.measured = null;
  }, true);
  const since = (begun, name, holds) => {
    if (begun && found[name] === null && holds) found[name] = performance.now() - begun;
  };
  const look = () => {
    const exact = text('macs', 'mark') === 'exact' && text('latency', 'mark') !== 'estimated';
    const measured = text('accuracy', 'mark') === 'measured';
    const restored = exact && text('macs', 'value') === window.wanted;
    since(released, 'exact', exact);
    since(released, 'measured', measured && found.exact !== null);
    since(pressed, 'undone', restored);
    since(pressed, 'back', restored && measured);
    requestAnimationFrame(look);
  };
  look();
}"""
missed: list[str] = []


def chromium_path() -> str:
    """Ends the program where there is no browser."""
    path = find_chromium()
    if path is None:
        sys.exit("No Chromium found; install it or set PRUNESCOPE_CHROMIUM.")
    return path


def summary(name: str, values: list[float], bar: float | None = None) -> None:
    """One line; a bar (milliseconds, on the 95th percentile) that is not met is remembered in ``missed``."""
    cut = statistics.quantiles(values, n=20) if len(values) > 1 else [values[0]] * 19
    verdict = "" if bar is None else f"  bar {bar:,.0f} ms: {'met' if cut[18] < bar else 'MISSED'}"
    if bar is not None and cut[18] >= bar:
        missed.append(name)
    told = f"p50 {cut[9]:8.1f} ms  p95 {cut[18]:8.1f} ms  n {len(values)}"
    print(f"{name:<52} {told}{verdict}  load {os.getloadavg()[0]:.1f}", flush=True)


def end() -> None:
    """Exit with an error that names the bars that were missed."""
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


def fresh_app() -> Server:
    """The app as ``make run`` starts it, with an empty home."""
    return start_app(Path(tempfile.mkdtemp(prefix="prunescope-bench-")))


def slow_drag(desk: Any, group: str, share: float) -> None:
    """A hand's drag of a bar to ``share`` of its height: a dozen moves, about 60 a second."""
    desk.grab(group, min(0.97, share + 0.15))
    box = desk.bar(group).bounding_box()
    for move in range(MOVES):
        y = box["y"] + box["height"] * (1 - share - 0.012 * (MOVES - 1 - move))
        desk.page.mouse.move(box["x"] + box["width"] / 2, y)
        desk.page.wait_for_timeout(FRAME_MS)
    desk.page.mouse.up()


def wait_for(page: Any, name: str, seconds: float = 60) -> float:
    """A time that WATCH fills in. Raises RuntimeError when it never does."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        value = page.evaluate(f"window.found.{name}")
        if value is not None:
            return float(value)
        page.wait_for_timeout(10)
    raise RuntimeError(f"{name}: nothing on screen within {seconds:.0f} s")


def press_undo(desk: Any, wanted: str, name: str = "undone") -> float:
    """Milliseconds from a press on Undo until the MACs read ``wanted``; ``name`` "back": and are measured."""
    reset = "(wanted) => { window.wanted = wanted; Object.assign(window.found, { undone: null, back: null }); }"
    desk.page.evaluate(reset, wanted)
    desk.page.get_by_role("button", name="Undo").click()
    return wait_for(desk.page, name)
