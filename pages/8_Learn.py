"""Lessons in pruning on the network at hand: say what will happen, look, read why, show that you know."""

from __future__ import annotations

import streamlit as st

from pages.components import frame, lesson, work

with frame.page("Learn", "Short lessons on this very network: predict, look, understand.") as (record, subject):
    for sentence in work.caveats(subject):
        st.warning(sentence, icon=":material/warning:")
    lesson.show(record, subject)
