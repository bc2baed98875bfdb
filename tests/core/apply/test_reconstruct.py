"""Rebuilt networks: identity when all stay, exact where exactness is possible, never worse, and better as a whole."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.apply import prune_model, reconstruct_model, reestimate_batchnorm
from core.apply.lockstep import take_patches, take_positions
from core.apply.reconstruct import METHODS, reconstruct_layers
from core.errors import Cancelled, CoreError, PruneError
from core.evaluate import evaluate_model
from core.load import load_data
from core.records import ImageData, Plan, Trace, fingerprint_state
from core.trace import trace_channels
from core.trace.graph import record_tape
from core.trace.replay import Replay
from tests.traced import lent
from tests.trained import small_resnet
from tests.zoo import NETS, ZooNet, random_plan


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data("digits")


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    return small_resnet().module


@pytest.fixture(scope="module")
def trace(trained: nn.Module, digits: ImageData) -> Trace:
    return trace_channels(trained, digits.images[:1])


FEW = 192  # calibration images: enough to see that it helps


def half(trace: Trace) -> Plan:
    return random_plan(trace, 0.4, seed=3)


@pytest.mark.parametrize("method", METHODS)
def test_keeping_all_changes_nothing(trained: nn.Module, trace: Trace, digits: ImageData, method: str) -> None:
    rebuilt = reconstruct_model(trained, trace, Plan({}), digits.calibration, method)
    assert rebuilt is not trained
    assert fingerprint_state(rebuilt.state_dict()) == fingerprint_state(trained.state_dict())


@pytest.mark.parametrize("method", METHODS)
def test_the_whole_network_improves(trained: nn.Module, trace: Trace, digits: ImageData, method: str) -> None:
    before = fingerprint_state(trained.state_dict())
    raw = prune_model(trained, trace, half(trace))
    rebuilt = reconstruct_model(trained, trace, half(trace), digits.calibration, method, images=FEW)
    accuracy = [evaluate_model(net, digits.selection).value for net in (trained, raw, rebuilt)]
    assert accuracy[0] > 0.93 and accuracy[2] > accuracy[1] + 0.05, accuracy
    shapes = [{name: value.shape for name, value in net.state_dict().items()} for net in (raw, rebuilt)]
    assert shapes[0] == shapes[1] and fingerprint_state(trained.state_dict()) == before
    again = reconstruct_model(trained, trace, half(trace), digits.calibration, method, images=FEW)
    assert fingerprint_state(again.state_dict()) == fingerprint_state(rebuilt.state_dict())


@pytest.mark.parametrize("method", ["least-squares", "compensation"])
def test_no_layer_gets_worse(trained: nn.Module, trace: Trace, digits: ImageData, method: str) -> None:
    _, fits = reconstruct_layers(trained, trace, half(trace), digits.calibration, method)
    convolutions = [name for name, layer in trained.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert sorted(fit.layer for fit in fits) == sorted(convolutions[1:])  # the first reads the image
    assert all(fit.rebuilt_error <= fit.raw_error for fit in fits)
    assert sum(fit.rebuilt_error < 0.7 * fit.raw_error for fit in fits) > len(fits) / 2


class Copied(nn.Module):
    """Channel 4..7 of ``a`` are multiples of 0..3: without them nothing need be lost."""

    def __init__(self, norm: bool, bias: bool) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 8, 3)
        self.b = nn.Conv2d(8, 6, 3, stride=2, padding=1, dilation=2, bias=bias)
        self.bn = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.fc = nn.Linear(6, 3)
        with torch.no_grad():
            self.a.weight[4:] = 1.5 * self.a.weight[:4]
            self.a.bias[4:] = 1.5 * self.a.bias[:4]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.bn(self.b(F.relu(self.a(x))))).mean(dim=(2, 3)))


@pytest.mark.parametrize("method", ["least-squares", "compensation"])
@pytest.mark.parametrize(("norm", "bias"), [(True, False), (False, True), (False, False)])
def test_redundant_channels_leave_without_a_trace(method: str, norm: bool, bias: bool) -> None:
    torch.manual_seed(1)
    net = Copied(norm, bias).eval()
    images = torch.randn(80, 1, 12, 12)
    data = ImageData(images, torch.zeros(80, dtype=torch.int64), ("a",), "noise", (0.0,), (1.0,))
    trace = trace_channels(net, images[:1])
    rebuilt = reconstruct_model(net, trace, Plan({"a": (0, 1, 2, 3)}), data, method, ridge=1e-12)
    with torch.no_grad():
        assert torch.allclose(rebuilt(images), net(images), atol=1e-4)
        raw = prune_model(net, trace, Plan({"a": (0, 1, 2, 3)}))
        assert not torch.allclose(raw(images), net(images), atol=1e-2)


def test_patches_are_what_the_convolution_read() -> None:
    torch.manual_seed(0)
    for conv, size in (
        (nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (9, 8)),
        (nn.Conv1d(4, 6, 5, padding=2), (11,)),
        (nn.Conv3d(2, 3, 2, stride=2), (4, 5, 6)),
    ):
        x = torch.randn(4, conv.in_channels, *size)
        y = conv(x).detach()
        step = record_tape(conv, x).steps[0]
        area = y[0, 0].numel()
        where = torch.randint(area, (4, 6), generator=torch.Generator().manual_seed(0))
        patches, outputs = take_patches(x, step, conv.weight.shape[2:], y.shape[2:], where), take_positions(y, where)
        expected = patches @ conv.weight.reshape(conv.out_channels, -1).T + conv.bias
        assert torch.allclose(expected, outputs, atol=1e-5) and len(patches) == 24


def test_batchnorm_statistics_are_exact(trained: nn.Module, trace: Trace, digits: ImageData) -> None:
    """They equal those of one training-mode pass over all images as a single batch."""
    data = digits.calibration.take(torch.arange(300))
    pruned = prune_model(trained, trace, half(trace))
    found = reestimate_batchnorm(prune_model(trained, trace, half(trace)), trace.example, data, batch_size=50)
    for layer in pruned.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.train()
            layer.momentum = 1.0
    with torch.no_grad():
        pruned(data.images)
    for name, value in pruned.named_buffers():
        if "running" in name:
            assert torch.allclose(dict(found.named_buffers())[name], value, rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("net", [net for net in NETS if net.replays], ids=lambda net: net.name)
@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_network(net: ZooNet, method: str) -> None:
    module, trace = lent(net)
    plan = random_plan(trace, 0.5, seed=1)
    images = torch.randn(40, *net.shape[1:], generator=torch.Generator().manual_seed(5))
    data = ImageData(images, torch.zeros(40, dtype=torch.int64), ("a",), "noise", (0.0,), (1.0,))
    rebuilt, fits = reconstruct_layers(module, trace, plan, data, method)
    raw = prune_model(module, trace, plan, verify=False)
    want = {name: value.shape for name, value in raw.state_dict().items()}
    assert {name: value.shape for name, value in rebuilt.state_dict().items()} == want
    assert all(value.isfinite().all() for value in rebuilt.state_dict().values())
    assert all(fit.rebuilt_error <= fit.raw_error for fit in fits)
    Replay(record_tape(rebuilt, net.example), rebuilt)


def test_bad_input_is_one_sentence(trained: nn.Module, trace: Trace, digits: ImageData) -> None:
    with pytest.raises(PruneError, match="Nearest: least-squares"):
        reconstruct_model(trained, trace, half(trace), digits, "least-square")
    with pytest.raises(PruneError, match="has none"):
        reconstruct_model(trained, trace, half(trace), digits.take(torch.arange(0)), "batchnorm")
    small = ImageData(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64), ("a",), "tiny", (0.0,), (1.0,))
    with pytest.raises(PruneError, match="tiny has 1 x 8 x 8"):
        reconstruct_model(trained, trace, half(trace), small, "compensation")
    with pytest.raises(CoreError):
        reconstruct_model(trained, trace, Plan({"nowhere": (0,)}), digits, "least-squares")
    for method in METHODS:
        with pytest.raises(Cancelled):
            reconstruct_model(trained, trace, half(trace), digits.calibration, method, cancelled=lambda: True)
