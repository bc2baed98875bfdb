"""Iterative Taylor pruning: the scores are the paper's, the least leave, the plan is the original network's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.apply import mask_model, prune_model
from core.apply.course import Course
from core.apply.iterative import (
    Iterated,
    IterationPoint,
    macs_per_unit,
    prune_iteratively,
    put_back,
    remaining,
)
from core.apply.reading import Reading
from core.apply.surgery import kept_positions, max_relative_error
from core.apply.training import Trainer
from core.errors import Cancelled, CoreError, PlanError, TrainError
from core.measure.cost.counts import count_cost
from core.measure.importance import score_channels
from core.measure.importance.taylor import macs_per_map
from core.measure.walk import first_tensor
from core.records import ImageData, Plan, Trace, fingerprint_state
from core.trace import trace_channels
from core.trace.copies import named_state
from tests.traced import lent, traced
from tests.untouched import same, state_of
from tests.zoo import NETS, ZOO, ZooNet, images, outputs, random_plan

EVERY_NET = pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
USUAL = ("Plain", "ResidualPadded", "DenseBlock", "InvertedResidual", "SqueezeExcitation")
COURSE = {"batch_size": 6, "lr": 0.01, "clip": 1.0, "augment": "none"}


def pictures(net: ZooNet, count: int = 24) -> ImageData:
    classes = outputs(net.build(), net.example)[0].shape[-1]
    names = tuple(map(str, range(classes)))
    parts = {"calibration": torch.arange(count - 6), "selection": torch.arange(count - 6, count)}
    return ImageData(
        images(net.shape, count, seed=6), torch.arange(count) % classes, names, "zoo", (0.0,), (1.0,), parts
    )


def read(module: nn.Module, trace: Trace, plan: Plan, data: ImageData, form: str) -> dict[str, Tensor]:
    """Scores from one watched pass over all images, in eval mode, so that no batch norm mixes them."""
    reading = Reading(trace, form)
    reading.follow(module, plan)
    with reading:
        loss = F.cross_entropy(first_tensor(module(data.images)), data.labels)
    loss.backward()
    reading.collect(len(data))
    return reading.scores()


@pytest.mark.parametrize("name", USUAL)
def test_watched_gate_gradients_are_those_of_the_criterion(name: str) -> None:
    compare_scores(ZOO[name], "2019", "taylor-2019")


@EVERY_NET
def test_watched_scores_are_those_of_the_criterion(net: ZooNet) -> None:
    compare_scores(net, "2017", "taylor")


def compare_scores(net: ZooNet, form: str, criterion: str) -> None:
    """Against the replayed tape: another implementation, with its own gradients."""
    module, trace = net.build(), traced(net)  # its own: gradients are left in it
    if outputs(module, net.example)[0].dim() != 2:
        return
    data = pictures(net).calibration
    try:
        expected = score_channels(trace, data, criterion).scores
    except CoreError:
        return
    found = read(module, trace, Plan({}), data, form)
    complete = {
        group.id for group in trace.prunable if {m.tensor for m in group.by_role("consumer")} <= watched(module)
    }
    for name in complete & set(found):
        torch.testing.assert_close(
            found[name], expected[name], rtol=1e-3, atol=1e-7 + 1e-4 * float(expected[name].max())
        )
    if net.name in USUAL:
        assert {group.id for group in trace.prunable} <= set(found) & complete


def watched(module: nn.Module) -> set[str]:
    """Weights of the layers whose calls go through a function by name."""
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return {f"{name}.weight" for name, layer in module.named_modules() if isinstance(layer, kinds)}


def test_a_narrower_networks_scores_stand_at_the_originals_units() -> None:
    net = ZOO["ResidualPadded"]
    module = net.build()
    trace, data = trace_channels(module, net.example), pictures(net).calibration
    plan = random_plan(trace, 0.5, seed=1)
    pruned = prune_model(module, trace, plan)
    found = read(pruned, trace, plan, data, "2017")
    small = score_channels(trace_channels(pruned, net.example), data, "taylor").scores
    for group in trace.prunable:
        torch.testing.assert_close(found[group.id][list(plan.kept[group.id])], small[group.id], rtol=1e-3, atol=1e-7)
        gone = sorted(set(range(group.units)) - set(plan.kept[group.id]))
        assert bool((found[group.id][gone] == 0).all())


def test_watching_changes_nothing() -> None:
    net = ZOO["Plain"]
    data, states = pictures(net), []
    for watching in (False, True):
        module = net.build()
        trace = trace_channels(module, net.example)
        trainer, reading = Trainer(module, data, Course(1, batch_size=6, augment="none")), Reading(trace, "2017")
        reading.follow(trainer.module, Plan({}))
        for _ in range(3):
            if watching:
                with reading:
                    trainer.step(data.images[:6], data.labels[:6], 0.1)
                reading.collect(6)
            else:
                trainer.step(data.images[:6], data.labels[:6], 0.1)
        states.append(fingerprint_state(trainer.module.state_dict()))
    assert states[0] == states[1]


@EVERY_NET
def test_the_law_and_the_way_back_to_the_original(net: ZooNet) -> None:
    """Every network: budget met, the plan rebuilds the shapes, pruned = masked with the trained weights put back."""
    module, trace = lent(net)
    before = state_of(module)
    try:
        result = prune_iteratively(module, trace, pictures(net), {"maps": 0.6}, per_step=2, updates=2, **COURSE)
    except CoreError as error:
        assert len(str(error).split()) > 6
        return
    finally:
        assert same(before, state_of(module))
    assert remaining(trace, result.plan, "maps") <= 0.6 and result.complete
    rebuilt = prune_model(module, trace, result.plan, verify=False)
    assert {n: t.shape for n, t in rebuilt.state_dict().items()} == {
        n: t.shape for n, t in result.module.state_dict().items()
    }
    rebuilt.load_state_dict(result.module.state_dict())
    batch = images(net.shape, 3, seed=8)
    assert max_relative_error(outputs(rebuilt.eval(), batch), outputs(result.module, batch)) < 1e-6
    whole = net.build()
    put_back(whole, named_state(result.module), kept_positions(trace, result.plan))
    masked = mask_model(whole, trace, result.plan)
    assert max_relative_error(outputs(masked, batch), outputs(result.module, batch)) < 1e-4


def run(net: ZooNet, budget: object, **more: object) -> Iterated:
    return prune_iteratively(*lent(net), pictures(net), budget, **{**COURSE, "updates": 3, **more})


def test_the_least_important_leave_in_order() -> None:
    """At a learning rate of zero only what is removed changes the network: its order against the criterion's own,
    taken afresh after every removal, on a network without batch norm (in training it would mix the images)."""
    net = ZOO["NoBiasChannelsLast"]
    module = net.build()
    trace, data = trace_channels(module, net.example), pictures(net)
    still = {"lr": 0.0, "momentum": 0.0, "weight_decay": 0.0, "augment": "none"}
    result = prune_iteratively(
        module, trace, data, {"maps": 0.5}, per_step=1, updates=1, batch_size=18, flops_lambda=0.01, **still
    )
    plan = Plan({})
    for point in result.curve[1:]:
        pruned = prune_model(module, trace, plan)
        options = {"normalise": "l2", "macs_lambda": 0.01}
        small = score_channels(trace_channels(pruned, net.example), data.calibration, "taylor", **options).scores
        kept = {group.id: plan.kept.get(group.id, tuple(range(group.units))) for group in trace.prunable}
        ranking = sorted(
            (float(score), name, unit)
            for name, units in kept.items()
            if len(units) > 1
            for score, unit in zip(small[name], units, strict=True)
        )
        assert point.removed == (ranking[0][1:],)
        plan = Plan({**kept, ranking[0][1]: tuple(unit for unit in kept[ranking[0][1]] if unit != ranking[0][2])})
    assert plan == result.plan and macs_per_unit(trace, Plan({})) == pytest.approx(macs_per_map(trace))


def test_a_high_price_of_work_takes_the_dearest_maps_first() -> None:
    net = ZOO["Plain"]
    trace = traced(net)
    dearest = max((g.id for g in trace.prunable), key=macs_per_unit(trace, Plan({})).__getitem__)
    result = run(net, {"macs": 0.9}, per_step=1, flops_lambda=1e6)
    assert {name for point in result.curve for name, _ in point.removed} == {dearest}


@pytest.mark.parametrize("quantity", ["macs", "params", "maps"])
def test_budgets_are_met_to_the_unit(quantity: str) -> None:
    net = ZOO["ResidualProjection"]
    trace = traced(net)
    result = run(net, {quantity: 0.5}, per_step=5)
    assert remaining(trace, result.plan, quantity) <= 0.5
    name, unit = result.curve[-1].removed[-1]
    kept = {**result.plan.kept, name: (*result.plan.kept[name], unit)}
    assert remaining(trace, Plan(kept), quantity) > 0.5
    macs = [count_cost(trace).macs * point.macs for point in result.curve]
    assert macs == sorted(macs, reverse=True) and macs[-1] == pytest.approx(count_cost(trace, result.plan).macs)
    assert result.curve[0].accuracy is not None and result.curve[-1].accuracy is not None
    assert count_cost(trace_channels(result.module, net.example)).macs == count_cost(trace, result.plan).macs


def test_a_budget_can_be_a_question() -> None:
    result = run(ZOO["Plain"], lambda plan: len(plan.kept.get("conv1", range(9))) < 3, per_step=1)
    assert len(result.plan.kept["conv1"]) == 2 and [len(point.removed) for point in result.curve[1:]][-1] == 1


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_momentum_survives_the_smaller_network(optimiser: str) -> None:
    net = ZOO["ResidualPadded"]
    seen: list[dict[str, Tensor]] = []
    swap = Trainer.swap

    def noting(self: Trainer, module: nn.Module, memory: dict[str, dict[str, Tensor]]) -> None:
        key = "momentum_buffer" if optimiser == "sgd" else "exp_avg"
        old = {name: self.optimiser.state[p][key].clone() for name, p in self.module.named_parameters()}
        swap(self, module, memory)
        new = {name: self.optimiser.state[p][key] for name, p in self.module.named_parameters()}
        assert all(new[name].shape == p.shape for name, p in self.module.named_parameters())
        for name, values in new.items():  # what is left is a part of what was there
            left, there = values.flatten(), old[name].flatten()
            assert bool((left[:, None] == there).any(1).all()), name
        seen.append(new)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "swap", noting)
        run(net, {"maps": 0.7}, optimiser=optimiser, per_step=2)
    assert seen and any(float(values.abs().max()) > 0 for values in seen[-1].values())


def test_one_seed_one_result() -> None:
    first, second = (run(ZOO["Plain"], {"maps": 0.6}, seed=4) for _ in range(2))
    assert first.plan == second.plan and first.curve == second.curve
    assert fingerprint_state(first.module.state_dict()) == fingerprint_state(second.module.state_dict())


def test_a_cancel_keeps_the_last_complete_removal() -> None:
    net, told = ZOO["Plain"], []
    with pytest.raises(Cancelled, match="2 removals") as caught:
        run(
            net,
            {"maps": 0.3},
            per_step=1,
            on_progress=lambda share, message, curve: told.append((share, message, curve)),
            cancelled=lambda: len(told) == 2,
        )
    partial = caught.value.partial
    assert isinstance(partial, Iterated) and len(partial.curve) == 3 and not partial.complete
    assert all(isinstance(point, IterationPoint) for point in told[-1][2]) and "maps left" in told[-1][1]
    assert [share for share, _, _ in told] == sorted(share for share, _, _ in told)
    trace = traced(net)
    shapes = {n: t.shape for n, t in prune_model(net.build(), trace, partial.plan).state_dict().items()}
    assert shapes == {n: t.shape for n, t in partial.module.state_dict().items()}


@pytest.mark.parametrize(
    ("budget", "more", "error", "words"),
    [
        ({}, {}, PlanError, "empty"),
        ({"mac": 0.5}, {}, PlanError, "Nearest: macs"),
        ({"macs": 0.0}, {}, PlanError, "share in 0..1"),
        ({"macs": 1e-4}, {"per_step": 50}, PlanError, "out of reach"),
        ({"macs": 0.5}, {"per_step": 0}, TrainError, "per_step"),
        ({"macs": 0.5}, {"flops_lambda": -1.0}, TrainError, "flops_lambda"),
        ({"macs": 0.5}, {"form": "2018"}, TrainError, "Taylor form"),
    ],
)
def test_what_cannot_be_says_so(budget: dict[str, float], more: dict[str, object], error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        run(ZOO["Plain"], budget, **more)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_run_taken_up_again_ends_as_one_that_never_stopped(optimiser: str, tmp_path: Path) -> None:
    net, told = ZOO["ResidualPadded"], []
    options = {"per_step": 2, "optimiser": optimiser}
    whole = run(net, {"maps": 0.5}, **options)
    store = tmp_path / "run.safetensors"
    with pytest.raises(Cancelled):
        run(
            net, {"maps": 0.5}, checkpoint=store, on_progress=lambda *each: told.append(each),
            cancelled=lambda: len(told) == 2, **options,
        )  # fmt: skip
    found = run(net, {"maps": 0.5}, checkpoint=store, **options)
    assert len(told) == 2 < len(whole.curve) - 1 and found.plan == whole.plan and found.plan.origin == whole.plan.origin
    assert found.curve == whole.curve and found.complete
    assert fingerprint_state(found.module.state_dict()) == fingerprint_state(whole.module.state_dict())
    with pytest.raises(TrainError, match="another removal"):
        run(net, {"maps": 0.5}, checkpoint=store, **{**options, "per_step": 3})
