"""Scans whose answers were recorded are the scans themselves: what the ranking's bench says rests on it."""

from __future__ import annotations

import pytest

from core.measure.importance import score_channels
from core.measure.sensitivity import _batch_size, _chosen_groups, _plan_forks, scan_sensitivity
from core.records import Plan
from core.trace import trace_channels
from tests.bench.recorded import Recorded
from tests.core.measure.test_sensitivity import Residual, network, pictures

FRACTIONS = (0.2, 0.4, 0.6, 0.8)


@pytest.mark.parametrize("effort", [0.3, 1.0])
def test_a_recorded_scan_is_the_scan(effort: float) -> None:
    module, data = network(Residual), pictures(60)
    trace = trace_channels(module, data.images)
    scores = score_channels(trace, None, "weight-l2")
    forks = _plan_forks(_chosen_groups(trace, None), scores, FRACTIONS, Plan({}))
    recorded = Recorded(trace, data, forks, _batch_size(trace, None, len(data)))
    for seed in (0, 1):
        real = scan_sensitivity(trace, data, FRACTIONS, scores, effort=effort, seed=seed)
        with recorded.handed_out():
            found = scan_sensitivity(trace, data, FRACTIONS, scores, effort=effort, seed=seed)
        assert found.complete == real.complete == (effort == 1.0)
        for name, points in real.points.items():
            for a, b in zip(points, found.points[name], strict=True):
                assert (a.kept, a.images, a.accuracy) == (b.kept, b.images, b.accuracy)
                assert a.loss == pytest.approx(b.loss, rel=1e-5)
