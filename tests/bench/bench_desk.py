"""The tuning desk's bars, in real Chromium: `python tests/bench/bench_desk.py [part ...]` (default: all parts).

- newcomer: the first demo. From starting the server to the overview's heading (bar 15 s) and to the first bar dragged
  on the Tune page (10 s more); then drag, release, first measured accuracy and undo as below
- resnet50: torchvision ResNet-50, random weights and images, all groups on the desk: a drag's pointermove to its
  painted frame (bar 50 ms, p95), pointerup to exact cost and predicted latency on screen (300 ms), the Undo click to
  the restored numbers (300 ms), a click in the menu to the end of the next page's script (1.5 s)
- measured: pointerup to the first measured accuracy of the dragged plan: the first demo (2 s), and CIFAR's ResNet-56 on
  300 images where its weights lie in ../shared (6 s)
- visitors: thirty sessions dragging at once on the first demo, release to Python's answer (1 s, p95), every answer that
  visitor's own, held against the count on their plan; memory per idle visitor (15 MB)
- processor: the server's processor time for a release, the demo's and ResNet-50's; the one figure here that a busy
  machine leaves as it is

The server runs as ``make run`` starts it, with a fresh home. The load of the machine is printed, for on a busy one
times say little. desk_watch.py says how they are taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from core.keep.store import FILE_NAME, Store
from core.keep.workspace import Workspace, new_token
from tests.bench.desk_hands import Hand, live
from tests.bench.desk_watch import (
    WATCH,
    chromium_path,
    end,
    fresh_app,
    missed,
    press_undo,
    slow_drag,
    summary,
    wait_for,
)
from tests.browser.conftest import Server, chromium_at
from tests.browser.desk_page import DeskPage

SHARED = Path(__file__).parents[2].parent / "shared"
VISITORS, ROUNDS, STARTS, TURNS, DRAGGED, RELEASES = 30, 6, 3, 10, "features.10", 30
DEMO_GROUPS = ("features.3", "features.7", "features.10", "features.14", "features.17", "features.21", "features.24")


def save(server: Server, record: Workspace) -> str:
    """Put a workspace where the server will find it; its token."""
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


def newcomer(chromium: str) -> None:
    first, dragged = [], []
    for start in range(STARTS):
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
                desk.grab("features.10", 0.6)
                desk.wait_until(lambda seen: seen["macs"].mark == "estimated")
                dragged.append(1000 * (time.monotonic() - shown))
                page.mouse.up()
                if start == STARTS - 1:
                    summary("demo: server start to first page", first, 15_000)
                    summary("demo: first page to first bar dragged", dragged, 10_000)
                    first_minutes(desk)
        finally:
            server.stop()


def first_minutes(desk: DeskPage) -> None:
    """Drags on the demo, each followed by its first measurement and an undo to what was measured before."""
    settled = ("accuracy", "latency")
    desk.wait_until(lambda seen: all(seen[name].mark == "measured" for name in settled))
    desk.page.wait_for_timeout(20_000)  # the latency table and the dense network are measured once
    desk.page.evaluate(WATCH)
    found: dict[str, list[float]] = {"exact": [], "measured": [], "back": []}
    for turn in range(TURNS):
        before = desk.cells()["macs"].value
        slow_drag(desk, DEMO_GROUPS[turn % len(DEMO_GROUPS)], 0.4 + 0.02 * turn)  # no plan twice
        found["exact"].append(wait_for(desk.page, "exact"))
        found["measured"].append(wait_for(desk.page, "measured"))
        desk.wait_until(lambda seen: all(seen[name].settled for name in settled))
        found["back"].append(press_undo(desk, before, "back"))
        desk.page.wait_for_timeout(200)
    summary("demo: pointermove to painted frame", desk.page.evaluate("window.found.drag"), 50)
    summary("demo: release to exact cost and latency", found["exact"], 300)
    summary("demo: release to first measured accuracy", found["measured"], 2000)
    summary("demo: undo to the measured headline", found["back"], 300)


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
            for turn in range(TURNS):
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


def visitors(_: str) -> None:
    """Without browsers, which would take the cores from the server."""
    server = fresh_app()
    try:
        asyncio.run(all_visitors(server))
    finally:
        server.stop()


async def all_visitors(server: Server) -> None:
    link = f"{server.address}/Tune"
    async with contextlib.AsyncExitStack() as open_pages:
        await open_pages.enter_async_context(Hand(-1, link))
        await asyncio.sleep(25)  # what is measured once
        before = memory(server)
        hands = [await open_pages.enter_async_context(Hand(number, link)) for number in range(VISITORS)]
        await asyncio.sleep(5)
        per_visitor = (memory(server) - before) / VISITORS
        spent = processor_ms(server)
        await asyncio.gather(*(live(hand, ROUNDS, DRAGGED, 64) for hand in hands))
        spent = (processor_ms(server) - spent) / (VISITORS * ROUNDS)
        for hand in hands:
            await hand.rest()
        faults = [fault for hand in hands for fault in (*hand.faults, *hand.page.errors)]
        stored = answers(server, [hand.page.token for hand in hands])
    faults += [f"{one.number}: {found} stored" for one, found in zip(hands, stored, strict=True) if found != one.kept]
    summary(f"{VISITORS} visitors: release to answer", [1000 * one for hand in hands for one in hand.times], 1000)
    print(f"{VISITORS} visitors: {len(faults)} wrong answers; {per_visitor:.1f} MB per idle visitor (bar 15)")
    print(f"{VISITORS} visitors: the server's processor time per release, with all it causes: {spent:.1f} ms")
    print("\n".join(faults[:5]))
    if faults or per_visitor >= 15:
        missed.append("thirty visitors")


def processor(_: str) -> None:
    """What a release costs the server, which a busy machine changes little: of the demo and of ResNet-50."""
    server = fresh_app()
    try:
        for source, data, criterion in (("demo/digits-vgg", "", ""), ("torchvision/resnet50", "random", "weight-l2")):
            token = save(server, Workspace(new_token(), source, data_source=data, criterion=criterion))
            asyncio.run(cost_of_releases(server, source, token))
    finally:
        server.stop()


async def cost_of_releases(server: Server, source: str, token: str) -> None:
    answered, caused = [], []
    async with Hand(0, f"{server.address}/Tune?w={token}", source) as hand:
        await hand.rest()
        free = [row for row in hand.told("equaliser")["rows"] if not row["locked"]]
        for turn in range(RELEASES):
            row = free[5 * turn % len(free)]
            begun = processor_ms(server)
            await hand.release(row["id"], round(row["units"] * (0.4 + 0.5 * (7 * turn % 13) / 13)))
            answered.append(processor_ms(server) - begun)
            await hand.rest()
            caused.append(processor_ms(server) - begun)
    told = f"answer {statistics.mean(answered):.1f} ms, with all it causes {statistics.mean(caused):.1f} ms"
    print(f"{source}: the server's processor time per release: {told}  n {RELEASES}  load {os.getloadavg()[0]:.1f}")
    print("\n".join(hand.faults[:5]))


def processor_ms(server: Server) -> float:
    """Used by the server's own process until now, its workers left out; in steps of some milliseconds."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return 1000 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def answers(server: Server, tokens: list[str]) -> list[dict[str, int]]:
    """What the store holds for each visitor: units kept in the dragged group."""
    store, found = Store(server.home / FILE_NAME), []
    for token in tokens:
        state, _ = store.workspace(token) or ({"removed": {}}, 0)
        found.append({DRAGGED: 64 - state["removed"].get(DRAGGED, 0)})
    store.close()
    return found


def memory(server: Server) -> float:
    """The server's own resident memory, MB (its workers left out)."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


PARTS = {
    "newcomer": newcomer,
    "resnet50": resnet50,
    "measured": measured,
    "visitors": visitors,
    "processor": processor,
}


def main() -> None:
    chromium = chromium_path()
    print(f"{os.cpu_count()} cores, load {json.dumps([round(one, 1) for one in os.getloadavg()])}", flush=True)
    for name in sys.argv[1:] or list(PARTS):
        PARTS[name](chromium)
    end()


if __name__ == "__main__":
    main()
