"""Facts of the lessons on choosing channels for the layer that reads them: LASSO path, pivoted QR, greedy choice.

All three look at one group through the eyes of its readers: what each channel adds to their outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from core.keep.subject import Subject
from core.learn.ground import Facts, contributions, filter_norms, names_of, read_group, readings_of
from core.measure.importance.compensation import ROWS_PER_INPUT
from core.measure.importance.moments import Reading
from core.solvers.greedy import Design, forward_greedy
from core.solvers.lasso import LassoPath, lasso_path
from core.solvers.least_squares import compensate
from core.solvers.pivoted_qr import pivoted_cholesky
from core.work.tasks import Progress, Stop

DRAWN = 64  # channels in a picture, and moments of a path
NEAR = 0.02  # a coefficient this near to 1 counts as 1
SOLVE_WORK = 4e9  # multiply-adds for solving weights at several widths


def lasso(subject: Subject, on_progress: Progress | None, cancelled: Stop | None) -> Facts:
    """The LASSO path of one group: who takes part at which penalty, and with which coefficient."""
    group = read_group(subject.trace)
    readings, images = readings_of(subject, group, on_progress, cancelled)
    G = contributions(readings, group.units)
    path = lasso_path(G, G.sum(1))
    counts = (path.betas != 0).sum(1)
    keep = group.units // 2
    place = int((counts >= keep).nonzero()[0]) if bool((counts >= keep).any()) else int(counts.argmax())
    beta = path.betas[place]
    stay = [unit for unit in torch.argsort(beta.abs(), descending=True, stable=True).tolist() if beta[unit] != 0]
    order = [unit for unit in torch.argsort(path.entered, descending=True, stable=True).tolist()]
    entered = [unit for unit in order if path.entered[unit] > 0]
    again = torch.linalg.lstsq(G[stay][:, stay], G[stay].sum(1, keepdim=True)).solution[:, 0]
    strongest, biggest = stay[0], float(beta.max())
    nth = min(4, len(entered))
    near = sorted({nth - 2, nth - 1, nth, len(entered) - 1} & set(range(len(entered))))
    whole = float(G.sum())
    return {
        "group": group.name, "readers": names_of(readings), "units": group.units, "images": images,
        "keep": len(stay), "penalty": float(path.lambdas[place]), "first_penalty": float(path.lambdas[0]),
        "strongest": strongest, "strongest_beta": float(beta[strongest]), "biggest": biggest,
        "above": int((beta > 1 + NEAR).sum()), "below": int(((beta < 1 - NEAR) & (beta != 0)).sum()),
        "answer": "over" if biggest > 1 + NEAR else "below" if bool((beta[stay] < 1 - NEAR).any()) else "one",
        "error": _left(G, beta) / whole, "again_error": _left(G, _placed(again, stay, group.units)) / whole,
        "whole": whole, "left": _left(G, beta), "dials": float(beta.abs().sum()),
        "objective": _left(G, beta) / 2 + float(path.lambdas[place] * beta.abs().sum()),
        "column": float(G[strongest, strongest]),
        "again_beta": float(again[0]), "first": entered[0], "first_enters": float(path.entered[entered[0]]),
        "nth": nth, "pick": str(entered[nth - 1]), "nth_enters": float(path.entered[entered[nth - 1]]),
        "candidates": [[str(entered[at]), f"channel {entered[at]}"] for at in near],
        **_path_to_draw(path, counts, place, order[:DRAWN], G, whole),
    }  # fmt: skip


def _path_to_draw(path: LassoPath, counts: Tensor, place: int, drawn: list[int], G: Tensor, whole: float) -> Facts:
    """The knots to draw, and at each of them: the penalty, how many take part, every drawn channel's coefficient, and
    the share of the outputs' energy that is missing."""
    knots = torch.linspace(0, len(path.lambdas) - 1, min(DRAWN, len(path.lambdas))).round().long().tolist()
    at = sorted({*knots, place})
    return {
        "drawn": drawn, "knots": [float(path.lambdas[knot]) for knot in at], "place": at.index(place),
        "taking_part": [int(counts[knot]) for knot in at],
        "newest": [[unit for unit in drawn if path.betas[knot, unit] != 0 and path.betas[max(0, knot - 1), unit] == 0]
                   for knot in at],
        "betas": [[round(float(path.betas[knot, unit]), 4) for unit in drawn] for knot in at],
        "errors": [_left(G, path.betas[knot]) / whole for knot in at],
    }  # fmt: skip


def _left(G: Tensor, beta: Tensor) -> float:
    """Mean || Y - Z beta ||^2 with Y the sum of Z's columns and G = Z^T Z."""
    rest = 1 - beta
    return max(0.0, float(rest @ G @ rest))


def _placed(values: Tensor, units: Sequence[int], size: int) -> Tensor:
    full = torch.zeros(size, dtype=torch.float64)
    full[list(units)] = values
    return full


def pivots(subject: Subject, on_progress: Progress | None, cancelled: Stop | None) -> Facts:
    """Pivoted QR step by step: how much of each channel's column no channel taken before can give."""
    group = read_group(subject.trace)
    readings, images = readings_of(subject, group, on_progress, cancelled)
    G = contributions(readings, group.units)
    order, diagonal = pivoted_cholesky(G)
    taken = order.tolist()
    lengths = lengths_left(G, taken)
    by_length = torch.argsort(G.diagonal(), descending=True, stable=True).tolist()
    first, twin, alike = _most_alike(G, by_length)
    len_rank, place = by_length.index(twin) + 1, taken.index(twin) + 1
    half = group.units // 2
    share = math.ceil(100 * float(diagonal[half] / diagonal[0])) / 100
    energy = float(G.diagonal().sum())
    drawn = by_length[:DRAWN]
    steps = min(group.units, DRAWN)
    return {
        "group": group.name, "readers": names_of(readings), "units": group.units, "images": images, "first": first,
        "twin": twin, "alike": alike, "len_rank": len_rank, "place": place, "half": half,
        "first_length": float(lengths[0, first]), "twin_length": float(lengths[0, twin]),
        "twin_left": float(lengths[1, twin]), "second": taken[1], "second_left": float(diagonal[1]),
        "answer": "later" if place > len_rank + 2 else "earlier" if place < len_rank - 2 else "same",
        "pivot_share": float(lengths[half].square().sum()) / energy,
        "length_share": float(lengths_left(G, by_length[:half])[-1].square().sum()) / energy,
        "share": share, "needed": int((diagonal > share * diagonal[0]).sum()),
        "taken": taken[:steps], "drawn": drawn, "diagonal": diagonal.tolist(),
        "lengths": [[round(float(lengths[step, unit] / lengths[0, first]), 4) for unit in drawn]
                    for step in range(steps + 1)],
    }  # fmt: skip


def lengths_left(G: Tensor, taken: Sequence[int]) -> Tensor:
    """float64 (len(taken) + 1, units): the length of every column's part orthogonal to the columns taken so far, before
    the first and after each. G = Z^T Z. One elimination per column taken (Cholesky)."""
    rest = G.clone()
    squares = [rest.diagonal().clone()]
    noise = 1e-12 * float(G.diagonal().max())
    for unit in taken:
        if rest[unit, unit] > noise:
            rest = rest - torch.outer(rest[unit], rest[unit]) / rest[unit, unit]
        rest[unit, :] = rest[:, unit] = 0.0
        squares.append(rest.diagonal().clone())
    return torch.stack(squares).clamp(min=0.0).sqrt()


def _most_alike(G: Tensor, by_length: Sequence[int]) -> tuple[int, int, float]:
    """The longest column, the one of the longer half that points most along it, and the cosine of their angle."""
    first = by_length[0]
    rivals = list(by_length[1 : max(2, len(by_length) // 2)])
    cosines = [float(G[first, unit] / (G[first, first] * G[unit, unit]).sqrt().clamp(min=1e-300)) for unit in rivals]
    best = max(range(len(rivals)), key=lambda at: abs(cosines[at]))
    return first, rivals[best], cosines[best]


def compensation(subject: Subject, on_progress: Progress | None, cancelled: Stop | None) -> Facts:
    """Half of one group's channels leave in three ways: the smallest filters as cut, the same with the readers' weights
    solved for anew, and those that the greedy order leaves out, solved for anew."""
    group = read_group(subject.trace)
    readings, images = readings_of(subject, group, on_progress, cancelled, rows_per_input=ROWS_PER_INPUT)
    designs = [Design(one.W, one.covariance, one.unit_of, 1 / one.energy) for one in readings]
    order, left = forward_greedy(designs, group.units)
    norms = filter_norms(subject, group)
    by_norm = torch.argsort(norms, descending=True, stable=True).tolist()
    greedy, half = order.tolist(), group.units - group.units // 2
    at = _widths(readings, group.units, half)
    cut = [as_cut(readings, by_norm[:count]) for count in at]
    solved = [solved_for(readings, by_norm[:count]) for count in at]
    here = at.index(half)
    a, b, c = cut[here], solved[here], float(left[half])
    share = math.ceil(100 * c) / 100 if c > 0 else 0.0
    return {
        "group": group.name, "readers": names_of(readings), "units": group.units, "images": images, "half": half,
        "leave": group.units - half, "inputs": readings[0].W.shape[1], "outputs": readings[0].W.shape[0],
        "cut": a, "solved": b, "greedy": c, "greedy_cut": as_cut(readings, greedy[:half]),
        "both": len(set(greedy[:half]) & set(by_norm[:half])),
        "answer": "little" if b > 0.75 * a else "half" if b > 0.25 * a else "most",
        "first": greedy[0], "first_norm_rank": by_norm.index(greedy[0]) + 1,
        "start": float(left[0]), "after_first": float(left[1]), "explained": float(left[0] - left[half]),
        "diagonal": float(readings[0].covariance.diagonal().sum()),
        "share": share, "needed": int((left > share).sum()),
        "at": at, "cut_line": cut, "solved_line": solved, "greedy_line": left.tolist(), "order": greedy,
    }  # fmt: skip


def _widths(readings: Sequence[Reading], units: int, half: int) -> list[int]:
    """The counts of channels at which weights are solved for: all of them where that takes seconds, else a few."""
    each = sum(len(one.unit_of) ** 3 / 3 for one in readings) / 4
    points = max(5, min(units, int(SOLVE_WORK / max(1.0, each))))
    spread = torch.linspace(1, units, points).round().long().tolist()
    return sorted({*spread, half})


def solved_for(readings: Sequence[Reading], kept: Sequence[int]) -> float:
    """L(S): the squared error of the readers' outputs over their energy once weights on the units ``kept`` are solved
    for anew, bias included (Xie et al. 2021, arXiv 2108.13728)."""
    total = 0.0
    for one in readings:
        stay, covariance, mean = _stay(one, kept), one.covariance, one.means[0]
        found, _ = compensate(one.W, mean, covariance, stay)
        rest = one.W.clone()
        rest[:, stay] -= found
        total += float(((rest @ covariance) * rest).sum()) / one.energy
    return max(0.0, total)


def as_cut(readings: Sequence[Reading], kept: Sequence[int]) -> float:
    """The squared error of the readers' outputs over their energy when the other units just leave."""
    total = 0.0
    for one in readings:
        rest = one.W.clone()
        rest[:, _stay(one, kept)] = 0.0
        total += float(((rest @ one.second) * rest).sum()) / one.energy
    return total


def _stay(reading: Reading, kept: Sequence[int]) -> Tensor:
    """bool (inputs,): those of the units ``kept``, and of other groups."""
    return (reading.unit_of < 0) | torch.isin(reading.unit_of, torch.tensor(list(kept)))
