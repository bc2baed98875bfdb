"""Activation criteria and the gate form of Taylor against slow references that hook the plain module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import mutual_info_score
from torch import Tensor, nn

from core.errors import Cancelled, MeasureError
from core.measure.importance import score_channels
from core.measure.importance.activations import Spread, binned_information
from core.measure.importance.maps import feature_maps, unscored_groups
from core.measure.importance.taylor import read_contributions
from core.records import Group, ImageData, Trace
from core.trace import trace_channels
from core.trace.graph import needed_steps, record_tape
from core.trace.replay import Replay
from tests.untouched import awkward, same, state_of
from tests.zoo import ZOO, images, randomise

FIGURES = ["activation-mean", "activation-sd", "apoz", "mutual-information"]


class Mixed(nn.Module):
    """Residual trunk with a depthwise branch, concatenation, pooling of both kinds, flatten and two linear layers.

    Every nonlinearity is a module of its own, so that a reference can look at it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.relu = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()
        self.up, self.up_act = nn.Conv2d(6, 8, 1), nn.ReLU6()
        self.deep, self.deep_act = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU6(inplace=True)
        self.down, self.join = nn.Conv2d(8, 6, 1), nn.ReLU()
        self.left, self.right, self.left_act = nn.Conv2d(6, 4, 3), nn.Conv2d(6, 5, 3), nn.ReLU()
        self.both, self.tail, self.tail_act = nn.Identity(), nn.Conv2d(9, 7, 1), nn.ReLU()
        self.fc1, self.fc1_act, self.fc2 = nn.Linear(7 * 4, 6), nn.ReLU(), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.relu(self.norm(self.stem(x))), 2)
        x = self.join(x + self.down(self.deep_act(self.deep(self.up_act(self.up(x))))))
        x = self.both(torch.cat([self.left_act(self.left(x)), self.right(x)], 1))
        x = F.adaptive_avg_pool2d(self.tail_act(self.tail(F.avg_pool2d(x, 2, 1))), 2)
        return self.fc2(self.fc1_act(self.fc1(x.flatten(1))))


# Group -> the modules whose outputs its layers read, before pooling, with the first of its channels there. The trunk is
# read before ("up", through a max pool) and behind ("left", "right") the addition.
MAPS = {
    "stem": [("relu", 0), ("join", 0)], "up": [("deep_act", 0)], "left": [("both", 0)], "right": [("both", 4)],
    "tail": [("tail_act", 0)], "fc1": [("fc1_act", 0)],
}  # fmt: skip


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = Mixed()
    randomise(module, 3)
    return module.eval().to(dtype)


def pictures(count: int = 30, dtype: torch.dtype = torch.float64, shape: tuple[int, ...] = (3, 10, 10)) -> ImageData:
    numbers = torch.Generator().manual_seed(7)
    labels = torch.randint(0, 3, (count,), generator=numbers)
    values = torch.randn(count, *shape, generator=numbers) + 0.4 * labels.reshape(-1, *[1] * len(shape))
    return ImageData(values.to(dtype), labels, tuple("abcd"), "noise", (0.0,) * 3, (1.0,) * 3)


def subject() -> tuple[nn.Module, ImageData, Trace]:
    module, data = network(), pictures()
    trace = trace_channels(module, data.images[:1])
    assert {group.id for group in trace.prunable} == set(MAPS)
    return module, data, trace


def seen_by_hooks(module: nn.Module, data: ImageData) -> dict[str, Tensor]:
    """Module -> its output for all images, one image at a time."""
    seen: dict[str, list[Tensor]] = {}
    handles = [
        layer.register_forward_hook(lambda _m, _i, out, name=name: seen.setdefault(name, []).append(out.clone()))
        for name, layer in module.named_modules()
        if name
    ]
    with torch.no_grad():
        for image in data.images:
            module(image[None])
    for handle in handles:
        handle.remove()
    return {name: torch.cat(outputs) for name, outputs in seen.items()}


def slow_figure(name: str, activations: np.ndarray, labels: np.ndarray) -> float:
    """activations: (images, positions) of one channel."""
    if name == "activation-mean":
        return float(np.mean(np.abs(activations)))
    if name == "activation-sd":
        return float(np.std(activations))
    if name == "apoz":
        return 1 - float(np.mean(activations == 0))
    means = activations.mean(1)
    edges = [sorted(means.tolist())[cut * len(means) // 8] for cut in range(1, 8)]
    return float(mutual_info_score(labels, [sum(value >= edge for edge in edges) for value in means.tolist()]))


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_those_of_the_maps_that_hooks_see(name: str) -> None:
    """Residual, depthwise, concatenated, pooled, flattened and linear channels."""
    module, data, trace = subject()
    seen, found = seen_by_hooks(module, data), score_channels(trace, data, name, batch_size=7).scores
    for group, maps in MAPS.items():
        for unit in range(trace.group(group).units):
            expected = [
                slow_figure(name, seen[layer][:, first + unit].reshape(len(data), -1).numpy(), data.labels.numpy())
                for layer, first in maps
            ]
            assert abs(float(found[group][unit]) - np.mean(expected)) < 1e-12, (group, unit)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_zoo_networks_are_those_of_what_their_readers_are_given(name: str) -> None:
    """Where no pooling stands between: heads of attention, tokens, expanded channels, two scales."""
    for net, groups in [
        ("HeadAttention", ["attention.qkv"]), ("InvertedResidual", ["expand"]), ("TokenBlock", ["fc1"]),
        ("ResidualProjection", ["a.0"]), ("HeadAtTwoScales", ["lat3", "head"]), ("WindowAttention", ["attention.qkv"]),
    ]:  # fmt: skip
        module = ZOO[net].build().double()
        data = pictures(20, shape=ZOO[net].shape[1:])
        trace = trace_channels(module, ZOO[net].example.double())
        found = score_channels(trace, data, name, batch_size=6).scores
        for group in map(trace.group, groups):
            total, count = torch.zeros(group.units).double(), torch.zeros(group.units).double()
            for member in group.by_role("consumer"):
                for given in read_one_by_one(module, member.layer, data):
                    for place, unit in enumerate(member.unit_of.tolist()):
                        if unit >= 0:
                            total[unit] += slow_figure(name, given[:, :, place].numpy(), data.labels.numpy())
                            count[unit] += 1
            torch.testing.assert_close(found[group.id], total / count, rtol=0, atol=1e-12)


def read_one_by_one(module: nn.Module, layer: str, data: ImageData) -> list[Tensor]:
    """What each call of ``layer`` is given, image by image: (images, positions, channels)."""
    seen: list[Tensor] = []
    reader = module.get_submodule(layer)
    axis = 1 if isinstance(reader, nn.Conv2d) else -1
    handle = reader.register_forward_pre_hook(
        lambda _module, given: seen.append(given[0].movedim(axis, -1).flatten(0, -2).clone())
    )
    with torch.no_grad():
        for image in data.images:
            module(image[None])
    handle.remove()
    calls = len(seen) // len(data)
    return [torch.stack(seen[call::calls]) for call in range(calls)]


def test_maps_are_taken_before_pooling_and_each_once() -> None:
    module, data, trace = subject()
    tape = record_tape(module, data.images)
    maps = feature_maps(tape, needed_steps(tape), trace.prunable)
    shapes = {name: [tape.shapes[read.slot] for read in found] for name, found in maps.items()}
    assert shapes == {
        "stem": [(30, 6, 10, 10), (30, 6, 5, 5)], "up": [(30, 8, 5, 5)], "left": [(30, 9, 3, 3)],
        "right": [(30, 9, 3, 3)], "tail": [(30, 7, 2, 2)], "fc1": [(30, 6)],
    }  # fmt: skip
    assert maps["right"][0].unit_of.tolist() == [-1] * 4 + [0, 1, 2, 3, 4]
    assert maps["tail"][0].unit_of.tolist() == list(range(7))  # 28 features, 7 channels


# -- batches and images -----------------------------------------------------------------------------------------------

NETS = [
    "InvertedResidual", "DenseBlock", "ChannelShuffle", "TokenBlock", "VisionTransformer", "Attention", "HeadAttention",
    "AttentionWeightsAsked", "WindowAttention", "Grouped", "Transposed", "SplitAttention",
]  # fmt: skip


@pytest.mark.parametrize("name", [*FIGURES, "taylor", "taylor-2019", "grad-x-activation", "conductance"])
@pytest.mark.parametrize("net", NETS)
def test_the_batch_size_does_not_count(net: str, name: str) -> None:
    """In double precision to rounding. One image at a time also shows that no image gets another's rows: attention
    holds token after token, not image after image."""
    module, data = ZOO[net].build().double(), pictures(10, shape=ZOO[net].shape[1:])
    trace = trace_channels(module, ZOO[net].example.double())
    options = {"steps": 2} if name == "conductance" else {}
    alone = score_channels(trace, data, name, batch_size=1, **options).scores
    for size in (4, 10):
        found = score_channels(trace, data, name, batch_size=size, **options).scores
        for group in trace.prunable:
            torch.testing.assert_close(found[group.id], alone[group.id], rtol=1e-12, atol=1e-12)


def test_rows_that_stand_token_by_token_go_to_their_own_images() -> None:
    """As many tokens as images: no length alone could tell which is which."""
    net = ZOO["AttentionWeightsAsked"]  # sequence first, 4 tokens
    module, data = net.build().double(), pictures(4, shape=net.shape[1:])
    trace = trace_channels(module, data.images)
    tape = record_tape(module, data.images)
    together = read_contributions(Replay(tape, module), trace, data.images, data.labels, data)
    for number in range(4):
        one = data.take(torch.tensor([number]))
        single = Replay(record_tape(module, one.images), module)
        alone = read_contributions(single, trace, one.images, one.labels, one)
        for group in trace.prunable:
            torch.testing.assert_close(together[group.id][number], alone[group.id][0], rtol=1e-10, atol=1e-12)


# -- the single statistics --------------------------------------------------------------------------------------------


def test_a_small_spread_on_a_large_mean_is_not_lost() -> None:
    """Sums of squares would leave nothing of it: 1e-3 on 1e6 in batches of very different size."""
    values = 1e6 + 1e-3 * torch.randn(50, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spread = Spread()
    for batch in values.split([1, 30, 2, 17]):
        spread.add(batch)
    expected = (values - 1e6).flatten(0, 1).std(0, correction=0)
    torch.testing.assert_close(spread.result(), expected, rtol=1e-6, atol=0)


def test_information_by_hand() -> None:
    """Told by the class, told by half, constant, and sparse: zeros share a bin, however many they are."""
    labels = torch.tensor([0, 0, 0, 0, 5, 5, 5, 5])
    told = labels.double()
    half = torch.tensor([0.0, 0, 1, 1, 2, 2, 3, 3])  # four bins of two: still tells all
    sparse = torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 2])  # a bin of six zeros (four of class 0), and two of one each
    columns = torch.stack([told, half, torch.ones(8), sparse], 1).double()
    whole = float(np.log(2))
    six = 6 / 8 * (4 / 6 * np.log(4 / 6 / 0.5) + 2 / 6 * np.log(2 / 6 / 0.5)) + 2 / 8 * np.log(2)
    found = binned_information(columns, labels, 4)
    assert np.allclose(found.numpy(), [whole, whole, 0.0, six], atol=1e-15)
    assert bool(binned_information(torch.full((8, 1), float("nan")).double(), labels, 4).isnan())


@pytest.mark.parametrize("name", ["activation-mean", "activation-sd", "apoz", "mutual-information"])
def test_activations_that_are_not_finite_are_said_so(name: str) -> None:
    module, data, trace = subject()
    module.get_parameter("tail.bias").data[2] = float("inf")
    with pytest.raises(MeasureError, match=r"Group tail: .*not finite"):
        score_channels(trace, data, name)


@pytest.mark.parametrize("bins", [1, 2.0, True, 1000])
def test_bins_are_checked(bins: object) -> None:
    _, data, trace = subject()
    with pytest.raises(MeasureError, match="from 2 to 256"):
        score_channels(trace, data, "mutual-information", bins=bins)


def test_more_channels_than_memory_take_several_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    _, data, trace = subject()
    once = score_channels(trace, data, "mutual-information")
    monkeypatch.setattr("core.measure.importance.activations.MEMORY_BYTES", 2000)
    seen: list[float] = []
    again = score_channels(trace, data, "mutual-information", on_progress=lambda done, _: seen.append(done))
    assert all(torch.equal(once.scores[name], again.scores[name]) for name in once.scores)
    assert len(seen) >= len(trace.coupled) and seen == sorted(seen) and seen[-1] == 1.0


# -- the gate form of Taylor ------------------------------------------------------------------------------------------


@contextmanager
def gated(module: nn.Module, group: Group) -> Iterator[Tensor]:
    """A gate of 1 on every unit of ``group``, at the input of each layer that reads it."""
    gate = torch.ones(group.units, dtype=torch.float64, requires_grad=True)
    handles = []
    for member in group.by_role("consumer"):
        reader = module.get_submodule(member.layer)
        here = torch.cat([gate, gate.new_ones(1)])[member.unit_of]
        handles.append(reader.register_forward_pre_hook(_opened(here, 1 if isinstance(reader, nn.Conv2d) else -1)))
    try:
        yield gate
    finally:
        for handle in handles:
            handle.remove()


def _opened(here: Tensor, axis: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    return lambda _module, given: ((given[0].movedim(axis, -1) * here).movedim(-1, axis),)


@pytest.mark.parametrize("minibatch", [1, 4, 100])
def test_taylor_2019_is_the_squared_gradient_of_a_gate(minibatch: int) -> None:
    """Against real gates, put in by hooks, one minibatch at a time. On the mixed network and on some of the zoo."""
    cases = [(network(), (3, 10, 10), sorted(MAPS))]
    for name, groups in [("HeadAttention", ["attention.qkv"]), ("InvertedResidual", ["stem", "expand"]),
                         ("DenseBlock", ["c0", "c1"]), ("ResidualPadded", ["stem.0", "b.0"])]:  # fmt: skip
        if all(group in ZOO[name].groups for group in groups):
            cases.append((ZOO[name].build().double(), ZOO[name].shape[1:], groups))
    assert len(cases) >= 4
    for module, shape, groups in cases:
        data = pictures(10, shape=shape)
        trace = trace_channels(module, data.images[:1])
        found = score_channels(trace, data, "taylor-2019", minibatch=minibatch, batch_size=3).scores
        for group in map(trace.group, groups):
            expected = torch.zeros(group.units, dtype=torch.float64)
            for part in torch.arange(len(data)).split(minibatch):
                with gated(module, group) as gate:
                    loss = F.cross_entropy(module(data.images[part]), data.labels[part])
                    expected += torch.autograd.grad(loss, gate)[0].square() * len(part) / len(data)
            torch.testing.assert_close(found[group.id], expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("size", [0, 1.5, True])
def test_minibatches_are_checked(size: object) -> None:
    _, data, trace = subject()
    with pytest.raises(MeasureError, match="minibatch: expected a whole number"):
        score_channels(trace, data, "taylor-2019", minibatch=size)


# -- nothing stays behind ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FIGURES, "taylor-2019"])
def test_cancel_and_failure_leave_the_network_alone(name: str) -> None:
    net = ZOO["ResidualProjection"]
    module = awkward(net)
    data = pictures(9, torch.float32, net.shape[1:])
    trace, before = trace_channels(module, net.example), state_of(module)
    asked = iter(range(100))
    with pytest.raises(Cancelled):
        score_channels(trace, data, name, batch_size=2, cancelled=lambda: next(asked) >= 3)
    assert same(before, state_of(module))

    def fail(*_: object) -> None:
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        score_channels(trace, data, name, batch_size=2, on_progress=fail)
    assert same(before, state_of(module)) and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_groups_that_nothing_reads_are_named_instead_of_scored() -> None:
    """An auxiliary head feeds nothing while the network is used: Taylor's zero there is no verdict, the oracle's is."""
    net = ZOO["AuxiliaryHead"]
    trace = trace_channels(net.build(), net.example)
    batch = images(net.shape, 8, seed=5)
    data = ImageData(batch, torch.zeros(8, dtype=torch.int64), ("a",), "zoo", (0.0,) * 3, (1.0,) * 3)
    found = {name: score_channels(trace, data, name) for name in ("taylor", "oracle", "weight-l1")}
    assert {name: unscored_groups(trace, one) for name, one in found.items()} == {
        "taylor": ("aux.conv",),
        "oracle": (),
        "weight-l1": (),
    }
