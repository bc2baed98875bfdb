"""The page Learn: the list of lessons, and one lesson step by step. Predictions are locked in; progress is kept."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import streamlit as st

from core import (
    CoreError,
    Lesson,
    LessonStep,
    Progress,
    Subject,
    answered,
    count_cost,
    filled,
    find_lesson,
    goal_met,
    gone_on,
    judge,
    list_lessons,
    may_go_on,
    options_of,
)
from core.keep.workspace import Workspace
from pages.components import frame, lesson_views, session, tables, work

LESSON, PROGRESS, PARAMETER, POLLING = "lesson", "lessons", "lesson", "lesson_polling"
Facts = Mapping[str, Any]
LIMITS = {"macs": "MACs that remain", "params": "Parameters that remain", "accuracy_drop": "Accuracy lost"}


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
    if st.button("All lessons", icon=":material/arrow_back:", on_click=_open, args=("",)) or lesson is None:
        return
    st.subheader(lesson.title, anchor=False)
    st.caption(f"{lesson.goal} About {lesson.minutes} minutes, on {subject.loaded.name}.")
    facts = _facts(subject, lesson)
    if facts is not None:
        _steps(record, subject, lesson, facts)


def progress_of(record: Workspace, name: str) -> Progress:
    return Progress.from_dict(record.choices.get(PROGRESS, {}).get(name))


def _keep(name: str, progress: Progress) -> None:
    session.choose(**{PROGRESS: {**session.choice(PROGRESS, {}), name: progress.to_dict()}})


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


def _facts(subject: Subject, lesson: Lesson) -> Facts | None:
    """The numbers of this network that the lesson speaks of; None while they are computed."""
    if not lesson.facts:
        return {}
    found = work.ensure("lesson", subject, lesson=lesson.facts)
    if found.done:
        known: Facts = found.result
        return known
    session.set_temporary(POLLING, found.active)
    st.fragment(run_every=work.poll(found.active))(_wait)(subject, lesson)
    return None


def _wait(subject: Subject, lesson: Lesson) -> None:
    found = work.ensure("lesson", subject, lesson=lesson.facts)
    if found.done or found.active != session.temporary(POLLING):
        st.rerun()
    work.progress(
        found,
        "Measuring this network",
        retry=lambda: work.again("lesson", subject, lesson=lesson.facts),
        key=f"lesson-{lesson.facts}",
    )


def _steps(record: Workspace, subject: Subject, lesson: Lesson, facts: Facts) -> None:
    at = progress_of(record, lesson.name)
    for number, step in enumerate(lesson.steps[: at.step], start=1):
        with st.container(key=f"step-{lesson.name}-{number}", border=True):
            st.markdown(f"##### {number} · {step.title}")
            if step.text:
                st.markdown(filled(step.text, facts))
            _body(record, subject, lesson, number, step, at, facts)
    if at.done:
        st.success("Lesson done. What you answered is kept with this work.", icon=":material/check_circle:")
        return
    newest = lesson.steps[at.step - 1]
    passed = may_go_on(at, lesson, facts) and (newest.kind != "desk" or all(_met(record, subject, newest).values()))
    last = at.step == len(lesson.steps)
    if passed:
        words = "Finish" if last else "Go on"
        st.button(words, type="primary", on_click=_go_on, args=(lesson.name,), key=f"go-{lesson.name}-{at.step}")


def _go_on(name: str) -> None:
    _keep(name, gone_on(progress_of(session.workspace(), name), find_lesson(name)))


def _body(
    record: Workspace, subject: Subject, lesson: Lesson, number: int, step: LessonStep, at: Progress, facts: Facts
) -> None:
    if step.kind == "see":
        lesson_views.show(step.view, facts, f"view-{lesson.name}-{number}")
    elif step.kind == "explain":
        given = at.answers.get(str(step.about))
        right = given is not None and judge(lesson.steps[step.about - 1], given, facts).right
        st.markdown(filled(step.right if right else step.wrong, facts))
    elif step.kind == "formula":
        st.latex(step.formula)
        st.html(_symbols_html(step, facts))
    elif step.kind == "desk":
        _desk(record, subject, step)
    elif step.kind in ("predict", "check"):
        _ask(lesson, number, step, at, facts)
    if number == len(lesson.steps) and lesson.reading:
        st.caption("Further reading: " + "; ".join(lesson.reading))


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
        st.caption(":material/lock: Locked in.")
    elif passed:
        st.success(filled(step.right, facts), icon=":material/check:")
    elif given is not None:
        st.warning(filled(step.wrong, facts), icon=":material/close:")


def _answer(name: str, number: int, key: str) -> None:
    given = session.widget_value(key)
    if given is None:
        session.notify("Choose an answer first.")
        return
    _keep(name, answered(progress_of(session.workspace(), name), find_lesson(name), number, given))


def _symbols_html(step: LessonStep, facts: Facts) -> str:
    rows = "".join(
        f'<tr title="{escape(one.meaning)}"><th scope="row">{escape(one.sign)}</th><td>{escape(one.meaning)}</td>'
        f"<td>{escape(filled(one.value, facts))}</td></tr>"
        for one in step.symbols
    )
    return f'<table class="ps-symbols"><tbody>{rows}</tbody></table>'


def _met(record: Workspace, subject: Subject, step: LessonStep) -> dict[str, bool | None]:
    """Which limits of the step's goal the plan on the desk keeps; None where that is not measured."""
    plan = work.plan(record, subject)
    if plan is None:
        return dict.fromkeys(step.goal)
    known = work.measured(record, subject, plan).get("accuracy")
    scan = work.sensitivity(record, subject)
    return goal_met(
        step.goal,
        count_cost(subject.trace, plan),
        count_cost(subject.trace),
        known["value"] if known else None,
        scan.dense.accuracy if scan is not None else None,
    )


def _desk(record: Workspace, subject: Subject, step: LessonStep) -> None:
    met = _met(record, subject, step)
    plan = work.plan(record, subject)
    now, dense = count_cost(subject.trace, plan), count_cost(subject.trace)
    rows = []
    for name, limit in step.goal.items():
        said = {True: "passed", False: "not yet", None: "not measured yet"}[met[name]]
        value = "" if name == "accuracy_drop" else tables.percent(getattr(now, name) / getattr(dense, name))
        if name == "accuracy_drop" and plan is not None:
            known, scan = work.measured(record, subject, plan).get("accuracy"), work.sensitivity(record, subject)
            if known and scan is not None:
                value = f"{100 * (scan.dense.accuracy - known['value']):.1f} points"
        wanted = f"at most {100 * limit:.0f} {'points' if name == 'accuracy_drop' else '%'}"
        rows.append({"Goal": LIMITS[name], "Wanted": wanted, "Your plan": value, "Verdict": said})
    st.dataframe(rows, hide_index=True, width="stretch")
    if met.get("accuracy_drop") is None:
        st.caption("Measure the plan's accuracy on the page Tune or Recover; then come back.")
    left, right, _ = st.columns([1, 1, 3])
    with left:
        frame.link("Tune")
    with right:
        frame.link("Recover")
