"""Budgets are met to the unit, cheap channels go first, and what is out of reach is said so."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from core.errors import PlanError
from core.measure.cost import build_latency_table, count_cost, predict_latency
from core.measure.sensitivity import Sensitivity
from core.plan import plan_budget
from core.records import CurvePoint, Plan, Scores, Trace
from core.trace import trace_channels
from tests.ruled_times import steady


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip


@pytest.fixture(scope="module")
def trace() -> Trace:
    return trace_channels(net().eval(), torch.randn(1, 1, 16, 16))


@pytest.fixture(scope="module")
def scores(trace: Trace) -> Scores:
    generator = torch.Generator().manual_seed(0)
    return Scores("random", {g.id: torch.rand(g.units, generator=generator, dtype=torch.float64) for g in trace.groups})


def curves(trace: Trace, drops: dict[str, float]) -> Sensitivity:
    """Straight lines: all of group g removed costs drops[g] in accuracy and twice that in loss."""
    fractions = (0.0, 0.25, 0.5, 0.75)
    points = {}
    for group in trace.prunable:
        drop = drops[group.id]
        points[group.id] = tuple(
            CurvePoint(f, group.units - round(f * group.units), 0.9 - f * drop, 0.85, 0.95, 0.3 + 2 * f * drop, 400)
            for f in fractions
        )
    dense = CurvePoint(0.0, sum(g.units for g in trace.prunable), 0.9, 0.87, 0.93, 0.3, 400)
    return Sensitivity(points, dense, "random", True)


DROPS = {"0": 0.2, "2": 0.02, "4": 0.4}


def one_more(trace: Trace, plan: Plan, group: str) -> Plan:
    units = trace.group(group).units
    missing = next(unit for unit in range(units) if unit not in plan.kept[group])
    return Plan({**plan.kept, group: (*plan.kept[group], missing)})


@pytest.mark.parametrize("quantity", ["macs", "params"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.25, 0.1])
def test_met_to_the_unit(trace: Trace, scores: Scores, quantity: str, share: float) -> None:
    for sensitivity in (curves(trace, DROPS), None):
        plan = plan_budget(trace, scores, sensitivity, {quantity: share})
        whole = getattr(count_cost(trace), quantity)
        assert getattr(count_cost(trace, plan), quantity) <= share * whole
        tight = [
            getattr(count_cost(trace, one_more(trace, plan, name)), quantity) > share * whole for name in plan.kept
        ]
        assert any(tight)
        for name, kept in plan.kept.items():
            assert list(kept) == sorted(scores.ranking(name)[: len(kept)])


def test_cheap_channels_go_first(trace: Trace, scores: Scores) -> None:
    plan = plan_budget(trace, scores, curves(trace, DROPS), {"macs": 0.6})
    removed = {g.id: 1 - len(plan.kept.get(g.id, range(g.units))) / g.units for g in trace.prunable}
    assert removed["2"] > removed["0"] and removed["2"] > 2 * removed["4"]
    other = plan_budget(trace, scores, curves(trace, {"0": 0.2, "2": 0.4, "4": 0.02}), {"macs": 0.6})
    assert len(other.kept["4"]) / 32 < len(other.kept.get("2", range(16))) / 16


def test_both_budgets_hold(trace: Trace, scores: Scores) -> None:
    plan = plan_budget(trace, scores, curves(trace, DROPS), {"macs": 0.7, "params": 0.3})
    dense, cost = count_cost(trace), count_cost(trace, plan)
    assert cost.macs <= 0.7 * dense.macs and cost.params <= 0.3 * dense.params


def test_accuracy_drop_bounds_the_sum(trace: Trace, scores: Scores) -> None:
    sensitivity = curves(trace, DROPS)
    plan = plan_budget(trace, scores, sensitivity, {"accuracy_drop": 0.05})
    drop = sum(0.9 - sensitivity.accuracy(g, 1 - len(kept) / trace.group(g).units) for g, kept in plan.kept.items())
    assert 0.03 < drop <= 0.05 + 1e-9
    assert len(plan.kept["2"]) <= 5  # three quarters of it cost 0.015 only
    assert plan_budget(trace, scores, sensitivity, {"accuracy_drop": 0.0}).kept == {}
    with pytest.raises(PlanError, match="within the accuracy drop"):
        plan_budget(trace, scores, sensitivity, {"macs": 0.1, "accuracy_drop": 0.001})


def test_milliseconds(trace: Trace, scores: Scores) -> None:
    table = steady(build_latency_table(trace, threads=1, repeats=1))
    dense = predict_latency(trace, None, table).median_ms
    least = min(predict_latency(trace, Plan({g.id: (0,) for g in trace.prunable}), table).median_ms, dense)
    wanted = (dense + least) / 2
    plan = plan_budget(trace, scores, curves(trace, DROPS), {"latency_ms": wanted}, table=table)
    assert predict_latency(trace, plan, table).median_ms <= wanted
    with pytest.raises(PlanError, match="latency table"):
        plan_budget(trace, scores, None, {"latency_ms": wanted})


def test_all_may_remain(trace: Trace, scores: Scores) -> None:
    assert plan_budget(trace, scores, None, {"macs": 1.0}).kept == {}


def test_noise_does_not_empty_a_group(trace: Trace, scores: Scores) -> None:
    """Curves that are flat within the sampling error share the loss among groups."""
    plan = plan_budget(trace, scores, curves(trace, dict.fromkeys(DROPS, 0.0)), {"macs": 0.4})
    assert min(len(kept) / trace.group(name).units for name, kept in plan.kept.items()) > 0.25


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({}, "empty"), ({"mac": 0.5}, "macs"), ({"macs": 0.0}, "share in 0..1"), ({"params": 1.5}, "share in 0..1"),
        ({"macs": float("nan")}, "share in 0..1"), ({"accuracy_drop": 0.1}, "curves"),
        ({"macs": 1e-4}, "smallest reachable"),
    ],
)  # fmt: skip
def test_bad_budgets(trace: Trace, scores: Scores, budget: dict[str, float], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        plan_budget(trace, scores, None, budget)


def test_quick_on_wide_networks() -> None:
    layers: list[nn.Module] = [nn.Conv2d(3, 512, 1)]
    for _ in range(20):
        layers += [nn.ReLU(), nn.Conv2d(512, 512, 3, padding=1)]
    trace = trace_channels(nn.Sequential(*layers), torch.randn(1, 3, 8, 8))
    scores = Scores("first-k", {g.id: torch.arange(g.units).double() for g in trace.groups})
    sensitivity = curves(trace, {g.id: 0.01 * k for k, g in enumerate(trace.groups)})
    start = time.perf_counter()
    plan_budget(trace, scores, sensitivity, {"macs": 0.3})
    assert time.perf_counter() - start < 2


def test_an_incomplete_scan_leaves_the_unscanned_alone(trace: Trace, scores: Scores) -> None:
    whole = curves(trace, DROPS)
    part = Sensitivity({**whole.points, "4": whole.points["4"][:1]}, whole.dense, "random", False)
    assert "4" not in plan_budget(trace, scores, part, {"macs": 0.5}).kept
    with pytest.raises(PlanError, match="have no curve yet"):
        plan_budget(trace, scores, part, {"params": 0.05})
