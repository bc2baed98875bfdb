"""Times for another device: the latency table out as CSV, and back with the times that were taken there."""

from __future__ import annotations

import streamlit as st

from core import CoreError, LatencyTable, Subject, drop_device_table, keep_device_table
from pages.components import choices, session, work

WHOSE, NAME, FILE, WRONG = "latency_device", "latency_device_name", "latency_device_file", "latency_device_wrong"
HERE, THERE = "here", "there"
MAX_NAME = 60
MAX_MEGABYTES = 5


def chosen_table(subject: Subject, here: LatencyTable | None) -> LatencyTable | None:
    """The table to foretell from on this page: this machine's, or the imported one when that was chosen."""
    there = work.latency_of_device(subject)
    if here is None or there is None:
        return here
    names = {HERE: "This machine", THERE: there.device}
    return there if choices.segments(WHOSE, "Times of", names, HERE) == THERE else here


def exchange(subject: Subject, here: LatencyTable) -> None:
    """Download the table, and upload one that was measured elsewhere."""
    with st.expander("Times for another device"):
        st.markdown(
            "Download the times of this machine as CSV, run the same operators at the same widths on the other device, "
            "put its milliseconds into the column `ms`, and upload the file. Keep the columns `key` and widths; remove "
            "the first line (the facts) unless you measured whole networks there too."
        )
        st.download_button(
            "Latency table as CSV",
            here.to_csv,
            file_name=f"latency-{subject.loaded.name.replace('/', '-')}.csv",
            mime="text/csv",
            icon=":material/download:",
            on_click="ignore",
        )
        left, right = st.columns([2, 3], vertical_alignment="bottom")
        left.text_input("Name of the device", key=NAME, max_chars=MAX_NAME, placeholder="my phone")
        right.file_uploader(
            "Its times (.csv)",
            type=["csv"],
            key=FILE,
            on_change=_take,
            args=(subject, here),
            max_upload_size=MAX_MEGABYTES,
        )
        wrong = session.temporary(WRONG)
        if wrong:
            st.error(wrong, icon=":material/error:")
        there = work.latency_of_device(subject)
        if there is not None:
            st.button(
                f"Forget the times of {there.device}",
                key="forget_device",
                icon=":material/delete:",
                on_click=_forget,
                args=(subject,),
            )


def _take(subject: Subject, here: LatencyTable) -> None:
    file = session.widget_value(FILE)
    session.set_temporary(WRONG, None)
    if file is None:
        return
    try:
        name = str(session.widget_value(NAME) or "").strip() or file.name.removesuffix(".csv")
        keep_device_table(subject, session.owner(), here, file.getvalue(), name)
        session.choose(**{WHOSE: THERE})
    except CoreError as error:
        session.set_temporary(WRONG, str(error))


def _forget(subject: Subject) -> None:
    drop_device_table(subject, session.owner())
    session.choose(**{WHOSE: HERE})
