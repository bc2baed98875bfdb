"""Groups x channels as a canvas: every unit one cell, coloured by its score, read out under the pointer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import NotRequired, TypedDict

import streamlit as st

from core import UnitPlaces
from pages.components import parts, session


class HeatmapRow(TypedDict):
    """One group: a score per unit (NaN = none), and the indices of units that the plan prunes. note: a word shown
    beside it. members: where its layers keep the units, for the read-out. along: all units in the order of another
    map, which this one may take over."""

    id: str
    name: str
    scores: Sequence[float]
    pruned: Sequence[int]
    note: NotRequired[str]
    members: NotRequired[Sequence[UnitPlaces]]
    along: NotRequired[Sequence[int]]


class Pick(TypedDict):
    """A cell: group id and index of the unit in it."""

    id: str
    channel: int


_mount = st.components.v2.component(
    "prunescope_heatmap",
    html='<div class="heatmap"></div>',
    css=parts.style("heatmap"),
    js=parts.script("heatmap", ("picture.js", "heatmap.js")),
)


def _rounded(scores: Iterable[float]) -> list[float | None]:
    """Four significant digits, the read-out's precision; JSON has no NaN, so a missing score is null."""
    return [float(f"{score:.4g}") if math.isfinite(score) else None for score in scores]


def heatmap(
    rows: Sequence[HeatmapRow],
    *,
    key: str,
    title: str,
    unit: str = "",
    notes: str = "",
    follows: str = "",
    selected: Pick | None = None,
    picture: str = "png",
    on_pick: Callable[[Pick], None] | None = None,
) -> Pick | None:
    """Draw the map; return the cell clicked in this run, None otherwise.

    Rows may differ in length. Colours run from the lowest to the highest score of each group, or of all groups when
    the reader says so; sorting within rows is the reader's choice too. ``unit`` stands behind every score.
    ``notes`` says what the rows' notes are. ``follows``: the key of the map beside this one; where that one is sorted,
    this one is too, by the rows' ``along``, unless the reader wants its own order.
    ``on_pick(pick)`` runs before the script's body. ``selected`` gets a frame. ``picture``: "png" or "svg",
    what its button saves.
    """

    def picked() -> None:
        pick = (session.widget_value(key) or {}).get("pick")
        if on_pick and pick:
            on_pick(pick)

    data = {
        "rows": [
            {
                "id": row["id"],
                "name": row["name"],
                "scores": _rounded(row["scores"]),
                "pruned": [int(unit_index) for unit_index in row.get("pruned") or ()],
                "note": row.get("note", ""),
                "members": [asdict(one) for one in row.get("members") or ()],
                "along": [int(unit_index) for unit_index in row.get("along") or ()],
            }
            for row in rows
        ],
        "title": title,
        "unit": unit,
        "notes": notes,
        "name": key,
        "follows": follows,
        "selected": selected,
        "picture": {"format": picture},
    }
    return _mount(key=key, data=data, on_pick_change=picked).get("pick")
