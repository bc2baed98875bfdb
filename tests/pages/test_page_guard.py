"""Requests of a page that was left are dropped; all others pass."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from streamlit.runtime.app_session import AppSession

from pages.components import page_guard


def request(page: str, fragment: str = "") -> Any:
    return SimpleNamespace(page_script_hash=page, fragment_id=fragment)


def test_only_fragments_of_another_page_are_late() -> None:
    session = SimpleNamespace()
    assert not page_guard.is_late(session, request("tune", "bars")), "nothing was asked for yet"
    asked = [request("tune"), request("tune", "bars"), request("channels"), request("channels", "map"), None]
    assert not any(page_guard.is_late(session, one) for one in asked)
    assert page_guard.is_late(session, request("tune", "bars")), "sent before the new page was there"
    assert not page_guard.is_late(session, request("tune")), "a press on a link back is no fragment"
    assert not page_guard.is_late(session, request("tune", "bars"))
    assert page_guard.is_late(session, request("channels", "map"))
    assert not page_guard.is_late(SimpleNamespace(), request("", "bars"))


def test_it_is_installed_once() -> None:
    before = AppSession.request_rerun
    try:
        page_guard.install()
        guarded = AppSession.request_rerun
        page_guard.install()
        assert AppSession.request_rerun is guarded and guarded.guards_pages  # type: ignore[attr-defined]
    finally:
        AppSession.request_rerun = before  # type: ignore[method-assign]
