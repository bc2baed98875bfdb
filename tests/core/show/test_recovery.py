"""The ladder as a job: every rung is filed as it stands, nothing is computed twice, a cancel loses nothing."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from core import (
    AS_CUT,
    MEASURED,
    MISSING,
    RUNNING,
    WAITING,
    Plan,
    Subject,
    best_rung,
    dense_level,
    evaluate_model,
    has_network,
    known_rungs,
    ladder_csv,
    missing_rungs,
    open_subject,
    prune_model,
    rung_rows,
)
from core.errors import Cancelled
from core.keep.networks import build_any
from core.keep.store import open_store
from core.show.recovery import FINETUNE
from core.work.recovery_jobs import climb

ASKED = (AS_CUT, "batchnorm", "least-squares", "compensation", FINETUNE)
SECONDS = 10
PLAN = Plan({"layer1.0.conv1": tuple(range(6)), "layer3.0.conv1": tuple(range(40))}, "by hand")
pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="module")
def subject() -> Subject:
    return open_subject("cifar/resnet8", "random", "random")


class Calls:
    """Progress as a job hears it, and a cancel after so many rungs stand."""

    def __init__(self, stop_after: int = 99) -> None:
        self.partials: list[dict[str, Any]] = []
        self.fractions: list[float] = []
        self.stop_after = stop_after

    def on_progress(self, fraction: float, message: str, partial: dict[str, Any] | None = None) -> None:
        self.fractions.append(fraction)
        if partial is not None:
            self.partials.append(partial)

    def cancelled(self) -> bool:
        return bool(self.partials) and len(self.partials[-1]["rungs"]) >= self.stop_after


def climbed(subject: Subject, rungs: tuple[str, ...], calls: Calls | None = None) -> dict[str, Any]:
    calls = calls or Calls()
    where = (subject.model_source, subject.weights, "random")
    told = {"on_progress": calls.on_progress, "cancelled": calls.cancelled}
    return climb(*where, PLAN.to_json(), rungs, SECONDS, **told)["rungs"]


def known(subject: Subject) -> dict[str, dict[str, Any]]:
    return known_rungs(open_store(), subject, PLAN.to_json(), SECONDS)


def test_a_rung_is_filed_as_it_stands_and_measured_on_the_selection_images(subject: Subject) -> None:
    calls = Calls()
    found = climbed(subject, ASKED[:2], calls)
    assert list(found) == list(known(subject)) == [AS_CUT, "batchnorm"]
    assert [len(partial["rungs"]) for partial in calls.partials] == [1, 2]
    assert calls.fractions == sorted(calls.fractions) and calls.fractions[-1] == 1
    cut = evaluate_model(prune_model(subject.loaded.module, subject.trace, PLAN), subject.data.selection)
    dense = evaluate_model(subject.loaded.module, subject.data.selection)
    rows = rung_rows(found)
    assert rows[0].accuracy == (cut.value, cut.low, cut.high) and rows[0].images == cut.images
    assert rows[0].difference is not None
    assert rows[0].difference[0] == pytest.approx(cut.value - dense.value)
    level = dense_level(rows)
    assert level is not None and (level.value, level.images) == (dense.value, dense.images)
    assert (level.low, level.high) == pytest.approx((dense.low, dense.high))


def test_a_cancel_keeps_what_stands_and_only_the_rest_is_computed_later(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Cancelled) as stopped:
        climbed(subject, ASKED[:3], Calls(stop_after=1))
    assert list(stopped.value.partial["rungs"]) == [AS_CUT] == list(known(subject))  # type: ignore[attr-defined, call-overload]
    assert missing_rungs(known(subject))[0] == "batchnorm"
    built: list[str] = []
    from core.recipes import ladder

    original = ladder.build_network
    monkeypatch.setattr(ladder, "build_network", lambda *a, **k: (built.append(a[4]), original(*a, **k))[1])
    climbed(subject, ASKED[:2])
    assert built == ["batchnorm"]
    climbed(subject, ASKED[:2])
    assert built == ["batchnorm"], "nothing is missing"


def test_training_starts_from_the_best_rung_and_its_network_is_kept(
    subject: Subject, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.apply import finetune

    started: list[float] = []

    def train(module: Any, data: Any, **options: Any) -> Any:
        started.append(evaluate_model(module, subject.data.selection).value)
        assert options["seconds"] == SECONDS
        return original(module, data, **{**options, "seconds": None, "epochs": 1})

    original = finetune.finetune_model
    monkeypatch.setattr(finetune, "finetune_model", train)
    before = climbed(subject, ASKED[:2])
    found = climbed(subject, (FINETUNE,))
    assert started == [max(rung["accuracy"]["value"] for rung in before.values())]
    name = found[FINETUNE]["network"]
    module, plan = build_any(subject, PLAN, name)
    assert plan.kept == PLAN.kept and "fine-tuned" in plan.origin
    assert evaluate_model(module, subject.data.selection).value == found[FINETUNE]["accuracy"]["value"]
    assert [row.kept for row in rung_rows(known(subject), kept=name)] == [False, False, False, False, True]
    (home / "networks" / f"{name}.safetensors").unlink()
    assert not has_network(name) and FINETUNE in missing_rungs(known(subject)), "weights that left are made again"


def test_rows_say_what_is_running_waiting_and_missing() -> None:
    def states(**told: Any) -> list[str]:
        return [row.state for row in rung_rows({AS_CUT: RUNG}, **told)]

    assert states() == [MEASURED, *[MISSING] * 4]
    assert states(asked=ASKED[1:4]) == [MEASURED, RUNNING, WAITING, WAITING, MISSING]
    assert states(asked=ASKED[1:4], begun=False) == [MEASURED, WAITING, WAITING, WAITING, MISSING]
    rows = rung_rows({AS_CUT: RUNG, "least-squares": {**RUNG, "accuracy": {**RUNG["accuracy"], "value": 0.9}}})
    best = best_rung(rows)
    assert best is not None and best.name == "least-squares"
    table = list(csv.DictReader(io.StringIO(ladder_csv(rung_rows({AS_CUT: RUNG}, kept=AS_CUT)))))
    assert [(line["rung"], line["accuracy"], line["kept"]) for line in table] == [(AS_CUT, "0.5", "1")]


RUNG: dict[str, Any] = {
    "accuracy": {"value": 0.5, "low": 0.4, "high": 0.6, "images": 100, "correct": 50, "loss": 1.0},
    "difference": [-0.4, -0.5, -0.3],
    "seconds": 1.5,
}
