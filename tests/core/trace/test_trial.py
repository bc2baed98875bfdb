"""The trial: what it lets pass, what it finds, and what it remembers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.trace import trace_channels
from core.trace.copies import named_state
from core.trace.memo import forget, recalled
from tests.zoo import randomise

aten = torch.ops.aten


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


class HalfOfTheInput(nn.Module):
    """Takes a fixed slice, a slice by size, or multiplies by a tensor kept as a plain attribute."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d({"plain": 8}.get(way, 4), 6, 3)
        self.scale = torch.linspace(0.5, 2.0, 16).reshape(1, 1, 4, 4)  # no buffer
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if self.way == "fixed":
            x = x[:, :4]
        elif self.way == "by size":
            x = x[:, : x.shape[1] // 2]
        else:
            x = x * self.scale.repeat(1, 1, 4, 4)
        result: Tensor = self.fc(self.conv2(x).mean((2, 3)))
        return result


@pytest.mark.parametrize(("way", "prunable"), [("fixed", False), ("by size", True), ("plain", True)])
def test_a_part_cut_at_a_fixed_channel_is_found(way: str, prunable: bool) -> None:
    module = HalfOfTheInput(way).eval()
    randomise(module)
    group = trace_channels(module, torch.zeros(1, 3, 18, 18)).group("conv1")
    assert group.prunable == prunable, group.reason
    assert group.units == (8 if way == "plain" else 4)


def test_the_network_and_its_layers_are_as_before() -> None:
    module = HalfOfTheInput("by size").train()
    before = [(name, id(tensor), tensor.clone()) for name, tensor in named_state(module).items()]
    fields = [dict(vars(layer)) for layer in module.modules()]
    trace_channels(module, torch.zeros(1, 3, 18, 18))
    assert [(name, id(tensor)) for name, tensor in named_state(module).items()] == [entry[:2] for entry in before]
    assert all(torch.equal(tensor, module.get_parameter(name)) for name, _, tensor in before)
    assert all(vars(layer).keys() == old.keys() for layer, old in zip(module.modules(), fields, strict=True))
    assert all(layer.training for layer in module.modules())


CALLS: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (aten._softmax.default, (meta(2, 3, 4), -1, False), {}),
    (aten.native_layer_norm.default, (meta(2, 4, 3).transpose(1, 2), [4], None, None, 1e-5), {}),
    (aten.roll.default, (meta(1, 8, 8, 3), [-2, -2], [1, 2]), {}),
    (aten.arange.default, (7,), {"device": torch.device("meta")}),
    (aten.add.Tensor, (meta(3, dtype=torch.int64), 1), {}),
    (aten.add.Tensor, (meta(3, dtype=torch.int64), 1.0), {}),
    (aten.mul.Tensor, (meta(2, 3, 4, 5).permute(0, 3, 1, 2), meta(1, 5, 1, 1)), {}),
    (aten.split.Tensor, (meta(6, 4), 2), {}),
    (aten.view.default, (meta(6, 4), [24]), {}),
    (aten.max.dim, (meta(6, 4), 1), {}),
]


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("number", range(len(CALLS)))
def test_what_is_recalled_is_what_the_operator_gives(number: int, again: bool) -> None:
    op, args, kwargs = CALLS[number]
    forget()
    if again:
        for other in CALLS:  # all are remembered at once: like calls must not be taken for each other
            recalled(other[0], other[1], other[2])
    found, expected = recalled(op, args, kwargs), op(*args, **kwargs)
    pairs = list(zip(found, expected, strict=True)) if isinstance(expected, tuple | list) else [(found, expected)]
    assert type(found) is type(expected)
    for one, other in pairs:
        assert (one.shape, one.stride(), one.dtype, one.device) == (
            other.shape,
            other.stride(),
            other.dtype,
            other.device,
        )


def test_a_result_that_is_the_input_is_no_copy() -> None:
    x = meta(3)
    assert recalled(aten.relu_.default, (x,), {}) is x and recalled(aten.relu_.default, (x,), {}) is x


def test_real_tensors_are_computed_with() -> None:
    x = torch.tensor([1.0, -1.0])
    assert recalled(aten.relu.default, (x,), {}).tolist() == [1.0, 0.0]
    assert recalled(aten.relu.default, (-x,), {}).tolist() == [0.0, 1.0]


def test_errors_are_the_operators_own() -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match="size"):
            recalled(aten.bmm.default, (meta(2, 3, 4), meta(2, 5, 6)), {})
