"""The tuning desk: drag the widths, and accuracy, latency and cost answer."""

from __future__ import annotations

from typing import Any

import streamlit as st

from core import (
    AS_CUT,
    START_PLANS,
    CoreError,
    Plan,
    Reason,
    StartPlan,
    collapsed,
    count_cost,
    has_network,
    list_criteria,
    plan_reasons,
    reasons_csv,
)
from core.keep.workspace import NamedPlan, made_how, overrides
from pages.components import charts, choices, classroom_rules, downloads, frame, moves, session, tables, work
from pages.components.desk import (
    Desk,
    cells,
    equaliser_rows,
    equaliser_terms,
    gather,
    state_of,
)
from pages.components.desk_charts import curve_figure, plan_figure
from pages.components.equaliser import equaliser
from pages.components.headline import headline_strip

LEAD = "Drag a bar to take channels away. Estimates follow your hand; the plan is measured as soon as you let go."
CRITERIA = {row.name: row for row in list_criteria()}
SNAPS = {1: "any width", 2: "multiples of 2", 4: "multiples of 4", 8: "multiples of 8", 16: "multiples of 16"}
NEEDS = {
    "scores": "Waits until the channels are scored.",
    "curves": "Waits until the curves are measured.",
    "proposal": "Waits until whole plans have been measured to find it.",
    "latency": "Waits until the layers are timed on this machine.",
}
CRITERION, SNAP, EVEN, NAME, PLANS = "tune_criterion", "tune_snap", "tune_even", "tune_name", "tune_plans"
REPAIR, SIZE, CURVES, WHY, DRAWN = "tune_repair", "tune_size", "tune_curves", "tune_why", "tune_drawn"


def main() -> None:
    with frame.page("Tune", LEAD) as (record, subject):
        moves.open_with_a_plan(record, subject)
        tune()


@st.fragment
def tune() -> None:
    """All that a drag changes. The fragment runs by itself on every release."""
    try:
        desk = look()
        session.set_temporary(DRAWN, state_of(desk))
        draw(desk)
    except CoreError as error:
        st.error(str(error), icon=":material/error:")


def look() -> Desk:
    record = session.workspace()
    subject = work.subject(record)
    return gather(moves.open_with_a_plan(record, subject), subject)


@st.fragment
def numbers(given: list[Desk]) -> None:
    """What changes while something is measured: the headline and how far it is. Runs by itself until all is known.
    ``given``: what its surroundings know, on the run in which they draw it."""
    try:
        desk = given.pop() if given else look()
        now = state_of(desk)
        redraw = "" if session.temporary(DRAWN) == now else now
        headline_strip(cells(desk), key="headline", pending=desk.pending, poll_ms=desk.poll_ms, redraw=redraw)
        tell_failures(desk)
        if desk.plan is not None and not desk.meaningless and not desk.pending_plan:
            repair = work.repair(desk.record, desk.plan)
            moves.note_plan(desk.subject, desk.plan, repair, desk.measured, made_how(desk.record))
    except CoreError as error:
        st.error(str(error), icon=":material/error:")


def draw(desk: Desk) -> None:
    """What answers a hand is drawn first, wherever it stands: a release waits for the numbers and the bars."""
    numbers([desk])
    above = st.container(key="tune-above")
    bars(desk)
    with above:
        notice = session.take_notice()
        if notice:
            st.warning(notice, icon=":material/info:")
        tools(desk)
    if collapsed(desk.measured, desk.dense) and work.repair(desk.record, desk.plan) == AS_CUT:
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


def bars(desk: Desk) -> None:
    dense = desk.curves.dense.accuracy if desk.curves is not None and not desk.meaningless else None
    equaliser(
        equaliser_rows(desk),
        key="equaliser",
        rev=session.equaliser_rev(),
        selected=selected(desk),
        dense_accuracy=dense,
        chance=desk.subject.chance,
        loss_scale=desk.correction.scale,
        cost=equaliser_terms(desk),
        snap=session.choice(SNAP, 1),
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
            with st.popover("Start from a plan", icon=":material/auto_awesome:"):
                start_plans(desk)
        elif not classroom_rules.hidden("starts"):
            st.button(
                "Start from a plan", icon=":material/lock:", disabled=True, key="starts", help=classroom_rules.REASON
            )
        with st.popover("Settings", icon=":material/settings:"):
            settings(desk)


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


PINNED = (
    "The channels of this plan were chosen by name; they stay so in every group whose bar you do not move. In a group "
    "that you move, and once you choose another criterion, the criterion chooses."
)
DENSE_HELP = "Put every channel back. One step of undo."


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
    session.set_widget_value(SNAP, session.choice(SNAP, 1))
    st.selectbox(
        "Bars snap to",
        list(SNAPS),
        format_func=SNAPS.__getitem__,
        key=SNAP,
        on_change=lambda: session.choose(**{SNAP: session.widget_value(SNAP)}),
        help="Many kernels are fastest at widths that are multiples of 8 or 16.",
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
        with curve_figure(desk, group_id) as figure:
            st.plotly_chart(figure, key="tune-curve", config=charts.config("curve"))


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
