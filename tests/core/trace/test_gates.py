"""A gate is told from a layer that makes channels."""

from __future__ import annotations

from core.plan import GROUP_SETS
from core.trace import trace_channels
from core.trace.gates import gating_layers
from tests.zoo import ZOO


def test_the_last_layer_of_squeeze_and_excitation_is_a_gate() -> None:
    net = ZOO["SqueezeExcitation"]
    trace = trace_channels(net.build(), net.example)
    assert gating_layers(trace.tape) == {"excite"}
    inside = {group.id: set(group.layers) for group in GROUP_SETS["inside"](trace)}
    assert inside == {"conv1": {"conv1", "excite"}, "squeeze": {"squeeze"}}


def test_what_is_added_up_is_no_gate() -> None:
    for name in ("Plain", "ResidualIdentity", "DenseBlock", "SpatialGate"):
        net = ZOO[name]
        assert gating_layers(trace_channels(net.build(), net.example).tape) == frozenset(), name
