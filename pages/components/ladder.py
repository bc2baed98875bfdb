"""The recovery ladder of the plan on the desk: one picture, one table, and the job that measures its rungs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from core import (
    MEASURED,
    SECONDS,
    CoreError,
    DenseLevel,
    Plan,
    RungRow,
    Subject,
    best_rung,
    dense_level,
    has_network,
    known_rungs,
    ladder_csv,
    missing_rungs,
    rung_rows,
)
from core.keep.store import open_store
from core.work.jobs import JobStatus, open_jobs
from pages.components import charts, choices, classroom_rules, downloads, frame, moves, session, tables, work
from pages.components.ladder_chart import figure

JOB, TRAIN, KEEP = "ladder_job", "ladder_seconds", "ladder_keep"
TRAINED = "finetune"
TRAINING = {"0": "without", **{str(n): f"{n} s" if n < 60 else f"{n // 60} min" for n in SECONDS}}
ZOOM = "ladder_near"


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
    rows += _own_row(plan, rows)
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
        if any(row.state == MEASURED and row.network == row.name for row in rows):
            st.caption(BESIDE)
        _keep(subject, plan, rows)
        _table(subject, rows, level)


def _own_row(plan: Plan, rows: Sequence[RungRow]) -> list[RungRow]:
    """A network that was kept for this plan and is no rung, one that came with a recipe: beside the ladder."""
    record = session.workspace()
    kept = work.kept_network(record, plan)
    if kept is None or "difference" not in kept or not has_network(kept["name"]):
        return []
    if kept["name"] in {row.network for row in rows}:
        return []
    accuracy = kept["accuracy"]
    value, low, high = kept["difference"]
    summary = "As it came with the plan, or from another training."
    shares = (accuracy["value"], accuracy["low"], accuracy["high"])
    used = work.repair(record, plan) == kept["name"]
    return [
        RungRow(
            kept["name"], kept["title"], summary, "", MEASURED, shares, accuracy["images"], (value, low, high),
            kept["seconds"], used, kept["name"],
        )
    ]  # fmt: skip


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
            disabled=active or classroom_rules.frozen("recover"),
            help=classroom_rules.why("recover"),
            on_click=_start,
            args=(subject, plan, missing, seconds),
        )
        classroom_rules.tell("recover")


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
            disabled=row.kept or classroom_rules.frozen("recover"),
            type="secondary" if row.kept else "primary",
        ):
            _kept(subject, plan, row)
            st.rerun()
    st.caption(KEPT_WORDS.format(title=kept.title) if kept is not None else _other_words(plan))


BESIDE = (
    "The last row is no rung: it is the network that came with this plan. The rungs above it start from the dense "
    "network's own weights."
)
KEPT_WORDS = "Kept: **{title}**. The pages Tune and Export build this plan that way."


def _other_words(plan: Plan) -> str:
    title, _ = work.repair_words(session.workspace(), work.repair(session.workspace(), plan))
    return f"Kept: **{title}**, which is no rung of this ladder. The pages Tune and Export build this plan that way."


def _kept(subject: Subject, plan: Plan, row: RungRow) -> None:
    found = known_rungs(open_store(), subject, plan.to_json(), _seconds() or SECONDS[0])
    if row.network and row.name in found:
        moves.keep_network(plan, row.network, row.title, found[row.name])
    else:
        moves.set_repair(row.name)
    session.notify_done(f"{row.title}: Tune and Export build this plan so from now on.")


def _table(subject: Subject, rows: Sequence[RungRow], level: DenseLevel) -> None:
    st.dataframe(
        [_cells(row) for row in rows if row.state == MEASURED],
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
    downloads.csv("Ladder as CSV", lambda: ladder_csv(rows), f"ladder-{subject.loaded.name}")


def _cells(row: RungRow) -> dict[str, Any]:
    """A measured rung."""
    assert row.accuracy is not None and row.difference is not None  # a zero in their place would look measured
    (value, low, high), (less, least, most) = row.accuracy, row.difference
    return {
        "Rung": f"{row.title}{' (kept)' if row.kept else ''}",
        "Accuracy, %": 100 * value,
        "95 % interval": tables.interval(low, high),
        "To dense, points": 100 * less,
        "Its 95 % interval": f"{tables.points(least)} to {tables.points(most)}",
        "Seconds": row.seconds,
        "How": row.summary,
    }
