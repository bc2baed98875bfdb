"""The facts of all lessons on one demo, from few images, computed once for every test of a process."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest

from core.keep.subject import open_subject
from core.learn import facts_choice, facts_effect, facts_repair, ground
from core.learn.facts import FACTS, facts_of

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


@lru_cache(maxsize=1)
def quick_facts() -> dict[str, dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        return {name: facts_of(name, open_subject(MODEL)) for name in FACTS}
