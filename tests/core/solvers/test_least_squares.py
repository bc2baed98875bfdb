"""Least squares from moments, against the direct solution on the rows themselves."""

from __future__ import annotations

import pytest
import torch

from core.solvers.least_squares import Moments, compensate, divide, solve_least_squares


def rows(count: int = 400, p: int = 7, q: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(p, p, generator=generator, dtype=torch.float64)
    x = torch.randn(count, p, generator=generator, dtype=torch.float64) @ mix + 2
    y = torch.randn(count, q, generator=generator, dtype=torch.float64) + x[:, :q]
    return x, y


def moments(x: torch.Tensor, y: torch.Tensor | None) -> Moments:
    found = Moments(x.shape[1], 0 if y is None else y.shape[1])
    for part in torch.arange(len(x)).split(150):
        found.add(x[part], None if y is None else y[part])
    return found


@pytest.mark.parametrize("intercept", [True, False])
def test_equals_the_direct_solution(intercept: bool) -> None:
    x, y = rows()
    design = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1) if intercept else x
    direct = torch.linalg.lstsq(design, y).solution.T
    W, b = solve_least_squares(moments(x, y), ridge=0, intercept=intercept)
    assert torch.allclose(W, direct[:, :7], atol=1e-8)
    assert torch.allclose(b, direct[:, 7] if intercept else torch.zeros(3).double(), atol=1e-8)


def test_error_is_the_mean_square_of_the_rows() -> None:
    x, y = rows()
    W, b = torch.randn(3, 7).double(), torch.randn(3).double()
    direct = (y - x @ W.T - b).square().sum(1).mean()
    assert moments(x, y).error(W, b) == pytest.approx(float(direct), rel=1e-9)


def test_full_rank_is_exact() -> None:
    x, _ = rows()
    W, b = torch.randn(3, 7).double(), torch.randn(3).double()
    found, shift = solve_least_squares(moments(x, x @ W.T + b), ridge=0)
    assert torch.allclose(found, W, atol=1e-8) and torch.allclose(shift, b, atol=1e-7)


@pytest.mark.parametrize("intercept", [True, False])
def test_compensation_is_the_least_squares_of_what_the_weights_gave(intercept: bool) -> None:
    x, _ = rows()
    W = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kept = torch.tensor([True, False, True, True, False, True, False])
    seen = moments(x, None)
    closed, shift = compensate(W, seen.mean_x, seen.covariance(centred=intercept), kept, intercept=intercept)
    direct, b = solve_least_squares(moments(x[:, kept], x @ W.T), intercept=intercept)
    assert torch.allclose(closed, direct, atol=1e-8) and torch.allclose(shift, b, atol=1e-8)


def test_dead_inputs_are_harmless() -> None:
    x, y = rows()
    x[:, 2] = 0
    x[:, 5] = x[:, 4]
    W, _ = solve_least_squares(moments(x, y))
    assert W.isfinite().all() and float(W[:, 2].abs().max()) < 1e-6
    assert solve_least_squares(moments(torch.zeros_like(x), y))[0].abs().max() == 0


def test_divide_survives_indefinite_rounding() -> None:
    A = torch.diag(torch.tensor([1.0, 1.0, -1e-3], dtype=torch.float64))
    assert divide(torch.ones(1, 3, dtype=torch.float64), A, 0.0).isfinite().all()


def test_the_ridge_costs_no_digit_of_the_closed_form() -> None:
    """With the ridge that dead channels need, and still equal to the rows' own solution without any."""
    x, _ = rows()
    W = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kept = torch.tensor([True, False, True, True, False, True, False])
    seen = moments(x, None)
    closed, shift = compensate(W, seen.mean_x, seen.covariance(), kept)
    design = torch.cat([x[:, kept], torch.ones(len(x), 1, dtype=x.dtype)], 1)
    direct = torch.linalg.lstsq(design, x @ W.T).solution.T
    assert torch.allclose(closed, direct[:, :4], atol=1e-8) and torch.allclose(shift, direct[:, 4], atol=1e-8)
