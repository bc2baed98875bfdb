"""The scores of all prunable groups as a map, or as two maps of two criteria side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from core import ChannelRow, CoreError, Scores, Subject, channel_rows, compare_criteria, unit_places, unscored_groups
from core.keep.workspace import Workspace
from pages.components import charts
from pages.components.criterion import CRITERIA, scope_text
from pages.components.heatmap import HeatmapRow, Pick, heatmap
from pages.components.one_group import pick_cell, selected_cell

FIRST, SECOND = "channel_map", "second_map"
READING = "Rows stand in network order. Compare ranks within a group, never values of two criteria."


def show_map(record: Workspace, subject: Subject, scores: Scores, rows: Sequence[ChannelRow]) -> None:
    """One criterion's map; a click selects the channel."""
    title = f"{CRITERIA[scores.criterion].title}: every channel of every prunable group"
    _draw(subject, rows, title, selected_cell(record, scores, list(rows)), key=FIRST)
    st.caption(f"{scope_text(scores, subject)} {READING}{_not_scored(subject, scores)}")


def show_maps(record: Workspace, subject: Subject, both: tuple[Scores, Scores], rows: Sequence[ChannelRow]) -> None:
    """Two criteria side by side; beside the second, how alike both rank the channels of each group."""
    first, second = both
    selected = selected_cell(record, first, list(rows))
    titles = [CRITERIA[one.criterion].title for one in both]
    alike, words = _agreement(subject, both)
    left, right = st.columns(2, gap="large")
    with left:
        _draw(subject, rows, titles[0], selected, key=FIRST)
        st.caption(scope_text(first, subject) + _not_scored(subject, first))
    with right:
        others = channel_rows(subject.trace, second, record.removed)
        _draw(subject, others, titles[1], selected, key=SECOND, alike=alike, beside=first)
        st.caption(scope_text(second, subject) + _not_scored(subject, second))
    st.markdown(words)
    st.caption(f"{READING} Hatched on the right is what {titles[1]} would remove in the plan's place.")


def _not_scored(subject: Subject, scores: Scores) -> str:
    """The groups to which the criterion could say nothing, in a sentence; "" when there are none."""
    named = [subject.trace.group(one).name for one in unscored_groups(subject.trace, scores)]
    if not named:
        return ""
    return (
        f" Not scored: {', '.join(named)}. No layer reads {'it' if len(named) == 1 else 'them'} on the way to the "
        "class scores, so this criterion has nothing to go by and gives every channel 0."
    )


def _agreement(subject: Subject, both: tuple[Scores, Scores]) -> tuple[Mapping[str, str], str]:
    """Spearman's correlation of each group as text, and of all in a sentence."""
    names = [one.criterion for one in both]
    try:
        found = compare_criteria(subject.trace, dict(zip(names, both, strict=True)))
    except CoreError as error:
        return {}, str(error)
    alike = {group: _signed(float(matrix[0, 1])) for group, matrix in found.by_group.items()}
    within, overall, _ = found.between(names[0], names[1])
    words = (
        f"**Spearman's rank correlation** of the two: within groups {_signed(within)} on average, over all "
        f"{found.units:,} channels {_signed(overall)}. 1 = same order, 0 = unrelated, −1 = opposite order."
    )
    return alike, words


def _signed(value: float) -> str:
    """Two digits; a dash where one side gives every channel the same score."""
    return "–" if value != value else f"{value:.2f}".replace("-", "−")


def _draw(
    subject: Subject,
    rows: Sequence[ChannelRow],
    title: str,
    selected: Pick,
    *,
    key: str,
    alike: Mapping[str, str] | None = None,
    beside: Scores | None = None,
) -> None:
    """beside: the scores of the map at the left, whose order this one can take over."""
    cells = [
        HeatmapRow(
            id=row.id,
            name=row.name,
            scores=row.scores,
            pruned=row.pruned,
            note=(alike or {}).get(row.id, ""),
            members=unit_places(subject.trace.group(row.id)),
            along=beside.ranking(row.id) if beside is not None else (),
        )
        for row in rows
    ]
    notes = "at the right: Spearman's correlation with the other criterion" if alike else ""
    heatmap(
        cells,
        key=key,
        title=title,
        notes=notes,
        follows=FIRST if beside is not None else "",
        selected=selected,
        picture=charts.picture_format(),
        on_pick=pick_cell,
    )
