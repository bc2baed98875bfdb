"""Layers answered in one step are recorded as if they had run themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.trace import leaves
from core.trace.graph import Ref, Tape, record_tape
from tests.zoo import ZOO, images


class OwnNorm(nn.BatchNorm2d):
    """A norm with its activation, as model collections have them."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        return F.batch_norm(x, self.running_mean, self.running_var, weight, bias, self.training, 0.3, self.eps).relu_()


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, bias=False), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 5), padding=(1, 2), dilation=2, groups=2), (2, 4, 9, 12)),
    "conv3d": (lambda: nn.Conv3d(4, 6, 3), (1, 4, 5, 5, 5)),
    "conv2d of one image": (lambda: nn.Conv2d(4, 6, 3), (4, 9, 9)),
    "conv2d same": (lambda: nn.Conv2d(4, 6, 3, padding="same"), (2, 4, 9, 9)),
    "conv2d circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 9, 9)),
    "conv2d channels last": (lambda: nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last), (2, 4, 9, 9)),
    "batchnorm1d": (lambda: nn.BatchNorm1d(4), (2, 4)),
    "batchnorm1d on rows": (lambda: nn.BatchNorm1d(4), (2, 4, 7)),
    "batchnorm2d": (lambda: nn.BatchNorm2d(4, eps=1e-3, momentum=0.2), (2, 4, 3, 3)),
    "batchnorm3d": (lambda: nn.BatchNorm3d(4), (2, 4, 3, 3, 3)),
    "batchnorm without weights": (lambda: nn.BatchNorm2d(4, affine=False), (2, 4, 3, 3)),
    "batchnorm without statistics": (lambda: nn.BatchNorm2d(4, track_running_stats=False), (2, 4, 3, 3)),
    "batchnorm of one's own": (lambda: OwnNorm(4), (2, 4, 3, 3)),
    "batchnorm of one's own without weights": (lambda: OwnNorm(4, affine=False), (2, 4, 3, 3)),
    "batchnorm of averages": (lambda: nn.BatchNorm2d(4, momentum=None), (2, 4, 3, 3)),
    "layernorm": (lambda: nn.LayerNorm(4), (2, 5, 4)),
    "layernorm of two axes": (lambda: nn.LayerNorm((5, 4), bias=False), (2, 5, 4)),
    "layernorm without weights": (lambda: nn.LayerNorm(4, elementwise_affine=False), (2, 5, 4)),
    "linear": (lambda: nn.Linear(4, 3), (2, 4)),
    "linear without bias": (lambda: nn.Linear(4, 3, bias=False), (2, 4)),
    "linear on tokens": (lambda: nn.Linear(4, 3), (2, 5, 4)),
    "linear on tokens without bias": (lambda: nn.Linear(4, 3, bias=False), (2, 5, 4)),
    "linear on a grid": (lambda: nn.Linear(4, 3), (2, 5, 6, 4)),
    "linear on a vector": (lambda: nn.Linear(4, 3), (4,)),
    "hardtanh": (lambda: nn.Hardtanh(-2.0, 3.0), (2, 4)),
    "hardtanh of whole numbers": (lambda: nn.Hardtanh(0, 1), (2, 4)),
    **{
        f"{kind.__name__.lower()}{' in place' * in_place}": (lambda k=kind, i=in_place: k(inplace=i), (2, 4, 3))
        for kind in (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Dropout)
        for in_place in (False, True)
    },
    "sigmoid": (nn.Sigmoid, (2, 4)),
    "identity": (nn.Identity, (2, 4)),
}


def told(tape: Tape) -> list[Any]:
    """What a tape says, whatever its slots are called; without the empty tensor a batch norm asks for."""
    source: dict[int, Any] = {slot: ("state", name) for slot, name in tape.state.items()}
    source.update({slot: ("constant",) for slot in tape.constants})
    source[tape.input] = ("input",)
    found: list[Any] = []

    def plain(value: Any) -> Any:
        if isinstance(value, Ref):
            return source[value.slot]
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    for step in tape.steps:
        if step.name == "empty":
            continue
        shapes = [tape.shapes[slot] for slot in step.outputs]
        found.append((step.op, plain(step.args), plain(list(step.kwargs.items())), shapes, step.in_place))
        for place, slot in enumerate(step.outputs):
            source[slot] = (len(found), place)
    return [found, [source[slot] for slot in tape.output_slots], tape.called, tape.aliases_written, tape.shape_only]


def compare(monkeypatch: pytest.MonkeyPatch, module: nn.Module, example: Tensor) -> None:
    quick = record_tape(module, example)
    monkeypatch.setattr(leaves, "MAKERS", {})
    monkeypatch.setattr(leaves, "CALLED", {})
    usual = record_tape(module, example)
    assert told(quick) == told(usual)
    assert quick.repeats_widths <= usual.repeats_widths


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_recorded_as_it_would_run(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    build, shape = LAYERS[name]
    compare(monkeypatch, build().eval(), torch.zeros(shape))


@pytest.mark.parametrize("name", ZOO)
def test_a_network_is_recorded_as_it_would_run(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    compare(monkeypatch, ZOO[name].build().eval(), images(ZOO[name].shape, 1))


def test_hooks_and_own_forwards_are_called() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    module[0].register_forward_hook(lambda layer, given, result: result * 2)
    module[1].forward = lambda x: x.clamp(min=0)
    names = [step.name for step in record_tape(module, torch.zeros(1, 3, 4, 4)).steps]
    assert names == ["convolution", "mul", "clamp", "convolution"]


def test_a_wrong_width_is_the_layers_own_complaint() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(5)).eval()
    with pytest.raises(Exception, match="running_mean should contain 4 elements not 5"):
        record_tape(module, torch.zeros(1, 3, 4, 4))


class ChangesItsWeight(nn.Module):
    """As EEGNet keeps its filters' norms bounded."""

    def __init__(self, by_data: bool) -> None:
        super().__init__()
        self.by_data = by_data
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 1)
        self.register_buffer("runs", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.by_data:
            self.conv1.weight.data = torch.renorm(self.conv1.weight.data, 2, 0, 0.01)
        else:
            self.conv1.weight.mul_(0.5)
        self.runs += 1
        result: Tensor = self.conv2(self.conv1(x))
        return result


@pytest.mark.parametrize("by_data", [False, True])
def test_the_users_tensors_are_never_changed(by_data: bool) -> None:
    module = ChangesItsWeight(by_data).eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    tape = record_tape(module, torch.zeros(1, 3, 4, 4))
    assert [step.name for step in tape.steps].count("convolution") == 2
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
