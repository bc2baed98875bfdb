"""The challenge: the plan on the desk, held against a lesson's goal. Accuracies are compared on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st

from core import AS_CUT, Cost, LessonStep, Plan, Subject, count_cost, goal_met
from core.keep.workspace import Workspace
from pages.components import classroom_rules, frame, tables, work

DENSE = Plan({}).to_json()
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
    network and of the whole one on the same images; None until both are measured. ``measuring``: the job that measures
    the whole network, if one is needed."""

    now: Cost | None
    dense: Cost
    accuracy: float | None
    whole: float | None
    measuring: work.Work | None

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
        return Judged(now, dense, None, None, None)
    whole = work.ensure("evaluate_plan", subject, plan=DENSE, repair=AS_CUT)
    found = (whole.result or {}).get("accuracy")
    if found is None or found["images"] != known["images"]:  # a part of the images is no ground to compare on
        return Judged(now, dense, None, None, whole)
    return Judged(now, dense, known["value"], found["value"], None)


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
        _missing(subject, judged, met)
    left, right, _ = st.columns([1, 1, 3])
    with left:
        frame.link("Tune")
    with right:
        frame.link("Recover")


def _missing(subject: Subject, judged: Judged, met: Mapping[str, bool | None]) -> None:
    if judged.measuring is not None and not judged.measuring.done:
        st.fragment(run_every=work.poll(judged.measuring.active))(_wait)(subject)
    elif met.get("accuracy_drop") is None and "accuracy_drop" in met:
        st.caption("Measure the plan's accuracy on the page Tune or Recover; then come back.")


def _wait(subject: Subject) -> None:
    found = work.ensure("evaluate_plan", subject, plan=DENSE, repair=AS_CUT)
    if found.done:
        st.rerun()
    retry = "evaluate_plan"
    work.progress(
        found,
        "Measuring the whole network on the same images",
        retry=lambda: work.again(retry, subject, plan=DENSE, repair=AS_CUT),
        key="lesson-whole",
    )


def _wanted(name: str, limit: float) -> str:
    return f"at most {100 * limit:.0f} {'points' if name == 'accuracy_drop' else '%'}"


def _value(name: str, judged: Judged) -> str:
    if name != "accuracy_drop":
        return tables.percent(getattr(judged.now, name) / getattr(judged.dense, name))
    if judged.accuracy is None or judged.whole is None:
        return ""
    return f"{100 * (judged.whole - judged.accuracy):.1f} points"
