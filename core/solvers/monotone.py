"""Curves that can only rise, from measurements that do not know it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import isotonic_regression

ROUNDING = 1e-9  # by which a mean of equal values may miss them
BOUNDLESS = 1e200


def rising(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The rising curve nearest to ``values`` in weighted squares (isotonic regression: Barlow et al. 1972).

    Where values fall, they and those before them become their common mean: the last of such a run lies at or below
    it, the first at or above. A value that overflowed or is no number counts as BOUNDLESS.
    """
    finite = np.nan_to_num(np.asarray(values, dtype=float), nan=BOUNDLESS, posinf=BOUNDLESS, neginf=-BOUNDLESS)
    return [float(value) for value in isotonic_regression(finite, weights=weights).x] if len(finite) else []
