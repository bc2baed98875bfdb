"""One visitor of the app without a browser: Streamlit's own protocol over a websocket, so that thirty fit on one core.

It keeps what the page shows as a browser would (elements by their place, what a run did not draw again leaves), sends
what a hand does (a click, a choice, a number), and asks again for the parts of the page that refresh by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState, WidgetStates

TEXTS = ("markdown", "alert", "text", "heading")


class Visitor:
    """``shown``: elements by place. ``widgets``: what this visitor set, by widget."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.socket_address = f"ws://{parts.netloc}/_stcore/stream"
        self.page = parts.path.strip("/")
        self.query = parts.query
        self.shown: dict[tuple[int, ...], Any] = {}
        self.drawn: dict[tuple[int, ...], tuple[int, str]] = {}  # in which run, and in which part of the page
        self.widgets: dict[str, WidgetState] = {}
        self.parts: set[str] = set()
        self.script = ""
        self.run = 0
        self.cached: dict[str, ForwardMsg] = {}
        self.timers: dict[str, asyncio.Task[None]] = {}
        self.settled = asyncio.Event()
        self.errors: list[str] = []

    async def __aenter__(self) -> Visitor:
        self.socket = await websockets.connect(
            self.socket_address, subprotocols=["streamlit"], max_size=None, ping_interval=None, open_timeout=60
        )
        self.reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self.reader, *self.timers.values()):
            task.cancel()
        await self.socket.close()

    # What a hand does

    async def open(self, ready: Callable[[Visitor], bool], seconds: float = 120) -> float:
        """Ask for the page; seconds until ``ready``."""
        return await self._until(self._send(), ready, seconds)

    async def press(self, label: str, ready: Callable[[Visitor], bool], seconds: float = 120) -> float:
        """Click the last button called ``label``; seconds until ``ready``."""
        button = self.element("button", label)
        pressed = WidgetState(id=button.id, trigger_value=True)
        part = "" if button.is_form_submitter else self.part_of("button", label)
        return await self._until(self._send(pressed, part=part), ready, seconds)

    def choose(self, place: int) -> None:
        """Pick an option of the last radio that can be used, without waiting."""
        radio = [one.radio for one in self.of("radio") if not one.radio.disabled][-1]
        self.widgets[radio.id] = WidgetState(id=radio.id, string_value=radio.options[place])

    def enter(self, kind: str, value: float | str) -> None:
        """Fill the last field of ``kind`` that can be used."""
        field = [getattr(one, kind) for one in self.of(kind) if not getattr(one, kind).disabled][-1]
        name = "double_value" if kind == "number_input" else "string_value"
        self.widgets[field.id] = WidgetState(id=field.id, **{name: value})

    # What an eye sees

    def of(self, kind: str) -> list[Any]:
        """All elements of a kind, in the page's order."""
        return [one for _, one in sorted(self.shown.items()) if one.WhichOneof("type") == kind]

    def has(self, label: str) -> bool:
        """Whether a button of that name can be pressed."""
        return any(one.button.label == label and not one.button.disabled for one in self.of("button"))

    def element(self, kind: str, label: str) -> Any:
        found = [getattr(one, kind) for one in self.of(kind) if getattr(one, kind).label == label]
        assert found, f"no {kind} {label!r} among {[getattr(one, kind).label for one in self.of(kind)]}; {self.said()}"
        return found[-1]

    def part_of(self, kind: str, label: str) -> str:
        """The part of the page, drawn by itself, in which an element stands; "" for the page."""
        for place, one in sorted(self.shown.items(), reverse=True):
            if one.WhichOneof("type") == kind and getattr(one, kind).label == label:
                return self.drawn[place][1]
        return ""

    def said(self) -> str:
        """All text."""
        found = []
        for kind in TEXTS:
            found += [getattr(getattr(one, kind), "body", "") for one in self.of(kind)]
        return "\n".join(found)

    @property
    def token(self) -> str:
        """Of the work that the server made for this visitor."""
        return dict(parse_qsl(self.query)).get("w", "")

    # The protocol

    async def _until(self, sent: Any, ready: Callable[[Visitor], bool], seconds: float) -> float:
        begun = time.monotonic()
        self.settled.clear()
        await sent
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.settled.wait(), 0.5)
            if self.settled.is_set() and ready(self):
                return time.monotonic() - begun
            self.settled.clear()
            if self.reader.done():
                self.reader.result()  # raises what went wrong
            assert time.monotonic() - begun < seconds, f"waited {seconds} s; the page says:\n{self.said()[-1500:]}"

    async def _send(self, *pressed: WidgetState, part: str = "", auto: bool = False) -> None:
        message = BackMsg()
        asked = message.rerun_script
        asked.query_string = self.query
        asked.page_name = "" if self.script else self.page
        asked.page_script_hash = self.script
        asked.fragment_id = part
        asked.is_auto_rerun = auto
        asked.context_info.url = f"http{self.socket_address[2:].removesuffix('/_stcore/stream')}/{self.page}"
        asked.widget_states.CopyFrom(WidgetStates(widgets=[*self.widgets.values(), *pressed]))
        await self.socket.send(message.SerializeToString())

    async def _read(self) -> None:
        async for packed in self.socket:
            message = ForwardMsg()
            message.ParseFromString(packed)
            if message.WhichOneof("type") == "ref_hash":
                known = ForwardMsg()
                known.CopyFrom(self.cached[message.ref_hash])
                known.metadata.CopyFrom(message.metadata)
                message = known
            elif message.metadata.cacheable:
                self.cached[message.hash] = message
            self._take(message)

    def _take(self, message: ForwardMsg) -> None:
        kind = message.WhichOneof("type")
        if kind == "new_session":
            self.run += 1
            self.parts = set(message.metadata.run.fragment_ids)
            self.script = message.new_session.page_script_hash
            if not self.parts:
                for timer in self.timers.values():
                    timer.cancel()
                self.timers.clear()
        elif kind == "delta":
            self._draw(tuple(message.metadata.delta_path), message.delta)
        elif kind == "page_info_changed":
            self.query = message.page_info_changed.query_string
        elif kind == "auto_rerun":
            again = message.auto_rerun
            if again.fragment_id not in self.timers:
                self.timers[again.fragment_id] = asyncio.create_task(self._refresh(again.fragment_id, again.interval))
        elif kind == "script_finished":
            self._finished(message.script_finished)
        elif kind == "session_event" and message.session_event.WhichOneof("type") == "script_compilation_exception":
            self.errors.append(str(message))

    def _draw(self, place: tuple[int, ...], delta: Any) -> None:
        if delta.WhichOneof("type") == "new_element":
            self.shown[place] = delta.new_element
            self.drawn[place] = (self.run, delta.fragment_id)
            if delta.new_element.WhichOneof("type") == "exception":
                self.errors.append(delta.new_element.exception.message)
        elif place in self.shown:  # a block stands where an element was
            del self.shown[place], self.drawn[place]

    def _finished(self, how: int) -> None:
        if how == ForwardMsg.FINISHED_EARLY_FOR_RERUN:
            return
        for place, (run, part) in list(self.drawn.items()):
            if run != self.run and (not self.parts or part in self.parts):
                del self.shown[place], self.drawn[place]
        self.settled.set()

    async def _refresh(self, part: str, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            await self._send(part=part, auto=True)
