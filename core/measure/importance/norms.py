"""Criteria that look at weights alone."""

from __future__ import annotations

import torch
from torch import Tensor

from core.measure.importance.criteria import CRITERIA, Criterion, Request, add_by_unit
from core.records import Group, Trace
from core.registry import Row
from core.trace.graph import Ref, named_state

NORM_STEPS = {
    "native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "cudnn_batch_norm",
    "_batch_norm_with_update", "miopen_batch_norm", "batch_norm",
}  # fmt: skip


def working_weights(trace: Trace) -> dict[str, Tensor]:
    """The network's state; a weight stored as direction and length stands, as it works, under the direction's name."""
    state = named_state(trace.module)
    for direction, length in trace.norms:
        v, g = state[direction], state.pop(length)
        axes = [axis for axis, size in enumerate(g.shape) if size == 1]
        state[direction] = g * v / torch.linalg.vector_norm(v, dim=axes, keepdim=True)
    return state


def producer_slices(group: Group, state: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """(unit_of, slices) of each weight that makes the group's channels; slices: (positions, rest), float64.

    state: ``working_weights``. Biases are left out: a filter is its kernel.
    """
    found = []
    for member in group.by_role("producer"):
        weight = state.get(member.tensor)
        if weight is not None and weight.dim() >= 2:
            found.append((member.unit_of, weight.detach().double().cpu().movedim(member.dim, 0).flatten(1)))
    return found


def _powers(request: Request, power: int) -> dict[str, Tensor]:
    state = working_weights(request.trace)
    scores = {}
    for group in request.trace.coupled:
        total = torch.zeros(group.units, dtype=torch.float64)
        for unit_of, slices in producer_slices(group, state):
            total += add_by_unit(group.units, unit_of, slices.abs().pow(power).sum(1))
        scores[group.id] = total
    return scores


def weight_l1(request: Request) -> dict[str, Tensor]:
    """Sum over producers of the L1 norm of a unit's slice of their weights (Li et al. 2017, arXiv 1608.08710)."""
    return _powers(request, 1)


def weight_l2(request: Request) -> dict[str, Tensor]:
    """L2 norm of a unit's slices of all producers' weights, taken as one vector (He et al. 2018, arXiv 1808.06866)."""
    return {name: total.sqrt() for name, total in _powers(request, 2).items()}


def bn_scale(request: Request) -> dict[str, Tensor]:
    """Mean |gamma| of the batch norms a unit passes; 1 where it passes none (Liu et al. 2017, arXiv 1708.06519)."""
    tape, state = request.trace.tape, named_state(request.trace.module)
    scales = {
        tape.state[step.args[1].slot]
        for step in tape.steps
        if step.name in NORM_STEPS and isinstance(step.args[1], Ref) and step.args[1].slot in tape.state
    }
    scores = {}
    for group in request.trace.coupled:
        total, count = torch.zeros(group.units, dtype=torch.float64), torch.zeros(group.units, dtype=torch.float64)
        for member in group.members:
            if member.tensor in scales:
                gamma = state[member.tensor].detach().abs()
                total += add_by_unit(group.units, member.unit_of, gamma)
                count += add_by_unit(group.units, member.unit_of, torch.ones_like(gamma))
        scores[group.id] = torch.where(count > 0, total / count.clamp(min=1), torch.ones_like(total))
    return scores


def fpgm(request: Request) -> dict[str, Tensor]:
    """Sum of distances to the other filters of the same weight, over the weights that make the unit.

    He et al. 2019, arXiv 1811.00250: their substitute for the distance to the geometric median.
    """
    state = working_weights(request.trace)
    scores = {}
    for group in request.trace.coupled:
        total = torch.zeros(group.units, dtype=torch.float64)
        for unit_of, slices in producer_slices(group, state):
            mine = slices[unit_of >= 0]
            far = torch.cdist(mine, mine, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
            total += add_by_unit(group.units, unit_of[unit_of >= 0], far)
        scores[group.id] = total
    return scores


def first_k(request: Request) -> dict[str, Tensor]:
    """units, units - 1, ..., 1: the "first k" of He, Zhang, Sun 2017 (arXiv 1707.06168)."""
    return {g.id: torch.arange(g.units, 0, -1, dtype=torch.float64) for g in request.trace.coupled}


def random_scores(request: Request) -> dict[str, Tensor]:
    """Uniform in 0..1, drawn by the seed and the group's id, so that no group moves another's numbers."""
    return {
        group.id: torch.rand(group.units, generator=request.numbers(group.id), dtype=torch.float64)
        for group in request.trace.coupled
    }


CRITERIA.add(
    Row(
        "weight-l1",
        Criterion(weight_l1),
        "Weight L1 norm",
        "A channel counts as much as the absolute weights that make it, added up over all layers it is born in.",
        r"\Theta_i = \sum_{\ell}\lVert W^{(\ell)}_i \rVert_1",
        "Li, Kadav, Durdanovic, Samet, Graf 2017, Pruning Filters for Efficient ConvNets, arXiv 1608.08710",
    )
)
CRITERIA.add(
    Row(
        "weight-l2",
        Criterion(weight_l2),
        "Weight L2 norm",
        "A channel counts as much as the length of the weight vector that makes it, over all layers it is born in.",
        r"\Theta_i = \sqrt{\sum_{\ell}\lVert W^{(\ell)}_i \rVert_2^2}",
        "He, Kang, Dong, Fu, Yang 2018, Soft Filter Pruning, arXiv 1808.06866",
    )
)
CRITERIA.add(
    Row(
        "fpgm",
        Criterion(fpgm),
        "Distance from other filters (FPGM)",
        "A filter close to all others of its layer can be replaced by them, so the most central ones go first.",
        r"\Theta_i = \sum_{\ell}\sum_j \lVert W^{(\ell)}_i - W^{(\ell)}_j \rVert_2",
        "He, Liu, Wang, Hu, Yang 2019, Filter Pruning via Geometric Median, arXiv 1811.00250",
    )
)
CRITERIA.add(
    Row(
        "bn-scale",
        Criterion(bn_scale),
        "Batch-norm scale",
        "Batch norm multiplies each channel by its own factor; a small one makes the channel faint (1 where none is).",
        r"\Theta_i = \tfrac{1}{B}\sum_{b=1}^{B} |\gamma^{(b)}_i|",
        "Liu, Li, Shen, Huang, Yan, Zhang 2017, Network Slimming, arXiv 1708.06519",
    )
)
CRITERIA.add(
    Row(
        "first-k",
        Criterion(first_k),
        "First channels",
        "Keeps the first channels as they are numbered: a baseline that knows nothing about the network.",
        r"\Theta_i = n - i",
        "He, Zhang, Sun 2017, Channel Pruning for Accelerating Very Deep Neural Networks, arXiv 1707.06168",
    )
)
CRITERIA.add(
    Row(
        "random",
        Criterion(random_scores),
        "Random",
        "Draws every score by lot: a criterion must beat this to be worth anything.",
        r"\Theta_i \sim U(0, 1)",
        "Mittal, Bhardwaj, Khapra, Ravindran 2018, Recovering from Random Pruning, arXiv 1801.10447",
    )
)
