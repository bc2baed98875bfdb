"""Copies share what cannot change and nothing else; a census says what PyTorch's own walks say."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from core.apply.surgery import LARGE, prune_model
from core.records import Plan
from core.trace import trace_channels
from core.trace.copies import copy_with, shell_with, take_census
from tests.zoo import ZOO


class Odd(nn.Module):
    """Everything a layer may hold beside its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.again = self.conv
        self.tied = nn.Conv2d(3, 4, 1, bias=False)
        self.tied.weight = self.conv.weight
        self.register_buffer("scale", torch.ones(4), persistent=False)
        self.register_parameter("none", None)
        self.loose = torch.arange(3.0)
        self.listed = [1, [2, 3]]
        self.pair = (1, torch.zeros(2))
        self.empty: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.again(x) * self.scale[:, None, None] + self.tied(x)
        return result


@pytest.mark.parametrize("name", ZOO)
def test_a_census_is_what_pytorch_says(name: str) -> None:
    module = ZOO[name].build()
    census = take_census(module)
    assert census.layers == list(module.named_modules())
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    assert list(census.state) == list(state)
    assert all(census.state[key] is tensor for key, tensor in state.items())
    assert census.parameter_names == [key for key, _ in module.named_parameters()]
    doubled = len(list(module.named_modules(remove_duplicate=False))) > len(census.layers)
    doubled |= len(list(module.named_parameters(remove_duplicate=False))) > census.parameters
    doubled |= len(list(module.named_buffers(remove_duplicate=False))) > len(list(module.named_buffers()))
    assert census.reused == doubled


def test_a_copy_is_one_of_its_own_and_keeps_what_was_shared() -> None:
    module = Odd()
    copied = copy_with(module, lambda name, tensor: tensor + 1)
    assert isinstance(copied, Odd)
    assert copied.conv is copied.again is not module.conv
    assert copied.tied.weight is copied.conv.weight
    assert torch.equal(copied.conv.weight, module.conv.weight + 1)
    assert torch.equal(copied.scale, torch.full((4,), 2.0)) and "scale" not in copied.state_dict()
    copied.loose.zero_()
    copied.listed[1].append(4)  # type: ignore[union-attr]
    copied.empty.append(1)
    copied.pair[1].add_(1)  # type: ignore[union-attr]
    copied.conv.register_forward_hook(lambda *_: None)
    assert module.loose.tolist() == [0.0, 1.0, 2.0]
    assert (module.listed, module.empty, module.pair[1].tolist()) == ([1, [2, 3]], [], [0.0, 0.0])
    assert not module.conv._forward_hooks
    assert [name for name, _ in copied.named_modules()] == [name for name, _ in module.named_modules()]


def test_a_shell_runs_as_the_network_and_has_its_tensors() -> None:
    module = Odd().eval()
    x = torch.randn(2, 3, 4, 4)
    shell = shell_with(take_census(module), {})
    assert shell.module is not module and shell.by_path["conv"].weight is module.conv.weight
    assert torch.equal(shell.module(x), module(x))
    other = shell_with(take_census(module), {id(module.scale): torch.zeros(4)})
    assert torch.equal(other.module(x), module.tied(x))
    assert torch.equal(other.state["scale"], torch.zeros(4)) and bool(module.scale.all())


def test_a_deep_copy_of_a_copy_works() -> None:
    again = copy.deepcopy(copy_with(Odd(), lambda name, tensor: tensor.clone()))
    assert again.conv is again.again


@pytest.mark.parametrize("width", [40, 1500])
def test_large_weights_are_sliced_as_small_ones(width: int) -> None:
    """Some rows at a time, in one go and in several."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(30, width), nn.ReLU(), nn.Linear(width, 2000), nn.ReLU(), nn.Linear(2000, 2)
    ).eval()
    assert module[2].weight.numel() > LARGE
    trace = trace_channels(module, torch.zeros(1, 30))
    keep = {"0": tuple(range(0, width, 3)), "2": tuple(range(1, 2000, 2))}
    small = prune_model(module, trace, Plan(keep))
    assert torch.equal(small[2].weight, module[2].weight[list(keep["2"])][:, list(keep["0"])])
