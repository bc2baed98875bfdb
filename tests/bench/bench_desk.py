"""The tuning desk's bars, in real Chromium: `python tests/bench/bench_desk.py [part ...]` (default: all parts).

- resnet50: torchvision ResNet-50, random weights and images, all groups on the desk: a drag's pointermove to its
  painted frame (bar 50 ms, p95), pointerup to exact cost and predicted latency on screen (300 ms), the Undo click to
  the restored numbers (300 ms), a click in the menu to the end of the next page's script (1.5 s)
- measured: pointerup to the first measured accuracy of the dragged plan: the first demo (2 s), and CIFAR's ResNet-56 on
  300 images where its weights lie in ../shared (6 s)
- visitors: thirty sessions dragging at once on the first demo, release to Python's answer (1 s, p95), every answer that
  visitor's own; memory per idle visitor (15 MB)

The server runs as ``make run`` starts it, with a fresh home. Times are the page's own, from the event's time stamp to
the frame in which the new text stood. The load of the machine is printed, for on a busy one they say little.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from core.keep.workspace import Workspace, new_token
from tests.browser.conftest import Server, chromium_at, start_app
from tests.browser.desk_page import DeskPage
from tests.conftest import find_chromium

SHARED = Path(__file__).parents[2].parent / "shared"
VISITORS, ROUNDS = 30, 3
WATCH = """() => {
  const found = window.found = { drag: [], exact: null, measured: null, answer: null };
  const roots = () => [...document.querySelectorAll('*')].map((node) => node.shadowRoot).filter(Boolean);
  const all = (selector) => roots().flatMap((root) => [...root.querySelectorAll(selector)]);
  let cells = {}, bars = [];
  window.refresh = () => {
    cells = Object.fromEntries(all('.headline .cell').map((cell) => [cell.dataset.figure, cell]));
    bars = all('.columns .fader');
  };
  window.refresh();
  const text = (name, part) => cells[name].querySelector(`.${part}`).textContent;
  const picture = () => bars.map((bar) => bar.style.getPropertyValue('--kept')).join() + text('macs', 'value');
  let down = false, released = 0;
  addEventListener('pointerdown', () => { down = true; released = 0; }, true);
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
  const look = () => {
    const exact = released && found.exact === null && text('macs', 'mark') === 'exact';
    if (exact) found.exact = performance.now() - released;
    if (released && found.exact !== null && found.measured === null && text('accuracy', 'mark') === 'measured')
      found.measured = performance.now() - released;
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
    told = f"p50 {cut[9]:8.1f} ms  p95 {cut[18]:8.1f} ms  n {len(values)}"
    print(f"{name:<52} {told}{verdict}  load {os.getloadavg()[0]:.1f}", flush=True)


def fresh_app() -> Server:
    return start_app(Path(tempfile.mkdtemp(prefix="prunescope-bench-")))


def save(server: Server, record: Workspace) -> str:
    """Put a workspace where the server will find it; its token."""
    from core.keep.store import FILE_NAME, Store

    store = Store(server.home / FILE_NAME)
    store.save_workspace(record.token, record.to_json(), 0)
    store.close()
    return record.token


def open_desk(browser: Any, server: Server, record: Workspace) -> DeskPage:
    desk = DeskPage(browser.new_page(viewport={"width": 1400, "height": 1000}), server.address)
    desk.page.goto(f"{server.address}/Tune?w={save(server, record)}")
    desk.page.locator(".equaliser .column .fader").first.wait_for(timeout=300_000)
    desk.page.locator(".headline .cell").first.wait_for(timeout=60_000)
    return desk


def slow_drag(desk: DeskPage, group: str, share: float) -> None:
    """A hand's drag: a dozen moves, about 60 a second."""
    desk.grab(group, min(0.97, share + 0.15))
    box = desk.bar(group).bounding_box()
    for move in range(12):
        y = box["y"] + box["height"] * (1 - share - 0.012 * (11 - move))
        desk.page.mouse.move(box["x"] + box["width"] / 2, y)
        desk.page.wait_for_timeout(16)
    desk.page.mouse.up()


def wait_for(page: Any, name: str, seconds: float = 60) -> float:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        value = page.evaluate(f"window.found.{name}")
        if value is not None:
            return float(value)
        page.wait_for_timeout(10)
    raise RuntimeError(f"{name}: nothing on screen within {seconds:.0f} s")


def resnet50(chromium: str) -> None:
    server = fresh_app()
    exact, undone = [], []
    try:
        with chromium_at(chromium) as browser:
            record = Workspace(new_token(), "torchvision/resnet50", data_source="random", criterion="weight-l2")
            desk = open_desk(browser, server, record)
            limit = time.monotonic() + 300  # the layers are timed once
            while desk.cells()["latency"].mark not in ("predicted", "measured") and time.monotonic() < limit:
                desk.page.wait_for_timeout(2000)
            print(f"resnet50: {len(desk.all_kept())} groups, latency {desk.cells()['latency'].mark or 'not known'}")
            desk.page.evaluate(WATCH)
            free = [name for name in desk.all_kept() if desk.bar(name).get_attribute("aria-disabled") == "false"]
            for turn in range(20):
                before = desk.cells()["macs"].value
                slow_drag(desk, free[(7 * turn) % len(free)], 0.35 + 0.02 * (turn % 20))
                exact.append(wait_for(desk.page, "exact"))
                desk.page.wait_for_timeout(300)
                undone.append(press_undo(desk, before))
            summary("ResNet-50: pointermove to painted frame", desk.page.evaluate("window.found.drag"), 50)
            summary("ResNet-50: release to exact cost and latency", exact, 300)
            summary("ResNet-50: undo to the restored numbers", undone, 300)
            switches(desk)
    finally:
        server.stop()


def press_undo(desk: DeskPage, wanted: str) -> float:
    """Milliseconds from the click to the restored MACs."""
    found: float = desk.page.evaluate(
        """(wanted) => new Promise((done) => {
          const begun = performance.now();
          [...document.querySelectorAll('button')].find((one) => one.textContent.includes('Undo')).click();
          const roots = [...document.querySelectorAll('*')].map((node) => node.shadowRoot).filter(Boolean);
          const cell = roots.flatMap((root) => [...root.querySelectorAll('.cell[data-figure=macs]')])[0];
          const look = () => {
            const text = (part) => cell.querySelector(part).textContent;
            const back = text('.value') === wanted && text('.mark') === 'exact';
            if (back || performance.now() - begun > 20000) done(performance.now() - begun);
            else requestAnimationFrame(look);
          };
          look();
        })""",
        wanted,
    )
    return found


def switches(desk: DeskPage) -> None:
    """From a click in the menu to the next page's heading and headline, every page seen before."""
    titles, times = ("Overview", "Channels", "Sensitivity", "Tune", "Compare"), []
    for turn in range(4):
        for title in titles:
            begun = time.monotonic()
            desk.page.get_by_test_id("stSidebar").get_by_role("link", name=title, exact=False).first.click()
            desk.page.get_by_role("heading", name=title, level=1).wait_for(timeout=60_000)
            desk.page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for(timeout=60_000)
            if turn:
                times.append(1000 * (time.monotonic() - begun))
    summary("ResNet-50: page switch, script ended", times, 1500)


def measured(chromium: str) -> None:
    server = fresh_app()
    weights, images = SHARED / "models" / "cifar10_resnet56.pt", SHARED / "data" / "cifar10" / "select.npz"
    cases = [("demo", Workspace(new_token(), "demo/digits-vgg"), "features.10", 2000)]
    if weights.exists() and images.exists():
        source = (str(weights), weights.name, str(images))
        record = Workspace(new_token(), "cifar/resnet56", *source, criterion="weight-l2")
        cases.append(("ResNet-56, 300 images", record, "", 6000))
    else:
        print("ResNet-56: its weights are not in ../shared, left out")
    try:
        with chromium_at(chromium) as browser:
            for name, record, group, bar in cases:
                desk = open_desk(browser, server, record)
                desk.page.wait_for_timeout(30_000)  # what is measured once
                desk.page.evaluate(WATCH)
                free = [one for one in desk.all_kept() if desk.bar(one).get_attribute("aria-disabled") == "false"]
                times = []
                for turn in range(8):
                    slow_drag(desk, group or free[3 * turn % len(free)], 0.5 + 0.03 * turn)
                    times.append(wait_for(desk.page, "measured", 120))
                summary(f"{name}: release to first measured accuracy", times, bar)
                desk.page.close()
    finally:
        server.stop()


def visitors(chromium: str) -> None:
    server = fresh_app()
    try:
        with chromium_at(chromium) as browser:
            pages = []
            first = open_desk(browser, server, Workspace(new_token(), "demo/digits-vgg"))
            first.page.wait_for_timeout(25_000)
            before = memory(server)
            for _ in range(VISITORS):
                desk = open_desk(browser, server, Workspace(new_token(), "demo/digits-vgg"))
                desk.page.evaluate(WATCH)
                pages.append(desk)
            first.page.wait_for_timeout(5000)
            per_visitor = (memory(server) - before) / VISITORS
            times, wrong = [], 0
            for turn in range(ROUNDS):
                wanted = []
                for number, desk in enumerate(pages):  # all are let go before any answer is waited for
                    desk.drag("features.10", 0.3 + 0.02 * number + 0.003 * turn)
                    wanted.append(desk.kept("features.10"))
                for desk, kept in zip(pages, wanted, strict=True):
                    times.append(wait_for(desk.page, "exact"))
                    wrong += desk.kept("features.10") != kept
            stored = answers(server, pages)
            wrong += sum(kept != found for kept, found in zip(wanted, stored, strict=True))
            summary(f"{VISITORS} visitors: release to answer", times, 1000)
            print(f"{VISITORS} visitors: {wrong} wrong answers; {per_visitor:.1f} MB per idle visitor (bar 15)")
            if wrong or per_visitor >= 15:
                missed.append("thirty visitors")
    finally:
        server.stop()


def answers(server: Server, pages: list[DeskPage]) -> list[int]:
    """What the store holds for each visitor: units kept in the dragged group."""
    from core.keep.store import FILE_NAME, Store

    store, found = Store(server.home / FILE_NAME), []
    for desk in pages:
        token = desk.page.url.rpartition("w=")[2]
        state, _ = store.workspace(token) or ({"removed": {}}, 0)
        found.append(64 - state["removed"].get("features.10", 0))
    store.close()
    return found


def memory(server: Server) -> float:
    """The server's own resident memory, MB (its workers left out)."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


PARTS = {"resnet50": resnet50, "measured": measured, "visitors": visitors}


def main() -> None:
    chromium = find_chromium()
    if chromium is None:
        sys.exit("bench_desk: no Chromium found; install it or set PRUNESCOPE_CHROMIUM")
    wanted = sys.argv[1:] or list(PARTS)
    print(f"{os.cpu_count()} cores, load {json.dumps([round(one, 1) for one in os.getloadavg()])}", flush=True)
    for name in wanted:
        PARTS[name](chromium)
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
