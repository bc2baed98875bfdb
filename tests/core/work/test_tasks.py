"""What the worker processes do, called as they call it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core import AS_CUT, Plan
from core.keep.shelf import job_key
from core.keep.store import open_store
from core.keep.subject import open_subject
from core.keep.timings import KIND
from core.work.tasks import batch_of, evaluate_plan


def nothing(*_: Any) -> None:
    """Progress that nobody looks at."""


@pytest.mark.parametrize(("plan", "same"), [(Plan({}), True), (Plan({"conv1": tuple(range(8))}), False)])
def test_a_network_is_never_slower_or_faster_than_itself(
    plan: Plan, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path))
    found = evaluate_plan("cifar/resnet20", "random", "random", plan.to_json(), AS_CUT, nothing, lambda: False)
    assert (found["latency"] == found["dense_latency"]) is same
    assert "accuracy" not in found and "answers" not in found, "random weights answer at random"
    subject = open_subject("cifar/resnet20", "random", "random")
    (note,) = open_store().result(KIND, job_key("latency_table", subject))
    assert (note["plan_ms"], note["dense_ms"]) == (found["latency"]["median_ms"], found["dense_latency"]["median_ms"])
    assert note["widths"] == {name: len(kept) for name, kept in plan.kept.items()}
    open_store().close()


def test_a_large_network_is_asked_in_small_batches() -> None:
    assert [batch_of(macs) for macs in (0, 10**6, 125_000_000, 4_100_000_000, 10**11)] == [128, 128, 48, 1, 1]
