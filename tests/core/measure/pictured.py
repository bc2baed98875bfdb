"""Networks with the images and the layers' inputs that criteria see, had module by module: for slow references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from core.records import Group, ImageData, Trace
from core.trace import trace_channels
from tests.zoo import ZOO, images, outputs


def zoo_subject(name: str, count: int = 10, seed: int = 0) -> tuple[nn.Module, ImageData, Trace]:
    """A zoo net of float64 weights with ``count`` images; labels are the neighbours' answers: some right, some not."""
    net = ZOO[name]
    module = net.build(seed).double()
    batch = images(net.shape, count, seed=seed + 5).double()
    answers = outputs(module, batch)[0]
    channels = net.shape[1]
    data = ImageData(batch, answers.argmax(1).roll(1), tuple("abcdef"), "zoo", (0.0,) * channels, (1.0,) * channels)
    return module, data, trace_channels(module, net.example.double())


def network(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    """Random weights, and batch norms that do something."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        module = kind()
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.data.uniform_(0.5, 2)
                layer.bias.data.normal_(0, 0.3)
                layer.running_mean.normal_(0, 0.3)
                layer.running_var.uniform_(0.1, 0.4)
    return module.eval()


def noise(count: int, size: int, seed: int = 0) -> ImageData:
    """``count`` random images of two channels, with labels of four classes."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 2, size, size, generator=generator)
    labels = torch.randint(0, 4, (count,), generator=generator)
    return ImageData(images, labels, tuple("abcd"), "noise", (0.0, 0.0), (1.0, 1.0))


def inputs_of_layers(module: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    """Layer -> what it read, by hooks (the tests' own way; core has none)."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda _, args: found.__setitem__(name, args[0].detach().clone())

    hooks = [layer.register_forward_pre_hook(keep(name)) for name, layer in module.named_modules() if name]
    with torch.no_grad():
        module(batch)
    for hook in hooks:
        hook.remove()
    return found


def contributions(layer: Any, x: Tensor, unit_of: Tensor, units: int) -> Tensor:
    """The layer run on one unit's channels at a time, without bias: (images x outputs x positions, units)."""
    columns = []
    for unit in range(units):
        alone = torch.where(_channels(x, unit_of == unit), x, torch.zeros_like(x))
        with torch.no_grad():
            columns.append((layer(alone) - layer(torch.zeros_like(x))).flatten())
    return torch.stack(columns, dim=1).double()


def _channels(x: Tensor, here: Tensor) -> Tensor:
    return here.reshape(1, -1, *[1] * (x.dim() - 2))


def readers(module: nn.Module, trace: Trace, group: Group, batch: Tensor) -> list[tuple[Any, Tensor, Tensor]]:
    """(layer, what it reads, unit of each channel) of each reader, in network order."""
    read = inputs_of_layers(module, batch)
    return [
        (module.get_submodule(member.layer), read[member.layer], member.unit_of) for member in group.by_role("consumer")
    ]


def stacked_design(found: Sequence[tuple[Any, Tensor, Tensor]], units: int) -> Tensor:
    """The explicit Z, all positions and outputs of all readers: each divided by sqrt(mean over positions ||y||^2)."""
    blocks = []
    for layer, x, unit_of in found:
        with torch.no_grad():
            y = (layer(x) - layer(torch.zeros_like(x))).movedim(1, -1)
        positions = y.numel() // y.shape[-1]
        energy = float(y.square().sum()) / positions
        blocks.append(contributions(layer, x, unit_of, units) / (energy * positions) ** 0.5)
    return torch.cat(blocks)
