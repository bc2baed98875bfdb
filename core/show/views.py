"""Measured records as the rows and tables that people read: ranks, quantiles, what a group loses. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from core.keep.shelf import FRACTIONS, SCAN_IMAGES, SCAN_SEED
from core.keep.subject import Subject
from core.measure.sensitivity import Sensitivity, all_units, removed_units
from core.records import CurvePoint, Group, Plan, Scores, Trace
from core.show.curves import lost_at, lost_points, write_csv
from core.show.desk import desk_plan

SHARES = (0.25, 0.5, 0.75)
ROLES = {"producer": "makes the channels", "follower": "passes them on", "consumer": "reads them"}


@dataclass(frozen=True)
class ChannelRow:
    """One prunable group: a score per unit, by unit index, and the units that a plan of this many removes."""

    id: str
    name: str
    scores: tuple[float, ...]
    pruned: tuple[int, ...]


@dataclass(frozen=True)
class RankedUnit:
    """``rank`` 1 is the highest score, the last to leave; ``kept``: whether the plan keeps it."""

    unit: int
    score: float
    rank: int
    kept: bool


@dataclass(frozen=True)
class MemberRow:
    """One layer that a group reaches: what it does with the channels, and to which of its tensors."""

    layer: str
    roles: str
    tensors: str


@dataclass(frozen=True)
class Drop:
    """What a group alone loses: accuracy of the dense network minus accuracy with ``removed`` units gone (shares).

    ``low``, ``high``: 95 % interval of the difference. ``measured``: False when it lies between two measured widths.
    """

    removed_fraction: float
    removed: int
    lost: float
    low: float
    high: float
    measured: bool


@dataclass(frozen=True)
class DropRow:
    """One group's drops, one for each share asked for; None beyond what was measured, and where the scan began with
    less than that share left."""

    id: str
    name: str
    units: int
    drops: tuple[Drop | None, ...]


@dataclass(frozen=True)
class ScanScope:
    """What a scan of a subject covers."""

    groups: int
    widths: int
    images: int
    seed: int


def channel_rows(
    trace: Trace, scores: Scores, removed: Mapping[str, int], plan: Plan | None = None
) -> list[ChannelRow]:
    """The prunable groups in network order. ``removed``: units per group id that leave, the lowest scores first;
    ``plan``: where its units were chosen otherwise, they are what leaves."""
    kept = (plan if plan is not None else desk_plan(trace, scores, removed)).kept
    rows = []
    for group in trace.prunable:
        stays = set(kept.get(group.id, range(group.units)))
        pruned = tuple(unit for unit in range(group.units) if unit not in stays)
        rows.append(ChannelRow(group.id, group.name, tuple(scores.scores[group.id].tolist()), pruned))
    return rows


def ranked_units(row: ChannelRow, scores: Scores) -> list[RankedUnit]:
    """A group's units from most to least important, as a plan would take them."""
    gone = set(row.pruned)
    ranking = scores.ranking(row.id)
    return [RankedUnit(unit, row.scores[unit], rank, unit not in gone) for rank, unit in enumerate(ranking, start=1)]


def score_quantiles(row: ChannelRow) -> dict[str, float]:
    """Lowest, quartiles and highest score of a group (linear between order statistics)."""
    names = {"lowest": 0.0, "lower quartile": 0.25, "median": 0.5, "upper quartile": 0.75, "highest": 1.0}
    values = torch.tensor(row.scores, dtype=torch.float64)
    found = torch.quantile(values, torch.tensor(list(names.values()), dtype=torch.float64)).tolist()
    return dict(zip(names, found, strict=True))


def member_rows(group: Group) -> list[MemberRow]:
    """The layers that move together, in the order the trace met them."""
    roles: dict[str, dict[str, None]] = {}
    tensors: dict[str, dict[str, None]] = {}
    for member in group.members:
        roles.setdefault(member.layer, {})[ROLES[member.role]] = None
        tensors.setdefault(member.layer, {})[member.tensor.rpartition(".")[2]] = None
    return [MemberRow(layer, ", ".join(roles[layer]), ", ".join(tensors[layer])) for layer in roles]


def drop_rows(trace: Trace, sensitivity: Sensitivity, shares: Sequence[float] = SHARES) -> list[DropRow]:
    """What every scanned group loses when ``shares`` of its units leave and all else stays; most lost at the middle
    share first, groups not measured that far last."""
    rows = [
        DropRow(group.id, group.name, group.units, tuple(_drop(sensitivity, group.id, share) for share in shares))
        for group in trace.coupled
        if group.id in sensitivity.points
    ]
    middle = len(shares) // 2

    def lost(row: DropRow) -> float:
        drop = row.drops[middle]
        return float("inf") if drop is None else -drop.lost

    return sorted(rows, key=lost)


def _drop(sensitivity: Sensitivity, group_id: str, share: float) -> Drop | None:
    found = lost_points(sensitivity, group_id, "accuracy")
    removed = removed_units(all_units(sensitivity.points[group_id]), share)
    if not found[0].removed <= removed <= found[-1].removed:
        return None
    at = lost_at(found, removed)
    return Drop(share, removed, at.value, at.low or 0.0, at.high or 0.0, at.measured)


def scan_scope(subject: Subject) -> ScanScope:
    """What a scan of ``subject`` will do, before it is started."""
    images = min(SCAN_IMAGES, len(subject.data.selection))
    return ScanScope(len(subject.trace.prunable), len(FRACTIONS), images, SCAN_SEED)


def scores_csv(trace: Trace, scores: Scores, removed: Mapping[str, int], plan: Plan | None = None) -> str:
    """Every score as CSV: group, unit, score, rank (1 = highest), kept by the plan (1 or 0). As ``channel_rows``."""
    lines: list[list[Any]] = [["group", "channel", scores.criterion, "rank", "kept"]]
    for row in channel_rows(trace, scores, removed, plan):
        for ranked in sorted(ranked_units(row, scores), key=lambda ranked: ranked.unit):
            lines.append([row.id, ranked.unit, repr(ranked.score), ranked.rank, int(ranked.kept)])
    return write_csv(lines)


def curves_csv(sensitivity: Sensitivity) -> str:
    """Every measured point as CSV: group, and the fields of CurvePoint."""
    fields = list(CurvePoint.__dataclass_fields__)
    lines: list[list[Any]] = [["group", *fields]]
    for group_id, points in sensitivity.points.items():
        lines += [[group_id, *(getattr(point, name) for name in fields)] for point in points]
    return write_csv(lines)
