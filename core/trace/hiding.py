"""Hide channels from their readers: zeros where their weights would read them. This equals removing them.

A mask belongs there and nowhere else: a batch norm behind a silenced producer would add its shift again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from core.records import Group, Trace
from core.trace.labels import Key


def masked(tensor: Tensor, masks: Mapping[int, Tensor]) -> Tensor:
    """``tensor`` with zeros where ``masks`` (dimension -> bool per position) say False."""
    for dim, mask in masks.items():
        shape = [1] * tensor.dim()
        shape[dim] = -1
        tensor = tensor * mask.reshape(shape).to(tensor)
    return tensor


def hidden_state(
    masks: Mapping[Key, Tensor], state: Mapping[str, Tensor], norms: Iterable[tuple[str, str]] = ()
) -> dict[str, Tensor]:
    """The state entries that change when their consumers hide what ``masks`` drop, by name.

    norms: weights that are stored as (direction, length); a shorter direction needs a shorter length.
    """
    by_name: dict[str, dict[int, Tensor]] = {}
    for (name, dim), mask in masks.items():
        by_name.setdefault(name, {})[dim] = mask
    for direction, length in norms:
        for dim in [dim for dim in by_name.get(direction, ()) if state[length].shape[dim] > 1]:
            # One length for every input: a length of zero hides it; a direction of zero would be divided by zero.
            by_name.setdefault(length, {})[dim] = by_name[direction].pop(dim)
    edits = {name: masked(state[name], dims) for name, dims in by_name.items() if dims}
    for direction, length in norms:
        if direction in edits:
            edits[length] = shortened(state[direction], edits[direction], edits.get(length, state[length]))
    return edits


def shortened(before: Tensor, after: Tensor, length: Tensor) -> Tensor:
    """The length that gives what is left of a direction the values it had: length x |after| / |before|."""
    axes = [axis for axis, size in enumerate(length.shape) if size == 1]
    old, new = (torch.linalg.vector_norm(tensor, dim=axes, keepdim=True) for tensor in (before, after))
    return length * torch.where(old > 0, new / old, torch.ones_like(old))


def hidden_weights(trace: Trace, group: Group, kept: Sequence[int], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The consumers' weights with zeros where they would read a unit of ``group`` that is not ``kept``, by name."""
    stays = torch.zeros(group.units + 1, dtype=torch.bool)
    stays[list(kept)] = True
    stays[-1] = True  # index -1: a channel of another group
    masks = {(member.tensor, member.dim): stays[member.unit_of] for member in group.by_role("consumer")}
    return hidden_state(masks, state, trace.norms)
