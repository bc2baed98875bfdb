"""The facts of all lessons on one demo, from few images, computed once for every test of a process."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest

from core.keep.subject import open_subject
from core.learn import facts_choice, facts_effect, facts_repair, ground
from core.learn.answers import goal_facts
from core.learn.facts import FACTS, facts_of
from core.learn.lesson import Lesson
from core.measure.cost import count_cost
from core.records import Plan

MODEL = "demo/digits-resnet"
IMAGES = 12


def quick(patch: pytest.MonkeyPatch) -> None:
    """Fewer images everywhere: what is tested holds on any number."""
    for module, name, value in (
        (ground, "IMAGES", IMAGES), (ground, "LEAST_IMAGES", IMAGES), (facts_choice, "SOLVE_WORK", 4e8),
        (facts_repair, "REPAIR_IMAGES", 24), (facts_repair, "JUDGED_IMAGES", 60), (facts_repair, "SOFT_IMAGES", 16),
        (facts_repair, "EPOCHS", 2), (facts_effect, "SECONDS", 0.2), (facts_effect, "HARM_IMAGES", 120),
        (facts_effect, "HARM_SHARES", (0.1, 0.2)),
    ):  # fmt: skip
        patch.setattr(module, name, value)


@lru_cache(maxsize=2)
def quick_facts(model: str = MODEL) -> dict[str, dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        return {name: facts_of(name, open_subject(model)) for name in FACTS}


def facts_for(lesson: Lesson) -> dict[str, Any]:
    """Of a lesson on a goal: with a plan of one channel less, measured."""
    if lesson.facts:
        return quick_facts()[lesson.facts]
    trace = open_subject(MODEL).trace
    group = trace.prunable[0]
    now = count_cost(trace, Plan({group.id: tuple(range(group.units - 1))}))
    goal = next(step.goal for step in lesson.steps if step.goal)
    return dict(goal_facts(goal, now, count_cost(trace), 0.93, 0.95))
