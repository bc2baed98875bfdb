"""The network's channels: which leave together, what each is worth by a criterion, and one group in detail."""

from __future__ import annotations

from typing import Any

import streamlit as st

from core import ChannelRow, CoreError, Scores, Subject, channel_rows, group_rows, scores_csv
from core.workspace import Workspace
from pages.components import frame, session, tables, work
from pages.components.coupling import show_coupling
from pages.components.criterion import CRITERIA, POLLING, choose_criterion, ensure_scores, scope_text, wait_for_scores
from pages.components.heatmap import heatmap
from pages.components.one_group import pick_cell, selected_cell, show_group


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
    locked = [row for row in group_rows(subject.trace) if row.reason]
    if locked:
        with st.expander(f"{tables.plural(len(locked), 'locked group')}, not in the map"):
            st.dataframe(
                [{"Group": one.name, "Channels": one.units, "Why it stays": one.reason} for one in locked],
                hide_index=True,
                width="stretch",
            )


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


with frame.page("Channels", "See which channels leave together, and what each is worth.") as (record, subject):
    for sentence in work.caveats(subject):
        st.warning(sentence, icon=":material/warning:")
    show_coupling(record, subject)
    st.subheader("What each channel is worth", anchor=False)
    chosen = choose_criterion(record)
    if not subject.trace.prunable:
        raise CoreError("No channel of this network may leave, so there is nothing to score. See why on page Model.")
    found = ensure_scores(subject, chosen)
    if found.done:
        show(record, subject, chosen, found.result)
    else:
        session.set_temporary(POLLING, found.active)
        st.fragment(run_every=work.poll(found.active))(wait_for_scores)(subject, chosen)
