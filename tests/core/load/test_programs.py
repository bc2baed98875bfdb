"""Networks from .pt2 and .onnx files: the same network, without its source, pruned like any other."""

from __future__ import annotations

import operator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from core.apply import mask_model, prune_model
from core.errors import LoadError
from core.export.exported_program import write_exported_program
from core.export.onnx import write_onnx
from core.export.source import Source
from core.load import inspect_onnx, load_model
from core.load.program.operators import ATEN, PYTHON, find_operator
from core.load.program.steps import Sized
from core.measure.cost import count_cost
from core.plan import plan_uniform
from core.records import Scores
from core.trace import trace_channels

SHAPE = (3, 16, 16)


class Mixed(nn.Module):
    """A residual, a depthwise, a shuffled, a grouped and a shared layer, a constant, a scale, dropout, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.block = nn.ModuleDict({
            "conv-1": nn.Conv2d(8, 8, 3, padding=1, groups=8),
            "conv-2": nn.Conv2d(8, 8, 1),
            "norm": nn.GroupNorm(4, 8),
        })  # fmt: skip
        self.shared = nn.Conv2d(8, 8, 1)
        self.branch = nn.Conv2d(8, 12, 1)
        self.scale = nn.Parameter(torch.full((12, 1, 1), 0.5))
        self.register_buffer("offset", torch.linspace(0, 1, 12)[:, None, None], persistent=False)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.block["norm"](self.block["conv-2"](self.block["conv-1"](x)))
        x = self.shared(self.shared(x).relu())
        x = self.branch(x) * self.scale + self.offset
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        x = torch.cat(torch.chunk(x, 2, 1)[::-1], 1)
        return self.head(self.drop(x.mean((2, 3))))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.left, self.right = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Hardsigmoid())
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.left(x) + x, self.right(x) * self.gate(x)], 1)
        return self.head(torch.flatten(nn.functional.max_pool2d(nn.functional.hardswish(x), 8), 1))


def settled(module: nn.Module) -> nn.Module:
    """Random weights and statistics, so that no two channels are alike."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in [*module.parameters(), *module.buffers()]:
            if value.is_floating_point():
                value.add_(0.2 * torch.rand(value.shape, generator=generator))
    return module.eval()


@pytest.fixture(scope="module")
def mixed() -> nn.Module:
    return settled(Mixed())


@pytest.fixture(scope="module")
def program(mixed: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "mixed.pt2"
    write_exported_program(Source(mixed, torch.randn(1, *SHAPE), {}), path)
    return path


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(3))


def test_a_program_opens_as_the_same_network(program: Path, mixed: nn.Module, images: Tensor) -> None:
    opened = load_model(str(program))
    assert opened.example.shape == (1, *SHAPE) and opened.name == "mixed" and not opened.module.training
    with torch.no_grad():
        for batch in (images, images[:1]):
            assert torch.allclose(opened.module(batch), mixed(batch), atol=1e-6)
    assert set(opened.module.state_dict()) == set(mixed.state_dict())
    assert {name for name, _ in opened.module.named_parameters()} == {name for name, _ in mixed.named_parameters()}
    kinds = {name: type(layer) for name, layer in opened.module.named_modules()}
    assert kinds["stem.0"] is nn.Conv2d and kinds["stem.1"] is nn.BatchNorm2d and kinds["block.norm"] is nn.GroupNorm
    assert kinds["shared"] is nn.Conv2d and nn.Dropout in kinds.values() and kinds["head"] is nn.Linear


def test_it_trains_like_the_network_it_was(program: Path, mixed: nn.Module, images: Tensor) -> None:
    module = load_model(str(program)).module.train()
    before = module.get_buffer("stem.1.running_mean").clone()
    module(images).sum().backward()
    assert not torch.equal(module.get_buffer("stem.1.running_mean"), before)
    assert all(value.grad is not None for value in module.parameters())


def test_it_prunes_as_its_source_does(program: Path, mixed: nn.Module, images: Tensor) -> None:
    opened = load_model(str(program)).module
    ours, theirs = (trace_channels(module, images[:1]) for module in (opened, mixed))
    assert [(g.id, g.units, g.prunable) for g in ours.coupled] == [(g.id, g.units, g.prunable) for g in theirs.coupled]
    assert count_cost(ours).macs == count_cost(theirs).macs
    scores = Scores("x", {g.id: torch.arange(g.units).double() for g in theirs.groups})
    plan = plan_uniform(theirs, scores, 0.5)
    found, expected = prune_model(opened, ours, plan), prune_model(mixed, theirs, plan)
    with torch.no_grad():
        assert torch.allclose(found(images), expected(images), atol=1e-6)
        assert torch.allclose(found(images), mask_model(opened, ours, plan)(images), atol=1e-5)
    assert sum(value.numel() for value in found.parameters()) < sum(value.numel() for value in opened.parameters())


def test_sizes_in_calls_are_numbers_that_follow(program: Path) -> None:
    module = load_model(str(program)).module
    sizes = [vars(layer) for layer in module.modules() if isinstance(layer, Sized)]
    assert {"width_0": 2, "width_1": 6, "edge_index_2": 8}.items() <= next(
        one for one in sizes if "edge_index_2" in one
    ).items()  # 8 is the edge of the image here, never a number of channels


def test_every_operator_on_the_list_is_one_of_pytorch() -> None:
    missing = [name for name in ATEN if not hasattr(torch.ops.aten, name)]
    assert not missing
    dangerous = {"from_file", "save", "set_", "as_strided", "resize_", "_print", "record_stream", "to_mkldnn"}
    assert not dangerous & ATEN
    assert all(getattr(operator, name.split(".")[1]) is run for name, run in PYTHON.items())
    assert find_operator("torch.ops.aten._assert_scalar.default", "f") is None
    for bad in ("torch.os.system", "torch.ops.aten.from_file.default", "torch.ops.aten.relu.nothing", "builtins.eval"):
        with pytest.raises(LoadError, match="not among the operators"):
            find_operator(bad, "f.pt2")


def test_onnx_opens_as_the_same_network(tmp_path: Path, images: Tensor) -> None:
    plain = settled(Plain())
    path = tmp_path / "plain.onnx"
    write_onnx(Source(plain, images[:1], {}), path)
    told = inspect_onnx(path)
    assert told.opset >= 18 and told.input_shape == SHAPE and told.batch is None
    trace = trace_channels(plain, images[:1])
    assert told.macs == count_cost(trace).macs and len(told.layers) == 5
    opened = load_model(str(path))
    with torch.no_grad():
        assert torch.allclose(opened.module(images), plain(images), atol=1e-5)
    ours = trace_channels(opened.module, opened.example)
    assert sum(g.units for g in ours.prunable) == sum(g.units for g in trace.prunable)
    scores = Scores("x", {g.id: torch.arange(g.units).double() for g in ours.groups})
    smaller = prune_model(opened.module, ours, plan_uniform(ours, scores, 0.5))
    assert smaller(images).shape == (5, 5)
