"""Isotonic regression against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from core.solvers.monotone import rising


def test_rising_stays_falling_becomes_the_mean() -> None:
    assert rising([0.0, 1.0, 2.0], [1, 1, 1]) == [0.0, 1.0, 2.0]
    assert rising([0.0, 3.0, 0.0], [1, 1, 2]) == [0.0, 1.0, 1.0]
    assert rising([], []) == []


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_overflowed_is_above_everything(broken: float) -> None:
    found = rising([0.0, 0.1, broken, 0.2], [300, 30, 300, 300])
    assert found[:2] == [0.0, 0.1] and all(np.isfinite(found)) and found[2] == found[3] > 1e100


@pytest.mark.parametrize("seed", range(20))
def test_nothing_that_rises_is_nearer(seed: int) -> None:
    random = np.random.default_rng(seed)
    values, weights = random.normal(size=8), random.integers(1, 300, 8)
    found = np.array(rising(list(values), list(weights)))
    assert (np.diff(found) >= -1e-12).all()
    distance = float((weights * (found - values) ** 2).sum())
    for _ in range(200):
        other = np.sort(found + random.normal(scale=random.choice([1e-3, 0.1, 1.0]), size=8))
        assert float((weights * (other - values) ** 2).sum()) >= distance - 1e-12
    ends = [at for at in range(8) if at == 7 or found[at + 1] > found[at] + 1e-12]
    assert all(values[at] <= found[at] + 1e-12 for at in ends)  # what a run of equals ends with is not above it
