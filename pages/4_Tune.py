"""The tuning desk: drag the widths, and accuracy, latency and cost answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import streamlit as st

from core import (
    AS_CUT,
    CoreError,
    Plan,
    Reason,
    collapsed,
    count_cost,
    plan_reasons,
    reasons_csv,
)
from core.keep.workspace import NamedPlan, Workspace, made_how
from pages.components import charts, choices, desk_tools, downloads, frame, moves, session, tables, work
from pages.components.desk import Desk, cells, equaliser_rows, equaliser_terms, gather, state_of
from pages.components.desk_charts import curve_figure, plan_figure
from pages.components.equaliser import equaliser, handled
from pages.components.headline import headline_strip

LEAD = "Drag a bar to take channels away. Estimates follow your hand; the plan is measured as soon as you let go."
NAME, PLANS, CURVES, WHY = "tune_name", "tune_plans", "tune_curves", "tune_why"
DRAWN, HURT = "tune_drawn", "tune_hurt"
HEARD = ("headline", "equaliser")  # who carries what the bars say


def main() -> None:
    with frame.page("Tune", LEAD) as (record, subject):
        moves.open_with_a_plan(record, subject)
        tune()


@st.fragment
def tune() -> None:
    """All that a plan changes. The fragment runs by itself, on a release soon after the headline has answered it."""
    try:
        desk = look()
        session.set_temporary(DRAWN, state_of(desk, hurt(desk)))
        draw(desk)
    except CoreError as error:
        st.error(str(error), icon=":material/error:")


def look() -> Desk:
    record = session.workspace()
    subject = work.subject(record)
    return gather(moves.open_with_a_plan(record, subject), subject)


@st.fragment
def numbers(given: list[Desk]) -> None:
    """What a release changes first, and what changes while something is measured: the headline and how far it is. Runs
    by itself; what stands around it is drawn anew a moment later. ``given``: what its surroundings know, on the run in
    which they draw it."""
    try:
        desk = given.pop() if given else look()
        state = state_of(desk, hurt(desk))
        behind = session.temporary(DRAWN) != state or session.has_notice()
        headline_strip(
            cells(desk),
            key="headline",
            pending=desk.pending,
            poll_ms=desk.poll_ms,
            redraw=state if behind else "",
            ack=handled(*HEARD),
            loss_scale=desk.correction.scale,
            on_edit=moves.on_edit,
        )
        tell_failures(desk)
        noted = note(desk)
        if noted.revision == desk.record.revision + 1 and not behind:  # nothing around shows what was noted
            session.set_temporary(DRAWN, state_of(replace(desk, record=noted), hurt(desk)))
    except CoreError as error:
        st.error(str(error), icon=":material/error:")


def note(desk: Desk) -> Workspace:
    """Remember what was measured of the plan, once; the workspace after it."""
    if desk.plan is None or desk.meaningless or desk.pending_plan:
        return desk.record
    repair = work.repair(desk.record, desk.plan)
    return moves.note_plan(desk.subject, desk.plan, repair, desk.measured, made_how(desk.record))


def draw(desk: Desk) -> None:
    """What answers a hand is drawn first, wherever it stands: a release waits for the numbers and the bars."""
    numbers([desk])
    above = st.container(key="tune-above")
    bars(desk)
    with above:
        notice = session.take_notice()
        if notice:
            st.warning(notice, icon=":material/info:")
        desk_tools.tools(desk)
    if hurt(desk) and work.repair(desk.record, desk.plan) == AS_CUT:
        st.caption(
            ":material/healing: As cut, this plan loses much. A repair, chosen above the bars, rebuilds the weights "
            "that stay from calibration images and may win it back."
        )
    if desk.record.pinned:
        st.caption(f":material/push_pin: {PINNED}")
    left, right = st.columns([5, 6], gap="large")
    with left:
        curve(desk)
    with right:
        plans(desk)
    why(desk)


def hurt(desk: Desk) -> bool:
    """Whether the plan loses much; until it is measured, whether the one before did, so that a hint stays in place."""
    of, lost = session.temporary(HURT, ("", False))
    if "accuracy" in desk.measured:
        lost = collapsed(desk.measured, desk.dense)
        session.set_temporary(HURT, (desk.subject.key, lost))
        return lost
    return bool(lost) and of == desk.subject.key


def bars(desk: Desk) -> None:
    dense = desk.curves.dense.accuracy if desk.curves is not None and not desk.meaningless else None
    equaliser(
        equaliser_rows(desk),
        key="equaliser",
        rev=session.equaliser_rev(),
        ack=handled(*HEARD),
        selected=selected(desk),
        dense_accuracy=dense,
        chance=desk.subject.chance,
        loss_scale=desk.correction.scale,
        cost=equaliser_terms(desk),
        snap=desk_tools.snap(),
        strip=False,
        picture=charts.picture_format(),
        on_edit=moves.on_edit,
        on_pick=session.select_group,
        on_command=moves.on_command,
    )


def selected(desk: Desk) -> str:
    """The group picked last on any page; the first that moves until then."""
    groups = {group.id: group for group in desk.subject.trace.coupled}
    if desk.record.selected_group in groups:
        return desk.record.selected_group
    return next((group.id for group in desk.subject.trace.prunable), "")


def tell_failures(desk: Desk) -> None:
    """What is under way and worth waiting for, and what went wrong with a way to try again."""
    for name, job in desk.jobs.items():
        ended_badly = job.work.job is not None and job.work.job.state in {"failed", "cancelled"}
        if ended_badly or (name == "curves" and job.work.active):
            work.progress(job.work, job.title, retry=job.retry, key=f"tune-{name}")


PINNED = (
    "The channels of this plan were chosen by name; they stay so in every group whose bar you do not move. In a group "
    "that you move, and once you choose another criterion, the criterion chooses."
)


def curve(desk: Desk) -> None:
    """The selected group's own curve with where its bar stands, or the whole plan on all curves."""
    group_id = selected(desk)
    if desk.curves is None or not desk.curves.points:
        return
    if choices.segments(CURVES, "Curves", {"one": "Selected group", "all": "The plan on all curves"}) == "all":
        st.plotly_chart(
            plan_figure(desk, group_id),
            key="tune-all",
            config=charts.config("plan-on-curves"),
            on_select=pick_curve,
            selection_mode="points",
        )
    elif group_id in desk.curves.points:
        st.plotly_chart(curve_figure(desk, group_id), key="tune-curve", config=charts.config("curve"))


def pick_curve() -> None:
    """A click on a curve selects its group on every page."""
    points = (session.widget_value("tune-all") or {}).get("selection", {}).get("points", [])
    if points and points[0].get("customdata"):
        session.select_group(str(points[0]["customdata"][0]))


def why(desk: Desk) -> None:
    """A reason per group: what it loses alone, what that saves, what the next step would cost. On request: it prices
    the plan once per group, and a drag waits for all that is drawn."""
    if not choices.switch(WHY, "Why these widths: a reason per group"):
        return
    curves = None if desk.meaningless else desk.curves
    rows = plan_reasons(desk.subject.trace, curves, desk.record.removed, desk.record.locked)
    wide = {"Why": st.column_config.TextColumn(width="large")}
    height = min(420, 38 + 35 * len(rows))
    st.dataframe(reason_table(rows), hide_index=True, width="stretch", height=height, column_config=wide)
    downloads.csv("Reasons as CSV", lambda: reasons_csv(rows), f"reasons-{desk.subject.loaded.name}")


def reason_table(rows: list[Reason]) -> dict[str, list[Any]]:
    return {
        "Group": [row.name for row in rows],
        "Kept": [f"{row.kept} of {row.units}" for row in rows],
        "Alone": [tables.MISSING if row.lost is None else tables.points(-row.lost) for row in rows],
        "Saves": [tables.percent(row.saves, 0) for row in rows],
        "Why": [row.text for row in rows],
    }


def plans(desk: Desk) -> None:
    st.markdown("##### Plans")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.text_input("Name", key=NAME, placeholder="Name this plan", label_visibility="collapsed", max_chars=80)
        st.button("Save", icon=":material/bookmark_add:", key="save-plan", on_click=save)
    named = [plan for plan in desk.record.plans if plan.plan and plan.model_source == desk.record.model_source]
    if not named:
        st.caption("Plans you save are listed here with what was measured of them.")
        return
    picked = st.dataframe(
        [plan_row(desk, plan) for plan in named],
        key=PLANS,
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        width="stretch",
    )["selection"]["rows"]
    name = named[picked[0]].name if picked and picked[0] < len(named) else ""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Restore", key="restore-plan", on_click=moves.restore_plan, args=(name,), disabled=not name)
        st.button("Remove", key="remove-plan", on_click=moves.remove_plan, args=(name,), disabled=not name)
        frame.link("Compare", "Compare plans")


def save() -> None:
    moves.save_plan(session.widget_value(NAME) or "")
    session.set_widget_value(NAME, "")


def plan_row(desk: Desk, plan: NamedPlan) -> dict[str, Any]:
    """One named plan: costs exact, accuracy and latency as measured."""
    cost = count_cost(desk.subject.trace, Plan.from_json(plan.plan))
    found = work.measured(desk.record, desk.subject, Plan.from_json(plan.plan))
    accuracy, latency = found.get("accuracy"), found.get("latency")
    return {
        "Plan": plan.name,
        "Accuracy": tables.percent(accuracy["value"]) if accuracy and not desk.meaningless else tables.MISSING,
        "Latency": tables.ms(latency["median_ms"]) if latency else tables.MISSING,
        "MACs": tables.count(cost.macs),
        "Parameters": tables.count(cost.params),
    }


main()
