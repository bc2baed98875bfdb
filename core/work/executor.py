"""Where work runs: the seam behind the job pool.

All work is in pieces: one job is one verb with plain JSON arguments. Pieces are independent: none waits for another's
answer. They are restartable: a piece is named by its content, gives the same answer wherever and whenever it runs,
writes files atomically only, and a verb that ``resumes`` goes on from the last part it reported. So whatever can run a
Python function elsewhere and carry messages both ways can stand here. Who comes first, sharing, cancelling and keeping
results stay in the pool (core/work/jobs.py).

``LocalProcesses`` is what is used. An engine for several machines, Ray say, would implement ``Executor`` with one actor
per worker: its method calls ``run_verb`` with the piece, passes on every message that it writes, and sets the flag when
a cancel arrives. Pass it as ``JobManager(executor=...)``; nothing else changes. Files that verbs read (demos, uploads)
and the home folder must be seen by all machines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from core.work.worker import WorkerProcess

Message = dict[str, Any]


class Worker(Protocol):
    """Runs one piece at a time, with the messages of core/work/worker.py.

    Takes ``{"id", "verb", "arguments"}`` and ``{"cancel": id}``. Gives ``{"ready": True}`` once it can work; then for
    every piece any number of ``{"id", "progress"}`` and exactly one of ``{"id", "result"}``, ``{"id", "cancelled"}``,
    ``{"id", "error", "kind"}``, unless it is lost before.
    """

    lane: str
    ready: bool  # set before the message that says so is passed on
    task: Any  # free for the pool, None at first

    @property
    def name(self) -> str:
        """For the log."""

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it lives, or when the engine does not know."""

    def send(self, message: Message) -> None:
        """Never waits for the piece, never raises: that a worker is gone is told by ``on_exit``."""

    def kill(self) -> None:
        """End it at once, whatever it is doing; ``on_exit`` follows."""

    def join(self, timeout_s: float) -> None:
        """Wait until it has ended and ``on_exit`` has returned."""


class Executor(Protocol):
    """Starts workers."""

    def start(self, lane: str, on_message: Callable[[Any, Message], None], on_exit: Callable[[Any], None]) -> Worker:
        """A new worker for ``lane``, one of LANES in core/work/worker.py: which verbs it should have at hand.

        Returns at once. ``on_message(worker, message)`` and, once and last, ``on_exit(worker)`` come from a thread of
        the executor's, never from within this call or within ``send``, for the pool holds its lock there.
        """


class LocalProcesses:
    """Workers as processes on this machine, with the table of verbs of a module and some threads each."""

    def __init__(self, verbs: str, threads: int) -> None:
        self.verbs, self.threads = verbs, threads

    def start(self, lane: str, on_message: Callable[[Any, Message], None], on_exit: Callable[[Any], None]) -> Worker:
        return WorkerProcess(on_message, on_exit, lane=lane, verbs=self.verbs, threads=self.threads)
