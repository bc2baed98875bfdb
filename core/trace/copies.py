"""Copies of a network with other tensors in it, and its modules and tensors by name.

Every module object of a copy is new; what holds no tensor and cannot change (numbers, names, functions) is shared. This
is ``copy.deepcopy`` with the tensors chosen by the caller, and faster, because a network is mostly such values.
"""

from __future__ import annotations

import copy
import types
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Change = Callable[[str, Tensor], Tensor]
ATOMIC = frozenset({
    bool, int, float, complex, str, bytes, type(None), type, types.FunctionType, types.BuiltinFunctionType, torch.dtype,
    torch.device, torch.Size, torch.memory_format, range, slice,
})  # fmt: skip
EMPTY = frozenset({dict, list, set, OrderedDict})
PLAIN = ATOMIC | EMPTY
OWN = ("_parameters", "_buffers", "_modules")
KEPT_BY_TORCH = frozenset(vars(nn.Module())) - {"training", *OWN}  # hooks, most of them empty


def named_layers(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every module once with its first name, as ``named_modules`` gives them, which takes ten times as long."""
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()

    def visit(path: str, layer: nn.Module) -> None:
        seen.add(id(layer))
        found.append((path, layer))
        for name, child in layer._modules.items():
            if child is not None and id(child) not in seen:
                visit(f"{path}.{name}" if path else name, child)

    visit("", module)
    return found


def named_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers (also non-persistent ones) by name; a shared tensor appears once, by its first name."""
    return _state_of(named_layers(module))


def _state_of(layers: list[tuple[str, nn.Module]]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for kind in OWN[:2]:
        seen: set[int] = set()
        for path, layer in layers:
            tensors = layer.__dict__.get(kind)
            if tensors is None:
                tensors = getattr(layer, kind)  # a scripted module keeps them elsewhere
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    state[f"{path}.{name}" if path else name] = tensor
    return state


def copy_with(module: nn.Module, change: Change, loose: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
    """A copy in which every parameter and buffer is ``change(name, tensor)``; tensors that are shared stay shared.

    ``loose``: what becomes of tensors that the network holds as plain attributes (None = they are cloned).
    """
    layers = named_layers(module)
    tensors: dict[int, Tensor] = {}
    for name, tensor in _state_of(layers).items():
        new = change(name, tensor.detach())
        if isinstance(tensor, nn.Parameter):
            new = nn.Parameter(new, requires_grad=tensor.requires_grad)
        tensors[id(tensor)] = new
    return _copied(layers, tensors, loose or (lambda tensor: tensor.detach().clone()), lasting=True)


def shell_with(module: nn.Module, tensors: Mapping[int, Tensor]) -> nn.Module:
    """A copy to run once and throw away: tensors are the network's own, but for ``tensors`` (by id of the old one)."""
    layers = named_layers(module)
    own = {id(tensor): tensor for tensor in _state_of(layers).values()}
    return _copied(layers, {**own, **tensors}, lambda tensor: tensor.detach(), lasting=False)


def _copied(
    layers: list[tuple[str, nn.Module]],
    tensors: Mapping[int, Tensor],
    loose: Callable[[Tensor], Tensor],
    *,
    lasting: bool,
) -> nn.Module:
    """lasting: what PyTorch keeps beside the layers (hooks) is copied too, even when there is nothing in it."""
    memo: dict[int, Any] = dict(tensors)
    special: dict[type, bool] = {}
    mine: list[nn.Module] = []
    others: list[nn.Module] = []
    for _, layer in layers:
        kind = type(layer)
        if kind not in special:
            special[kind] = _special(layer)
        if special[kind]:
            others.append(layer)
        else:
            mine.append(layer)
            memo[id(layer)] = kind.__new__(kind)
    for layer in (*mine, *others):
        for value in layer.__dict__.values():  # a tensor that has a history cannot be deep-copied
            if type(value) not in PLAIN and isinstance(value, Tensor) and id(value) not in memo:
                memo[id(value)] = loose(value)
    for layer in others:  # before the layers around them, which hold the copy
        copy.deepcopy(layer, memo)
    for layer in mine:
        _fill(memo[id(layer)], layer, memo, lasting)
    result: nn.Module = memo[id(layers[0][1])]
    return result


def _special(layer: nn.Module) -> bool:
    """Classes that say themselves how they are copied; parametrised ones only do so to forbid pickling."""
    return isinstance(layer, torch.jit.ScriptModule) or (
        hasattr(type(layer), "__deepcopy__") and not nn.utils.parametrize.is_parametrized(layer)
    )


def _fill(new: nn.Module, old: nn.Module, memo: dict[int, Any], lasting: bool) -> None:
    fields = new.__dict__
    fields.update(old.__dict__)
    for key, value in old.__dict__.items():
        kind = type(value)
        if kind in ATOMIC:
            continue
        if kind in EMPTY and not value:
            if lasting or key not in KEPT_BY_TORCH:
                fields[key] = kind()
        elif key in OWN:
            fields[key] = {name: memo.get(id(item), item) for name, item in value.items()}
        elif kind is dict and "cache" in key and all(isinstance(item, Tensor) for item in value.values()):
            fields[key] = {}  # what was computed from the old weights
        elif kind is tuple and ATOMIC.issuperset(map(type, value)):
            continue
        else:
            fields[key] = copy.deepcopy(value, memo)
