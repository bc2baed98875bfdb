"""What every channel is worth: a map of all groups by one criterion, and one group in detail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import streamlit as st

from core import (
    ChannelRow,
    CoreError,
    RankedUnit,
    Scores,
    Subject,
    channel_rows,
    list_criteria,
    member_rows,
    ranked_units,
    score_quantiles,
    scores_csv,
)
from core.jobs import open_jobs
from core.workspace import Workspace
from pages.components import charts, frame, session, tables, work
from pages.components.heatmap import Pick, heatmap

CRITERIA = {row.name: row for row in list_criteria()}
SEEN, CHANNEL, MENU, GROUP_MENU = "channels_criterion", "channel", "channels_menu", "channels_group"
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


def ensure_scores(subject: Subject, criterion: str) -> work.Work:
    """Scores of ``criterion``, or the job that makes them."""
    found = work.ensure("score", subject, slot="channels", criterion=criterion)
    if found.active and found.job is not None:
        open_jobs().wait(found.job.id, SOON_S)
        found = work.ensure("score", subject, slot="channels", criterion=criterion)
    return found


def wait_for_scores(subject: Subject, criterion: str) -> None:
    """Progress until the scores are there; then the page is drawn again."""
    title = CRITERIA[criterion].title
    found = work.ensure("score", subject, slot="channels", criterion=criterion)
    if found.done:
        st.rerun()
    work.progress(
        found, f"Scoring by {title}", retry=lambda: work.again("score", subject, criterion=criterion), key="score"
    )
    if found.active:
        st.caption("The map appears here as soon as the scores are known.")
    if found.active != session.temporary(POLLING):
        st.rerun()  # begins or ends the polling


def scope_text(scores: Scores, subject: Subject) -> str:
    """On what the scores were computed."""
    if not scores.images_used:
        return "Computed from the weights alone; no images."
    said = f"Computed on {scores.images_used:,} calibration images of {subject.data.name}."
    return said if subject.real_images else said + " They are random, so these scores mean nothing."


def show_map(record: Workspace, subject: Subject, scores: Scores, rows: list[ChannelRow]) -> None:
    title = CRITERIA[scores.criterion].title
    heatmap(
        [{"id": row.id, "name": row.name, "scores": row.scores, "pruned": row.pruned} for row in rows],
        key="channel_map",
        title=f"{title}: every channel of every prunable group",
        selected=selected_cell(record, scores, rows),
        on_pick=pick_cell,
    )
    st.caption(
        f"{scope_text(scores, subject)} Rows stand in network order. Criteria have different units: "
        "compare ranks within a group, never values of two criteria."
    )
    locked = [group for group in subject.trace.coupled if not group.prunable]
    if locked:
        with st.expander(f"{tables.plural(len(locked), 'locked group')}, not in the map"):
            st.dataframe(
                [{"Group": one.name, "Channels": one.units, "Why it stays": one.reason or ""} for one in locked],
                hide_index=True,
                width="stretch",
            )


def pick_cell(pick: Pick) -> None:
    session.choose(**{CHANNEL: dict(pick)})
    session.select_group(pick["id"])


def selected_row(record: Workspace, rows: list[ChannelRow]) -> ChannelRow:
    return next((row for row in rows if row.id == record.selected_group), rows[0])


def selected_cell(record: Workspace, scores: Scores, rows: list[ChannelRow]) -> Pick:
    """The channel that was picked in the selected group, or the group's most important one."""
    row = selected_row(record, rows)
    picked: dict[str, Any] = record.choices.get(CHANNEL) or {}
    if picked.get("id") == row.id and 0 <= picked.get("channel", -1) < len(row.scores):
        return Pick(id=row.id, channel=picked["channel"])
    return Pick(id=row.id, channel=scores.ranking(row.id)[0])


def show_group(record: Workspace, subject: Subject, scores: Scores, rows: list[ChannelRow]) -> None:
    """The selected group: its scores in order, the layers that move together, what the plan takes."""
    row = selected_row(record, rows)
    channel = selected_cell(record, scores, rows)["channel"]
    ranked = ranked_units(row, scores)
    names = {one.id: one.name for one in rows}
    session.set_widget_value(GROUP_MENU, row.id)
    head, numbers = st.columns([5, 6], gap="large")
    head.selectbox(
        "Group",
        list(names),
        format_func=lambda group_id: names[group_id],
        key=GROUP_MENU,
        on_change=lambda: session.select_group(session.widget_value(GROUP_MENU)),
    )
    one = next(one for one in ranked if one.unit == channel)
    items = [
        ("Channels", f"{len(ranked):,}", ""),
        ("The plan removes", f"{len(row.pruned):,}", ""),
        (f"Channel {channel}", charts.score_text(one.score), f"rank {one.rank}, {'kept' if one.kept else 'removed'}"),
    ]
    numbers.html(tables.strip_html(items))
    st.caption(removal_text(record, scores))
    left, right = st.columns(2, gap="large")
    with left:
        show_bars(row, ranked, scores.criterion, channel)
    with right:
        show_members(subject, row)
    spread = [(f"{name} score".capitalize(), charts.score_text(at), "") for name, at in score_quantiles(row).items()]
    st.html(tables.strip_html(spread))


def show_bars(row: ChannelRow, ranked: list[RankedUnit], criterion: str, channel: int) -> None:
    top, bottom = (charts.score_text(one.score) for one in (ranked[0], ranked[-1]))
    st.plotly_chart(
        charts.score_bars(ranked, group=row.name, criterion=CRITERIA[criterion].title, selected=channel),
        key="score_bars",
        config=charts.config(f"scores-{row.name}-{criterion}"),
        on_select=lambda: pick_bar(row.id),
        selection_mode="points",
        alt=f"Bar chart of the scores of {row.name}, from {top} down to {bottom}",
    )


def pick_bar(group_id: str) -> None:
    points = (session.widget_value("score_bars") or {}).get("selection", {}).get("points", [])
    if points:
        pick_cell(Pick(id=group_id, channel=int(points[0]["customdata"][0])))


def show_members(subject: Subject, row: ChannelRow) -> None:
    members = member_rows(subject.trace.group(row.id))
    st.markdown(f"**Layers that move together** ({len(members)})")
    st.caption("A channel leaves all of them at once: where it is made, passed on and read.")
    st.dataframe(
        [{"Layer": one.layer, "What it does": one.roles, "Parts cut": one.tensors} for one in members],
        hide_index=True,
        width="stretch",
        height=min(38 + 35 * len(members), 260),
    )


def removal_text(record: Workspace, scores: Scores) -> str:
    """Which channels those would be."""
    in_use = work.criterion(record)
    if in_use == scores.criterion:
        return "The lowest scores leave first; how many is set on the page Tune."
    title = CRITERIA[in_use].title if in_use in CRITERIA else in_use
    return f"Plans go by {title}; shown is what {CRITERIA[scores.criterion].title} would remove in its place."


def show(record: Workspace, subject: Subject, criterion: str, result: Any) -> None:
    scores = work.known("score", subject, Scores.from_dict, criterion=criterion) or Scores.from_dict(result)
    rows = channel_rows(subject.trace, scores, record.removed)
    show_map(record, subject, scores, rows)
    st.subheader("One group", anchor=False)
    show_group(record, subject, scores, rows)
    st.download_button(
        "All scores as CSV",
        scores_csv(subject.trace, scores, record.removed),
        file_name=f"scores-{subject.loaded.name.replace('/', '-')}-{criterion}.csv",
        mime="text/csv",
        icon=":material/download:",
        on_click="ignore",
    )


with frame.page("Channels", "See what every channel is worth, by the criterion you choose.") as (record, subject):
    for sentence in work.caveats(subject):
        st.warning(sentence, icon=":material/warning:")
    chosen = choose_criterion(record)
    if not subject.trace.prunable:
        raise CoreError("No channel of this network may leave, so there is nothing to score. See why on page Model.")
    found = ensure_scores(subject, chosen)
    if found.done:
        show(record, subject, chosen, found.result)
    else:
        session.set_temporary(POLLING, found.active)
        st.fragment(run_every=work.poll(found.active))(wait_for_scores)(subject, chosen)
