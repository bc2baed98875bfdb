"""Every criterion against its own definition, computed another way."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import Cancelled, CoreError, MeasureError
from core.measure.cost import count_cost
from core.measure.importance import affordable_images, list_criteria, score_channels
from core.measure.importance.criteria import Request
from core.measure.importance.pivots import sample_matrices
from core.measure.importance.taylor import macs_per_map, read_contributions
from core.measure.walk import fitting_batch
from core.records import ImageData, Trace
from core.trace import trace_channels
from core.trace.graph import record_tape
from core.trace.replay import Replay
from tests.core.measure.pictured import network, noise
from tests.zoo import ZOO

CRITERIA = [row.name for row in list_criteria()]
WITH_IMAGES = [row.name for row in list_criteria() if row.value.needs_images]


class Chain(nn.Module):
    """conv-bn-relu-maxpool twice over, then flatten and two linear layers: each group has one reader."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.conv2, self.bn2 = nn.Conv2d(5, 6, 3, stride=2, padding=2, dilation=2, bias=False), nn.BatchNorm2d(6)
        self.fc1, self.fc2 = nn.Linear(6 * 4, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 2)
        x = F.adaptive_avg_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Trunk(nn.Module):
    """A shared trunk with a depthwise layer in the branch: several readers, several producers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.up, self.depth = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.down = nn.ConvTranspose2d(8, 6, 3, padding=1, bias=False)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(x + self.down(F.relu(self.depth(F.relu(self.up(x))))))
        return self.head(x.mean((2, 3)))


def pictures(count: int = 21, seed: int = 0, size: int = 10) -> ImageData:
    return noise(count, size, seed)


def subject(kind: type[nn.Module], seed: int = 0) -> tuple[nn.Module, ImageData, Trace]:
    module, data = network(kind, seed), pictures()
    return module, data, trace_channels(module, data.images)


# -- the contract of the family ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Chain, Trunk])
@pytest.mark.parametrize("name", CRITERIA)
def test_contract(name: str, kind: type[nn.Module]) -> None:
    """Shape, finite, deterministic under a seed; network and global random state as they were."""
    module, data, trace = subject(kind)
    module.train()
    module.get_parameter("head.weight" if kind is Trunk else "fc1.weight").requires_grad_(False)
    before, state = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    first = score_channels(trace, data, name, seed=5)
    again = score_channels(trace, data, name, seed=5)
    assert first.criterion == name and first.images_used == (len(data) if name in WITH_IMAGES else 0)
    for group in trace.groups:
        values = first.scores[group.id]
        assert values.dtype == torch.float64 and values.shape == (group.units,) and torch.isfinite(values).all()
        assert torch.equal(values, again.scores[group.id]) and not values.requires_grad
    assert all(len(set(first.scores[group.id].tolist())) > 1 or name == "bn-scale" for group in trace.prunable)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert all(layer.training and not layer._forward_hooks for layer in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert sum(not parameter.requires_grad for parameter in module.parameters()) == 1


def test_rows_are_documented_and_an_unknown_name_lists_the_nearest() -> None:
    assert {"weight-l1", "weight-l2", "first-k", "random", "bn-scale", "taylor", "qr", "qr-activation"} <= set(CRITERIA)
    for row in list_criteria():
        assert row.title and row.source and row.formula and row.summary.endswith((".", ").")), row.name
    _, data, trace = subject(Chain)
    with pytest.raises(CoreError, match=r"'taylr'.*taylor"):
        score_channels(trace, data, "taylr")


@pytest.mark.parametrize("name", WITH_IMAGES)
def test_images_are_asked_for_and_cancel_and_failure_leave_nothing(name: str) -> None:
    module, data, trace = subject(Chain)
    with pytest.raises(MeasureError, match="needs images"):
        score_channels(trace, None, name)
    with pytest.raises(MeasureError, match="0 images"):
        score_channels(trace, data.take(torch.arange(0)), name)
    asked = iter(range(100))
    with pytest.raises(Cancelled):
        score_channels(trace, data, name, batch_size=5, cancelled=lambda: next(asked) >= 3)

    def fail(*call: Any) -> None:
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        score_channels(trace, data, name, on_progress=fail)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    calls: list[tuple[float, str]] = []
    score_channels(trace, data, name, on_progress=lambda *call: calls.append(call))
    assert calls[-1][0] == 1.0 and [c[0] for c in calls] == sorted(c[0] for c in calls)


def test_options_are_checked() -> None:
    module, data, trace = subject(Chain)
    for name, options, words in [
        ("taylor", {"normalize": "l2"}, "normalise"),
        ("taylor", {"normalise": "l3"}, "expected 'none' or 'l2'"),
        ("taylor", {"macs_lambda": -1}, "macs_lambda"),
        ("qr", {"rows": 0}, "rows"),
        ("weight-l1", {"p": 3}, "no options"),
    ]:
        with pytest.raises(MeasureError, match=words):
            score_channels(trace, data, name, **options)
    module.get_parameter("conv2.weight").data[0] = float("nan")
    with pytest.raises(MeasureError, match="not finite"):
        score_channels(trace, data, "weight-l2")


# -- weights ----------------------------------------------------------------------------------------------------------


def test_weight_norms_by_hand() -> None:
    module, _, trace = subject(Trunk)
    l1, l2 = score_channels(trace, None, "weight-l1").scores, score_channels(trace, None, "weight-l2").scores
    stem, down, up = (module.get_parameter(f"{name}.weight").double() for name in ("stem", "down", "up"))
    torch.testing.assert_close(l1["up"], up.abs().sum((1, 2, 3)).detach())  # the depthwise follower does not count
    torch.testing.assert_close(l1["stem"], (stem.abs().sum((1, 2, 3)) + down.abs().sum((0, 2, 3))).detach())
    squares = stem.square().sum((1, 2, 3)) + down.square().sum((0, 2, 3))
    torch.testing.assert_close(l2["stem"], squares.sqrt().detach())


def test_scores_follow_a_permutation_of_channels() -> None:
    module, data, trace = subject(Chain)
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = copy.deepcopy(module)
    with torch.no_grad():
        for layer, names in (("conv1", ("weight", "bias")), ("bn1", ("weight", "bias", "running_mean", "running_var"))):
            for name in names:
                tensor = getattr(moved.get_submodule(layer), name)
                tensor.copy_(tensor[order].clone())
        moved.conv2.weight.copy_(module.conv2.weight[:, order])
    other = trace_channels(moved, data.images)
    for name in CRITERIA:
        if name not in ("first-k", "random"):
            a, b = score_channels(trace, data, name), score_channels(other, data, name)
            torch.testing.assert_close(b.scores["conv1"], a.scores["conv1"][order], rtol=1e-4, atol=1e-6, msg=name)
            torch.testing.assert_close(b.scores["conv2"], a.scores["conv2"], rtol=1e-4, atol=1e-6, msg=name)


def test_baselines_and_batch_norm() -> None:
    module, _, trace = subject(Trunk)
    assert score_channels(trace, None, "first-k").ranking("up") == list(range(8))
    a, b = (score_channels(trace, None, "random", seed=seed).scores for seed in (0, 1))
    assert not torch.equal(a["up"], b["up"]) and not torch.equal(a["up"][:6], a["stem"])
    bn = score_channels(trace, None, "bn-scale").scores
    torch.testing.assert_close(bn["stem"], module.get_parameter("bn.weight").detach().abs().double())
    assert bn["up"].tolist() == [1.0] * 8
    weight = module.get_parameter("up.weight").detach().double().flatten(1)
    far = torch.stack([(weight - row).norm(dim=1).sum() for row in weight])
    torch.testing.assert_close(score_channels(trace, None, "fpgm").scores["up"], far)


# -- Taylor -----------------------------------------------------------------------------------------------------------


def by_hand(module: Any, data: ImageData) -> dict[str, Tensor]:
    """Theta of METHODS 4 with plain autograd, one image at a time, at the outputs of the nonlinearities."""
    totals: dict[str, Tensor] = {}
    for image, label in zip(data.images, data.labels, strict=True):
        maps = {}
        maps["conv1"] = F.relu(module.bn1(module.conv1(image[None])))
        maps["conv2"] = F.relu(module.bn2(module.conv2(F.max_pool2d(maps["conv1"], 2))))
        maps["fc1"] = F.relu(module.fc1(F.adaptive_avg_pool2d(maps["conv2"], 2).flatten(1)))
        loss = F.cross_entropy(module.fc2(maps["fc1"]), label[None])
        gradients = torch.autograd.grad(loss, list(maps.values()))
        for (name, z), gradient in zip(maps.items(), gradients, strict=True):
            theta = (gradient * z).reshape(z.shape[1], -1).mean(1).abs().double().detach()
            totals[name] = totals.get(name, 0) + theta / len(data)
    return totals


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_taylor_is_the_paper_s_formula(batch_size: int) -> None:
    module, data, trace = subject(Chain)
    found = score_channels(trace, data, "taylor", batch_size=batch_size)
    expected = by_hand(module, data)
    assert set(expected) == {group.id for group in trace.prunable}
    for name, theta in expected.items():
        assert float(theta.max()) > 0
        torch.testing.assert_close(found.scores[name], theta, rtol=1e-4, atol=1e-8)


def test_taylor_works_where_the_caller_has_switched_gradients_off() -> None:
    _, data, trace = subject(Chain)
    plain = score_channels(trace, data, "taylor").scores
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            found = score_channels(trace, data, "taylor").scores
            assert all(torch.equal(found[name], values) for name, values in plain.items())


def test_taylor_normalised_and_with_the_price_of_a_map() -> None:
    _, data, trace = subject(Chain)
    plain = score_channels(trace, data, "taylor").scores
    unit = score_channels(trace, data, "taylor", normalise="l2").scores
    for name in ("conv1", "conv2", "fc1"):
        torch.testing.assert_close(unit[name], plain[name] / plain[name].norm())
        assert float(unit[name].norm()) == pytest.approx(1)
    macs = macs_per_map(trace)
    assert macs["conv1"] == pytest.approx(2 * 9 * 100 / 1e6)  # 2 channels in, 3 x 3, 10 x 10 positions
    assert macs["fc1"] == pytest.approx(24 / 1e6)
    priced = score_channels(trace, data, "taylor", normalise="l2", macs_lambda=0.5).scores
    torch.testing.assert_close(priced["conv1"], unit["conv1"] - 0.5 * macs["conv1"])


@pytest.mark.parametrize("kind", [Chain, Trunk])
def test_taylor_is_the_first_order_change_of_hiding_a_channel(kind: type[nn.Module]) -> None:
    """Weights of all readers scaled by 1 - e for one unit: the loss changes by -e x sum over readers of dC/dz z."""
    module, data, trace = subject(kind)
    module.double()
    trace = trace_channels(module, data.images.double())
    images = data.images.double()
    replay = Replay(record_tape(module, images), module)
    shares = read_contributions(replay, trace, images, data.labels, data)

    def losses() -> Tensor:
        with torch.no_grad():
            return F.cross_entropy(module(images), data.labels, reduction="none")

    e = 1e-6
    for group in trace.prunable:
        positions = _positions_of(kind, group.id)
        for unit in range(group.units):
            change = torch.zeros(len(images), dtype=torch.float64)
            for sign in (1, -1):
                edited = copy.deepcopy(module.state_dict())
                for member in group.by_role("consumer"):
                    factor = torch.ones(len(member.unit_of), dtype=torch.float64)
                    factor[member.unit_of == unit] = 1 - sign * e
                    shape = [-1 if axis == member.dim else 1 for axis in range(edited[member.tensor].dim())]
                    edited[member.tensor] = edited[member.tensor] * factor.reshape(shape)
                dense = copy.deepcopy(module.state_dict())
                module.load_state_dict(edited)
                change += sign * losses()
                module.load_state_dict(dense)
            torch.testing.assert_close(-change / (2 * e), shares[group.id][:, unit] * positions, rtol=1e-4, atol=1e-7)


def _positions_of(kind: type[nn.Module], group: str) -> int:
    """Positions of the feature map after the nonlinearity, by hand."""
    return {"conv1": 100, "conv2": 9, "fc1": 1}[group] if kind is Chain else 100


# -- pivoted QR -------------------------------------------------------------------------------------------------------


def rows_by_hand(layer: Any, x: Tensor, unit_of: Tensor, units: int) -> Tensor:
    """All rows of Z: the layer run on one unit's channels at a time, without bias."""
    columns = []
    for unit in range(units):
        alone = torch.zeros_like(x)
        alone[:, unit_of == unit] = x[:, unit_of == unit]
        columns.append((layer(alone) - layer(torch.zeros_like(x))).flatten())
    return torch.stack(columns, dim=1).double()


def inputs_of(module: Any, data: ImageData) -> dict[str, list[tuple[nn.Module, Tensor]]]:
    """Group -> (reader, what it reads), module by module."""
    with torch.no_grad():
        if isinstance(module, Chain):
            a = F.max_pool2d(F.relu(module.bn1(module.conv1(data.images))), 2)
            b = F.adaptive_avg_pool2d(F.relu(module.bn2(module.conv2(a))), 2).flatten(1)
            return {
                "conv1": [(module.conv2, a)], "conv2": [(module.fc1, b)], "fc1": [(module.fc2, F.relu(module.fc1(b)))],
            }  # fmt: skip
        a = F.relu(module.bn(module.stem(data.images)))
        b = F.relu(module.depth(F.relu(module.up(a))))
        c = F.relu(a + module.down(b)).mean((2, 3))
        return {"stem": [(module.up, a), (module.head, c)], "up": [(module.down, b)]}


@pytest.mark.parametrize("kind", [Chain, Trunk])
def test_sampled_rows_are_rows_of_the_full_contribution_matrix(kind: type[nn.Module]) -> None:
    module, data, trace = subject(kind)
    request = Request(trace, data, 0, 8, {"rows": None})
    Z = sample_matrices(request, data, trace.prunable, {g.id: 300 for g in trace.prunable}, True)
    activations = sample_matrices(request, data, trace.prunable, {g.id: 300 for g in trace.prunable}, False)
    readers = inputs_of(module, data)
    assert set(readers) == {group.id for group in trace.prunable}
    for group in trace.prunable:
        maps = [member.unit_of for member in group.by_role("consumer")]
        with torch.no_grad():
            pairs = list(zip(readers[group.id], maps, strict=True))
            full = torch.cat([rows_by_hand(layer, x, unit_of, group.units) for (layer, x), unit_of in pairs])
        assert abs(len(Z[group.id]) - 300) <= len(maps) and len(Z[group.id].unique(dim=0)) > 60
        assert float(torch.cdist(Z[group.id], full).min(1).values.max()) < 1e-4
        flat = [x.movedim(1, -1).reshape(-1, x.shape[1]).double() for (_, x) in readers[group.id]]
        rows = [x[:, unit_of.argsort(stable=True)].reshape(len(x), group.units, -1).transpose(1, 2).flatten(0, 1)
                for x, unit_of in zip(flat, maps, strict=True)]  # fmt: skip
        assert float(torch.cdist(activations[group.id], torch.cat(rows)).min(1).values.max()) < 1e-4


@pytest.mark.parametrize("name", ["qr", "qr-activation"])
def test_a_channel_that_others_can_replace_goes_first(name: str) -> None:
    """Channel 2 of conv1 is half of channel 0, read by equal weights: after 0 it adds nothing."""
    module, data, _ = subject(Chain)
    with torch.no_grad():
        for tensor in (module.conv1.weight, module.conv1.bias, module.bn1.running_mean, module.bn1.bias):
            tensor[2] = tensor[0] / 2
        for tensor in (module.bn1.weight, module.bn1.running_var):
            tensor[2] = tensor[0]
        module.conv2.weight[:, 2] = module.conv2.weight[:, 0]
    scores = score_channels(trace_channels(module, data.images), data, name)
    values = scores.scores["conv1"]
    assert scores.ranking("conv1")[-1] == 2
    assert float(values[2]) < 1e-5 * float(values[0]) and float(values.sort().values[1]) > 0.1 * float(values.max())


def test_each_reader_gets_rows_in_proportion_to_its_outputs() -> None:
    module, data, trace = subject(Trunk)
    request = Request(trace, data, 0, 64, {"rows": None})
    Z = sample_matrices(request, data, [trace.group("stem")], {"stem": 120}, True)["stem"]
    (up, a), (head, c) = inputs_of(module, data)["stem"]
    with torch.no_grad():
        from_up = torch.cdist(Z, rows_by_hand(up, a, torch.arange(6), 6)).min(1).values < 1e-5
        from_head = torch.cdist(Z, rows_by_hand(head, c, torch.arange(6), 6)).min(1).values < 1e-5
    assert (int(from_up.sum()), int((from_head & ~from_up).sum())) == (80, 40)  # 8 and 4 outputs


def test_a_backward_pass_takes_no_more_images_than_fit() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 4)).eval()
    trace = trace_channels(net, torch.randn(1, 3, 8, 8))
    per_image = 4 * (512 + 512 + 512 + 4)  # convolution, ReLU, flatten and the scores
    assert fitting_batch(trace, 64) == 64
    assert fitting_batch(trace, 64, limit_bytes=10 * per_image) == 10
    assert fitting_batch(trace, 64, limit_bytes=1) == 1


def test_large_networks_are_scored_on_fewer_images() -> None:
    trace = trace_channels(ZOO["Plain"].build(), ZOO["Plain"].example)
    macs = count_cost(trace).macs
    assert affordable_images(trace, "conductance", 256) == 256 and affordable_images(trace, "taylor", 5) == 5
    large = SimpleNamespace(macs=int(4.1e9))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.measure.importance.count_cost", lambda _: large)
        found = {name: affordable_images(trace, name, 256) for name in ("weight-l1", "apoz", "taylor", "conductance")}
    assert found == {"weight-l1": 256, "apoz": 256, "taylor": 243, "conductance": 38} and macs < 1e9
