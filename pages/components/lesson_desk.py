"""The challenge: the plan on the desk, held against a lesson's goal. Accuracies are compared on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from core import AS_CUT, Cost, Lesson, LessonStep, Plan, Subject, count_cost, goal_facts, goal_met
from core.keep.workspace import Workspace
from pages.components import classroom_rules, frame, tables, work

VERB, DENSE = "evaluate_plan", {"plan": Plan({}).to_json(), "repair": AS_CUT}
LIMITS = {
    "macs": "MACs that remain",
    "params": "Parameters that remain",
    "size_bytes": "Size that remains",
    "accuracy_drop": "Accuracy lost",
}
SAID = {True: "passed", False: "not yet", None: "not measured yet"}


@dataclass(frozen=True)
class Judged:
    """``now``: what the plan costs, None while its channels are not chosen yet. ``accuracy``, ``whole``: of the plan's
    network and of the whole one on the same images; None until both are measured. ``missing``: what is to be measured
    next, as the arguments of "evaluate_plan"; None when nothing is. ``job``: the one that measures it, if any."""

    now: Cost | None
    dense: Cost
    accuracy: float | None
    whole: float | None
    missing: Mapping[str, str] | None
    job: work.Work | None = None

    def met(self, goal: Mapping[str, float]) -> dict[str, bool | None]:
        if self.now is None:
            return dict.fromkeys(goal)
        return goal_met(goal, self.now, self.dense, self.accuracy, self.whole)


def judge_desk(record: Workspace, subject: Subject) -> Judged:
    """What is known of the plan on the desk. Where its accuracy is measured, the whole network's is asked for too."""
    plan, dense = work.plan(record, subject), count_cost(subject.trace)
    if plan is None:
        return Judged(None, dense, None, None, None)
    now, known = count_cost(subject.trace, plan), work.measured(record, subject, plan).get("accuracy")
    if known is None:
        missing = {"plan": plan.to_json(), "repair": work.repair(record, plan)}
        return Judged(now, dense, None, None, missing, work.ensure(VERB, subject, start=False, **missing))
    whole = work.ensure(VERB, subject, **DENSE)
    found = (whole.result or {}).get("accuracy")
    if found is None or found["images"] != known["images"]:  # a part of the images is no ground to compare on
        return Judged(now, dense, None, None, DENSE, whole)
    return Judged(now, dense, known["value"], found["value"], None)


def facts(record: Workspace, subject: Subject, lesson: Lesson) -> Mapping[str, Any]:
    """What a lesson on the desk's plan is filled with: the goal in force, the teacher's before the lesson's own, and
    where the plan stands."""
    own = next((step.goal for step in lesson.steps if step.goal), {})
    judged = judge_desk(record, subject)
    return goal_facts(classroom_rules.goal(own), judged.now, judged.dense, judged.accuracy, judged.whole)


def show(record: Workspace, subject: Subject, step: LessonStep) -> None:
    judged, goal = judge_desk(record, subject), classroom_rules.goal(step.goal)
    if judged.now is None:
        st.info("Waiting for the scores that say which channels leave; the page Tune measures them.")
    else:
        met = judged.met(goal)
        rows = [
            {"Goal": LIMITS[name], "Wanted": _wanted(name, limit), "Your plan": _value(name, judged),
             "Verdict": SAID[met[name]]}
            for name, limit in goal.items()
        ]  # fmt: skip
        st.dataframe(rows, hide_index=True, width="stretch")
        if "accuracy_drop" in met and judged.missing is not None:
            _missing(subject, judged.missing, judged.job)
    left, right, _ = st.columns([1, 1, 3])
    with left:
        frame.link("Tune")
    with right:
        frame.link("Recover")


def _missing(subject: Subject, missing: Mapping[str, str], found: work.Work | None) -> None:
    """How far the measurement is that is needed next; for the plan's own, the button that asks for it."""
    if found is not None and found.job is not None and not found.done:
        st.fragment(run_every=work.poll(found.active))(_wait)(subject, missing)
    elif missing != DENSE:
        st.button(
            "Measure this plan", icon=":material/speed:", key="lesson-measure", on_click=_measure,
            args=(subject, missing),
        )  # fmt: skip


def _measure(subject: Subject, missing: Mapping[str, str]) -> None:
    work.again(VERB, subject, **missing)  # it may have been stopped
    work.ensure(VERB, subject, **missing)


def _wait(subject: Subject, missing: Mapping[str, str]) -> None:
    found = work.ensure(VERB, subject, start=False, **missing)
    if found.done or found.job is None:  # there, or dropped for a newer plan of the page Tune
        st.rerun()
    what = "Measuring the whole network on the same images" if missing == DENSE else "Measuring your plan"
    work.progress(found, what, retry=lambda: _measure(subject, missing), key="lesson-measured")


def _wanted(name: str, limit: float) -> str:
    return f"at most {100 * limit:.0f} {'points' if name == 'accuracy_drop' else '%'}"


def _value(name: str, judged: Judged) -> str:
    if name != "accuracy_drop":
        return tables.percent(getattr(judged.now, name) / getattr(judged.dense, name))
    if judged.accuracy is None or judged.whole is None:
        return ""
    return f"{100 * (judged.whole - judged.accuracy):.1f} points"
