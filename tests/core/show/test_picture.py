"""The picture of a network: who reaches whom, where it stands, and widths that agree with the cost."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from core.load.torchvision_guard import import_torchvision
from core.measure.cost import count_cost
from core.records import Group, Member, Plan, Trace
from core.show.picture import Picture, draw_network, group_rows, picture_widths
from core.show.picture_layout import band_levels
from core.trace import trace_channels
from tests.zoo import NETS, ZooNet, random_plan

EVERY_NET = pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)


class Residual(nn.Module):
    """A stem, a block with a shortcut, a block without, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.one, self.two = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.shortcut = nn.Conv2d(8, 6, 1)
        self.three, self.four = nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 6, 3, padding=1)
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.two(torch.relu(self.one(x))) + self.shortcut(x))
        x = x + self.four(torch.relu(self.three(x)))
        return self.fc(x.mean((2, 3)))


class Dense(nn.Module):
    """Every layer reads all that came before it, concatenated anew."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 2 * number, 2, 3, padding=1) for number in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(torch.relu(layer(torch.cat(features, 1))))
        return torch.cat(features, 1)


def traced(module: nn.Module, size: int = 8) -> Trace:
    return trace_channels(module.eval(), torch.zeros(1, 3, size, size))


def wires(picture: Picture) -> set[tuple[str, str]]:
    return {(picture.nodes[a].name, picture.nodes[b].name) for a, b, _ in picture.wires}


def half(trace: Trace) -> Plan:
    return Plan({group.id: tuple(range(0, group.units, 2)) for group in trace.prunable})


def test_wires_run_from_layer_to_layer_and_meet_in_joins() -> None:
    picture = draw_network(traced(Residual()))
    assert [node.kind for node in picture.nodes].count("join") == 2
    assert wires(picture) == {
        ("input", "stem"), ("stem", "one"), ("one", "two"), ("two", "add"), ("stem", "shortcut"), ("shortcut", "add"),
        ("add", "three"), ("three", "four"), ("four", "add"), ("add", "add"), ("add", "fc"), ("fc", "output"),
    }  # fmt: skip


def test_columns_go_by_depth_and_branches_stand_side_by_side() -> None:
    nodes = {node.name: node for node in draw_network(traced(Residual())).layers}
    assert [nodes[name].column for name in ("stem", "one", "two", "shortcut", "three", "four", "fc")] == [
        1, 2, 3, 2, 5, 6, 8,
    ]  # fmt: skip
    assert {name: node.lane for name, node in nodes.items() if node.lane} == {"shortcut": 1}
    routes = {route for _, _, route in draw_network(traced(Residual())).wires}
    assert routes == {0, 1, -1}, "the trunk, the shortcut, and the identity over the second block"


def test_layers_that_lose_channels_together_are_one_group_with_a_hue() -> None:
    picture = draw_network(traced(Residual()))
    (shared,) = [group for group in picture.groups if group.hue >= 0]
    assert {picture.nodes[index].name for index in shared.nodes} == {"two", "shortcut", "four"}
    assert {picture.nodes[index].name for index in shared.readers} == {"three", "fc"}
    assert shared.hue == 0 and shared.level == 0 and shared.reason == ""
    locked = picture.groups[-1]
    assert locked.reason and locked.hue == -1 and [picture.nodes[index].name for index in locked.nodes] == ["fc"]


def test_widths_before_and_after() -> None:
    trace = traced(Residual())
    picture, dense, plan = draw_network(trace), picture_widths(trace), half(trace)
    widths = picture_widths(trace, plan)
    at = {node.name: index for index, node in enumerate(picture.nodes)}
    assert [dense.channels[at[name]] for name in ("stem", "one", "two", "fc")] == [8, 4, 6, 2]
    assert [widths.channels[at[name]] for name in ("stem", "one", "two", "fc")] == [4, 2, 3, 2]
    assert [widths.reads[at[name]] for name in ("stem", "one", "two", "three", "fc")] == [0, 4, 2, 3, 3]
    assert widths.macs[at["one"]] == count_cost(trace, plan).per_layer["one"].macs < dense.macs[at["one"]]
    assert widths.kept == tuple(len(plan.kept.get(group.id, range(group.units))) for group in picture.groups)


def test_the_rows_say_what_the_picture_shows() -> None:
    trace = traced(Residual())
    rows = group_rows(trace, half(trace))
    assert [(row.number, row.units, row.kept) for row in rows] == [
        (1, 8, 4),
        (2, 4, 2),
        (3, 6, 3),
        (4, 5, 3),
        (5, 2, 2),
    ]
    assert set(rows[2].layers) == {"two", "shortcut", "four"} and rows[2].readers == ("three", "fc")
    assert [bool(row.reason) for row in rows] == [False] * 4 + [True]


def test_a_stage_of_n_blocks_has_wires_in_proportion_to_n() -> None:
    counts = {layers: len(draw_network(traced(Dense(layers))).wires) for layers in (10, 20, 40)}
    assert counts[20] - counts[10] == (counts[40] - counts[20]) / 2
    assert counts[40] < 4 * 40


def test_a_network_without_layers_is_an_empty_picture() -> None:
    trace = traced(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)))
    picture = draw_network(trace)
    assert not picture.layers and not picture.groups and not group_rows(trace)
    assert wires(picture) == {("input", "output")} and picture_widths(trace).kept == ()


def test_a_gather_is_no_group_of_its_own_and_narrows_its_reader_alone() -> None:
    trace = traced(Residual())
    source = next(group for group in trace.prunable if group.units == 6)
    (read,) = [member for member in source.by_role("consumer") if member.layer == "three"]
    # A trace may bring its own by now; this one is the test's.
    groups = trace.coupled
    member = Member("three", read.tensor, read.dim, "consumer", read.unit_of)
    gather = Group("gather:three", "three", (), 6, True, None, (member,), gather_of=source.id)
    trace = replace(trace, groups=(*groups, gather))
    picture = draw_network(trace)
    assert [node.name for node in picture.layers if node.gather] == ["three"]
    assert len(picture.groups) == len(groups) == len(trace.coupled) == len(group_rows(trace))
    (index,) = [number for number, node in enumerate(picture.nodes) if node.name == "three"]
    dense = picture_widths(trace)
    for plan, left in (({"gather:three": (0, 1)}, 2), ({source.id: (0, 4), "gather:three": (0, 1)}, 1),
                       ({source.id: (4, 5), "gather:three": (0, 1)}, 2)):  # fmt: skip
        widths = picture_widths(trace, Plan(plan))
        assert widths.reads[index] == left, plan
        assert widths.channels[index] == dense.channels[index]


@EVERY_NET
def test_nothing_stands_in_the_way_of_anything(net: ZooNet) -> None:
    picture = draw_network(trace_channels(net.build(), net.example))
    places = [(node.column, node.lane) for node in picture.nodes]
    assert len(set(places)) == len(places), "two nodes in one place"
    tracks: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for source, target, route in picture.wires:
        start, stop = sorted((picture.nodes[source].column, picture.nodes[target].column))
        if route >= 0:
            assert start < stop
            between = [place for place in places if place[1] == route and start < place[0] < stop]
            assert not between, f"a wire runs through the node at {between}"
        else:
            tracks[route].append((start, stop))
    for spans in tracks.values():
        spans.sort()
        assert all(stop <= start for (_, stop), (start, _) in pairwise(spans))


@EVERY_NET
def test_every_group_that_may_shrink_is_drawn_with_its_own_layers(net: ZooNet) -> None:
    trace = trace_channels(net.build(), net.example)
    picture = draw_network(trace)
    names = {node.name for node in picture.layers}
    assert [group.id for group in picture.groups] == [group.id for group in trace.coupled]
    for group, drawn in zip(trace.coupled, picture.groups, strict=True):
        held = {picture.nodes[index].name for index in drawn.nodes}
        assert held <= {member.layer for member in group.members if member.role != "consumer"}
        assert held >= {layer for layer in group.layers if layer in names}
    reached = {target for _, target, _ in picture.wires}
    assert {index for index, node in enumerate(picture.nodes) if node.kind in ("join", "output")} <= reached


@EVERY_NET
def test_widths_agree_with_the_cost(net: ZooNet) -> None:
    module = net.build()
    trace = trace_channels(module, net.example)
    picture, modules = draw_network(trace), dict(module.named_modules())
    compared = 0
    for seed, share in enumerate((0.0, 0.4, 0.8)):
        plan = random_plan(trace, share, seed)
        alone = {group.id: tuple(range(seed, group.units, 2)) for group in trace.gathers if seed and group.units > seed}
        plan = Plan({**plan.kept, **alone})
        widths, cost = picture_widths(trace, plan), count_cost(trace, plan).per_layer
        for index, node in enumerate(picture.nodes):
            layer = modules.get(node.name)
            if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear) or node.name not in cost:
                continue
            assert widths.channels[index] == cost[node.name].out_channels
            if node.reads and getattr(layer, "groups", 1) == 1:
                assert widths.reads[index] == cost[node.name].in_channels
            assert widths.macs[index] == cost[node.name].macs
            compared += 1
    assert compared or not picture.layers or not any(isinstance(one, nn.Conv2d | nn.Linear) for one in modules.values())


def test_bands_that_overlap_lie_on_different_levels() -> None:
    spans = [(0, 9), (1, 2), (2, 3), (4, 5), (8, 12)]
    levels = band_levels(spans)
    for level in set(levels):
        held = sorted(span for span, at in zip(spans, levels, strict=True) if at == level)
        assert all(left[1] < right[0] for left, right in pairwise(held))
    assert levels[0] > levels[1], "long bands lie under short ones"


@pytest.mark.parametrize(("name", "layers", "kilobytes"), [("resnet152", 156, 40), ("densenet201", 201, 80)])
def test_deep_networks_are_small(name: str, layers: int, kilobytes: int) -> None:
    torchvision = import_torchvision()
    with torch.device("meta"):
        module = torchvision.models.get_model(name, weights=None)
    trace = trace_channels(module.eval(), torch.zeros(1, 3, 64, 64, device="meta"))
    count_cost(trace)
    picture = draw_network(trace)
    assert len(picture.layers) == layers and draw_network(trace) is picture
    assert len(json.dumps(picture.to_json())) < kilobytes * 1024
    assert len(json.dumps(picture_widths(trace, half(trace)).to_json())) < 8 * 1024
