"""Copies of a network with other tensors in it, and its modules and tensors by name.

Every module object of a copy is new; what holds no tensor and cannot change (numbers, names, functions) is shared. This
is ``copy.deepcopy`` with the tensors chosen by the caller, and faster, because a network is mostly such values.
"""

from __future__ import annotations

import copy
import types
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

Change = Callable[[str, Tensor], Tensor]
Work = tuple[tuple[str, type, bool], ...]
ATOMIC = frozenset({
    bool, int, float, complex, str, bytes, type(None), type, types.FunctionType, types.BuiltinFunctionType, torch.dtype,
    torch.device, torch.Size, torch.memory_format, range, slice,
})  # fmt: skip
EMPTY = frozenset({dict, list, set, OrderedDict})
OWN = ("_parameters", "_buffers", "_modules")
KEPT_BY_TORCH = frozenset(vars(nn.Module())) - {"training", *OWN}  # hooks, most of them empty


@dataclass(frozen=True)
class Census:
    """A network looked through once. ``layers``: every module with its first name. ``state``: parameters and buffers
    (also non-persistent ones) by name, the ``parameters`` first; a shared tensor appears once, by its first name.
    ``reused``: some module or tensor has a second name."""

    layers: list[tuple[str, nn.Module]]
    state: dict[str, Tensor]
    parameters: int
    reused: bool = False

    @property
    def module(self) -> nn.Module:
        return self.layers[0][1]

    @cached_property
    def by_path(self) -> dict[str, nn.Module]:
        return dict(self.layers)

    @cached_property
    def parameter_names(self) -> list[str]:
        return list(self.state)[: self.parameters]


def take_census(module: nn.Module | Census) -> Census:
    """In the order of ``named_modules``, ``named_parameters`` and ``named_buffers``, which take ten times as long."""
    if isinstance(module, Census):
        return module
    layers: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()
    reused = False

    def visit(path: str, layer: nn.Module) -> None:
        nonlocal reused
        seen.add(id(layer))
        layers.append((path, layer))
        inner = layer._modules
        if inner:
            start = f"{path}." if path else ""
            for name, child in inner.items():
                if child is not None:
                    if id(child) in seen:
                        reused = True
                    else:
                        visit(start + name, child)

    visit("", module)
    found: list[dict[str, Tensor]] = []
    for kind in OWN[:2]:
        state: dict[str, Tensor] = {}
        seen = set()
        for path, layer in layers:
            tensors = layer.__dict__.get(kind)
            if tensors is None:
                tensors = getattr(layer, kind)  # a scripted module keeps them elsewhere
            for name, tensor in tensors.items():
                if tensor is not None:
                    if id(tensor) in seen:
                        reused = True
                    else:
                        seen.add(id(tensor))
                        state[f"{path}.{name}" if path else name] = tensor
        found.append(state)
    return Census(layers, {**found[0], **found[1]}, len(found[0]), reused)


def named_layers(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every module once with its first name."""
    return take_census(module).layers


def named_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, as in Census."""
    return take_census(module).state


def copy_with(module: nn.Module, change: Change, loose: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
    """A copy in which every parameter and buffer is ``change(name, tensor)``; tensors that are shared stay shared.

    ``loose``: what becomes of tensors that the network holds as plain attributes (None = they are cloned).
    """
    return copy_of(take_census(module), change, loose).module


def copy_of(census: Census, change: Change, loose: Callable[[Tensor], Tensor] | None = None) -> Census:
    """``copy_with`` for a network already looked through."""
    tensors: dict[int, Tensor] = {}
    state: dict[str, Tensor] = {}
    for number, (name, tensor) in enumerate(census.state.items()):
        new = change(name, tensor.detach())
        if number < census.parameters and (type(tensor) is nn.Parameter or isinstance(tensor, nn.Parameter)):
            new = nn.Parameter(new, requires_grad=tensor.requires_grad)
        tensors[id(tensor)] = state[name] = new
    return _copied(census, state, tensors, loose or (lambda tensor: tensor.detach().clone()), lasting=True)


def shell_with(census: Census, tensors: Mapping[int, Tensor]) -> Census:
    """A copy to run once and throw away: tensors are the network's own, but for ``tensors`` (by id of the old one)."""
    state = {name: tensors.get(id(tensor), tensor) for name, tensor in census.state.items()}
    held = {id(tensor): state[name] for name, tensor in census.state.items()}
    return _copied(census, state, held, lambda tensor: tensor.detach(), lasting=False)


def _copied(
    census: Census,
    state: dict[str, Tensor],
    tensors: Mapping[int, Tensor],
    loose: Callable[[Tensor], Tensor],
    *,
    lasting: bool,
) -> Census:
    """lasting: what PyTorch keeps beside the layers (hooks) is copied too, even when there is nothing in it."""
    memo: dict[int, Any] = dict(tensors)
    special: dict[type, bool] = {}
    mine: list[tuple[dict[str, Any], dict[str, Any], Work]] = []
    others: list[nn.Module] = []
    for _, layer in census.layers:
        kind = type(layer)
        if kind not in special:
            special[kind] = _special(layer)
        if special[kind]:
            others.append(layer)
            continue
        new = memo[id(layer)] = kind.__new__(kind)
        fields = layer.__dict__
        work, held = _to_copy(tuple(fields), tuple(map(type, fields.values())))
        mine.append((new.__dict__, fields, work))
        for key in held:  # a tensor that has a history cannot be deep-copied
            if id(fields[key]) not in memo:
                memo[id(fields[key])] = loose(fields[key])
    for layer in others:  # before the layers around them, which hold the copy
        for value in layer.__dict__.values():
            if isinstance(value, Tensor) and id(value) not in memo:
                memo[id(value)] = loose(value)
        copy.deepcopy(layer, memo)
    for new_fields, fields, work in mine:
        _fill(new_fields, fields, work, memo, lasting)
    result: nn.Module = memo[id(census.module)]
    if others:
        return take_census(result)
    return Census([(path, memo[id(layer)]) for path, layer in census.layers], state, census.parameters, census.reused)


def _special(layer: nn.Module) -> bool:
    """Classes that say themselves how they are copied; parametrised ones only do so to forbid pickling."""
    return isinstance(layer, torch.jit.ScriptModule) or (
        hasattr(type(layer), "__deepcopy__") and not nn.utils.parametrize.is_parametrized(layer)
    )


@lru_cache(maxsize=4096)
def _to_copy(keys: tuple[str, ...], kinds: tuple[type, ...]) -> tuple[Work, tuple[str, ...]]:
    """The attributes that cannot be shared whatever they hold (key, type, whether PyTorch keeps it for each layer), and
    those of them that are tensors. Layers of one class mostly have the same."""
    pairs = [(key, kind) for key, kind in zip(keys, kinds, strict=True) if kind not in ATOMIC]
    work = tuple((key, kind, key in KEPT_BY_TORCH) for key, kind in pairs)
    return work, tuple(key for key, kind in pairs if issubclass(kind, Tensor))


def _fill(fields: dict[str, Any], old: dict[str, Any], work: Work, memo: dict[int, Any], lasting: bool) -> None:
    fields.update(old)
    for key, kind, by_torch in work:
        value = old[key]
        if kind in EMPTY and not value:
            if lasting or not by_torch:
                fields[key] = kind()
        elif key in OWN:
            fields[key] = {name: memo.get(id(item), item) for name, item in value.items()}
        elif kind is dict and "cache" in key and all(isinstance(item, Tensor) for item in value.values()):
            fields[key] = {}  # what was computed from the old weights
        elif kind is tuple and ATOMIC.issuperset(map(type, value)):
            continue
        else:
            fields[key] = copy.deepcopy(value, memo)
