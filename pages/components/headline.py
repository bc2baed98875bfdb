"""The headline strip of the desk: accuracy, latency and cost of the plan, each beside the dense network's.

The strip is drawn in the browser, so that it can show the equaliser's estimates under a moving hand and Python's
numbers at rest, in the same place. It also does the page's polling: while something is being measured it asks Python
again, and stops by itself; ``st.fragment(run_every=...)`` could be neither started nor stopped by a fragment's own run.

And it carries the bars' edits to Python: what answers a release is then these few numbers, in a fragment of their own,
and not all that stands around the bars. That is drawn anew a moment later (``redraw``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, TypedDict

import streamlit as st

from pages.components import parts

_runs = count()

_mount = st.components.v2.component(
    "prunescope_headline",
    html='<div class="headline" role="group" aria-label="Headline numbers of this plan"></div>',
    css=parts.style("headline"),
    js=parts.script("headline", ("headline.js",), shared=("make.js",)),
)


class Cell(TypedDict, total=False):
    """One number. ``mark``: measured, exact, predicted or estimated; ``busy``: a better one is under way. ``change``
    and ``dense``: against the dense network, in words. ``detail``: interval, images, device. ``unknown``: ``value`` is
    a sentence. ``silent``: estimates mean nothing here and are not shown. ``dense_value``: for the browser's own sums.
    """

    name: str
    title: str
    value: str
    mark: str
    change: str
    dense: str
    detail: str
    help: str
    busy: bool
    unknown: bool
    silent: bool
    dense_value: float | None


def headline_strip(
    cells: Sequence[Cell],
    *,
    key: str,
    pending: bool,
    poll_ms: int = 500,
    redraw: str = "",
    ack: int | None = None,
    loss_scale: float = 1.0,
    on_edit: Callable[[Any], None] | None = None,
) -> None:
    """Draw the strip. ``pending``: a number is being measured; the surrounding fragment runs again, ``poll_ms`` from
    now, until it is not.
    ``redraw``: a word that changes when the bars below shall be drawn anew, "" when they are as new as this.
    ``ack``: with it the strip takes the bars' edits; it is the highest ``seq`` of theirs that was handled, and
    ``loss_scale`` that of their estimates from now on. ``on_edit`` hears each edit before the fragment runs."""
    # Streamlit calls the script only for data that changed, and every answer must be followed by the next question.
    # A tuple, for a list is looked at as if it were a table.
    data = {"cells": tuple(cells), "pending": pending, "poll_ms": poll_ms, "redraw": redraw, "run": next(_runs)}
    data |= {"ack": ack, "loss_scale": loss_scale}
    _mount(key=key, data=data, on_tick_change=_again, on_edit_change=parts.forward(key, "edit", on_edit))


def _again() -> None:
    """The fragment runs; that is all that is asked for."""
