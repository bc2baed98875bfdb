"""The page Recover's long work: what the worker processes do for it. Plain JSON in and out, as in tasks.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from core.errors import Cancelled
from core.keep.networks import build_any, keep_network
from core.keep.shelf import job_key
from core.keep.store import open_store
from core.keep.subject import Subject, open_subject
from core.recipes import Rung, climb_ladder
from core.records import Accuracy, Plan
from core.show.recovery import FINETUNE, known_rungs, rung_arguments

Progress = Callable[..., None]
Stop = Callable[[], bool]


def climb(
    model: str,
    weights: str,
    data: str,
    plan: str,
    rungs: Sequence[str],
    seconds: int,
    on_progress: Progress,
    cancelled: Stop,
) -> dict[str, Any]:
    """Measure those of ``rungs`` that are not known for ``plan`` (Plan JSON). Each is filed as soon as it stands, so
    that a cancel, a crash or a restart loses none. seconds: how long fine-tuning may take.

    Result and partial: {"rungs": {name: ``Rung.to_dict()``, with "network", the name of its weights, where no repair
    makes them again}}.
    """
    subject = open_subject(model, weights, data)
    found = known_rungs(open_store(), subject, plan, seconds)
    missing = [name for name in rungs if name not in found]

    def file(rung: Rung) -> None:
        if rung.name not in found:
            found[rung.name] = _filed(subject, plan, rung, seconds)

    def tell(fraction: float, message: str, partial: Sequence[Rung] | None = None) -> None:
        for rung in partial or ():
            file(rung)
        on_progress(fraction, message, {"rungs": dict(found)} if partial else None)

    try:
        climbed = climb_ladder(
            subject.loaded, subject.trace, Plan.from_json(plan), subject.data, missing,
            on_progress=tell, cancelled=cancelled, finetune={"seconds": float(seconds)},
            standing=_start(subject, plan, found) if FINETUNE in missing else (),
        )  # fmt: skip
    except Cancelled as stopped:
        for rung in stopped.partial if isinstance(stopped.partial, tuple) else ():
            file(rung)
        raise Cancelled(str(stopped), {"rungs": found}) from stopped
    for rung in climbed:
        file(rung)
    return {"rungs": found}


def _filed(subject: Subject, plan: str, rung: Rung, seconds: int) -> dict[str, Any]:
    told = rung.to_dict()
    if rung.name == FINETUNE:
        told["network"] = keep_network(rung.module, rung.plan)
    key = job_key("rung", subject, **rung_arguments(plan, rung.name, seconds))
    open_store().put_result("rung", key, told)
    return told


def _start(subject: Subject, plan: str, found: dict[str, dict[str, Any]]) -> tuple[Rung, ...]:
    """The best of the rungs known, built again: training starts from it."""
    name, best = max(
        found.items(), key=lambda one: (one[1]["accuracy"]["correct"], -one[1]["accuracy"]["loss"]), default=("", None)
    )
    if best is None:
        return ()
    module, made = build_any(subject, Plan.from_json(plan), name)
    accuracy = Accuracy(**{**best["accuracy"], "per_class": tuple(best["accuracy"]["per_class"])})
    value, low, high = best["difference"]
    return (Rung(name, best["title"], accuracy, (value, low, high), best["seconds"], made, module),)
