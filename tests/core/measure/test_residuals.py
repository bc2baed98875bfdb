"""Curves of what rebuilding leaves: against least squares done plainly, and slopes against autograd with hooks."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.errors import Cancelled, MeasureError
from core.measure.importance.criteria import Request
from core.measure.residuals import measure_residuals, output_gains
from core.records import ImageData, Trace, fingerprint_state
from core.trace import trace_channels
from tests.zoo import ZOO


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 5, 3, padding=1)
        self.b = nn.Conv2d(5, 4, 1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.b(self.a(x).relu()).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def trace() -> Trace:
    torch.manual_seed(3)
    return trace_channels(Chain().eval(), torch.randn(1, 2, 6, 6))


def pictures(shape: tuple[int, ...] = (2, 6, 6), count: int = 40) -> ImageData:
    images = torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))
    return ImageData(images, torch.zeros(count, dtype=torch.int64), ("a",), "made", (0.0,), (1.0,))


def gains_of(trace: Trace, data: ImageData) -> dict[str, Tensor]:
    return output_gains(Request(trace, data, 0, 64, {}), trace.groups)


def test_slopes_are_those_of_autograd(trace: Trace) -> None:
    data = pictures(count=16)
    found = gains_of(trace, data)["b.weight"]
    net: Any = trace.module
    kept: list[Tensor] = []
    handle = net.b.register_forward_hook(lambda *args: (args[2].retain_grad(), kept.append(args[2]))[0])
    logits = net(data.images)
    handle.remove()
    numbers = Request(trace, data, 0, 64, {}).numbers("mixture of outputs")
    v = torch.randn(logits.shape, generator=numbers)
    ((v - v.mean(1, keepdim=True)) * logits).sum().backward()
    assert kept[0].grad is not None
    slopes = kept[0].grad.double()
    alone, together = slopes.square().sum((0, 2, 3)), slopes.sum((2, 3)).square().sum(0)
    torch.testing.assert_close(found, (alone * together).sqrt() / 16, rtol=1e-4, atol=1e-9)
    net.zero_grad(set_to_none=True)


def test_curves_are_what_least_squares_leaves(trace: Trace) -> None:
    """The rows drawn for the reader of "a" are all 36 positions of these images: the curve is the fit's own error."""
    data = pictures(count=1)
    found = measure_residuals(trace, data)
    gain = gains_of(trace, data)["b.weight"].sqrt()
    net: Any = trace.module
    with torch.no_grad():
        x = net.a(data.images).relu().movedim(1, -1).reshape(-1, 5).double()
        y = (x @ net.b.weight.flatten(1).double().T) * gain
    x, y = x - x.mean(0), y - y.mean(0)

    def left(units: tuple[int, ...]) -> float:
        if not units:
            return float(y.square().sum(1).mean())
        at = list(units)
        return float((y - x[:, at] @ torch.linalg.lstsq(x[:, at], y).solution).square().sum(1).mean())

    order = found.order["a"]
    told = [left(order[:count]) for count in range(6)]
    torch.testing.assert_close(torch.tensor(found.left["a"]), torch.tensor(told), rtol=1e-3, atol=1e-4 * told[0])
    assert left(order[:1]) == pytest.approx(min(left((unit,)) for unit in range(5)))
    best = min(left(pair) for pair in itertools.combinations(range(5), 2))
    assert left(order[:2]) <= 1.3 * best


@pytest.mark.parametrize("name", ["Plain", "ResidualProjection", "DenseBlock", "Grouped", "TokenBlock"])
def test_every_group_has_a_falling_curve(name: str) -> None:
    net = ZOO[name]
    module = net.build()
    before = fingerprint_state(module.state_dict())
    traced = trace_channels(module, net.example)
    data = pictures(net.shape[1:], 12)
    found = measure_residuals(traced, data)
    for group in (g for g in traced.groups if g.prunable):
        left = found.left[group.id]
        assert len(left) == group.units + 1 and all(a >= b for a, b in itertools.pairwise(left)) and left[-1] >= 0
        assert sorted(found.order[group.id]) == list(range(group.units))
    assert measure_residuals(traced, data) == found
    assert fingerprint_state(module.state_dict()) == before
    assert all(parameter.grad is None for parameter in module.parameters())
    some = measure_residuals(traced, data, traced.prunable[:1])
    assert list(some.left) == [traced.prunable[0].id]
    assert set(found.to_dict()) == {"left", "order", "images"}


def test_it_stops_and_asks_for_images(trace: Trace) -> None:
    with pytest.raises(Cancelled):
        measure_residuals(trace, pictures(), cancelled=lambda: True)
    with pytest.raises(MeasureError, match="image"):
        measure_residuals(trace, pictures().take(torch.zeros(0, dtype=torch.int64)))
