"""Prunescope in the browser: ``streamlit run app.py``."""

from pages.components import frame
from pages.components.overview import overview

frame.run(overview)
