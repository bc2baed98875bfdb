"""The network's channels: which leave together, what each is worth by a criterion, and one group in detail."""

from __future__ import annotations

import streamlit as st

from core import ChannelRow, CoreError, Scores, Subject, channel_rows, group_rows, scores_csv
from core.keep.workspace import Workspace
from pages.components import downloads, frame, tables, work
from pages.components.coupling import show_coupling
from pages.components.criterion import choose_beside, choose_criterion, ensure_scores, follow_scores, known_scores
from pages.components.one_group import selected_cell, show_group
from pages.components.portrait import show_portrait
from pages.components.score_maps import show_map, show_maps

BESIDE_SLOT = "channels-beside"


def show(record: Workspace, subject: Subject, scores: Scores, rows: list[ChannelRow]) -> None:
    locked = [row for row in group_rows(subject.trace) if row.reason]
    if locked:
        with st.expander(f"{tables.plural(len(locked), 'locked group')}, not in the map"):
            st.dataframe(
                [{"Group": one.name, "Channels": one.units, "Why it stays": one.reason} for one in locked],
                hide_index=True,
                width="stretch",
            )
    st.subheader("One group", anchor=False)
    show_group(record, subject, scores, rows)
    cell = selected_cell(record, scores, rows)
    show_portrait(record, subject, cell["id"], cell["channel"])
    st.divider()
    pinned, name = work.pinned(record, subject), f"scores-{subject.loaded.name}-{scores.criterion}"
    downloads.csv("All scores as CSV", lambda: scores_csv(subject.trace, scores, record.removed, pinned), name)


def maps(record: Workspace, subject: Subject, scores: Scores, rows: list[ChannelRow], beside: str) -> None:
    """The map of the chosen criterion, and beside it that of a second one as soon as its scores are known."""
    found = ensure_scores(subject, beside, BESIDE_SLOT) if beside else None
    if found is not None and found.done:
        show_maps(record, subject, (scores, known_scores(subject, beside, found)), rows)
        return
    show_map(record, subject, scores, rows)
    if found is not None:
        follow_scores(subject, beside, found.active, BESIDE_SLOT)


with frame.page("Channels", "See which channels leave together, and what each is worth.") as (record, subject):
    for sentence in work.caveats(subject):
        st.warning(sentence, icon=":material/warning:")
    show_coupling(record, subject)
    st.subheader("What each channel is worth", anchor=False)
    chosen = choose_criterion(record)
    if not subject.trace.prunable:
        raise CoreError("No channel of this network may leave, so there is nothing to score. See why on page Model.")
    beside = choose_beside(chosen)
    found = ensure_scores(subject, chosen)
    if found.done:
        scores = known_scores(subject, chosen, found)
        rows = channel_rows(subject.trace, scores, record.removed, work.pinned(record, subject))
        maps(record, subject, scores, rows, beside)
        show(record, subject, scores, rows)
    else:
        follow_scores(subject, chosen, found.active)
