"""Soft filter pruning: silent means gone, exactly; what was silent can come back; a stopped run goes on."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from core.apply import prune_model
from core.apply.course import Course
from core.apply.soft import (
    Softened,
    SoftEpoch,
    faintest,
    rate_for_macs,
    reset_weights,
    silence_units,
    silent_counts,
    train_softly,
)
from core.apply.surgery import max_relative_error
from core.apply.training import Trainer
from core.errors import Cancelled, CoreError, PlanError, TrainError
from core.measure.cost.counts import count_cost
from core.measure.importance import score_channels
from core.records import ImageData, Plan, fingerprint_state
from core.trace import trace_channels
from core.trace.copies import named_state
from tests.traced import lent, traced
from tests.untouched import same, state_of
from tests.zoo import NETS, ZOO, ZooNet, images, outputs

EVERY_NET = pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)


def pictures(net: ZooNet, count: int = 24) -> ImageData:
    classes = outputs(net.build(), net.example)[0].shape[-1]
    labels = torch.arange(count) % classes
    parts = {"calibration": torch.arange(count - 6), "selection": torch.arange(count - 6, count)}
    names = tuple(map(str, range(classes)))
    return ImageData(images(net.shape, count, seed=6), labels, names, "zoo", (0.0,), (1.0,), parts)


def softened(net: ZooNet, rate: float = 0.5, **more: object) -> Softened:
    course = {"epochs": 3, "lr": 0.1, "batch_size": 6, **more}
    return train_softly(*lent(net), pictures(net), rate, **course)


@EVERY_NET
def test_what_is_silent_can_leave_without_a_trace(net: ZooNet) -> None:
    """The law on every network of the zoo, with gathers and norms in it, after real training."""
    module, trace = lent(net)
    before = state_of(module)
    try:
        result = train_softly(module, trace, pictures(net), 0.4, epochs=2, lr=0.05, batch_size=6, clip=1.0)
    except CoreError as error:
        assert len(str(error).split()) > 6  # nothing to prune, or no classifier
        return
    finally:
        assert same(before, state_of(module))
    pruned = prune_model(result.module, trace, result.plan)
    batch = images(net.shape, 3, seed=8)
    assert max_relative_error(outputs(pruned, batch), outputs(result.module, batch)) < 1e-5
    assert all(
        len(result.plan.kept[name]) == trace.group(name).units - n for name, n in silent_counts(trace, 0.4).items()
    )


@pytest.mark.parametrize("name", ["Plain", "ResidualPadded", "DenseBlock", "InvertedResidual"])
def test_silence_is_exact_at_the_producers_alone(name: str) -> None:
    """Zero filters, gamma and beta suffice where zero stays zero: no reader's weight needs to be hidden."""
    net = ZOO[name]
    module = net.build()
    trace = trace_channels(module, net.example)
    state = named_state(module)
    zeroed = {group: faintest(trace.group(group), state, count) for group, count in silent_counts(trace, 0.5).items()}
    waking = silence_units(trace, state, zeroed)
    plan = Plan({g: tuple(sorted(set(range(trace.group(g).units)) - set(units))) for g, units in zeroed.items()})
    pruned, batch = prune_model(module, trace, plan), images(net.shape, 5, seed=2)
    assert max_relative_error(outputs(pruned, batch), outputs(module, batch)) < 1e-5
    assert any(name.endswith("weight") for name in waking) and all(state[n].shape == v.shape for n, v in waking.items())


def test_the_least_norm_leaves_and_the_count_is_floored() -> None:
    net = ZOO["Plain"]
    module = net.build()
    trace = trace_channels(module, net.example)
    scores = score_channels(trace, None, "weight-l2")
    counts = silent_counts(trace, 0.45)
    assert counts == {group.id: int(0.45 * group.units) for group in trace.prunable}
    for name, count in counts.items():
        worst = sorted(scores.ranking(name)[trace.group(name).units - count :])
        assert list(faintest(trace.group(name), named_state(module), count)) == worst
    assert silent_counts(trace, 0.999) == {group.id: group.units - 1 for group in trace.prunable}


def test_silent_filters_are_trained_on_and_some_come_back() -> None:
    result = softened(ZOO["Plain"], epochs=8, lr=0.5, start="scratch", settle=1.0)
    assert [entry.epoch.epoch for entry in result.log] == list(range(1, 9)) and result.complete
    sets = [{(name, unit) for name, units in entry.zeroed.items() for unit in units} for entry in result.log]
    assert result.log[0].changed == len(sets[0])
    assert [entry.changed for entry in result.log[1:]] == [len(b - a) for a, b in pairwise(sets)]
    assert sum(entry.changed for entry in result.log[1:]) > 0, "no filter ever came back"


def test_from_the_settling_on_silent_filters_stay_silent() -> None:
    result = softened(ZOO["Plain"], epochs=8, lr=0.5, start="scratch", settle=0.25)
    assert len({str(entry.zeroed) for entry in result.log[1:]}) == 1
    assert result.log[-1].epoch.loss < result.log[2].epoch.loss


def test_between_epochs_only_the_filters_are_zero() -> None:
    """After the first epoch: filters zero, gamma and beta small but there, so that gradients reach the filters."""
    net, seen = ZOO["Plain"], []

    class HeardError(Exception):
        pass

    original = Trainer.step

    def step(self: Trainer, *given: object) -> torch.Tensor:
        if self.logs:
            seen.append({name: tensor.detach().clone() for name, tensor in named_state(self.module).items()})
            original(self, *given)
            seen.append({n: p.grad.clone() for n, p in self.module.named_parameters() if p.grad is not None})
            raise HeardError
        return original(self, *given)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(HeardError):
        patch.setattr(Trainer, "step", step)
        softened(net, lr=0.5)
    state, gradients = seen
    module = net.build()
    trace = trace_channels(module, net.example)
    silent_rows = alive = 0
    for group in trace.prunable:
        for member in group.by_role("producer"):
            if state[member.tensor].dim() < 2:
                continue
            rows = state[member.tensor].flatten(1).norm(dim=1) == 0
            silent_rows += int(rows.sum())
            alive += int((gradients[member.tensor].flatten(1).norm(dim=1)[rows] > 0).sum())
    assert silent_rows == sum(silent_counts(trace, 0.5).values()) and alive > silent_rows / 2
    gammas = [value for name, value in state.items() if name.startswith("bn") and name.endswith("weight")]
    assert gammas and all(bool((gamma != 0).all()) for gamma in gammas)


def test_one_seed_one_result_and_a_stopped_run_goes_on(tmp_path: Path) -> None:
    net, file = ZOO["ResidualPadded"], tmp_path / "soft.safetensors"
    data = pictures(net)
    course = {"epochs": 4, "start": "scratch", "watch": data.selection, "seed": 2}
    whole = softened(net, **course)
    assert all(entry.epoch.watched is not None for entry in whole.log)
    told: list[tuple[SoftEpoch, ...]] = []
    with pytest.raises(Cancelled, match="2 complete epochs") as caught:
        softened(
            net,
            checkpoint=file,
            on_progress=lambda share, message, log: told.append(log),
            cancelled=lambda: bool(told) and len(told[-1]) == 2,
            **course,
        )
    partial = caught.value.partial
    assert isinstance(partial, Softened) and len(partial.log) == 2 and not partial.complete
    trace = traced(net)
    pruned, batch = prune_model(partial.module, trace, partial.plan), images(net.shape, 3)
    assert max_relative_error(outputs(pruned, batch), outputs(partial.module, batch)) < 1e-5
    resumed = softened(net, checkpoint=file, **course)
    assert resumed.plan == whole.plan
    assert fingerprint_state(resumed.module.state_dict()) == fingerprint_state(whole.module.state_dict())
    assert [(e.zeroed, e.changed, e.epoch.watched) for e in resumed.log] == [
        (e.zeroed, e.changed, e.epoch.watched) for e in whole.log
    ]
    again = softened(net, checkpoint=file, **course)
    assert fingerprint_state(again.module.state_dict()) == fingerprint_state(whole.module.state_dict())
    assert whole.plan != softened(net, **{**course, "seed": 3}).plan


def test_pretrained_networks_learn_at_a_tenth_of_the_rate() -> None:
    rates = {start: softened(ZOO["Plain"], start=start, schedule="constant").log[0].epoch.lr
             for start in ("weights", "scratch")}  # fmt: skip
    assert rates == {"weights": pytest.approx(0.01), "scratch": pytest.approx(0.1)}


def test_from_scratch_the_old_weights_do_not_matter() -> None:
    a, b = reset_weights(ZOO["Plain"].build(0), 4), reset_weights(ZOO["Plain"].build(1), 4)
    assert fingerprint_state(a.state_dict()) == fingerprint_state(b.state_dict())
    assert fingerprint_state(a.state_dict()) != fingerprint_state(reset_weights(a, 5).state_dict())

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(3))

    with pytest.raises(TrainError, match="Own"):
        reset_weights(Own(), 0)


def test_the_rate_for_a_budget_is_the_smallest() -> None:
    trace = trace_channels(ZOO["Plain"].build(), ZOO["Plain"].example)
    whole = count_cost(trace).macs
    rate = rate_for_macs(trace, 0.5)

    def left(value: float) -> int:
        kept = {name: tuple(range(trace.group(name).units - n)) for name, n in silent_counts(trace, value).items()}
        return count_cost(trace, Plan(kept)).macs

    assert left(rate) <= 0.5 * whole < left(rate - 0.001)
    with pytest.raises(PlanError, match="No rate"):
        rate_for_macs(trace, 1e-6)


@pytest.mark.parametrize(("rate", "words"), [(1.0, "below 1"), (-0.1, "below 1"), ({"conv9": 0.5}, "conv9")])
def test_rates_that_do_not_fit_say_so(rate: object, words: str) -> None:
    module = ZOO["Plain"].build()
    trace = trace_channels(module, ZOO["Plain"].example)
    with pytest.raises(PlanError, match=words):
        train_softly(module, trace, pictures(ZOO["Plain"]), rate, epochs=1)
    with pytest.raises(TrainError, match="start"):
        train_softly(module, trace, pictures(ZOO["Plain"]), 0.5, epochs=1, start="again")


def test_stopped_at_once_nothing_is_silent() -> None:
    with pytest.raises(Cancelled) as caught:
        softened(ZOO["Plain"], cancelled=lambda: True)
    assert caught.value.partial.plan == Plan({}) and caught.value.partial.log == ()
    assert Course(1).rate(0.0) == 0.02
