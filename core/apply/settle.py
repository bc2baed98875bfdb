"""Batch norms whose stored statistics are not those of what they read, set right without changing what is computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from core.trace.modes import evaluating

LEAST_IMAGES, MOST_IMAGES, BATCH = 64, 1024, 32
SEED = 0


def settle_norms(
    module: nn.Module, images: Tensor, *, seconds: float | None = None, check: Callable[[], None] = lambda: None
) -> tuple[str, ...]:
    """Store in every batch norm the mean and variance of what it reads, in place, and move scale and shift against it.

    In eval mode a batch norm gives gamma (x - m) / sqrt(v + eps) + beta. With the statistics m', v' of x over
    ``images`` (N x C x H x W) in place of m, v, the same function has
    gamma' = gamma sqrt((v' + eps) / (v + eps)) and beta' = beta + gamma (m' - m) / sqrt(v + eps).

    Training normalises by each batch's own statistics. A network whose weights were solved for keeps the dense
    network's variances and carries new shifts in its means, so that its first step in train mode would be that of
    another, much worse network. Norms that have no scale, shift or statistics of their own, or none but those they were
    made with (0 and 1: never trained), stay as they are. seconds: stop looking at images after so long (None = when
    MOST_IMAGES were seen). Gives the names of the norms that were settled.
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, _BatchNorm) and _can(layer)}
    if not layers:
        return ()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))[:MOST_IMAGES]
    begun, seen, reference = time.perf_counter(), 0, next(iter(layers.values())).running_mean
    assert reference is not None
    watch = _Watch({id(layer.running_mean): name for name, layer in layers.items()})
    with evaluating(module), watch:
        for chosen in order.split(BATCH):
            check()
            if seconds is not None and seen >= LEAST_IMAGES and time.perf_counter() - begun > seconds:
                break
            module(images[chosen.to(images.device)].to(reference.device, next(module.parameters()).dtype))
            seen += len(chosen)
    with torch.no_grad():
        return tuple(name for name, layer in layers.items() if _settle(layer, watch.sums.get(name)))


def _can(layer: _BatchNorm) -> bool:
    if layer.running_mean is None or layer.running_var is None or layer.weight is None or layer.bias is None:
        return False
    return bool((layer.running_mean != 0).any() or (layer.running_var != 1).any())


class _Watch(TorchFunctionMode):
    """Active while a network runs: sums of what its batch norms read. ``names``: id of a norm's running mean -> name;
    ``sums``: name -> float64 (3, channels): count, sum, sum of squares about the running mean."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.names = names
        self.sums: dict[str, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = self.names.get(id(args[1])) if func is F.batch_norm and len(args) > 1 else None
        if name is not None:
            x = args[0].detach().transpose(0, 1).flatten(1).double() - args[1].double()[:, None]
            found = torch.stack([torch.full_like(x[:, 0], x.shape[1]), x.sum(1), x.square().sum(1)])
            self.sums[name] = self.sums[name] + found if name in self.sums else found
        return func(*args, **(kwargs or {}))


def _settle(layer: _BatchNorm, sums: Tensor | None) -> bool:
    """Whether there was enough to settle by; the running variance is that of a sample, as PyTorch stores it."""
    assert layer.running_mean is not None and layer.running_var is not None  # as _can has seen
    if sums is None or float(sums[0, 0]) < 2 or not bool(sums.isfinite().all()):
        return False
    count, total, squares = sums
    moved = total / count
    var = ((squares - count * moved.square()) / (count - 1)).clamp(min=0)
    before, gamma = layer.running_var.double() + layer.eps, layer.weight.double()
    layer.bias.copy_(layer.bias.double() + gamma * moved / before.sqrt())
    layer.weight.copy_(gamma * ((var + layer.eps) / before).sqrt())
    layer.running_mean.add_(moved.to(layer.running_mean))
    layer.running_var.copy_(var)
    return True
