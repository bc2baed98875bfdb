"""From labels to groups: the units that are born in the same layers, with every place they reach."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor, nn

from core.records import Group, Member, Trace
from core.trace.graph import record_tape
from core.trace.labels import LabelBook
from core.trace.rules import Flow

FIXED_WIDTH = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)


def trace_channels(module: nn.Module, example: Tensor) -> Trace:
    """Find which channels of ``module`` hang together.

    example: an input of the shape the network takes, batch first (only its shape matters). The module is run once on
    shape-only tensors and is not changed. Raises TraceError when it does not run.
    """
    tape = record_tape(module, example[:1])
    flow = Flow(tape)
    flow.run()
    _lock_fixed_modules(flow.book, module)
    return Trace(module, _groups(flow.book, module), dict(flow.unknown), tape, example[:1].detach())


def _lock_fixed_modules(book: LabelBook, module: nn.Module) -> None:
    """These modules use one width for everything they hold, so no part of it can leave alone."""
    for path, layer in module.named_modules():
        if isinstance(layer, FIXED_WIDTH):
            prefix = f"{path}." if path else ""
            for name, dim in list(book.weights):
                if name.startswith(prefix):
                    book.lock(book.weights[name, dim], f"{type(layer).__name__} has one fixed width")


def layer_of(tensor_name: str) -> str:
    """ "layer1.0.conv1.weight" -> "layer1.0.conv1"; a parameter of the model itself is its own layer."""
    return tensor_name.rpartition(".")[0] or tensor_name


def _groups(book: LabelBook, module: nn.Module) -> tuple[Group, ...]:
    unit_of, reasons = book.resolve()
    places = [key for key in book.weights]
    order = {name: index for index, name in enumerate(dict.fromkeys(name for name, _ in places))}
    units_at = [unit_of[book.weights[key].numpy()] for key in places]
    producers: dict[int, list[int]] = defaultdict(list)  # unit -> places where it is born
    first_position: dict[int, tuple[int, int]] = {}
    for index, key in enumerate(places):
        if book.roles.get(key) == "producer" and not key[0].endswith("bias"):
            for position, unit in enumerate(units_at[index].tolist()):
                if not producers[unit] or producers[unit][-1] != index:
                    producers[unit].append(index)
                first_position.setdefault(unit, (index, position))
    families: dict[tuple[tuple[int, ...], str | None], list[int]] = defaultdict(list)
    for unit, born in producers.items():
        if born:
            families[tuple(born), reasons.get(unit)].append(unit)
    ordered = sorted(families.items(), key=lambda item: min(first_position[unit] for unit in item[1]))
    home = np.full(len(unit_of) + 1, -1)  # unit -> family
    local = np.full(len(unit_of) + 1, -1)  # unit -> its index in the family
    for number, (_, units) in enumerate(ordered):
        units.sort(key=lambda unit: first_position[unit])
        home[units] = number
        local[units] = range(len(units))
    members: dict[int, list[Member]] = defaultdict(list)
    for index, (name, dim) in enumerate(places):
        families_here = home[units_at[index]]
        for number in np.unique(families_here[families_here >= 0]).tolist():
            index_map = np.where(families_here == number, local[units_at[index]], -1)
            role = book.roles.get((name, dim), "follower")
            members[number].append(Member(layer_of(name), name, dim, role, torch.from_numpy(index_map)))
    taken: set[str] = set()
    result = []
    for number, ((homes, reason), units) in enumerate(ordered):
        layers = tuple(dict.fromkeys(layer_of(places[index][0]) for index in homes))
        group_id = layers[0]
        while group_id in taken:
            stem, _, suffix = group_id.partition("#")
            group_id = f"{stem}#{int(suffix or 1) + 1}"
        taken.add(group_id)
        if reason is None and len(units) < 2:
            reason = "its channels can only leave all together"
        name = group_id if len(layers) == 1 else f"{group_id} + {len(layers) - 1} more"
        places_sorted = tuple(sorted(members[number], key=lambda member: (order[member.tensor], member.dim)))
        result.append(Group(group_id, name, layers, len(units), reason is None, reason, places_sorted))
    return tuple(result)
