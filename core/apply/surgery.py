"""Build the network a plan describes. The only file that slices weights; it decides nothing and changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from core.errors import PlanError, PruneError
from core.records import Plan, Trace
from core.trace.copies import Census, copy_of, shell_with, take_census
from core.trace.graph import plain_attention
from core.trace.hiding import hidden_state, shortened
from core.trace.labels import Key
from core.trace.layers.attributes import follow_sizes
from core.trace.layers.gather import index_of, pick_inputs
from core.trace.modes import collecting_later
from core.trace.written import set_written, written_values

TOLERANCE = 1e-4  # relative difference allowed between pruned and masked outputs
SMALL = (16, 32, 96)  # pixels a side of the images that the check tries first: channels do not depend on the size
OVER_SPACE = frozenset({"native_group_norm", "_softmax", "var", "std"})  # say nothing on maps of a pixel
HALF = frozenset({torch.float16, torch.bfloat16})
LARGE, AT_ONCE = 1 << 14, 1 << 20  # numbers: a weight beyond the first is sliced at most so many at a time
ITS_OWN_ERRORS = (RuntimeError, ValueError, IndexError, AssertionError)  # of a network that cannot run

Masks = dict[Key, Tensor]


def check_plan(trace: Trace, plan: Plan) -> None:
    """Raises PlanError unless every group of ``plan`` exists, may be pruned and has the units it names."""
    for group_id, kept in plan.kept.items():
        group = trace.group(group_id)
        if kept[-1] >= group.units:
            raise PlanError(f"Group {group_id} has {group.units} units; the plan names unit {kept[-1]}.")
        if not group.prunable and len(kept) < group.units:
            raise PlanError(f"Group {group_id} cannot be pruned: {group.reason}. Leave it out of the plan.")


def kept_positions(trace: Trace, plan: Plan, roles: tuple[str, ...] | None = None) -> Masks:
    """(state name, dimension) -> bool mask of the positions that stay, for every dimension that loses some.

    roles: only dimensions of members with these roles.
    """
    layout, known = trace.layout, trace.flow.book.roles
    stays = layout.stays(plan, trace.by_id)
    lost: dict[int, Tensor | None] = {}
    masks: Masks = {}
    for key, vector in layout.vector_of.items():
        if vector not in lost:
            mask = stays[layout.vectors[vector]]
            lost[vector] = None if mask.all() else torch.from_numpy(mask)
        mask_here = lost[vector]
        if mask_here is not None and (roles is None or known.get(key, "follower") in roles):
            masks[key] = mask_here
    if roles is None or "consumer" in roles:
        masks.update({key: torch.from_numpy(reads) for key, reads in layout.gathered(plan, stays).items()})
    return masks


def prune_model(module: nn.Module, trace: Trace, plan: Plan, *, verify: bool = True) -> nn.Module:
    """A new, physically smaller network: the same classes with sliced parameters and updated attributes.

    ``module`` is the traced network or one with equal shapes; it is left unchanged. Layers that lost attention heads
    or gather their inputs become subclasses of their class; names in the state dict stay. With ``verify`` the result is
    run once (on a smaller image where the network takes one) and must equal the masked network within 1e-4 relative;
    where a plan narrows a normalisation that mixes channels it must only run.
    Raises PlanError for a plan that does not fit, PruneError when the result is not exact (then nothing is returned).
    """
    check_plan(trace, plan)
    with collecting_later():
        return _prune(module, trace, plan, verify)


def _prune(module: nn.Module, trace: Trace, plan: Plan, verify: bool) -> nn.Module:
    masks = kept_positions(trace, plan)
    census = take_census(module)
    sliced = _sliced_state(census.state, masks, trace)
    pruned = copy_of(census, lambda name, tensor: sliced[name] if name in sliced else _like(tensor))
    follow_sizes(pruned, census, {name for name, _ in masks}, trace.example)
    stays = trace.layout.stays(plan, trace.by_id)
    if trace.written:
        set_written(pruned.module, written_values(trace.written, trace.flow, trace.layout, stays))
    _place_gathers(pruned.module, trace, plan, stays)
    if verify and masks:
        _verify(pruned, census, trace, plan, masks)
    return pruned.module


def mask_model(module: nn.Module, trace: Trace, plan: Plan) -> nn.Module:
    """A new network of the old size that computes the same function as the pruned one.

    What leaves is hidden from its readers: their weights for it are zero. The producers are untouched, because a
    batch norm behind a silenced producer would add its shift again.
    """
    check_plan(trace, plan)
    census = take_census(module)
    state = {name: tensor.detach() for name, tensor in census.state.items()}
    edits = hidden_state(kept_positions(trace, plan, roles=("consumer",)), state, trace.norms)
    return copy_of(census, lambda name, tensor: edits[name] if name in edits else _like(tensor)).module


def _like(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.preserve_format)


def _sliced_state(state: Mapping[str, Tensor], masks: Masks, trace: Trace) -> dict[str, Tensor]:
    """The state entries that get smaller, by name."""
    by_name: dict[str, dict[int, Tensor]] = {}
    for (name, dim), mask in masks.items():
        by_name.setdefault(name, {})[dim] = mask
    places = {identity: mask.nonzero().flatten() for identity, mask in {id(m): m for m in masks.values()}.items()}
    rooms: dict[Any, Tensor] = {}
    sliced = {name: _sliced(name, state[name].detach(), dims, places, rooms) for name, dims in by_name.items()}
    for direction, length in trace.norms:
        if direction in sliced:
            before = state[direction].detach()
            for dim, mask in by_name[direction].items():
                if state[length].shape[dim] > 1:  # the outputs; what was read stays whole, to compare with
                    before = _sliced(direction, before, {dim: mask}, places, rooms)
            sliced[length] = shortened(before, sliced[direction], sliced.get(length, state[length].detach()))
    return sliced


def _sliced(
    name: str, tensor: Tensor, masks: Mapping[int, Tensor], places: Mapping[int, Tensor], rooms: dict[Any, Tensor]
) -> Tensor:
    """``tensor`` at the positions that stay. places: id of a mask -> its positions. rooms: as in ``_row_by_row``."""
    layout = torch.channels_last if tensor.dim() == 4 and not tensor.is_contiguous() else torch.contiguous_format
    wanted = {dim: places[id(mask)].to(tensor.device) for dim, mask in sorted(masks.items())}
    if not all([here.numel() for here in wanted.values()]):
        raise PruneError(f"The plan leaves nothing of {name}: keep at least one channel there.")
    if len(wanted) == 2 and 0 in wanted and tensor.numel() > LARGE and tensor.is_contiguous():
        rows, columns = wanted.items()
        return _row_by_row(tensor, rows, columns, rooms)
    for dim, here in wanted.items():
        tensor = tensor.index_select(dim, here)
    return tensor.contiguous(memory_format=layout)


def _row_by_row(
    tensor: Tensor, rows: tuple[int, Tensor], columns: tuple[int, Tensor], rooms: dict[Any, Tensor]
) -> Tensor:
    """Two selections, some rows at a time. What lies between the two is never large, and is kept in the same place for
    all weights: new memory costs more than the copying."""
    (_, wanted), (dim, others) = rows, columns
    sizes = list(tensor.shape)
    row = math.prod(sizes[1:])
    step = min(wanted.numel(), max(1, AT_ONCE // row))
    kind = (tensor.dtype, tensor.device)
    if kind not in rooms or rooms[kind].numel() < step * row:
        rooms[kind] = tensor.new_empty(max(step * row, AT_ONCE))
    between = rooms[kind][: step * row].view(step, *sizes[1:])
    if step == wanted.numel():
        torch.index_select(tensor, 0, wanted, out=between)
        return between.index_select(dim, others)
    sizes[0], sizes[dim] = wanted.numel(), others.numel()
    result = tensor.new_empty(sizes)
    for start in range(0, sizes[0], step):
        here = wanted[start : start + step]
        some = between[: here.numel()]
        torch.index_select(tensor, 0, here, out=some)
        torch.index_select(some, dim, others, out=result[start : start + step])
    return result


def _place_gathers(pruned: nn.Module, trace: Trace, plan: Plan, stays: np.ndarray) -> None:
    layout = trace.layout
    for key, reads in layout.gathered(plan, stays).items():
        given = stays[layout.vectors[layout.vector_of[key]]]
        path = layout.gathers[key].layers[0]
        pick_inputs(pruned.get_submodule(path), index_of(reads, given))
        around: Any = pruned.get_submodule(path.rpartition(".")[0])
        if isinstance(around, nn.TransformerEncoderLayer):
            around.activation_relu_or_gelu = 0  # its fused path would read the weights and pass the layer by


def _verify(pruned: Census, dense: Census, trace: Trace, plan: Plan, masks: Masks) -> None:
    """The first law, checked on one input. A mismatch is traced to the group that causes it."""
    error = _difference(pruned, dense, trace, plan, masks)
    if error is None or error > TOLERANCE:
        for group_id, kept in plan.kept.items():
            alone = Plan({group_id: kept})
            try:
                smaller = take_census(_prune(dense.module, trace, alone, False))
                single = _difference(smaller, dense, trace, alone, kept_positions(trace, alone))
            except PruneError:
                single = None
            if single is None or single > TOLERANCE:
                what = "does not run" if single is None else f"differs from the masked network by {single:.1e}"
                raise PruneError(
                    f"Group {group_id}: pruned alone, the network {what}. Nothing was pruned; lock this group."
                )
        what = "does not run" if error is None else f"differs from the masked one by {error:.1e} (relative)"
        raise PruneError(f"The pruned network {what}, though each group alone is exact. Nothing was pruned.")


def _difference(pruned: Census, dense: Census, trace: Trace, plan: Plan, masks: Masks) -> float | None:
    """Largest relative difference of the outputs, None when the pruned network does not run.

    0 where only running counts: a narrower normalisation that mixes channels computes something else.
    """
    if not HALF.isdisjoint([tensor.dtype for tensor in dense.state.values()]):  # rounding would hide a mistake
        dense, pruned = (_in_type(network, torch.float32) for network in (dense, pruned))
    error = _error(pruned, dense, trace, plan, masks)
    if error is not None and error > TOLERANCE:  # wild weights blow up rounding; more digits tell it from a mistake
        error = _error(_in_type(pruned, torch.float64), _in_type(dense, torch.float64), trace, plan, masks)
    return error


def _error(pruned: Census, dense: Census, trace: Trace, plan: Plan, masks: Masks) -> float | None:
    masked = _masked_view(dense, trace, masks)
    mixing = any(len(kept) < trace.group(name).units and trace.group(name).mixing for name, kept in plan.kept.items())
    in_training = [layer for _, layer in pruned.layers if layer.training]
    if in_training:
        masked.eval()
        pruned.module.eval()
    try:
        for image in _images(trace, masked):
            try:
                expected = _run(masked, image)
            except ITS_OWN_ERRORS:
                continue  # this network does not take the smaller image
            try:
                found = _run(pruned.module, image)
            except ITS_OWN_ERRORS:
                return None
            return 0.0 if mixing else max_relative_error(found, expected)
    finally:
        for layer in in_training:
            layer.training = True
    return None


def _images(trace: Trace, module: nn.Module) -> Iterator[Tensor]:
    """Random images to check with: a smaller one first, because channels do not depend on the size of the image."""
    generator = torch.Generator().manual_seed(0)
    example = trace.example
    sides = list(example.shape[2:])
    smaller = [(*example.shape[:2], *[side] * len(sides)) for side in SMALL if sides and min(sides) > side]
    if smaller and not _fits(trace, SMALL[0] / min(sides)):
        del smaller[0]
    reference = next((tensor for tensor in module.parameters()), example)
    for size in (*smaller, tuple(example.shape)):
        yield torch.randn(size, generator=generator).to(reference)


def _fits(trace: Trace, scale: float) -> bool:
    """Whether every window still fits its map when the image shrinks by ``scale``, so that trying is worth while."""
    for step in trace.tape.steps:
        name = step.name
        if name in OVER_SPACE:
            return False
        if name == "convolution" or ("_pool" in name and "adaptive" not in name):
            window = trace.tape.shapes[step.reads[1]][2:] if name == "convolution" else step.args[1]
            around = step.args[4] if name == "convolution" else step.args[3] if len(step.args) > 3 else (0,)
            if max(window) > 2 * min(around) + max(1, math.ceil(min(trace.tape.shapes[step.reads[0]][2:]) * scale)):
                return False
    return True


def _masked_view(dense: Census, trace: Trace, masks: Masks) -> nn.Module:
    """``mask_model`` for one run: shares the weights, and hides from layers that run as modules what they are given.

    masks: as ``kept_positions`` gives them."""
    roles = trace.flow.book.roles
    runs = set(trace.tape.state.values())  # layers that only run in training are not looked at
    masks = {key: mask for key, mask in masks.items() if roles.get(key) == "consumer" and key[0] in runs}
    norms = {name for pair in trace.norms for name in pair}
    given = {
        name.rpartition(".")[0]: mask
        for (name, dim), mask in masks.items()
        if (name, dim) in trace.layout.reads_alone and name not in norms
    }
    rest = {key: mask for key, mask in masks.items() if key[0].rpartition(".")[0] not in given}
    state = dense.state
    edits = hidden_state(rest, {name: tensor.detach() for name, tensor in state.items()} if rest else {}, trace.norms)
    buffers = list(state.values())[dense.parameters :]
    own = {} if trace.tape.keeps_state else {id(buffer): buffer.clone() for buffer in buffers}
    view = shell_with(dense, {**own, **{id(state[name]): tensor for name, tensor in edits.items()}})
    for path, mask in given.items():
        layer = view.by_path[path]
        axis = -1 if isinstance(layer, nn.Linear) else 1
        layer.__dict__["forward"] = _hiding(layer.forward, mask, axis)
    return view.module


def _in_type(network: Census, dtype: torch.dtype) -> Census:
    """A copy that computes in ``dtype``."""
    return copy_of(network, lambda name, tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def _hiding(forward: Callable[..., Any], mask: Tensor, axis: int) -> Callable[..., Any]:
    def hidden(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        shape = [1] * x.dim()
        shape[axis] = -1
        return forward(x * mask.to(x).reshape(shape), *args, **kwargs)

    return hidden


def _run(module: nn.Module, image: Tensor) -> list[Tensor]:
    with torch.no_grad(), plain_attention():  # the fused path would pass layers by that hide their inputs
        return [leaf for leaf in tree_flatten(module(image))[0] if isinstance(leaf, Tensor)]


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
