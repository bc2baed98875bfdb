"""The network as a map: layers that lose channels together in one colour, before and after the plan.

The map is a canvas; zooming, pointing and searching are JavaScript in ``assets/network``. Its picture is sent once per
network; what a plan changes travels in a small message of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from core import Picture, PictureWidths
from pages.components import parts, session

SCRIPTS = ("layout.js", "text.js", "draw.js", "picture.js", "mini.js", "tip.js", "input.js", "search.js", "main.js")

_map = st.components.v2.component(
    "prunescope_network",
    html='<div class="network"></div>',
    css=parts.style("network"),
    js=parts.script("network", SCRIPTS),
)
_widths = st.components.v2.component(
    "prunescope_network_widths",
    html="<div></div>",
    js=parts.script("network", ("widths.js",), shared=()),
)


def network_map(
    picture: Picture,
    widths: PictureWidths,
    *,
    key: str,
    of: str,
    title: str,
    selected: str | None = None,
    height: int = 440,
    picture_format: str = "png",
    on_pick: Callable[[str], None] | None = None,
) -> str | None:
    """Draw the map; return the group clicked in this run, None otherwise.

    ``of`` names the network: the browser keeps picture, zoom and place while it stays the same. ``selected``: id of
    the group with a frame; when it changes the map moves there. ``height``: in pixels. ``picture_format``: "png" or
    "svg", what its button saves. ``on_pick(group_id)`` runs before the script's body, for locked groups too.
    """

    def picked() -> None:
        pick = (session.widget_value(key) or {}).get("pick")
        if on_pick and pick:
            on_pick(pick["id"])

    with st.container(gap=None):
        result = _map(
            key=key,
            data={
                "key": of,
                "title": title,
                "picture": picture.to_json(),
                "height": height,
                "save": {"format": picture_format},
            },
            on_pick_change=picked,
        )
        _widths(key=f"{key}_widths", data={"key": of, "widths": widths.to_json(), "selected": selected})
    pick = result.get("pick")
    return pick["id"] if pick else None
