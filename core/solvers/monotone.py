"""Curves that can only rise, from measurements that do not know it."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.optimize import isotonic_regression


def rising(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The rising curve nearest to ``values`` in weighted squares (isotonic regression: Barlow et al. 1972).

    Where values fall, they and those before them become their common mean: the last of such a run lies at or below
    it, the first at or above.
    """
    return [float(value) for value in isotonic_regression(values, weights=weights).x] if len(values) else []
