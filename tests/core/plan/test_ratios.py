"""From ratios and scores to plans, and plans as values."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from core.errors import PlanError
from core.plan.ratios import kept_units, plan_counts, plan_fractions, plan_uniform
from core.records import Group, Plan, Scores, Trace
from tests.traced import traced
from tests.zoo import NETS, ZooNet


def plain() -> Trace:
    return traced("Plain")


def scored(trace: Trace, seed: int = 0) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    return Scores("random", {g.id: torch.rand(g.units, generator=generator).double() for g in trace.groups})


def a_group(units: int) -> Group:
    return Group("g", "g", ("g",), units, True, None, ())


@pytest.mark.parametrize(
    ("units", "removed", "kept"),
    [(10, 0.0, 10), (10, 0.34, 7), (10, 0.25, 8), (10, 0.35, 6), (8, 0.5, 4), (3, 0.5, 1), (10, 0.99, 1), (5, 1.0, 1)],
)
def test_removed_is_round_of_fraction_times_units(units: int, removed: float, kept: int) -> None:
    """Half-way cases go to the even number, as Python's round: 0.25 of 10 removes 2, 0.35 removes 4 (3.5)."""
    assert kept_units(a_group(units), removed) == kept


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan")])
def test_fractions_outside_are_refused(fraction: float) -> None:
    with pytest.raises(PlanError, match=r"Group g: removed fraction must lie in 0\.\.1; found"):
        kept_units(a_group(4), fraction)


def test_the_lowest_scores_leave_first_and_ties_keep_the_lower_index() -> None:
    trace = plain()
    scores = Scores("hand", {"conv1": torch.tensor([5.0, 1, 4, 1, 3, 2, 6, 1]), "conv2": torch.ones(6)})
    assert plan_counts(trace, scores, {"conv1": 2, "conv2": 2}).kept == {
        "conv1": (0, 1, 2, 4, 5, 6),  # of the three ones, index 1 stays
        "conv2": (0, 1, 2, 3),
    }
    assert plan_counts(trace, scores, {"conv1": 99}).kept == {"conv1": (6,)}
    assert plan_counts(trace, scores, {"conv1": 0}).kept == {}
    assert plan_fractions(trace, scores, {"conv1": 0.5}).kept == {"conv1": (0, 2, 4, 6)}


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
@pytest.mark.parametrize("removed", [0.0, 0.3, 0.5, 1.0])
def test_uniform_plans(net: ZooNet, removed: float) -> None:
    trace = traced(net)
    scores = scored(trace)
    plan = plan_uniform(trace, scores, removed)
    assert plan == plan_fractions(trace, scores, {group.id: removed for group in trace.prunable})
    for group in trace.prunable:
        kept = plan.kept.get(group.id, tuple(range(group.units)))
        assert len(kept) == max(1, group.units - round(removed * group.units))
        lost = [unit for unit in range(group.units) if unit not in kept]
        assert not lost or scores.scores[group.id][lost].max() <= scores.scores[group.id][list(kept)].min()
    assert "uniform" in plan.origin and "random" in plan.origin


def test_nested_plans() -> None:
    """Removing more keeps a part of what removing less keeps."""
    trace = plain()
    scores = scored(trace)
    plans = [plan_uniform(trace, scores, fraction) for fraction in (0.2, 0.4, 0.6, 0.8)]
    for less, more in itertools.pairwise(plans):
        assert all(set(more.kept[name]) <= set(less.kept[name]) for name in less.kept)


def test_refusals_name_the_group_and_the_remedy() -> None:
    trace = plain()
    with pytest.raises(PlanError, match=r"fc cannot be pruned: feeds the output\. Leave it out"):
        plan_fractions(trace, scored(trace), {"fc": 0.5})
    with pytest.raises(PlanError, match="no group called 'conv8'"):
        plan_fractions(trace, scored(trace), {"conv8": 0.5})
    with pytest.raises(PlanError, match="conv1 has no hand scores"):
        plan_counts(trace, Scores("hand", {}), {"conv1": 1})
    assert plan_fractions(trace, scored(trace), {"fc": 0.0}).kept == {}


def test_plans_are_values() -> None:
    plan = Plan({"b": (3, 1), "a": (0,)}, "by hand")
    assert plan == Plan({"a": (0,), "b": (1, 3)}, "another origin") and plan.kept["b"] == (1, 3)
    assert plan.key == Plan({"a": (0,), "b": (1, 3)}).key != Plan({"a": (0,), "b": (1, 2)}).key
    assert Plan.from_json(plan.to_json()) == plan and Plan.from_json(plan.to_json()).origin == "by hand"
    assert len({plan, Plan({"a": (0,), "b": (1, 3)})}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.kept = {}  # type: ignore[misc]


@pytest.mark.parametrize("text", ["", "hello", "[]", '{"kept": 3}', '{"kept": {"a": ["x"]}}', '{"other": {}}', "null"])
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="Expected a plan"):
        Plan.from_json(text)


def test_scores_survive_json() -> None:
    scores = scored(plain())
    again = Scores.from_dict(scores.to_dict())
    assert all(torch.equal(again.scores[name], scores.scores[name]) for name in scores.scores)
    assert scores.ranking("conv1") == sorted(range(8), key=lambda unit: -float(scores.scores["conv1"][unit]))
