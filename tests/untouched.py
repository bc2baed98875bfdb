"""Everything a caller could notice about a module that was only lent: for tests that nothing was changed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.zoo import ZooNet


def state_of(module: nn.Module) -> dict[str, object]:
    """Everything a caller could notice."""
    return {
        "values": {name: tensor.clone() for name, tensor in module.state_dict().items()},
        "same tensors": [id(tensor) for tensor in [*module.parameters(), *module.buffers()]],
        "wants gradients": [parameter.requires_grad for parameter in module.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        "modes": [layer.training for layer in module.modules()],
        "hooks": [
            len(layer._forward_hooks) + len(layer._forward_pre_hooks) + len(layer._backward_hooks)
            for layer in module.modules()
        ],
        "attributes": [
            {name: value for name, value in vars(layer).items() if isinstance(value, int | str | tuple)}
            for layer in module.modules()
        ],
    }


def same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def awkward(net: ZooNet) -> nn.Module:
    """In train mode but for one layer, one parameter frozen, gradients already there."""
    module = net.build().train()
    next(module.children(), module).eval()
    first = next(module.parameters())
    first.requires_grad_(False)
    for parameter in list(module.parameters())[1:]:
        parameter.grad = torch.full_like(parameter, 0.5)
    return module
