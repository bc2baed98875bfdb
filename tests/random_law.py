"""The law that every network keeps, on one random case. tests/laws holds it on 500, tests/bench/many_nets.py on more.

``hold_the_law(case)`` raises ``LawBroken``; ``plainest`` finds the smallest case that breaks the same part of it.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.apply.surgery import mask_model, max_relative_error, prune_model
from core.measure.cost.counts import count_cost
from core.records import Plan, Trace
from core.trace import trace_channels
from core.trace.copies import copy_with
from tests.random_nets import Case, build, shape_of, simplest
from tests.untouched import same, state_of
from tests.zoo import images, outputs

EXACT = 1e-8  # in float64, rounding stays far below and what is wrong far above


class LawBroken(AssertionError):  # noqa: N818 - it reads as what happened
    """``kind`` names which part of the law; two failures of one kind may be one bug."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


@dataclass(frozen=True)
class Facts:
    """What one case showed. ``changed``: how many of its ``plans`` changed the output."""

    prunable: int
    gathers: int
    locked: int
    plans: int
    changed: int
    worst: float
    operators: Counter[str]


def draw_plan(trace: Trace, removed: float, seed: int, gathers: bool) -> Plan:
    """Three of four groups lose about ``removed`` of their units at random, never all; the others stay whole."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for group in (*trace.prunable, *(getattr(trace, "gathers", ()) if gathers else ())):
        if not group.prunable or (float(torch.rand(1, generator=generator)) < 0.25 and len(trace.prunable) > 1):
            continue
        count = max(1, group.units - max(1, round(removed * group.units)))
        kept[group.id] = tuple(torch.randperm(group.units, generator=generator)[:count].tolist())
    return Plan(kept)


def _must(kind: str, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except Exception as error:
        raise LawBroken(kind, f"{type(error).__name__}: {str(error)[:300]}") from error


def hold_the_law(case: Case) -> Facts:
    """Pruned equals masked, predicted cost equals counted cost, nothing lent is changed, what is built still trains.

    Raises LawBroken.
    """
    shape, module = shape_of(case.net), _must("generator", lambda: build(case.net, case.seed))
    example, batch = images(shape, 1, 99).double(), images(shape, 3, case.seed + 1).double()
    dense = outputs(module, batch)
    if not all(torch.isfinite(answer).all() for answer in dense):
        raise LawBroken("generator", "the network's answers are not finite")
    if case.seed % 2:
        module(batch)  # with gradients: weights that are computed at every call now hold a graph
    before = state_of(module)
    trace: Trace = _must("trace", lambda: trace_channels(module, example))
    worst, changed = 0.0, 0
    everything = Plan({group.id: tuple(range(group.units)) for group in trace.groups})
    whole = _must("keep all", lambda: prune_model(module, trace, everything, verify=False))
    if not all(torch.equal(a, b) for a, b in zip(outputs(whole, batch), dense, strict=True)):
        raise LawBroken("keep all", "keeping all units changed the answers")
    plans = [draw_plan(trace, case.removed, case.seed, gathers=False)]
    if any(group.prunable for group in getattr(trace, "gathers", ())):
        plans.append(draw_plan(trace, case.removed, case.seed + 1, gathers=True))
    plans = [plan for plan in plans if plan.kept]
    for plan in plans:
        pruned, error, effect = _hold_plan(module, trace, plan, batch, dense, verify=case.seed % 8 == 0)
        worst, changed = max(worst, error), changed + (effect > 1e-6)
        if plan is plans[-1]:  # the plan that says most; tracing again takes as long as all the rest
            _hold_afterwards(pruned, module, trace, plan, batch)
    if not same(before, state_of(module)):
        raise LawBroken("untouched", "the module that was lent has changed")
    gathers = len(getattr(trace, "gathers", ()))
    locked = sum(not group.prunable for group in trace.groups)
    seen = Counter(step.name for step in trace.tape.steps)
    return Facts(len(trace.prunable), gathers, locked, len(plans), changed, worst, seen)


def _hold_plan(
    module: nn.Module, trace: Trace, plan: Plan, batch: Tensor, dense: list[Tensor], verify: bool
) -> tuple[nn.Module, float, float]:
    """The pruned network; its largest relative difference from the masked one; that of masked from dense."""
    pruned = _must("prune", lambda: prune_model(module, trace, plan, verify=verify))
    masked = _must("mask", lambda: mask_model(module, trace, plan))
    found = _must("does not run", lambda: outputs(pruned, batch))
    expected = outputs(masked, batch)
    error = max_relative_error(found, expected)
    if not error < EXACT:
        raise LawBroken("pruned is not masked", f"{error:.2e} with {plan.kept}")
    predicted = _must("cost", lambda: count_cost(trace, plan))
    held = sum(parameter.numel() for parameter in pruned.parameters())
    if predicted.params != held:
        raise LawBroken("cost", f"{predicted.params} parameters predicted, {held} held, with {plan.kept}")
    return pruned, error, max_relative_error(expected, dense)


def _hold_afterwards(pruned: nn.Module, module: nn.Module, trace: Trace, plan: Plan, batch: Tensor) -> None:
    """What was built counts as predicted, can be copied and trains."""
    predicted = count_cost(trace, plan)
    counted = _must("trace again", lambda: count_cost(trace_channels(pruned, trace.example)))
    if predicted.macs != counted.macs or predicted.params != counted.params:
        raise LawBroken("cost", f"predicted {predicted.macs} MACs, counted {counted.macs}, with {plan.kept}")
    if predicted != counted:
        raise LawBroken("cost by layer", f"predicted {predicted}, counted {counted}"[:500])
    _must("copy", lambda: copy.deepcopy(pruned))
    _must("training", lambda: _train_like(pruned, module, batch))


def _train_like(pruned: nn.Module, module: nn.Module, batch: Tensor) -> None:
    """The pruned network trains wherever the whole one does (an in-place layer may spoil what another needs)."""
    try:
        _train(pruned, batch)
    except RuntimeError:
        # copy.deepcopy refuses the weights that PyTorch's older weight norm computes and keeps
        whole = copy_with(module, lambda name, tensor: tensor.clone())
        try:
            _train(whole, batch)
        except RuntimeError:
            return
        raise


def _train(pruned: nn.Module, batch: Tensor) -> None:
    """One step changes weights, and all stay finite."""
    pruned.train()
    before = [parameter.detach().clone() for parameter in pruned.parameters()]
    optimiser = torch.optim.SGD(pruned.parameters(), lr=1e-3)
    answers = torch.utils._pytree.tree_leaves(pruned(batch))
    sum((answer.sin().sum() for answer in answers), torch.zeros(())).backward()
    optimiser.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, pruned.parameters(), strict=True)), "nothing was learned"
    assert all(torch.isfinite(parameter).all() for parameter in pruned.parameters()), "weights are not finite"


def plainest(case: Case, kind: str, budget: int = 300) -> Case:
    """The plainest case found that breaks the law as ``case`` does."""

    def fails(candidate: Case) -> bool:
        try:
            hold_the_law(candidate)
        except LawBroken as error:
            return error.kind == kind
        return False

    return simplest(case, fails, budget)
