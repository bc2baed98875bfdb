"""How quickly the Tune page answers a newcomer: `python tests/bench/bench_tune.py [repeats] [starts]` (default 20 3).

The real app with a fresh home and one visitor, on the first demo, in headless Chromium. All times as the page sees
them, in a MutationObserver, from the event's own time stamp to the first frame in which the new text stood.

- first page: from starting the server to the overview's heading; then to the first bar that can be dragged
- drag: from a pointermove to the painted frame in which bar and estimate had moved (bar 100 ms, p95)
- release: from pointerup to exact MACs and predicted latency on screen (bar 1 s, p95)
- measured: from pointerup to the first measured accuracy of that plan (bar 3 s, p95)
- undo: from the click to the restored, measured headline
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.browser.conftest import Server, chromium_at, start_app
from tests.browser.desk_page import DeskPage
from tests.conftest import find_chromium

GROUPS = ("features.3", "features.7", "features.10", "features.14", "features.17", "features.21", "features.24")
WATCH = """() => {
  const found = window.found = { drag: [], exact: null, measured: null, undone: null };
  const roots = () => [...document.querySelectorAll('*')].map((node) => node.shadowRoot).filter(Boolean);
  const all = (selector) => roots().flatMap((root) => [...root.querySelectorAll(selector)]);
  const cell = (name) => all(`.cell[data-figure=${name}]`)[0];
  const text = (name, part) => cell(name).querySelector(`.${part}`).textContent;
  const picture = () => all('.fader').map((bar) => bar.style.getPropertyValue('--kept')).join() + text('macs', 'value');
  let down = false;
  let released = 0;
  let pressed = 0;
  addEventListener('pointerdown', (event) => {
    down = true;
    released = 0;
    const button = event.composedPath().find((node) => node.tagName === 'BUTTON');
    if (button && button.textContent.includes('Undo')) pressed = event.timeStamp;
  }, true);
  addEventListener('pointermove', (event) => {
    if (!down) return;
    const before = picture();
    requestAnimationFrame(() => requestAnimationFrame(() => {
      if (picture() !== before) found.drag.push(performance.now() - event.timeStamp);
    }));
  }, true);
  addEventListener('pointerup', (event) => {
    down = false;
    if (pressed) return;
    released = event.timeStamp;
    found.exact = found.measured = null;
  }, true);
  const look = () => {
    if (released && found.exact === null && text('macs', 'mark') === 'exact' && text('latency', 'mark') === 'predicted')
      found.exact = performance.now() - released;
    if (released && found.exact !== null && found.measured === null && text('accuracy', 'mark') === 'measured')
      found.measured = performance.now() - released;
    const back = text('macs', 'value') === window.wanted && text('accuracy', 'mark') === 'measured';
    if (pressed && back) {
      found.undone = performance.now() - pressed;
      pressed = 0;
    }
    requestAnimationFrame(look);
  };
  look();
}"""


missed: list[str] = []


def summary(name: str, values: list[float], bar: float | None = None) -> None:
    cut = statistics.quantiles(values, n=20) if len(values) > 1 else [values[0]] * 19
    verdict = "" if bar is None else f"  bar {bar:,.0f} ms: {'met' if cut[18] < bar else 'MISSED'}"
    if bar is not None and cut[18] >= bar:
        missed.append(name)
    print(f"{name:<44} p50 {cut[9]:8.1f} ms  p95 {cut[18]:8.1f} ms  n {len(values)}{verdict}", flush=True)


def fresh_app() -> Server:
    return start_app(Path(tempfile.mkdtemp(prefix="prunescope-bench-")))


def starts(chromium: str, times: int) -> None:
    """A newcomer's first minute, several times over."""
    first, bars, drags = [], [], []
    for _ in range(times):
        begun = time.monotonic()
        server = fresh_app()
        try:
            with chromium_at(chromium) as browser:
                page = browser.new_page(viewport={"width": 1400, "height": 1000})
                opening = time.monotonic()
                page.goto(server.address)
                page.get_by_role("heading", level=1).first.wait_for(timeout=60_000)
                first.append(1000 * (time.monotonic() - opening + server.ready_s))
                shown = time.monotonic()
                page.get_by_test_id("stSidebar").get_by_role("link", name="Tune").click(timeout=60_000)
                desk = DeskPage(page, server.address)
                desk.wait_for_bars()
                bars.append(1000 * (time.monotonic() - shown))
                desk.grab("features.10", 0.6)
                desk.wait_until(lambda seen: seen["macs"].mark == "estimated")
                drags.append(1000 * (time.monotonic() - shown))
                page.mouse.up()
        finally:
            server.stop()
        print(f"  start: {time.monotonic() - begun:.1f} s in all", flush=True)
    summary("server start to first page", first, 15_000)
    summary("first page to bars on the Tune page", bars)
    summary("first page to first bar dragged", drags, 10_000)


def wait_for(page: Any, name: str, seconds: float = 60) -> float:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        value = page.evaluate(f"window.found.{name}")
        if value is not None:
            return float(value)
        page.wait_for_timeout(10)
    raise RuntimeError(f"{name}: nothing on screen within {seconds:.0f} s")


def drag_slowly(desk: DeskPage, group: str, share: float) -> None:
    """A hand's drag: twelve moves, about 60 a second."""
    desk.grab(group, 0.5 * (1 + share))
    box = desk.bar(group).bounding_box()
    for move in range(12):
        y = box["y"] + box["height"] * (1 - share - 0.01 * (11 - move))
        desk.page.mouse.move(box["x"] + box["width"] / 2, y)
        desk.page.wait_for_timeout(16)
    desk.page.mouse.up()


def answers(chromium: str, repeats: int) -> None:
    server = fresh_app()
    found: dict[str, list[float]] = {"drag": [], "exact": [], "measured": [], "undone": []}
    try:
        with chromium_at(chromium) as browser:
            desk = DeskPage(browser.new_page(viewport={"width": 1400, "height": 1000}), server.address)
            desk.open()
            desk.wait_until(lambda seen: seen["accuracy"].settled and seen["latency"].mark == "measured")
            desk.page.wait_for_timeout(20_000)  # the latency table and the dense network are measured once
            desk.page.evaluate(WATCH)
            for turn in range(repeats):
                before = desk.cells()
                drag_slowly(desk, GROUPS[turn % len(GROUPS)], 0.4 + 0.013 * (turn % 40))  # no plan twice
                found["exact"].append(wait_for(desk.page, "exact"))
                found["measured"].append(wait_for(desk.page, "measured"))
                desk.wait_until(lambda seen: seen["accuracy"].settled and seen["latency"].mark == "measured")
                desk.page.evaluate(f"window.found.undone = null; window.wanted = '{before['macs'].value}'")
                desk.page.get_by_role("button", name="Undo").click()
                found["undone"].append(wait_for(desk.page, "undone"))
                desk.page.wait_for_timeout(200)
            found["drag"] = desk.page.evaluate("window.found.drag")
    finally:
        server.stop()
    summary("drag to painted bar and estimate", found["drag"], 100)
    summary("release to exact cost, predicted latency", found["exact"], 1000)
    summary("release to first measured accuracy", found["measured"], 3000)
    summary("undo to the measured headline", found["undone"])


def main() -> None:
    chromium = find_chromium()
    if chromium is None:
        sys.exit("bench_tune: no Chromium found; install it or set PRUNESCOPE_CHROMIUM")
    repeats, times = (int(text) for text in (*sys.argv[1:3], *("20", "3")[len(sys.argv) - 1 :]))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{os.cpu_count()} cores, load before: {load}", flush=True)
    starts(chromium, times)
    answers(chromium, repeats)
    print(f"load after: {', '.join(f'{value:.1f}' for value in os.getloadavg())}")
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
