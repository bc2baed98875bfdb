"""Build the network a plan describes. The only file that slices weights; it decides nothing and changes nothing."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from core.errors import PlanError, PruneError
from core.records import Plan, Trace
from core.trace.graph import named_state, shape_only

TOLERANCE = 1e-4  # relative difference allowed between pruned and masked outputs


def check_plan(trace: Trace, plan: Plan) -> None:
    """Raises PlanError unless every group of ``plan`` exists, may be pruned and has the units it names."""
    for group_id, kept in plan.kept.items():
        group = trace.group(group_id)
        if kept[-1] >= group.units:
            raise PlanError(f"Group {group_id} has {group.units} units; the plan names unit {kept[-1]}.")
        if not group.prunable and len(kept) < group.units:
            raise PlanError(f"Group {group_id} cannot be pruned: {group.reason}. Leave it out of the plan.")


def kept_positions(trace: Trace, plan: Plan, roles: tuple[str, ...] | None = None) -> dict[tuple[str, int], Tensor]:
    """(state name, dimension) -> bool mask of the positions that stay, for every dimension that loses some."""
    masks: dict[tuple[str, int], Tensor] = {}
    for group_id, kept in plan.kept.items():
        group = trace.group(group_id)
        if len(kept) == group.units:
            continue
        stays = torch.zeros(group.units + 1, dtype=torch.bool)
        stays[list(kept)] = True
        stays[-1] = True  # index -1: a position of another group
        for member in group.members:
            if roles is None or member.role in roles:
                key = (member.tensor, member.dim)
                mask = stays[member.unit_of]
                masks[key] = masks[key] & mask if key in masks else mask
    return masks


def prune_model(module: nn.Module, trace: Trace, plan: Plan, *, verify: bool = True) -> nn.Module:
    """A new, physically smaller network: the same classes with sliced parameters and updated attributes.

    ``module`` is the traced network or one with equal shapes; it is left unchanged. With ``verify`` the result is run
    once and must equal the masked network within 1e-4 relative.
    Raises PlanError for a plan that does not fit, PruneError when the result is not exact (then nothing is returned).
    """
    check_plan(trace, plan)
    masks = kept_positions(trace, plan)
    pruned = _copy_with(module, lambda name, tensor: _sliced(name, tensor, masks))
    _update_attributes(pruned, masks, trace)
    if verify and masks:
        _verify(pruned, module, trace, plan)
    return pruned


def mask_model(module: nn.Module, trace: Trace, plan: Plan) -> nn.Module:
    """A new network of the old size that computes the same function as the pruned one.

    What leaves is hidden from its readers: their weights for it are zero. The producers are untouched, because a
    batch norm behind a silenced producer would add its shift again.
    """
    check_plan(trace, plan)
    masks = kept_positions(trace, plan, roles=("consumer",))
    return _copy_with(module, lambda name, tensor: masked_weight(name, tensor, masks))


def masked_weight(name: str, tensor: Tensor, masks: Mapping[tuple[str, int], Tensor]) -> Tensor:
    """``tensor`` with zeros at the positions that leave; the tensor itself when none do."""
    for (owner, dim), mask in masks.items():
        if owner == name:
            shape = [1] * tensor.dim()
            shape[dim] = -1
            tensor = tensor * mask.reshape(shape).to(tensor)
    return tensor


def _sliced(name: str, tensor: Tensor, masks: Mapping[tuple[str, int], Tensor]) -> Tensor:
    layout = torch.channels_last if tensor.dim() == 4 and not tensor.is_contiguous() else torch.contiguous_format
    for dim in range(tensor.dim()):
        mask = masks.get((name, dim))
        if mask is not None:
            if not mask.any():
                raise PruneError(f"The plan leaves nothing of {name}: keep at least one channel there.")
            tensor = tensor.index_select(dim, mask.nonzero().flatten().to(tensor.device))
            tensor = tensor.contiguous(memory_format=layout)
    return tensor


def _copy_with(module: nn.Module, change: Any) -> nn.Module:
    """A deep copy in which every parameter and buffer is replaced by ``change(name, tensor)``; sharing is kept."""
    memo: dict[int, Any] = {}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            changed = change(name, parameter.detach())
            fresh = changed.clone(memory_format=torch.preserve_format) if changed is not parameter else changed
            memo[id(parameter)] = nn.Parameter(fresh, requires_grad=parameter.requires_grad)
        for name, buffer in module.named_buffers():
            memo[id(buffer)] = change(name, buffer.detach()).clone()
    return copy.deepcopy(module, memo)


def _update_attributes(module: nn.Module, masks: Mapping[tuple[str, int], Tensor], trace: Trace) -> None:
    """Attributes that repeat a weight's size must tell the new one."""
    state = named_state(module)
    sliced = {id(state[name]) for name, _ in masks}
    for layer in module.modules():
        own = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
        if any(id(tensor) in sliced for tensor in own):  # by identity: two layers may hold one weight
            _update_layer(layer)
    if masks:
        _update_bare_norms(module, trace.example)


def _update_bare_norms(module: nn.Module, example: Tensor) -> None:
    """Instance norms without weights only know their width by what reaches them."""
    bare = {
        path: layer
        for path, layer in module.named_modules()
        if isinstance(layer, nn.modules.instancenorm._InstanceNorm) and layer.weight is None
    }
    if not bare:
        return
    trial = shape_only(module).eval()  # thrown away, so what is changed in it need not be undone

    def noting(path: str, layer: Any) -> Any:
        def forward(x: Tensor) -> Tensor:
            bare[path].num_features = x.shape[-layer._get_no_batch_dim()]
            return torch.empty_like(x)

        return forward

    for path in bare:
        layer: Any = trial.get_submodule(path)
        layer.forward = noting(path, layer)
    with contextlib.suppress(RuntimeError, NotImplementedError):  # then the old width stays: it is only ever reported
        trial(example.to("meta"))


def _update_layer(layer: nn.Module) -> None:
    weight: Any = getattr(layer, "weight", None)
    if isinstance(layer, nn.modules.conv._ConvNd):
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
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = weight.shape
    elif isinstance(layer, nn.modules.batchnorm._NormBase):
        size = next((t.shape[0] for t in (weight, layer.running_mean) if t is not None), layer.num_features)
        layer.num_features = size
    elif isinstance(layer, nn.GroupNorm) and weight is not None:
        layer.num_groups = layer.num_groups * weight.shape[0] // layer.num_channels
        layer.num_channels = weight.shape[0]
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = weight.shape[0]


def _verify(pruned: nn.Module, module: nn.Module, trace: Trace, plan: Plan) -> None:
    """The first law, checked on one input. A mismatch is traced to the group that causes it."""
    error = _difference(pruned, module, trace, plan)
    if error is None or error > TOLERANCE:
        for group_id, kept in plan.kept.items():
            alone = Plan({group_id: kept})
            try:
                single = _difference(prune_model(module, trace, alone, verify=False), module, trace, alone)
            except PruneError:
                single = None
            if single is None or single > TOLERANCE:
                what = "does not run" if single is None else f"differs from the masked network by {single:.1e}"
                raise PruneError(
                    f"Group {group_id}: pruned alone, the network {what}. Nothing was pruned; lock this group."
                )
        what = "does not run" if error is None else f"differs from the masked one by {error:.1e} (relative)"
        raise PruneError(f"The pruned network {what}, though each group alone is exact. Nothing was pruned.")


def _difference(pruned: nn.Module, module: nn.Module, trace: Trace, plan: Plan) -> float | None:
    """Largest relative difference of the outputs, None when the pruned network does not run."""
    reference = next((tensor for tensor in module.parameters()), trace.example)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(trace.example.shape, generator=generator).to(reference)
    masked = mask_model(module, trace, plan)
    try:
        return max_relative_error(_run(pruned, image), _run(masked, image))
    except (RuntimeError, ValueError, IndexError):
        return None


def _run(module: nn.Module, image: Tensor) -> list[Tensor]:
    modes = {layer: layer.training for layer in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            return [leaf for leaf in tree_flatten(module(image))[0] if isinstance(leaf, Tensor)]
    finally:
        for layer, training in modes.items():
            layer.training = training


def max_relative_error(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest |found - expected| over the largest |expected|, over all tensors."""
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        if a.shape != b.shape:
            return float("inf")
        scale = float(b.abs().max()) or 1.0
        difference = float((a - b).abs().max()) / scale
        worst = max(worst, difference if difference == difference else float("inf"))
    return worst
