"""Groups of the zoo's nets against their hand-worked answers, and where their units live."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from core.errors import PlanError
from core.records import Group
from core.trace import trace_channels
from tests.traced import lent, traced
from tests.zoo import NETS, ZooNet, images, randomise

EVERY_NET = pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)


def units_of(group: Group, tensor: str, dim: int) -> list[int]:
    return next(m.unit_of.tolist() for m in group.members if (m.tensor, m.dim) == (tensor, dim))


@EVERY_NET
def test_groups_are_the_hand_worked_ones(net: ZooNet) -> None:
    trace = traced(net)
    assert {group.id: group.units for group in trace.prunable} == dict(net.groups)
    locked = {group.id: group.reason for group in trace.coupled if not group.prunable}
    assert set(locked) == set(net.locked)
    for name, part in net.locked.items():
        assert part in (locked[name] or ""), f"{name}: {locked[name]}"
    assert {group.id: group.layers for group in trace.coupled if len(group.layers) > 1} == dict(net.members)
    assert dict(trace.unknown) == dict(net.unknown)


@EVERY_NET
def test_members_fit_the_weights(net: ZooNet) -> None:
    """Every unit lives somewhere in each producer; no position belongs to two groups; shapes agree."""
    module, trace = lent(net)
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    owner: dict[tuple[str, int], Tensor] = {}
    for group in trace.coupled:
        assert group.reason is None if group.prunable else group.reason
        for member in group.members:
            key = (member.tensor, member.dim)
            assert len(member.unit_of) == state[member.tensor].shape[member.dim]
            assert int(member.unit_of.max()) < group.units and member.role in {"producer", "follower", "consumer"}
            mine = (member.unit_of >= 0).int()
            owner[key] = owner.get(key, torch.zeros_like(mine)) + mine
        born = torch.cat([m.unit_of for m in group.members if m.role == "producer" or m.layer in group.layers])
        assert set(born[born >= 0].tolist()) == set(range(group.units))
    assert all(int(count.max()) <= 1 for count in owner.values())


@EVERY_NET
def test_the_batch_size_of_the_example_does_not_matter(net: ZooNet) -> None:
    module, one = lent(net)
    many = trace_channels(module, images(net.shape, 7))
    assert [(g.id, g.units, g.reason) for g in one.groups] == [(g.id, g.units, g.reason) for g in many.groups]
    assert many.example.shape[0] == 1


def test_a_channel_is_four_features_behind_flatten() -> None:
    group = traced("Plain").group("conv2")
    assert units_of(group, "conv2.weight", 0) == units_of(group, "bn2.running_var", 0) == list(range(6))
    assert units_of(group, "fc.weight", 1) == [channel for channel in range(6) for _ in range(4)]
    assert group.consumers == ("fc",) and [m.tensor for m in group.by_role("producer")] == ["conv2.weight"]


def test_channels_last_features_lie_apart() -> None:
    assert units_of(traced("NoBiasChannelsLast").group("conv2"), "fc.weight", 1) == list(range(4)) * 64


def test_padded_shortcut_reaches_the_middle_of_the_wider_layer() -> None:
    trace = traced("ResidualPadded")
    assert units_of(trace.group("stem.0"), "b.0.weight", 0) == [-1, -1, 0, 1, 2, 3, -1, -1]
    assert units_of(trace.group("b.0"), "b.0.weight", 0) == [0, 1, -1, -1, -1, -1, 2, 3]


def test_concatenated_channels_keep_their_places() -> None:
    trace = traced("DenseBlock")
    assert units_of(trace.group("c0"), "fc.weight", 1) == [0, 1, 2, 3] + [-1] * 6
    assert units_of(trace.group("c1"), "bn2.weight", 0) == [-1] * 4 + [0, 1, 2]
    assert units_of(trace.group("c2"), "fc.weight", 1) == [-1] * 7 + [0, 1, 2]


def test_shuffle_ties_halves_and_their_neighbours() -> None:
    group = traced("ChannelShuffle").group("stem.0")
    assert units_of(group, "stem.0.weight", 0) == [0, 1, 2, 3, 0, 1, 2, 3]
    assert units_of(group, "fc.weight", 1) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_grouped_channels_leave_by_group() -> None:
    group = traced("Grouped").group("conv1")
    assert units_of(group, "grouped.weight", 0) == units_of(group, "conv1.weight", 0) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [m.role for m in group.members if m.tensor == "grouped.weight"] == ["follower"]


def test_an_unknown_group_lists_the_nearest() -> None:
    with pytest.raises(PlanError, match=r"There is no group called 'conv3'\. Nearest: conv"):
        traced("Plain").group("conv3")


class Recurrent(nn.Module):
    """Rows of the picture as a sequence."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.conv, self.rows, self.fc = nn.Conv2d(3, 4, 3, padding=1), kind(32, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).permute(0, 2, 1, 3).flatten(2)
        return self.fc(self.rows(x)[0][:, -1])


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM], ids=lambda kind: kind.__name__)
def test_recurrent_layers_keep_their_width(kind: type[nn.RNNBase]) -> None:
    module = Recurrent(kind)
    randomise(module)
    trace = trace_channels(module.eval(), images((1, 3, 8, 8), 1))
    assert trace.prunable == ()
    assert all(group.reason for group in trace.coupled)


def test_one_channel_groups_are_locked_by_arithmetic() -> None:
    """Tied through a one-group convolution over two groups of channels: nothing can leave alone."""
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.PixelShuffle(2), nn.Conv2d(1, 2, 1)).eval()
    group = trace_channels(module, images((1, 3, 4, 4), 1)).group("0")
    assert not group.prunable and group.units == 1
    assert group.reason is not None
