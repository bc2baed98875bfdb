"""The subject at hand, what was measured of it, and the jobs that measure more.

A result is looked up by content first (shipped with a demo, measured earlier, measured by somebody else); only what is
nowhere becomes a job.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import streamlit as st

from core import Subject, find_result, job_key, open_subject
from core.job_queue import JobStatus
from core.jobs import open_jobs
from core.store import open_store
from core.workspace import Workspace
from pages.components import session

FIRST_MODEL = "demo/digits-vgg"
POLL_S = 0.5


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


def ensure(verb: str, about: Subject, *, slot: str | None = None, start: bool = True, **arguments: Any) -> Work:
    """The result of ``verb`` on ``about``; starts its job when it is not there (unless ``start`` is False).

    slot: an older unfinished job of this person in the same slot is dropped for this one (previews while tuning).
    """
    key = job_key(verb, about, **arguments)
    found = find_result(open_store(), verb, about, **arguments)
    if found is not None:
        return Work(found, None)
    job_id = session.temporary(f"job-{key}")
    if job_id is None:
        if not start:
            return Work(None, None)
        opened = {"model": about.model_source, "weights": about.weights, "data": about.data_source}
        job_id = open_jobs().submit(session.owner(), verb, {**opened, **arguments}, key=key, replaces=slot)
        session.set_temporary(f"job-{key}", job_id)
    job = open_jobs().status(job_id)
    return Work(job.result if job.result is not None else job.partial, job)


def again(verb: str, about: Subject, **arguments: Any) -> None:
    """Forget a failed or cancelled job, so that the next ``ensure`` starts it anew."""
    session.set_temporary(f"job-{job_key(verb, about, **arguments)}", None)


def poll(active: bool) -> float | None:
    """For ``st.fragment(run_every=...)``: often while something is under way, never otherwise."""
    return POLL_S if active else None


def progress(work: Work, what: str, *, retry: Callable[[], None] | None = None, key: str = "") -> None:
    """How far a job is, with time left and a way to stop it; what went wrong when it ended badly. Draw it in a
    fragment that polls."""
    job = work.job
    if job is None or job.state == "done":
        return
    if job.active:
        left = f", about {job.eta_s:.0f} s left" if job.eta_s is not None and job.eta_s >= 1 else ""
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
        st.button("Start again", key=f"again-{key}-{job.id}", on_click=retry)
