"""From labels to groups: the units that are born in the same layers, with every place they reach."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
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
    units_at = [unit_of[labels] for labels in builder.labels]
    families = _families(book, unit_of, places, [units_at[builder.vector_of[key]] for key in places], mixing)
    number_of = np.full(len(unit_of) + 1, -1)  # unit of the book -> family
    local_of = np.full(len(unit_of) + 1, -1)  # unit of the book -> its index in the family
    first, total = [], 0
    for number, family in enumerate(families):
        number_of[family.units] = number
        local_of[family.units] = np.arange(len(family.units))
        first.append(total)
        total += len(family.units)
    _place_members(families, book, places, builder, units_at, number_of, local_of)
    groups = _named(families, places)
    starts = np.asarray([*first, total])
    global_of = np.where(number_of >= 0, starts[number_of] + local_of, total)  # -1 picks the last start: ``total``
    vectors = tuple(global_of[units] for units in units_at)
    by_label = global_of[unit_of]
    by_label[0] = total  # label 0: no channel lives there
    offsets = {group.id: start for group, start in zip(groups, first, strict=True)}
    alone = [
        key for key in places
        if book.roles.get(key) == "consumer" and key[0].endswith(".weight") and layer_of(key[0]) in called
        and key[0] not in book.computed
    ]  # fmt: skip
    gathers = _gathers(groups, first, book, alone, builder, vectors, total)
    layout = Layout(total, offsets, by_label, vectors, builder.vector_of, gathers, frozenset(alone))
    return (*groups, *gathers.values()), layout


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
        new = before == 0
        if new.any():
            first_met.append(units[new][np.argsort(positions[new], kind="stable")])
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


def _different(units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different units in ascending order, and where each stands first."""
    if len(units) < 2 or (units[1:] > units[:-1]).all():
        return units, np.arange(len(units))
    return np.unique(units, return_index=True)


def _place_members(
    families: Sequence[Family],
    book: LabelBook,
    places: list[Key],
    builder: LayoutBuilder,
    units_at: list[np.ndarray],
    number_of: np.ndarray,
    local_of: np.ndarray,
) -> None:
    """Give every family its members, in network order. Dimensions with the same labels share their index tensors."""
    order = {name: index for index, name in enumerate(dict.fromkeys(name for name, _ in places))}
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
        role = book.roles.get(key, "follower")
        for number, unit_index in cached[vector]:
            families[number].members.append(Member(layer_of(key[0]), key[0], key[1], role, unit_index))


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
    first: list[int],
    book: LabelBook,
    alone: list[Key],
    builder: LayoutBuilder,
    vectors: tuple[np.ndarray, ...],
    total: int,
) -> dict[Key, Group]:
    """One group for every layer that reads channels which others read too, or which may not leave: its own choice."""
    starts = np.asarray(first)
    readers: dict[int, set[str]] = defaultdict(set)
    sources: dict[int, list[int]] = {}  # vector -> the groups it holds channels of
    for key in builder.vector_of:
        if book.roles.get(key) == "consumer":
            number = builder.vector_of[key]
            if number not in sources:
                inside = vectors[number][vectors[number] < total]
                origin = np.searchsorted(starts, inside, side="right") - 1
                sources[number] = np.flatnonzero(np.bincount(origin, minlength=1)).tolist()
            for origin_number in sources[number]:
                readers[origin_number].add(key[0])
    gathers: dict[Key, Group] = {}
    for key in alone:
        vector = vectors[builder.vector_of[key]]
        origins = sources[builder.vector_of[key]]
        shared = any(len(readers[number]) > 1 or not groups[number].prunable for number in origins)
        if not shared:
            continue
        units, firsts = _different(vector)
        firsts = firsts[units < total]
        if len(firsts) < 2:
            continue
        order = vector[np.sort(firsts)]  # units in the order in which this layer reads them
        rank = np.full(total + 1, -1)
        rank[order] = np.arange(len(order))
        layer = layer_of(key[0])
        member = Member(layer, key[0], key[1], "consumer", torch.from_numpy(rank[vector]))
        selected = groups[int(np.searchsorted(starts, vector[vector < total][0], side="right")) - 1].id
        name = f"inputs of {layer} alone"
        gathers[key] = Group(f"gather:{layer}", name, (layer,), len(order), True, None, (member,), selected)
    return gathers
