"""The teacher's side of the page Learn: set an exercise, get its link, open a class, watch and keep its board."""

from __future__ import annotations

from typing import Any

import streamlit as st

from core import (
    BUDGETS,
    CONTROLS,
    FROZEN,
    HIDDEN,
    Assignment,
    Class,
    CoreError,
    Subject,
    close_class,
    find_class,
    list_criteria,
    list_lessons,
    open_class,
    remove_class,
    to_query,
)
from core.keep import workspace as records
from core.keep.store import open_store
from core.keep.workspace import Workspace
from pages.components import classroom, classroom_board, classroom_rules, session, work

CRITERIA = {row.name: row for row in list_criteria()}
SAMPLE = "bako-timu-resa"
HOLDS = {"": "free", FROZEN: "frozen", HIDDEN: "hidden"}


def show_class() -> None:
    """The teacher's own class with its board; nothing where there is none."""
    if classroom_rules.key():
        _class()


def ways_in(record: Workspace, subject: Subject) -> None:
    """Below the list of lessons: a class to join, an exercise to set, progress to take away."""
    if session.parameter(classroom.LESSON) or session.choice(classroom.LESSON, ""):
        return
    if not classroom_rules.key() and classroom_rules.task() is None:
        with st.expander("Join a class", icon=":material/group_add:"):
            _join()
        with st.expander("For teachers: set an exercise", icon=":material/assignment:"):
            _form(record, subject)


def _join() -> None:
    with st.form("class-code", border=False):
        typed = st.text_input("The code your teacher told you", placeholder=SAMPLE, max_chars=40, key="join-code")
        sent = st.form_submit_button("Open the exercise")
    if sent:
        session.set_parameter(classroom.CLASS, typed.strip() or "-")
        st.rerun()


# Setting an exercise


def _form(record: Workspace, subject: Subject) -> None:
    st.caption(
        f"The exercise is on what is open now: **{_plain(subject.loaded.name)}** with {_plain(subject.data.name)}. "
        "For another network, open it on the page Model first."
    )
    lessons = {one.name: one.title for one in list_lessons()}
    lesson = st.selectbox(
        "Lesson", list(lessons), index=len(lessons) - 1, format_func=lessons.__getitem__, key="teach-lesson"
    )
    left, middle, right = st.columns(3)
    budget = left.selectbox("What must shrink", list(BUDGETS), format_func=_titled, key="teach-budget")
    share = middle.number_input("At most, %", 1, 100, 50, key="teach-share")
    drop = right.number_input("Points lost, at most", 0.0, 100.0, 2.0, 0.5, format="%.1f", key="teach-drop")
    left, right = st.columns([2, 1])
    now = work.criterion(record)
    criterion = left.selectbox(
        "Which channels leave first", list(CRITERIA), index=list(CRITERIA).index(now) if now in CRITERIA else 0,
        format_func=lambda name: CRITERIA[name].title, key="teach-criterion",
    )  # fmt: skip
    seed = right.number_input(
        "Seed", 0, 10**6, 0, key="teach-seed", help="Of what recipes draw at random: the same for the whole class."
    )
    with st.container(horizontal=True, gap="medium"):
        held = {one.name: _hold(one) for one in CONTROLS}
    task = Assignment(
        subject.model_source, subject.weights, record.weights_name, record.data_source, lesson, criterion, int(seed),
        (budget, share / 100), drop / 100, _those(held, FROZEN), _those(held, HIDDEN),
    )  # fmt: skip
    _links(task)


def _hold(control: Any) -> str:
    picked = st.segmented_control(
        control.title, list(HOLDS), format_func=HOLDS.__getitem__, default="", key=f"teach-hold-{control.name}",
        required=True, help=control.summary, width=260,
    )  # fmt: skip
    return str(picked or "")


def _those(held: dict[str, str], how: str) -> tuple[str, ...]:
    return tuple(name for name, value in held.items() if value == how)


def _titled(name: str) -> str:
    return BUDGETS[name][:1].upper() + BUDGETS[name][1:]


def _links(task: Assignment) -> None:
    st.markdown(f"Goal: **{task.goal_words}**")
    if task.needs_class:
        st.caption("Your own files travel with a class alone: open one to get a link.")
    else:
        st.caption("A link to the exercise, without a board:")
        st.code(link(to_query(task)), language=None, wrap_lines=True)
    if st.button(
        "Open a class",
        type="primary",
        icon=":material/groups:",
        key="teach-open",
        help="Gives a code to join by, and a board with everybody's plans.",
    ):  # not as a callback: that would see the form as it was drawn before the last entry
        _open(task)
        st.rerun()


def link(query: str) -> str:
    """The address of the page Learn with ``query``."""
    page, _, _ = session.address().partition("?")
    return f"{page}?{query}"


def _open(task: Assignment) -> None:
    try:
        code, key = open_class(open_store(), task, session.owner())
    except CoreError as error:
        session.notify(str(error))
        return
    session.choose(**{classroom_rules.CODE: code, classroom_rules.KEY: key, classroom.LESSON: ""})
    session.set_parameter(classroom.LESSON, "")
    session.notify_done("The class is open: its link and its board stand at the top of this page.")


# The class


def _class() -> None:
    code, key = classroom_rules.code(), classroom_rules.key()
    try:
        found = find_class(open_store(), code)
    except CoreError as error:
        st.warning(str(error), icon=":material/info:")
        st.button("Put it away", key="class-away", on_click=_put_away)
        return
    with st.container(border=True, key="class-card"):
        st.markdown(f"#### Class {found.code}{' · closed' if found.closed else ''}")
        st.markdown(f"Goal: **{found.task.goal_words}**")
        st.caption("Learners open this link, or type the code under “Join a class” on their page Learn.")
        st.code(link(to_query(found.task, found.code)), language=None, wrap_lines=True)
        _tools(found, key)
    classroom_board.board(found.task, code, key=key)
    st.divider()


def _tools(found: Class, key: str) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        words, icon = (
            ("Open it again", ":material/lock_open:") if found.closed else ("Close the class", ":material/lock:")
        )
        st.button(
            words, key="class-close", icon=icon, on_click=_close, args=(found.code, key, not found.closed),
            help="Closed, nothing more is handed in; the board stays.",
        )  # fmt: skip
        with st.popover("Your own link", icon=":material/key:"):
            st.caption("Opens this class as its teacher in another browser. Whoever has it can close the class.")
            st.code(link(f"class={found.code}&key={key}"), language=None, wrap_lines=True)
        with st.popover("Remove", icon=":material/delete:"):
            st.caption("Takes the class and everything handed in away for good. Save the board as CSV first.")
            st.button("Remove the class", key="class-remove-all", on_click=_remove, args=(found.code, key))
        st.button(
            "Put it away",
            key="class-away",
            on_click=_put_away,
            help="Back to the lessons; your own link opens it again.",
        )


def class_task() -> Assignment | None:
    """The exercise of the class that this work holds as its teacher; None without one."""
    if not classroom_rules.key():
        return None
    try:
        return find_class(open_store(), classroom_rules.code()).task
    except CoreError:
        return None


def _attempt(change: Any) -> bool:
    try:
        change()
    except CoreError as error:
        session.notify(str(error))
        return False
    return True


def _close(code: str, key: str, closed: bool) -> None:
    _attempt(lambda: close_class(open_store(), code, key, closed))


def _remove(code: str, key: str) -> None:
    if _attempt(lambda: remove_class(open_store(), code, key)):
        _put_away()


def _put_away() -> None:
    session.update(lambda record: records.choose(record, **{classroom_rules.CODE: "", classroom_rules.KEY: ""}))


def _plain(text: str) -> str:
    """A name in a sentence, with nothing in it that Markdown would read."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]()#+-!|<>~$:" else letter for letter in text)
