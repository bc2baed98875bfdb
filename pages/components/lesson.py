"""The page Learn: the list of lessons, and one lesson step by step. Predictions are locked in; progress is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from core import (
    FACTS_VERSION,
    CoreError,
    Lesson,
    Progress,
    Subject,
    filled,
    find_lesson,
    fitting,
    gone_on,
    list_lessons,
    may_go_on,
)
from core.keep.workspace import Workspace
from pages.components import classroom_paper, classroom_rules, lesson_desk, session, tables, work
from pages.components.lesson_steps import body, keep, progress_of

LESSON, PARAMETER, POLLING = "lesson", "lesson", "lesson_polling"
Facts = Mapping[str, Any]


def show(record: Workspace, subject: Subject) -> None:
    """The lesson that is open, or all of them to choose from."""
    name = session.parameter(PARAMETER) or session.choice(LESSON, "")
    if not name:
        _list(record)
        return
    try:
        lesson = find_lesson(name)
    except CoreError as error:
        st.error(str(error), icon=":material/error:")
        lesson = None
    fixed, back = classroom_rules.task() is not None, ":material/arrow_back:"
    if st.button("All lessons", icon=back, on_click=_open, args=("",), disabled=fixed and lesson is not None,
                 help=classroom_rules.REASON if fixed else None) or lesson is None:  # fmt: skip
        return
    st.subheader(lesson.title, anchor=False)
    st.caption(f"{lesson.goal} About {lesson.minutes} minutes, on {subject.loaded.name}.")
    facts = _facts(record, subject, lesson)
    if facts is not None:
        _steps(record, subject, lesson, facts)
        classroom_paper.handout(lesson, facts, subject)


def _open(name: str) -> None:
    session.set_parameter(PARAMETER, name)
    session.choose(**{LESSON: name})


def _list(record: Workspace) -> None:
    lessons = list_lessons()
    done = sum(progress_of(record, lesson.name).done for lesson in lessons)
    st.progress(done / len(lessons), text=f"{done} of {tables.plural(len(lessons), 'lesson')} done")
    columns: list[Any] = []
    for number, lesson in enumerate(lessons):
        columns = columns if number % 2 else st.columns(2)  # row by row: the order in which narrow screens stack them
        at = progress_of(record, lesson.name)
        with columns[number % 2].container(border=True):
            st.markdown(f"**{lesson.title}**")
            st.caption(lesson.goal)
            begun = at.step > 1 or at.answers
            state = "done" if at.done else f"step {at.step} of {len(lesson.steps)}" if begun else ""
            words = "Look again" if at.done else "Go on" if begun else "Begin"
            left, right = st.columns([2, 3], vertical_alignment="center")
            left.button(words, key=f"open-{lesson.name}", on_click=_open, args=(lesson.name,), width="stretch")
            right.caption(f"{lesson.minutes} min{' · ' + state if state else ''}")


def _facts(record: Workspace, subject: Subject, lesson: Lesson) -> Facts | None:
    """The numbers of this network that the lesson speaks of; None while they are computed."""
    if not lesson.facts:
        return lesson_desk.facts(record, subject, lesson)
    found = _found(subject, lesson)
    if found.done:
        known: Facts = found.result
        return known
    session.set_temporary(POLLING, found.active)
    st.fragment(run_every=work.poll(found.active))(_wait)(subject, lesson)
    return None


def _found(subject: Subject, lesson: Lesson) -> work.Work:
    return work.ensure("lesson", subject, lesson=lesson.facts, version=FACTS_VERSION)


def _wait(subject: Subject, lesson: Lesson) -> None:
    found = _found(subject, lesson)
    if found.done or found.active != session.temporary(POLLING):
        st.rerun()
    work.progress(
        found,
        "Measuring this network",
        retry=lambda: work.again("lesson", subject, lesson=lesson.facts, version=FACTS_VERSION),
        key=f"lesson-{lesson.facts}",
    )


def _steps(record: Workspace, subject: Subject, lesson: Lesson, facts: Facts) -> None:
    at = fitting(progress_of(record, lesson.name), lesson, facts)
    for number, step in enumerate(lesson.steps[: at.step], start=1):
        with st.container(key=f"lesson-step-{lesson.name}-{number}", border=True):
            st.markdown(f"##### {number} · {step.title}")
            if step.text:
                st.markdown(filled(step.text, facts))
            body(record, subject, lesson, number, step, at, facts)
    if at.done:
        st.success("Lesson done. What you answered is kept with this work.", icon=":material/check_circle:")
    else:
        _onward(record, subject, lesson, at, facts)
    if at.answers:
        st.button(
            "Start this lesson again", icon=":material/restart_alt:", type="tertiary", key=f"again-{lesson.name}",
            help="Forgets what you answered in this lesson, so that you can play it anew.",
            on_click=keep, args=(lesson.name, Progress()),
        )  # fmt: skip


def _onward(record: Workspace, subject: Subject, lesson: Lesson, at: Progress, facts: Facts) -> None:
    """The button to the next step, once the newest is passed."""
    newest = lesson.steps[at.step - 1]
    passed = may_go_on(at, lesson, facts)
    if newest.kind == "desk":
        passed = all(lesson_desk.judge_desk(record, subject).met(classroom_rules.goal(newest.goal)).values())
    if passed:
        words = "Finish" if at.step == len(lesson.steps) else "Go on"
        st.button(words, type="primary", on_click=_go_on, args=(lesson.name,), key=f"go-{lesson.name}-{at.step}")


def _go_on(name: str) -> None:
    keep(name, gone_on(progress_of(session.workspace(), name), find_lesson(name)))
