"""Which layers lose channels together: the network as a map, and the same as a table."""

from __future__ import annotations

import streamlit as st

from core import GroupRow, Subject, columns_csv, draw_network, group_rows, picture_widths, widths_plan
from core.keep.workspace import Workspace
from pages.components import charts, downloads, session, tables
from pages.components.network import network_map


def show_coupling(record: Workspace, subject: Subject) -> None:
    """The map with the plan's widths, and a table for who cannot or would not use a mouse."""
    trace = subject.trace
    plan = widths_plan(trace, record.removed)
    rows = group_rows(trace, plan)
    st.subheader("What moves together", anchor=False)
    if not rows:
        st.info("No layer of this network makes channels, so there is nothing to draw.", icon=":material/info:")
        return
    st.caption(sentence(rows))
    network_map(
        draw_network(trace),
        picture_widths(trace, plan),
        key="network",
        of=subject.key,
        title=f"Map of {subject.loaded.name}",
        selected=selected_group(record, subject),
        picture_format=charts.picture_format(),
        on_pick=session.select_group,
    )
    with st.expander(f"The map as a table: {tables.plural(len(rows), 'group')}"):
        table = group_table(rows)
        st.dataframe(table, hide_index=True, width="stretch")
        downloads.csv("Groups as CSV", lambda: columns_csv(table), f"groups-{subject.loaded.name}")


def selected_group(record: Workspace, subject: Subject) -> str | None:
    """The group that is selected everywhere; the first prunable one when there is none, or not in this network."""
    known = {group.id for group in subject.trace.prunable}
    first = next(iter(subject.trace.prunable), None)
    return record.selected_group if record.selected_group in known else first and first.id


def sentence(rows: list[GroupRow]) -> str:
    """What the trace found, in one line."""
    shared, locked = sum(len(row.layers) > 1 for row in rows), sum(bool(row.reason) for row in rows)
    said = f"{tables.plural(len(rows), 'group')} of channels"
    said += (
        f"; in {shared:,} of them several layers lose the same channels, as one" if shared else "; each one layer's own"
    )
    return f"{said}. {locked:,} locked." if locked else f"{said}."


def group_table(rows: list[GroupRow]) -> dict[str, list[object]]:
    """The columns of a table of groups, before and after the plan."""
    return {
        "No.": [row.number for row in rows],
        "Group": [row.name for row in rows],
        "Layers that lose its channels": [", ".join(row.layers) for row in rows],
        "Read by": [", ".join(row.readers) for row in rows],
        "Before": [row.units for row in rows],
        "After": [row.kept for row in rows],
        "Locked because": [row.reason for row in rows],
    }
