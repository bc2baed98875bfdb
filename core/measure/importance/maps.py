"""The feature maps that a group's channels are read in: behind the nonlinearity, before any pooling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from core.records import Group, Scores, Trace
from core.trace.graph import Step, Tape, needed_steps
from core.trace.sites import MOVES, POOLS, ReadSite, read_sites

TRUE_ZEROS = {"oracle"}  # measures the loss itself, whoever reads the channel
SAME = {"clone", "detach", "alias", "contiguous", "dropout", "native_dropout"}


@dataclass(frozen=True)
class FeatureMap:
    """A tensor in which a group's channels are read.

    axis: its channel axis. unit_of: int64, one entry per channel, the unit that it belongs to, -1 for another group's.
    positions: how many values a channel has there per image.
    """

    slot: int
    axis: int
    unit_of: Tensor
    positions: int


def feature_maps(tape: Tape, steps: Sequence[Step], groups: Sequence[Group]) -> dict[str, tuple[FeatureMap, ...]]:
    """Group id -> the distinct feature maps that its readers read, each before the pooling in front of the reader."""
    makers = {slot: step for step in steps for slot in step.outputs}
    result = {}
    for name, sites in read_sites(tape, steps, groups, normed=True).items():
        found: dict[tuple[Any, ...], FeatureMap] = {}
        for site in sites:
            read = map_before_pooling(tape, makers, site)
            found.setdefault((read.slot, read.axis, *read.unit_of.tolist()), read)
        result[name] = tuple(found.values())
    return result


def unscored_groups(trace: Trace, scores: Scores) -> tuple[str, ...]:
    """Ids of the prunable groups whose zeros mean that the criterion cannot tell: no layer reads them on the way to the
    class scores (a head that only trains with the network, say), so what looks where channels are read saw nothing."""
    if not scores.images_used or scores.criterion in TRUE_ZEROS:
        return ()
    sites = read_sites(trace.tape, needed_steps(trace.tape), trace.prunable, normed=True)
    return tuple(g.id for g in trace.prunable if not sites[g.id] and not bool(scores.scores[g.id].any()))


def map_before_pooling(tape: Tape, makers: Mapping[int, Step], site: ReadSite) -> FeatureMap:
    """What ``site`` reads, followed back over pooling, flattening and what changes no value."""
    images = tape.shapes[tape.input][0]
    slot, axis, unit_of = site.slot, site.axis % len(tape.shapes[site.slot]), site.unit_of
    while slot in makers and makers[slot].reads:
        step = makers[slot]
        before, after = tape.shapes[step.reads[0]], tape.shapes[slot]
        if step.name in SAME and before == after:
            pass
        elif axis != 1 or len(before) < 2 or not before[0] == after[0] == images:
            break
        elif step.name in POOLS:
            if before[1] != after[1] or (step.name == "mean" and not _over_space(step, len(before))):
                break
        elif step.name in MOVES - {"permute", "transpose"} and len(unit_of) % before[1] == 0:
            features = unit_of.reshape(before[1], -1)  # flattened: several features come from one channel
            if after[1] != before[1] * features.shape[1] or bool((features != features[:, :1]).any()):
                break
            unit_of = features[:, 0]
        else:
            break
        slot = step.reads[0]
    positions = math.prod(tape.shapes[slot]) // (images * len(unit_of))
    return FeatureMap(slot, axis, unit_of, max(1, positions))


def _over_space(step: Step, dims: int) -> bool:
    """Whether a mean leaves images and channels alone."""
    axes = step.args[1] if len(step.args) > 1 else None
    return isinstance(axes, list | tuple) and len(axes) > 0 and all(axis % dims >= 2 for axis in axes)
