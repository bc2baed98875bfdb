"""Pivoted QR of contributions and of activations against scipy on explicit matrices; one rule for many readers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from core.measure.importance import score_channels
from core.measure.importance.criteria import Request
from core.measure.importance.pivots import sample_matrices
from core.records import Group, ImageData, Trace
from tests.core.measure.pictured import readers, stacked_design, zoo_subject

NETS = ("ResidualProjection", "DenseBlock", "InvertedResidual", "Transposed", "Plain", "TokenBlock")
BOTH = pytest.mark.parametrize("name", ["qr", "qr-activation"])


def matrices(trace: Trace, data: ImageData, groups: list[Group], name: str, rows: int) -> dict[str, Tensor]:
    request = Request(trace, data, 0, 64, {"rows": rows})
    return sample_matrices(request, data, groups, {group.id: rows for group in groups}, name == "qr")


@BOTH
@pytest.mark.parametrize("net", NETS)
def test_one_reader_scores_are_scipy_s_diagonal_of_the_sampled_rows(net: str, name: str) -> None:
    """With one reader its length is one factor for all: the ratios of the scores are those of |R_ii|."""
    _, data, trace = zoo_subject(net)
    scores = score_channels(trace, data, name, rows=400).scores
    checked = 0
    for group in trace.groups:
        if len(group.by_role("consumer")) != 1:
            continue
        Z = matrices(trace, data, [group], name, 400)[group.id]
        triangle, pivots = scipy.linalg.qr(Z.numpy(), mode="r", pivoting=True)
        diagonal = torch.from_numpy(np.abs(np.diagonal(triangle)).copy())
        found = scores[group.id][torch.from_numpy(pivots.astype(np.int64))]
        clear = diagonal > 1e-9 * diagonal[0]
        torch.testing.assert_close((found / found[0])[clear], (diagonal / diagonal[0])[clear], rtol=1e-8, atol=1e-9)
        checked += 1
    assert checked >= 1


@pytest.mark.parametrize("net", ["ResidualProjection", "DenseBlock", "InvertedResidual"])
def test_many_sampled_rows_come_near_the_full_stacked_matrix(net: str) -> None:
    """|R_ii| of all rows of all readers, each over its output energy: the first pivots agree within sampling noise."""
    module, data, trace = zoo_subject(net)
    scores = score_channels(trace, data, "qr", rows=40_000).scores
    for group in trace.groups:
        if not group.by_role("consumer"):
            continue
        Z = stacked_design(readers(module, trace, group, data.images), group.units)
        triangle, pivots = scipy.linalg.qr(Z.numpy(), mode="r", pivoting=True)
        full = torch.from_numpy(np.abs(np.diagonal(triangle)).copy())
        found = scores[group.id].sort(descending=True).values
        torch.testing.assert_close(found[:3], full[:3], rtol=0.08, atol=0, msg=group.id)
        assert int(scores[group.id].argmax()) in pivots[:2].tolist()


@pytest.mark.parametrize("name", ["qr", "lasso", "cap"])
def test_a_reader_s_own_scale_does_not_matter(name: str) -> None:
    """One of two readers made 1,000 times as loud: every reader is divided by its own energy."""
    module: Any
    module, data, trace = zoo_subject("ResidualProjection")
    before = score_channels(trace, data, name).scores["stem.0"]
    with torch.no_grad():
        module.down[0].weight *= 1000
    after = score_channels(trace, data, name).scores["stem.0"]
    torch.testing.assert_close(after, before, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["qr", "qr-activation", "lasso", "cap"])
def test_a_gather_is_scored_on_its_one_reader(name: str) -> None:
    """What only the other reader needs is worth nothing to this one."""
    module: Any
    module, data, trace = zoo_subject("ResidualProjection")
    with torch.no_grad():
        module.down[0].weight[:, 1] = 0
    scores = score_channels(trace, data, name).scores
    if name == "qr-activation":  # which sees no weights: both readers read one tensor
        assert torch.equal(scores["gather:down.0"].argsort(), scores["gather:a.0"].argsort())
        return
    assert float(scores["gather:down.0"][1]) <= 1e-5 * float(scores["gather:down.0"].max())
    assert float(scores["gather:a.0"][1]) > 1e-3 * float(scores["gather:a.0"].max())
    assert float(scores["stem.0"][1]) > 1e-3 * float(scores["stem.0"].max())


class Halves(nn.Module):
    """A reader of 12,800 inputs: beyond what moments of all inputs are kept for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8 * 40 * 40, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.fc(torch.relu(self.conv(x)).flatten(1))))


@pytest.mark.parametrize("name", ["lasso", "cap", "qr"])
def test_a_very_wide_reader_costs_no_more_than_its_units(name: str) -> None:
    from core.trace import trace_channels

    torch.manual_seed(0)
    module = Halves().eval()
    with torch.no_grad():
        module.fc.weight[:, 3 * 1600 : 4 * 1600] = 0
    batch = torch.randn(12, 3, 40, 40)
    data = ImageData(batch, torch.arange(12) % 4, tuple("abcd"), "noise", (0.0,) * 3, (1.0,) * 3)
    scores = score_channels(trace_channels(module, batch[:1]), data, name).scores["conv"]
    assert scores.shape == (8,) and int(scores.argmin()) == 3 and float(scores[3]) <= 1e-6 * float(scores.max())
