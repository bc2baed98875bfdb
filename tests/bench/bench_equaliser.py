"""How quickly the equaliser answers: `python tests/bench/bench_equaliser.py [groups] [drags]` (default 60 40).

Drag to moved bar: from a pointermove's own time stamp to after the frame in which the bar stood elsewhere was painted,
in the browser. Release to echo: from the pointerup's time stamp to Python's answer in the page. Harness: made-up rows,
one visitor.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.desk_watch import WATCH, chromium_path, end, slow_drag, summary
from tests.browser.conftest import HARNESS, chromium_at, start_streamlit
from tests.browser.harness_page import HarnessPage

# Time from the last release to Python's answer, which the harness prints.
ECHO = """() => {
  window.echo = [];
  let released = 0;
  addEventListener('pointerup', (event) => { released = event.timeStamp; }, true);
  new MutationObserver(() => {
    if (released) window.echo.push(performance.now() - released);
    released = 0;
  }).observe(document.querySelector('[data-testid=stCode]'), { childList: true, subtree: true, characterData: true });
}"""


def drag(desk: HarnessPage, group: str, rng: random.Random) -> None:
    slow_drag(desk, group, rng.uniform(0.1, 0.8))
    desk.page.wait_for_timeout(350)


def main(groups: int = 60, drags: int = 40) -> None:
    server = start_streamlit(HARNESS, Path(tempfile.mkdtemp(prefix="prunescope-bench-")))
    rng = random.Random(0)
    try:
        with chromium_at(chromium_path()) as chromium:
            for title, target in (("one bar", None), ("all bars", "all")):
                page = chromium.new_page(viewport={"width": 1400, "height": 900})
                desk = HarnessPage(page, server.address, f"n={groups}")
                desk.page.evaluate(WATCH)
                desk.page.evaluate(ECHO)
                for _ in range(drags):
                    drag(desk, target or f"g{rng.randrange(groups - 1)}", rng)
                summary(f"{groups} groups, {title}: drag to painted bar", desk.page.evaluate("window.found.drag"), 50)
                summary(f"{groups} groups, {title}: release to Python's echo", desk.page.evaluate("window.echo"), 1000)
                desk.page.close()
    finally:
        server.stop()
    end()


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3]))
