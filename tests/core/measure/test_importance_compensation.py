"""The compensation-aware order against brute-force greedy, where every least squares is solved anew from all rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.measure.importance import score_channels
from core.solvers.greedy import Design, forward_greedy
from core.solvers.least_squares import RIDGE
from tests.core.measure.pictured import readers, zoo_subject

Explicit = tuple[Tensor, Tensor, Tensor, float]  # rows x, (N, p); W, (q, p); unit of each input; energy


def centred(X: Tensor, ridge: float) -> Tensor:
    """Rows about their mean over sqrt N, with the ridge as rows of their own: X^T X is the damped covariance."""
    X = (X - X.mean(0)) / len(X) ** 0.5
    damping = (ridge * float(X.square().sum(0).mean())) ** 0.5
    return torch.cat([X, damping * torch.eye(X.shape[1], dtype=X.dtype)])


def error_left(parts: Sequence[Explicit], kept: Sequence[int], ridge: float = RIDGE) -> float:
    """Sum over readers of || Y - X_S W' ||^2 / energy with W' from lstsq."""
    total = 0.0
    for rows, W, unit_of, energy in parts:
        X = centred(rows, ridge)
        Y = X @ W.T
        here = (unit_of < 0) | torch.isin(unit_of, torch.tensor(list(kept), dtype=torch.int64))
        made = X[:, here] @ torch.linalg.lstsq(X[:, here], Y).solution if bool(here.any()) else torch.zeros_like(Y)
        total += float((Y - made).square().sum()) / energy
    return total


def brute_force(parts: Sequence[Explicit], units: int) -> tuple[list[int], list[float]]:
    order: list[int] = []
    left = [error_left(parts, ())]
    while len(order) < units:
        trials = {unit: error_left(parts, [*order, unit]) for unit in range(units) if unit not in order}
        order.append(min(trials, key=lambda unit: trials[unit]))
        left.append(trials[order[-1]])
    return order, left


def explicit(module: nn.Module, found: Sequence[tuple[Any, Tensor, Tensor]]) -> list[Explicit]:
    """Every patch that every reader sees, by unfold."""
    parts = []
    for layer, x, unit_of in found:
        if isinstance(layer, nn.Conv2d):
            geometry = {"padding": layer.padding, "stride": layer.stride, "dilation": layer.dilation}
            columns = F.unfold(x, layer.kernel_size, **geometry)  # type: ignore[arg-type]
            rows = columns.movedim(1, -1).flatten(0, -2)
        else:
            rows = x.reshape(-1, x.shape[-1])
        W = layer.weight.detach().flatten(1)
        energy = float((rows @ W.T).square().sum()) / len(rows)
        parts.append((rows, W, unit_of.repeat_interleave(rows.shape[1] // len(unit_of)), energy))
    return parts


def draw(units: int, size: int, outputs: int, seed: int, others: int = 0) -> Explicit:
    generator = torch.Generator().manual_seed(seed)
    p = units * size + others
    mix = torch.randn(p, p, generator=generator, dtype=torch.float64)
    X = torch.randn(200, p, generator=generator, dtype=torch.float64) @ mix + 3
    unit_of = torch.cat([torch.arange(units).repeat_interleave(size), torch.full((others,), -1)])
    unit_of = unit_of[torch.randperm(p, generator=generator)]
    return X, torch.randn(outputs, p, generator=generator, dtype=torch.float64), unit_of, 1.0 + seed


def designs(parts: Sequence[Explicit]) -> list[Design]:
    return [Design(W, torch.cov(X.T, correction=0), unit_of, 1 / energy) for X, W, unit_of, energy in parts]


@pytest.mark.parametrize("outputs", [1, 5, 40])
@pytest.mark.parametrize(("units", "size", "others"), [(8, 1, 0), (6, 4, 0), (6, 4, 3), (7, 1, 5)])
def test_the_order_is_brute_force_s(units: int, size: int, others: int, outputs: int) -> None:
    part = draw(units, size, outputs, seed=units + outputs, others=others)
    order, left = forward_greedy(designs([part]), units)
    slow, error = brute_force([part], units)
    assert order.tolist() == slow
    torch.testing.assert_close(left, torch.tensor(error, dtype=torch.float64), rtol=1e-6, atol=1e-7 * error[0])


def test_several_layers_count_by_their_weights_and_may_hold_a_unit_differently() -> None:
    parts = [draw(6, 3, 4, 0), draw(6, 1, 9, 1, others=2), draw(6, 2, 3, 2)]
    X, W, unit_of, energy = parts[2]
    unit_of = torch.where(unit_of == 5, 4, unit_of)  # this layer does not read unit 5, and unit 4 four times
    parts[2] = X, W, unit_of, energy
    order, left = forward_greedy(designs(parts), 6)
    slow, error = brute_force(parts, 6)
    assert order.tolist() == slow
    torch.testing.assert_close(left, torch.tensor(error, dtype=torch.float64), rtol=1e-6, atol=1e-7 * error[0])


def test_constant_units_go_first_and_doubles_next() -> None:
    X, W, unit_of, energy = draw(6, 1, 5, 3)
    places = [int((unit_of == unit).nonzero()) for unit in range(6)]
    X[:, places[2]] = 4.0
    X[:, places[4]] = X[:, places[1]]
    order, left = forward_greedy(designs([(X, W, unit_of, energy)]), 6)
    assert int(order[-1]) in (1, 2, 4) and {int(order[-1]), int(order[-2])} in ({2, 4}, {2, 1})
    assert float(left[4]) < 1e-5 * float(left[0]) and (left[1:] <= left[:-1]).all()


def test_by_hand() -> None:
    """y = 3a + 2b with independent a, b of variance 1: a leaves 4 of 13, b alone 9."""
    design = Design(torch.tensor([[3.0, 2.0]]), torch.eye(2), torch.arange(2))
    order, left = forward_greedy([design], 2, ridge=0.0)
    assert order.tolist() == [0, 1]
    torch.testing.assert_close(left, torch.tensor([13.0, 4.0, 0.0], dtype=torch.float64))


def test_nothing_to_choose() -> None:
    order, left = forward_greedy([], 0)
    assert order.tolist() == [] and left.tolist() == [0]


# -- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ResidualProjection", "DenseBlock", "InvertedResidual", "Plain", "TokenBlock"])
def test_scores_are_brute_force_s_on_all_patches(name: str) -> None:
    module, data, trace = zoo_subject(name, count=24)
    scores = score_channels(trace, data, "cap", positions=10_000).scores
    checked = 0
    for group in trace.groups:
        if not group.by_role("consumer"):
            assert scores[group.id].abs().max() == 0
            continue
        parts = explicit(module, readers(module, trace, group, data.images))
        order, left = brute_force(parts, group.units)
        values = scores[group.id][order]
        noise = 1e-5 * left[0]  # below it, rounding decides between units
        clear = sum(value > noise for value in left[:-1])
        expected = torch.tensor(left[:clear], dtype=torch.float64)
        torch.testing.assert_close(values[:clear], expected, rtol=1e-4, atol=noise, msg=group.id)
        assert float(scores[group.id].max()) <= left[0] * (1 + 1e-9) and len(set(values.tolist())) == group.units
        checked += 1
    assert checked >= len(trace.prunable) + len(trace.gathers)


def test_a_constant_channel_scores_lowest() -> None:
    """What a bias can replace costs nothing, however large it is."""
    module: Any
    module, data, trace = zoo_subject("Plain")
    with torch.no_grad():
        module.bn2.weight[3] = 0
        module.bn2.bias[3] = 50.0
    scores = score_channels(trace, data, "cap").scores["conv2"]
    assert int(scores.argmin()) == 3 and float(scores[3]) < 1e-6
    assert int(score_channels(trace, data, "lasso").scores["conv2"].argmax()) == 3  # which knows no bias
