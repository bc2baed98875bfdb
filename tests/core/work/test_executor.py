"""The pool over another executor than processes: threads here, which may vanish as a machine of a cluster may."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.keep.store import Store
from core.work.executor import Executor, LocalProcesses, Message, Worker
from core.work.jobs import JobManager
from core.work.worker import load_verbs, run_verb

HERE = Path(__file__).parent
WAIT_S = 30.0


class ThreadWorker:
    """A worker in a thread of this process. Killed, it says no more, as if its machine were gone."""

    def __init__(self, verbs: Any, lane: str, on_message: Callable[..., None], on_exit: Callable[..., None]) -> None:
        self.lane, self.ready, self.task, self.exit_code = lane, False, None, None
        self._verbs, self._on_message, self._on_exit = verbs, on_message, on_exit
        self._pieces: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._flag, self._gone = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return self._thread.name

    def send(self, message: Message) -> None:
        if "cancel" in message:
            self._flag.set()
        else:
            self._flag.clear()
            self._pieces.put(message)

    def kill(self) -> None:
        self._gone.set()
        self._flag.set()
        self._pieces.put(None)

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _say(self, message: Message) -> None:
        if not self._gone.is_set():
            self._on_message(self, message)

    def _work(self) -> None:
        self.ready = True
        self._say({"ready": True})
        while not self._gone.is_set():
            piece = self._pieces.get()
            if piece is not None:
                self._say(run_verb(self._verbs, piece, self._flag, self._say))
        self._on_exit(self)


class Threads:
    """Workers as threads; ``workers``: all that were started."""

    def __init__(self, verbs: str) -> None:
        self._verbs = load_verbs(verbs)
        self.workers: list[ThreadWorker] = []

    def start(self, lane: str, on_message: Callable[..., None], on_exit: Callable[..., None]) -> Worker:
        self.workers.append(ThreadWorker(self._verbs, lane, on_message, on_exit))
        return self.workers[-1]


@pytest.fixture(params=["processes", "threads"])
def executor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Executor:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.syspath_prepend(HERE)
    return Threads("job_verbs") if request.param == "threads" else LocalProcesses("job_verbs", threads=1)


def test_pieces_run_stop_and_go_on_wherever_the_workers_are(executor: Executor, tmp_path: Path) -> None:
    """One test, for a process takes a second to start: results, order, cancel with a part, going on from that part."""
    store = Store(tmp_path / "store.sqlite")
    manager = JobManager(workers=1, verbs="job_verbs", store=store, executor=executor)
    try:
        jobs = [manager.submit("ann", "add", {"a": n, "b": 1}, key=f"{n}") for n in range(3)]
        assert [manager.wait(job, WAIT_S).result for job in jobs] == [1, 2, 3]
        stop = tmp_path / "stop"
        job = manager.submit("ann", "count", {"path": str(stop)}, key="counted")
        seen(manager, job)
        manager.cancel(job)
        ended = manager.wait(job, WAIT_S)
        assert ended.state == "cancelled" and ended.partial["rounds"] > 0
        stop.touch()
        again = manager.wait(manager.submit("ben", "count", {"path": str(stop)}, key="counted"), WAIT_S)
        assert again.state == "done" and again.result["began_at"] == ended.partial["rounds"]
    finally:
        manager.close()
        store.close()


def test_a_worker_that_vanishes_is_replaced_and_its_piece_goes_on(executor: Executor, tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")
    manager = JobManager(workers=1, verbs="job_verbs", store=store, executor=executor)
    try:
        stop = tmp_path / "stop"
        job = manager.submit("ann", "count", {"path": str(stop)}, key="counted")
        seen(manager, job)
        manager._workers["all"][0].kill()
        lost = manager.wait(job, WAIT_S)
        assert lost.state == "failed" and "ended suddenly" in str(lost.error)
        stop.touch()
        again = manager.wait(manager.submit("ann", "count", {"path": str(stop)}, key="counted"), WAIT_S)
        assert again.state == "done" and again.result["began_at"] > 0
    finally:
        manager.close()
        store.close()


def seen(manager: JobManager, job: str) -> None:
    """Wait until the job has said something of itself."""
    with manager._changed:
        assert manager._changed.wait_for(lambda: manager.status(job).partial is not None, WAIT_S)
