"""Every ratio rule meets every kind of budget, on plain, residual and branched nets, and does what its row says."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

from core.errors import PlanError
from core.measure.cost import build_latency_table, count_cost, predict_latency
from core.plan import GROUP_SETS, RATIO_RULES, LossCurve, choose_counts, target_groups
from core.plan.limits import stand_in
from core.plan.rules import Situation, global_path, shallow_deep_path
from core.records import Accuracy, Plan, Scores, Trace
from core.trace import trace_channels
from tests.ruled_times import steady
from tests.zoo import ZOO

NETS = ("Plain", "ResidualProjection", "DenseBlock")
EVERY_RULE = pytest.mark.parametrize("rule", RATIO_RULES.names())
EVERY_SET = pytest.mark.parametrize("groups", GROUP_SETS.names())
ON_NETS = pytest.mark.parametrize("net", NETS)


def traced(net: str) -> Trace:
    return trace_channels(ZOO[net].build(), ZOO[net].example)


def scored(trace: Trace) -> Scores:
    numbers = torch.Generator().manual_seed(0)
    return Scores("random", {g.id: torch.rand(g.units, generator=numbers).double() for g in trace.groups})


def bent(trace: Trace) -> dict[str, LossCurve]:
    """Convex curves of different heights; the accuracy lost is a tenth of the loss."""
    curves = {}
    for number, group in enumerate(trace.groups):
        loss = (1 + number % 3) * (np.arange(group.units) / group.units) ** 2
        curves[group.id] = LossCurve(loss, 0.1 * loss)
    return curves


def removed(trace: Trace, counts: Mapping[str, int]) -> dict[str, int]:
    return {name: trace.group(name).units - kept for name, kept in counts.items()}


def share(trace: Trace, counts: Mapping[str, int], quantity: str) -> float:
    plan = stand_in(trace, removed(trace, counts))
    return float(getattr(count_cost(trace, plan), quantity) / getattr(count_cost(trace), quantity))


@ON_NETS
@EVERY_RULE
@EVERY_SET
@pytest.mark.parametrize("quantity", ["macs", "params"])
def test_a_share_is_met_and_not_undercut_by_much(net: str, rule: str, groups: str, quantity: str) -> None:
    trace = traced(net)
    scores, curves = scored(trace), bent(trace)
    for wanted in (0.9, 0.6):
        counts = choose_counts(trace, rule, {quantity: wanted}, groups=groups, scores=scores, curves=curves)
        allowed = {group.id for group in target_groups(trace, groups)}
        assert set(counts) <= allowed and all(1 <= counts[name] < trace.group(name).units for name in counts)
        assert share(trace, counts, quantity) <= wanted
        wider = [share(trace, {**counts, name: kept + 1}, quantity) for name, kept in counts.items()]
        assert max(wider, default=1.0) > wanted, "a unit could come back"
    assert choose_counts(trace, rule, {quantity: 1.0}, groups=groups, scores=scores, curves=curves) == {}


@EVERY_RULE
def test_milliseconds_are_met_by_prediction(rule: str) -> None:
    trace = chain(3, 16, 16, 32)
    table = steady(build_latency_table(trace, threads=1, repeats=1))
    least = Plan({group.id: (0,) for group in trace.prunable})
    wanted = sum(predict_latency(trace, plan, table).median_ms for plan in (Plan({}), least)) / 2
    counts = choose_counts(trace, rule, {"latency_ms": wanted}, scores=scored(trace), curves=bent(trace), table=table)
    found = predict_latency(trace, stand_in(trace, removed(trace, counts)), table).median_ms
    assert found <= wanted and counts
    with pytest.raises(PlanError, match="latency table"):
        choose_counts(trace, rule, {"latency_ms": wanted}, scores=scored(trace), curves=bent(trace))


def judge(trace: Trace, asked: list[float]) -> object:
    """Accuracy falls by a twentieth of the MACs that are saved."""

    def measure(counts: Mapping[str, int]) -> Accuracy:
        macs = share(trace, counts, "macs")
        asked.append(macs)
        correct = round(10_000 * (0.9 - 0.05 * (1 - macs)))
        return Accuracy(correct / 10_000, 0, 1, 1.0, correct, 10_000)

    return measure


@ON_NETS
@EVERY_RULE
def test_an_accuracy_floor_is_kept_by_measurement(net: str, rule: str) -> None:
    trace = traced(net)
    asked: list[float] = []
    known = {"scores": scored(trace), "curves": bent(trace), "measure": judge(trace, asked)}
    counts = choose_counts(trace, rule, {"accuracy_drop": 0.01}, **known)
    found = share(trace, counts, "macs")
    assert found >= 0.8 - 1e-3, "a drop of one point is a fifth of the MACs here"
    assert found < 0.95 and len(asked) < 12
    both = choose_counts(trace, rule, {"accuracy_drop": 0.02, "params": 0.9}, **known)
    assert share(trace, both, "macs") >= 0.6 - 1e-3 and share(trace, both, "params") <= 0.9
    with pytest.raises(PlanError, match="within the accuracy drop"):
        choose_counts(trace, rule, {"accuracy_drop": 0.001, "macs": 0.5}, **known)


def test_the_way_never_goes_back() -> None:
    trace = traced("ResidualProjection")
    for row in RATIO_RULES:
        situation = Situation(trace, trace.prunable, {"macs": 0.5}, scored(trace), bent(trace))
        path = row.value.path(situation)
        assert not any(path[0].values()), row.name
        for less, more in itertools.pairwise(path):
            assert all(more[name] >= less[name] for name in less)
        assert all(path[-1][group.id] == group.units - 1 for group in trace.prunable)


def chain(*widths: int) -> Trace:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
    return trace_channels(nn.Sequential(*layers, nn.Conv2d(widths[-1], 2, 1)).eval(), torch.randn(1, widths[0], 8, 8))


def test_deep_groups_keep_one_and_a_half_times_as_much() -> None:
    trace = chain(3, 20, 20, 20, 20)
    path = shallow_deep_path(Situation(trace, trace.prunable))
    kept = [[20 - count for count in removed.values()] for removed in path]
    assert [10, 10, 15, 15] in kept and [4, 4, 6, 6] in kept


def test_a_global_threshold_compares_normalised_scores() -> None:
    trace = chain(3, 4, 4)
    first, second = (group.id for group in trace.prunable)
    scores = Scores("hand", {first: torch.tensor([1.0, 2, 3, 4]), second: torch.tensor([100.0, 100, 100, 1])})
    path = global_path(Situation(trace, trace.prunable, scores=scores))
    told = [(removed[first], removed[second]) for removed in path]
    # normalised: 0.18 0.37 0.55 (0.73 stays) and 0.006 0.577 0.577 (0.577 stays)
    assert told == [(0, 0), (0, 1), (1, 1), (2, 1), (3, 1), (3, 2), (3, 3)]


def test_equal_marginal_loss_is_the_best_there_is() -> None:
    """Against all widths of a small net: convex curves, one linear budget."""
    trace = chain(3, 6, 6)
    names = [group.id for group in trace.prunable]
    curves = {name: LossCurve(height * np.arange(6.0) ** 2) for name, height in zip(names, (1.0, 3.0), strict=True)}
    for wanted in (0.8, 0.6, 0.4):
        counts = choose_counts(trace, "rebuilt-error", {"macs": wanted}, curves=curves)
        loss = sum(curves[name].loss[6 - kept] for name, kept in counts.items())
        best = min(
            sum(curves[name].loss[6 - kept] for name, kept in zip(names, pair, strict=True))
            for pair in itertools.product(range(1, 7), repeat=2)
            if share(trace, dict(zip(names, pair, strict=True)), "macs") <= wanted
        )
        assert loss <= 1.35 * best


def test_gathers_leave_the_trunk_alone_and_are_counted() -> None:
    trace = traced("ResidualIdentity")
    inside, chosen, every = (target_groups(trace, name) for name in ("inside", "gathers", "all"))
    assert [group.id for group in inside] == ["a.0"]
    assert {group.id for group in chosen} == {"a.0", "gather:a.0", "gather:fc"}
    assert {group.id for group in every} == {"a.0", "stem.0"}
    for rule in RATIO_RULES.names():
        known = {"scores": scored(trace), "curves": bent(trace)}
        counts = choose_counts(trace, rule, {"macs": 0.6}, groups="gathers", **known)
        assert "stem.0" not in counts and set(counts) & {"gather:a.0", "gather:fc"}
        assert share(trace, counts, "macs") <= 0.6


def test_what_a_rule_lacks_is_said() -> None:
    trace = traced("Plain")
    for rule, word in (("global", "scores"), ("sensitivity", "curves"), ("rebuilt-error", "curves")):
        with pytest.raises(PlanError, match=word):
            choose_counts(trace, rule, {"macs": 0.5})
    with pytest.raises(Exception, match="uniform"):
        choose_counts(trace, "unifrom", {"macs": 0.5})
    assert all(row.title and row.summary.endswith(".") and row.source for row in [*RATIO_RULES, *GROUP_SETS])
