"""The worker process and its handle: JSON lines over pipes.

``python -m core.work.worker`` reads ``{"id", "verb", "arguments"}`` and ``{"cancel": id}`` from its input and writes
``{"ready": true}`` once its verbs are imported, then per job any number of ``{"id", "progress": {...}}`` and exactly
one of ``{"id", "result"}``, ``{"id", "cancelled": partial}``, ``{"id", "error", "kind"}``. It ends when its input
closes, so it never outlives the server. Its output carries the protocol only: prints go to the log.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from core.errors import Cancelled, CoreError

ROOT = Path(__file__).resolve().parents[2]
PROGRESS_EVERY_S = 0.1
LANES = ("quick", "long", "all")


@dataclass(frozen=True)
class Verb:
    """What a worker can do: ``target`` is "module:function"; ``quick`` = someone waits for it, a second or two at most;
    ``title`` continues the sentence "... while it worked on {title}". ``resumes``: takes its own partial as ``resume``.

    The function is called with the job's arguments by name, and ``on_progress(fraction, message, partial=None)`` and
    ``cancelled() -> bool``. It takes and returns plain JSON values, never None. Asked to stop, it raises Cancelled or
    returns what it has: either becomes the job's ``partial``.
    """

    target: str
    quick: bool = False
    title: str = "this job"
    resumes: bool = False


# A row per verb. The function's module is imported when a worker starts, so that the first job finds it warm.
VERBS: dict[str, Verb] = {
    "evaluate_plan": Verb("core.work.tasks:evaluate_plan", quick=True, title="measuring a plan"),
    "portrait": Verb("core.show.portraits:portrait", quick=True, title="looking at a channel"),
    "score": Verb("core.work.tasks:score", quick=True, title="scoring channels"),
    "lesson": Verb("core.learn.facts:compute", quick=True, title="measuring for a lesson"),
    "scan": Verb("core.work.tasks:scan", title="the sensitivity scan", resumes=True),
    "taylor_curves": Verb("core.work.tasks:taylor_curves", title="the Taylor estimate"),
    "propose": Verb("core.work.proposal:propose_plan", title="the search for a plan"),
    "latency_table": Verb("core.work.tasks:latency_table", title="timing the layers"),
    "recipe": Verb("core.work.recipe_runs:cook", title="a recipe"),
    "ladder": Verb("core.work.recovery_jobs:climb", title="the recovery ladder"),
    "export": Verb("core.work.tasks:export", title="the export"),
}


def load_verbs(module: str) -> Mapping[str, Verb]:
    """The table ``VERBS`` of a module."""
    return importlib.import_module(module).VERBS


class WorkerProcess:
    """One worker, seen from the server. ``on_message(worker, message)`` and ``on_exit(worker)`` come from a thread.

    ``task`` is free for the owner to note what the worker is busy with.
    """

    def __init__(
        self,
        on_message: Callable[[WorkerProcess, dict[str, Any]], None],
        on_exit: Callable[[WorkerProcess], None],
        *,
        lane: str = "all",
        verbs: str = "core.work.worker",
        threads: int = 1,
    ) -> None:
        self.lane = lane
        self.ready = False
        self.task: Any = None
        self._on_message, self._on_exit = on_message, on_exit
        search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        command = [
            sys.executable,
            "-m",
            "core.work.worker",
            "--lane",
            lane,
            "--verbs",
            verbs,
            "--threads",
            str(threads),
        ]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": search, "PYTHONIOENCODING": "utf-8"},
        )
        self._thread = threading.Thread(target=self._read, daemon=True, name=f"worker-{self.pid}")
        self._thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def name(self) -> str:
        return f"worker {self.pid}"

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def send(self, message: dict[str, Any]) -> None:
        """Nothing is raised when the worker is gone: ``on_exit`` tells."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()

    def join(self, timeout_s: float) -> None:
        """Wait until the process has ended and ``on_exit`` has returned. Not from the worker's own thread."""
        self._thread.join(timeout_s)

    def _read(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        for line in self._process.stdout:
            try:
                message = json.loads(line)
            except ValueError:  # a killed worker's last words
                break
            if "ready" in message:
                self.ready = True
            self._on_message(self, message)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        self._on_exit(self)


class _Inbox:
    """Requests, read by a thread of its own so that a cancel is seen while a verb works."""

    def __init__(self, lines: IO[str]) -> None:
        self._lines = lines
        self._flags: dict[str, threading.Event] = {}
        self._jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> tuple[dict[str, Any], threading.Event]:
        job = self._jobs.get()
        return job, self._flags[job["id"]]

    def done(self, job_id: str) -> None:
        self._flags.pop(job_id, None)

    def _read(self) -> None:
        for line in self._lines:
            message = json.loads(line)
            if "cancel" in message:
                flag = self._flags.get(message["cancel"])
                if flag is not None:
                    flag.set()
            else:
                self._flags[message["id"]] = threading.Event()
                self._jobs.put(message)
        # The server is gone: nobody waits for an answer any more, and files are only ever written atomically.
        os._exit(0)


def run_verb(
    verbs: Mapping[str, Verb], job: Mapping[str, Any], flag: threading.Event, write: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Do one job and give its last message. Progress goes out through ``write``, at most ten times a second unless it
    carries a partial result."""
    job_id, verb, last = job["id"], verbs.get(job["verb"]), 0.0

    def on_progress(fraction: float, message: str = "", partial: Any = None) -> None:
        nonlocal last
        if partial is None and time.monotonic() - last < PROGRESS_EVERY_S:
            return
        last = time.monotonic()
        progress = {"fraction": min(max(float(fraction), 0.0), 1.0), "message": str(message)}
        write({"id": job_id, "progress": progress if partial is None else {**progress, "partial": partial}})

    title = verb.title if verb else job["verb"]
    try:
        if verb is None:
            raise LookupError(f"no verb {job['verb']!r} in {sorted(verbs)}")
        result = _resolve(verb.target)(**job["arguments"], on_progress=on_progress, cancelled=flag.is_set)
        answer = {"id": job_id, "cancelled" if flag.is_set() else "result": result}
        json.dumps(answer)
        return answer
    except Cancelled as stop:
        return {"id": job_id, "cancelled": stop.partial if _is_json(stop.partial) else None}
    except CoreError as error:
        return {"id": job_id, "error": str(error), "kind": type(error).__name__}
    except MemoryError:
        traceback.print_exc()
        sentence = (
            f"There was not enough memory while Prunescope worked on {title}. Try fewer images or a smaller network."
        )
        return {"id": job_id, "error": sentence, "kind": "MemoryError"}
    except Exception as error:
        traceback.print_exc()
        sentence = (
            f"Something in Prunescope broke while it worked on {title}. "
            "Your plans are safe; the details are in the log of the server."
        )
        return {"id": job_id, "error": sentence, "kind": type(error).__name__}


def _resolve(target: str) -> Callable[..., Any]:
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(module), function)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _take_pipes() -> tuple[IO[str], IO[str]]:
    """The protocol's own ends; what verbs or C libraries print goes to the log, and nothing can eat our input."""
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return os.fdopen(requests, "r", encoding="utf-8"), os.fdopen(answers, "w", encoding="utf-8")


def _preload(verbs: Mapping[str, Verb], lane: str, threads: int) -> None:
    for verb in verbs.values():
        if lane in ("all", "quick" if verb.quick else "long"):
            try:
                _resolve(verb.target)
            except Exception:  # one broken verb must not stop the others; calling it tells the person
                traceback.print_exc()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def main() -> None:
    parser = argparse.ArgumentParser(description="A worker of Prunescope; started by the server.")
    parser.add_argument("--lane", choices=LANES, default="all", help="which verbs to import ahead")
    parser.add_argument("--verbs", default="core.work.worker", help="module with the table VERBS")
    parser.add_argument("--threads", type=int, default=1, help="threads for tensor arithmetic")
    options = parser.parse_args()
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the server decides and closes our input
    with contextlib.suppress(OSError):  # Linux: when memory runs out, this process goes and not the server
        Path("/proc/self/oom_score_adj").write_text("500")
    requests, answers = _take_pipes()
    inbox = _Inbox(requests)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(options.threads)
    verbs = load_verbs(options.verbs)
    _preload(verbs, options.lane, options.threads)

    def write(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    write({"ready": True})
    while True:
        job, flag = inbox.next()
        write(run_verb(verbs, job, flag, write))
        inbox.done(job["id"])


if __name__ == "__main__":
    main()
