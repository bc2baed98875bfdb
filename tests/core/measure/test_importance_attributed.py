"""Captum's criteria against Captum itself on the plain module, one reader at a time, and against gradients by hooks."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable

import pytest
import torch
from captum.attr import LayerConductance, LayerGradientXActivation
from torch import Tensor, nn

from core.errors import Cancelled, MeasureError
from core.measure.importance import score_channels
from core.records import Group, ImageData
from core.trace import trace_channels
from tests.untouched import awkward, same, state_of
from tests.zoo import ZOO

# Residual, expanded with a depthwise layer, dense concatenation, shuffled, tokens, heads: read by layers that are
# modules, each called once, so that Captum can be asked about their inputs.
CASES = {
    "InvertedResidual": ["stem", "expand"], "ResidualProjection": ["stem.0", "a.0", "b.0"],
    "DenseBlock": ["c0", "c1", "c2"], "ChannelShuffle": ["stem.0"], "TokenBlock": ["fc1"],
    "HeadAttention": ["attention.qkv"], "ResidualPadded": ["stem.0", "b.0"],
}  # fmt: skip
NAMES = ["grad-x-activation", "conductance"]


def pictures(shape: tuple[int, ...], count: int = 9, dtype: torch.dtype = torch.float64) -> ImageData:
    numbers = torch.Generator().manual_seed(11)
    images = torch.randn(count, *shape[1:], generator=numbers).to(dtype)
    labels = torch.randint(0, 2, (count,), generator=numbers)
    return ImageData(images, labels, ("a", "b", "c"), "noise", (0.0,) * 3, (1.0,) * 3)


class Tapped(nn.Module):
    """A reader with a place of its own in front, where Captum can look: other readers of the same tensor, and the
    shortcuts past it, do not count there."""

    def __init__(self, reader: nn.Module) -> None:
        super().__init__()
        self.tap, self.reader = Alias(), reader

    def forward(self, x: Tensor) -> Tensor:
        return self.reader(self.tap(x))


class Alias(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view_as(x)


def tapped(module: nn.Module, group: Group) -> nn.Module:
    """A copy of the plain module whose readers of ``group`` have a tap in front."""
    module = copy.deepcopy(module)
    for layer in group.consumers:
        module.set_submodule(layer, Tapped(module.get_submodule(layer)))
    return module


def summed(group: Group, module: nn.Module, attribution: Callable[[nn.Module, nn.Module], Tensor]) -> Tensor:
    """Mean over images of |sum over readers, positions and channels|, unit by unit. attribution(network, layer)."""
    total: Tensor | None = None
    plain = tapped(module, group)
    for member in group.by_role("consumer"):
        reader = module.get_submodule(member.layer)
        found = attribution(plain, plain.get_submodule(f"{member.layer}.tap")).detach()
        found = found.movedim(1 if isinstance(reader, nn.Conv2d) else -1, -1)
        found = found.reshape(len(found), -1, found.shape[-1]).sum(1)
        share = torch.stack([found[:, member.unit_of == unit].sum(1) for unit in range(group.units)], 1)
        total = share if total is None else total + share
    assert total is not None
    return total.abs().mean(0)


@pytest.mark.parametrize("net", CASES)
def test_conductance_is_captums_of_every_reader(net: str) -> None:
    module = ZOO[net].build().double()
    data = pictures(ZOO[net].shape)
    trace = trace_channels(module, ZOO[net].example.double())
    found = score_channels(trace, data, "conductance", steps=8, batch_size=4).scores

    def attribution(network: nn.Module, layer: nn.Module) -> Tensor:
        path = LayerConductance(network, layer)  # its points are float32 numbers: exact for a power of two
        return path.attribute(data.images, target=data.labels, n_steps=8, method="riemann_trapezoid")

    for group in map(trace.group, CASES[net]):
        expected = summed(group, module, attribution)
        assert float(expected.max()) > 0
        torch.testing.assert_close(found[group.id], expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("net", CASES)
def test_gradient_times_activation_is_captums_and_the_slope_of_a_scale(net: str) -> None:
    """Twice over: by Captum on the plain module, and by how the label's score answers when the unit is scaled."""
    module = ZOO[net].build().double()
    data = pictures(ZOO[net].shape)
    trace = trace_channels(module, ZOO[net].example.double())
    found = score_channels(trace, data, "grad-x-activation", batch_size=4).scores
    images = data.images.clone().requires_grad_()

    def attribution(network: nn.Module, layer: nn.Module) -> Tensor:
        return LayerGradientXActivation(network, layer).attribute(images, target=data.labels)

    for group in map(trace.group, CASES[net]):
        torch.testing.assert_close(found[group.id], summed(group, module, attribution), rtol=1e-9, atol=1e-13)
        torch.testing.assert_close(found[group.id], slopes(copy.deepcopy(module), group, data), rtol=1e-9, atol=1e-13)


def slopes(module: nn.Module, group: Group, data: ImageData) -> Tensor:
    """Mean over images of |d score of the label / d scale of the unit at all its readers|, at scale 1."""
    scale = torch.ones(len(data), group.units, dtype=torch.float64, requires_grad=True)
    handles = []
    for member in group.by_role("consumer"):
        reader = module.get_submodule(member.layer)
        here = torch.cat([scale, scale.new_ones(len(data), 1)], 1)[:, member.unit_of]
        axis = 1 if isinstance(reader, nn.Conv2d) else -1

        def scaled(
            _: nn.Module, given: tuple[Tensor, ...], here: Tensor = here, axis: int = axis
        ) -> tuple[Tensor, ...]:
            shape = [1] * given[0].dim()
            shape[0], shape[axis] = here.shape
            return (given[0] * here.reshape(shape),)

        handles.append(reader.register_forward_pre_hook(scaled))
    scores = module(data.images).gather(1, data.labels[:, None]).sum()
    for handle in handles:
        handle.remove()
    return torch.autograd.grad(scores, scale)[0].abs().mean(0)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_that_computes_its_weights_apart_from_modules_is_scored_too(name: str) -> None:
    """Functional calls have no module that Captum could be shown; the recorded pass has taps all the same."""
    module = ZOO["Functional"].build().double()
    data = pictures(ZOO["Functional"].shape)
    trace = trace_channels(module, ZOO["Functional"].example.double())
    values = score_channels(trace, data, name).scores["kernel"]
    assert len(set(values.tolist())) == len(values) and float(values.min()) > 0


@pytest.mark.parametrize("name", NAMES)
def test_two_runs_are_equal_to_the_bit(name: str) -> None:
    net = ZOO["DenseBlock"]
    trace = trace_channels(net.build(), net.example)
    data = pictures(net.shape, dtype=torch.float32)
    first, again = (score_channels(trace, data, name) for _ in range(2))
    assert all(torch.equal(first.scores[group], again.scores[group]) for group in first.scores)


def test_a_cancel_between_two_steps_and_a_failure_leave_the_network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    net = ZOO["ResidualProjection"]
    module = awkward(net)
    trace, before, data = trace_channels(module, net.example), state_of(module), pictures(net.shape, 9, torch.float32)
    asked = iter(range(100))
    with pytest.raises(Cancelled):
        score_channels(trace, data, "conductance", cancelled=lambda: next(asked) >= 6)  # all images are one batch
    assert same(before, state_of(module))

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("stop here")

    for name in NAMES:
        with monkeypatch.context() as patch:
            patch.setattr("captum.attr.LayerGradientXActivation.attribute", fail)
            with pytest.raises(RuntimeError, match="stop here"):
                score_channels(trace, data, name)
        assert same(before, state_of(module)) and torch.is_grad_enabled() and not data.images.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_labels_of_other_classes_are_refused_in_words(name: str) -> None:
    net = ZOO["ResidualProjection"]
    trace, data = trace_channels(net.build(), net.example), pictures(net.shape, 4, torch.float32)
    wrong = ImageData(data.images, data.labels + 100, data.classes, "others", data.mean, data.std)
    with pytest.raises(MeasureError, match=r"others has labels up to 10[01]"):
        score_channels(trace, wrong, name)


@pytest.mark.parametrize("steps", [0, 2.5, True, 5000])
def test_steps_are_checked(steps: object) -> None:
    net = ZOO["Plain"]
    with pytest.raises(MeasureError, match="from 1 to 1000"):
        score_channels(trace_channels(net.build(), net.example), pictures(net.shape), "conductance", steps=steps)


def test_a_missing_captum_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    net = ZOO["Plain"]
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(MeasureError, match="pip install captum"):
        score_channels(trace_channels(net.build(), net.example), pictures(net.shape), "grad-x-activation")
