"""The latency staircase of the selected group, under the curves; and the job that times this machine."""

from __future__ import annotations

import streamlit as st

from core import LatencyTable, Limit, Sensitivity, Staircase, Subject, latency_staircase, room
from pages.components import charts, curve_marks, tables, work

VERB = "latency_table"


@st.cache_data(max_entries=256, show_spinner=False)
def _stairs(_subject: Subject, _table: LatencyTable, key: tuple[object, ...], group_id: str) -> Staircase:
    return latency_staircase(_subject.trace, group_id, _table)


def known_table(subject: Subject) -> LatencyTable | None:
    """The times measured of this network on this machine, if there are any; never starts a job."""
    found: LatencyTable | None = work.known(VERB, subject, LatencyTable.from_dict)
    return found


def show(subject: Subject, sensitivity: Sensitivity, table: LatencyTable | None, limit: Limit, focus: str) -> None:
    """The staircase of group ``focus``; without a table a button that measures one."""
    if table is None:
        _offer(subject)
        return
    name = subject.trace.group(focus).name
    stairs = _stairs(subject, table, (subject.key, table.knots, table.device, table.threads), focus)
    removed = room(subject.trace, sensitivity, focus, limit).removed
    st.plotly_chart(
        curve_marks.staircase(stairs, name, removed=removed),
        key="staircase",
        config=charts.config(f"staircase-{name}"),
        alt=f"Predicted time of the network against the removed share of {name}",
    )
    st.caption(
        f"Predicted from times of single layers on {table.device}, {tables.plural(table.threads, 'thread')}, batch of "
        f"{table.batch}. {stairs.gains.count(False)} of {len(stairs.kept)} widths gain nothing. The dotted line is the "
        "largest removal within the limit."
    )


def _offer(subject: Subject) -> None:
    found = work.ensure(VERB, subject, start=False)
    if found.active:
        work.progress(found, "Timing the layers on this machine", key="stairs")
        return
    with st.container(border=True):
        st.markdown("**How quick is each width?** Times of this network's layers on this machine are not known yet.")
        if found.job is not None and found.job.state in ("failed", "cancelled"):
            st.info(found.job.error or "Timing the layers was cancelled.")
        st.button(
            "Time the layers on this machine",
            key="start_stairs",
            icon=":material/timer:",
            on_click=_start,
            args=(subject,),
            help="Some seconds for small networks, up to minutes for large ones. You can go on working meanwhile.",
        )


def _start(subject: Subject) -> None:
    work.again(VERB, subject)
    work.ensure(VERB, subject)
