"""What a learner or teacher takes away from the page Learn: a lesson to print, and progress as a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from core import (
    Assignment,
    CoreError,
    Lesson,
    Subject,
    handout_html,
    lesson_pictures,
    pack_progress,
    to_query,
    unpack_progress,
)
from pages.components import classroom, classroom_rules, classroom_teacher, session

PROGRESS, FILE = "lessons", "progress-file"


def handout(lesson: Lesson, facts: Mapping[str, Any], subject: Subject) -> None:
    """The lesson as a page to print; its teacher may have the answers with it."""
    with st.container(horizontal=True, vertical_alignment="center", key="handout"):
        _sheet("Hand-out to print", lesson, facts, subject, answers=False)
        if classroom_rules.task() is None:  # in an exercise the answers are the teacher's
            _sheet("The same with answers", lesson, facts, subject, answers=True)


def _sheet(label: str, lesson: Lesson, facts: Mapping[str, Any], subject: Subject, *, answers: bool) -> None:
    st.download_button(
        label,
        lambda: _html(lesson, facts, subject, answers).encode(),
        file_name=f"{lesson.name}{'-answers' if answers else ''}.html",
        mime="text/html",
        key=f"handout-{lesson.name}-{answers}",
        on_click="ignore",
        type="tertiary",
        icon=":material/print:",
        help="One page of HTML that prints on A4; open it and print it.",
    )


def _html(lesson: Lesson, facts: Mapping[str, Any], subject: Subject, answers: bool) -> str:
    task, code = _task(), classroom_rules.code()
    link = ""
    if task is not None and (code or not task.needs_class):
        link = classroom_teacher.link(to_query(task, code))
    images = f"{subject.data.name}, {len(subject.data):,} images"
    goal = task.goal_words if task is not None else ""
    return handout_html(
        lesson, facts, network=subject.loaded.name, images=images, goal=goal or facts.get("goal_words", ""), link=link,
        code=code, pictures=lesson_pictures(lesson, facts), answers=answers,
    )  # fmt: skip


def _task() -> Assignment | None:
    """The learner's own, or the one of the class that this teacher holds."""
    return classroom_rules.task() or classroom_teacher.class_task()


def progress(subject: Subject) -> None:
    """Below the list of lessons, progress to a file and back. It is kept with the work anyway; the file goes to another
    server."""
    if session.parameter(classroom.LESSON) or session.choice(classroom.LESSON, ""):
        return
    with st.expander("Take your progress with you", icon=":material/save:"):
        st.caption("Progress is kept with this work. As a file it goes on in another work or on another server.")
        st.download_button(
            "Save progress",
            lambda: pack_progress(session.choice(PROGRESS, {}), subject.model_source),
            file_name="progress.json",
            mime="application/json",
            key="progress-save",
            on_click="ignore",
            icon=":material/download:",
        )
        file = st.file_uploader("Go on from a file", type=["json"], key=FILE)
        st.button("Go on from it", key="progress-load", disabled=file is None, on_click=_load, args=(file, subject))


def _load(file: Any, subject: Subject) -> None:
    try:
        merged, taken, network = unpack_progress(file.getvalue(), session.choice(PROGRESS, {}))
    except CoreError as error:
        session.notify(str(error))
        return
    session.choose(**{PROGRESS: merged})
    other = network and network != subject.model_source
    if not taken:
        session.notify("Nothing in this file is further than what is kept here.")
    elif other:
        session.notify("Your progress is here. Its answers were given on another network; some may not fit this one.")
    else:
        session.notify_done(f"Progress taken from the file: {', '.join(taken)}.")
