"""A page with made-up rows, to drive the components by hand and by Playwright. Not part of the product.

``?n=60`` sets the number of groups, ``?part=heatmap`` shows the other component (``&notes=1``: with notes and
members, ``&second=1``: with a second map beside it), ``?scanned=0`` leaves curves out,
``?live=1`` sends previews while dragging, ``?snap=8`` snaps, ``?slow=0.4`` makes every run take that many seconds,
``?picture=svg`` saves pictures so.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import streamlit as st

sys.path[:0] = [str(Path(__file__).parents[3]), str(Path(__file__).parent)]
from made_up import DENSE, cost_terms, make_rows  # noqa: E402

from core import UnitPlaces  # noqa: E402
from pages.components.equaliser import equaliser, merge_edit  # noqa: E402
from pages.components.heatmap import heatmap  # noqa: E402

st.set_page_config(layout="wide")
query = st.query_params
COUNT = int(query.get("n", 12))

state = st.session_state
rows = make_rows(COUNT, scanned=query.get("scanned") != "0")
if "kept" not in state:
    state.kept = {row["id"]: row["units"] for row in rows}
    if query.get("start") == "mixed":
        rng = random.Random(3)
        state.kept = {r["id"]: r["units"] if r["locked"] else round(r["units"] * rng.uniform(0.3, 1)) for r in rows}
    state.update(rev=0, locked=[], selected="g2", edits=[], commands=[], undone=[], history=[])


def on_edit(edit: dict) -> None:
    state.edits.append(edit)
    if edit["phase"] == "drag":
        return
    for step in edit["steps"]:
        state.history.append(dict(state.kept))
        state.kept = {**state.kept, **step}
    state.kept = merge_edit(edit, state.kept, state.rev)
    state.locked = edit["locked"]


def on_command(name: str) -> None:
    state.commands.append(name)
    if name == "undo" and state.history:
        state.undone.append(dict(state.kept))
        state.kept = state.history.pop()
        state.rev += 1
    elif name == "redo" and state.undone:
        state.history.append(dict(state.kept))
        state.kept = state.undone.pop()
        state.rev += 1


def preset(share: float) -> None:
    state.history.append(dict(state.kept))
    state.kept = {row["id"]: row["units"] if row["locked"] else round(row["units"] * share) for row in rows}
    state.rev += 1


@st.fragment
def desk() -> None:
    time.sleep(float(query.get("slow", 0)))
    left, right, _ = st.columns([1, 1, 6])
    left.button("Half", on_click=preset, args=(0.5,))
    right.button("All", on_click=preset, args=(1.0,))
    equaliser(
        [
            {
                **row,
                "kept": state.kept[row["id"]],
                "locked": row["locked"] or row["id"] in state.locked,
                "stage": f"stage {number // 4}" if query.get("stages") else "",
            }
            for number, row in enumerate(rows)
        ],
        key="desk",
        rev=state.rev,
        selected=state.selected,
        dense_accuracy=DENSE,
        chance=0.1,
        cost=cost_terms(rows),
        snap=int(query.get("snap", 1)),
        picture=query.get("picture", "png"),
        live=query.get("live") == "1",
        on_edit=on_edit,
        on_pick=lambda picked: state.update(selected=picked),
        on_command=on_command,
    )
    last = state.edits[-1] if state.edits else None
    echo = {
        "seq": last["seq"] if last else 0, "phases": [edit["phase"] for edit in state.edits], "values": state.kept,
        "rev": state.rev, "commands": state.commands, "selected": state.selected, "locked": state.locked,
        "steps": len(state.history),
    }  # fmt: skip
    st.code(json.dumps(echo), language=None)


@st.fragment
def map_part() -> None:
    rng = random.Random(1)
    cells = []
    for row in rows:
        scores = sorted((rng.lognormvariate(0, 0.8) for _ in range(row["units"])), reverse=False)
        rng.shuffle(scores)
        order = sorted(range(row["units"]), key=scores.__getitem__)
        cells.append(
            {"id": row["id"], "name": row["name"], "scores": scores, "pruned": order[: int(row["units"] * 0.3)]}
        )
    notes = "how alike" if query.get("notes") else ""
    for cell in cells if notes else ():
        units = len(cell["scores"])
        packed = UnitPlaces("packed", True, tuple(f"{4 * unit}-{4 * unit + 3}" for unit in range(units)))
        made = [UnitPlaces(name, True, None) for name in ("a", "b", "c", "d")]
        cell.update(note="0.50", members=[*made, packed, *(UnitPlaces(name, False, None) for name in ("next", "last"))])
    picked = heatmap(
        cells, key="map", notes=notes, title="Taylor importance", unit="loss change, squared",
        picture=query.get("picture", "png"), selected=state.get("cell"), on_pick=lambda pick: state.update(cell=pick),
    )  # fmt: skip
    if query.get("second"):
        others = []
        for cell in cells:
            order = sorted(range(len(cell["scores"])), key=lambda unit: -cell["scores"][unit])
            others.append({**cell, "scores": [-score for score in cell["scores"]], "along": order})
        heatmap(others, key="second", title="The opposite", follows="map")
    st.code(json.dumps({"picked": state.get("cell"), "returned": picked}), language=None)


part = map_part if query.get("part") == "heatmap" else desk
part()
