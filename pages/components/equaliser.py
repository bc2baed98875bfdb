"""The equaliser: one bar per group of channels, dragged in the browser, heard by Python on release.

Everything that moves with the hand (bars, counts, estimates) is JavaScript in ``assets/equaliser``; Python supplies
rows, stored curves and cost terms, and receives edits. No edit is lost: the browser keeps one message in flight until
Python echoes its ``seq``; Python raises ``rev`` only when it changes the values itself (preset, undo, restore), and
only then the browser takes them over, never under a moving hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

import streamlit as st

from pages.components import parts, session

SCRIPTS = (
    "model.js", "spread.js", "sync.js", "tip.js", "overview.js", "picture.js", "tools.js", "view.js", "input.js",
    "main.js",
)  # fmt: skip

Term = tuple[float, int, int]  # coef, row index or -1, row index or -1


class EqualiserRow(TypedDict):
    """One group of channels.

    ``kept``: units kept now, 1..``units``. ``locked`` with a ``reason`` cannot be opened by hand; without one it is a
    person's own lock. ``members``: layers that are pruned together. ``curve``: points (removed_fraction, accuracy, low,
    high), shares in 0..1, of a scan of this group alone; None before it was scanned. ``stage``: neighbours of one stage
    get a handle of their own.
    """

    id: str
    name: str
    units: int
    kept: int
    locked: bool
    reason: str | None
    members: Sequence[str]
    curve: Sequence[tuple[float, float, float, float]] | None
    stage: str


class CostTerms(TypedDict, total=False):
    """Costs as sums of ``coef * f(a) * f(b)``, where ``f(r)`` is row r's kept units and ``f(-1)`` is 1.

    MACs and parameters of a convolutional network have exactly this form. ``latency_terms`` give milliseconds.
    """

    macs_terms: Sequence[Term]
    params_terms: Sequence[Term]
    latency_terms: Sequence[Term]


class Edit(TypedDict):
    """What a hand did: ``values`` after it (units kept by group id), ``steps`` how it came there.

    ``phase`` is "commit", or "drag" for a preview (only when ``live``). ``steps``: one {id: kept} per gesture, oldest
    first, only what that gesture changed: one entry of an undo history each. ``locked``: ids that a person locked.
    ``rev``: the revision the values were based on.
    """

    seq: int
    phase: str
    rev: int
    values: dict[str, int]
    steps: list[dict[str, int]]
    locked: list[str]


_mount = st.components.v2.component(
    "prunescope_equaliser",
    html='<div class="equaliser"></div>',
    css=parts.style("equaliser"),
    js=parts.script("equaliser", SCRIPTS),
)


def merge_edit(edit: Edit, values: Mapping[str, int], rev: int) -> dict[str, int]:
    """The values after ``edit``, given the page's own ``values`` at revision ``rev``.

    An edit made on an older revision (the preset was applied while it travelled) changes only what its gestures
    touched, so a late edit never undoes a newer preset.
    """
    if edit["rev"] == rev:
        return {**values, **edit["values"]}
    merged = dict(values)
    for step in edit["steps"]:
        merged.update(step)
    return merged


def handled(*keys: str) -> int:
    """The highest ``seq`` that the components with these keys sent; it has been handled, for callbacks come first."""
    heard = [session.widget_value(key) or {} for key in keys]
    return max((one.get(name) or {}).get("seq", 0) for one in heard for name in ("edit", "command"))


def equaliser(
    rows: Sequence[EqualiserRow],
    *,
    key: str,
    rev: int,
    ack: int | None = None,
    selected: str | None = None,
    dense_accuracy: float | None = None,
    chance: float = 0.0,
    loss_scale: float = 1.0,
    cost: CostTerms | None = None,
    snap: int = 1,
    live: bool = False,
    height: int = 220,
    strip: bool = True,
    picture: str = "png",
    on_edit: Callable[[Edit], None] | None = None,
    on_pick: Callable[[str], None] | None = None,
    on_command: Callable[[str], None] | None = None,
) -> Edit | None:
    """Draw the desk and return the last edit this session made, None before the first.

    Bars show the share of channels kept (axis "Kept channels", percent), coloured by the accuracy that removing this
    much of this group alone would lose. Above them stand estimates for the whole plan: ``dense_accuracy`` (share in
    0..1; None hides it) minus ``loss_scale`` times the sum of the single losses, never under ``chance``, and the sums
    in ``cost``.

    ``rev``: raise it to make the browser take ``kept`` and ``locked`` from ``rows``. ``ack``: the highest ``seq`` that
    has been handled; None takes what this component last sent, right where no headline carries its edits. ``snap``:
    widths move in multiples of it. ``live``: also send previews while dragging. ``height``: of the bars, in pixels.
    ``strip``: False hides the estimates; the browser announces them all the same (the event ``prunescope-estimates`` on
    the window) for a headline that stands elsewhere, which may also carry the edits: ``ack`` is what was ``handled`` of
    both then. ``picture``: "png" or "svg", what its button saves.

    Callbacks run before the script's body: ``on_edit(edit)``, ``on_pick(group_id)`` when a name is clicked,
    ``on_command("undo" | "redo")`` for Ctrl+Z and Ctrl+Shift+Z, wherever the focus is. The event ``prunescope-redraw``
    on the browser's window makes the fragment around it run, once no hand is on a bar.
    """

    ack = handled(key) if ack is None else ack
    data = {"rows": tuple(rows), "rev": rev, "ack": ack, "selected": selected, "dense_accuracy": dense_accuracy}
    data |= {"chance": chance, "loss_scale": loss_scale, "cost": dict(cost or {}), "snap": snap, "live": live}
    data |= {"height": height, "strip": strip, "picture": {"format": picture}}
    result = _mount(
        key=key,
        data=data,
        on_edit_change=parts.forward(key, "edit", on_edit),
        on_pick_change=parts.forward(key, "pick", on_pick, "id"),
        on_command_change=parts.forward(key, "command", on_command, "name"),
        on_redraw_change=_nothing,
    )
    return result.get("edit")


def _nothing() -> None:
    """The fragment around the bars runs; that is all that is asked for."""
