"""Take away the network of the plan: really smaller, reloaded in a fresh process, and measured beside the dense one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from core import AS_CUT, MODEL_SUFFIXES, CoreError, Plan, Subject, layer_rows, list_formats
from core.keep.workspace import Workspace, choose, note_measured
from core.work.jobs import JobStatus, open_jobs
from pages.components import classroom_rules, exported, frame, homecoming, session, tables, work
from pages.components.standing import EXPORT, last_export

LEAD = "Write a network that is really smaller, reload it in a fresh process, and measure it on images kept for this."
JOB, FORMATS = "export_job", "export_formats"
ALWAYS, OF_FILES = "checkpoint", "python"  # weights of a network from a file find their place in model.py alone
OF_LIBRARIES, LIBRARIES = "python_class", ("torchvision/", "timm/")
OPTIONAL = {row.name: row for row in list_formats() if row.name != ALWAYS}


def main() -> None:
    with frame.page("Export", LEAD) as (record, subject):
        plan = work.plan(record, subject)
        if plan is None:
            _wait_for_scores(record, subject)
            return
        removes = any(record.removed.values())
        if removes:
            _plan(record, subject, plan)
            _order(record, subject, plan)
        else:
            _nothing()
        found = last_export(session.workspace(), subject)
        if found is not None:
            _results(found, subject, plan)


def _wait_for_scores(record: Workspace, subject: Subject) -> None:
    """The plan says how many channels leave; the criterion, which."""
    criterion = work.criterion(record)
    found = work.ensure("score", subject, slot="channels", criterion=criterion)
    if found.done:
        st.rerun()

    @st.fragment(run_every=work.poll(found.active))
    def show() -> None:
        now = work.ensure("score", subject, slot="channels", criterion=criterion)
        if now.done or (found.active and not now.active):
            st.rerun()
        retry = work.again
        work.progress(now, "Scoring channels", retry=lambda: retry("score", subject, criterion=criterion), key="score")

    show()


def _nothing() -> None:
    with st.container(border=True, key="card-nothing"):
        st.markdown("**This plan removes nothing**, so there is nothing smaller to export yet.")
        st.caption("Drag the widths first; every group you narrow shows up here, before and after.")
        frame.link("Tune", "Go to Tune")


def _plan(record: Workspace, subject: Subject, plan: Plan) -> None:
    st.markdown("##### The plan")
    frame.strip(record, subject)
    title, summary = work.repair_words(record, work.repair(record, plan))
    st.caption(f"**{title}.** {summary} Chosen on the pages Tune and Recover.")
    rows = layer_rows(subject.trace, plan)
    changed = [row for row in rows if row.planned != row.dense]
    with st.expander(f"{len(changed)} of {len(rows)} layers become smaller", expanded=len(rows) <= 12):
        st.dataframe(
            tables.plan_table(rows),
            hide_index=True,
            width="stretch",
            height=min(38 + 35 * len(rows), 480),
            column_config=tables.PLAN_COLUMNS,
        )


def _order(record: Workspace, subject: Subject, plan: Plan) -> None:
    """What to write, the button, and the job while it runs."""
    job = _job(record, subject)
    if job is not None and job.state == "done":
        _note(job, record.choices[JOB])
        st.rerun()
    offered = [name for name in OPTIONAL if name != OF_LIBRARIES or subject.model_source.startswith(LIBRARIES)]
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    with left:
        formats = st.pills(
            "Besides the checkpoint and its recipe, write",
            offered,
            format_func=lambda name: OPTIONAL[name].title,
            selection_mode="multi",
            default=[name for name in record.choices.get(FORMATS, list(OPTIONAL)) if name in offered],
            key="formats",
            help="  \n".join(f"**{row.title}**: {row.summary}" for row in list_formats()),
        )
    right.button(
        "Export",
        type="primary",
        icon=":material/download:",
        width="stretch",
        disabled=(job is not None and job.active) or classroom_rules.frozen("export"),
        help=classroom_rules.why("export"),
        on_click=_start,
        args=(subject, plan, list(formats)),
    )
    classroom_rules.tell("export")
    if job is not None:
        _progress(job.id, subject, plan, list(formats))


def _start(subject: Subject, plan: Plan, formats: list[str]) -> None:
    """Always a new job: files are written for this person, and times are measured now."""
    arguments = {
        "model": subject.model_source,
        "weights": subject.weights,
        "data": subject.data_source,
        "plan": plan.to_json(),
        "repair": work.repair(session.workspace(), plan),
        "owner": session.owner(),
        "formats": list(dict.fromkeys([ALWAYS, *([OF_FILES] if _from_file(subject) else []), *formats])),
        "criterion": work.criterion(session.workspace()),
    }
    try:
        job_id = open_jobs().submit(session.owner(), "export", arguments, replaces="export")
    except CoreError as error:
        session.notify(str(error))
        return
    ticket = {"id": job_id, "plan": work.network_key(session.workspace(), plan), "subject": subject.key}
    session.choose(**{JOB: ticket, FORMATS: formats})


def _from_file(subject: Subject) -> bool:
    return subject.model_source.endswith(MODEL_SUFFIXES)


def _job(record: Workspace, subject: Subject) -> JobStatus | None:
    """The export under way, or how the last one ended; None when it was noted or belongs to another network."""
    ticket = record.choices.get(JOB)
    if not ticket or ticket["subject"] != subject.key:
        return None
    return open_jobs().status(ticket["id"])


def _note(job: JobStatus, ticket: dict[str, Any]) -> None:
    """Keep what the export gave with the work, so that a reload shows it again."""
    result = {**job.result, "plan": ticket["plan"], "subject": ticket["subject"]}
    session.update(lambda record: note_measured(choose(record, **{JOB: None}), EXPORT, result))


def _progress(job_id: str, subject: Subject, plan: Plan, formats: list[str]) -> None:
    begun = open_jobs().status(job_id).active

    @st.fragment(run_every=work.poll(begun))
    def show() -> None:
        job = open_jobs().status(job_id)
        if begun and not job.active:
            st.rerun()
        work.progress(work.Work(None, job), "Export", retry=lambda: _start(subject, plan, formats), key="export")

    show()


def _results(found: dict[str, Any], subject: Subject, plan: Plan) -> None:
    st.divider()
    st.markdown("##### The exported network")
    if found["plan"] != work.network_key(session.workspace(), plan):
        st.info("The plan has changed since this export. Export again to write the new one.", icon=":material/info:")
    directory = Path(found["directory"])
    names = [one["name"] for one in found["files"] if (directory / one["name"]).is_file()]
    _figures(found, subject)
    if not names:
        st.warning("Its files are no longer on the server. Export again to write them anew.", icon=":material/warning:")
        return
    st.caption(_normalised(subject))
    exported.show(found, directory, names, found["plan"])
    if found["plan"] == work.network_key(session.workspace(), plan):
        homecoming.show(subject, plan, directory, names, found["plan"])


def _figures(found: dict[str, Any], subject: Subject) -> None:
    dense, pruned = found["measurements"]["dense"], found["measurements"]["pruned"]
    rows = [
        (
            "Accuracy [95 %]",
            tables.accuracy_text(dense["accuracy"]),
            tables.accuracy_text(pruned["accuracy"]),
            tables.difference_text(found["difference"]),
        ),
        (
            "Latency [quartiles]",
            tables.latency_text(dense["latency"]),
            tables.latency_text(pruned["latency"]),
            tables.relative(pruned["latency"]["median_ms"], dense["latency"]["median_ms"]) or "same",
        ),
        *(
            (title, write(dense[name]), write(pruned[name]), tables.relative(pruned[name], dense[name]) or "same")
            for title, name, write in (
                ("MACs", "macs", tables.count),
                ("Parameters", "params", tables.count),
                ("Size", "size_bytes", tables.size),
            )
        ),
    ]
    # A table that wraps: on a phone nothing of it is out of sight.
    columns = zip(*rows, strict=True)
    st.table(dict(zip(("Figure", "Dense", "Exported", "Change"), columns, strict=True)), border="horizontal")
    timed = pruned["latency"]
    after, _ = work.repair_words(session.workspace(), found["measurements"].get("repair", AS_CUT))
    st.caption(
        f"Accuracy on {found['measurements']['data']}: images that nothing was chosen by. Latency: both "
        f"in one run, {tables.device_text(timed)}, {timed['repeats']} repeats. "
        f"After the cut: {after}."
    )
    for sentence in work.caveats(subject):
        st.info(sentence, icon=":material/info:")


def _normalised(subject: Subject) -> str:
    """How images go into every file."""
    shape = " x ".join(str(size) for size in subject.trace.example.shape[1:])
    return (
        f"Images go in as float32, N x {shape}, normalised: (value in 0..1 - mean) / std, with mean "
        f"{tables.numbers(subject.data.mean)} and std {tables.numbers(subject.data.std)}."
    )


main()
