"""The LASSO path: its knots against scikit-learn and against coordinate descent on the explicit design matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import lars_path
from torch import Tensor

from core.errors import MeasureError
from core.measure.importance import moments, score_channels
from core.solvers.lasso import lasso_path
from tests.core.measure.pictured import readers, stacked_design, zoo_subject

NETS = ("ResidualProjection", "DenseBlock", "InvertedResidual", "Transposed", "Plain", "OneD")


def draw(rows: int, columns: int, seed: int) -> tuple[Tensor, Tensor]:
    """Correlated columns and a target with noise, so that coefficients change sign and leave again."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    Z = torch.randn(rows, columns, generator=generator, dtype=torch.float64) @ mix
    beta = torch.randn(columns, generator=generator, dtype=torch.float64)
    return Z, Z @ beta + 3 * torch.randn(rows, generator=generator, dtype=torch.float64)


def second_moments(Z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return Z.T @ Z / len(Z), Z.T @ y / len(Z)


def coordinate_descent(Z: Tensor, y: Tensor, strength: float, rounds: int = 4000) -> Tensor:
    """min 1/(2N) ||y - Z beta||^2 + strength ||beta||_1, one coefficient at a time, from the rows themselves."""
    beta, rest = np.zeros(Z.shape[1]), y.numpy().copy()
    columns, N = Z.numpy(), len(Z)
    squares = (columns**2).sum(0) / N
    for _ in range(rounds):
        before = beta.copy()
        for i in range(len(beta)):
            if squares[i] == 0:
                continue
            rho = columns[:, i] @ rest / N + squares[i] * beta[i]
            new = np.sign(rho) * max(abs(rho) - strength, 0) / squares[i]
            rest += columns[:, i] * (beta[i] - new)
            beta[i] = new
        if np.abs(beta - before).max() < 1e-14:
            break
    return torch.from_numpy(beta)


@pytest.mark.parametrize("seed", range(6))
def test_the_path_is_scikit_learn_s(seed: int) -> None:
    Z, y = draw(60, 12, seed)
    path = lasso_path(*second_moments(Z, y))
    alphas, _, coefficients = lars_path(Z.numpy(), y.numpy(), method="lasso")
    assert len(path.lambdas) == len(alphas)
    torch.testing.assert_close(path.lambdas, torch.from_numpy(alphas.copy()), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(path.betas, torch.from_numpy(coefficients.T.copy()), rtol=1e-7, atol=1e-8)
    for column in range(12):
        first = int(np.flatnonzero(coefficients[column])[0]) - 1  # the knot at which it sets out from 0
        assert float(path.entered[column]) == pytest.approx(alphas[first], rel=1e-8)


def test_some_of_these_paths_have_columns_that_leave() -> None:
    knots = [len(lasso_path(*second_moments(*draw(60, 12, seed))).lambdas) for seed in range(6)]
    assert max(knots) > 13  # one knot a column and the end, when nothing ever leaves


@pytest.mark.parametrize("seed", range(3))
def test_between_knots_it_is_the_minimum(seed: int) -> None:
    Z, y = draw(40, 8, 10 + seed)
    path = lasso_path(*second_moments(Z, y))
    for share in (0.9, 0.5, 0.1, 0.01):
        strength = share * float(path.lambdas[0])
        torch.testing.assert_close(path.at(strength), coordinate_descent(Z, y, strength), rtol=1e-6, atol=1e-7)


def test_at_zero_it_is_least_squares_and_at_the_start_nothing() -> None:
    Z, y = draw(50, 9, 3)
    path = lasso_path(*second_moments(Z, y))
    torch.testing.assert_close(path.at(0.0), torch.linalg.lstsq(Z, y[:, None]).solution[:, 0])
    assert path.at(float(path.lambdas[0])).abs().max() == 0 and float(path.lambdas[-1]) == 0
    assert (path.lambdas[:-1] >= path.lambdas[1:]).all()


def test_dead_double_and_spanned_columns_never_enter() -> None:
    Z, y = draw(50, 5, 4)
    wide = torch.cat([Z, torch.zeros(50, 1), Z[:, :1], Z[:, 1:3].sum(1, keepdim=True)], dim=1)
    entered = lasso_path(*second_moments(wide.double(), y)).entered
    assert entered[5] == 0 and int((entered > 0).sum()) == 5  # of columns that span each other some stay out
    assert (entered[0] > 0) and entered[6] == 0
    assert lasso_path(torch.zeros(3, 3), torch.zeros(3)).entered.tolist() == [0, 0, 0]


def test_by_hand() -> None:
    """Orthogonal columns: each enters at its own |b|."""
    G, b = torch.diag(torch.tensor([1.0, 2.0, 4.0])), torch.tensor([0.5, -3.0, 1.0])
    path = lasso_path(G, b)
    torch.testing.assert_close(path.entered, b.abs().double())
    torch.testing.assert_close(path.at(0.5), torch.tensor([0.0, -1.25, 0.125], dtype=torch.float64))


# -- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_scores_are_the_path_of_the_explicit_design(name: str) -> None:
    """All positions are read, so nothing is sampled: the same lambdas as sklearn's on He's full Z."""
    module, data, trace = zoo_subject(name)
    scores = score_channels(trace, data, "lasso", positions=10_000).scores
    checked = 0
    for group in trace.groups:
        if not group.by_role("consumer"):
            assert scores[group.id].abs().max() == 0
            continue
        Z = 1e4 * stacked_design(readers(module, trace, group, data.images), group.units)  # far from sklearn's floor
        alphas, _, coefficients = lars_path(Z.numpy(), Z.sum(1).numpy(), method="lasso")
        knots = [np.flatnonzero(row) for row in coefficients]
        entered = [alphas[found[0] - 1] * len(Z) / 1e8 if len(found) else 0.0 for found in knots]
        torch.testing.assert_close(scores[group.id], torch.tensor(entered), rtol=1e-6, atol=1e-9, msg=group.id)
        checked += 1
    assert checked >= len(trace.prunable) + len(trace.gathers)


def test_other_groups_channels_stay_as_they_are() -> None:
    """A layer that reads two groups: coordinate descent on the first one's columns, the second's share left out."""
    module, data, trace = zoo_subject("DenseBlock")
    group = trace.group("c1")
    Z = stacked_design(readers(module, trace, group, data.images), group.units)
    scores = score_channels(trace, data, "lasso", positions=10_000).scores["c1"]
    for value in scores.tolist():
        for factor, count in ((1.0001, 0), (0.9999, 1)):
            beta = coordinate_descent(Z, Z.sum(1), value * factor / len(Z))
            enters = int((scores > value).sum())
            assert int((beta != 0).sum()) == enters + count


def test_a_channel_that_another_replaces_never_enters() -> None:
    module: Any
    module, data, trace = zoo_subject("ResidualProjection")
    with torch.no_grad():
        for tensor in (module.a[0].weight, *(v for v in module.a.state_dict(keep_vars=True).values() if v.dim() == 1)):
            tensor[3] = tensor[0]
        module.b[0].weight[:, 3] = module.b[0].weight[:, 0]
    scores = score_channels(trace, data, "lasso").scores["a.0"]
    assert sorted([float(scores[0]) > 0, float(scores[3]) > 0]) == [False, True]


def test_very_wide_readers_are_scored_by_contributions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same Gram matrix, had without the moments of all inputs, as long as every output is taken."""
    _, data, trace = zoo_subject("DenseBlock")
    usual = score_channels(trace, data, "lasso").scores
    monkeypatch.setattr(moments, "FULL_ENTRIES", 8)
    other = score_channels(trace, data, "lasso").scores
    for name in usual:
        torch.testing.assert_close(other[name], usual[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["lasso", "cap"])
def test_little_memory_means_more_walks_not_other_scores(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, data, trace = zoo_subject("DenseBlock")
    usual = score_channels(trace, data, name).scores
    monkeypatch.setattr(moments, "MEMORY_BYTES", 1)
    monkeypatch.setattr(moments, "PIECE_BYTES", 4096)
    other = score_channels(trace, data, name).scores
    assert list(other) == list(usual)
    for group in usual:
        torch.testing.assert_close(other[group], usual[group], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["lasso", "cap"])
def test_sampling_is_seeded_bit_by_bit_and_options_are_checked(name: str) -> None:
    _, data, trace = zoo_subject("ResidualProjection", count=20)
    first = score_channels(trace, data, name, seed=1, positions=3).scores
    again = score_channels(trace, data, name, seed=1, positions=3).scores
    other = score_channels(trace, data, name, seed=2, positions=3).scores
    assert all(torch.equal(first[group], again[group]) for group in first)
    assert any(not torch.equal(first[group], other[group]) for group in first)
    for wrong in (0, -1, 2.5, True, "all"):
        with pytest.raises(MeasureError, match="positions"):
            score_channels(trace, data, name, positions=wrong)


def test_few_positions_tell_nearly_the_same_as_all() -> None:
    _, data, trace = zoo_subject("ResidualProjection", count=60)
    full = score_channels(trace, data, "lasso", positions=10_000).scores["a.0"]
    part = score_channels(trace, data, "lasso", positions=4).scores["a.0"]
    assert float((part - full).abs().max()) < 0.15 * float(full.max())
