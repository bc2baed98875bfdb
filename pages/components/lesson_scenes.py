"""The pictures of the lessons that a learner moves through: a slider, Play, and a line that tells of each step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from core import SCENES

ASSETS = Path(__file__).parents[2] / "assets" / "lesson"

_mount = st.components.v2.component(
    "prunescope_lesson",
    html='<div class="player" role="group" aria-label="A picture to move through"></div>',
    css=(ASSETS / "player.css").read_text(encoding="utf-8"),
    js=(ASSETS / "player.js").read_text(encoding="utf-8"),
)


def show(scene: str, facts: Mapping[str, Any], key: str) -> None:
    _mount(key=key, data={**SCENES[scene](facts), "name": key})
