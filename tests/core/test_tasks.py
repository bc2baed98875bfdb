"""What the worker processes do, called as they call it."""

from __future__ import annotations

from typing import Any

import pytest

from core import AS_CUT, Plan
from core.tasks import evaluate_plan


def nothing(*_: Any) -> None:
    """Progress that nobody looks at."""


@pytest.mark.parametrize(("plan", "same"), [(Plan({}), True), (Plan({"conv1": tuple(range(8))}), False)])
def test_a_network_is_never_slower_or_faster_than_itself(plan: Plan, same: bool) -> None:
    found = evaluate_plan("cifar/resnet20", "random", "random", plan.to_json(), AS_CUT, nothing, lambda: False)
    assert (found["latency"] == found["dense_latency"]) is same
