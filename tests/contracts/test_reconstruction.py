"""What every way of rebuilding weights owes."""

from __future__ import annotations

import pytest
import torch

from core.apply import prune_model, reconstruct_model
from core.errors import Cancelled, CoreError
from core.measure.cost.counts import count_cost
from core.records import ImageData, Plan
from core.trace import trace_channels
from tests.untouched import awkward, same, state_of
from tests.zoo import NETS, ZOO, ZooNet, images, outputs, random_plan

METHODS = ["least-squares", "compensation", "batchnorm"]
EVERY_METHOD = pytest.mark.parametrize("method", METHODS)
EVERY_NET = pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)


def pictures(net: ZooNet, count: int = 16) -> ImageData:
    batch = images(net.shape, count, seed=6)
    return ImageData(batch, torch.zeros(count, dtype=torch.int64), ("a",), "zoo", (0.0,), (1.0,))


@EVERY_METHOD
@EVERY_NET
def test_shapes_are_those_of_the_plan_and_the_input_is_untouched(method: str, net: ZooNet) -> None:
    module = awkward(net)
    trace = trace_channels(module, net.example)
    plan, data = random_plan(trace, 0.5, 2), pictures(net)
    before = state_of(module)
    try:
        rebuilt = reconstruct_model(module, trace, plan, data, method)
    except CoreError as error:
        assert len(str(error).split()) > 6
    else:
        shapes = {name: tensor.shape for name, tensor in rebuilt.state_dict().items()}
        assert shapes == {
            name: t.shape for name, t in prune_model(module, trace, plan, verify=False).state_dict().items()
        }
        assert all(bool(torch.isfinite(tensor).all()) for tensor in rebuilt.state_dict().values())
        assert all(bool(torch.isfinite(answer).all()) for answer in outputs(rebuilt.eval(), data.images))
        assert count_cost(trace_channels(rebuilt, net.example)) == count_cost(trace, plan)
        again = reconstruct_model(module, trace, plan, data, method)
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), rebuilt.parameters(), strict=True))
    assert same(before, state_of(module))


@EVERY_METHOD
def test_cancel_and_empty_images(method: str) -> None:
    net = ZOO["Plain"]
    module = awkward(net)
    trace = trace_channels(module, net.example)
    plan, data, before = Plan({"conv1": (0, 1, 2)}), pictures(net), state_of(module)
    with pytest.raises(Cancelled):
        reconstruct_model(module, trace, plan, data, method, cancelled=lambda: True)
    with pytest.raises(CoreError, match="image"):
        reconstruct_model(module, trace, plan, data.take(torch.zeros(0, dtype=torch.int64)), method)
    with pytest.raises(CoreError, match="least-squares"):
        reconstruct_model(module, trace, plan, data, "least-square")
    assert same(before, state_of(module))
