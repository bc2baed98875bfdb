"""The first page: what is loaded, what was found, what comes next."""

from __future__ import annotations

from typing import Any

import streamlit as st

from core import Subject, count_cost, part_sizes, summarise_trace
from core.keep.workspace import Workspace
from pages.components import frame, pictures, tables, work
from pages.components.standing import Standing, last_export, standing

LEAD = "See what every channel of a CNN is worth, drag the widths, take away a network that is really smaller."
SHOWN, IN_A_ROW = 20, 4


def overview() -> None:
    with frame.page(frame.OVERVIEW, LEAD) as (record, subject):
        at = standing(record, subject)
        _flow(at)
        _next(record, subject, at)
        left, right = st.columns(2, gap="medium")
        with left.container(border=True, height="stretch", key="card-loaded"):
            _loaded(record, subject)
        with right.container(border=True, height="stretch", key="card-found"):
            _found(subject)
        with st.container(border=True, key="card-images"):
            _images(subject)


def _flow(at: Standing) -> None:
    """The whole way in one picture: a card per stage, four in a row."""
    columns: list[Any] = []
    for number, stage in enumerate(frame.STAGES, start=1):
        columns = columns or list(st.columns(IN_A_ROW))
        column = columns.pop(0)
        state = "next" if stage.title == at.next else str(number)
        with column.container(border=True, height="stretch", key=f"step-{state}"):
            mark = " :blue[:material/check:]" if stage.title in at.done else ""
            frame.link(stage.title, f"**{stage.title}**{mark}", icon="")
            st.caption(stage.summary)


def _next(record: Workspace, subject: Subject, at: Standing) -> None:
    with st.container(border=True, key="card-next"):
        text, action = st.columns([4, 1], vertical_alignment="center")
        sentence, target = _advice(record, subject, at)
        text.markdown(f"**Next** · {sentence}")
        with action:
            frame.link(target, f"Go to {target}")
        if any(record.removed.values()):
            frame.strip(record, subject)


def _advice(record: Workspace, subject: Subject, at: Standing) -> tuple[str, str]:
    """What to do now, in one sentence, and on which page."""
    if at.next == "Channels":
        return "score the channels: each criterion gives every channel a number.", "Channels"
    if at.next == "Sensitivity":
        return "scan how much accuracy each group of channels can lose.", "Sensitivity"
    if at.next == "Tune" and "Sensitivity" in at.idle:
        return "drag the widths and watch cost and latency answer; accuracy would mean nothing here.", "Tune"
    if at.next == "Tune":
        return "the curves are there; drag the widths and watch accuracy and latency answer.", "Tune"
    if at.next == "Recover":
        return "the plan is drawn; see what repairs and a short training win back of what it lost.", "Recover"
    if at.next == "Export":
        again = "the plan has changed since the last export; write it again." if last_export(record, subject) else ""
        return again or "the plan is drawn; export a network that is really smaller and verified.", "Export"
    return "this plan is exported and verified; download it, or go on tuning.", "Export"


def _loaded(record: Workspace, subject: Subject) -> None:
    cost = count_cost(subject.trace)
    st.markdown(f"##### {subject.loaded.name}")
    st.caption(f"{subject.source_name} · {work.weights_text(record, subject)}")
    curves = work.sensitivity(record, subject) if not work.caveats(subject) else None
    st.html(tables.cost_html(cost, curves.dense if curves else None))
    channels, height, width = subject.trace.example.shape[1:]
    sizes = ", ".join(f"{count:,} for {part}" for part, count in part_sizes(subject.data).items())
    st.markdown(
        f"Reads images of {channels} x {height} x {width}. **{subject.data.name}** gives "
        f"{len(subject.data):,} of {tables.plural(len(subject.data.classes), 'class', 'classes')}: {sizes}."
    )
    _plain_warnings(subject)
    frame.link("Model", "Change network or images")


def _plain_warnings(subject: Subject) -> None:
    for sentence in work.caveats(subject):
        st.info(sentence, icon=":material/info:")


def _found(subject: Subject) -> None:
    found = summarise_trace(subject.trace)
    st.markdown("##### Its channels")
    st.caption("One forward pass tells which channels hang together; they can only leave together.")
    items = [
        ("Layers", tables.count(found.layers), ""),
        ("Groups", tables.count(found.groups), f"{found.prunable} prunable"),
        ("Channels", tables.count(found.channels), f"{tables.count(found.prunable_channels)} prunable"),
    ]
    st.html(tables.strip_html(items, plain=True))
    if found.locked:
        for reason, count in list(found.locked.items())[:4]:
            st.markdown(f":material/lock: {tables.plural(count, 'channel')} locked: {reason}.")
    if found.unknown:
        names = ", ".join(f"`{name}` ({count}x)" for name, count in found.unknown.items())
        st.markdown(f":material/help: Operators without a rule, so what they touch stays: {names}.")
    else:
        st.markdown(":material/check: Every operator of this network is understood.")
    frame.link("Channels", "See the channels")


def _images(subject: Subject) -> None:
    st.markdown(f"##### {subject.data.name}")
    pictures.samples(subject, SHOWN)
