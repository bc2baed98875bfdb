"""The recovery ladder of the plan on the desk: one picture, one table, and the job that measures its rungs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from core import (
    MEASURED,
    RUNNING,
    SECONDS,
    WAITING,
    CoreError,
    DenseLevel,
    Plan,
    RungRow,
    Subject,
    best_rung,
    dense_level,
    known_rungs,
    ladder_csv,
    missing_rungs,
    rung_rows,
)
from core.jobs import JobStatus, open_jobs
from core.store import open_store
from pages.components import charts, choices, frame, moves, session, tables, work

JOB, TRAIN, KEEP = "ladder_job", "ladder_seconds", "ladder_keep"
TRAINED = "finetune"
TRAINING = {"0": "without", **{str(n): f"{n} s" if n < 60 else f"{n // 60} min" for n in SECONDS}}
STATES = {RUNNING: "being measured …", WAITING: "waiting", "missing": "not measured yet"}
ROW_HEIGHT, NOT_YET = 58, charts.MUTED
ZOOM, NEAR = "ladder_near", 0.1  # a share: ten points


def busy(subject: Subject) -> bool:
    """Whether a ladder of the plan on the desk is being climbed."""
    plan = work.plan(session.workspace(), subject)
    job = _job(subject, plan) if plan is not None else None
    return job is not None and job.active


def show(subject: Subject) -> None:
    """The whole view. While the ladder is climbed it is drawn again and again."""
    record = session.workspace()
    plan = work.plan(record, subject)
    if plan is None:
        _wait_for_scores(subject)
    elif not any(record.removed.values()):
        _nothing()
    else:
        _ladder(subject, plan)


def _wait_for_scores(subject: Subject) -> None:
    """The plan says how many channels leave; the criterion, which."""
    criterion = work.criterion(session.workspace())
    found = work.ensure("score", subject, slot="channels", criterion=criterion)
    if found.done:
        st.rerun()
    st.caption("Which channels leave is not known yet: they are being scored.")
    work.progress(found, "Scoring channels", retry=lambda: work.again("score", subject, criterion=criterion), key="rc")


def _nothing() -> None:
    with st.container(border=True, key="card-nothing"):
        st.markdown("**This plan removes nothing**, so there is nothing to win back.")
        st.caption("Drag the widths on the page Tune, or let a recipe make a plan: choose “Run a recipe” above.")
        frame.link("Tune", "Go to Tune")


def _ladder(subject: Subject, plan: Plan) -> None:
    seconds = _seconds()
    found = known_rungs(open_store(), subject, plan.to_json(), seconds or SECONDS[0])
    job = _job(subject, plan)
    asked = session.choice(JOB)["asked"] if job is not None else ()
    job = job if set(asked) - set(found) else None  # all it was to do is there, however it ended
    asked = asked if job is not None and job.active else ()
    begun = job is not None and job.state == "running"
    rows = rung_rows(found, asked=asked, begun=begun, kept=work.repair(session.workspace(), plan))
    level = dense_level(rows)
    if not found and not asked and job is None:
        st.caption(INVITATION)
    with st.container(horizontal=True, vertical_alignment="bottom", key="ladder-tools"):
        _controls(subject, plan, found, seconds, job)
        near = choices.switch(ZOOM, "Zoom to the dense network") if level is not None else False
    if job is not None:
        again = lambda: _start(subject, plan, missing_rungs(found), seconds)  # noqa: E731
        work.progress(
            work.Work(job.partial, job),
            "The ladder",
            retry=again,
            key="ladder",
            anew="Go on" if found else "Start again",
        )
    st.plotly_chart(
        figure(rows, level, near=near),
        key="ladder",
        config=charts.config(f"ladder-{subject.loaded.name.replace('/', '-')}"),
        alt="Accuracy of the plan's network after each repair, beside the dense network",
    )
    if level is not None:
        _keep(subject, plan, rows)
        _table(subject, rows, level)


INVITATION = (
    "The same plan, built five ways: as cut, with batch norm measured again, with the readers fitted by least squares, "
    "compensated in closed form, and trained for a short while. Each is measured on the selection images."
)


def _seconds() -> int:
    """How long fine-tuning may take; 0 = the ladder ends before it."""
    value = str(session.choice(TRAIN, str(SECONDS[1])))
    return int(value) if value in TRAINING else SECONDS[1]


def _controls(subject: Subject, plan: Plan, found: dict[str, Any], seconds: int, job: JobStatus | None) -> None:
    choices.chosen(TRAIN, list(TRAINING), str(seconds))
    st.selectbox(
        "Fine-tune for",
        list(TRAINING),
        format_func=TRAINING.__getitem__,
        key=f"menu_{TRAIN}",
        on_change=choices.remember,
        args=(TRAIN,),
        width=130,
        help="Training starts from the best rung below it, on calibration images, and stops after this time.",
    )
    missing = [name for name in missing_rungs(found) if seconds or name != TRAINED]
    active = job is not None and job.active
    words = "Measure the ladder" if not found else f"Measure {tables.plural(len(missing), 'missing rung')}"
    if missing and not (job is not None and not active and job.state != "done"):
        st.button(
            words,
            key="start-ladder",
            type="primary",
            icon=":material/stairs:",
            disabled=active,
            on_click=_start,
            args=(subject, plan, missing, seconds),
        )


def _start(subject: Subject, plan: Plan, missing: Sequence[str], seconds: int) -> None:
    asked = [name for name in missing if seconds or name != TRAINED]
    arguments = {
        "model": subject.model_source,
        "weights": subject.weights,
        "data": subject.data_source,
        "plan": plan.to_json(),
        "rungs": asked,
        "seconds": seconds or SECONDS[0],
    }
    try:
        job_id = open_jobs().submit(session.owner(), "ladder", arguments, replaces="ladder")
    except CoreError as error:
        session.notify(str(error))
        return
    session.choose(**{JOB: {"id": job_id, "plan": plan.key, "subject": subject.key, "asked": asked}})


def _job(subject: Subject, plan: Plan) -> JobStatus | None:
    """The climb of this plan's ladder, or how the last one ended; None when there was none or it came through."""
    ticket = session.choice(JOB)
    if not ticket or (ticket["plan"], ticket["subject"]) != (plan.key, subject.key):
        return None
    job = open_jobs().status(ticket["id"])
    return None if job.state == "done" else job


def _keep(subject: Subject, plan: Plan, rows: Sequence[RungRow]) -> None:
    """Which rung the plan's network is built by: Tune, Export and the strip above follow."""
    measured = {row.name: row for row in rows if row.state == MEASURED}
    kept, best = next((row for row in measured.values() if row.kept), None), best_rung(rows)
    assert best is not None
    with st.container(horizontal=True, vertical_alignment="bottom", key="ladder-keep"):
        name = choices.segments(KEEP, "Rung to keep", {one: row.title for one, row in measured.items()}, best.name)
        row = measured[name]
        if st.button(
            "Kept" if row.kept else "Keep this rung",
            key="keep-rung",
            icon=":material/check:" if row.kept else ":material/bookmark_add:",
            disabled=row.kept,
            type="secondary" if row.kept else "primary",
        ):
            _kept(subject, plan, row)
            st.rerun()
    st.caption(KEPT_WORDS.format(title=kept.title) if kept is not None else _other_words(plan))


KEPT_WORDS = "Kept: **{title}**. The pages Tune and Export build this plan that way."


def _other_words(plan: Plan) -> str:
    title, _ = work.repair_words(session.workspace(), work.repair(session.workspace(), plan))
    return f"Kept: **{title}**, which is no rung of this ladder. The pages Tune and Export build this plan that way."


def _kept(subject: Subject, plan: Plan, row: RungRow) -> None:
    if not row.network:
        moves.set_repair(row.name)
    else:
        found = known_rungs(open_store(), subject, plan.to_json(), _seconds() or SECONDS[0])
        moves.keep_network(plan, row.network, row.title, found[row.name]["accuracy"])
    session.notify_done(f"{row.title}: Tune and Export build this plan so from now on.")


def _table(subject: Subject, rows: Sequence[RungRow], level: DenseLevel) -> None:
    st.dataframe(
        [_cells(row) for row in rows],
        hide_index=True,
        width="stretch",
        column_config={
            "Rung": st.column_config.TextColumn(pinned=True, width=170),
            "Accuracy, %": st.column_config.NumberColumn(format="%.1f"),
            "To dense, points": st.column_config.NumberColumn(format="%+.1f"),
            "Seconds": st.column_config.NumberColumn(format="%.1f", help="To build it; measuring is left out."),
            "How": st.column_config.TextColumn(width="large"),
        },
    )
    measured = [row for row in rows if row.state == MEASURED]
    train = " Training had seen none of these images." if any(row.network for row in measured) else ""
    st.caption(
        f"Accuracy on {tables.plural(level.images, 'selection image')} of {subject.data.name}, with 95 % intervals. "
        f"Dense network: {tables.percent(level.value)} [{tables.interval(level.low, level.high)}]. “To dense” compares "
        f"answers image by image, so its interval is narrower than the two accuracies'.{train}"
    )
    st.download_button(
        "Ladder as CSV",
        ladder_csv(rows),
        file_name=f"ladder-{subject.loaded.name.replace('/', '-')}.csv",
        mime="text/csv",
        icon=":material/download:",
        on_click="ignore",
    )


def _cells(row: RungRow) -> dict[str, Any]:
    cells: dict[str, Any] = {"Rung": f"{row.title}{' (kept)' if row.kept else ''}"}
    if row.accuracy is None or row.difference is None:
        empty = {"Accuracy, %": None, "95 % interval": STATES[row.state], "To dense, points": None}
        return {**cells, **empty, "Its 95 % interval": tables.MISSING, "Seconds": None, "How": row.summary}
    value, low, high = row.accuracy
    less, least, most = row.difference
    return {
        **cells,
        "Accuracy, %": 100 * value,
        "95 % interval": tables.interval(low, high),
        "To dense, points": 100 * less,
        "Its 95 % interval": f"{tables.points(least)} to {tables.points(most)}",
        "Seconds": row.seconds,
        "How": row.summary,
    }


def figure(rows: Sequence[RungRow], level: DenseLevel | None, *, near: bool = False) -> go.Figure:
    """The ladder: a row per rung, accuracy with its 95 % interval; hollow and at the edge what is not measured yet.
    near: only what is close to the dense network; rungs far below stand as arrows at the edge."""
    drawn = go.Figure()
    low, high = _range(rows, level, near)
    names = [_label(row) for row in rows]
    if level is not None:
        drawn.add_vrect(x0=100 * level.low, x1=100 * level.high, fillcolor=charts.FAINT, line_width=0, layer="below")
        line = {"color": charts.REFERENCE, "width": 1.6}
        drawn.add_vline(x=100 * level.value, line=line, layer="below")
        name = f"dense network, {tables.percent(level.value)}"
        drawn.add_trace(go.Scatter(x=[None], y=[names[0]], mode="lines", line=line, name=name))
    measured = [(row, name) for row, name in zip(rows, names, strict=True) if row.accuracy is not None]
    drawn.add_trace(
        go.Scatter(
            x=[100 * row.accuracy[0] for row, _ in measured if row.accuracy], y=[name for _, name in measured],
            mode="lines", line={"color": charts.MUTED, "width": 1.2, "dash": "dot"}, showlegend=False, hoverinfo="skip",
        )
    )  # fmt: skip
    for row, name in measured:
        drawn.add_trace(_mark(row, name, low))
    for row, name in zip(rows, names, strict=True):
        if row.accuracy is None:
            drawn.add_trace(_hollow(row, name, low))
    charts.house(drawn, "The recovery ladder", "Accuracy on selection images; bars and band are 95 % intervals", 10)
    drawn.update_layout(height=150 + ROW_HEIGHT * len(rows), margin={"t": 64})
    drawn.update_yaxes(categoryorder="array", categoryarray=names[::-1], ticks="", showgrid=True, automargin=True)
    drawn.update_yaxes(range=[-0.6, len(rows) - 0.4])
    drawn.update_xaxes(title="accuracy, %", range=[low, high], showgrid=True, gridcolor=charts.FAINT)
    charts.legend_below(drawn, 84)
    return drawn


def _label(row: RungRow) -> str:
    if row.accuracy is None or row.difference is None:
        return f"<b>{row.title}</b><br>{STATES[row.state]}"
    return f"<b>{row.title}</b><br>{tables.percent(row.accuracy[0])}, {tables.points(row.difference[0])} points"


def _mark(row: RungRow, name: str, edge: float) -> go.Scatter:
    assert row.accuracy is not None and row.difference is not None
    beyond = 100 * row.accuracy[0] < edge
    value, low, high = (100 * share for share in row.accuracy)
    colour = charts.FOCUS if row.kept else charts.CURVE
    least, most = (tables.points(share) for share in row.difference[1:])
    return go.Scatter(
        x=[edge if beyond else value],
        y=[name],
        mode="markers",
        cliponaxis=False,
        marker={
            "color": colour, "size": 13, "symbol": "triangle-left" if beyond else "diamond" if row.kept else "circle",
        },
        error_x={
            "type": "data", "symmetric": False, "array": [high - value], "arrayminus": [value - low],
            "color": colour, "thickness": 2.2, "width": 5, "visible": not beyond,
        },
        name="kept" if row.kept else "measured",
        legendgroup="kept" if row.kept else "measured",
        showlegend=row.kept,
        hovertemplate=f"<b>{row.title}</b><br>accuracy {value:.1f} % [{low:.1f}, {high:.1f}]"
        f"<br>{tables.points(row.difference[0])} points to dense [{least}, {most}]"
        f"<br>{row.seconds or 0:.1f} s to build<extra></extra>",
    )  # fmt: skip


def _hollow(row: RungRow, name: str, edge: float) -> go.Scatter:
    running = row.state == RUNNING
    return go.Scatter(
        x=[edge],
        y=[name],
        mode="markers",
        marker={
            "color": charts.CURVE if running else NOT_YET, "size": 13, "symbol": "circle-open",
            "line": {"width": 2.5 if running else 1.6},
        },
        cliponaxis=False,
        showlegend=False,
        hovertemplate=f"<b>{row.title}</b><br>{STATES[row.state]}<extra></extra>",
    )  # fmt: skip


def _range(rows: Sequence[RungRow], level: DenseLevel | None, near: bool) -> tuple[float, float]:
    """The axis in percent: from a little below the lowest interval to a little above the highest. near: of those rungs
    whose accuracy is within NEAR points of the dense network, or of the best where none is."""
    found = [row.accuracy for row in rows if row.accuracy is not None]
    if level is None or not found:
        return 0.0, 101.0
    if near:
        least = min(level.value, max(value for value, _, _ in found)) - NEAR
        found = [one for one in found if one[0] >= least]
    ends = [100 * share for one in found for share in one]
    ends += [100 * level.low, 100 * level.high]
    room = max(0.5, 0.06 * (max(ends) - min(ends)))
    return max(0.0, min(ends) - room), min(100 + room / 3, max(ends) + room)
