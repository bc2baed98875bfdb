"""What each group of channels can lose: measured curves, one group at a time, everything else dense."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from core import WITHIN, CoreError, Limit, LossEstimate, Sensitivity, Subject, drop_rows, lost_points, room
from pages.components import charts, choices, curve_marks, devices, frame, ranking, scans, session, stairs, work
from pages.components.scans import Asked

VIEW, QUANTITY, TILE_PAGE = "scan_view", "scan_quantity", "scan_tiles"
NEAR = "scan_near"
LIMITS = {"accuracy": "scan_limit_points", "loss": "scan_limit_nats"}
VIEWS = ("All in one", "One by one")
QUANTITIES = {"accuracy": "Accuracy", "loss": "Loss", "log-loss": "Loss, log scale"}
TILES, TILE_WIDTH = 24, 300
POLLING = "scan_polling"
TAYLOR = "taylor_curves"


def pick(key: str) -> None:
    """A click on a curve selects its group everywhere."""
    points = (session.widget_value(key) or {}).get("selection", {}).get("points", [])
    if points and points[0].get("customdata"):
        session.select_group(str(points[0]["customdata"][0]))


def show_curves(asked: Asked, sensitivity: Sensitivity, focus: str) -> Limit:
    """The curves, all in one or one by one, with the limit; gives the limit."""
    subject = asked.subject
    names = {group.id: group.name for group in subject.trace.coupled if group.id in sensitivity.points}
    session.set_widget_value("menu_group", focus)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.selectbox(
            "Selected group",
            list(names),
            format_func=lambda group_id: names[group_id],
            key="menu_group",
            on_change=lambda: session.select_group(session.widget_value("menu_group")),
            width=270,
        )
        view = choices.segments(VIEW, "Curves", {name: name for name in VIEWS})
        shown = choices.segments(QUANTITY, "What is lost", QUANTITIES)
        limit = choose_limit(shown.removeprefix("log-"))
        near = choices.switch(NEAR, "Zoom to the limit")
    # The estimate expands about the dense network; beside curves from a plan it would be another network's.
    wanted = limit.quantity == "loss" and asked.plan is None
    estimate = show_estimate(subject, asked.criterion) if wanted else None
    options: dict[str, Any] = {
        "quantity": limit.quantity,
        "log": shown.startswith("log-"),
        "chance": subject.chance,
    }
    marks = marking(subject, sensitivity, limit, estimate, near, options["log"])
    if view == VIEWS[0]:
        figure = charts.curves(sensitivity, names, focus=focus, **options)
        has = marks(figure, focus, charts.FOCUS)
        curve_marks.add_room(figure, has, subject.trace.group(focus).units)
        st.plotly_chart(
            figure,
            key="curves",
            config=charts.config(f"sensitivity-{scans.file_name(asked)}"),
            on_select=lambda: pick("curves"),
            selection_mode="points",
            alt=f"{QUANTITIES[shown]} of {len(names)} groups against the removed share; {names[focus]} in colour",
        )
        st.caption(f"{key_words(limit)} Click a point of a curve to select its group here and on every other page.")
    else:
        show_tiles(sensitivity, names, focus, options, marks)
        st.caption(key_words(limit))
    return limit


def marking(
    subject: Subject,
    sensitivity: Sensitivity,
    limit: Limit,
    estimate: LossEstimate | None,
    near: bool,
    log: bool,
) -> Callable[[Any, str, str], int]:
    """What draws limit, verdicts and estimate of one group over a chart, and gives how many units may leave."""

    def marks(figure: Any, group_id: str, colour: str) -> int:
        curve_marks.add_limit(figure, sensitivity, limit)
        if near:
            curve_marks.zoom(figure, sensitivity, limit, log=log)
        found = lost_points(sensitivity, group_id, limit.quantity)
        curve_marks.mark_verdicts(figure, group_id, found, limit)
        if estimate is not None:
            curve_marks.add_estimate(figure, sensitivity, estimate, group_id, colour=colour)
        return room(subject.trace, sensitivity, group_id, limit).count(WITHIN)

    return marks


def key_words(limit: Limit) -> str:
    """What the points' symbols say."""
    if limit.quantity == "loss":
        return "● within the limit, ✕ beyond it. No interval is known for the loss."
    return "By the 95 % interval of what is lost: ● surely within the limit, ○ perhaps, ✕ beyond it."


def show_tiles(
    sensitivity: Sensitivity,
    names: dict[str, str],
    focus: str,
    options: dict[str, Any],
    marks: Callable[[Any, str, str], int],
) -> None:
    """A small chart per group, all on the same axes; many groups come in pages."""
    ids = list(names)
    pages = [ids[begin : begin + TILES] for begin in range(0, len(ids), TILES)]
    page = 0
    if len(pages) > 1:
        numbers = [str(number + 1) for number in range(len(pages))]
        home = next(number for number, part in zip(numbers, pages, strict=True) if focus in part)
        page = int(choices.segments(TILE_PAGE, f"Groups, {TILES} at a time", {one: one for one in numbers}, home)) - 1
    bands = (
        "Bands are 95 % intervals" if options["quantity"] == "accuracy" else "Dashed, where known: Taylor's estimate"
    )
    start = charts.start_name(sensitivity)
    st.markdown(f"**{charts.singly(sensitivity)}.** {bands}; the grey line is the {start}, the violet one the limit.")
    with st.container(horizontal=True, gap="small"):
        for group_id in pages[page]:
            key = f"tile_{group_id}"
            figure = charts.curve_tile(sensitivity, group_id, names[group_id], focused=group_id == focus, **options)
            marks(figure, group_id, charts.FOCUS if group_id == focus else charts.CURVE)
            st.plotly_chart(
                figure,
                key=key,
                width=TILE_WIDTH,
                config={"displayModeBar": False},
                on_select=lambda key=key: pick(key),
                selection_mode="points",
                alt=f"Curve of {names[group_id]} against the removed share",
            )


def choose_limit(quantity: str) -> Limit:
    """How much may be lost, in the unit of what is drawn."""
    if quantity == "loss":
        about = "How much cross-entropy one group alone may add to the dense network's."
        nats = choices.number(
            LIMITS[quantity], "Limit: nats added", 0.1, step=0.05, most=100.0, format="%.2f", help=about
        )
        return Limit(quantity, nats)
    about = "How many percentage points of the dense network's accuracy one group alone may cost."
    points = choices.number(
        LIMITS[quantity], "Limit: points lost", 1.0, step=0.5, most=100.0, format="%.1f", help=about
    )
    return Limit(quantity, points / 100)


def show_estimate(subject: Subject, criterion: str) -> LossEstimate | None:
    """Taylor's estimate of the loss when it is known; else a button that asks for it."""
    known: LossEstimate | None = work.known(TAYLOR, subject, LossEstimate.from_dict, criterion=criterion)
    if known is not None:
        return known
    found = work.ensure(TAYLOR, subject, criterion=criterion, start=False)
    work.progress(found, "Taylor estimate", retry=lambda: start_estimate(subject, criterion), key="taylor")
    if found.job is None:
        st.button(
            "Estimate the loss by Taylor",
            key="start_taylor",
            icon=":material/line_axis:",
            on_click=start_estimate,
            args=(subject, criterion),
            help="One backward pass over the scan's images foretells the loss of every width: a dashed line.",
        )
    return None


def start_estimate(subject: Subject, criterion: str) -> None:
    work.again(TAYLOR, subject, criterion=criterion)
    work.ensure(TAYLOR, subject, criterion=criterion)


def busy(asked: Asked) -> bool:
    """Whether anything shown here is being measured."""
    wanted: tuple[tuple[str, dict[str, str]], ...] = (
        ("scan", asked.arguments),
        (TAYLOR, {"criterion": asked.criterion}),
        (stairs.VERB, {}),
    )
    return any(work.ensure(verb, asked.subject, start=False, **arguments).active for verb, arguments in wanted)


def show(asked: Asked) -> None:
    """All below the menu. While something is measured it is drawn again and again, with what there is so far."""
    if busy(asked) != session.temporary(POLLING):
        st.rerun()  # begins or ends the polling
    try:
        show_scan(asked)
    except CoreError as error:
        st.error(str(error), icon=":material/error:")


def show_scan(asked: Asked) -> None:
    subject = asked.subject
    found = work.ensure("scan", subject, start=False, **asked.arguments)
    retry = (lambda: scans.start(asked)) if found.result is not None else None
    work.progress(found, "Scan", retry=retry, key="scan", anew="Go on")
    sensitivity = scans.read(asked, found)
    if sensitivity is None or not sensitivity.points:
        if found.active:
            st.caption("The first curves appear after the first images.")
        elif found.result is None or sensitivity is not None:
            scans.invite(asked)
        return
    scans.tell_origin(asked, sensitivity, found)
    ids = [group.id for group in subject.trace.coupled if group.id in sensitivity.points]
    selected = session.workspace().selected_group
    # The order by what is lost still moves while a scan runs; a focus that jumps would only distract.
    focus = ids[0] if found.active else drop_rows(subject.trace, sensitivity)[0].id
    focus = selected if selected in ids else focus
    limit = show_curves(asked, sensitivity, focus)
    here = work.latency_table(subject)
    table = devices.chosen_table(subject, here)
    stairs.show(subject, sensitivity, table, limit, focus, asked.plan)
    if here is not None:
        devices.exchange(subject, here)
    ranking.show(subject, sensitivity, table, limit, focus, scans.file_name(asked), asked.plan)


with frame.page(
    "Sensitivity", "See what each group of channels can lose while the rest of the network stays as it is."
) as (record, subject):
    for sentence in work.caveats(subject):
        st.warning(sentence, icon=":material/warning:")
    if not subject.trace.prunable:
        raise CoreError("No channel of this network may leave, so there is nothing to scan. See why on page Model.")
    seen = scans.choose(record, subject)
    under_way = busy(seen)
    session.set_temporary(POLLING, under_way)
    st.fragment(run_every=work.poll(under_way))(show)(seen)
