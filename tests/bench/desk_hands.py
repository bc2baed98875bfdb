"""Hands on the tuning desk without a browser: Streamlit's own protocol (learner_client.py), so that thirty fit on one
core, and what the page's scripts do by themselves: the strip's questions while something is measured, and the drawing
anew of what stands around it (assets/headline/headline.js, assets/equaliser/main.js)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from typing import Any

from streamlit.proto.WidgetStates_pb2 import WidgetState

from core import count_cost, open_subject, widths_plan
from pages.components import tables
from tests.bench.learner_client import Visitor

SETTLE_S, HELD_S, LOST_S, LOOK_S = 0.04, 0.2, 4.0, 0.05  # as the scripts have them; LOOK_S: how often one looks here
PATIENCE_S = 120


def component(page: Visitor, name: str) -> Any:
    """What the server last sent to one of our components."""
    found = (one.bidi_component for one in page.shown.values() if one.WhichOneof("type") == "bidi_component")
    return next((one for one in found if one.component_name == f"prunescope_{name}"), None)


def has_desk(page: Visitor) -> bool:
    return component(page, "equaliser") is not None and component(page, "headline") is not None


class Hand:
    """One visitor who drags bars, and looks at every answer. ``kept``: what the bars were let go at, by group.
    ``times``: seconds from each release to its answer. ``faults``: what was wrong, in words."""

    def __init__(self, number: int, link: str, source: str = "demo/digits-vgg") -> None:
        self.number, self.page, self.source = number, Visitor(link), source
        self.seq, self.held = 0, False
        self.kept: dict[str, int] = {}
        self.read: dict[str, tuple[str, Any]] = {}
        self.times: list[float] = []
        self.faults: list[str] = []

    async def __aenter__(self) -> Hand:
        await self.page.__aenter__()
        await self.page.open(has_desk, 3 * PATIENCE_S)
        self.scripts = asyncio.create_task(self._scripts())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.scripts.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.scripts
        await self.page.__aexit__()

    def told(self, name: str) -> Any:
        """The data of a component, read once: thirty hands must not take the server's processor."""
        text = component(self.page, name).json
        if self.read.get(name, ("",))[0] != text:
            self.read[name] = (text, json.loads(text))
        return self.read[name][1]

    async def release(self, group: str, kept: int) -> None:
        """Let go of a bar, as the browser says it, and check the answer."""
        self.seq += 1
        bars, strip = self.told("equaliser"), component(self.page, "headline")
        self.kept[group] = kept
        values = {row["id"]: row["kept"] for row in bars["rows"]} | self.kept
        edit = {"phase": "commit", "rev": bars["rev"], "values": values, "steps": [{group: kept}], "locked": []}
        state = json.dumps({"edit": {**edit, "seq": self.seq, "sent": time.time()}})
        self.page.widgets[strip.id] = WidgetState(id=strip.id, json_value=state)
        self.held = True
        heard = lambda _: self.told("headline")["ack"] >= self.seq  # noqa: E731
        self.times.append(await self.page._until(self.page._send(part=self._part(strip)), heard, PATIENCE_S))
        self.held = False
        self._check()

    async def rest(self) -> float:
        """Until the bars are drawn with what they were let go at and nothing is measured any more; seconds to the
        former."""
        begun, drawn = time.monotonic(), None
        while True:
            bars = self.told("equaliser")
            if drawn is None and bars["ack"] >= self.seq:
                drawn = time.monotonic() - begun
                rows = {row["id"]: row["kept"] for row in bars["rows"]}
                if any(rows[group] != kept for group, kept in self.kept.items()):
                    self.faults.append(f"{self.number}: the bars were drawn as {rows}")
            if drawn is not None and not self.told("headline")["pending"]:
                return drawn
            assert time.monotonic() - begun < PATIENCE_S, "it never came to rest"
            await asyncio.sleep(LOOK_S)

    def _check(self) -> None:
        """The headline against the count on this very plan."""
        cells = {cell["name"]: cell for cell in self.told("headline")["cells"]}
        rows = {row["id"]: row for row in self.told("equaliser")["rows"]}
        removed = {name: row["units"] - self.kept.get(name, row["kept"]) for name, row in rows.items()}
        trace = open_subject(self.source).trace
        exact = tables.count(count_cost(trace, widths_plan(trace, removed)).macs)
        if cells["macs"]["mark"] != "exact" or cells["macs"]["value"] != exact:
            self.faults.append(f"{self.number}: {cells['macs']['value']} for {self.kept} kept, exact {exact}")

    def _part(self, wanted: Any) -> str:
        place = next(
            place
            for place, one in self.page.shown.items()
            if one.WhichOneof("type") == "bidi_component" and one.bidi_component.id == wanted.id
        )
        return self.page.drawn[place][1]

    async def _scripts(self) -> None:
        """What strip and bars ask by themselves; never while an edit is on its way."""
        run, asked, ask_at, draw_at = -1, "", None, None
        while True:
            await asyncio.sleep(LOOK_S)
            told, now = self.told("headline"), time.monotonic()
            if told["run"] != run:
                run, ask_at = told["run"], now + told["poll_ms"] / 1000 if told["pending"] else None
                if told["redraw"] != asked:
                    asked, draw_at = told["redraw"], now + SETTLE_S if told["redraw"] else None
            if draw_at is not None and now > draw_at:
                draw_at = now + HELD_S if self.held else None
                if not self.held:
                    await self._trigger("equaliser", "redraw")
            if ask_at is not None and now > ask_at and not self.held:
                ask_at = now + LOST_S
                await self._trigger("headline", "tick")

    async def _trigger(self, name: str, event: str) -> None:
        place = component(self.page, name)
        value = json.dumps([{"event": event, "value": {"at": time.time()}}])
        pressed = WidgetState(id=f"$$STREAMLIT_INTERNAL_KEY_{place.id}__events", json_trigger_value=value)
        await self.page._send(pressed, part=self._part(place))


async def live(hand: Hand, rounds: int, group: str, units: int) -> None:
    """Drag one bar ``rounds`` times to widths of one's own, with pauses as people make them."""
    rng = random.Random(hand.number)
    for turn in range(rounds):
        await asyncio.sleep(rng.uniform(0.5, 2.5))
        await hand.release(group, 1 + (7 * hand.number + 13 * turn) % (units - 1))
