"""Rungs are measured as any network is, stand when the climb is stopped, and leave the dense network alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.apply import build_network
from core.errors import Cancelled, CoreError
from core.evaluate import compare_models, evaluate_model
from core.load import load_data, load_model
from core.measure.importance import score_channels
from core.plan import plan_uniform
from core.recipes import RUNGS, Rung, climb_ladder
from core.records import ImageData, LoadedModel, Plan, Trace, fingerprint_state
from core.trace import trace_channels

REPAIRED = ("none", "batchnorm", "least-squares", "compensation")
Known = tuple[LoadedModel, Trace, Plan, ImageData]


@pytest.fixture(scope="module")
def known() -> Known:
    loaded = load_model("demo/digits-resnet")
    trace = trace_channels(loaded.module, loaded.example)
    plan = plan_uniform(trace, score_channels(trace, None, "weight-l2"), 0.5)
    return loaded, trace, plan, load_data("digits", limit=400)


@pytest.fixture(scope="module")
def ladder(known: Known) -> tuple[Rung, ...]:
    return climb_ladder(*known, rungs=REPAIRED)


def test_every_rung_is_measured_as_any_network_is(known: Known, ladder: tuple[Rung, ...]) -> None:
    loaded, trace, plan, data = known
    assert [rung.name for rung in ladder] == list(REPAIRED)
    for rung in ladder:
        assert rung.title == RUNGS.row(rung.name).title and rung.seconds > 0 and rung.plan == plan
        assert rung.accuracy == evaluate_model(rung.module, data.selection)
        pair = compare_models(loaded.module, rung.module, data.selection)
        assert rung.difference == (pair.difference, pair.low, pair.high)
        same, _ = build_network(loaded.module, trace, plan, data.calibration, rung.name)
        assert fingerprint_state(same.state_dict()) == fingerprint_state(rung.module.state_dict())


def test_repair_repairs(ladder: tuple[Rung, ...]) -> None:
    found = {rung.name: rung.accuracy.value for rung in ladder}
    assert found["none"] < found["batchnorm"] < found["least-squares"]


def test_a_rung_is_plain_json(ladder: tuple[Rung, ...]) -> None:
    for rung in ladder:
        told = json.loads(json.dumps(rung.to_dict()))
        assert "module" not in told and Plan.from_json(told["plan"]) == rung.plan
        assert told["difference"] == list(rung.difference) and told["accuracy"]["value"] == rung.accuracy.value


def test_progress_rises_and_hands_over_the_rungs_that_stand(known: Known) -> None:
    told: list[tuple[float, Any]] = []
    climb_ladder(*known, rungs=REPAIRED[:2], on_progress=lambda f, _, partial=None: told.append((f, partial)))
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert [len(partial) for _, partial in told if partial is not None] == [1, 2]


def test_a_cancel_at_any_call_keeps_the_rungs_that_stand(known: Known, ladder: tuple[Rung, ...]) -> None:
    calls: list[int] = []
    before = fingerprint_state(known[0].module.state_dict())
    climb_ladder(*known, rungs=REPAIRED[:2], cancelled=lambda: bool(calls.append(1)))
    lengths = []
    for stop_at in range(1, len(calls) + 1, 5):
        left = iter(range(stop_at))
        with pytest.raises(Cancelled) as stopped:
            climb_ladder(*known, rungs=REPAIRED[:2], cancelled=lambda left=left: next(left, None) is None)
        kept = stopped.value.partial
        assert isinstance(kept, tuple) and all(isinstance(rung, Rung) for rung in kept)
        lengths.append(len(kept))
        for rung, whole in zip(kept, ladder, strict=False):
            assert rung.accuracy == whole.accuracy
            assert evaluate_model(rung.module, known[3].selection) == rung.accuracy
    assert lengths == sorted(lengths) and set(lengths) >= {0, 1}
    assert fingerprint_state(known[0].module.state_dict()) == before


def test_an_unknown_rung_is_named(known: Known) -> None:
    with pytest.raises(CoreError, match="batchnorm"):
        climb_ladder(*known, rungs=("batchnrm",))


def test_fine_tuning_starts_from_the_best_rung(known: Known, ladder: tuple[Rung, ...]) -> None:
    before = [fingerprint_state(rung.module.state_dict()) for rung in ladder]
    course = {"epochs": 1, "lr": 1e-4, "batch_size": 64, "augment": "none"}
    first, again = (climb_ladder(*known, rungs=("finetune",), finetune=course, standing=ladder)[0] for _ in range(2))
    best = max(ladder, key=lambda rung: (rung.accuracy.correct, -rung.accuracy.loss))
    assert first.name == "finetune" and first.plan == best.plan and "fine-tuned" in first.plan.origin
    assert first.accuracy.correct >= best.accuracy.correct
    assert fingerprint_state(first.module.state_dict()) == fingerprint_state(again.module.state_dict())
    assert [fingerprint_state(rung.module.state_dict()) for rung in ladder] == before


def test_fine_tuning_that_harms_leaves_the_rung_it_started_from(known: Known, ladder: tuple[Rung, ...]) -> None:
    course = {"epochs": 1, "lr": 5.0, "clip": 1.0, "augment": "none"}
    best = max(ladder, key=lambda rung: (rung.accuracy.correct, -rung.accuracy.loss))
    (rung,) = climb_ladder(*known, rungs=("finetune",), finetune=course, standing=ladder)
    assert fingerprint_state(rung.module.state_dict()) == fingerprint_state(best.module.state_dict())
    assert rung.accuracy.correct == best.accuracy.correct and "which helped nothing" in rung.plan.origin
