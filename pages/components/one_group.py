"""One group in detail: its scores in order, the layers that move together, what the plan takes."""

from __future__ import annotations

from typing import Any

import streamlit as st

from core import ChannelRow, RankedUnit, Scores, Subject, member_rows, ranked_units, score_quantiles
from core.keep.workspace import Workspace
from pages.components import charts, session, tables, work
from pages.components.criterion import CRITERIA
from pages.components.heatmap import Pick

CHANNEL, GROUP_MENU = "channel", "channels_group"


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
