"""Units that are zero on every image of a batch: hiding one of them changes nothing there, so nothing needs to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from core.measure.scan.program import Program
from core.records import Group
from core.trace.sites import WEIGHT_MOVES, ReadSite, read_sites, weight_origins


class Silence:
    """Where the units of each group can be looked at before anything reads them."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._origin = weight_origins(program.tape, program.steps)
        self._sites: dict[str, tuple[ReadSite, ...]] = {}

    def units(self, group: Group, env: Mapping[int, Any]) -> frozenset[int]:
        """Units of which every reader is given zeros alone; none where that cannot be seen in ``env``."""
        if group.mixing:
            return frozenset()  # a norm over channels sees zeros, too
        if group.id not in self._sites:
            self._sites[group.id] = self._find(group)
        heard = torch.zeros(group.units + 1, dtype=torch.bool)
        sites = self._sites[group.id]
        for site in sites:
            tensor = env.get(site.slot)
            if tensor is None or tensor.shape[site.axis] != len(site.unit_of):
                return frozenset()
            axis = site.axis % tensor.dim()
            others = [dim for dim in range(tensor.dim()) if dim != axis]
            loud = torch.linalg.vector_norm(tensor, float("inf"), dim=others) != 0
            heard[site.unit_of[loud.cpu()]] = True
        return frozenset(torch.nonzero(~heard[:-1]).flatten().tolist()) if sites else frozenset()

    def _find(self, group: Group) -> tuple[ReadSite, ...]:
        """The calls that read the group, if those are all that ever touch a consumer's weight."""
        members = {(member.tensor, member.dim) for member in group.by_role("consumer")}
        names = {name for name, _ in members}
        steps = self.program.steps
        touching = {
            index
            for index, step in enumerate(steps)
            if any(self._origin.get(slot) in names for slot in step.reads)
            and not (step.name in WEIGHT_MOVES and len(step.reads) == 1)
        }
        sites: Sequence[ReadSite] = read_sites(self.program.tape, steps, [group])[group.id]
        known = {(site.weight, site.dim) for site in sites}
        return tuple(sites) if known == members and {site.step for site in sites} == touching else ()
