"""Recipes keep their promise: budgets are met, the law holds, nothing is chosen on the report images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch

from core import pipeline
from core.apply import mask_model, prune_model
from core.errors import Cancelled, CoreError, PlanError
from core.load import load_data
from core.measure.cost import build_latency_table, count_cost, predict_latency
from core.plan import GROUP_SETS
from core.recipes import LOOPS, RECIPES, Outcome, Recipe, Unfinished, job, loops, run_recipe
from core.records import PARTS, ImageData, LoadedModel, Plan, fingerprint_state
from core.trace import trace_channels
from tests.ruled_times import steady
from tests.trained import small_resnet
from tests.zoo import ZOO, images, outputs

NAMES = (
    "cp-lasso", "chapr-qr", "cap", "taylor-iterative", "sfp", "weight-l2", "weight-l2-ls", "first-k", "first-k-ls",
    "random", "random-ls", "balanced-rebuild",
)  # fmt: skip
QUICK = {
    "taylor-iterative": {"options": {"updates": 1, "per_step": 4, "batch_size": 8}},
    "sfp": {"options": {"epochs": 2, "batch_size": 16}},
}
TRAINED = ("taylor-iterative", "sfp")
EVERY_RECIPE = pytest.mark.parametrize("name", NAMES)
NETS = ("Plain", "ResidualIdentity", "DenseBlock")
REBUILDING = ("cp-lasso", "chapr-qr", "cap", "balanced-rebuild")
MAPS = ("UNet", "UNetTwoLevels", "FeaturePyramid", "HeadAtTwoScales")  # no score per class and image
ODD = [name for name, net in ZOO.items() if net.groups and net.replays and name not in MAPS]


@pytest.fixture(autouse=True)
def _few_images(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests ask what holds, not how well it works."""
    for module, name in ((job, "RESIDUAL_IMAGES"), (job, "TRIAL_IMAGES"), (loops, "RESIDUAL_IMAGES")):
        monkeypatch.setattr(module, name, 64)
    monkeypatch.setattr(loops, "FINAL_IMAGES", 128)
    yield


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return small_resnet()


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_data("digits", limit=200)


def tiny(net: str) -> tuple[LoadedModel, ImageData]:
    """A net of the zoo, and images that it answers itself: its own answers are the labels."""
    module = ZOO[net].build()
    batch = images(ZOO[net].shape, 60, seed=5)
    answers = outputs(module, batch)[0].flatten(1).argmax(1)
    parts = {name: torch.arange(20 * at, 20 * at + 20) for at, name in enumerate(PARTS)}
    size = ZOO[net].shape[1]
    classes = tuple("abcdefgh"[: max(2, int(answers.max()) + 1)])
    return LoadedModel(module, ZOO[net].example, net, net), ImageData(
        batch, answers, classes, "zoo", (0.0,) * size, (1.0,) * size, parts
    )


def test_every_promised_recipe_is_there_and_documented() -> None:
    assert set(NAMES) == set(RECIPES.names())
    for row in RECIPES:
        assert row.title and row.summary.endswith(".") and row.source and row.value.loop in LOOPS
        assert Recipe(**row.value.to_dict()) == row.value
    assert "reconstructed from the abstract" in RECIPES.row("chapr-qr").source


@EVERY_RECIPE
@pytest.mark.parametrize("net", NETS)
def test_the_law_and_the_budget_hold(name: str, net: str) -> None:
    """On plain, residual and concatenating nets: what is kept computes what the masked network does, and costs exactly
    what the plan says; the network given is as it was."""
    loaded, data = tiny(net)
    before = fingerprint_state(loaded.module.state_dict())
    trace = trace_channels(loaded.module, loaded.example)
    outcome = run_recipe(name, loaded, data, {"macs": 0.6, "params": 0.8}, **QUICK.get(name, {}))
    cost, dense = count_cost(trace, outcome.plan), count_cost(trace)
    assert cost.macs <= 0.6 * dense.macs and cost.params <= 0.8 * dense.params
    assert outcome.plan.kept and count_cost(trace_channels(outcome.module, loaded.example)).macs == cost.macs
    pruned, masked = (f(loaded.module, trace, outcome.plan) for f in (prune_model, mask_model))
    batch = data.report.images
    for a, b in zip(outputs(pruned, batch), outputs(masked, batch), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    shapes = [{key: value.shape for key, value in m.state_dict().items()} for m in (pruned, outcome.module)]
    assert shapes[0] == shapes[1]
    if RECIPES[name].solver is None and name not in TRAINED:
        assert fingerprint_state(pruned.state_dict()) == fingerprint_state(outcome.module.state_dict())
    assert fingerprint_state(loaded.module.state_dict()) == before
    assert not outcome.module.training and all(p.grad is None for p in loaded.module.parameters())
    assert outcome.comparison.b.images == len(data.report)


@pytest.mark.parametrize("at", range(len(ODD)), ids=lambda at: ODD[at])
def test_rebuilding_runs_on_every_kind_of_network(at: int) -> None:
    """Weight norms, attention, gates, joined branches, layers read twice: no rebuilt layer is worse than as cut."""
    loaded, data = tiny(ODD[at])
    trace = trace_channels(loaded.module, loaded.example)
    dense, one_each = count_cost(trace).macs, Plan({group.id: (0,) for group in GROUP_SETS["gathers"](trace)})
    macs = (3 + count_cost(trace, one_each).macs / dense) / 4
    outcome = run_recipe(REBUILDING[at % len(REBUILDING)], loaded, data, {"macs": macs})
    assert count_cost(trace_channels(outcome.module, loaded.example)).macs <= macs * dense
    assert all(story.rebuilt_error <= story.raw_error for story in outcome.stories)
    assert math.isfinite(outcome.comparison.b.loss)


@EVERY_RECIPE
def test_two_runs_with_one_seed_agree_to_the_bit(name: str) -> None:
    loaded, data = tiny("ResidualIdentity")
    first, second = (run_recipe(name, loaded, data, {"macs": 0.7}, seed=3, **QUICK.get(name, {})) for _ in range(2))
    assert first.plan == second.plan and first.comparison.b.loss == second.comparison.b.loss
    assert fingerprint_state(first.module.state_dict()) == fingerprint_state(second.module.state_dict())


@EVERY_RECIPE
def test_a_cancel_at_any_call_leaves_the_network_and_what_was_complete(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.apply.training.LISTEN_EVERY_S", math.inf)  # asks by the clock: not as often every time
    loaded, data = tiny("ResidualIdentity")
    before = fingerprint_state(loaded.module.state_dict())
    calls: list[int] = []
    seen: list[float] = []
    whole = run_recipe(
        name, loaded, data, {"macs": 0.7}, cancelled=lambda: bool(calls.append(1)),
        on_progress=lambda fraction, message, partial: seen.append(fraction), **QUICK.get(name, {}),
    )  # fmt: skip
    assert all(0 <= fraction <= 1 for fraction in seen) and seen[-1] == 1.0
    built = 0
    for stop_at in sorted({round(len(calls) * share / 8) for share in range(9)} - {len(calls)} | {len(calls) - 1}):
        left = iter(range(stop_at))
        with pytest.raises(Cancelled) as stopped:
            run_recipe(
                name, loaded, data, {"macs": 0.7}, cancelled=lambda left=left: next(left, None) is None,
                **QUICK.get(name, {}),
            )  # fmt: skip
        kept = stopped.value.partial
        assert isinstance(kept, Unfinished) and name != "" and str(stopped.value)
        assert fingerprint_state(loaded.module.state_dict()) == before
        if kept.built is not None:
            built += 1
            trace = trace_channels(loaded.module, loaded.example)
            found = trace_channels(kept.built.module, loaded.example)
            assert count_cost(found).macs == count_cost(trace, kept.built.plan).macs
            assert all(bool(answer.isfinite().all()) for answer in outputs(kept.built.module, data.report.images))
    assert built >= 1, "stopped while comparing, the network that was built is kept"
    assert whole.plan.kept


@pytest.mark.parametrize("name", ["cp-lasso", "cap", "weight-l2-ls"])
def test_an_accuracy_is_kept_on_the_selection_images(loaded: LoadedModel, data: ImageData, name: str) -> None:
    changes: dict[str, Any] = {"ratios": "uniform", "groups": "inside"} if name == "weight-l2-ls" else {}
    asked: list[Unfinished] = []
    outcome = run_recipe(
        name, loaded, data, {"accuracy_drop": 0.05}, on_progress=lambda *told: asked.append(told[2]), **changes
    )
    trace = trace_channels(loaded.module, loaded.example)
    assert count_cost(trace, outcome.plan).macs < 0.9 * count_cost(trace).macs
    assert outcome.comparison.difference > -0.15
    if name == "cap":
        assert outcome.curve and outcome.curve[-1].accuracy >= outcome.curve[-1].threshold - 1e-9


@pytest.mark.parametrize("name", TRAINED)
def test_training_recipes_refuse_an_accuracy_floor(name: str) -> None:
    loaded, data = tiny("Plain")
    with pytest.raises(PlanError, match="trains while it prunes"):
        run_recipe(name, loaded, data, {"accuracy_drop": 0.01})


def test_rebuilt_recipes_tell_their_layers(loaded: LoadedModel, data: ImageData) -> None:
    for name in ("cp-lasso", "chapr-qr", "cap"):
        outcome = run_recipe(name, loaded, data, {"macs": 0.6})
        assert {story.group for story in outcome.stories} >= set(outcome.plan.kept)
        assert all(story.rebuilt_error <= story.raw_error + 1e-12 for story in outcome.stories)
        assert outcome.comparison.b.value > 0.9  # chance is 0.1; as cut, such plans fall far below


def test_a_search_tells_its_trials(loaded: LoadedModel, data: ImageData) -> None:
    outcome = run_recipe("balanced-rebuild", loaded, data, {"macs": 0.4})
    assert 1 <= len(outcome.curve) <= 5 and outcome.comparison.b.value > 0.9
    trace = trace_channels(loaded.module, loaded.example)
    kept = {g: len(k) for g, k in outcome.plan.kept.items() if len(k) < trace.group(g).units}
    chosen = [trial for trial in outcome.curve if dict(trial.counts) == kept]
    assert chosen and chosen[0].accuracy.loss <= outcome.curve[0].accuracy.loss
    assert all(trial.accuracy.images == len(data.selection) for trial in outcome.curve)


def test_one_of_your_own(loaded: LoadedModel, data: ImageData) -> None:
    own = Recipe("fpgm", "shallow-deep", "batchnorm", "inside")
    outcome = run_recipe(own, loaded, data, {"params": 0.7})
    changed = run_recipe("first-k", loaded, data, {"params": 0.7}, criterion="fpgm", ratios="shallow-deep")
    assert isinstance(outcome, Outcome) and outcome.recipe == own and outcome.plan == changed.plan
    scanned = run_recipe("weight-l2-ls", loaded, data, {"macs": 0.7}, groups="gathers")
    assert any(name.startswith("gather:") for name in scanned.plan.kept)


def test_a_budget_of_milliseconds_is_met_by_prediction(
    loaded: LoadedModel, data: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one table for both, whose times grow with the widths: no other program's noise is in it."""
    trace = trace_channels(loaded.module, loaded.example)
    table = steady(build_latency_table(trace, threads=1, repeats=1))
    monkeypatch.setattr(job, "build_latency_table", lambda *_, **__: table)
    budget = 0.9 * predict_latency(trace, Plan({}), table).median_ms
    for name in ("random-ls", "cp-lasso"):
        outcome = run_recipe(name, loaded, data, {"latency_ms": budget})
        assert count_cost(trace, outcome.plan).macs < count_cost(trace).macs
        assert predict_latency(trace, outcome.plan, table).median_ms <= budget


def test_an_unknown_recipe_budget_or_image_part_is_named(loaded: LoadedModel, data: ImageData) -> None:
    with pytest.raises(CoreError, match="weight-l2"):
        run_recipe("weight-l3", loaded, data, {"macs": 0.5})
    with pytest.raises(CoreError, match="macs"):
        run_recipe("weight-l2", loaded, data, {"mac": 0.5})
    with pytest.raises(CoreError, match="calibration"):
        run_recipe("weight-l2", loaded, data.selection, {"macs": 0.5})
    with pytest.raises(CoreError, match="out of reach"):
        run_recipe("first-k", loaded, data, {"macs": 1e-5})


def test_the_whole_story_ends_with_files_that_were_verified(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "load_data", partial(load_data, limit=300))
    story = pipeline.tell(
        "demo/digits-resnet", "digits", 0.8, tmp_path / "out", fractions=(0.5,), formats=["checkpoint"]
    )
    dense, pruned = story.costs
    assert pruned.macs <= 0.8 * dense.macs
    assert story.verification.ok, story.verification.message
    assert story.comparison.b.images == 60
    assert story.curves.complete
