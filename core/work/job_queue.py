"""What waits, for whom, and in which order: the records behind a job, and a queue in which owners take turns."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from core.errors import CoreError


class QueueFull(CoreError):  # noqa: N818 - a request to ask again, not a fault
    """Too many jobs wait for this one to wait too."""


ENDED = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class JobStatus:
    """A job as its owner sees it now. ``state``: queued, running, done, failed or cancelled. ``fraction``: 0..1.

    ``position``: 1 = next in its lane, 0 = not waiting. ``eta_s``: seconds left, None while unknown. ``partial``: the
    latest intermediate value, kept after a cancel. ``result`` and ``partial`` are shared between owners: read, never
    change. ``error``: one sentence for people. ``slot``: what it was submitted to replace;
    ``replaced``: a later job of its owner took the slot, so nobody stopped it by hand.
    """

    id: str
    owner: str
    verb: str
    state: str
    fraction: float = 0.0
    message: str = ""
    elapsed_s: float = 0.0
    eta_s: float | None = None
    partial: Any = None
    result: Any = None
    error: str | None = None
    position: int = 0
    slot: str | None = None
    key: str | None = None
    replaced: bool = False

    @property
    def active(self) -> bool:
        return self.state not in ENDED


@dataclass(eq=False)
class Task:
    """One piece of work, wanted by one or more tickets."""

    id: str
    verb: str
    arguments: dict[str, Any]
    key: str | None
    owner: str  # in whose turn it runs
    lane: str
    state: str = "queued"
    fraction: float = 0.0
    message: str = ""
    partial: Any = None
    result: Any = None
    error: str | None = None
    started: float = 0.0
    ended: float = 0.0
    stopping: bool = False
    tickets: dict[str, Ticket] = field(default_factory=dict)


@dataclass(eq=False)
class Ticket:
    """One owner's share in a task."""

    id: str
    owner: str
    slot: str | None
    task: Task
    dropped: bool = False  # asked to stop
    left: bool = False  # the task goes on for others
    replaced: bool = False  # dropped for a later one in its slot

    def status(self, position: int) -> JobStatus:
        task = self.task
        known = task.started and task.fraction > 0.01 and task.state == "running"
        elapsed = ((task.ended or time.monotonic()) - task.started) if task.started else 0.0
        return JobStatus(
            id=self.id,
            owner=self.owner,
            verb=task.verb,
            state="cancelled" if self.left else task.state,
            fraction=task.fraction,
            message="Stopped" if self.left else task.message,
            elapsed_s=elapsed,
            eta_s=elapsed * (1 - task.fraction) / task.fraction if known and not self.left else None,
            partial=task.partial,
            result=None if self.left else task.result,
            error=None if self.left else task.error,
            position=position,
            slot=self.slot,
            key=task.key,
            replaced=self.replaced,
        )


class FairQueue:
    """First in, first out for each owner; owners take turns."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[Task]] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(tasks) for tasks in self._waiting.values())

    def count(self, owner: str) -> int:
        return len(self._waiting.get(owner, ()))

    def add(self, task: Task) -> None:
        self._waiting.setdefault(task.owner, deque()).append(task)

    def remove(self, task: Task) -> None:
        self._waiting[task.owner].remove(task)
        if not self._waiting[task.owner]:
            del self._waiting[task.owner]

    def take(self, allowed: Callable[[str], bool]) -> Task | None:
        """The next task of the first owner in turn who is ``allowed``; None when there is none."""
        for owner, tasks in self._waiting.items():
            if allowed(owner):
                task = tasks.popleft()
                self._waiting.move_to_end(owner)
                if not tasks:
                    del self._waiting[owner]
                return task
        return None

    def order(self) -> list[Task]:
        """All tasks in the order they would be taken."""
        rounds = max((len(tasks) for tasks in self._waiting.values()), default=0)
        return [tasks[i] for i in range(rounds) for tasks in self._waiting.values() if i < len(tasks)]
