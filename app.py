"""Prunescope in the browser: ``streamlit run app.py``."""

import streamlit as st

with st.spinner("Starting: the first visit after a start takes some seconds ..."):
    from pages.components import frame
    from pages.components.overview import overview

frame.run(overview)
