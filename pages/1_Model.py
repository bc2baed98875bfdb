"""Choose a network and images; see what is in them."""

from __future__ import annotations

import streamlit as st

from core import CoreError, Subject, class_counts, columns_csv, count_cost, layer_rows
from core.keep.workspace import Workspace
from pages.components import (
    classroom_rules,
    downloads,
    forms,
    frame,
    network_file,
    opening,
    pictures,
    session,
    tables,
    work,
)

LEAD = "Choose a network and images. What is open now stays until the new choice has opened without a fault."


def main() -> None:
    frame.guard()
    frame.head("Model", LEAD)
    record = session.workspace()
    subject = opening.opened(record)
    form, shown = st.columns([1, 2], gap="large")
    with form:
        _choose()
    with shown:
        network_file.show(record)
        if subject is None:
            st.info("Nothing is open. Choose a network on the left.", icon=":material/info:")
        else:
            _summary(record, subject)
    if subject is not None:
        _layers(subject)


def _choose() -> None:
    with st.container(border=True, key="card-choose"):
        if classroom_rules.task() is not None:
            name = session.workspace().model_source.rpartition("/")[2]
            st.selectbox("Network", [name], disabled=True, help=classroom_rules.REASON)
            st.caption(f":material/lock: {classroom_rules.REASON}")
            return
        request = forms.choose_subject()
        try:
            if request is not None:
                _begin(request)
            subject = opening.finish()
        except CoreError as error:
            st.error(str(error), icon=":material/error:")
            return
        if subject is not None:
            name, images = subject.loaded.name, f"{len(subject.data):,} images of {subject.data.name}"
            session.notify_done(f"{name} is open, with {images}.")
            st.rerun()


def _begin(request: forms.Request) -> None:
    with st.spinner("Looking at the files ..."):
        choice = forms.prepare(request)
    if choice is None:
        st.rerun()
    opening.begin(choice)


def _summary(record: Workspace, subject: Subject) -> None:
    st.markdown(f"### {subject.loaded.name}")
    st.caption(f"{subject.source_name} · {work.weights_text(record, subject)}")
    for sentence in work.caveats(subject):
        st.info(sentence, icon=":material/info:")
    cost = count_cost(subject.trace)
    st.html(tables.cost_html(cost))
    if cost.uncounted:
        names = ", ".join(f"{name} ({count}x)" for name, count in cost.uncounted.items())
        st.caption(f"Not counted in the MACs: {names}.")
    counts = class_counts(subject.data)
    st.markdown(f"**{subject.data.name}** · {len(subject.data):,} images, {len(counts)} classes")
    pictures.samples(subject, 20)
    with st.expander("Images per class"):
        st.dataframe(
            {"Class": list(counts), "Images": list(counts.values())}, hide_index=True, height="content", width="stretch"
        )


def _layers(subject: Subject) -> None:
    st.markdown("##### Layers")
    st.caption("Channels of one group hang together, so they leave together. Batch norms follow their layers.")
    rows = layer_rows(subject.trace)
    table = tables.layer_table(rows)
    st.dataframe(
        table,
        hide_index=True,
        width="stretch",
        height=min(38 + 35 * len(rows), 600),
        column_config=tables.LAYER_COLUMNS,
    )
    downloads.csv("Layers as CSV", lambda: columns_csv(table), f"layers-{subject.loaded.name}")


main()
