"""A learner in a class: the teacher's link is taken in, a nickname chosen, a plan handed in, the board watched."""

from __future__ import annotations

import streamlit as st

from core import (
    AS_CUT,
    LONGEST_NAME,
    Assignment,
    CoreError,
    Plan,
    Subject,
    find_class,
    from_parameters,
    hand_in,
    handed_in,
    is_link,
    is_teacher,
    join,
    measured_plan,
    member_name,
    open_subject,
    plan_name,
)
from core.keep import workspace as records
from core.keep.store import open_store
from core.keep.workspace import Workspace, new_token
from pages.components import classroom_board, classroom_rules, frame, session, tables, work

CLASS, LESSON, TEACHER_KEY = "class", "lesson", "key"
NAME, POLLING = "class_name", "class_polling"
PARTS = ("lesson", "model", "weights", "data", "criterion", "seed", "macs", "params", "size_bytes", "drop", "freeze",
         "hide", CLASS)  # fmt: skip
DENSE = Plan({})
POLL_S = 2.0  # a whole class waits at once


# The link


def arrive() -> None:
    """Take in a teacher's link, once: its network opens as work of its own and the exercise is kept with it. A bad link
    is told in one sentence and changes nothing."""
    given = {name: value for name in PARTS if (value := session.parameter(name))}
    code, secret = given.get(CLASS, ""), session.parameter(TEACHER_KEY)
    if not code and not is_link(given):
        return
    try:
        if code and secret:
            _take_teacher(code, secret)
        else:
            _take_learner(*_task_of(given, code))
    except CoreError as error:
        session.notify(str(error))
        _forget_link()
        st.rerun()


def _task_of(given: dict[str, str], code: str) -> tuple[Assignment, str]:
    """A class's own task where there is a class: what a link says besides its code may have been changed."""
    if code:
        found = find_class(open_store(), code)
        return found.task, found.code
    return from_parameters(given), ""


def _take_learner(task: Assignment, code: str) -> None:
    record = session.workspace()
    known = record.choices
    if known.get(classroom_rules.TASK) == task.to_dict() and known.get(classroom_rules.CODE, "") == code:
        return
    with st.spinner("Opening the network of your class ..."):
        open_subject(task.model, task.weights, task.data)
    record = _own_work(record)
    record = records.open_model(
        record, task.model, task.data, weights_path=task.weights, weights_name=task.weights_name,
        criterion=task.criterion,
    )  # fmt: skip
    chosen = {classroom_rules.TASK: task.to_dict(), classroom_rules.CODE: code, LESSON: task.lesson}
    session.move_to(records.choose(record, **chosen))
    st.rerun()


def _take_teacher(code: str, secret: str) -> None:
    """The teacher's own link: the key leaves the address at once, for others may look on."""
    found = find_class(open_store(), code)
    if not is_teacher(open_store(), code, secret):
        raise CoreError("This is not the link of this class's teacher. Ask whoever opened the class.")
    task = found.task
    open_subject(task.model, task.weights, task.data)
    record = records.open_model(
        _own_work(session.workspace()), task.model, task.data, weights_path=task.weights,
        weights_name=task.weights_name, criterion=task.criterion,
    )  # fmt: skip
    session.move_to(records.choose(record, **{classroom_rules.CODE: found.code, classroom_rules.KEY: secret}))
    _forget_link()
    st.rerun()


def _own_work(record: Workspace) -> Workspace:
    """A fresh piece of work; what was open, if anything was done in it, stays at its link."""
    touched = record.history or record.future or record.plans or record.choices or record.model_source
    return Workspace(new_token()) if touched else record


def _forget_link() -> None:
    for name in (*PARTS, TEACHER_KEY):
        session.set_parameter(name, "")


# The page


def learner_card() -> None:
    """What this exercise is: class, goal, what is held. Nothing without a teacher's link."""
    task, code = classroom_rules.task(), classroom_rules.code()
    if task is None or classroom_rules.key():
        return
    with st.container(border=True, key="class-card"):
        name = _name(code)
        said = f"Class **{code}**" if code else "An exercise from your teacher"
        st.markdown(f"{said} · **Goal: {task.goal_words}**")
        if task.frozen or task.hidden:
            st.caption(_held_words(task))
        if code:
            _nickname(code, name)


def _held_words(task: Assignment) -> str:
    held = len(task.frozen) + len(task.hidden)
    return f"Your teacher holds {tables.plural(held, 'control')} still; each says so where it stands."


def _name(code: str) -> str:
    return member_name(open_store(), code, session.owner()) if code else ""


def _nickname(code: str, name: str) -> None:
    if name:
        st.text(f"Nickname: {name}")
        return
    with st.form("class-join", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
        typed = st.text_input("Your nickname on the board", max_chars=LONGEST_NAME, key=NAME, width=260)
        sent = st.form_submit_button("Join", type="primary")
    if sent:
        try:
            join(open_store(), code, session.owner(), typed)
        except CoreError as error:
            st.error(str(error), icon=":material/error:")
            return
        st.rerun()


def hand_in_card(subject: Subject) -> None:
    """The plan on the desk, measured, and the button that puts it on the board; then the board. Nothing without a
    class."""
    task, code = classroom_rules.task(), classroom_rules.code()
    if task is None or not code or classroom_rules.key():
        return
    st.markdown("##### Your plan on the board")
    if _name(code):
        waiting = _asked(subject)
        session.set_temporary(POLLING, waiting)
        st.fragment(run_every=POLL_S if waiting else None)(_hand_in)(subject, task, code)
    else:
        st.caption(
            "Choose a nickname above; then you can hand in the plan on your desk, as often as you find a better."
        )
    classroom_board.board(task, code, own=session.owner())


def _asked(subject: Subject) -> bool:
    """Whether a measurement that the card waits for is under way."""
    plan, repair = _plan(subject)
    return plan is not None and any(
        _measured(subject, one, how).active for one, how in ((plan, repair), (DENSE, AS_CUT))
    )


def _plan(subject: Subject) -> tuple[Plan | None, str]:
    record = session.workspace()
    plan = work.plan(record, subject)
    return plan, work.repair(record, plan) if plan is not None and plan.kept else AS_CUT


def _measured(subject: Subject, plan: Plan, repair: str, *, start: bool = False) -> work.Work:
    return work.ensure("evaluate_plan", subject, start=start, plan=plan.to_json(), repair=repair)


def _hand_in(subject: Subject, task: Assignment, code: str) -> None:
    """Measured here when the page Tune has not done so; on the board it goes by the store's own numbers."""
    if _asked(subject) != session.temporary(POLLING):
        st.rerun()
    plan, repair = _plan(subject)
    if plan is None:
        st.caption("Which channels leave is not known yet: look at the page Tune, where they are being scored.")
        frame.link("Tune")
        return
    missing = [(one, how) for one, how in ((plan, repair), (DENSE, AS_CUT)) if not _measured(subject, one, how).done]
    there = plan_name(plan, repair) in handed_in(open_store(), code, session.owner())
    words, icon = ("Measure this plan", "speed") if missing else ("Hand in this plan", "send")
    words, icon = ("On the board", "check") if there else (words, icon)
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button(
            words,
            key="class-hand-in",
            type="secondary" if there else "primary",
            icon=f":material/{icon}:",
            disabled=there or not plan.kept or any(_measured(subject, one, how).active for one, how in missing),
        ):
            _press(subject, task, code, plan, repair, missing)
            st.rerun()
        frame.link("Tune", "Change it on Tune")
    for one, how in missing:
        again = lambda one=one, how=how: work.again("evaluate_plan", subject, plan=one.to_json(), repair=how)  # noqa: E731
        words = "Measuring your plan" if one is plan else "Measuring the whole network"
        work.progress(_measured(subject, one, how), words, retry=again, key=f"class-{one.key}")
    if not plan.kept:
        st.caption("Your plan removes nothing yet: drag the widths on the page Tune, then come back.")
    elif not missing:
        _own_numbers(subject, task, plan, repair)


def _press(
    subject: Subject, task: Assignment, code: str, plan: Plan, repair: str, missing: list[tuple[Plan, str]]
) -> None:
    try:
        for one, how in missing:
            if not _measured(subject, one, how).active:  # stopped by hand, or failed
                work.again("evaluate_plan", subject, plan=one.to_json(), repair=how)
            _measured(subject, one, how, start=True)
        if not missing:
            told = measured_plan(open_store(), subject, task, plan, repair)
            new = hand_in(open_store(), code, session.owner(), plan_name(plan, repair), told)
            session.notify_done("Your plan is on the board." if new else "This very plan is on the board already.")
    except CoreError as error:
        session.notify(str(error))


def _own_numbers(subject: Subject, task: Assignment, plan: Plan, repair: str) -> None:
    try:
        told = measured_plan(open_store(), subject, task, plan, repair)
    except CoreError as error:
        st.warning(str(error), icon=":material/info:")
        return
    cost = task.budget[0]
    lost = told["dense"]["value"] - told["value"]
    verdict = ":material/check_circle: goal met" if told["passed"] else ":material/cancel: goal not met yet"
    st.markdown(
        f"Measured: **{tables.percent(told['value'])}** right ({tables.points(-lost)} points), "
        f"**{tables.percent(told['shares'][cost])}** of the {classroom_board.COST_WORDS[cost]}. {verdict}"
    )
