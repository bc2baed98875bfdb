"""What a learner hands in, by the store's own measurement of it; and the board as a chart's points and as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from core.apply import AS_CUT, list_repairs
from core.errors import CoreError
from core.keep.shelf import find_result
from core.keep.store import Store
from core.keep.subject import Subject, open_subject
from core.learn.answers import goal_met
from core.learn.classroom import Assignment
from core.learn.classroom_board import Entry
from core.measure.cost import count_cost
from core.records import Plan
from core.show.comparison import pareto_front
from core.show.curves import write_csv

COSTS = ("macs", "params", "size_bytes")


def plan_name(plan: Plan, repair: str) -> str:
    """Names the network that is handed in: what it keeps and how it was rebuilt."""
    return f"{plan.key}-{repair}"


def measured_plan(store: Store, subject: Subject, task: Assignment, plan: Plan, repair: str) -> dict[str, Any]:
    """What goes on the board: accuracy and its 95 % interval as the store holds them for ``plan`` under ``repair``,
    costs as counted, and whether the goal is met. Plain JSON.

    Raises CoreError when ``subject`` is not the task's, when the plan or the whole network has not been measured, or
    when it is repaired though the task holds repairs.
    """
    if open_subject(task.model, task.weights, task.data).key != subject.key:
        raise CoreError("Another network is open than the one of your class. Open your teacher's link again.")
    if task.held("recover") and repair != AS_CUT:
        raise CoreError("Your class hands in plans as cut: choose “No repair” on the page Tune first.")
    found, dense = _accuracy(store, subject, plan, repair), _accuracy(store, subject, Plan({}), AS_CUT)
    if found is None or dense is None:
        raise CoreError("This plan has not been measured yet. Wait until its accuracy is shown, then hand it in.")
    cost, whole = count_cost(subject.trace, plan), count_cost(subject.trace)
    met = goal_met(task.goal, cost, whole, found["value"], dense["value"])
    groups = subject.trace.groups
    left = {group.id: group.units - len(plan.kept[group.id]) for group in groups if group.id in plan.kept}
    return {
        **{name: found[name] for name in ("value", "low", "high", "images")},
        "dense": {name: dense[name] for name in ("value", "low", "high")},
        "costs": {name: getattr(cost, name) for name in COSTS},
        "shares": {name: getattr(cost, name) / getattr(whole, name) for name in COSTS},
        "repair": repair if repair in {row.name for row in list_repairs()} else "kept network",
        "removed": sum(left.values()),
        "met": met,
        "passed": all(met.values()),
    }


def dense_accuracy(store: Store, subject: Subject) -> dict[str, Any] | None:
    """What is known of the whole network's accuracy, as fields of ``Accuracy``; None before it is measured."""
    return _accuracy(store, subject, Plan({}), AS_CUT)


def _accuracy(store: Store, subject: Subject, plan: Plan, repair: str) -> dict[str, Any] | None:
    """From the store alone: a workspace may have come from a stranger's file."""
    found = find_result(store, "evaluate_plan", subject, plan=plan.to_json(), repair=repair)
    if found is None:
        found = find_result(store, "rung", subject, plan=plan.to_json(), rung=repair)
    return dict(found["accuracy"]) if found is not None and "accuracy" in found else None


@dataclass(frozen=True)
class Board:
    """The entries, and which stand where: ``front``: places of those that no other one beats. ``cost``: the goal's."""

    entries: tuple[Entry, ...]
    front: tuple[int, ...]
    cost: str

    @property
    def passed(self) -> int:
        """How many meet the goal."""
        return sum(bool(entry.told["passed"]) for entry in self.entries)


def board_of(entries: Sequence[Entry], task: Assignment) -> Board:
    """The board by the cost that the task's budget limits."""
    cost = task.budget[0]
    points = [(float(entry.told["costs"][cost]), float(entry.told["value"])) for entry in entries]
    return Board(tuple(entries), tuple(pareto_front(points)), cost)


def board_csv(board: Board) -> str:
    """Everything handed in, a line per plan."""
    head = ["nickname", "handed_in", "accuracy", "low", "high", "images", "dense_accuracy", *COSTS]
    head += [f"{name}_share" for name in COSTS] + ["units_removed", "repair", "goal_met", "on_front"]
    lines: list[list[Any]] = [head]
    for place, entry in enumerate(board.entries):
        told = entry.told
        when = datetime.fromtimestamp(entry.made, UTC).isoformat(timespec="seconds")
        line = [_text(entry.name), when, *(told[name] for name in ("value", "low", "high", "images"))]
        line += [told["dense"]["value"], *_of(told, "costs"), *_of(told, "shares")]
        lines.append([*line, told["removed"], told["repair"], int(told["passed"]), int(place in board.front)])
    return write_csv(lines)


def _of(told: Mapping[str, Any], what: str) -> list[Any]:
    return [told[what][name] for name in COSTS]


def _text(name: str) -> str:
    """A stranger's word that a spreadsheet must not take for a formula; names may begin with a sign, numbers not."""
    return f"'{name}" if name[:1] in ("+", "-") else name
