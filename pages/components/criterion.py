"""Choosing an importance criterion, and the scores it gives."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from core import Scores, Subject, list_criteria
from core.keep.workspace import Workspace
from core.work.jobs import open_jobs
from pages.components import classroom_rules, session, work

CRITERIA = {row.name: row for row in list_criteria()}
SEEN, MENU = "channels_criterion", "channels_menu"
BESIDE, BESIDE_MENU, NONE = "channels_beside", "channels_beside_menu", ""
POLLING = "channels_polling"
SOON_S = 0.4  # weight criteria are ready by then, so no progress bar flashes up


def choose_criterion(record: Workspace) -> str:
    """The menu of criteria with what the chosen one measures, and whether plans use it."""
    in_use = work.criterion(record)
    seen = session.choice(SEEN) or in_use
    session.set_widget_value(MENU, seen if seen in CRITERIA else next(iter(CRITERIA)))
    left, right = st.columns([5, 6], gap="large")
    with left:
        name: str = st.selectbox(
            "Importance criterion",
            list(CRITERIA),
            format_func=lambda name: CRITERIA[name].title,
            key=MENU,
            on_change=lambda: session.choose(**{SEEN: session.widget_value(MENU)}),
        )
        st.markdown(CRITERIA[name].summary)
        st.caption(f"Source: {CRITERIA[name].source}")
    with right:
        if CRITERIA[name].formula:
            st.latex(CRITERIA[name].formula)
        if name == in_use:
            st.markdown(":blue-badge[:material/check: Plans use this criterion]")
        elif classroom_rules.frozen("criterion"):
            classroom_rules.tell("criterion")
        else:
            said = f"Plans use {CRITERIA[in_use].title if in_use in CRITERIA else in_use}."
            st.button(
                "Use this criterion for plans",
                key="use_criterion",
                icon=":material/done:",
                help=f"{said} Widths stay as they are; which channels leave, and the curves, follow the criterion.",
                on_click=lambda: session.update(lambda now: replace(now, criterion=name)),
            )
            st.caption(said)
    return name


def choose_beside(criterion: str) -> str:
    """The menu of a second criterion to set beside the first; "" for none."""
    others = [NONE, *(name for name in CRITERIA if name != criterion)]
    seen = session.choice(BESIDE, NONE)
    session.set_widget_value(BESIDE_MENU, seen if seen in others else NONE)
    left, _ = st.columns([5, 6], gap="large")
    name: str = left.selectbox(
        "Compare with",
        others,
        format_func=lambda name: CRITERIA[name].title if name else "no other criterion",
        key=BESIDE_MENU,
        help="Puts the map of a second criterion beside this one, with how alike both rank each group's channels.",
        on_change=lambda: session.choose(**{BESIDE: session.widget_value(BESIDE_MENU)}),
    )
    return name


def ensure_scores(subject: Subject, criterion: str, slot: str = "channels") -> work.Work:
    """Scores of ``criterion``, or the job that makes them."""
    found = work.ensure("score", subject, slot=slot, criterion=criterion)
    if found.active and found.job is not None:
        open_jobs().wait(found.job.id, SOON_S)
        found = work.ensure("score", subject, slot=slot, criterion=criterion)
    return found


def wait_for_scores(subject: Subject, criterion: str, slot: str = "channels") -> None:
    """Progress until the scores are there; then the page is drawn again."""
    title = CRITERIA[criterion].title
    found = work.ensure("score", subject, slot=slot, criterion=criterion)
    if found.done:
        st.rerun()
    work.progress(
        found,
        f"Scoring by {title}",
        retry=lambda: work.again("score", subject, criterion=criterion),
        key=f"score{slot}",
    )
    if found.active:
        st.caption("The map appears here as soon as the scores are known.")
    if found.active != session.temporary(POLLING + slot):
        st.rerun()  # begins or ends the polling


def follow_scores(subject: Subject, criterion: str, active: bool, slot: str = "channels") -> None:
    """``wait_for_scores`` in a part of the page of its own, drawn again while the job is under way."""
    session.set_temporary(POLLING + slot, active)
    st.fragment(run_every=work.poll(active))(wait_for_scores)(subject, criterion, slot)


def known_scores(subject: Subject, criterion: str, found: work.Work) -> Scores:
    """The scores that ``ensure_scores`` found."""
    kept: Scores | None = work.known("score", subject, Scores.from_dict, criterion=criterion)
    return kept if kept is not None else Scores.from_dict(found.result)


def scope_text(scores: Scores, subject: Subject) -> str:
    """On what the scores were computed."""
    if not scores.images_used:
        return "Computed from the weights alone; no images."
    said = f"Computed on {scores.images_used:,} calibration images of {subject.data.name}."
    return said if subject.real_images else said + " They are random, so these scores mean nothing."
