"""A copy of a network with other tensors in it.

Every module object is new; what holds no tensor and cannot change (numbers, names, functions) is shared. This is
``copy.deepcopy`` with the tensors chosen by the caller, and faster, because a network is mostly such values.
"""

from __future__ import annotations

import copy
import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Change = Callable[[str, Tensor], Tensor]
ATOMIC = frozenset({
    bool, int, float, complex, str, bytes, type(None), type, types.FunctionType, types.BuiltinFunctionType, torch.dtype,
    torch.device, torch.Size, torch.memory_format, range, slice,
})  # fmt: skip
EMPTY = frozenset({dict, list, set, OrderedDict})  # most are hooks
OWN = ("_parameters", "_buffers", "_modules")


def named_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers (also non-persistent ones) by name; a shared tensor appears once, by its first name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def copy_with(module: nn.Module, change: Change, loose: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
    """A copy in which every parameter and buffer is ``change(name, tensor)``; tensors that are shared stay shared.

    ``loose``: what becomes of tensors that the network holds as plain attributes (None = they are cloned).
    """
    memo: dict[int, Any] = {}
    for name, parameter in module.named_parameters():
        memo[id(parameter)] = nn.Parameter(change(name, parameter.detach()), requires_grad=parameter.requires_grad)
    for name, buffer in module.named_buffers():
        memo[id(buffer)] = change(name, buffer.detach())
    plain = loose or (lambda tensor: tensor.detach().clone())
    layers = list(module.modules())
    for layer in layers:
        for value in layer.__dict__.values():  # a tensor that has a history cannot be deep-copied
            if isinstance(value, Tensor) and id(value) not in memo:
                memo[id(value)] = plain(value)
        if not _special(layer):
            memo[id(layer)] = type(layer).__new__(type(layer))
    for layer in layers:
        if _special(layer):
            copy.deepcopy(layer, memo)
        else:
            _fill(memo[id(layer)], layer, memo)
    result: nn.Module = memo[id(module)]
    return result


def _special(layer: nn.Module) -> bool:
    """Classes that say themselves how they are copied; parametrised ones only do so to forbid pickling."""
    return isinstance(layer, torch.jit.ScriptModule) or (
        hasattr(type(layer), "__deepcopy__") and not nn.utils.parametrize.is_parametrized(layer)
    )


def _fill(new: nn.Module, old: nn.Module, memo: dict[int, Any]) -> None:
    fields = new.__dict__
    fields.update(old.__dict__)
    for key, value in old.__dict__.items():
        if type(value) in ATOMIC:
            continue
        if key in OWN:
            fields[key] = {name: memo.get(id(item), item) for name, item in value.items()} if value else {}
        elif type(value) is tuple and all(type(item) in ATOMIC for item in value):
            continue
        elif type(value) in EMPTY and not value:
            fields[key] = type(value)()
        else:
            fields[key] = copy.deepcopy(value, memo)
