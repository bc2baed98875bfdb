"""The tuning desk's bars, in real Chromium: `python tests/bench/bench_desk.py [part ...]` (default: all parts).

- newcomer: the first demo. From starting the server to the overview's heading (bar 15 s) and to the first bar dragged
  on the Tune page (10 s more); then drag, release, first measured accuracy and undo as below
- resnet50: torchvision ResNet-50, random weights and images, all groups on the desk: a drag's pointermove to its
  painted frame (bar 50 ms, p95), pointerup to exact cost and predicted latency on screen (300 ms), the Undo click to
  the restored numbers (300 ms), a click in the menu to the end of the next page's script (1.5 s)
- measured: pointerup to the first measured accuracy of the dragged plan: the first demo (2 s), and CIFAR's ResNet-56 on
  300 images where its weights lie in ../shared (6 s)
- visitors: thirty sessions dragging at once on the first demo, release to all of Python's answer (1 s, p95), every
  answer that visitor's own, held against the count on their plan; memory per idle visitor (15 MB)

The server runs as ``make run`` starts it, with a fresh home. The load of the machine is printed, for on a busy one
times say little. desk_watch.py says how they are taken.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from streamlit.proto.WidgetStates_pb2 import WidgetState

from core import count_cost, open_subject, widths_plan
from core.keep.workspace import Workspace, new_token
from pages.components import tables
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
from tests.bench.learner_client import Visitor
from tests.browser.conftest import Server, chromium_at
from tests.browser.desk_page import DeskPage

SHARED = Path(__file__).parents[2].parent / "shared"
VISITORS, ROUNDS, STARTS, DRAGGED = 30, 6, 3, "features.10"
DEMO_GROUPS = ("features.3", "features.7", "features.10", "features.14", "features.17", "features.21", "features.24")


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
                    first_minutes(desk)
        finally:
            server.stop()
    summary("demo: server start to first page", first, 15_000)
    summary("demo: first page to first bar dragged", dragged, 10_000)


def first_minutes(desk: DeskPage) -> None:
    """Drags on the demo, each followed by its first measurement and an undo to what was measured before."""
    settled = ("accuracy", "latency")
    desk.wait_until(lambda seen: all(seen[name].mark == "measured" for name in settled))
    desk.page.wait_for_timeout(20_000)  # the latency table and the dense network are measured once
    desk.page.evaluate(WATCH)
    found: dict[str, list[float]] = {"exact": [], "measured": [], "back": []}
    for turn in range(20):
        before = desk.cells()["macs"].value
        slow_drag(desk, DEMO_GROUPS[turn % len(DEMO_GROUPS)], 0.4 + 0.013 * turn)  # no plan twice
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
    """Without browsers, which would take the cores from the server: Streamlit's own protocol (learner_client.py)."""
    server = fresh_app()
    try:
        asyncio.run(all_visitors(server))
    finally:
        server.stop()


async def all_visitors(server: Server) -> None:
    link = f"{server.address}/Tune"
    async with Visitor(link) as first:
        await first.open(has_desk)
        await asyncio.sleep(25)  # what is measured once
        before = memory(server)
        hands = [Hand(number, link) for number in range(VISITORS)]
        for hand in hands:
            await hand.page.__aenter__()
            await hand.page.open(has_desk)
        await asyncio.sleep(5)
        per_visitor = (memory(server) - before) / VISITORS
        await asyncio.gather(*(hand.live() for hand in hands))
    faults = [fault for hand in hands for fault in (*hand.faults, *hand.page.errors)]
    stored = answers(server, [hand.page.token for hand in hands])
    faults += [
        f"{hand.number}: {found} stored" for hand, found in zip(hands, stored, strict=True) if found != hand.kept
    ]
    for hand in hands:
        await hand.page.__aexit__()
    times = [1000 * one for hand in hands for one in hand.times]
    summary(f"{VISITORS} visitors: release to answer", times, 1000)
    print(f"{VISITORS} visitors: {len(faults)} wrong answers; {per_visitor:.1f} MB per idle visitor (bar 15)")
    print("\n".join(faults[:5]))
    if faults or per_visitor >= 15:
        missed.append("thirty visitors")


def component(page: Visitor, name: str) -> Any:
    """What the server last sent to one of our components."""
    found = [one.bidi_component for one in page.of("bidi_component")]
    return next((one for one in found if one.component_name == f"prunescope_{name}"), None)


def has_desk(page: Visitor) -> bool:
    return component(page, "equaliser") is not None and component(page, "headline") is not None


class Hand:
    """One visitor who drags one bar of the first demo to widths of their own, and looks at every answer."""

    def __init__(self, number: int, link: str) -> None:
        self.number, self.page = number, Visitor(link)
        self.waiting = False
        self.kept, self.times, self.faults = 0, [], []  # type: ignore[var-annotated]

    async def live(self) -> None:
        rng = random.Random(self.number)
        polling = asyncio.create_task(self._poll())
        for turn in range(ROUNDS):
            await asyncio.sleep(rng.uniform(0.5, 2.5))
            self.kept = 1 + (7 * self.number + 13 * turn) % 63
            self.waiting = True
            self.times.append(await self._release(turn + 1))
            self.waiting = False
            self._check()
        polling.cancel()

    async def _release(self, seq: int) -> float:
        """As the browser sends a gesture; seconds until all of the fragment has been drawn again."""
        bars = component(self.page, "equaliser")
        told = json.loads(bars.json)
        values = {row["id"]: row["kept"] for row in told["rows"]} | {DRAGGED: self.kept}
        edit = {"phase": "commit", "rev": told["rev"], "values": values, "steps": [{DRAGGED: self.kept}], "locked": []}
        state = json.dumps({"edit": {**edit, "seq": seq}})
        self.page.widgets[bars.id] = WidgetState(id=bars.id, json_value=state)
        part = self._part(bars)
        heard = lambda page: json.loads(component(page, "equaliser").json)["ack"] >= seq  # noqa: E731
        return await self.page._until(self.page._send(part=part), heard, 120)

    def _part(self, wanted: Any) -> str:
        place = next(
            place
            for place, one in self.page.shown.items()
            if one.WhichOneof("type") == "bidi_component" and one.bidi_component.id == wanted.id
        )
        return self.page.drawn[place][1]

    def _check(self) -> None:
        """The headline against the count on this very plan."""
        bars, strip = (json.loads(component(self.page, name).json) for name in ("equaliser", "headline"))
        rows = {row["id"]: row for row in bars["rows"]}
        trace = open_subject("demo/digits-vgg").trace
        removed = {name: row["units"] - row["kept"] for name, row in rows.items()}
        cost = count_cost(trace, widths_plan(trace, removed))
        cells = {cell["name"]: cell for cell in strip["cells"]}
        right = rows[DRAGGED]["kept"] == self.kept and cells["macs"]["mark"] == "exact"
        if not right or cells["macs"]["value"] != tables.count(cost.macs):
            self.faults.append(f"{self.number}: {cells['macs']['value']} for {self.kept} kept, exact {cost.macs}")

    async def _poll(self) -> None:
        """As the strip does while something is measured, and never while an edit is on its way."""
        while True:
            strip = component(self.page, "headline")
            told = json.loads(strip.json)
            await asyncio.sleep(told["poll_ms"] / 1000)
            if told["pending"] and not self.waiting:
                await self.page._send(part=self._part(strip), auto=True)


def answers(server: Server, tokens: list[str]) -> list[int]:
    """What the store holds for each visitor: units kept in the dragged group."""
    from core.keep.store import FILE_NAME, Store

    store, found = Store(server.home / FILE_NAME), []
    for token in tokens:
        state, _ = store.workspace(token) or ({"removed": {}}, 0)
        found.append(64 - state["removed"].get(DRAGGED, 0))
    store.close()
    return found


def memory(server: Server) -> float:
    """The server's own resident memory, MB (its workers left out)."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


PARTS = {"newcomer": newcomer, "resnet50": resnet50, "measured": measured, "visitors": visitors}


def main() -> None:
    chromium = chromium_path()
    print(f"{os.cpu_count()} cores, load {json.dumps([round(one, 1) for one in os.getloadavg()])}", flush=True)
    for name in sys.argv[1:] or list(PARTS):
        PARTS[name](chromium)
    end()


if __name__ == "__main__":
    main()
