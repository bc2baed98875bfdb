"""The searches: they keep their budget or threshold, correct themselves, and leave what was measured when stopped."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from core.errors import Cancelled, PlanError
from core.measure.cost import count_cost
from core.measure.residuals import Residuals
from core.plan import foretold, rebuilt_curves, search_counts, search_structure, target_groups
from core.plan.limits import stand_in
from core.plan.search import START, Trial, _doubted, _Model
from core.records import Accuracy, Trace
from core.trace import trace_channels
from tests.zoo import ZOO

NETS = ("Plain", "ResidualIdentity", "DenseBlock")


def traced(net: str) -> Trace:
    return trace_channels(ZOO[net].build(), ZOO[net].example)


def residuals(trace: Trace) -> Residuals:
    left = {
        group.id: tuple((1 + number) * (1 - np.arange(group.units + 1) / group.units) ** 2)
        for number, group in enumerate(trace.groups)
    }
    return Residuals(left, {group.id: tuple(range(group.units)) for group in trace.groups}, 10)


def macs(trace: Trace, counts: Mapping[str, int]) -> float:
    removed = {name: trace.group(name).units - kept for name, kept in counts.items()}
    return count_cost(trace, stand_in(trace, removed)).macs / count_cost(trace).macs


def accuracy(loss: float, value: float = 0.9) -> Accuracy:
    return Accuracy(value, 0, 1, loss, round(1000 * value), 1000)


class World:
    """Where loss is what other factors than the first guess's foretell."""

    def __init__(self, trace: Trace, factors: tuple[float, float, float]) -> None:
        self.trace, self.asked = trace, list[dict[str, int]]()
        self.truth = _Model(trace, residuals(trace), "gathers").curves(factors)

    def __call__(self, counts: Mapping[str, int]) -> Accuracy:
        self.asked.append(dict(counts))
        return accuracy(0.2 + 0.01 * foretold(self.truth, self.trace, counts))


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("share", [0.7, 0.4])
def test_every_trial_is_within_the_budget_and_the_best_is_kept(net: str, share: float) -> None:
    trace = traced(net)
    world = World(trace, START)
    told: list[int] = []
    found = search_counts(
        trace, residuals(trace), {"macs": share}, world, on_progress=lambda _, __, trials: told.append(len(trials))
    )
    assert all(macs(trace, trial.counts) <= share for trial in found.trials)
    assert found.best == min(found.trials, key=lambda trial: _doubted(trial, found.dense))
    assert found.best.accuracy.loss <= found.trials[0].accuracy.loss
    assert told == list(range(1, len(found.trials) + 1)) and len(world.asked) == 1 + len(found.trials)
    assert len({tuple(sorted(trial.counts.items())) for trial in found.trials}) == len(found.trials)
    again = search_counts(trace, residuals(trace), {"macs": share}, World(trace, START))
    assert again.trials == found.trials


def test_it_corrects_itself() -> None:
    """Where the truth tilts towards late layers and away from gathers, the refitted plan beats the first guess."""
    trace = traced("DenseBlock")
    world = World(trace, (0.9, -1.0, 1.0))
    found = search_counts(trace, residuals(trace), {"macs": 0.5}, world)
    first = found.trials[0].accuracy.loss - 0.2
    assert found.best.accuracy.loss - 0.2 <= first
    fitted = [trial for trial in found.trials if trial.foretold is not None]
    for trial in fitted:
        assert trial.foretold == pytest.approx(trial.accuracy.loss - 0.2, rel=0.35)
    model = _Model(trace, residuals(trace), "gathers")
    (_, _, depth), _ = model.fit(list(found.trials), found.dense)
    assert depth > 0


def test_an_unlikely_plan_must_be_clearly_better() -> None:
    dense = accuracy(0.2)
    likely = Trial({}, accuracy(0.30), START, None)
    odd, better = (Trial({}, accuracy(loss), (START[0] + 0.15, 0.7, 0.6), None) for loss in (0.28, 0.25))
    assert _doubted(better, dense) < _doubted(likely, dense) < _doubted(odd, dense)


def test_a_stopped_search_keeps_its_trials() -> None:
    trace = traced("Plain")
    world = World(trace, START)

    def measure(counts: Mapping[str, int]) -> Accuracy:
        if len(world.asked) == 2:
            raise Cancelled("enough")
        return world(counts)

    with pytest.raises(Cancelled) as stopped:
        search_counts(trace, residuals(trace), {"macs": 0.5}, measure)
    assert len(stopped.value.partial) == 1  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="out of reach"):
        search_counts(trace, residuals(trace), {"macs": 1e-6}, world)


def test_curves_fade_with_what_their_readers_make() -> None:
    trace = traced("ResidualIdentity")
    curves = rebuilt_curves(trace, residuals(trace))
    assert curves["gather:a.0"].fades_with == "a.0" and curves["a.0"].fades_with == "stem.0"
    units = trace.group("gather:a.0").units
    alone = foretold(curves, trace, {"gather:a.0": units - 2})
    both = foretold(curves, trace, {"gather:a.0": units - 2, "a.0": 3}) - foretold(curves, trace, {"a.0": 3})
    assert both == pytest.approx(alone / 2)


class Steps:
    """Accuracy falls by a known amount per removed unit of each group."""

    def __init__(self, trace: Trace, each: Mapping[str, float]) -> None:
        self.trace, self.each, self.calls = trace, each, 0

    def __call__(self, counts: Mapping[str, int]) -> Accuracy:
        self.calls += 1
        lost = sum(self.each[name] * (self.trace.group(name).units - kept) for name, kept in counts.items())
        return accuracy(1.0, round(0.9 - lost, 6))


@pytest.mark.parametrize("net", NETS)
def test_the_structural_search_takes_the_most_below_each_threshold(net: str) -> None:
    trace = traced(net)
    groups = target_groups(trace, "gathers")
    each = {group.id: 0.004 * (1 + number) for number, group in enumerate(groups)}
    measure = Steps(trace, each)
    counts, steps = search_structure(groups, measure, 0.05, steps=8)
    spent = 0.0
    for number, (group, step) in enumerate(zip(groups, steps, strict=True), start=1):
        assert step.threshold == pytest.approx(0.9 - number * 0.05 / len(groups))
        room = (0.9 - step.threshold - spent) / each[group.id]
        assert step.removed == min(group.units - 1, int(room + 1e-6)) == group.units - counts.get(group.id, group.units)
        spent += step.removed * each[group.id]
        assert step.accuracy == pytest.approx(0.9 - spent)
    assert measure(counts).value >= 0.85 - 1e-9


def test_nothing_leaves_where_nothing_may_be_lost() -> None:
    trace = traced("Plain")
    groups = target_groups(trace, "inside")
    counts, steps = search_structure(groups, Steps(trace, {group.id: 0.01 for group in groups}), 0.0)
    assert counts == {} and len(steps) == len(groups) and all(step.removed == 0 for step in steps)
    with pytest.raises(PlanError, match="accuracy_drop"):
        search_structure(groups, Steps(trace, {}), 1.5)


def test_a_stopped_structural_search_keeps_its_layers() -> None:
    trace = traced("Plain")
    groups = target_groups(trace, "inside")
    slow = Steps(trace, {group.id: 0.001 for group in groups})

    def measure(counts: Mapping[str, int]) -> Accuracy:
        if len(counts) == 2:
            raise Cancelled("enough")
        return slow(counts)

    with pytest.raises(Cancelled) as stopped:
        search_structure(groups, measure, 0.1)
    counts, steps = stopped.value.partial  # type: ignore[misc]
    assert list(counts) == [groups[0].id] and len(steps) == 1
