"""The zoo's networks with their traces, made once for all tests of a process: tracing takes longer than most tests.

They are lent to be read. Who writes to one is found out when it is lent again.
"""

from __future__ import annotations

import functools

from torch import nn

from core.apply import prune_model
from core.records import Plan, Trace
from core.trace import trace_channels
from tests.untouched import same, state_of
from tests.zoo import ZOO, ZooNet, random_plan


def lent(net: ZooNet, seed: int = 0) -> tuple[nn.Module, Trace]:
    """The network as ``net.build(seed)`` makes it, and its trace. Raises AssertionError where a test has changed it."""
    trace, before = _traced(net.name, seed)
    assert same(before, state_of(trace.module)), f"a test before this one changed {net.name}, which all share"
    return trace.module, trace


def traced(net: ZooNet | str, seed: int = 0) -> Trace:
    """The trace alone, of a network of the zoo or of that name."""
    return lent(ZOO[net] if isinstance(net, str) else net, seed)[1]


def lent_halved(net: ZooNet, seed: int = 0) -> tuple[nn.Module, Trace, Plan, nn.Module]:
    """As ``lent``, with a plan that removes half of every group at random and what it leaves."""
    module, trace = lent(net, seed)
    plan, pruned, before = _halved(net.name, seed)
    assert same(before, state_of(pruned)), f"a test before this one changed what is left of {net.name}"
    return module, trace, plan, pruned


@functools.cache
def _traced(name: str, seed: int) -> tuple[Trace, dict[str, object]]:
    module = ZOO[name].build(seed)
    trace = trace_channels(module, ZOO[name].example)
    return trace, state_of(module)


@functools.cache
def _halved(name: str, seed: int) -> tuple[Plan, nn.Module, dict[str, object]]:
    trace, _ = _traced(name, seed)
    plan = random_plan(trace, 0.5, seed)
    pruned = prune_model(trace.module, trace, plan)
    return plan, pruned, state_of(pruned)
