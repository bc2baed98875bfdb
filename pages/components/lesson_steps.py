"""One step of a lesson: its text and, by its kind, a question, a picture, an answer, a formula or the desk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from core import (
    Lesson,
    LessonStep,
    Progress,
    Subject,
    answered,
    filled,
    find_lesson,
    formula_html,
    judge,
    options_of,
)
from core.keep.workspace import Workspace
from pages.components import lesson_desk, lesson_scenes, lesson_views, session

PROGRESS = "lessons"
Facts = Mapping[str, Any]


def progress_of(record: Workspace, name: str) -> Progress:
    return Progress.from_dict(record.choices.get(PROGRESS, {}).get(name))


def keep(name: str, progress: Progress) -> None:
    session.choose(**{PROGRESS: {**session.choice(PROGRESS, {}), name: progress.to_dict()}})


def body(
    record: Workspace, subject: Subject, lesson: Lesson, number: int, step: LessonStep, at: Progress, facts: Facts
) -> None:
    """What stands under the step's text."""
    if step.scene:
        lesson_scenes.show(step.scene, facts, f"scene-{lesson.name}-{number}")
    if step.view:
        lesson_views.show(step.view, facts, f"view-{lesson.name}-{number}")
    if step.kind == "explain":
        given = at.answers.get(str(step.about))
        right = given is not None and judge(lesson.steps[step.about - 1], given, facts).right
        st.markdown(filled(step.right if right else step.wrong, facts))
    elif step.kind == "desk":
        lesson_desk.show(record, subject, step)
    elif step.kind in ("predict", "check"):
        _ask(lesson, number, step, at, facts)
    if step.formula:
        st.html(formula_html(step, facts))
    if number == len(lesson.steps) and lesson.reading:
        st.markdown("Further reading")
        st.markdown("\n".join(f"- {one}" for one in lesson.reading))


def _ask(lesson: Lesson, number: int, step: LessonStep, at: Progress, facts: Facts) -> None:
    """The question, until it is answered; then what was answered. A prediction cannot be changed."""
    given, options = at.answers.get(str(number)), options_of(step, facts)
    locked = given is not None and step.kind == "predict"
    passed = given is not None and step.kind == "check" and judge(step, given, facts).right
    key = f"answer-{lesson.name}-{number}"
    if options:
        names = list(options)
        st.radio(
            step.title, names, index=names.index(given) if given in names else None, key=key,
            format_func=lambda name: filled(options[name], facts), label_visibility="collapsed",
            disabled=locked or passed,
        )  # fmt: skip
    else:
        st.number_input(step.unit, value=given, key=key, step=None, disabled=locked or passed, width=260)
    if not locked and not passed:
        words = "Lock in my prediction" if step.kind == "predict" else "Check"
        st.button(words, key=f"lock-{key}", on_click=_answer, args=(lesson.name, number, key))
    if locked:
        said = filled(options[given], facts) if options else f"{given:g} {step.unit}"
        st.markdown(f":material/lock: Locked in. You said: **{said}**")
    elif passed:
        st.success(filled(step.right, facts), icon=":material/check:")
    elif given is not None:
        st.warning(filled(step.wrong, facts), icon=":material/close:")


def _answer(name: str, number: int, key: str) -> None:
    given = session.widget_value(key)
    if given is None:
        session.notify("Choose an answer first.")
        return
    keep(name, answered(progress_of(session.workspace(), name), find_lesson(name), number, given))
