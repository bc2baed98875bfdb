"""Whether an answer is right, by the facts of the network at hand; and how far a learner has come."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from core.errors import CoreError
from core.learn.lesson import Lesson, LessonStep
from core.records import Cost

ASKING = ("predict", "check")
BUDGETS = {"macs": "MACs", "params": "parameters", "size_bytes": "size"}


@dataclass(frozen=True)
class Verdict:
    """``truth``: the right option's words, or the right number."""

    right: bool
    truth: str | float


def options_of(step: LessonStep, facts: Mapping[str, Any]) -> dict[str, str]:
    """Answer -> words (with places still in them); {} where a number is asked for."""
    if step.options_from:
        return {str(key): str(words) for key, words in facts[step.options_from]}
    return dict(step.options)


def judge(step: LessonStep, answer: str | float, facts: Mapping[str, Any]) -> Verdict:
    """Raises CoreError for an answer that is none of the options, or no number where one is asked for."""
    truth, options = facts[step.answer], options_of(step, facts)
    if options:
        if answer not in options:
            raise CoreError(f"{answer!r} is not one of the answers: {', '.join(options)}.")
        return Verdict(answer == str(truth), options[str(truth)])
    if not isinstance(answer, int | float) or not math.isfinite(answer):
        raise CoreError("A number is asked for here.")
    return Verdict(abs(answer - truth) <= max(step.tolerance * abs(truth), step.within), float(truth))


def goal_met(
    goal: Mapping[str, float], now: Cost, dense: Cost, accuracy: float | None, dense_accuracy: float | None
) -> dict[str, bool | None]:
    """Each limit of a goal and whether a plan keeps it; None where that is not measured yet.

    "macs", "params": the share of the dense network's that may remain. "accuracy_drop": the largest share of images
    that may be lost.
    """
    met: dict[str, bool | None] = {}
    for name, limit in goal.items():
        if name == "accuracy_drop":
            if accuracy is None or dense_accuracy is None:
                met[name] = None
            else:
                met[name] = dense_accuracy - accuracy <= limit + 1e-12  # 0.95 - 0.93 is a little more than 0.02
        else:
            met[name] = getattr(now, name) <= limit * getattr(dense, name)
    return met


def goal_words(goal: Mapping[str, float]) -> str:
    """ "at most 50 % of the MACs, at most 2 points of accuracy lost" """
    return ", ".join(f"at most {_limit(name, share)}" for name, share in goal.items())


def _limit(name: str, share: float) -> str:
    if name != "accuracy_drop":
        return f"{100 * share:g} % of the {BUDGETS[name]}"
    points = 100 * share
    return f"{points:g} {'point' if points == 1 else 'points'} of accuracy lost"


UNKNOWN = "not known yet"


def goal_facts(
    goal: Mapping[str, float], now: Cost | None, dense: Cost, accuracy: float | None, dense_accuracy: float | None
) -> dict[str, str]:
    """What the texts of a lesson on a goal are filled with: the goal in force, and where a plan stands. ``now``: the
    plan's cost, None while it is not known; accuracies on the same images, None before they are measured."""
    name, limit = next((name, share) for name, share in goal.items() if name != "accuracy_drop")
    drop = 100 * goal.get("accuracy_drop", 1.0)
    whole = getattr(dense, name)
    left = None if now is None else getattr(now, name)
    lost = None if accuracy is None or dense_accuracy is None else 100 * (dense_accuracy - accuracy)
    return {
        "goal_words": goal_words(goal), "cost": BUDGETS[name], "limit": f"{100 * limit:g} %",
        "drop": f"{drop:g} points", "whole": f"{whole:,}", "left": UNKNOWN if left is None else f"{left:,}",
        "share": UNKNOWN if left is None else f"{100 * left / whole:.1f} %",
        "whole_accuracy": UNKNOWN if dense_accuracy is None else f"{100 * dense_accuracy:.1f} %",
        "accuracy": UNKNOWN if accuracy is None else f"{100 * accuracy:.1f} %",
        "lost": UNKNOWN if lost is None else f"{lost:.1f} points",
    }  # fmt: skip


@dataclass(frozen=True)
class Progress:
    """``step``: how many steps are open; ``answers``: by the number of the step; ``done``: all were passed."""

    step: int = 1
    answers: Mapping[str, str | float] = field(default_factory=dict)
    done: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {"step": self.step, "answers": dict(self.answers), "done": self.done}

    @staticmethod
    def from_dict(found: Any) -> Progress:
        """What was kept; a fresh start for what cannot be read."""
        if not isinstance(found, Mapping) or not isinstance(found.get("answers"), Mapping):
            return Progress()
        return Progress(max(1, int(found.get("step", 1))), dict(found["answers"]), found.get("done") is True)


def answered(progress: Progress, lesson: Lesson, number: int, answer: str | float) -> Progress:
    """With the answer to step ``number`` kept. A prediction is locked: a second answer to it changes nothing."""
    step = lesson.steps[number - 1]
    if step.kind == "predict" and str(number) in progress.answers:
        return progress
    return Progress(progress.step, {**progress.answers, str(number): answer}, progress.done)


def may_go_on(progress: Progress, lesson: Lesson, facts: Mapping[str, Any]) -> bool:
    """Whether the newest open step is done: predictions are made, checks are passed; the rest is only read."""
    step, given = lesson.steps[progress.step - 1], progress.answers.get(str(progress.step))
    if step.kind == "predict":
        return given is not None
    if step.kind == "check":
        return given is not None and judge(step, given, facts).right
    return True


def gone_on(progress: Progress, lesson: Lesson) -> Progress:
    """One step further; after the last one the lesson is done."""
    if progress.step >= len(lesson.steps):
        return Progress(progress.step, progress.answers, True)
    return Progress(progress.step + 1, progress.answers, progress.done)


def fitting(progress: Progress, lesson: Lesson, facts: Mapping[str, Any]) -> Progress:
    """Without the answers that this network does not offer: they were given on another one, whose options differ."""
    kept = {}
    for number, answer in progress.answers.items():
        place = int(number) - 1
        step = lesson.steps[place] if place < len(lesson.steps) else None
        if step is not None and step.answer:
            options = options_of(step, facts)
            if (answer in options) if options else isinstance(answer, int | float):
                kept[number] = answer
    return progress if len(kept) == len(progress.answers) else Progress(progress.step, kept, progress.done)
