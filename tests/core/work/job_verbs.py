"""Verbs for test_jobs.py. They import nothing heavy, so that a worker starts at once."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from core.errors import Cancelled, PlanError
from core.work.worker import Verb


def add(a: int, b: int, on_progress: Any, cancelled: Any) -> int:
    on_progress(0.5, "half-way", {"a": a})
    print("a print must not break the protocol")
    os.write(1, b"nor what a C library writes\n")
    return a + b


def note(path: str, text: str, on_progress: Any, cancelled: Any) -> str:
    """Append a line, so that a test sees what ran, how often and in which order."""
    with Path(path).open("a") as file:
        file.write(text + "\n")
    return text


def until(path: str, on_progress: Any, cancelled: Any) -> dict[str, Any]:
    """Work until ``path`` exists; give what there is when asked to stop."""
    rounds = 0
    while not Path(path).exists() and not cancelled():
        rounds += 1
        on_progress(0.25, "working", {"rounds": rounds})
        time.sleep(0.02)
    return {"complete": not cancelled()}


def count(path: str, on_progress: Any, cancelled: Any, resume: dict[str, Any] | None = None) -> dict[str, Any]:
    """Count rounds until ``path`` exists, from where an earlier run was."""
    began = rounds = int(resume["rounds"]) if resume else 0
    while not Path(path).exists() and not cancelled():
        rounds += 1
        on_progress(0.25, "working", {"rounds": rounds})
        time.sleep(0.02)
    return {"began_at": began, "rounds": rounds}


def until_raises(path: str, on_progress: Any, cancelled: Any) -> None:
    while not cancelled():
        on_progress(0.1, "working")
        time.sleep(0.02)
    raise Cancelled("stopped", partial=[1, 2])


def deaf(on_progress: Any, cancelled: Any) -> None:
    on_progress(0.1, "deaf", "heard nothing")
    time.sleep(600)


def refuse(on_progress: Any, cancelled: Any) -> None:
    raise PlanError("Expected a plan. Found a potato.")


def bug(on_progress: Any, cancelled: Any) -> None:
    raise ZeroDivisionError("secret detail")


def not_json(on_progress: Any, cancelled: Any) -> object:
    return object()


def crash(on_progress: Any, cancelled: Any) -> None:
    os._exit(3)


def pid(on_progress: Any, cancelled: Any) -> int:
    return os.getpid()


def threads(on_progress: Any, cancelled: Any) -> str:
    return os.environ["OMP_NUM_THREADS"]


QUICK = ("add", "pid")
VERBS = {
    name: Verb(f"{__name__}:{name}", quick=name in QUICK, title=f"the test's {name}", resumes=name == "count")
    for name in (
        *("add", "note", "count", "until", "until_raises", "deaf", "refuse"),
        *("bug", "not_json", "crash", "pid", "threads"),
    )
}
