"""One scan of page 3: what it starts from, the job that measures it, where its curves come from, and ways out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

from core import CoreError, Plan, Sensitivity, Subject, is_shipped, list_criteria, scan_scope
from core.keep.workspace import Workspace
from pages.components import choices, classroom_rules, session, tables, work

CRITERIA = {row.name: row for row in list_criteria()}
SEEN, FROM = "scan_criterion", "scan_from"
DENSE, PLAN = "dense", "plan"
STARTS = {DENSE: "The dense network", PLAN: "My plan"}
MEASURED_NOW = "scan_measured_now"


@dataclass(frozen=True)
class Asked:
    """Which scan the page shows. ``plan``: what it starts from, None = the dense network."""

    subject: Subject
    criterion: str
    plan: Plan | None = None

    @property
    def arguments(self) -> dict[str, str]:
        """What names the scan; scans of the dense network go by their criterion alone."""
        start = {} if self.plan is None else {"plan": self.plan.to_json()}
        return {"criterion": self.criterion, **start}

    @property
    def mark(self) -> list[str]:
        return [self.subject.key, self.criterion, "" if self.plan is None else self.plan.key]

    @property
    def start_words(self) -> str:
        return "the dense network" if self.plan is None else "my plan"


def choose(record: Workspace, subject: Subject) -> Asked:
    """The criterion whose lowest scores leave, and the network the removals start from."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        name = choices.chosen(SEEN, list(CRITERIA), work.criterion(record))
        st.selectbox(
            "Which channels leave first",
            list(CRITERIA),
            format_func=lambda name: CRITERIA[name].title,
            key=f"menu_{SEEN}",
            on_change=choices.remember,
            args=(SEEN,),
            width=420,
            help="The importance criterion: the lowest scores leave first. Every criterion has curves of its own.",
        )
        begin = choices.segments(FROM, "Each group alone, starting from", STARTS, DENSE)
    if begin == DENSE:
        return Asked(subject, name)
    plan = work.plan(record, subject)
    kept = plan.kept if plan is not None else {}
    if plan is None or not any(len(units) < subject.trace.group(group).units for group, units in kept.items()):
        why = "its scores are not known yet" if plan is None else "it removes nothing yet: set widths on page Tune"
        st.info(f"Your plan cannot be the start: {why}. These are the curves of the dense network.")
        return Asked(subject, name)
    return Asked(subject, name, plan)


def start(asked: Asked) -> None:
    """Begin a scan, or go on with one that was stopped. Not where a teacher holds scans still."""
    if classroom_rules.frozen("scan"):
        session.notify(f"No scan was started. {classroom_rules.REASON}")
        return
    stopped = work.ensure("scan", asked.subject, start=False, **asked.arguments).result
    work.again("scan", asked.subject, **asked.arguments)
    work.ensure("scan", asked.subject, resume=stopped, **asked.arguments)
    session.set_temporary(MEASURED_NOW, [*session.temporary(MEASURED_NOW, []), asked.mark])


def _anew(asked: Asked) -> None:
    """Scan in place of a stored result that cannot be read."""
    work.forget("scan", asked.subject, **asked.arguments)
    start(asked)


def invite(asked: Asked) -> None:
    """Before there is a scan: what it will do, and one button."""
    rest = "leaves everything else dense" if asked.plan is None else "leaves everything else as your plan has it"
    with st.container(border=True):
        if asked.plan is None:
            st.markdown(f"**No curves for this network by {CRITERIA[asked.criterion].title} yet.**")
        else:
            st.markdown(f"**No curves that start from your plan as it is now, by {CRITERIA[asked.criterion].title}.**")
        st.markdown(
            f"A scan removes channels from one group at a time, {rest}, and measures how many images are still right. "
            "You can go on working meanwhile, and stop it whenever you have seen enough."
        )
        st.button(
            f"Scan {scan_words(asked.subject)}",
            key="start_scan",
            type="primary",
            icon=":material/play_arrow:",
            on_click=start,
            args=(asked,),
            disabled=classroom_rules.frozen("scan"),
        )
        classroom_rules.tell("scan")


def scan_words(subject: Subject) -> str:
    """ "8 groups × 7 widths on 360 selection images" """
    scope = scan_scope(subject)
    return (
        f"{tables.plural(scope.groups, 'group')} × {tables.plural(scope.widths, 'width')} "
        f"on {tables.plural(scope.images, 'selection image')}"
    )


def read(asked: Asked, found: work.Work) -> Sensitivity | None:
    """The curves there are so far. A stored scan that cannot be read: says so, and offers to scan again."""
    if found.result is None:
        return None
    try:
        return Sensitivity.from_dict(found.result)
    except CoreError as error:
        st.error(str(error), icon=":material/error:")
        st.button(
            "Scan again",
            key="scan_anew",
            type="primary",
            icon=":material/replay:",
            on_click=_anew,
            args=(asked,),
            help="The stored result is thrown away and measured anew.",
        )
        return None


def tell_origin(asked: Asked, sensitivity: Sensitivity, found: work.Work) -> None:
    """Where the curves come from and what they stand on."""
    if found.active:
        origin = ":orange-badge[:material/timelapse: being measured now]"
    elif not sensitivity.complete:
        origin = ":orange-badge[:material/stop_circle: stopped early]"
    elif is_shipped("scan", asked.subject, **asked.arguments):
        origin = ":blue-badge[:material/inventory_2: shipped with this demo]"
    elif asked.mark in session.temporary(MEASURED_NOW, []):
        origin = ":green-badge[:material/check: measured just now]"
    else:
        origin = ":green-badge[:material/database: measured earlier, from the store]"
    if asked.plan is not None:
        origin += " :violet-badge[:material/alt_route: from my plan]"
    scope = scan_scope(asked.subject)
    images = f"{sensitivity.dense.images:,} of {scope.images:,}"
    if sensitivity.dense.images == scope.images:
        images = f"{scope.images:,}"
    base = "Dense network" if asked.plan is None else "The plan's network, as cut"
    st.markdown(
        f"{origin} {len(sensitivity.points)} of {tables.plural(scope.groups, 'group')} on {images} selection images of "
        f"{asked.subject.data.name}, drawn by seed {scope.seed}. Lowest {CRITERIA[asked.criterion].title} leaves "
        f"first. {base}: {tables.percent(sensitivity.dense.accuracy)} "
        f"[{tables.interval(sensitivity.dense.low, sensitivity.dense.high)}]."
    )


def file_name(asked: Asked) -> str:
    named: list[Any] = [asked.subject.loaded.name.replace("/", "-"), asked.criterion]
    return "-".join(named + ([asked.plan.key[:8]] if asked.plan is not None else []))
