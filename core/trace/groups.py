"""From labels to groups: the units that are born in the same layers, with every place they reach."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from core.records import Group, Member
from core.trace.labels import Key, LabelBook
from core.trace.layout import Layout, LayoutBuilder

PARAMETRISED = ".parametrizations."


def layer_of(tensor_name: str) -> str:
    """ "layer1.0.conv1.weight" -> "layer1.0.conv1"; a parameter of the model itself is its own layer."""
    layer = tensor_name.rpartition(".")[0]
    if PARAMETRISED in f".{layer}":
        layer = f".{layer}".partition(PARAMETRISED)[0].lstrip(".")
    return layer or tensor_name


@dataclass
class Family:
    """Units born in the same places, locked for the same reason."""

    born: tuple[int, ...]
    units: np.ndarray  # of the label book, in the order of their first position
    reason: str | None
    mixing: bool
    members: list[Member] = field(default_factory=list)


def group_channels(book: LabelBook, called: frozenset[str], *, mixing: bool) -> tuple[tuple[Group, ...], Layout]:
    """The groups of a labelled network in network order, then its gathers; and where their units live.

    called: the layers that run as modules of their own. mixing: let groups leave whose normalisation mixes channels.
    """
    unit_of = book.resolve()
    builder = LayoutBuilder()
    for key, labels in book.weights.items():
        builder.add(key, labels)
    places = list(book.weights)
    units_at = _looked_up(unit_of, builder.labels)
    families = _families(book, unit_of, places, [units_at[builder.vector_of[key]] for key in places], mixing)
    number_of = np.full(len(unit_of) + 1, -1)  # unit of the book -> family
    local_of = np.full(len(unit_of) + 1, -1)  # unit of the book -> its index in the family
    first, total = [], 0
    for number, family in enumerate(families):
        number_of[family.units] = number
        local_of[family.units] = np.arange(len(family.units))
        first.append(total)
        total += len(family.units)
    held = _place_members(families, book, places, builder, units_at, number_of, local_of)
    groups = _named(families, places)
    starts = np.asarray([*first, total])
    global_of = np.where(number_of >= 0, starts[number_of] + local_of, total)  # -1 picks the last start: ``total``
    vectors = tuple(_looked_up(global_of, units_at))
    by_label = global_of[unit_of]
    by_label[0] = total  # label 0: no channel lives there
    offsets = {group.id: start for group, start in zip(groups, first, strict=True)}
    alone = [
        key for key in places
        if book.roles.get(key) == "consumer" and key[0].endswith(".weight") and layer_of(key[0]) in called
        and key[0] not in book.computed
    ]  # fmt: skip
    gathers = _gathers(groups, held, first, book, alone, builder, vectors, total)
    layout = Layout(total, offsets, by_label, vectors, builder.vector_of, gathers, frozenset(alone))
    return (*groups, *gathers.values()), layout


def _looked_up(table: np.ndarray, vectors: Sequence[np.ndarray]) -> list[np.ndarray]:
    """``table`` at every vector, in one go."""
    if not vectors:
        return []
    return np.split(table[np.concatenate(vectors)], np.cumsum([len(vector) for vector in vectors[:-1]]))


def _families(
    book: LabelBook, unit_of: np.ndarray, places: list[Key], units_at: list[np.ndarray], mixing: bool
) -> list[Family]:
    texts, locked, mixed = book.reasons(unit_of)
    signature = np.zeros(len(unit_of), dtype=np.int64)  # unit -> number of the set of places where it is born
    sets: list[tuple[int, ...]] = [()]
    known: dict[tuple[int, int], int] = {}
    first_met: list[np.ndarray] = []  # units in network order
    for index, key in enumerate(places):
        if book.roles.get(key) != "producer" or key[0].endswith("bias"):
            continue
        units, positions = _different(units_at[index])
        before = signature[units]
        if not before.any() and positions is None:  # as nearly always: made here first, in order
            first_met.append(units)
            known[0, index] = len(sets)
            signature[units] = len(sets)
            sets.append((index,))
            continue
        new = before == 0
        if new.any():
            first_met.append(units[new] if positions is None else units[new][np.argsort(positions[new])])
        for old in np.flatnonzero(np.bincount(before)).tolist():
            if (old, index) not in known:
                known[old, index] = len(sets)
                sets.append((*sets[old], index))
            signature[units[before == old]] = known[old, index]
    if not first_met:
        return []
    reason = locked if mixing else np.where(locked >= 0, locked, mixed)
    born = np.concatenate(first_met)
    kinds = (signature[born] * (len(texts) + 1) + reason[born] + 1) * 2 + (mixed[born] >= 0)
    order = np.argsort(kinds, kind="stable")  # alike side by side, each in network order
    starts = np.flatnonzero(np.diff(kinds[order], prepend=-1))
    ends = [*starts[1:].tolist(), len(order)]
    families = []
    for start, end in sorted(zip(starts.tolist(), ends, strict=True), key=lambda run: int(order[run[0]])):
        kind, mixes = divmod(int(kinds[order[start]]), 2)
        number, why = divmod(kind, len(texts) + 1)
        text = texts[why - 1] if why else None
        families.append(Family(sets[number], born[order[start:end]], text, bool(mixes)))
    return families


def _different(units: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The different units in ascending order, and where each stands first; None when that is where it stands."""
    if len(units) < 2 or (units[1:] > units[:-1]).all():
        return units, None
    return np.unique(units, return_index=True)


def _place_members(
    families: Sequence[Family],
    book: LabelBook,
    places: list[Key],
    builder: LayoutBuilder,
    units_at: list[np.ndarray],
    number_of: np.ndarray,
    local_of: np.ndarray,
) -> dict[int, list[int]]:
    """Give every family its members, in network order. Dimensions with the same labels share their index tensors.

    Returns the families that each vector holds units of.
    """
    order = {name: index for index, name in enumerate(dict.fromkeys([name for name, _ in places]))}
    layers = {name: layer_of(name) for name in order}
    cached: dict[int, list[tuple[int, torch.Tensor]]] = {}
    for key in sorted(places, key=lambda key: (order[key[0]], key[1])):
        vector = builder.vector_of[key]
        if vector not in cached:
            units = units_at[vector]
            here = number_of[units]
            present = np.flatnonzero(np.bincount(here + 1, minlength=1)[1:]).tolist()
            local = local_of[units]
            cached[vector] = [
                (number, torch.from_numpy(local if len(present) == 1 and (here >= 0).all()
                                          else np.where(here == number, local, -1)))
                for number in present
            ]  # fmt: skip
        role, layer = book.roles.get(key, "follower"), layers[key[0]]
        for number, unit_index in cached[vector]:
            families[number].members.append(Member(layer, key[0], key[1], role, unit_index))
    return {vector: [number for number, _ in found] for vector, found in cached.items()}


def _named(families: Sequence[Family], places: list[Key]) -> tuple[Group, ...]:
    taken: dict[str, int] = {}
    result = []
    for family in families:
        layers = tuple(dict.fromkeys(layer_of(places[index][0]) for index in family.born))
        count = taken[layers[0]] = taken.get(layers[0], 0) + 1
        group_id = layers[0] if count == 1 else f"{layers[0]}#{count}"
        reason = family.reason
        if reason is None and len(family.units) < 2:
            reason = "its channels can only leave all together"
        name = group_id if len(layers) == 1 else f"{group_id} + {len(layers) - 1} more"
        members = tuple(family.members)
        result.append(
            Group(
                group_id,
                name,
                layers,
                len(family.units),
                reason is None,
                reason,
                members,
                None,
                family.mixing and reason is None,
            )
        )
    return tuple(result)


def _gathers(
    groups: tuple[Group, ...],
    held: Mapping[int, list[int]],
    starts: list[int],
    book: LabelBook,
    alone: list[Key],
    builder: LayoutBuilder,
    vectors: tuple[np.ndarray, ...],
    total: int,
) -> dict[Key, Group]:
    """One group for every layer that reads channels which others read too, or which may not leave: its own choice.

    held: vector -> numbers of the groups it holds units of. starts: group -> its first unit.
    """
    readers: dict[int, set[str]] = defaultdict(set)
    for key, vector in builder.vector_of.items():
        if book.roles.get(key) == "consumer":
            for number in held[vector]:
                readers[number].add(key[0])
    ranked: dict[int, tuple[torch.Tensor, int]] = {}
    gathers: dict[Key, Group] = {}
    for key in alone:
        vector = builder.vector_of[key]
        if all(len(readers[number]) == 1 and groups[number].prunable for number in held[vector]):
            continue
        if vector not in ranked:
            ranked[vector] = _ranked(vectors[vector], total)
        unit_of, units = ranked[vector]
        if units < 2:
            continue
        layer = layer_of(key[0])
        member = Member(layer, key[0], key[1], "consumer", unit_of)
        one = int(vectors[vector][vectors[vector] < total][0])
        selected = groups[bisect_right(starts, one) - 1].id
        name = f"inputs of {layer} alone"
        gathers[key] = Group(f"gather:{layer}", name, (layer,), units, True, None, (member,), selected)
    return gathers


def _ranked(vector: np.ndarray, total: int) -> tuple[torch.Tensor, int]:
    """Position -> which of the different units on it, in the order in which they are read (-1: none); how many."""
    units, firsts = _different(vector)
    if firsts is None and vector[-1] < total:
        return torch.arange(len(vector)), len(vector)
    firsts = np.arange(len(units)) if firsts is None else firsts
    order = vector[np.sort(firsts[units < total])]
    rank = np.full(total + 1, -1)
    rank[order] = np.arange(len(order))
    return torch.from_numpy(rank[vector]), len(order)
