"""Recipes keep their promise: the budget is met, the law holds, nothing is chosen on the report images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from core.apply import mask_model, prune_model
from core.errors import Cancelled, CoreError
from core.load import load_data, load_model
from core.measure.cost import build_latency_table, count_cost, predict_latency
from core.pipeline import tell
from core.recipes import RECIPES, run, run_recipe
from core.records import Plan, fingerprint_state
from core.trace import trace_channels


@pytest.fixture(scope="module")
def loaded():
    return load_model("demo/digits-resnet")


@pytest.fixture(scope="module")
def data():
    return load_data("digits", limit=400)


@pytest.mark.parametrize("name", RECIPES.names())
def test_a_recipe_meets_its_budget_and_leaves_the_network_alone(loaded, data, name):
    before = fingerprint_state(loaded.module.state_dict())
    outcome = run_recipe(name, loaded, data, {"macs": 0.6})
    trace = trace_channels(loaded.module, loaded.example)
    assert count_cost(trace, outcome.plan).macs <= 0.6 * count_cost(trace).macs
    built = trace_channels(outcome.module, loaded.example)
    assert count_cost(built).macs == count_cost(trace, outcome.plan).macs
    assert outcome.comparison.b.images == len(data.report)
    assert fingerprint_state(loaded.module.state_dict()) == before
    if RECIPES[name].solver == "least-squares" and RECIPES[name].ratios == "sensitivity":
        assert outcome.comparison.b.value > 0.9  # chance is 0.1; as cut, these plans fall far below


def test_a_recipe_without_repair_gives_the_masked_network(loaded, data):
    outcome = run_recipe("weight-l2", loaded, data, {"params": 0.7})
    trace = trace_channels(loaded.module, loaded.example)
    images = data.report.images[:8]
    with torch.no_grad():
        masked = mask_model(loaded.module, trace, outcome.plan)(images)
        torch.testing.assert_close(outcome.module(images), masked, rtol=1e-4, atol=1e-4)
    pruned = prune_model(loaded.module, trace, outcome.plan)
    assert fingerprint_state(pruned.state_dict()) == fingerprint_state(outcome.module.state_dict())


def test_two_runs_with_one_seed_agree_to_the_bit(loaded, data):
    first, second = (run_recipe("random-ls", loaded, data, {"macs": 0.7}, seed=3) for _ in range(2))
    assert first.plan == second.plan
    assert fingerprint_state(first.module.state_dict()) == fingerprint_state(second.module.state_dict())
    assert run_recipe("random-ls", loaded, data, {"macs": 0.7}, seed=4).plan != first.plan


def test_a_cancelled_recipe_says_how_far_it_came(loaded, data):
    asked = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 2

    with pytest.raises(Cancelled) as stopped:
        run_recipe("weight-l2-ls", loaded, data, {"macs": 0.5}, cancelled=stop)
    assert stopped.value.args


def test_a_budget_of_milliseconds_is_met_by_prediction(loaded, data, monkeypatch):
    """With one table for both, whose times grow with the widths: no other program's noise is in it."""
    trace = trace_channels(loaded.module, loaded.example)
    table = build_latency_table(trace, threads=1, repeats=1)
    steps = {
        key: replace(
            step,
            ms=tuple(tuple(1e-4 * (1 + i) * (1 + j) for j in step.widths_out) for i in step.widths_in),
            in_network=1.0,
        )
        for key, step in table.steps.items()
    }
    table = replace(table, steps=steps, knots=((1.0, 1.0),), wall=None)
    monkeypatch.setattr(run, "build_latency_table", lambda *_, **__: table)
    budget = 0.9 * predict_latency(trace, Plan({}), table).median_ms
    outcome = run_recipe("random-ls", loaded, data, {"latency_ms": budget})
    assert count_cost(trace, outcome.plan).macs < count_cost(trace).macs
    assert predict_latency(trace, outcome.plan, table).median_ms <= budget


def test_an_unknown_recipe_or_budget_is_named(loaded, data):
    with pytest.raises(CoreError, match="weight-l2"):
        run_recipe("weight-l3", loaded, data, {"macs": 0.5})
    with pytest.raises(CoreError, match="macs"):
        run_recipe("weight-l2", loaded, data, {"mac": 0.5})


def test_the_whole_story_ends_with_files_that_were_verified(tmp_path):
    story = tell("demo/digits-resnet", "digits", 0.8, tmp_path / "out", fractions=(0.5,), formats=["checkpoint"])
    dense, pruned = story.costs
    assert pruned.macs <= 0.8 * dense.macs
    assert story.verification.ok, story.verification.message
    assert story.comparison.b.images == len(load_data("digits").report)
    assert story.curves.complete
