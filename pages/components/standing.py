"""Where one stands: which stages of the flow have been done for what is open, and which comes next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from core import AS_CUT, CoreError, Subject
from core.keep.workspace import Workspace
from pages.components import work

Found = TypeVar("Found")
EXPORT = "export"  # the last export's place among a workspace's measured results
STAGES = ("Model", "Channels", "Sensitivity", "Tune", "Recover", "Export")


@dataclass(frozen=True)
class Standing:
    """``done``: titles of stages. ``idle``: those that would say nothing here. ``next``: the first stage that is
    neither, "" when there is none left."""

    done: frozenset[str]
    idle: frozenset[str] = frozenset()

    @property
    def next(self) -> str:
        return next((stage for stage in STAGES if stage not in self.done | self.idle), "")


def standing(record: Workspace, subject: Subject | None) -> Standing:
    """Cheap: looks up what is stored, measures nothing."""
    if subject is None:
        return Standing(frozenset())
    done = {"Model"}
    if work.scores(record, subject) is not None:
        done.add("Channels")
    if _readable(lambda: work.sensitivity(record, subject)) is not None:
        done.add("Sensitivity")
    if any(record.removed.values()):
        done.add("Tune")
    if recovered(record, subject):
        done.add("Recover")
    if exported(record, subject):
        done.add("Export")
    return Standing(frozenset(done), frozenset({"Sensitivity", "Recover"} if work.caveats(subject) else ()))


def recovered(record: Workspace, subject: Subject) -> bool:
    """Whether a way to build the plan's network was chosen, or its ladder was looked at."""
    plan = work.plan(record, subject) if any(record.removed.values()) else None
    if plan is None:
        return False
    return work.repair(record, plan) != AS_CUT or work.known_rung(subject, plan, AS_CUT) is not None


def last_export(record: Workspace, subject: Subject) -> dict[str, Any] | None:
    """What the last export of this network gave, with "plan", the key of its network; None before the first."""
    found = record.measured.get(EXPORT)
    return found if isinstance(found, dict) and found.get("subject") == subject.key else None


def exported(record: Workspace, subject: Subject) -> bool:
    """Whether the last export holds the plan as it is now."""
    last, plan = last_export(record, subject), work.plan(record, subject)
    return last is not None and plan is not None and last["plan"] == work.network_key(record, plan)


def _readable(read: Callable[[], Found]) -> Found | None:
    """What was stored, None when it cannot be read: the page it belongs to says so, the others go on without."""
    try:
        return read()
    except CoreError:
        return None
