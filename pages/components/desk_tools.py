"""The desk's tools: undo, redo and the way back, how the weights are repaired, plans to start from, settings."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from core import AS_CUT, START_PLANS, StartPlan, count_cost, has_network, list_criteria
from core.keep.workspace import overrides
from pages.components import classroom_rules, moves, session, tables, work
from pages.components.desk import Desk

CRITERIA = {row.name: row for row in list_criteria()}
SNAPS = {1: "any width", 2: "multiples of 2", 4: "multiples of 4", 8: "multiples of 8", 16: "multiples of 16"}
NEEDS = {
    "scores": "Waits until the channels are scored.",
    "curves": "Waits until the curves are measured.",
    "proposal": "Waits until whole plans have been measured to find it.",
    "latency": "Waits until the layers are timed on this machine.",
}
DENSE_HELP = "Put every channel back. One step of undo."
CRITERION, SNAP, EVEN, REPAIR, SIZE = "tune_criterion", "tune_snap", "tune_even", "tune_repair", "tune_size"
STARTS, SETTINGS = "tune_starts", "tune_settings"


def tools(desk: Desk) -> None:
    record = desk.record
    with st.container(horizontal=True, vertical_alignment="center", key="tune-tools"):
        st.button(
            "Undo", icon=":material/undo:", on_click=moves.on_command, args=("undo",), disabled=not record.can_undo
        )
        st.button(
            "Redo", icon=":material/redo:", on_click=moves.on_command, args=("redo",), disabled=not record.can_redo
        )
        untouched = not any(record.removed.values())
        st.button("Dense", icon=":material/restart_alt:", on_click=moves.set_dense, disabled=untouched, help=DENSE_HELP)
        moved = overrides(record)
        st.button(
            "Reset",  # always as wide: the bars below must not jump when the first one is moved
            icon=":material/settings_backup_restore:",
            on_click=moves.reset_overrides,
            disabled=not moved,
            help=f"{tables.plural(len(moved), 'bar') if moved else 'Bars'} that you moved go back to where the plan "
            "before had them. One step of undo.",
        )
        if not classroom_rules.hidden("recover"):
            repairs(desk)
        if not classroom_rules.frozen("starts"):
            unfolded("Start from a plan", ":material/auto_awesome:", STARTS, lambda: start_plans(desk))
        elif not classroom_rules.hidden("starts"):
            st.button(
                "Start from a plan", icon=":material/lock:", disabled=True, key="starts", help=classroom_rules.REASON
            )
        unfolded("Settings", ":material/settings:", SETTINGS, lambda: settings(desk))


def unfolded(label: str, icon: str, key: str, show: Callable[[], None]) -> None:
    """A popover that is filled when it is opened: with what it holds, a release would take twice the work."""
    popover = st.popover(label, icon=icon, key=key, on_change="rerun")
    if popover.open:
        with popover:
            show()


def repairs(desk: Desk) -> None:
    """How the smaller network is built once its channels have left; a network kept for this plan is offered first."""
    kept = work.kept_network(desk.record, desk.plan) if desk.plan is not None else None
    own = [kept["name"]] if kept is not None and has_network(kept["name"]) else []
    session.set_widget_value(REPAIR, work.repair(desk.record, desk.plan))

    def words(name: str) -> str:
        title = work.repair_words(desk.record, name)[0]
        return "No repair" if name == AS_CUT else f"Kept: {title}" if name in own else f"Repair: {title.lower()}"

    st.selectbox(
        "After the cut",
        [*own, *work.REPAIRS],
        format_func=words,
        key=REPAIR,
        label_visibility="collapsed",
        width=220,
        disabled=classroom_rules.frozen("recover"),
        on_change=lambda: moves.set_repair(session.widget_value(REPAIR)),
        help=classroom_rules.why("recover")
        or "  \n".join(f"**{row.title}**: {row.summary}" for row in work.REPAIRS.values()),
    )


def start_plans(desk: Desk) -> None:
    for plan in START_PLANS:
        missing = missing_need(desk, plan)
        st.button(
            plan.title,
            key=f"start-{plan.name}",
            help=NEEDS[missing] if missing else plan.help,
            on_click=moves.start_from,
            args=(plan,),
            disabled=bool(missing),
            width="stretch",
        )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        most = count_cost(desk.subject.trace).size_bytes / 2**20
        step = round(max(0.01, most / 20), 2)
        size = st.number_input("At most, MB", 0.01, None, round(most / 2, 2), step=step, key=SIZE)
        missing = next((need for need in ("scores", "curves") if not desk.knows(need)), "")
        st.button(
            "Start",
            key="start-size",
            on_click=moves.start_at_size,
            args=(size,),
            disabled=bool(missing),
            help=NEEDS[missing] if missing else "Parameters and buffers as stored, taken where they cost least.",
        )
    share = st.slider("The same share of every group", 0.0, 0.9, 0.5, 0.05, format="percent", key=EVEN)
    st.button(
        f"Remove {tables.percent(share, 0)} of every group",
        key="start-even",
        on_click=moves.set_even,
        args=(share,),
        disabled=not desk.subject.trace.prunable,
        width="stretch",
    )


def snap() -> int:
    """What bars snap to multiples of."""
    return int(session.choice(SNAP, 1))


def missing_need(desk: Desk, plan: StartPlan) -> str:
    return next((need for need in plan.needs if not desk.knows(need)), "")


def settings(desk: Desk) -> None:
    session.set_widget_value(CRITERION, work.criterion(desk.record))
    classroom_rules.tell("criterion")
    st.selectbox(
        "Which channels leave first",
        list(CRITERIA),
        format_func=lambda name: CRITERIA[name].title,
        key=CRITERION,
        disabled=classroom_rules.frozen("criterion"),
        on_change=lambda: moves.set_criterion(session.widget_value(CRITERION)),
        help="The importance criterion: in every group the lowest scores leave first. Widths stay as they are.",
    )
    st.caption(CRITERIA[work.criterion(desk.record)].summary)
    session.set_widget_value(SNAP, snap())
    st.selectbox(
        "Bars snap to",
        list(SNAPS),
        format_func=SNAPS.__getitem__,
        key=SNAP,
        on_change=lambda: session.choose(**{SNAP: session.widget_value(SNAP)}),
        help="Many kernels are fastest at widths that are multiples of 8 or 16.",
    )
