"""Where the named plans came from: a tree with notes, and what can be done with each."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape

import streamlit as st

from core import Plan, Subject, count_cost
from core.keep.workspace import MAX_NOTE, NamedPlan, Workspace, plan_tree
from pages.components import moves, session, tables, work

PICKED, NAME, NOTE = "origins_plan", "origins_name", "origins_note"


def own_plans(record: Workspace) -> list[NamedPlan]:
    """The named plans of the network that is open."""
    return [plan for plan in record.plans if plan.plan and plan.model_source == record.model_source]


def tree(record: Workspace, subject: Subject, *, meaningless: bool) -> None:
    """Every named plan under the one it grew from, with its figures and its note."""
    plans = own_plans(record)
    if not plans:
        st.caption("No plan has a name yet. Name one on the page Tune; it is kept here with what was measured of it.")
        return
    lines = ['<li style="--depth:0"><span class="name">Dense network</span></li>']
    for plan, depth in plan_tree(plans):
        here = " here" if plan.name == record.current_plan else ""
        lines.append(
            f'<li class="{here}" style="--depth:{depth + 1}"><span class="name">{escape(plan.name)}</span>'
            f'<span class="figures">{escape(figures(record, subject, plan, meaningless))}</span>'
            f'<span class="how">{escape(origin(plan))}</span>'
            + (f'<span class="note">{escape(plan.note)}</span>' if plan.note else "")
            + "</li>"
        )
    st.html(f'<ul class="ps-tree">{"".join(lines)}</ul>')


def figures(record: Workspace, subject: Subject, plan: NamedPlan, meaningless: bool) -> str:
    """ "97.5 %, −62 % MACs, 0.41 ms" """
    units = Plan.from_json(plan.plan)
    found = work.measured(record, subject, units)
    parts = []
    if "accuracy" in found and not meaningless:
        parts.append(tables.percent(found["accuracy"]["value"]))
    cost, dense = count_cost(subject.trace, units), count_cost(subject.trace)
    parts.append(f"{tables.relative(cost.macs, dense.macs) or 'all'} MACs")
    if "latency" in found:
        parts.append(tables.ms(found["latency"]["median_ms"]))
    return ", ".join(parts)


def origin(plan: NamedPlan) -> str:
    when = datetime.fromtimestamp(plan.created, UTC).isoformat(timespec="seconds") if plan.created else ""
    return " · ".join(part for part in (plan.how, tables.moment(when) if when else "") if part)


def edit(record: Workspace) -> None:
    """Pick a plan: put it on the desk, rename it, write a note, remove it."""
    plans = {plan.name: plan for plan in own_plans(record)}
    if not plans:
        return
    picked = session.widget_value(PICKED)
    if picked not in plans:
        picked = record.current_plan if record.current_plan in plans else next(reversed(plans))
        session.set_widget_value(PICKED, picked)
        fill(plans[picked])
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox("Plan", list(plans), key=PICKED, width=260, on_change=refill)
        st.button("Put on the desk", icon=":material/tune:", on_click=moves.restore_plan, args=(picked,))
        with st.popover("Name and note", icon=":material/edit_note:"):
            if session.widget_value(NAME) is None:
                fill(plans[picked])
            st.text_input("Name", key=NAME, max_chars=80)
            st.text_area("Note", key=NOTE, max_chars=MAX_NOTE, height=120)
            st.button("Save", key="describe-plan", on_click=describe, args=(picked,))
        st.button("Remove", icon=":material/delete:", on_click=moves.remove_plan, args=(picked,))


def fill(plan: NamedPlan) -> None:
    session.set_widget_value(NAME, plan.name)
    session.set_widget_value(NOTE, plan.note)


def refill() -> None:
    plans = {plan.name: plan for plan in session.workspace().plans}
    picked = session.widget_value(PICKED)
    if picked in plans:
        fill(plans[picked])


def describe(name: str) -> None:
    new_name, note = session.widget_value(NAME) or "", session.widget_value(NOTE) or ""
    if moves.describe_plan(name, new_name, note):
        session.set_widget_value(PICKED, new_name.strip())
