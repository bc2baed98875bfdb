"""Pivoted QR against its definition, step by step."""

from __future__ import annotations

import pytest
import torch

from core.solvers.intervals import wilson
from core.solvers.pivoted_qr import Triangle, pivot_scores, pivoted_cholesky, pivoted_qr


def greedy(Z: torch.Tensor) -> tuple[list[int], list[float]]:
    """The definition: take the longest column, project it out of the others, repeat."""
    rest, order, lengths = Z.double().clone(), [], []
    for _ in range(Z.shape[1]):
        norms = rest.norm(dim=0)
        norms[order] = -1
        best = int(norms.argmax())
        direction = rest[:, best] / norms[best]
        order.append(best)
        lengths.append(float(norms[best]))
        rest = rest - torch.outer(direction, direction @ rest)
    return order, lengths


def test_follows_the_definition() -> None:
    Z = torch.randn(40, 9, generator=torch.Generator().manual_seed(1)) * torch.arange(1, 10)
    before = Z.clone()
    pivots, diagonal = pivoted_qr(Z)
    order, lengths = greedy(Z)
    assert pivots.tolist() == order and torch.equal(Z, before)
    torch.testing.assert_close(diagonal, torch.tensor(lengths, dtype=torch.float64))


@pytest.mark.parametrize("sizes", [[3000], [7, 1, 2500, 492], [1500, 1500], [5, 3]])
def test_pieces_give_what_the_whole_gives(sizes: list[int]) -> None:
    Z = torch.randn(sum(sizes), 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    Z[:, 3] = 0.0
    whole = Triangle(9)
    for piece in Z.split(sizes):
        whole.add(piece)
    R = whole.found()
    assert len(R) <= 9
    torch.testing.assert_close(R.T @ R, Z.T @ Z)
    (pivots, diagonal), (expected, lengths) = pivoted_qr(R), pivoted_qr(Z)
    assert torch.equal(pivots, expected)
    torch.testing.assert_close(diagonal, lengths)
    assert diagonal[pivots.tolist().index(3)] == 0.0
    assert Triangle(4).found().shape == (0, 4)


def test_large_and_tall_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    Z = torch.randn(400, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected, lengths = pivoted_qr(Z)
    monkeypatch.setattr("core.solvers.pivoted_qr.LARGE", 0)
    pivots, diagonal = pivoted_qr(Z)
    assert torch.equal(pivots, expected)
    torch.testing.assert_close(diagonal, lengths)


def test_by_hand() -> None:
    """Columns (3,0), (0,2), (3,1): the third is longest; what is left of the others is 3/sqrt 10 and 6/sqrt 10."""
    pivots, diagonal = pivoted_qr(torch.tensor([[3.0, 0.0, 3.0], [0.0, 2.0, 1.0]]))
    assert pivots.tolist()[:2] == [2, 1]
    torch.testing.assert_close(diagonal, torch.tensor([10**0.5, 6 / 10**0.5, 0.0], dtype=torch.float64))


def test_spanned_columns_get_zero_and_keep_their_order() -> None:
    base = torch.randn(30, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    Z = torch.cat([base, base[:, :2], base.sum(1, keepdim=True)], dim=1)
    pivots, diagonal = pivoted_qr(Z)
    assert (diagonal[:3] > 0).all() and (diagonal[3:] == 0).all() and sorted(pivots.tolist()) == list(range(6))
    scores = pivot_scores(pivots, diagonal)
    assert torch.argsort(scores, descending=True).tolist() == pivots.tolist()
    assert (scores[pivots] <= diagonal).all() and len(set(scores.tolist())) == 6
    torch.testing.assert_close(scores[pivots], diagonal, rtol=1e-15, atol=1e-300)


def test_equal_columns_and_nothing_at_all() -> None:
    scores = pivot_scores(*pivoted_qr(torch.zeros(5, 4)))
    assert len(set(scores.tolist())) == 4 and torch.isfinite(scores).all()
    pivots, diagonal = pivoted_qr(torch.eye(4))
    assert torch.argsort(pivot_scores(pivots, diagonal), descending=True).tolist() == pivots.tolist()


def test_a_permutation_of_columns_permutes_the_scores() -> None:
    Z = torch.randn(50, 8, generator=torch.Generator().manual_seed(2))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    scores, moved = pivot_scores(*pivoted_qr(Z)), pivot_scores(*pivoted_qr(Z[:, order]))
    torch.testing.assert_close(moved, scores[order])


def test_wilson_interval() -> None:
    """Known values (Newcombe 1998, table I: 81/263, 15/148, 0/20, 1/29)."""
    for correct, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert [round(end, 4) for end in wilson(correct, n)] == [low, high]
    assert wilson(0, 0) == (0.0, 1.0) and wilson(20, 20)[1] == 1.0
    low, high = wilson(90, 100, z=1.0)
    assert abs(((0.9 - low) ** 2) - low * (1 - low) / 100) < 1e-12 and low < 0.9 < high


def test_cholesky_takes_the_same_pivots_from_the_moments_alone() -> None:
    Z = torch.randn(40, 9, generator=torch.Generator().manual_seed(1)).double() * torch.arange(1, 10)
    Z[:, 4] = Z[:, 2] - Z[:, 7]
    G = Z.T @ Z
    before = G.clone()
    pivots, diagonal = pivoted_cholesky(G)
    expected, lengths = pivoted_qr(Z)
    assert pivots.tolist()[:-1] == expected.tolist()[:-1] and sorted(pivots.tolist()) == list(range(9))
    torch.testing.assert_close(diagonal[:-1], lengths[:-1])
    assert diagonal[-1] < 1e-6 and torch.equal(G, before)
