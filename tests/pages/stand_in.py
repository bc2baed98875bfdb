"""A stand-in for the worker processes, for tests of what pages ask for and show."""

from __future__ import annotations

from typing import Any

from core.work.job_queue import JobStatus


class Jobs:
    """Notes what is asked for, and says of each job what the test set.

    ``asked``: verb, arguments and slot of every job, in order. ``say``: fields of the status of all jobs; ``say_of``:
    of one verb's, over those. Without them a job runs and has done a quarter. ``stopped``: ids of cancelled jobs.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any], str | None]] = []
        self.say: dict[str, Any] = {}
        self.say_of: dict[str, dict[str, Any]] = {}
        self.stopped: list[str] = []

    def submit(
        self, owner: str, verb: str, arguments: dict[str, Any], *, key: str | None = None, replaces: str | None = None
    ) -> str:
        self.asked.append((verb, arguments, replaces))
        return f"{verb}:{len(self.asked)}"

    def status(self, job_id: str) -> JobStatus:
        verb = job_id.partition(":")[0]
        told = {"state": "running", "fraction": 0.25, **self.say, **self.say_of.get(verb, {})}
        if job_id in self.stopped:
            told["state"] = "cancelled"
        return JobStatus(job_id, "me", verb, **told)

    def statuses(self, owner: str) -> list[JobStatus]:
        return []

    def cancel(self, job_id: str) -> None:
        self.stopped.append(job_id)

    def verbs(self) -> list[str]:
        return [verb for verb, _, _ in self.asked]
