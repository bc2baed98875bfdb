"""A page link wins over what the page before still asks for.

Streamlit 1.67 runs a fragment's request (a poll, a component's message) under the page it was sent from. One that is
sent between a press on a page link and the first sign of the new page therefore brings the old page back: the press
seems lost. While something is measured a page asks twice a second, so on a busy machine that is not rare. Such
requests are dropped here; full runs are never touched.
"""

from __future__ import annotations

import logging
from typing import Any

from streamlit.runtime.app_session import AppSession

log = logging.getLogger(__name__)
ASKED = "_prunescope_page"  # on a session: the page that the last full run was asked for


def is_late(session: Any, client_state: Any) -> bool:
    """Whether this request comes from another page than the one that was asked for last. Full runs say which page is
    asked for."""
    if client_state is None:
        return False
    if not client_state.fragment_id:
        setattr(session, ASKED, client_state.page_script_hash)
        return False
    asked, sent_from = getattr(session, ASKED, ""), client_state.page_script_hash
    return bool(asked and sent_from and asked != sent_from)


def install() -> None:
    """Once per server, however often it is called."""
    real = AppSession.request_rerun
    if getattr(real, "guards_pages", False):
        return

    def request_rerun(self: AppSession, client_state: Any) -> None:
        if is_late(self, client_state):
            log.debug("dropped what a page that was left still asked for")
            return
        real(self, client_state)

    request_rerun.guards_pages = True  # type: ignore[attr-defined]
    AppSession.request_rerun = request_rerun  # type: ignore[method-assign]
