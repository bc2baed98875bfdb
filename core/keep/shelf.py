"""Results that were measured before: shipped with the demos, or kept in the store.

Both are looked up by the same key, which names weights, images and arguments; what does not match is not found, so
a number is never shown for another network than the one it was measured on.
"""

from __future__ import annotations

import gzip
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from core.keep.store import Store
from core.keep.subject import Subject, digest
from core.measure.cost import machine_identity
from core.records import Plan

SHIPPED = Path(__file__).resolve().parents[2] / "assets" / "demos" / "first_scans.json.gz"
FRACTIONS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)  # of a first scan
SCAN_IMAGES = 400  # selection images per point of it
SCAN_SEED = 0  # draws them
TABLE_VERSION = ["wall"]  # tables without the dense network's wall time are measured anew
PLAN_VERSION = ["answers"]  # so are plans without the answer to every image


def job_key(verb: str, subject: Subject, **arguments: Any) -> str:
    """Names the result of ``verb``: same weights, same images, same arguments, and for times the same machine."""
    if "plan" in arguments:  # what a plan keeps names it, not the words on how it was made
        arguments = {**arguments, "plan": _plan_key(arguments["plan"])}
    machine = [machine_identity()] if verb in {"latency_table", "evaluate_plan"} else []
    machine += {"latency_table": TABLE_VERSION, "evaluate_plan": PLAN_VERSION}.get(verb, [])
    return f"{verb}-{digest(subject.key, arguments, machine)}"


@lru_cache(maxsize=64)  # reading a large network's plan takes milliseconds, and a page asks for one a dozen times
def _plan_key(text: str) -> str:
    return Plan.from_json(text).key


def find_result(store: Store, verb: str, subject: Subject, **arguments: Any) -> Any:
    """The result of ``verb`` as JSON, or None when it has not been computed for this subject."""
    key = job_key(verb, subject, **arguments)
    return _shipped().get(key) or store.result(verb, key)


def is_shipped(verb: str, subject: Subject, **arguments: Any) -> bool:
    """Whether the result came with the demos, rather than from a measurement on this machine."""
    return job_key(verb, subject, **arguments) in _shipped()


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Any]:
    if not SHIPPED.exists():
        return {}
    with gzip.open(SHIPPED, "rt", encoding="utf-8") as file:
        results: dict[str, Any] = json.load(file)
    return results


def write_shipped(results: dict[str, Any]) -> None:
    """Write the results that ship with the demos (``make demos``); the same results give the same bytes."""
    packed = gzip.compress(json.dumps(results, sort_keys=True).encode(), mtime=0)
    SHIPPED.write_bytes(packed)
    _shipped.cache_clear()
