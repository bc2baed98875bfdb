"""Jobs with real worker processes: progress, cancel, crash, sharing, turns."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.errors import CoreError
from core.keep.store import Store
from core.work.executor import LocalProcesses
from core.work.job_queue import FairQueue, JobStatus, Task
from core.work.jobs import JobManager

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
WAIT_S = 60.0


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., JobManager]]:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.syspath_prepend(HERE)
    made: list[JobManager] = []

    def make(**options: object) -> JobManager:
        made.append(JobManager(**{"workers": 1, "verbs": "job_verbs", "threads": 1, **options}))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for manager in made:
        manager.close()


def until(manager: JobManager, job: str, seen: Callable[[JobStatus], bool]) -> JobStatus:
    end = time.monotonic() + WAIT_S
    while not seen(manager.status(job)):
        assert time.monotonic() < end, manager.status(job)
        time.sleep(0.01)
    return manager.status(job)


def running(status: JobStatus) -> bool:
    return status.state == "running" and status.partial is not None


def test_a_result_comes_back_with_progress_and_prints_do_no_harm(start: Callable[..., JobManager]) -> None:
    manager = start()
    job = manager.submit("ann", "add", {"a": 2, "b": 3})
    status = manager.wait(job, WAIT_S)
    assert (status.state, status.result, status.fraction, status.position) == ("done", 5, 1.0, 0)
    assert status.partial == {"a": 2}
    assert status.owner == "ann" and not status.active and status.error is None


def test_progress_estimates_the_time_left(start: Callable[..., JobManager], tmp_path: Path) -> None:
    manager = start()
    job = manager.submit("ann", "until", {"path": str(tmp_path / "go")})
    status = until(manager, job, running)
    assert status.fraction == 0.25 and status.message == "working"
    assert status.eta_s == pytest.approx(3 * status.elapsed_s)
    (tmp_path / "go").touch()
    assert manager.wait(job, WAIT_S).result == {"complete": True}


def test_errors_become_one_sentence(start: Callable[..., JobManager], capfd: pytest.CaptureFixture[str]) -> None:
    manager = start()
    refused = manager.wait(manager.submit("ann", "refuse", {}), WAIT_S)
    assert (refused.state, refused.error) == ("failed", "Expected a plan. Found a potato.")
    for verb in ("bug", "not_json"):
        broken = manager.wait(manager.submit("ann", verb, {}), WAIT_S)
        assert broken.state == "failed" and broken.error is not None
        assert f"the test's {verb}" in broken.error and "log" in broken.error
        assert "secret" not in broken.error and "Traceback" not in broken.error
    log = capfd.readouterr().err
    assert "secret detail" in log and "Traceback" in log
    assert manager.wait(manager.submit("ann", "add", {"a": 1, "b": 1}), WAIT_S).result == 2
    with pytest.raises(CoreError, match="Nearest: add"):
        manager.submit("ann", "ad", {})
    assert "no longer known" in str(manager.status("nothing").error)


def test_cancel_keeps_what_is_there_and_the_worker(start: Callable[..., JobManager], tmp_path: Path) -> None:
    manager = start(cancel_grace_s=30)
    before = manager.wait(manager.submit("ann", "pid", {}), WAIT_S).result
    job = manager.submit("ann", "until", {"path": str(tmp_path / "never")})
    until(manager, job, running)
    waiting = manager.submit("ann", "add", {"a": 1, "b": 1})
    assert manager.status(waiting).position == 1
    manager.cancel(waiting)
    assert manager.status(waiting).state == "cancelled"
    manager.cancel(job)
    status = manager.wait(job, WAIT_S)
    assert (status.state, status.partial, status.result) == ("cancelled", {"complete": False}, None)
    raising = manager.submit("ann", "until_raises", {"path": ""})
    until(manager, raising, lambda status: status.fraction > 0)
    manager.cancel(raising)
    assert manager.wait(raising, WAIT_S).partial == [1, 2]
    assert manager.wait(manager.submit("ann", "pid", {}), WAIT_S).result == before


def test_a_worker_that_ignores_cancel_is_replaced(start: Callable[..., JobManager]) -> None:
    manager = start(cancel_grace_s=0.2)
    before = manager.wait(manager.submit("ann", "pid", {}), WAIT_S).result
    job = manager.submit("ann", "deaf", {})
    until(manager, job, running)
    manager.cancel(job)
    status = manager.wait(job, WAIT_S)
    assert (status.state, status.partial, status.error) == ("cancelled", "heard nothing", None)
    after = manager.wait(manager.submit("ann", "pid", {}), WAIT_S).result
    assert after != before
    assert not alive(before)


def test_a_crash_fails_its_job_only(start: Callable[..., JobManager]) -> None:
    manager = start()
    crash = manager.submit("ann", "crash", {})
    after = manager.submit("ann", "add", {"a": 1, "b": 1})
    status = manager.wait(crash, WAIT_S)
    assert status.state == "failed" and "the test's crash" in str(status.error) and "exit code 3" in str(status.error)
    assert manager.wait(after, WAIT_S).result == 2
    until(manager, after, lambda status: not status.active)
    victim = manager.wait(manager.submit("ann", "pid", {}), WAIT_S).result
    job = manager.submit("ann", "deaf", {})
    until(manager, job, running)
    os.kill(victim, 9)
    assert manager.wait(job, WAIT_S).state == "failed"


def test_workers_that_cannot_start_say_so(start: Callable[..., JobManager], tmp_path: Path) -> None:
    manager = start(executor=LocalProcesses("no_such_module", threads=1))
    jobs = [manager.submit("ann", "add", {"a": 1, "b": 1}) for _ in range(2)]
    for job in jobs:
        status = manager.wait(job, WAIT_S)
        assert status.state == "failed" and "could not start" in str(status.error)


def test_the_same_key_is_one_piece_of_work(start: Callable[..., JobManager], tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")
    manager = start(store=store)
    arguments = {"path": str(tmp_path / "log"), "text": "ran"}
    block = manager.submit("ann", "until", {"path": str(tmp_path / "go")})
    first = manager.submit("ann", "note", arguments, key="k")
    assert manager.submit("ann", "note", arguments, key="k") == first
    second = manager.submit("bob", "note", arguments, key="k")
    third = manager.submit("cid", "note", arguments, key="k")
    assert len({first, second, third}) == 3
    manager.cancel(first)  # the queued work goes on in another owner's turn
    assert manager.status(first).state == "cancelled" and manager.status(second).state == "queued"
    (tmp_path / "go").touch()
    assert manager.wait(second, WAIT_S).result == "ran" and manager.wait(third, WAIT_S).result == "ran"
    assert manager.status(first).state == "cancelled" and manager.status(first).result is None
    assert manager.wait(block, WAIT_S).state == "done"
    later = manager.submit("dan", "note", arguments, key="k")
    assert manager.status(later).result == "ran"
    assert (tmp_path / "log").read_text() == "ran\n"

    manager.close()
    again = start(store=store)  # a restart: the stored result comes at once, without a worker
    assert again.status(again.submit("eve", "note", arguments, key="k")).result == "ran"
    assert store.result("add", "k") is None
    assert not again._workers["all"]


def test_running_work_goes_on_while_anyone_waits(start: Callable[..., JobManager], tmp_path: Path) -> None:
    manager = start(store=Store(tmp_path / "store.sqlite"))
    arguments = {"path": str(tmp_path / "go")}
    first = manager.submit("ann", "until", arguments, key="k")
    until(manager, first, running)
    second = manager.submit("bob", "until", arguments, key="k")
    manager.cancel(first)
    assert manager.status(first).state == "cancelled" and manager.status(second).state == "running"
    manager.cancel(second)
    assert manager.wait(second, WAIT_S).state == "cancelled"
    third = manager.submit("bob", "until", arguments, key="k")  # what was cut short is not a result
    until(manager, third, running)
    (tmp_path / "go").touch()
    assert manager.wait(third, WAIT_S).result == {"complete": True}


def test_a_newer_preview_replaces_the_older(start: Callable[..., JobManager], tmp_path: Path) -> None:
    manager = start()
    never, nowhere, nor_there = (str(tmp_path / name) for name in ("never", "nowhere", "nor there"))
    first = manager.submit("ann", "until", {"path": never}, replaces="preview")
    other = manager.submit("bob", "until", {"path": str(tmp_path)}, replaces="preview")
    until(manager, first, running)
    second = manager.submit("ann", "until", {"path": nowhere}, replaces="preview")
    third = manager.submit("ann", "until", {"path": str(tmp_path)}, replaces="preview")
    assert manager.status(second).state == "cancelled"
    assert manager.wait(first, WAIT_S).state == "cancelled"
    assert manager.wait(third, WAIT_S).state == "done" and manager.wait(other, WAIT_S).state == "done"
    assert [status.id for status in manager.statuses("ann")] == [first, second, third]
    assert [status.replaced for status in manager.statuses("ann")] == [True, True, False]
    stopped = manager.submit("ann", "until", {"path": nor_there}, replaces="preview")
    manager.cancel(stopped)
    assert manager.wait(stopped, WAIT_S).state == "cancelled" and not manager.status(stopped).replaced


def test_owners_take_turns_and_queues_are_bounded(start: Callable[..., JobManager], tmp_path: Path) -> None:
    manager = start(max_queued=5, max_queued_per_owner=3)
    log = str(tmp_path / "log")
    block = manager.submit("zoe", "until", {"path": str(tmp_path / "go")})
    until(manager, block, running)
    jobs = [manager.submit("ann", "note", {"path": log, "text": f"ann {i}"}) for i in range(3)]
    with pytest.raises(CoreError, match="one person"):
        manager.submit("ann", "note", {"path": log, "text": "too many"})
    jobs += [manager.submit("bob", "note", {"path": log, "text": f"bob {i}"}) for i in range(2)]
    with pytest.raises(CoreError, match="5 jobs are waiting"):
        manager.submit("cid", "note", {"path": log, "text": "too many"})
    assert [manager.status(job).position for job in jobs] == [1, 3, 5, 2, 4]
    (tmp_path / "go").touch()
    for job in jobs:
        assert manager.wait(job, WAIT_S).state == "done"
    assert Path(log).read_text().splitlines() == ["ann 0", "bob 0", "ann 1", "bob 1", "ann 2"]


def test_quick_jobs_do_not_wait_behind_long_ones(start: Callable[..., JobManager], tmp_path: Path) -> None:
    manager = start(workers=2)
    manager.warm()
    scan = manager.submit("ann", "until", {"path": str(tmp_path / "go")})
    until(manager, scan, running)
    assert manager.wait(manager.submit("ann", "add", {"a": 1, "b": 1}), WAIT_S).result == 2
    assert manager.status(scan).state == "running"


def test_one_person_runs_one_job_at_a_time(start: Callable[..., JobManager], tmp_path: Path) -> None:
    manager = start(workers=3)
    first = manager.submit("ann", "until", {"path": str(tmp_path / "go")})
    second = manager.submit("ann", "until", {"path": str(tmp_path)})
    until(manager, first, running)
    assert manager.wait(manager.submit("bob", "until", {"path": str(tmp_path)}), WAIT_S).state == "done"
    assert manager.status(second).state == "queued"
    (tmp_path / "go").touch()
    assert manager.wait(second, WAIT_S).state == "done"


def test_ended_jobs_are_forgotten_in_order(start: Callable[..., JobManager]) -> None:
    manager = start(max_ended=2)
    jobs = [manager.submit("ann", "add", {"a": i, "b": 0}, key=str(i)) for i in range(4)]
    assert manager.wait(jobs[-1], WAIT_S).result == 3
    assert [status.id for status in manager.statuses("ann")] == jobs[2:]
    assert set(manager._by_key) == {("add", "2"), ("add", "3")}


def test_the_number_of_threads_reaches_the_worker(start: Callable[..., JobManager]) -> None:
    manager = start(threads=3)
    assert manager.wait(manager.submit("ann", "threads", {}), WAIT_S).result == "3"


def test_a_worker_ends_with_its_server(tmp_path: Path) -> None:
    program = """if True:
        import time
        from core.work.jobs import JobManager
        manager = JobManager(workers=1, verbs="job_verbs")
        print(manager.wait(manager.submit("ann", "pid", {})).result, flush=True)
        manager.submit("ann", "deaf", {})
        time.sleep(600)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)])}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment, text=True
    ) as server:
        assert server.stdout is not None
        worker = int(server.stdout.readline())
        assert alive(worker)
        server.kill()
    end = time.monotonic() + WAIT_S
    while alive(worker):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_part_outlives_the_server_and_the_job_goes_on_from_it(
    start: Callable[..., JobManager], tmp_path: Path
) -> None:
    store = Store(tmp_path / "store.sqlite")
    end = tmp_path / "end"
    first = start(store=store)
    job = first.submit("ada", "count", {"path": str(end)}, key="k")
    until(first, job, lambda status: (status.partial or {}).get("rounds", 0) >= 3)
    for workers in first._workers.values():
        for worker in workers:
            worker.kill()  # as when memory runs out
    assert first.wait(job, 10).state == "failed"
    again = start(store=Store(tmp_path / "store.sqlite"))
    job = again.submit("ada", "count", {"path": str(end)}, key="k")
    assert again.status(job).partial["rounds"] >= 1, "shown at once"
    end.touch()
    found = again.wait(job, 20)
    assert found.state == "done" and found.result["began_at"] >= 1
    assert store.result("part-count", "k") is None, "the whole is there now"
    bad = start(store=store)
    store.put_result("part-count", "other", {"rounds": "nonsense"})
    job = bad.submit("ada", "count", {"path": str(end)}, key="other")
    assert bad.wait(job, 20).state == "failed"
    job = bad.submit("ada", "count", {"path": str(end)}, key="other")
    assert bad.wait(job, 20).result["began_at"] == 0, "a part of no use is not tried twice"
    store.close()


def test_close_ends_everything(start: Callable[..., JobManager], tmp_path: Path) -> None:
    manager = start()
    worker = manager.wait(manager.submit("ann", "pid", {}), WAIT_S).result
    jobs = [manager.submit("ann", "until", {"path": str(tmp_path / "never")}) for _ in range(2)]
    manager.close()
    assert [manager.status(job).state for job in jobs] == ["cancelled", "cancelled"]
    assert not alive(worker)
    with pytest.raises(CoreError, match="shutting down"):
        manager.submit("ann", "add", {"a": 1, "b": 1})


def test_the_queue_skips_owners_who_may_not_run() -> None:
    queue = FairQueue()
    for owner in ("ann", "ann", "bob"):
        queue.add(Task(f"{owner}{len(queue)}", "verb", {}, None, owner, "all"))
    assert [task.id for task in queue.order()] == ["ann0", "bob2", "ann1"]
    taken = queue.take(lambda owner: owner != "ann")
    assert taken is not None and taken.id == "bob2"
    assert queue.take(lambda owner: False) is None
    assert [task.id for task in queue.order()] == ["ann0", "ann1"] and queue.count("bob") == 0


def alive(pid: int) -> bool:
    """Running, and not merely waiting for its parent to notice its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
