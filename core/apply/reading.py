"""What each training step tells of the channels its layers read: gradient times activation, on the way.

The layers' own calls are watched while the network runs (a torch function mode), so the scores cost no pass of their
own, as in Molchanov et al. 2017 (arXiv 1611.06440), section 2.2: both values are there in training anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from core.apply.surgery import kept_positions
from core.measure.importance.criteria import add_by_unit
from core.measure.importance.maps import map_before_pooling
from core.records import Plan, Trace
from core.trace.copies import named_state
from core.trace.replay import needed_steps
from core.trace.sites import read_sites

CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
FORMS = ("2017", "2019")


class Reading(TorchFunctionMode):
    """Active while a network under ``plan`` runs forward; ``collect`` after its backward pass.

    totals: group id -> float64 (units of the whole network,), the sum over images of |mean over positions of dC/dz z|
    for the form "2017", of (sum over positions of dC/dz z)^2 for "2019"; readers are added first, as in the "taylor"
    criteria. images: how many were seen. seen: groups of which some reader was met.
    """

    def __init__(self, trace: Trace, form: str) -> None:
        super().__init__()
        self.trace, self.form = trace, form
        self.positions = _positions(trace)
        self.read: dict[int, list[tuple[str, Tensor, int]]] = {}
        self.seen: set[str] = set()
        self.reset()

    def reset(self) -> None:
        """Forget all scores."""
        self.totals = {g.id: torch.zeros(g.units, dtype=torch.float64) for g in self.trace.coupled}
        self.images = 0
        self.aliases: list[tuple[int, Tensor, int]] = []

    def follow(self, module: nn.Module, plan: Plan) -> None:
        """Watch ``module``, which is the traced network without what ``plan`` drops."""
        masks = kept_positions(self.trace, plan)
        weights = named_state(module)
        self.read = {}
        for group in self.trace.coupled:
            for member in group.by_role("consumer"):
                mask = masks.get((member.tensor, member.dim))
                unit_of = member.unit_of if mask is None else member.unit_of[mask]
                positions = self.positions.get((group.id, member.tensor), 0)
                if positions:
                    self.read.setdefault(id(weights[member.tensor]), []).append((group.id, unit_of, positions))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if (name in CONVOLUTIONS or name == "linear") and len(args) > 1 and id(args[1]) in self.read:
            x = args[0]
            if x.requires_grad and torch.is_grad_enabled():
                alias = x.view_as(x)
                alias.retain_grad()
                self.aliases.append((id(args[1]), alias, 1 if name in CONVOLUTIONS else x.dim() - 1))
                args = (alias, *args[1:])
        return func(*args, **kwargs)

    def collect(self, images: int) -> None:
        """Add what the pass over ``images`` images told. The loss was their mean: each image's own is that many times
        as large."""
        shares: dict[str, Tensor] = {}
        with torch.no_grad():
            for weight, alias, axis in self.aliases:
                if alias.grad is None or alias.shape[0] % images:
                    continue
                product = (alias.grad * alias).double().movedim(axis, -1).reshape(images, -1, alias.shape[axis]).sum(1)
                for group, unit_of, positions in self.read[weight]:
                    if len(unit_of) == product.shape[1]:
                        units = self.trace.group(group).units
                        scale = images / positions if self.form == "2017" else float(images)
                        found = add_by_unit(units, unit_of, product.cpu() * scale)
                        shares[group] = shares[group] + found if group in shares else found
        for group, found in shares.items():
            self.totals[group] += (found.abs() if self.form == "2017" else found.square()).sum(0)
        self.seen.update(shares)
        self.images += images
        self.aliases = []

    def scores(self) -> dict[str, Tensor]:
        """Group id -> mean over images, for the groups of which some reader was met."""
        return {name: self.totals[name] / max(1, self.images) for name in self.totals if name in self.seen}


def _positions(trace: Trace) -> Mapping[tuple[str, str], int]:
    """(group, consumer's weight) -> how many values a channel has, before pooling, in what that weight reads."""
    steps = needed_steps(trace.tape)
    makers = {slot: step for step in steps for slot in step.outputs}
    return {
        (name, site.weight): map_before_pooling(trace.tape, makers, site).positions
        for name, sites in read_sites(trace.tape, steps, trace.coupled).items()
        for site in sites
    }
