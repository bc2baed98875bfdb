"""What the teacher's link holds still, as every page asks it. The task is kept with the work and holds everywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import streamlit as st

from core import CONTROLS, FROZEN, HIDDEN, Assignment, CoreError
from pages.components import session

TASK, CODE, KEY = "class_task", "class_code", "class_key"  # among the choices of a workspace
REASON = "Your teacher's link holds this as it is."
HIDDEN_PAGE = "Your teacher's link leaves this page out of the exercise."
PAGES = {control.page: control.name for control in CONTROLS if control.page}


def task() -> Assignment | None:
    """What the teacher set for this work; None without a teacher's link."""
    found = session.choice(TASK)
    return _read(json.dumps(found)) if found else None


@lru_cache(maxsize=64)
def _read(kept: str) -> Assignment | None:
    """Asked by every control of every page, so that checking it each time would be a tenth of a click's work."""
    try:
        return Assignment.from_dict(json.loads(kept))
    except CoreError:  # kept by another version, or out of a stranger's project file
        return None


def code() -> str:
    """The code of the class that this work belongs to, as learner or teacher; "" for none."""
    return str(session.choice(CODE, ""))


def key() -> str:
    """The teacher's key, in the teacher's own work; "" for learners."""
    return str(session.choice(KEY, ""))


def frozen(control: str) -> bool:
    """Whether ``control`` is shown but cannot be used, or is not shown at all."""
    return _held(control) in (FROZEN, HIDDEN)


def hidden(control: str) -> bool:
    return _held(control) == HIDDEN


def hidden_page(title: str) -> bool:
    """Whether a page of the menu is left out."""
    return title in PAGES and hidden(PAGES[title])


def why(control: str) -> str | None:
    """The reason to show beside a control that is held; None when it is free."""
    return REASON if frozen(control) else None


def tell(control: str) -> None:
    """The reason as a line of its own, where there is one."""
    if frozen(control):
        st.caption(f":material/lock: {REASON}")


def goal(own: Mapping[str, float]) -> Mapping[str, float]:
    """The teacher's goal in place of a lesson's own."""
    found = task()
    return own if found is None or key() else found.goal


def seed() -> int:
    """Of what is drawn at random."""
    found = task()
    return 0 if found is None else found.seed


def _held(control: str) -> str:
    found: Any = task()
    return "" if found is None else str(found.held(control))
