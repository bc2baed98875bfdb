"""Win back what a cut lost: the ladder of repairs for the plan on the desk, and whole recipes from the papers."""

from __future__ import annotations

import streamlit as st

from core import CoreError, Subject
from pages.components import choices, frame, ladder, recover, session, work

LEAD = "Win back what the cut lost: climb from repair to repair, or let a published recipe make plan and network."
VIEW, POLLING = "recover_view", "recover_polling"
VIEWS = {"ladder": "Repair this plan", "recipe": "Run a recipe"}
PARTS = {"ladder": ladder, "recipe": recover}


def show(subject: Subject, view: str) -> None:
    """One view. While something of it is under way it is drawn again and again, with what there is so far."""
    if PARTS[view].busy(subject) != session.temporary(POLLING):
        st.rerun()  # begins or ends the polling
    try:
        PARTS[view].show(subject)
    except CoreError as error:
        st.error(str(error), icon=":material/error:")


with frame.page("Recover", LEAD) as (_, subject):
    for sentence in work.caveats(subject):
        st.warning(sentence, icon=":material/warning:")
    if not subject.trace.prunable:
        raise CoreError("No channel of this network may leave, so there is nothing to recover. See why on page Model.")
    chosen = choices.segments(VIEW, "What to do", VIEWS)
    under_way = PARTS[chosen].busy(subject)
    session.set_temporary(POLLING, under_way)
    st.fragment(run_every=work.poll(under_way))(show)(subject, chosen)
