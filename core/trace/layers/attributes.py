"""Attributes that repeat a weight's size must tell the new one."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from core.trace.copies import Census, take_census
from core.trace.graph import shape_only
from core.trace.layers.heads import fit_heads

HEADLESS = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.Sequential, nn.ModuleList)
BARE = (nn.modules.instancenorm._InstanceNorm, nn.LayerNorm)


def follow_sizes(new: nn.Module | Census, old: nn.Module | Census, changed: Collection[str], example: Tensor) -> None:
    """Make every layer of ``new`` agree with its weights. ``new`` is a copy of ``old`` in which the state entries
    ``changed`` have other sizes. example: an input, for layers that have no weights to tell their width."""
    if not changed:
        return
    new, old = take_census(new), take_census(old)
    before, after = old.by_path, new.by_path
    holders = {name.rpartition(".")[0] for name in changed}
    if new.reused or any("parametrizations." in path for path in holders):
        holders = _holders(new, changed)
    around = {}
    for path, layer in new.layers:
        if path in holders:
            update_layer(layer)
            around[path] = around[path.rpartition(".")[0]] = True
    for path in around:
        if not isinstance(before[path], HEADLESS):
            fit_heads(after[path], before[path])
    _update_bare_norms(new, example)


def _holders(census: Census, changed: Collection[str]) -> set[str]:
    """The layers that hold one of these tensors, by identity: two layers may hold one weight."""
    sliced = {id(census.state[name]) for name in changed}
    return {path for path, layer in census.layers if any(id(tensor) in sliced for tensor in _own(layer))}


def _own(layer: nn.Module) -> list[Tensor | None]:
    own: list[Tensor | None] = [*layer._parameters.values(), *layer._buffers.values()]
    if is_parametrized(layer):
        parametrizations: Any = layer.parametrizations
        own += list(parametrizations.parameters())
    return own


def update_layer(layer: nn.Module) -> None:
    """Set the sizes that PyTorch's own layers keep beside their weights."""
    hooks: list[Any] = list(layer._forward_pre_hooks.values())
    for hook in hooks:
        if hasattr(hook, "compute_weight"):  # the older weight norm keeps a computed weight beside its parts
            setattr(layer, hook.name, hook.compute_weight(layer).detach())
    weight: Any = getattr(layer, "weight", None)
    if isinstance(layer, nn.modules.conv._ConvNd):
        _update_convolution(layer, weight)
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = weight.shape
    elif isinstance(layer, nn.modules.batchnorm._NormBase):
        size = next((t.shape[0] for t in (weight, layer.running_mean) if t is not None), layer.num_features)
        layer.num_features = size
    elif isinstance(layer, nn.GroupNorm) and weight is not None:
        if layer.num_groups > 1:
            layer.num_groups = layer.num_groups * weight.shape[0] // layer.num_channels
        layer.num_channels = weight.shape[0]
    elif isinstance(layer, nn.LayerNorm | nn.RMSNorm) and weight is not None:
        layer.normalized_shape = tuple(weight.shape)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = weight.shape[0]
    elif isinstance(layer, nn.Embedding):
        layer.embedding_dim = weight.shape[1]


def _update_convolution(layer: Any, weight: Tensor) -> None:
    new_out, per_group = weight.shape[0], weight.shape[1]
    if layer.transposed:
        new_out, per_group = weight.shape[1], weight.shape[0]
        if layer.groups > 1:
            layer.groups = layer.groups * weight.shape[0] // layer.in_channels
            layer.in_channels, layer.out_channels = weight.shape[0], new_out * layer.groups
            return
    elif layer.groups > 1:
        layer.groups = layer.groups * new_out // layer.out_channels
    layer.in_channels, layer.out_channels = per_group * layer.groups, new_out


def _update_bare_norms(census: Census, example: Tensor) -> None:
    """Norms without weights only know their width by what reaches them."""
    bare = {
        path: layer
        for path, layer in census.layers
        if isinstance(layer, BARE) and getattr(layer, "weight", None) is None
    }
    if not bare:
        return
    trial = shape_only(census.module).eval()  # thrown away, so what is changed in it need not be undone

    def noting(path: str, layer: Any) -> Any:
        def forward(x: Tensor) -> Tensor:
            if isinstance(layer, nn.LayerNorm):
                bare[path].normalized_shape = tuple(x.shape[-len(layer.normalized_shape) :])
            else:
                bare[path].num_features = x.shape[-layer._get_no_batch_dim()]
            return torch.empty_like(x)

        return forward

    for path in bare:
        layer: Any = trial.get_submodule(path)
        layer.forward = noting(path, layer)
    # Layers may complain in any way of their own. Then the old width stays: it is only ever reported.
    with contextlib.suppress(Exception):
        trial(example.to("meta"))
