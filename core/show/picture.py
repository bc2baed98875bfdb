"""A network as a picture, in plain data: layers in columns by depth, branches in lanes, wires between them.

Nothing is drawn here. The tape says whose output reaches whom; the coupled groups say which layers lose channels
together. Where two outputs meet without a layer (a residual sum, a concatenation) stands a join, so that a stage of n
blocks has n wires around it and not n². The place of everything is fixed once per network; ``picture_widths`` is the
small rest that a plan changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.measure.cost import count_cost
from core.records import Group, Plan, Trace
from core.show.inventory import layer_kind
from core.show.picture_flow import Flow, data_flow
from core.show.picture_layout import band_levels, column_of, lane_of, route_wires


@dataclass(frozen=True)
class PictureNode:
    """``kind``: "layer", "join", "input" or "output". ``name``: the layer, or the operator that joins.

    ``what``: the layer's kind in words. ``channels``: how many it makes, dense; ``parts``: (index of a group, channels
    of this layer in it), in channel order. ``reads``: input channels, 0 when it passes channels on one by one.
    ``gather``: it may read fewer channels alone. ``macs`` per image, dense.
    """

    kind: str
    name: str
    what: str
    column: int
    lane: int
    channels: int = 0
    parts: tuple[tuple[int, int], ...] = ()
    reads: int = 0
    macs: int = 0
    gather: bool = False


@dataclass(frozen=True)
class PictureGroup:
    """A coupled group. ``nodes``: indices of the layers that hold its channels, ``readers``: of those that read them.

    ``hue``: a running number for groups of several layers, -1 for a layer that goes alone. ``level``: the height of
    the band under its layers, so that no two bands overlap.
    """

    id: str
    number: int
    name: str
    units: int
    reason: str
    nodes: tuple[int, ...]
    readers: tuple[int, ...]
    hue: int = -1
    level: int = -1


@dataclass(frozen=True)
class Picture:
    """``wires``: (node, node, route); route >= 0 runs in that lane, -1, -2, ... in a track above all lanes.

    ``makes`` and ``takes``: for each node the place in the list of all groups' units of every channel it makes or
    reads (the last place: no unit, always kept); ``alone``: the same for its gather, in the gather's own units.
    """

    nodes: tuple[PictureNode, ...]
    wires: tuple[tuple[int, int, int], ...]
    groups: tuple[PictureGroup, ...]
    makes: tuple[NDArray[np.int64] | None, ...]
    takes: tuple[NDArray[np.int64] | None, ...]
    alone: Mapping[int, tuple[str, int, NDArray[np.int64]]]

    @property
    def layers(self) -> tuple[PictureNode, ...]:
        return tuple(node for node in self.nodes if node.kind == "layer")

    def to_json(self) -> dict[str, Any]:
        """Small plain values: lists in the order of the fields of PictureNode and PictureGroup."""
        nodes = [
            [one.kind, one.name, one.what, one.column, one.lane, one.channels, one.parts, one.reads, one.macs,
             int(one.gather)]
            for one in self.nodes
        ]  # fmt: skip
        groups = [
            [one.id, one.number, one.name, one.units, one.reason, one.nodes, one.readers, one.hue, one.level]
            for one in self.groups
        ]
        return {"nodes": nodes, "wires": [list(wire) for wire in self.wires], "groups": groups}


@dataclass(frozen=True)
class PictureWidths:
    """What a plan leaves. ``kept``: units by group; ``channels``, ``reads``, ``macs``: by node, as in PictureNode."""

    kept: tuple[int, ...]
    channels: tuple[int, ...]
    reads: tuple[int, ...]
    macs: tuple[int, ...]

    def to_json(self) -> dict[str, list[int]]:
        return {name: list(values) for name, values in vars(self).items()}


@dataclass(frozen=True)
class GroupRow:
    """One coupled group in words. ``layers`` hold its channels, ``readers`` read them. ``reason``: why it is locked, ""
    when it may shrink."""

    number: int
    id: str
    name: str
    layers: tuple[str, ...]
    readers: tuple[str, ...]
    units: int
    kept: int
    reason: str


def draw_network(trace: Trace) -> Picture:
    """The picture of a traced network, computed once per trace."""
    known: Picture | None = trace.__dict__.get("_picture")
    if known is None:
        known = trace.__dict__["_picture"] = _draw(trace)  # a frozen record may keep what follows from it alone
    return known


def picture_widths(trace: Trace, plan: Plan | None = None) -> PictureWidths:
    """Channels and MACs of every node under ``plan`` (None = dense).

    Raises PlanError when the plan names a group the trace does not have.
    """
    picture = draw_network(trace)
    cost = count_cost(trace, plan).per_layer
    chosen = plan.kept if plan is not None else {}
    alive = _alive(picture, chosen)
    kept = tuple(len(chosen.get(group.id, range(group.units))) for group in picture.groups)
    channels, reads, macs = [], [], []
    for index, node in enumerate(picture.nodes):
        made, taken = picture.makes[index], picture.takes[index]
        channels.append(int(alive[made].sum()) if made is not None else node.channels)
        reads.append(_still_read(picture, index, alive[taken], chosen) if taken is not None else node.reads)
        macs.append(cost[node.name].macs if node.kind == "layer" and node.name in cost else 0)
    return PictureWidths(kept, tuple(channels), tuple(reads), tuple(macs))


def group_rows(trace: Trace, plan: Plan | None = None) -> list[GroupRow]:
    """The coupled groups as the picture numbers them, for those who read tables."""
    picture = draw_network(trace)
    chosen = plan.kept if plan is not None else {}
    rows = []
    for group, drawn in zip(trace.coupled, picture.groups, strict=True):
        layers = tuple(picture.nodes[index].name for index in drawn.nodes) or group.layers
        kept = len(chosen.get(group.id, range(group.units)))
        rows.append(
            GroupRow(drawn.number, group.id, group.name, layers, group.consumers, group.units, kept, drawn.reason)
        )
    return rows


def _alive(picture: Picture, chosen: Mapping[str, Sequence[int]]) -> NDArray[np.bool_]:
    """For every unit of every group, in order, whether it stays; one more True at the end."""
    alive = np.ones(sum(group.units for group in picture.groups) + 1, dtype=bool)
    start = 0
    for group in picture.groups:
        if group.id in chosen:
            alive[start : start + group.units] = False
            alive[start + np.asarray(chosen[group.id], dtype=np.int64)] = True
        start += group.units
    return alive


def _still_read(picture: Picture, index: int, left: NDArray[np.bool_], chosen: Mapping[str, Sequence[int]]) -> int:
    """Inputs that stay: what the groups leave, and of that what the reader's own gather picks, unless it picks none."""
    gather = picture.alone.get(index)
    if gather is not None and gather[0] in chosen:
        own = np.ones(gather[1] + 1, dtype=bool)
        own[: gather[1]] = False
        own[np.asarray(chosen[gather[0]], dtype=np.int64)] = True
        both = left & own[gather[2]]
        left = both if both.any() else left
    return int(left.sum())


class _Places:
    """Which unit lives at each position a layer makes and reads, looked up in the groups' members once."""

    def __init__(self, groups: Sequence[Group], drawn: Iterable[str]) -> None:
        self.made: dict[str, NDArray[np.int64]] = {}
        self.read: dict[str, NDArray[np.int64]] = {}
        self.none = sum(group.units for group in groups)
        wanted = set(drawn)
        chosen: dict[tuple[str, bool], tuple[int, str, int]] = {}
        start = 0
        for group in groups:
            for member in group.members:
                if member.layer in wanted:
                    reads = member.role == "consumer"
                    # Biases and the like repeat what the weight says; the weight is the one that is listed as producer.
                    rank = {"producer": 0, "follower": 1}.get(member.role, 0) + 2 * member.tensor.endswith("bias")
                    place = (rank, member.tensor, member.dim)
                    best = chosen.get((member.layer, reads))
                    if best is None or place[0] < best[0]:
                        best = chosen[member.layer, reads] = place
                        (self.read if reads else self.made)[member.layer] = np.full(len(member.unit_of), self.none)
                    if place == best:
                        unit_of = member.unit_of.numpy()
                        here = unit_of >= 0
                        (self.read if reads else self.made)[member.layer][here] = start + unit_of[here]
            start += group.units


def _draw(trace: Trace) -> Picture:
    groups = trace.coupled
    flow = data_flow(trace.tape, {member.layer for group in groups for member in group.members})
    columns = column_of(flow)
    lanes = lane_of(flow, columns)
    wires = route_wires(flow, columns, lanes)
    places = _Places(groups, (name for kind, name in flow.nodes if kind == "layer"))
    nodes = _nodes(trace, flow, columns, lanes, places, np.cumsum([0] + [group.units for group in groups]))
    gathers = {group.members[0].layer: group for group in trace.gathers}
    alone = {}
    for index, node in enumerate(nodes):
        gather, read = gathers.get(node.name), places.read.get(node.name)
        if gather is not None and read is not None and len(gather.members[0].unit_of) == len(read):
            unit_of = gather.members[0].unit_of.numpy()
            alone[index] = (gather.id, gather.units, np.where(unit_of < 0, gather.units, unit_of))
    layers = [node.name if node.kind == "layer" else "" for node in nodes]
    return Picture(
        nodes,
        wires,
        _groups(groups, nodes),
        tuple(places.made.get(name) for name in layers),
        tuple(places.read.get(name) for name in layers),
        alone,
    )


def _nodes(
    trace: Trace, flow: Flow, columns: list[int], lanes: list[int], places: _Places, starts: NDArray[np.int64]
) -> tuple[PictureNode, ...]:
    modules = dict(trace.module.named_modules())
    cost = count_cost(trace).per_layer
    gathered = {member.layer for group in trace.gathers for member in group.members}
    nodes = []
    for index, (kind, name) in enumerate(flow.nodes):
        if kind != "layer":
            nodes.append(PictureNode(kind, name, "", columns[index], lanes[index]))
            continue
        made = places.made.get(name)
        share = cost.get(name)
        parts: tuple[tuple[int, int], ...] = ()
        if made is not None:
            home = np.searchsorted(starts, made[made < places.none], side="right") - 1
            found, first, counts = np.unique(home, return_index=True, return_counts=True)
            order = np.argsort(first)
            parts = tuple((int(found[at]), int(counts[at])) for at in order)
        nodes.append(
            PictureNode(
                kind,
                name,
                layer_kind(modules.get(name)),
                columns[index],
                lanes[index],
                len(made) if made is not None else (share.out_channels if share else 1),
                parts,
                len(places.read[name]) if name in places.read else 0,
                share.macs if share else 0,
                name in gathered,
            )
        )
    return tuple(nodes)


def _groups(groups: Sequence[Group], nodes: Sequence[PictureNode]) -> tuple[PictureGroup, ...]:
    index_of = {node.name: index for index, node in enumerate(nodes) if node.kind == "layer"}
    holders: list[list[int]] = [[] for _ in groups]
    for index, node in enumerate(nodes):
        for group, _ in node.parts:
            holders[group].append(index)
    shared = [index for index, held in enumerate(holders) if len(held) > 1]
    spans = [sorted(nodes[at].column for at in holders[index]) for index in shared]
    level_of = dict(zip(shared, band_levels([(span[0], span[-1]) for span in spans]), strict=True))
    hue_of = {index: hue for hue, index in enumerate(shared)}
    return tuple(
        PictureGroup(
            group.id,
            number + 1,
            group.name,
            group.units,
            group.reason or "",
            tuple(holders[number]),
            tuple(index_of[layer] for layer in group.consumers if layer in index_of),
            hue_of.get(number, -1),
            level_of.get(number, -1),
        )
        for number, group in enumerate(groups)
    )
