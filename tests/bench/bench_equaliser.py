"""How quickly the equaliser answers: `python tests/bench/bench_equaliser.py [groups] [drags]` (default 60 40).

Drag to moved bar: from a pointermove's own time stamp to after the frame in which the bar stood elsewhere was painted,
in the browser. Release to echo: from the pointerup's time stamp to Python's answer in the page. Harness: made-up rows,
one visitor. Bar: drag p95 under 100 ms with 60 groups.
"""

from __future__ import annotations

import random
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from playwright.sync_api import sync_playwright

from tests.browser.test_components import QUIET, Desk, start_server
from tests.conftest import find_chromium

WATCH = """() => {
  const found = window.found = { drag: [], release: [] };
  const hosts = [...document.querySelectorAll('*')].filter((node) => node.shadowRoot);
  const all = hosts.flatMap((host) => [...host.shadowRoot.querySelectorAll('.fader')]);
  const picture = () => all.map((fader) => fader.style.getPropertyValue('--kept')).join();
  let down = false;
  let released = 0;
  addEventListener('pointerdown', () => { down = true; }, true);
  addEventListener('pointermove', (event) => {
    if (!down) return;
    const before = picture();
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => picture() !== before && found.drag.push(performance.now() - event.timeStamp);
      channel.port2.postMessage(0);
    });
  }, true);
  addEventListener('pointerup', (event) => { down = false; released = event.timeStamp; }, true);
  new MutationObserver(() => {
    if (released) found.release.push(performance.now() - released);
    released = 0;
  }).observe(document.querySelector('[data-testid=stCode]'), { childList: true, subtree: true, characterData: true });
}"""


def summary(name: str, values: list[float], limit: float | None = None) -> str:
    cut = statistics.quantiles(values, n=20)
    verdict = "" if limit is None else f"  bar {limit:.0f} ms: {'met' if cut[18] < limit else 'MISSED'}"
    return f"{name:<28} p50 {cut[9]:6.1f} ms   p95 {cut[18]:6.1f} ms   n {len(values)}{verdict}"


def drag(desk: Desk, group: str, rng: random.Random) -> None:
    """A hand's drag: 12 moves, about 60 a second."""
    desk.grab(group, rng.uniform(0.3, 0.9))
    box = desk.bar(group).bounding_box()
    for _ in range(12):
        desk.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * rng.uniform(0.1, 0.8))
        desk.page.wait_for_timeout(16)
    desk.page.mouse.up()
    desk.page.wait_for_timeout(350)


def main(groups: int = 60, drags: int = 40) -> None:
    server, address = start_server()
    rng = random.Random(0)
    try:
        with sync_playwright() as driver:
            chromium = driver.chromium.launch(executable_path=find_chromium(), args=list(QUIET))
            for title, target in (("one bar", None), ("master handle, all bars", "all")):
                desk = Desk(chromium.new_page(viewport={"width": 1400, "height": 900}), address, f"n={groups}")
                desk.page.evaluate(WATCH)
                for _ in range(drags):
                    drag(desk, target or f"g{rng.randrange(groups - 1)}", rng)
                found = desk.page.evaluate("window.found")
                print(f"{groups} groups, {title}, {drags} drags")
                print(" ", summary("drag to painted bar", found["drag"], 100))
                print(" ", summary("release to Python's echo", found["release"], 1000))
                desk.page.close()
            chromium.close()
    finally:
        server.terminate()


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3]))
