"""The one place that touches Streamlit's session and the address bar.

The truth is a ``Workspace`` (core/keep/workspace.py) kept in the store under the random token in ``?w=``: a reload, a
restart of the server or another browser with the link finds it again. Every change is saved at once. Two windows on one
token see each other's changes at their next run; a change made on an older state is repeated on the newer one, so
nothing is overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import streamlit as st

from core import CoreError
from core.keep import workspace as records
from core.keep.store import Conflict, Store, open_store
from core.keep.workspace import Workspace

TOKEN_PARAMETER = "w"
HELD, RELOADS, NOTICE, DONE, TEMPORARY = "_workspace", "_reloads", "_notice", "_done", "_temporary_"
TRIES = 5


def workspace() -> Workspace:
    """What this person is working on, as new as any window saved it. Made on the first visit."""
    token = _token()
    held: Workspace | None = st.session_state.get(HELD)
    if held is not None and held.token != token:
        held = None
    try:
        stored = open_store().revision(token)
        if held is not None and stored == held.revision:
            return held
        if held is not None and stored == 0:  # the stored copy was lost; ours is the newest there is
            return _hold(_saved(open_store(), replace(held, revision=0)))
        return _hold(_load(open_store(), token))
    except CoreError as error:
        notify(str(error))
        return held or _hold(Workspace(token))


def update(change: Callable[[Workspace], Workspace]) -> Workspace:
    """Apply ``change`` to the newest state and save it at once. Should another window save in between, it is applied
    again to what that one saved. Errors of ``change`` itself pass through, and nothing is changed then."""
    for _ in range(TRIES):
        before = workspace()
        after = change(before)
        if after == before:
            return before
        try:
            return _hold(_saved(open_store(), after))
        except Conflict:
            continue
        except CoreError as error:
            notify(f"{error} What you see is not saved.")
            return _hold(after)
    notify("Another window keeps changing this work. Your last change was not made; try again.")
    return workspace()


def commit(record: Workspace) -> bool:
    """Save ``record`` as it stands. False when another window saved since: then the newer state is shown and
    ``record`` is dropped. ``update`` is kinder where the change can be repeated."""
    try:
        _hold(_saved(open_store(), record))
    except Conflict as conflict:
        notify(str(conflict))
        workspace()
        return False
    except CoreError as error:
        notify(f"{error} What you see is not saved.")
        _hold(record)
    return True


def edit(removed: Mapping[str, int], label: str, *, from_equaliser: bool = False, pin: str | None = None) -> Workspace:
    """Set how many units groups lose, as one undo step. ``from_equaliser``: the component shows it already. ``pin``: a
    plan (JSON) whose own units hold, "" for none, None as before."""
    return update(lambda record: records.edit(record, removed, label, from_equaliser=from_equaliser, pin=pin))


def move_to(record: Workspace) -> None:
    """Save ``record`` under its own new token and go on with it; the former work stays at its link."""
    saved = _saved(open_store(), replace(record, revision=0))
    st.query_params[TOKEN_PARAMETER] = saved.token
    _hold(saved)
    st.session_state[RELOADS] = st.session_state.get(RELOADS, 0) + 1


def undo() -> Workspace:
    return update(records.undo)


def redo() -> Workspace:
    return update(records.redo)


def can_undo() -> bool:
    return workspace().can_undo


def can_redo() -> bool:
    return workspace().can_redo


def select_group(group_id: str) -> Workspace:
    """Make one group the selected one on every page."""
    return update(lambda record: replace(record, selected_group=group_id))


def choose(**choices: Any) -> Workspace:
    """Remember what was picked in forms, by name; widgets lose their state when their page is left."""
    return update(lambda record: records.choose(record, **choices))


def choice(name: str, default: Any = None) -> Any:
    """What was picked last in a form, or ``default``."""
    return workspace().choices.get(name, default)


def equaliser_rev() -> int:
    """Rises whenever anything but this window's own drags changed the counts: the equaliser adopts them then."""
    return workspace().rev + st.session_state.get(RELOADS, 0)


def owner() -> str:
    """In whose name jobs are queued."""
    return _token()


def address() -> str:
    """The address of the page shown, with the token that brings this work back."""
    page, _, _ = (st.context.url or "").partition("?")
    return f"{page}?{TOKEN_PARAMETER}={_token()}"


def notify(sentence: str) -> None:
    """Have ``sentence`` shown once, by whoever draws the frame next."""
    st.session_state[NOTICE] = sentence


def notify_done(sentence: str) -> None:
    """Have the good news shown once, in passing."""
    st.session_state[DONE] = sentence


def take_done() -> str | None:
    """The good news to show, if any; it is gone afterwards."""
    return st.session_state.pop(DONE, None)


def has_notice() -> bool:
    """Whether something waits to be told."""
    return NOTICE in st.session_state


def take_notice() -> str | None:
    """The sentence to show, if any; it is gone afterwards. What befell the store is told once to each visitor."""
    if NOTICE in st.session_state:
        return str(st.session_state.pop(NOTICE))
    try:
        about_store = open_store().notice
    except CoreError:  # told by workspace() already
        return None
    if about_store is None or temporary("store_notice") == about_store:
        return None
    set_temporary("store_notice", about_store)
    return about_store


def temporary(name: str, default: Any = None) -> Any:
    """Something small that may be lost on reload: a mark, a counter. Never a model or images."""
    return st.session_state.get(TEMPORARY + name, default)


def set_temporary(name: str, value: Any) -> None:
    st.session_state[TEMPORARY + name] = value


def widget_value(key: str, default: Any = None) -> Any:
    """The present value of the widget or component with this ``key``."""
    return st.session_state.get(key, default)


def set_widget_value(key: str, value: Any) -> None:
    """Give a widget its value; only before it is drawn, or in a callback."""
    st.session_state[key] = value


def parameter(name: str, default: str = "") -> str:
    """A parameter of the page's address."""
    return st.query_params.get(name, default)


def set_parameter(name: str, value: str) -> None:
    """Put a parameter into the page's address; an empty value takes it out."""
    if value:
        st.query_params[name] = value
    else:
        st.query_params.pop(name, None)


def _token() -> str:
    """From the address; else the session's (a page switch may have dropped it from the address); else a new one."""
    found = st.query_params.get(TOKEN_PARAMETER)
    if records.is_token(found):
        return str(found)
    held: Workspace | None = st.session_state.get(HELD)
    token = held.token if held is not None else records.new_token()
    if held is None:
        st.session_state[HELD] = Workspace(token)
    st.query_params[TOKEN_PARAMETER] = token
    return token


def _hold(record: Workspace) -> Workspace:
    st.session_state[HELD] = record
    return record


def _load(store: Store, token: str) -> Workspace:
    """From the store, or a fresh one. What cannot be read is reported and left alone: work begins under a new token."""
    st.session_state[RELOADS] = st.session_state.get(RELOADS, 0) + 1
    try:
        found = store.workspace(token)
        return Workspace(token) if found is None else replace(Workspace.from_json(*found), token=token)
    except CoreError as error:
        if store.revision(token) == 0:
            raise
        notify(str(error))
        fresh = Workspace(records.new_token())
        st.query_params[TOKEN_PARAMETER] = fresh.token
        return fresh


def _saved(store: Store, record: Workspace) -> Workspace:
    return replace(record, revision=store.save_workspace(record.token, record.to_json(), record.revision))
