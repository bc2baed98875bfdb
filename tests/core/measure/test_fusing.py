"""Fused convolutions compute what the calls they replace compute, and overwrite nothing that is still read."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.measure.scan.fusing import PLUS, THEN, can_fuse
from core.measure.scan.program import Program
from core.trace.graph import record_tape
from tests.core.measure.test_sensitivity import Residual, network, pictures

pytestmark = pytest.mark.skipif(not can_fuse(torch.device("cpu")), reason="this PyTorch has no fused convolutions")


class Activations(nn.Module):
    """Every activation that can be taken over, one with numbers of its own, one that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(4 if place else 2, 4, 3, padding=1) for place in range(7))

    def forward(self, x: Tensor) -> Tensor:
        given = (F.relu, F.silu, F.hardswish, torch.sigmoid, F.relu6, lambda y: F.hardtanh(y, -0.5, 0.25), F.gelu)
        for layer, activation in zip(self.layers, given, strict=True):
            x = activation(layer(x))
        return x.mean((2, 3))


class Sums(nn.Module):
    """Sums of two convolutions, of a tensor with itself, of one that is read again, of unequal shapes; then a relu or
    something else behind the sum; at last a map of one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(2, 4, 1, bias=False)
        self.c, self.d, self.e = (nn.Conv2d(4, 4, 3, padding=1, groups=groups) for groups in (1, 2, 4))
        self.f, self.g = nn.Conv2d(4, 4, 6), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x) + self.b(x))
        y = F.relu(self.c(x) + x)  # x is read again
        z = F.silu(self.d(y) + x)
        twice = self.e(z)
        z = twice + twice + z.mean((2, 3), keepdim=True)
        small = self.f(z)
        return (small + F.relu_(self.g(small) + small)).flatten(1)


class Shared(nn.Module):
    """One kernel in two ways, and one that is also read by something else."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(3, 2, 3, 3)), nn.Conv2d(2, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        wide, narrow = F.relu(F.conv2d(x, self.a, padding=1)), F.relu(F.conv2d(x, self.a, stride=2))
        extra = F.relu(self.b(x)) * self.b.weight.mean()
        return torch.cat([wide.mean((2, 3)), narrow.mean((2, 3)), extra.mean((2, 3))], 1)


@pytest.mark.parametrize(("kind", "left"), [(Residual, 0), (Activations, 1), (Sums, 2), (Shared, 0)])
@pytest.mark.parametrize("count", [1, 5])
def test_fused_programs_compute_the_network(kind: type[nn.Module], left: int, count: int) -> None:
    module, batch = network(kind), pictures(count).images
    program = Program(record_tape(module, batch), module)
    with torch.inference_mode():
        for _ in range(2):
            found = program.logits(program.run(program.begin(batch), 0))
            torch.testing.assert_close(found, module(batch), rtol=1e-5, atol=1e-6)
    pointwise = [step.name for step in program.steps if step.name.rstrip("_") in ("relu", "silu", "gelu", "sigmoid")]
    assert len(pointwise) == left - (kind is Sums), pointwise
    fused = [step for index, step in enumerate(program.steps) if index in program.fused]
    assert any(THEN in step.kwargs for step in fused)
    assert sum(PLUS in step.kwargs for step in fused) == {Residual: 1, Sums: 4}.get(kind, 0)


@pytest.mark.parametrize("kind", [Residual, Sums])
def test_a_run_from_the_middle_overwrites_nothing_it_has_not_made(kind: type[nn.Module]) -> None:
    module, batch = network(kind), pictures(3).images
    program = Program(record_tape(module, batch), module)
    with torch.inference_mode():
        for start in range(len(program.steps)):
            env = program.run(program.begin(batch), 0, start)
            before = {slot: tensor.clone() for slot, tensor in env.items() if not tensor.is_mkldnn}
            expected = program.logits(program.run(program.begin(batch), 0))
            found, again = (program.logits(program.run(dict(env), start)) for _ in range(2))
            # Adding in place and adding to a copy are two kernels: on some processors they round differently.
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
            assert torch.equal(again, found)
            assert all(torch.equal(env[slot], tensor) for slot, tensor in before.items())


def test_double_precision_stays_as_it_is() -> None:
    module, batch = network(Residual).double(), pictures(3).images.double()
    program = Program(record_tape(module, batch), module)
    assert not program.fused
    with torch.inference_mode():
        torch.testing.assert_close(program.logits(program.run(program.begin(batch), 0)), module(batch))
