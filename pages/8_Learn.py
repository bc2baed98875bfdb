"""Lessons in pruning on the network at hand: say what will happen, look, read why, show that you know."""

from __future__ import annotations

import streamlit as st

from pages.components import classroom, classroom_paper, classroom_teacher, frame, lesson, work

frame.guard()
classroom.arrive()
with frame.page("Learn", "Short lessons on this very network: predict, look, understand.") as (record, subject):
    for sentence in work.caveats(subject):
        st.warning(sentence, icon=":material/warning:")
    classroom.learner_card()
    classroom_teacher.show_class()
    lesson.show(record, subject)
    classroom.hand_in_card(subject)
    classroom_teacher.ways_in(record, subject)
    classroom_paper.progress(subject)
