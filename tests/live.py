"""What a network can do, tried on it: the same trials for a network as it came and for what was cut from it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from core.apply.surgery import max_relative_error
from tests.zoo import outputs

Trial = Callable[[nn.Module, Tensor], None]


def deep_copy(module: nn.Module, batch: Tensor) -> None:
    """A copy computes the same and shares nothing."""
    copied = copy.deepcopy(module)
    assert type(copied) is type(module)
    assert all(torch.equal(a, b) for a, b in zip(outputs(copied, batch), outputs(module, batch), strict=True))
    mine = {tensor.data_ptr() for tensor in [*module.parameters(), *module.buffers()] if tensor.numel()}
    assert all(tensor.data_ptr() not in mine for tensor in [*copied.parameters(), *copied.buffers()] if tensor.numel())


def double(module: nn.Module, batch: Tensor) -> None:
    """In double precision: the same answers, to single precision."""
    wide = outputs(copy.deepcopy(module).double(), batch.double())
    assert all(answer.dtype == torch.float64 for answer in wide)
    assert max_relative_error([answer.float() for answer in wide], outputs(module, batch)) < 1e-4


def half_and_back(module: nn.Module, batch: Tensor) -> None:
    """Through half precision: every weight rounded, nothing lost besides."""
    there_and_back = copy.deepcopy(module).half().float()
    reference = copy.deepcopy(module)
    with torch.no_grad():
        for tensor in [*reference.parameters(), *reference.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(tensor.half().float())
    assert max_relative_error(outputs(there_and_back, batch), outputs(reference, batch)) < 1e-5


def meta(module: nn.Module, batch: Tensor) -> None:
    """On the shape-only device: every tensor moves along, and the shapes are right."""
    moved = copy.deepcopy(module).to("meta")
    assert all(tensor.is_meta for tensor in [*moved.parameters(), *moved.buffers()])
    found, expected = outputs(moved, batch.to("meta")), outputs(module, batch)
    assert [answer.shape for answer in found] == [answer.shape for answer in expected]


def script(module: nn.Module, batch: Tensor) -> None:
    """torch.jit.script."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls its scripts old-fashioned
        scripted = torch.jit.script(copy.deepcopy(module))
    assert max_relative_error(outputs(scripted, batch), outputs(module, batch)) < 1e-5


def export(module: nn.Module, batch: Tensor) -> None:
    """torch.export."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(copy.deepcopy(module), (batch,)).module()
    assert max_relative_error(outputs(program, batch), outputs(module, batch)) < 1e-5


CHEAP: dict[str, Trial] = {trial.__name__: trial for trial in (deep_copy, double, half_and_back, meta, script)}


def as_the_original(trial: Trial, pruned: nn.Module, original: nn.Module, batch: Tensor) -> None:
    """What the original can do, the pruned network can. The original is tried only where the pruned one fails."""
    try:
        outputs(pruned, batch)  # weights that a hook computes can be copied once they carry no gradient
        trial(pruned, batch)
    except Exception as failure:
        try:
            outputs(original, batch)
            trial(original, batch)
        except Exception:
            return
        raise AssertionError(f"{trial.__name__}: works for the original, not for the pruned network") from failure


def gradients(module: nn.Module, batch: Tensor) -> dict[str, bool]:
    """Parameter name -> whether training reaches it. The module is left in train mode with its gradients."""
    module.train()
    answers = [leaf for leaf in tree_leaves(module(batch)) if isinstance(leaf, Tensor)]
    torch.stack([answer.square().mean() for answer in answers]).sum().backward()
    return {name: parameter.grad is not None for name, parameter in module.named_parameters()}


def told_sizes(module: nn.Module) -> list[str]:
    """Attributes of layers that contradict their weights. Empty when all are up to date."""
    wrong = []
    for path, layer in module.named_modules():
        for attribute, size in _sizes(layer).items():
            if getattr(layer, attribute) != size:
                wrong.append(f"{path}.{attribute} = {getattr(layer, attribute)}, its weight says {size}")
    return wrong


def _sizes(layer: nn.Module) -> dict[str, object]:
    weight = getattr(layer, "weight", None)
    if isinstance(layer, nn.MultiheadAttention):
        return {"num_heads": layer.out_proj.weight.shape[1] // layer.head_dim}
    if not isinstance(weight, Tensor):
        return {}
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return {"in_channels": weight.shape[0], "out_channels": weight.shape[1] * layer.groups}
    if isinstance(layer, nn.modules.conv._ConvNd):
        return {"out_channels": weight.shape[0], "in_channels": weight.shape[1] * layer.groups}
    if isinstance(layer, nn.Linear):
        return {"out_features": weight.shape[0], "in_features": weight.shape[1]}
    if isinstance(layer, nn.modules.batchnorm._NormBase):
        return {"num_features": weight.shape[0]}
    if isinstance(layer, nn.GroupNorm):
        return {"num_channels": weight.shape[0]}
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        return {"normalized_shape": tuple(weight.shape)}
    return {"num_parameters": weight.shape[0]} if isinstance(layer, nn.PReLU) else {}
