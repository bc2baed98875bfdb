"""Tiny networks that carry hand-worked answers.

Each net in tests/zoo_nets/ states, beside its code, which groups it has, how many units may leave, what is locked and
why, and its dense MACs and parameters, worked by hand in the comments. The laws run over all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from core.records import Plan, Trace


@dataclass(frozen=True)
class ZooNet:
    """``groups``: prunable group id -> units. ``locked``: locked group id -> a part of its reason.

    ``members``: group id -> the layers it is born in, where more than one. ``unknown``: operators without a rule.
    ``gathers``: gather id -> units, where worked out. ``mixing``: locked groups that become prunable, with their units,
    when a norm over channels is accepted as inexact; where worked out.
    """

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    groups: Mapping[str, int]
    locked: Mapping[str, str]
    macs: int
    params: int
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unknown: Mapping[str, int] = field(default_factory=dict)
    replays: bool = True
    gathers: Mapping[str, int] | None = None
    mixing: Mapping[str, int] | None = None

    def build(self, seed: int = 0) -> nn.Module:
        """In eval mode, every weight and statistic random."""
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(seed)
            module = self.make()
        randomise(module, seed)
        return module.eval()

    @property
    def example(self) -> Tensor:
        return images(self.shape, 1, seed=99)


ZOO: dict[str, ZooNet] = {}


def zoo(
    *shape: int,
    groups: Mapping[str, int],
    locked: Mapping[str, str],
    macs: int,
    params: int,
    members: Mapping[str, tuple[str, ...]] | None = None,
    unknown: Mapping[str, int] | None = None,
    replays: bool = True,
    gathers: Mapping[str, int] | None = None,
    mixing: Mapping[str, int] | None = None,
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Enter the class below into the zoo. ``shape``: one image, without batch."""

    def enter(kind: type[nn.Module]) -> type[nn.Module]:
        assert kind.__name__ not in ZOO, kind.__name__
        ZOO[kind.__name__] = ZooNet(
            kind.__name__, kind, (1, *shape), groups, locked, macs, params, members or {}, unknown or {}, replays,
            gathers, mixing,
        )  # fmt: skip
        return kind

    return enter


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Random weights, affines and statistics that keep activations lively, so that no law holds by being zero."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            last = name.rpartition(".")[2]
            if not tensor.is_floating_point():
                continue
            if last == "running_var":
                uniform(tensor, 0.5, 1.5)
            elif last == "running_mean":
                uniform(tensor, -0.3, 0.3)
            elif tensor.dim() > 1:
                fan_in = max(1, tensor[0].numel())
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2.0 / fan_in) ** 0.5)
            elif last == "weight":
                uniform(tensor, 0.6, 1.4)
            else:
                uniform(tensor, -0.3, 0.3)


def settle(module: nn.Module, batch: Tensor) -> None:
    """Set batch norms' statistics to those of ``batch``, so that deep random networks keep telling images apart."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    for layer in norms:
        layer.train()
        layer.momentum = 1.0
    with torch.no_grad():
        module(batch)
    for layer in norms:
        layer.eval()
        layer.momentum = 0.1


def images(shape: tuple[int, ...], count: int, seed: int = 0) -> Tensor:
    """``count`` random images of ``shape`` (whose first entry, the batch, is replaced)."""
    return torch.randn(count, *shape[1:], generator=torch.Generator().manual_seed(seed))


def outputs(module: nn.Module, batch: Tensor) -> list[Tensor]:
    """All tensors that the network returns."""
    with torch.no_grad():
        return [leaf for leaf in tree_flatten(module(batch))[0] if isinstance(leaf, Tensor)]


def random_plan(trace: Trace, removed_fraction: float, seed: int) -> Plan:
    """Every prunable group loses round(fraction x units) units at random, never all."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for group in trace.prunable:
        count = max(1, group.units - round(removed_fraction * group.units))
        kept[group.id] = tuple(torch.randperm(group.units, generator=generator)[:count].tolist())
    return Plan(kept, f"random {removed_fraction:.0%}")


def _collect() -> None:
    from tests.zoo_nets import (  # noqa: F401 - importing enters their nets
        attention,
        basic,
        branches,
        families,
        gates,
        locked,
        normed,
        reshaped,
        sampled,
        shapes,
    )  # fmt: skip


_collect()
NETS = list(ZOO.values())
