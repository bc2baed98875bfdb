"""The latency staircase of the selected group, under the curves; and the job that times this machine."""

from __future__ import annotations

import streamlit as st

from core import LatencyTable, Limit, Plan, Sensitivity, Staircase, Subject, latency_staircase, room
from pages.components import charts, curve_marks, tables, work

VERB = "latency_table"


@st.cache_data(max_entries=256, show_spinner=False)
def _stairs(
    _subject: Subject, _table: LatencyTable, _plan: Plan | None, key: tuple[object, ...], group_id: str
) -> Staircase:
    return latency_staircase(_subject.trace, group_id, _table, _plan)


def show(
    subject: Subject,
    sensitivity: Sensitivity,
    table: LatencyTable | None,
    limit: Limit,
    focus: str,
    plan: Plan | None = None,
) -> None:
    """The staircase of group ``focus``, all else as in ``plan``; without a table a button that measures one."""
    if table is None:
        _offer(subject)
        return
    name = subject.trace.group(focus).name
    name_of_all = (subject.key, table.knots, table.wall, table.device, table.threads, plan.key if plan else "")
    stairs = _stairs(subject, table, plan, name_of_all, focus)
    removed = room(subject.trace, sensitivity, focus, limit).removed
    st.plotly_chart(
        curve_marks.staircase(stairs, name, removed=removed, wall=None if plan else table.wall, rest=_rest(plan)),
        key="staircase",
        config=charts.config(f"staircase-{name}"),
        alt=f"Predicted time of the network against the removed share of {name}",
    )
    st.caption(
        f"{clock_words(table)} {stairs.gains.count(False)} of {len(stairs.kept)} widths gain nothing. The dotted line "
        "is the largest removal within the limit."
    )


def _rest(plan: Plan | None) -> str:
    return "the rest dense" if plan is None else "the rest as in the plan"


def clock_words(table: LatencyTable) -> str:
    """What the table's predictions are, what they stand on, and how right the last one was."""
    words = [f"Predicted wall-clock time of one forward pass: {tables.table_text(table)}, float32."]
    wall = table.wall
    if wall is None:
        return words[0] + " The sum of the times of single layers."
    words.append(
        "Added up from times of single layers and scaled to the dense network, which took "
        f"{tables.ms(wall.median_ms)} (quartiles {tables.ms(wall.low_ms)} to {tables.ms(wall.high_ms)} of "
        f"{tables.plural(wall.repeats, 'run')}) when it was last measured, {tables.moment(wall.when)}."
    )
    if wall.last is not None and wall.last.measured_ms != wall.median_ms:
        words.append(
            f"A plan measured then took {tables.ms(wall.last.measured_ms)} where {tables.ms(wall.last.foretold_ms)} "
            f"had been predicted ({tables.change(wall.last.off, 0)}); predictions are corrected for it."
        )
    return " ".join(words)


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
