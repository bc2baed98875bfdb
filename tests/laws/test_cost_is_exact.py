"""The cost of a plan, by arithmetic, is the cost of the network that is built from it."""

from __future__ import annotations

import pytest

from core.apply.surgery import prune_model
from core.measure.cost.counts import cost_terms, count_cost
from core.records import Plan
from core.trace import trace_channels
from tests.zoo import NETS, ZooNet, random_plan

EVERY_NET = pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)


@EVERY_NET
def test_predicted_cost_is_counted_cost(net: ZooNet) -> None:
    module = net.build()
    trace = trace_channels(module, net.example)
    dense = count_cost(trace)
    for seed, removed in enumerate((0.25, 0.5, 0.75, 1.0)):
        plan = random_plan(trace, removed, seed)
        predicted = count_cost(trace, plan)
        built = prune_model(module, trace, plan)
        assert predicted == count_cost(trace_channels(built, net.example))
        assert predicted.params == sum(parameter.numel() for parameter in built.parameters())
        stored = [*built.parameters(), *built.buffers()]
        assert predicted.size_bytes == sum(tensor.numel() * tensor.element_size() for tensor in stored)
        assert predicted.macs <= dense.macs and predicted.params <= dense.params
        assert sum(layer.params for layer in predicted.per_layer.values()) == predicted.params


@EVERY_NET
@pytest.mark.parametrize("quantity", ["macs", "params"])
def test_terms_evaluate_to_the_cost(net: ZooNet, quantity: str) -> None:
    trace = trace_channels(net.build(), net.example)
    terms = cost_terms(trace, quantity)
    for seed, removed in enumerate((0.0, 0.25, 0.5, 0.75)):
        plan = random_plan(trace, removed, seed)
        kept = {group.id: len(plan.kept.get(group.id, range(group.units))) for group in trace.prunable}
        value = sum(coef * kept.get(a, 1) * kept.get(b, 1) for coef, a, b in terms)
        assert value == pytest.approx(getattr(count_cost(trace, plan), quantity), abs=1e-6)


@EVERY_NET
def test_the_order_of_removal_does_not_matter(net: ZooNet) -> None:
    """Which units leave does not change the count, only how many, where all units are alike."""
    trace = trace_channels(net.build(), net.example)
    first = count_cost(trace, Plan({group.id: tuple(range(1, group.units)) for group in trace.prunable}))
    last = count_cost(trace, Plan({group.id: tuple(range(group.units - 1)) for group in trace.prunable}))
    assert first == last
