"""Plans side by side: what they cost, what they get right, where their answers differ, and where they came from."""

from __future__ import annotations

import streamlit as st

from core import CoreError, Subject
from core.keep.workspace import Workspace
from pages.components import compare, frame, moves, origins, session, work
from pages.components.desk import why_meaningless

LEAD = "Put plans side by side: what each costs and gets right, and where their answers part."
POLLING = "compare_polling"


def show() -> None:
    """All of it. While a plan is measured it is drawn again and again."""
    try:
        record = session.workspace()
        subject = work.subject(record)
        names = compare.choose(record)
        found = compare.entries(record, subject, names)
        under_way = any(one.work.active for one in found)
        if under_way != session.temporary(POLLING):
            session.set_temporary(POLLING, under_way)
            st.rerun()  # begins or ends the polling
        for one in found:
            if one.work.done:
                record = moves.note_plan(subject, one.plan, one.repair, one.found, one.name)
        draw(record, subject, found, why_meaningless(subject))
    except CoreError as error:
        st.error(str(error), icon=":material/error:")


def draw(record: Workspace, subject: Subject, found: list[compare.Entry], meaningless: str) -> None:
    compare.follow(subject, found)
    if found:
        drawn = compare.drawn_as(found)
        compare.numbers_table(subject, found, drawn, meaningless)
        left, right = st.columns(2, gap="large")
        with left:
            if meaningless:
                st.caption(f"{meaningless} There is no accuracy to draw over cost.")
            else:
                compare.front(record, subject, found, drawn)
        with right:
            compare.widths(record, subject, found, drawn)
        if not meaningless:
            left, right = st.columns(2, gap="large")
            with left:
                compare.classes(subject, found, drawn)
            with right:
                compare.flips(subject, found)
    else:
        st.caption("Choose at least one plan.")
    st.subheader("Where the plans came from", anchor=False)
    origins.tree(record, subject, meaningless=bool(meaningless))
    origins.edit(record)


with frame.page("Compare", LEAD) as (_, subject):
    for sentence in work.caveats(subject):
        st.warning(sentence, icon=":material/warning:")
    st.fragment(run_every=work.poll(bool(session.temporary(POLLING))))(show)()
