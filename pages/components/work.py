"""The subject at hand, what was measured of it, and the jobs that measure more.

A result is looked up by content first (shipped with a demo, measured earlier, measured by somebody else); only what is
nowhere becomes a job.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from core import (
    AS_CUT,
    CoreError,
    LatencyTable,
    Opening,
    Plan,
    Recent,
    Scores,
    Sensitivity,
    Subject,
    begin_opening,
    desk_plan,
    device_table,
    find_result,
    has_network,
    job_key,
    list_repairs,
    newest_table,
    open_subject,
    pinned_plan,
)
from core.keep.store import open_store
from core.keep.workspace import Workspace
from core.work.jobs import JobStatus, QueueFull, open_jobs
from pages.components import session

FIRST_MODEL = "demo/digits-vgg"
FIRST_CRITERION, WEIGHTS_CRITERION = "taylor", "weight-l2"
NETWORKS, MAX_NETWORKS = "kept_networks", 24  # among the choices: by a plan's key, the network kept for it
REPAIRS = {row.name: row for row in list_repairs()}
POLL_S = 0.5
CROWD = 32  # taken for the place in line where there is none
PATIENCE_S = 1.0  # for a network to open before the page says what is happening
EARLY = 0.05  # before this share is done the time left would be a guess
PARSED_RESULTS = 24  # scores and scans kept as records, for everybody
PLANS = 64  # so are plans


@dataclass(frozen=True)
class Work:
    """``result``: plain JSON, the newest there is: final when ``done``, else partial or None. ``job``: the job that
    computes it, None when it was there already or was not asked for."""

    result: Any
    job: JobStatus | None

    @property
    def done(self) -> bool:
        return self.result is not None and (self.job is None or self.job.state == "done")

    @property
    def active(self) -> bool:
        return self.job is not None and self.job.active


def subject(record: Workspace) -> Subject:
    """What the workspace has open; the first demo in a new one. Raises CoreError with a sentence for the user."""
    return open_subject(record.model_source or FIRST_MODEL, record.weights_path, record.data_source)


def opening(record: Workspace, *, anew: bool = False) -> Opening[Subject]:
    """The same, begun in a thread: for pages, which wait ``PATIENCE_S`` and then say how far it is."""
    asked = (record.model_source or FIRST_MODEL, record.weights_path, record.data_source)
    return begin_opening(*asked, who=session.owner(), anew=anew)


def weights_text(record: Workspace, about: Subject) -> str:
    """Where the weights came from, in words."""
    origin = about.loaded.weights
    if origin is None:
        return "Random weights"
    known = {"shipped": "Trained weights, shipped with Prunescope", "pretrained": "Its authors' weights"}
    return known.get(origin) or f"Weights from {record.weights_name or Path(origin).name}"


def caveats(about: Subject) -> list[str]:
    """What makes the accuracy of this subject meaningless, in plain sentences."""
    learned, real = about.loaded.weights is not None, about.real_images
    if learned and real:
        return []
    if real:
        return ["Random weights: this network has learned nothing, so its accuracy means nothing. Cost and speed hold."]
    what = "Random images with random labels" if learned else "Random weights, and random images with random labels"
    return [f"{what}: accuracy means nothing here. Cost and speed hold."]


def criterion(record: Workspace) -> str:
    """The importance criterion in use. In a new workspace one that asks images, unless their labels mean nothing."""
    return record.criterion or (FIRST_CRITERION if not caveats(subject(record)) else WEIGHTS_CRITERION)


def scores(record: Workspace, about: Subject) -> Scores | None:
    """Scores by the criterion in use, if they are known; never starts a job."""
    return known("score", about, Scores.from_dict, criterion=criterion(record))


def sensitivity(record: Workspace, about: Subject) -> Sensitivity | None:
    """The curves of the criterion in use, if they are known; never starts a job."""
    return known("scan", about, Sensitivity.from_dict, criterion=criterion(record))


def plan(record: Workspace, about: Subject) -> Plan | None:
    """The plan the workspace's bars stand for: nothing removed needs no scores, nor do units that are pinned; else None
    until they are known."""
    if not any(record.removed.values()):
        return Plan({})
    ranked, pin = scores(record, about), record.pinned

    def make() -> tuple[Scores | None, Plan | None]:
        if pin:
            return ranked, pinned_plan(about.trace, ranked, record.removed, Plan.from_json(pin))
        return ranked, desk_plan(about.trace, ranked, record.removed) if ranked is not None else None

    # One run of a page asks a dozen times, and a large network's plan takes milliseconds to make and to name.
    return _plans.get((about.key, id(ranked), pin, frozenset(record.removed.items())), make)[1]


def pinned(record: Workspace, about: Subject) -> Plan | None:
    """The plan at hand where its units were chosen by name; None where the criterion in use chooses them."""
    return plan(record, about) if record.pinned else None


def kept_network(record: Workspace, plan: Plan) -> dict[str, Any] | None:
    """The network that was kept for ``plan``: "name" of its weights, "title" in words, "used" whether it is the one to
    build; None when there is none."""
    found = record.choices.get(NETWORKS, {}).get(plan.key)
    return dict(found) if found else None


def repair(record: Workspace, about: Plan | None = None) -> str:
    """How the network of a plan (the one at hand when not given) is built: as cut until something else is chosen."""
    asked = about if about is not None else plan(record, subject(record))
    kept = kept_network(record, asked) if asked is not None else None
    if kept is not None and kept["used"] and has_network(kept["name"]):
        return str(kept["name"])
    return str(record.choices.get("repair", AS_CUT))


def repair_words(record: Workspace, name: str) -> tuple[str, str]:
    """A repair's title and what it does, in one sentence; ``name`` may be that of a kept network."""
    if name in REPAIRS:
        return REPAIRS[name].title, REPAIRS[name].summary
    kept = next((one for one in record.choices.get(NETWORKS, {}).values() if one["name"] == name), None)
    title = kept["title"] if kept else "A kept network"
    return title, "Its weights are kept as they were made on the page Recover."


def network_key(record: Workspace, plan: Plan) -> str:
    """Names the network that is built of ``plan`` under the repair in use."""
    return f"{plan.key}-{repair(record, plan)}"


def measured(record: Workspace, about: Subject, plan: Plan) -> dict[str, Any]:
    """What was measured of ``plan`` under the repair in use; {} when nothing was. The page Recover measures accuracy
    alone, on the same images."""
    text, how = plan.to_json(), repair(record, plan)
    found = known("evaluate_plan", about, dict, plan=text, repair=how)
    if found is not None:
        return dict(found)
    kept = kept_network(record, plan)
    if kept is not None and kept["name"] == how:
        return {"accuracy": kept["accuracy"]} if "accuracy" in kept else {}
    rung = known_rung(about, plan, how)
    return {"accuracy": rung["accuracy"]} if rung is not None else {}


def known_rung(about: Subject, plan: Plan, repair: str) -> dict[str, Any] | None:
    """What the recovery ladder of ``plan`` found of a repair; never starts a job."""
    found = known("rung", about, dict, plan=plan.to_json(), rung=repair)
    return dict(found) if found is not None else None


def latency_table(about: Subject) -> LatencyTable | None:
    """The times measured of this network on this machine, corrected by every plan that was timed since; None when they
    are not known. Never starts a job."""
    table = known("latency_table", about, LatencyTable.from_dict)
    return None if table is None else newest_table(open_store(), job_key("latency_table", about), about.trace, table)


def latency_of_device(about: Subject) -> LatencyTable | None:
    """The times of another device that this person brought, if any and if they can be read."""
    try:
        return device_table(about, session.owner())
    except CoreError:
        return None


_parsed: Recent[Any] = Recent(PARSED_RESULTS)
_plans: Recent[tuple[Scores | None, Plan | None]] = Recent(PLANS)  # each with the scores that it comes from


def known(verb: str, about: Subject, read: Callable[[Any], Any], **arguments: Any) -> Any:
    """A stored result as its record. Keys name the content, so what was read once stays right for everybody."""

    def look() -> Any:
        found = find_result(open_store(), verb, about, **arguments)
        return None if found is None else read(found)

    return _parsed.get(job_key(verb, about, **arguments), look)


def ensure(
    verb: str,
    about: Subject,
    *,
    slot: str | None = None,
    start: bool = True,
    resume: Any = None,
    **arguments: Any,
) -> Work:
    """The result of ``verb`` on ``about``; starts its job when it is not there (unless ``start`` is False).

    slot: an older unfinished job of this person in the same slot is dropped for this one (previews while tuning). What
    was dropped so is as if it had never begun; what somebody stopped stays stopped until ``again``.
    resume: a partial result to go on from; it does not change what comes out, and so does not name it.
    """
    key = job_key(verb, about, **arguments)
    found = find_result(open_store(), verb, about, **arguments)
    if found is not None:
        return Work(found, None)
    job_id = session.temporary(f"job-{key}")
    if job_id is not None and open_jobs().status(job_id).replaced:
        job_id = None
    if job_id is None:
        every = open_jobs().statuses(session.owner()) if not start else []
        mine = [job for job in every if job.key == key and not job.replaced]
        if mine:  # begun before a reload, or in another window
            return Work(mine[-1].result if mine[-1].result is not None else mine[-1].partial, mine[-1])
        if not start:
            return Work(None, None)
        opened = {"model": about.model_source, "weights": about.weights, "data": about.data_source}
        given = {**opened, **arguments} if resume is None else {**opened, **arguments, "resume": resume}
        job_id = open_jobs().submit(session.owner(), verb, given, key=key, replaces=slot)
        session.set_temporary(f"job-{key}", job_id)
    job = open_jobs().status(job_id)
    return Work(job.result if job.result is not None else job.partial, job)


def ensure_or_wait(verb: str, about: Subject, *, slot: str | None = None, **arguments: Any) -> Work:
    """As ``ensure``, for what a page asks for by itself: where too many jobs wait it is asked for again later."""
    try:
        return ensure(verb, about, slot=slot, **arguments)
    except QueueFull:
        crowd = "many people measure at this moment"
        return Work(None, JobStatus("", session.owner(), verb, "queued", message=crowd, position=CROWD, slot=slot))


def again(verb: str, about: Subject, **arguments: Any) -> None:
    """Forget a failed or cancelled job, so that the next ``ensure`` starts it anew."""
    session.set_temporary(f"job-{job_key(verb, about, **arguments)}", None)


def forget(verb: str, about: Subject, **arguments: Any) -> None:
    """Throw a stored result away, one that cannot be read for example, so that the next ``ensure`` makes it anew."""
    again(verb, about, **arguments)
    key = job_key(verb, about, **arguments)
    _parsed.drop(key)
    open_store().drop_result(verb, key)


def cancel(found: Work) -> None:
    """Stop a job; what it measured until then is kept."""
    if found.job is not None:
        open_jobs().cancel(found.job.id)


def poll(active: bool) -> float | None:
    """For ``st.fragment(run_every=...)``: often while something is under way, never otherwise."""
    return POLL_S if active else None


def progress(
    work: Work, what: str, *, retry: Callable[[], None] | None = None, key: str = "", anew: str = "Start again"
) -> None:
    """How far a job is, with time left and a way to stop it; what went wrong when it ended badly. Draw it in a
    fragment that polls. ``anew``: the words on the button that calls ``retry``."""
    job = work.job
    if job is None or job.state == "done":
        return
    if job.active:
        told = job.eta_s is not None and job.eta_s >= 1 and job.fraction >= EARLY
        told = told and not job.message.endswith(" left")  # a scan says itself how long, and knows better
        left = f", about {job.eta_s:.0f} s left" if told else ""
        waiting = f"waiting, {job.position} in line" if job.state == "queued" and job.position else job.message
        bar, stop = st.columns([6, 1], vertical_alignment="center")
        bar.progress(
            job.fraction, text=f"{what}: {100 * job.fraction:.0f} %{left}" + (f" ({waiting})" if waiting else "")
        )
        stop.button("Cancel", key=f"cancel-{key}-{job.id}", on_click=open_jobs().cancel, args=(job.id,))
        return
    told = job.error or f"{what} was cancelled." + (" What was measured until then is kept." if job.partial else "")
    (st.error if job.state == "failed" else st.info)(told)
    if retry is not None:
        st.button(anew, key=f"again-{key}-{job.id}", on_click=retry)
