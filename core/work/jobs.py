"""Background work for several people at once: queued fairly, with progress, shared results and a cancel that works.

Work runs in workers (core/work/executor.py says where). There are two lanes, each with its own workers: ``quick``
verbs, for which someone waits, never stand behind a long scan. Within a lane people take turns, and each person's
jobs keep their order. Two jobs with the same verb and key are one piece of work.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import threading
import time
from collections import deque
from typing import Any

from core.errors import CoreError
from core.keep.store import Store, StoreError, open_store
from core.registry import unknown_name
from core.work.executor import Executor, LocalProcesses, Worker
from core.work.job_parts import Parts
from core.work.job_queue import ENDED, FairQueue, JobStatus, QueueFull, Task, Ticket
from core.work.worker import Verb, load_verbs

log = logging.getLogger(__name__)
UNKNOWN_JOB = "This job is no longer known: the server was started again since, or it ended long ago. Start it again."


class JobManager:
    """Runs verbs of the table ``VERBS`` in module ``verbs``, in ``workers`` processes, or where ``executor`` has them.

    With two or more workers one is kept for quick verbs; with one, quick and long share it. ``per_owner``: how many
    jobs of one owner may run at once in a lane. ``max_queued`` bounds all waiting jobs, ``max_queued_per_owner`` one
    owner's, ``max_ended`` how many ended ones are remembered. ``store`` keeps results of jobs that have a key.
    ``threads`` per worker: the cores shared out evenly when None. A worker that ignores a cancel for
    ``cancel_grace_s`` is killed and replaced. Thread-safe.
    """

    def __init__(
        self,
        workers: int = 2,
        per_owner: int = 1,
        max_queued: int = 32,
        *,
        max_queued_per_owner: int = 8,
        max_ended: int = 64,
        store: Store | None = None,
        verbs: str = "core.work.worker",
        threads: int | None = None,
        cancel_grace_s: float = 0.8,
        executor: Executor | None = None,
    ) -> None:
        self._verbs = load_verbs(verbs)
        self._executor = executor or LocalProcesses(verbs, threads or max(1, (os.cpu_count() or 1) // workers))
        self._per_owner, self._max_queued, self._max_queued_per_owner = per_owner, max_queued, max_queued_per_owner
        self._max_ended, self._store, self._cancel_grace_s = max_ended, store, cancel_grace_s
        self._parts = Parts(store)
        long = "all" if workers < 2 else "long"
        self._sizes = {long: max(1, workers - 1)} if workers < 2 else {"quick": 1, long: workers - 1}
        self._queues = {lane: FairQueue() for lane in self._sizes}
        self._workers: dict[str, list[Worker]] = {lane: [] for lane in self._sizes}
        self._changed = threading.Condition(threading.RLock())
        self._tickets: dict[str, Ticket] = {}
        self._ended: deque[str] = deque()
        self._by_key: dict[tuple[str, str], Task] = {}
        self._closed = False
        atexit.register(self.close)

    # What pages call

    def warm(self) -> None:
        """Start the workers now, so that the first job does not wait for imports. Returns at once."""
        with self._changed:
            for lane in self._sizes:
                self._start_missing(lane)

    def submit(
        self,
        owner: str,
        verb: str,
        arguments: dict[str, Any],
        *,
        key: str | None = None,
        replaces: str | None = None,
    ) -> str:
        """Queue ``verb`` with JSON ``arguments`` for ``owner``; the job's id.

        key: names the result by content; work with this verb and key that waits, runs or is done is shared. A verb that
        can resume goes on from the part that an earlier run left in the store.
        replaces: a slot; an older unfinished job of this owner in the same slot is cancelled.
        Raises CoreError when too many jobs wait, or when there is no such verb.
        """
        if verb not in self._verbs:
            raise unknown_name("verb", verb, list(self._verbs))
        stored = self._stored(verb, key)
        part = self._parts.known(verb, key) if stored is None and self._verbs[verb].resumes else None
        if part is not None and arguments.get("resume") is None:
            arguments = {**arguments, "resume": part}
        with self._changed:
            if self._closed:
                raise CoreError("The server is shutting down; start this again when it is back.")
            task = self._by_key.get((verb, key)) if key is not None else None
            if task is not None and (task.stopping or task.state in ("failed", "cancelled")):
                task = None
            mine = [t for t in task.tickets.values() if t.owner == owner and not t.dropped] if task else []
            self._replace(owner, replaces, keep=mine)
            if mine:
                mine[0].slot = replaces or mine[0].slot
                return mine[0].id
            if task is None:
                task = self._new_task(owner, verb, arguments, key, stored)
                task.partial = part
            return self._new_ticket(owner, replaces, task).id

    def status(self, job_id: str) -> JobStatus:
        """The job as it is now. An unknown id gives a failed status that says so."""
        with self._changed:
            ticket = self._tickets.get(job_id)
            if ticket is None:
                return JobStatus(job_id, "", "", "failed", error=UNKNOWN_JOB)
            return self._describe(ticket)

    def statuses(self, owner: str) -> list[JobStatus]:
        """All jobs of one owner that are still known, oldest first."""
        with self._changed:
            return [self._describe(ticket) for ticket in self._tickets.values() if ticket.owner == owner]

    def cancel(self, job_id: str) -> None:
        """Stop the job if it has not ended. Work that others wait for too goes on for them."""
        with self._changed:
            ticket = self._tickets.get(job_id)
            if ticket is not None and not ticket.dropped and ticket.task.state not in ENDED:
                self._drop(ticket)
                self._pump()

    def wait(self, job_id: str, timeout_s: float | None = None) -> JobStatus:
        """Block until the job has ended or the time is over. For scripts and tests; pages ask ``status``."""
        with self._changed:
            self._changed.wait_for(lambda: not self.status(job_id).active, timeout_s)
            return self.status(job_id)

    def close(self) -> None:
        """End all workers. What was not finished is cancelled."""
        atexit.unregister(self.close)
        with self._changed:
            self._closed = True
            workers = [worker for lane in self._workers.values() for worker in lane]
            for lane, waiting in self._queues.items():
                for task in waiting.order():
                    self._queues[lane].remove(task)
                    self._end(task, "cancelled")
            for worker in workers:
                if worker.task is not None:
                    worker.task.stopping = True
                worker.kill()
        for worker in workers:
            worker.join(5.0)

    # Jobs and tickets; the lock is held in all that follows, unless said otherwise

    def _stored(self, verb: str, key: str | None) -> Any:
        """Without the lock: reading takes time."""
        if key is None or self._store is None:
            return None
        try:
            return self._store.result(verb, key)
        except StoreError as error:
            log.warning("%s", error)
            return None

    def _new_task(self, owner: str, verb: str, arguments: dict[str, Any], key: str | None, stored: Any) -> Task:
        lane = next(iter(self._sizes)) if len(self._sizes) == 1 else _lane_of(self._verbs[verb])
        task = Task(secrets.token_hex(8), verb, arguments, key, owner, lane, message="Waiting for its turn")
        if stored is not None:
            task.state, task.fraction, task.message, task.result = "done", 1.0, "Done", stored
        else:
            self._check_room(owner)
            self._queues[lane].add(task)
        if key is not None:
            self._by_key[verb, key] = task
        return task

    def _check_room(self, owner: str) -> None:
        total = sum(len(waiting) for waiting in self._queues.values())
        own = sum(waiting.count(owner) for waiting in self._queues.values())
        if own >= self._max_queued_per_owner:
            raise QueueFull(
                f"You have {own} jobs waiting, the most one person may have. Cancel one or wait for one to end."
            )
        if total >= self._max_queued:
            raise QueueFull(
                f"{total} jobs are waiting on this server, the most it takes. Try again when some have ended."
            )

    def _new_ticket(self, owner: str, slot: str | None, task: Task) -> Ticket:
        ticket = Ticket(secrets.token_hex(8), owner, slot, task)
        task.tickets[ticket.id] = ticket
        self._tickets[ticket.id] = ticket
        if task.state in ENDED:
            self._remember_ended([ticket])
        self._pump()
        return ticket

    def _replace(self, owner: str, slot: str | None, keep: list[Ticket]) -> None:
        if slot is None:
            return
        for ticket in list(self._tickets.values()):
            same = ticket.owner == owner and ticket.slot == slot and ticket not in keep
            if same and not ticket.dropped and ticket.task.state not in ENDED:
                ticket.replaced = True
                self._drop(ticket)

    def _drop(self, ticket: Ticket) -> None:
        task = ticket.task
        ticket.dropped = True
        others = [other for other in task.tickets.values() if not other.dropped]
        if others:
            ticket.left = True
            self._remember_ended([ticket])
            if task.state == "queued" and task.owner == ticket.owner:
                self._queues[task.lane].remove(task)
                task.owner = others[0].owner
                self._queues[task.lane].add(task)
        elif task.state == "queued":
            self._queues[task.lane].remove(task)
            self._end(task, "cancelled")
        else:
            self._stop(task)
        self._changed.notify_all()

    def _stop(self, task: Task) -> None:
        task.stopping, task.message = True, "Stopping"
        for worker in self._workers[task.lane]:
            if worker.task is task:
                worker.send({"cancel": task.id})
                timer = threading.Timer(self._cancel_grace_s, self._kill_if_busy, (worker, task))
                timer.daemon = True
                timer.start()

    def _kill_if_busy(self, worker: Worker, task: Task) -> None:
        with self._changed:
            if worker.task is task:
                log.warning("%s did not stop %s in time and is replaced", worker.name, task.verb)
                worker.kill()

    def _end(self, task: Task, state: str, **values: Any) -> None:
        for name, value in values.items():
            setattr(task, name, value)
        task.state, task.ended = state, time.monotonic()
        task.message = {"done": "Done", "failed": "Failed", "cancelled": "Stopped"}[state]
        if task.key is not None and state != "done" and self._by_key.get((task.verb, task.key)) is task:
            del self._by_key[task.verb, task.key]
        already = set(self._ended)
        self._remember_ended([ticket for ticket in task.tickets.values() if ticket.id not in already])
        self._changed.notify_all()

    def _remember_ended(self, tickets: list[Ticket]) -> None:
        self._ended.extend(ticket.id for ticket in tickets)
        while len(self._ended) > self._max_ended:
            ticket = self._tickets.pop(self._ended.popleft())
            task = ticket.task
            del task.tickets[ticket.id]
            if not task.tickets and task.key is not None and self._by_key.get((task.verb, task.key)) is task:
                del self._by_key[task.verb, task.key]

    def _describe(self, ticket: Ticket) -> JobStatus:
        task = ticket.task
        waiting = task.state == "queued" and not ticket.left
        return ticket.status(self._queues[task.lane].order().index(task) + 1 if waiting else 0)

    # Workers

    def _start_missing(self, lane: str) -> None:
        workers = self._workers[lane]
        while len(workers) < self._sizes[lane] and not self._closed:
            workers.append(self._executor.start(lane, self._on_message, self._on_exit))

    def _pump(self) -> None:
        for lane, waiting in self._queues.items():
            if len(waiting):
                self._start_missing(lane)
            for worker in self._workers[lane]:
                if worker.ready and worker.task is None:
                    task = waiting.take(lambda owner, lane=lane: self._running(lane, owner) < self._per_owner)  # type: ignore[misc]
                    if task is not None:
                        task.state, task.started, task.message = "running", time.monotonic(), "Started"
                        worker.task = task
                        worker.send({"id": task.id, "verb": task.verb, "arguments": task.arguments})
        self._changed.notify_all()

    def _running(self, lane: str, owner: str) -> int:
        return sum(1 for worker in self._workers[lane] if worker.task is not None and worker.task.owner == owner)

    def _on_message(self, worker: Worker, message: dict[str, Any]) -> None:
        """Without the lock, from the worker's thread."""
        task = worker.task
        if "result" in message and task is not None and task.key is not None and self._store is not None:
            try:
                self._store.put_result(task.verb, task.key, message["result"])
            except StoreError as error:  # the result still reaches those who wait
                log.warning("%s", error)
        if task is not None and self._verbs[task.verb].resumes:
            self._keep_part(task, message)
        with self._changed:
            if task is not None and message.get("id") == task.id:
                self._take_in(worker, task, message)
            self._pump()

    def _keep_part(self, task: Task, message: dict[str, Any]) -> None:
        """Without the lock. A part that led to an error is not tried again."""
        if "progress" in message:
            self._parts.keep(task.verb, task.key, message["progress"].get("partial"))
        elif "cancelled" in message:
            self._parts.keep(task.verb, task.key, message["cancelled"], last=True)
        elif "result" in message or "error" in message:
            self._parts.drop(task.verb, task.key)

    def _take_in(self, worker: Worker, task: Task, message: dict[str, Any]) -> None:
        if "progress" in message:
            progress = message["progress"]
            task.fraction = progress["fraction"]
            task.message = "Stopping" if task.stopping else progress["message"]
            task.partial = progress.get("partial", task.partial)
            return
        worker.task = None
        if "result" in message:
            self._end(task, "done", result=message["result"], fraction=1.0)
        elif "cancelled" in message or task.stopping:
            partial = message.get("cancelled")
            self._end(task, "cancelled", partial=task.partial if partial is None else partial)
        else:
            self._end(task, "failed", error=message["error"])

    def _on_exit(self, worker: Worker) -> None:
        """Without the lock, from the worker's thread. A worker that worked is replaced; one that never got ready costs
        one waiting job, so that a server whose workers cannot start does not try for ever."""
        with self._changed:
            self._workers[worker.lane].remove(worker)
            task, worker.task = worker.task, None
            if self._closed and task is not None:
                self._end(task, "cancelled")
            if self._closed:
                return
            if task is not None and task.stopping:
                self._end(task, "cancelled")
            elif task is not None:
                sentence = f"The process that worked on {self._verbs[task.verb].title} ended suddenly "
                sentence += f"(exit code {worker.exit_code}). Most often memory ran out: try fewer images."
                self._end(task, "failed", error=sentence)
            if worker.ready:
                self._start_missing(worker.lane)
            else:
                task = self._queues[worker.lane].take(lambda owner: True)
                if task is not None:
                    sentence = f"The process for background work could not start (exit code {worker.exit_code}). "
                    self._end(task, "failed", error=sentence + "The log of the server says why.")
            self._pump()


def _lane_of(verb: Verb) -> str:
    return "quick" if verb.quick else "long"


_manager: JobManager | None = None
_manager_lock = threading.Lock()


def open_jobs() -> JobManager:
    """The process-wide manager, with its results in the process-wide store. Raises CoreError without a home folder."""
    global _manager
    with _manager_lock:
        if _manager is None:
            _manager = JobManager(store=open_store())
        return _manager
