"""Recipes as jobs: what comes back is plain JSON whose plan and weights build the very network that was measured."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core import (
    AS_CUT,
    OWN,
    Plan,
    Subject,
    count_cost,
    evaluate_model,
    load_exported,
    open_subject,
    own_choices,
    recipe_cards,
    repair_of,
)
from core.errors import Cancelled, CoreError
from core.keep.networks import build_any
from core.keep.shelf import job_key
from core.keep.store import open_store
from core.keep.timings import note_timing
from core.measure.cost import build_latency_table, predict_latency
from core.recipes import job
from core.records import PARTS, Latency, fingerprint_state
from core.work.recipe_runs import cook, curve_json, latency_table, stories_json
from core.work.tasks import evaluate_plan, export

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="module")
def subject() -> Subject:
    return open_subject("cifar/resnet8", "random", "random")


def cooked(
    subject: Subject,
    recipe: str,
    budget: dict[str, float],
    *,
    finetune: int = 0,
    stop_at: int = 10**9,
    told: list[tuple[float, str, Any]] | None = None,
    **own: Any,
) -> tuple[dict[str, Any], list[tuple[float, str, Any]]]:
    told = [] if told is None else told
    result = cook(
        subject.model_source, subject.weights, "random", recipe, own, budget, finetune, 0,
        lambda fraction, message="", partial=None: told.append((fraction, message, partial)),
        lambda: len(told) >= stop_at,
    )  # fmt: skip
    return result, told


def test_a_recipe_keeps_to_the_times_that_pages_show(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stored table, corrected by what was timed since; nothing is timed again."""
    made = build_latency_table(subject.trace, threads=1, points=2, repeats=1, max_seconds=2.0)
    key = job_key("latency_table", subject)
    open_store().put_result("latency_table", key, made.to_dict())
    dense_ms = 3 * predict_latency(subject.trace, None, made).median_ms
    dense = Latency(dense_ms, dense_ms, dense_ms, 40, 1, 1, made.device)
    note_timing(open_store(), key, subject.trace, Plan({}), [dense])
    monkeypatch.setattr(job, "build_latency_table", lambda *_, **__: pytest.fail("timed again"))
    table = latency_table(subject)
    assert table is not None and predict_latency(subject.trace, None, table).median_ms == pytest.approx(dense_ms)
    result, _ = cooked(subject, "first-k", {"latency_ms": 0.95 * dense_ms})
    assert predict_latency(subject.trace, check(subject, result), table).median_ms <= 0.95 * dense_ms


def check(subject: Subject, result: dict[str, Any]) -> Plan:
    """The result is JSON, and its network is the one that was measured."""
    assert json.loads(json.dumps(result)) == json.loads(json.dumps(result))
    plan = Plan.from_json(result["plan"])
    module, _ = build_any(subject, plan, repair_of(result))
    assert evaluate_model(module, subject.data.selection).correct == result["accuracy"]["correct"]
    assert result["macs"] == count_cost(subject.trace, plan).macs
    assert result["dense_macs"] == count_cost(subject.trace).macs
    return plan


@pytest.mark.parametrize("name", ["cp-lasso", "chapr-qr", "cap", "weight-l2-ls", "first-k"])
def test_a_recipe_meets_its_budget_and_its_network_can_be_built_again(subject: Subject, name: str) -> None:
    result, told = cooked(subject, name, {"macs": 0.6})
    plan = check(subject, result)
    assert 0.4 < count_cost(subject.trace, plan).macs / count_cost(subject.trace).macs <= 0.6
    fractions = [fraction for fraction, _, _ in told]
    assert fractions == sorted(fractions)
    assert repair_of(result) == AS_CUT if name == "first-k" else repair_of(result) != AS_CUT
    keys = {"cp-lasso": "coefficients", "chapr-qr": "diagonal", "cap": "left"}
    if name in keys:
        paths = [story["path"] for story in result["stories"] if story["path"]]
        assert paths and all(keys[name] in path for path in paths)
        assert all(story["rebuilt_error"] <= story["raw_error"] + 1e-9 for story in result["stories"])


def test_the_way_down_is_told_and_a_cancel_leaves_what_was_complete(subject: Subject) -> None:
    told: list[tuple[float, str, Any]] = []
    with pytest.raises(Cancelled) as stopped:
        cooked(subject, "taylor-iterative", {"macs": 0.5}, stop_at=8, told=told)
    left: Any = stopped.value.partial
    seen = [len(partial["curve"]) for _, _, partial in told if partial]
    assert seen and seen == sorted(set(seen)), "told while it goes on, and only when there is more to see"
    assert all(point["kind"] == "maps" for point in left["curve"]) and left["curve"]
    assert json.dumps(left)
    plan = Plan.from_json(left["plan"])
    module, _ = build_any(subject, plan, repair_of(left))
    assert evaluate_model(module, subject.data.selection).images > 0


def test_a_recipe_of_ones_own_and_a_short_training(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.work import recipe_runs

    original = recipe_runs.finetune_model
    asked: list[float] = []

    def train(module: Any, data: Any, **options: Any) -> Any:
        asked.append(options["seconds"])
        return original(module, data, **{**options, "seconds": None, "epochs": 1})

    monkeypatch.setattr(recipe_runs, "finetune_model", train)
    own = {
        "loop": "front-to-back",
        "groups": "inside",
        "ratios": "uniform",
        "criterion": "qr",
        "solver": "compensation",
    }
    assert set(own) == {part.field for part in own_choices()}
    result, _ = cooked(subject, OWN, {"params": 0.5}, finetune=30, **own)
    check(subject, result)
    assert asked == [30.0] and any("Fine-tuning" in line for line in result["log"])
    with pytest.raises(CoreError):
        cooked(subject, "no such recipe", {"params": 0.5})


def test_the_page_hears_nothing_of_the_report_images(subject: Subject) -> None:
    result, _ = cooked(subject, "first-k", {"macs": 0.6})
    assert result["accuracy"]["images"] == len(subject.data.selection) and PARTS[2] == "report"
    assert "report" not in result["accuracy"]["data"] + result["dense_accuracy"]["data"]


def test_cards_say_something_of_every_recipe() -> None:
    cards = recipe_cards()
    assert len({card.title for card in cards}) == len(cards)
    assert all(card.summary and card.source and len(card.steps) >= 3 for card in cards)
    for part in own_choices():
        assert part.default in {row.name for row in part.rows} and len({row.name for row in part.rows}) == len(
            part.rows
        )


def test_anything_else_has_no_picture() -> None:
    assert curve_json(None) == curve_json([1, "two"]) == stories_json(3) == stories_json([object()]) == []


def test_what_a_recipe_made_is_measured_and_exported_with_its_own_weights(subject: Subject) -> None:
    """Gathers included: the files reload in a fresh process and compute the same."""
    result, _ = cooked(subject, "cp-lasso", {"macs": 0.5})
    plan, where = Plan.from_json(result["plan"]), (subject.model_source, subject.weights, "random")
    assert any(name.startswith("gather:") for name in plan.kept)

    def nothing(*_: Any) -> None:
        """Progress that nobody looks at."""

    measured = evaluate_plan(*where, result["plan"], repair_of(result), nothing, lambda: False)
    assert measured["accuracy"]["correct"] == result["accuracy"]["correct"] and measured["macs"] == result["macs"]
    owner, formats = "somebody", ["checkpoint"]
    exported = export(*where, result["plan"], repair_of(result), owner, formats, nothing, lambda: False)
    assert exported["verification"]["ok"] and not exported["failed"]
    module, _ = build_any(subject, plan, repair_of(result))
    again = load_exported(exported["directory"])
    assert fingerprint_state(again.state_dict()) == fingerprint_state(module.state_dict())
