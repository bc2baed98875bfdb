"""Choices from moments, against choices made on the rows themselves."""

from __future__ import annotations

import itertools

import pytest
import scipy.linalg
import torch
from torch import Tensor

from core.apply import choosers
from core.apply.choosers import CHOOSERS, Seen
from core.solvers.least_squares import Moments

UNITS, KERNEL, OUTPUTS, ROWS = 6, 3, 4, 400


def rows(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x: (rows, units * kernel), correlated; W; y = W x + noise."""
    generator = torch.Generator().manual_seed(seed)
    p = UNITS * KERNEL
    mix = torch.randn(p, p, generator=generator, dtype=torch.float64)
    x = torch.randn(ROWS, p, generator=generator, dtype=torch.float64) @ mix + 1.0
    W = torch.randn(OUTPUTS, p, generator=generator, dtype=torch.float64)
    y = x @ W.T + torch.randn(ROWS, OUTPUTS, generator=generator, dtype=torch.float64)
    return x, W, y


def seen_of(x: Tensor, W: Tensor, y: Tensor) -> Seen:
    moments = Moments(x.shape[1], OUTPUTS)
    moments.add(x, y)
    spread = float((y - y.mean(0)).square().mean(0).sum())
    unit_of = torch.arange(UNITS).repeat_interleave(KERNEL)
    return Seen(W, moments.covariance(), moments.cross(), spread, unit_of, UNITS)


def left_by(x: Tensor, y: Tensor, units: tuple[int, ...]) -> float:
    """Share of y's variance that the best fit on these units leaves."""
    x, y = x - x.mean(0), y - y.mean(0)
    places = [KERNEL * unit + k for unit in units for k in range(KERNEL)]
    fit = torch.linalg.lstsq(x[:, places], y).solution
    return float((y - x[:, places] @ fit).square().sum() / y.square().sum())


def test_greedy_steps_are_those_of_brute_force() -> None:
    x, W, y = rows()
    choice = CHOOSERS["greedy"](seen_of(x, W, y), 3)
    chosen: tuple[int, ...] = ()
    assert choice.path["left"][0] == pytest.approx(1.0)
    for step in range(3):
        best = min((u for u in range(UNITS) if u not in chosen), key=lambda u: left_by(x, y, (*chosen, u)))
        assert choice.order[step] == best
        chosen += (best,)
        assert choice.path["left"][step + 1] == pytest.approx(left_by(x, y, chosen), rel=1e-4)


@pytest.mark.parametrize("count", range(1, UNITS + 1))
def test_lasso_keeps_exactly_as_many_as_asked_for(count: int) -> None:
    for seed in range(5):
        x, W, y = rows(seed)
        choice = CHOOSERS["lasso"](seen_of(x, W, y), count)
        assert sorted(choice.order) == list(range(UNITS))
        support = {unit for unit, beta in enumerate(choice.path["betas"]) if beta}
        assert len(support) == count and support == set(choice.order[:count])


def test_lasso_is_optimal_where_it_stops() -> None:
    """The conditions of a minimum, on the contributions themselves: |z_i . residual| <= lambda, = on the support."""
    x, W, y = rows(3)
    choice = CHOOSERS["lasso"](seen_of(x, W, y), 3)
    parts = [(x[:, KERNEL * u : KERNEL * (u + 1)] @ W[:, KERNEL * u : KERNEL * (u + 1)].T) for u in range(UNITS)]
    Z = torch.stack([(part - part.mean(0)).flatten() for part in parts], 1)
    beta = torch.tensor(choice.path["betas"], dtype=torch.float64)
    slopes = Z.T @ ((y - y.mean(0)).flatten() - Z @ beta) / ROWS
    for unit in range(UNITS):
        if beta[unit]:
            assert float(slopes[unit] * beta[unit].sign()) == pytest.approx(choice.path["lambda"], abs=1e-6)
        else:
            assert abs(float(slopes[unit])) <= choice.path["lambda"] + 1e-6


def test_qr_takes_lapacks_pivots_of_the_contributions() -> None:
    for seed in range(5):
        x, W, y = rows(seed)
        parts = [(x[:, KERNEL * u : KERNEL * (u + 1)] @ W[:, KERNEL * u : KERNEL * (u + 1)].T) for u in range(UNITS)]
        Z = torch.stack([(part - part.mean(0)).flatten() for part in parts], 1) / ROWS**0.5
        triangle, pivots = scipy.linalg.qr(Z.numpy(), mode="r", pivoting=True)
        choice = CHOOSERS["qr"](seen_of(x, W, y), 2)
        assert list(choice.order) == pivots.tolist()
        assert choice.path["diagonal"] == pytest.approx(abs(triangle.diagonal()).tolist(), rel=1e-6)


def test_inputs_that_stay_are_no_units() -> None:
    x, W, y = rows()
    for name, skipped in itertools.product(CHOOSERS.names(), (0, 2)):
        seen = seen_of(x, W, y)
        unit_of = torch.where(seen.unit_of == skipped, -1, seen.unit_of - (seen.unit_of > skipped).long())
        choice = CHOOSERS[name](Seen(W, seen.covariance, seen.cross, seen.spread, unit_of, UNITS - 1), 2)
        assert sorted(choice.order) == list(range(UNITS - 1))


def test_dead_and_equal_channels_do_no_harm() -> None:
    x, W, y = rows()
    x[:, :KERNEL] = 3.0  # constant: nothing once means are taken out
    x[:, KERNEL : 2 * KERNEL] = x[:, 2 * KERNEL : 3 * KERNEL]
    for row in CHOOSERS:
        choice = row.value(seen_of(x, W, y), 4)
        assert sorted(choice.order) == list(range(UNITS)), row.name
        assert 0 not in choice.order[:4], row.name


@pytest.mark.parametrize("name", ["lasso", "qr"])
@pytest.mark.parametrize("count", [1, 3, UNITS - 1])
def test_where_units_are_very_many_the_same_ones_stay(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = seen_of(*rows())
    whole = CHOOSERS[name](seen, count)
    monkeypatch.setattr(choosers, "MANY_UNITS", UNITS - 1)
    short = CHOOSERS[name](seen, count)
    assert set(short.order[:count]) == set(whole.order[:count]) and sorted(short.order) == list(range(UNITS))
