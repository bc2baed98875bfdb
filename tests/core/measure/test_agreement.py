"""The correlation matrix against scipy's, pair by pair."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from core.errors import MeasureError
from core.measure.importance import score_channels
from core.measure.importance.agreement import compare_criteria, spearman
from core.records import Scores, Trace
from core.trace import trace_channels
from tests.contracts.test_criteria import pictures
from tests.zoo import ZOO

NAMES = ["weight-l1", "weight-l2", "fpgm", "taylor", "apoz", "oracle"]


@pytest.fixture(scope="module")
def trace() -> Trace:
    net = ZOO["InvertedResidual"]
    return trace_channels(net.build(), net.example)


@pytest.fixture(scope="module")
def scores(trace: Trace) -> dict[str, Scores]:
    data = pictures(ZOO["InvertedResidual"])
    return {name: score_channels(trace, data, name) for name in NAMES}


def test_matrices_are_scipys(trace: Trace, scores: dict[str, Scores]) -> None:
    found = compare_criteria(trace, scores)
    groups = [group.id for group in trace.prunable]
    assert found.criteria == tuple(NAMES) and found.groups == tuple(groups) and len(groups) > 1
    assert found.units == sum(group.units for group in trace.prunable)
    for a, first in enumerate(NAMES):
        for b, second in enumerate(NAMES):
            mine, other = scores[first].scores, scores[second].scores
            each = [float(spearmanr(mine[group], other[group]).statistic) for group in groups]
            for group, value in zip(groups, each, strict=True):
                assert float(found.by_group[group][a, b]) == pytest.approx(value, abs=1e-12)
            assert float(found.within[a, b]) == pytest.approx(sum(each) / len(each), abs=1e-12)
            pooled = [torch.cat([table[group] for group in groups]) for table in (mine, other)]
            scaled = [torch.cat([table[g] / table[g].norm() for g in groups]) for table in (mine, other)]
            assert float(found.overall[a, b]) == pytest.approx(float(spearmanr(*pooled).statistic), abs=1e-12)
            assert float(found.scaled[a, b]) == pytest.approx(float(spearmanr(*scaled).statistic), abs=1e-12)
            assert found.between(first, second) == tuple(
                float(matrix[a, b]) for matrix in (found.within, found.overall, found.scaled)
            )


def test_a_matrix_is_symmetric_with_a_diagonal_of_ones(trace: Trace, scores: dict[str, Scores]) -> None:
    found = compare_criteria(trace, scores)
    for matrix in (found.within, found.overall, found.scaled):
        assert matrix.dtype == torch.float64 and torch.equal(matrix, matrix.T)
        torch.testing.assert_close(matrix.diagonal(), torch.ones(len(NAMES), dtype=torch.float64))
        assert float(matrix.abs().max()) <= 1


def test_ties_share_their_rank_and_a_constant_side_has_no_correlation() -> None:
    table = torch.tensor([[1.0, 2, 2, 3, 9], [0, 0, 5, 5, 1], [4, 4, 4, 4, 4]]).double()
    found = spearman(table.numpy())
    assert float(found[0, 1]) == pytest.approx(float(spearmanr(table[0], table[1]).statistic), abs=1e-12)
    assert bool(found[2].isnan().all()) and bool(found[:, 2].isnan().all())


def test_a_group_where_one_side_is_constant_does_not_count_within(trace: Trace) -> None:
    def by(make: dict[str, Tensor]) -> Scores:
        return Scores("any", make)

    first, *others = trace.prunable
    rising = {group.id: torch.arange(group.units).double() for group in trace.prunable}
    flat = {**rising, first.id: torch.ones(first.units).double()}
    found = compare_criteria(trace, {"rising": by(rising), "flat": by(flat)})
    assert bool(found.by_group[first.id][0, 1].isnan()) and len(others) > 0
    assert found.between("rising", "flat")[0] == pytest.approx(1.0)


def test_only_groups_that_all_have_are_compared_unless_they_are_named(trace: Trace, scores: dict[str, Scores]) -> None:
    first, last = trace.prunable[0].id, trace.prunable[-1].id
    part = Scores("oracle", {last: scores["oracle"].scores[last]})  # an oracle of one group
    assert compare_criteria(trace, {"taylor": scores["taylor"], "part": part}).groups == (last,)
    with pytest.raises(MeasureError, match=f"part has no scores for group {first}"):
        compare_criteria(trace, {"taylor": scores["taylor"], "part": part}, [first])
    named = compare_criteria(trace, {name: scores[name] for name in NAMES[:2]}, [first])
    assert torch.equal(named.within, named.overall) and named.units == trace.group(first).units


def test_what_cannot_be_compared_is_said(trace: Trace, scores: dict[str, Scores]) -> None:
    with pytest.raises(MeasureError, match="two or more criteria"):
        compare_criteria(trace, {"taylor": scores["taylor"]})
    with pytest.raises(MeasureError, match="no group in common"):
        compare_criteria(trace, {"a": Scores("a", {}), "b": scores["taylor"]})
    group = trace.prunable[0]
    for wrong in (torch.ones(group.units + 1).double(), torch.full((group.units,), float("nan")).double()):
        with pytest.raises(MeasureError, match=rf"Group {group.id}: expected {group.units} finite scores by b"):
            compare_criteria(trace, {"a": scores["taylor"], "b": Scores("b", {group.id: wrong})})
    with pytest.raises(MeasureError, match="'no-such' was not compared"):
        compare_criteria(trace, scores).between("taylor", "no-such")
