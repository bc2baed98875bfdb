"""What the recovery ladder of a plan has shown so far, as rows that people read. Measures nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from core.keep.networks import has_network
from core.keep.shelf import find_result
from core.keep.store import Store
from core.keep.subject import Subject
from core.recipes import RUNGS
from core.show.curves import write_csv
from core.solvers.intervals import wilson

FINETUNE = "finetune"
SECONDS = (10, 30, 60, 120, 300)  # how long fine-tuning may take
MEASURED, RUNNING, WAITING, MISSING = "measured", "running", "waiting", "missing"


@dataclass(frozen=True)
class RungRow:
    """One rung. ``state``: measured, running, waiting (asked for) or missing. Once measured, accuracy on selection
    images (a share) with its 95 % interval, its paired difference to the dense network (value, low, high; shares) and
    ``seconds`` to build it. ``kept``: it is how the plan's network is built. ``network``: the name of its kept
    weights, "" where a repair makes them again."""

    name: str
    title: str
    summary: str
    source: str
    state: str
    accuracy: tuple[float, float, float] | None = None
    images: int = 0
    difference: tuple[float, float, float] | None = None
    seconds: float | None = None
    kept: bool = False
    network: str = ""


@dataclass(frozen=True)
class DenseLevel:
    """The dense network's accuracy on the same images, with its 95 % interval (shares)."""

    value: float
    low: float
    high: float
    images: int


def rung_arguments(plan: str, rung: str, seconds: int) -> dict[str, Any]:
    """What names a rung's result beside the subject: the plan (JSON), and where it trains for how long at most."""
    return {"plan": plan, "rung": rung, **({"seconds": seconds} if rung == FINETUNE else {})}


def known_rungs(store: Store, subject: Subject, plan: str, seconds: int) -> dict[str, dict[str, Any]]:
    """The rungs of ``plan`` that were measured, by name, in the ladder's order. One whose kept weights have left the
    server is not among them: it must be made again."""
    found = {}
    for name in RUNGS.names():
        rung = find_result(store, "rung", subject, **rung_arguments(plan, name, seconds))
        if rung is not None and (not rung.get("network") or has_network(rung["network"])):
            found[name] = rung
    return found


def missing_rungs(found: Collection[str]) -> list[str]:
    """Those still to be measured, in the order in which they are climbed."""
    return [name for name in RUNGS.names() if name not in found]


def rung_rows(
    found: Mapping[str, Mapping[str, Any]], *, asked: Collection[str] = (), begun: bool = True, kept: str = ""
) -> list[RungRow]:
    """All rungs in order. found: as of ``known_rungs``. asked: those a job is to measure; once it has ``begun``, the
    first of them that is not there yet is running. kept: the repair in use, or the name of a kept network."""
    rows = []
    running = next((name for name in RUNGS.names() if begun and name in asked and name not in found), "")
    for row in RUNGS:
        rung = found.get(row.name)
        words = (row.name, row.title, row.summary, row.source)
        if rung is None:
            state = RUNNING if row.name == running else WAITING if row.name in asked else MISSING
            rows.append(RungRow(*words, state))
            continue
        accuracy, network = rung["accuracy"], rung.get("network", "")
        value, low, high = rung["difference"]
        rows.append(
            RungRow(
                *words, MEASURED,
                (accuracy["value"], accuracy["low"], accuracy["high"]), accuracy["images"], (value, low, high),
                rung["seconds"], kept == (network or row.name), network,
            )
        )  # fmt: skip
    return rows


def best_rung(rows: Collection[RungRow]) -> RungRow | None:
    """The most accurate rung measured; of equal ones the one that took least."""
    measured = [row for row in rows if row.accuracy is not None]
    return max(measured, key=lambda row: (row.accuracy or (0.0,))[0], default=None)


def dense_level(rows: Collection[RungRow]) -> DenseLevel | None:
    """The dense network as the rungs were compared with it; None before the first rung stands."""
    for row in rows:
        if row.accuracy is not None and row.difference is not None:
            correct = round((row.accuracy[0] - row.difference[0]) * row.images)
            return DenseLevel(correct / max(1, row.images), *wilson(correct, row.images), row.images)
    return None


def ladder_csv(rows: Collection[RungRow]) -> str:
    """The measured rungs as CSV; accuracies are shares, differences are against the dense network."""
    difference = ["difference", "difference_low", "difference_high"]
    lines: list[list[Any]] = [["rung", "accuracy", "low", "high", "images", *difference, "seconds", "kept"]]
    for row in rows:
        if row.accuracy is not None and row.difference is not None:
            lines.append([row.name, *row.accuracy, row.images, *row.difference, row.seconds, int(row.kept)])
    return write_csv(lines)
