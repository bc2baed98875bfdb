"""What each group of channels can lose: measured curves, one group at a time, everything else dense."""

from __future__ import annotations

from typing import Any

import streamlit as st

from core import (
    CoreError,
    Drop,
    DropRow,
    Sensitivity,
    Subject,
    curves_csv,
    drop_rows,
    is_shipped,
    list_criteria,
    scan_scope,
)
from core.workspace import Workspace
from pages.components import charts, frame, session, tables, work

CRITERIA = {row.name: row for row in list_criteria()}
SEEN, VIEW, QUANTITY, TILE_PAGE = "scan_criterion", "scan_view", "scan_quantity", "scan_tiles"
VIEWS = ("All in one", "One by one")
QUANTITIES = {"accuracy": "Accuracy", "loss": "Loss", "log-loss": "Loss, log scale"}
TILES, TILE_WIDTH = 24, 300
POLLING, MEASURED_NOW = "scan_polling", "scan_measured_now"


def remember(name: str) -> None:
    """A form's value into the workspace: widgets lose theirs when the page is left."""
    session.choose(**{name: session.widget_value(f"menu_{name}")})


def chosen(name: str, options: list[str], default: str) -> str:
    """What was picked last for ``name``, and its widget set to it."""
    value = session.choice(name, default)
    value = value if value in options else default if default in options else options[0]
    session.set_widget_value(f"menu_{name}", value)
    return value


def choose_criterion(record: Workspace) -> str:
    name = chosen(SEEN, list(CRITERIA), work.criterion(record))
    st.selectbox(
        "Which channels leave first",
        list(CRITERIA),
        format_func=lambda name: CRITERIA[name].title,
        key=f"menu_{SEEN}",
        on_change=remember,
        args=(SEEN,),
        width=420,
        help="The importance criterion: the lowest scores leave first. Every criterion has curves of its own.",
    )
    return name


def start(subject: Subject, criterion: str) -> None:
    work.again("scan", subject, criterion=criterion)
    work.ensure("scan", subject, criterion=criterion)
    session.set_temporary(MEASURED_NOW, [*session.temporary(MEASURED_NOW, []), [subject.key, criterion]])


def scan_words(subject: Subject) -> str:
    """ "8 groups × 7 widths on 360 selection images" """
    scope = scan_scope(subject)
    return (
        f"{tables.plural(scope.groups, 'group')} × {tables.plural(scope.widths, 'width')} "
        f"on {tables.plural(scope.images, 'selection image')}"
    )


def invite(subject: Subject, criterion: str) -> None:
    """Before there is a scan: what it will do, and one button."""
    with st.container(border=True):
        st.markdown(f"**No curves for this network by {CRITERIA[criterion].title} yet.**")
        st.markdown(
            "A scan removes channels from one group at a time, leaves everything else dense, and measures how many "
            "images are still right. You can go on working meanwhile, and stop it whenever you have seen enough."
        )
        st.button(
            f"Scan {scan_words(subject)}",
            key="start_scan",
            type="primary",
            icon=":material/play_arrow:",
            on_click=start,
            args=(subject, criterion),
        )


def tell_origin(subject: Subject, sensitivity: Sensitivity, found: work.Work, criterion: str) -> None:
    """Where the curves come from and what they stand on."""
    if found.active:
        origin = ":orange-badge[:material/timelapse: being measured now]"
    elif not sensitivity.complete:
        origin = ":orange-badge[:material/stop_circle: stopped early]"
    elif is_shipped("scan", subject, criterion=criterion):
        origin = ":blue-badge[:material/inventory_2: shipped with this demo]"
    elif [subject.key, criterion] in session.temporary(MEASURED_NOW, []):
        origin = ":green-badge[:material/check: measured just now]"
    else:
        origin = ":green-badge[:material/database: measured earlier, from the store]"
    scope = scan_scope(subject)
    images = f"{sensitivity.dense.images:,} of {scope.images:,}"
    if sensitivity.dense.images == scope.images:
        images = f"{scope.images:,}"
    st.markdown(
        f"{origin} {len(sensitivity.points)} of {tables.plural(scope.groups, 'group')} on {images} selection images of "
        f"{subject.data.name}, drawn by seed {scope.seed}. Lowest {CRITERIA[criterion].title} leaves first. "
        f"Dense network: {tables.percent(sensitivity.dense.accuracy)} "
        f"[{tables.interval(sensitivity.dense.low, sensitivity.dense.high)}]."
    )


def pick(key: str) -> None:
    """A click on a curve selects its group everywhere."""
    points = (session.widget_value(key) or {}).get("selection", {}).get("points", [])
    if points and points[0].get("customdata"):
        session.select_group(str(points[0]["customdata"][0]))


def show_curves(subject: Subject, sensitivity: Sensitivity, focus: str, criterion: str) -> None:
    names = {group.id: group.name for group in subject.trace.coupled if group.id in sensitivity.points}
    view = chosen(VIEW, list(VIEWS), VIEWS[0])
    quantity = chosen(QUANTITY, list(QUANTITIES), "accuracy")
    session.set_widget_value("menu_group", focus)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        st.selectbox(
            "Selected group",
            list(names),
            format_func=lambda group_id: names[group_id],
            key="menu_group",
            on_change=lambda: session.select_group(session.widget_value("menu_group")),
            width=420,
        )
        st.segmented_control("Curves", VIEWS, key=f"menu_{VIEW}", on_change=remember, args=(VIEW,), required=True)
        st.segmented_control(
            "What is lost",
            list(QUANTITIES),
            format_func=lambda name: QUANTITIES[name],
            key=f"menu_{QUANTITY}",
            on_change=remember,
            args=(QUANTITY,),
            required=True,
        )
    options: dict[str, Any] = {
        "quantity": quantity.removeprefix("log-"),
        "log": quantity.startswith("log-"),
        "chance": subject.chance,
    }
    if view == VIEWS[0]:
        figure = charts.curves(sensitivity, names, focus=focus, **options)
        st.plotly_chart(
            figure,
            key="curves",
            config=charts.config(f"sensitivity-{subject.loaded.name.replace('/', '-')}-{criterion}"),
            on_select=lambda: pick("curves"),
            selection_mode="points",
            alt=f"{QUANTITIES[quantity]} of {len(names)} groups against the removed share; {names[focus]} in colour",
        )
        unknown = "" if options["quantity"] == "accuracy" else " No interval is known for the loss."
        st.caption(f"Click a point of a curve to select its group here and on every other page.{unknown}")
    else:
        show_tiles(sensitivity, names, focus, options)


def show_tiles(sensitivity: Sensitivity, names: dict[str, str], focus: str, options: dict[str, Any]) -> None:
    """A small chart per group, all on the same axes; many groups come in pages."""
    ids = list(names)
    pages = [ids[begin : begin + TILES] for begin in range(0, len(ids), TILES)]
    page = 0
    if len(pages) > 1:
        numbers = [str(number + 1) for number in range(len(pages))]
        home = next(number for number, part in zip(numbers, pages, strict=True) if focus in part)
        page = int(chosen(TILE_PAGE, numbers, home)) - 1
        st.segmented_control(
            f"Groups, {TILES} at a time",
            numbers,
            key=f"menu_{TILE_PAGE}",
            on_change=remember,
            args=(TILE_PAGE,),
            required=True,
        )
    bands = "Bands are 95 % intervals" if options["quantity"] == "accuracy" else "No interval is known for the loss"
    st.markdown(f"**{charts.SINGLY}.** {bands}; the grey line is the dense network.")
    with st.container(horizontal=True, gap="small"):
        for group_id in pages[page]:
            key = f"tile_{group_id}"
            st.plotly_chart(
                charts.curve_tile(sensitivity, group_id, names[group_id], focused=group_id == focus, **options),
                key=key,
                width=TILE_WIDTH,
                config={"displayModeBar": False},
                on_select=lambda key=key: pick(key),
                selection_mode="points",
                alt=f"Curve of {names[group_id]} against the removed share",
            )


def show_drops(subject: Subject, sensitivity: Sensitivity, focus: str, criterion: str) -> None:
    """The ranking table: points of accuracy lost at three widths, each group alone."""
    rows = drop_rows(subject.trace, sensitivity)
    st.subheader("What is lost, one group alone", anchor=False)
    st.caption(
        "Percentage points of accuracy below the dense network when 25, 50 or 75 % of one group's channels leave, with "
        "the 95 % interval of the difference (it takes the two measurements for independent, so it is on the wide "
        "side). Click a heading to sort; tick a row to select its group."
    )
    table = [drop_cells(row) for row in rows]
    at = next(number for number, row in enumerate(rows) if row.id == focus)
    session.set_widget_value("drops", {"selection": {"rows": [at]}})
    st.dataframe(
        table,
        key="drops",
        hide_index=True,
        width="stretch",
        column_config={name: st.column_config.NumberColumn(name, format="%.1f") for name in table[0] if "Lost" in name},
        on_select=lambda: pick_row(rows),
        selection_mode="single-row",
    )
    name = f"sensitivity-{subject.loaded.name.replace('/', '-')}-{criterion}.csv"
    st.download_button(
        "All measured points as CSV",
        curves_csv(sensitivity),
        file_name=name,
        mime="text/csv",
        icon=":material/download:",
        on_click="ignore",
    )


def drop_cells(row: DropRow) -> dict[str, Any]:
    cells: dict[str, Any] = {"Group": row.name, "Channels": row.units}
    for share, drop in zip((25, 50, 75), row.drops, strict=True):
        cells[f"Lost at {share} %"] = None if drop is None else 100 * drop.lost
        cells[f"Interval at {share} %"] = tables.MISSING if drop is None else interval_text(drop)
    return cells


def interval_text(drop: Drop) -> str:
    text = f"{100 * drop.low:.1f} to {100 * drop.high:.1f}".replace("-", "−")
    return text if drop.measured else f"{text} (between measured widths)"


def pick_row(rows: list[DropRow]) -> None:
    picked = (session.widget_value("drops") or {}).get("selection", {}).get("rows", [])
    if picked and picked[0] < len(rows):
        session.select_group(rows[picked[0]].id)


def show(subject: Subject, criterion: str) -> None:
    """All below the menu. While a scan runs it is drawn again and again, with what is measured so far."""
    found = work.ensure("scan", subject, criterion=criterion, start=False)
    if found.active != session.temporary(POLLING):
        st.rerun()  # begins or ends the polling
    retry = (lambda: start(subject, criterion)) if found.result is not None else None
    work.progress(found, "Scan", retry=retry, key="scan")
    try:
        sensitivity = Sensitivity.from_dict(found.result) if found.result is not None else None
    except CoreError as error:
        st.error(str(error), icon=":material/error:")
        return
    if sensitivity is None or not sensitivity.points:
        if not found.active:
            invite(subject, criterion)
        else:
            st.caption("The first curves appear after the first images.")
        return
    tell_origin(subject, sensitivity, found, criterion)
    ids = [group.id for group in subject.trace.coupled if group.id in sensitivity.points]
    selected = session.workspace().selected_group
    # The order by what is lost still moves while a scan runs; a focus that jumps would only distract.
    focus = ids[0] if found.active else drop_rows(subject.trace, sensitivity)[0].id
    focus = selected if selected in ids else focus
    show_curves(subject, sensitivity, focus, criterion)
    show_drops(subject, sensitivity, focus, criterion)


with frame.page(
    "Sensitivity", "See what each group of channels can lose while the rest of the network stays as it is."
) as (record, subject):
    for sentence in work.caveats(subject):
        st.warning(sentence, icon=":material/warning:")
    if not subject.trace.prunable:
        raise CoreError("No channel of this network may leave, so there is nothing to scan. See why on page Model.")
    seen = choose_criterion(record)
    under_way = work.ensure("scan", subject, criterion=seen, start=False).active
    session.set_temporary(POLLING, under_way)
    st.fragment(run_every=work.poll(under_way))(show)(subject, seen)
