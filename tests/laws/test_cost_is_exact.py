"""The cost of a plan, by arithmetic, is the cost of the network that is built from it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.apply.surgery import prune_model
from core.measure.cost.counts import cost_terms, count_cost
from core.records import Plan, Trace
from core.trace import trace_channels
from tests.traced import lent, traced
from tests.zoo import NETS, ZooNet, random_plan

EVERY_NET = pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)


def random_choices(trace: Trace, removed_fraction: float, seed: int) -> dict[str, tuple[int, ...]]:
    """Every gather loses round(fraction x units) units at random, never all."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for gather in trace.gathers:
        count = max(1, gather.units - round(removed_fraction * gather.units))
        kept[gather.id] = tuple(torch.randperm(gather.units, generator=generator)[:count].tolist())
    return kept


def check_built(module: nn.Module, trace: Trace, plan: Plan) -> None:
    predicted, dense = count_cost(trace, plan), count_cost(trace)
    built = prune_model(module, trace, plan, verify=False)
    assert predicted == count_cost(trace_channels(built, trace.example))
    assert predicted.params == sum(parameter.numel() for parameter in built.parameters())
    stored = [*built.parameters(), *built.buffers()]
    assert predicted.size_bytes == sum(tensor.numel() * tensor.element_size() for tensor in stored)
    assert predicted.macs <= dense.macs and predicted.params <= dense.params
    assert sum(layer.params for layer in predicted.per_layer.values()) == predicted.params


@EVERY_NET
def test_predicted_cost_is_counted_cost(net: ZooNet) -> None:
    module, trace = lent(net)
    for seed, removed in enumerate((0.25, 0.5, 0.75, 1.0)):
        check_built(module, trace, random_plan(trace, removed, seed))


@EVERY_NET
def test_predicted_cost_of_gathers_is_counted_cost(net: ZooNet) -> None:
    """Alone, with their sources pruned too, and where nothing is left of what they chose."""
    module, trace = lent(net)
    if not trace.gathers:
        return
    choices = random_choices(trace, 0.5, 7)
    check_built(module, trace, Plan(choices))
    check_built(module, trace, Plan({**random_plan(trace, 0.5, 8).kept, **choices}))
    apart = {group.id: (0,) for group in trace.prunable} | {gather.id: (gather.units - 1,) for gather in trace.gathers}
    check_built(module, trace, Plan(apart))


@EVERY_NET
def test_a_pruned_network_can_be_counted_on(net: ZooNet) -> None:
    """What gathers or lost heads already is pruned again, and the count is still exact."""
    module, trace = lent(net)
    plan = Plan({**random_plan(trace, 0.25, 1).kept, **random_choices(trace, 0.25, 2)})
    once = prune_model(module, trace, plan, verify=False)
    again = trace_channels(once, net.example)
    check_built(once, again, Plan({**random_plan(again, 0.5, 3).kept, **random_choices(again, 0.5, 4)}))


@EVERY_NET
@pytest.mark.parametrize("quantity", ["macs", "params"])
def test_terms_evaluate_to_the_cost(net: ZooNet, quantity: str) -> None:
    trace = traced(net)
    terms = cost_terms(trace, quantity)
    for seed, removed in enumerate((0.0, 0.25, 0.5, 0.75)):
        plan = random_plan(trace, removed, seed)
        kept = {group.id: len(plan.kept.get(group.id, range(group.units))) for group in trace.prunable}
        value = sum(coef * kept.get(a, 1) * kept.get(b, 1) for coef, a, b in terms)
        assert value == pytest.approx(getattr(count_cost(trace, plan), quantity), abs=1e-6)


@EVERY_NET
def test_the_order_of_removal_does_not_matter(net: ZooNet) -> None:
    """Which units leave does not change the count, only how many, where all units are alike."""
    trace = traced(net)
    first = count_cost(trace, Plan({group.id: tuple(range(1, group.units)) for group in trace.prunable}))
    last = count_cost(trace, Plan({group.id: tuple(range(group.units - 1)) for group in trace.prunable}))
    assert first == last
