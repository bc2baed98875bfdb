"""Where a group's channels are read, and what a layer sees there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from core.records import Group
from core.trace.graph import Ref, Step, Tape

MATRIX = {"addmm": (1, 2), "mm": (0, 1), "linear": (0, 1)}  # operator -> places of activation and weight
WEIGHT_MOVES = {"t", "transpose", "permute", "view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "slice",
                "detach", "alias", "clone", "_to_copy", "expand"}  # fmt: skip
WEIGHT_NORMS = {"_weight_norm", "_weight_norm_interface"}  # (direction, length, axis) -> weight
POOLS = {"max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d",
         "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool2d",
         "adaptive_max_pool2d", "adaptive_max_pool3d", "mean"}  # fmt: skip
MOVES = {"view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "permute", "transpose", "unsqueeze", "squeeze",
         "clone", "detach", "alias", "contiguous", "dropout", "native_dropout"}  # fmt: skip


@dataclass(frozen=True)
class ReadSite:
    """One layer call that reads a group's channels.

    step: index among the steps that were searched. slot: the tensor read. weight, dim: the state entry whose dimension
    ``dim`` meets the channels. axis: the channel axis of the tensor read (1, or -1 for linear layers). unit_of: int64,
    one entry per channel read: the unit it belongs to, -1 for other groups' channels.
    """

    step: int
    slot: int
    weight: str
    dim: int
    axis: int
    unit_of: Tensor


def read_sites(
    tape: Tape, steps: Sequence[Step], groups: Sequence[Group], *, normed: bool = False
) -> dict[str, tuple[ReadSite, ...]]:
    """Every call among ``steps`` that reads each group's channels through a consumer's weight, in order of running.

    normed: also through weights that are stored as direction and length (weight norm). ``weight`` then names the
    direction, which has the weight's shape but not its values: ``normed_by`` gives the step that makes these.
    """
    origin = weight_origins(tape, steps, normed=normed)
    calls: dict[str, list[int]] = {}
    for index, step in enumerate(steps):
        weight = _weight_slot(step)
        if weight in origin:
            calls.setdefault(origin[weight], []).append(index)
    sites: dict[str, tuple[ReadSite, ...]] = {}
    for group in groups:
        found = []
        for member in group.by_role("consumer"):
            for index in calls.get(member.tensor, ()):
                step = steps[index]
                slot, axis = _read_slot(step)
                if tape.shapes[slot][axis] == len(member.unit_of):
                    found.append(ReadSite(index, slot, member.tensor, member.dim, axis, member.unit_of))
        sites[group.id] = tuple(sorted(found, key=lambda site: site.step))
    return sites


def weight_origins(tape: Tape, steps: Sequence[Step], *, normed: bool = False) -> dict[int, str]:
    """slot -> state name, for weights and what is only a rearranged weight; ``normed``: or a direction made long."""
    origin = dict(tape.state)
    for step in steps:
        if step.name in WEIGHT_MOVES and len(step.reads) == 1 and step.reads[0] in origin:
            origin.update(dict.fromkeys(step.outputs, origin[step.reads[0]]))
        elif normed and step.name in WEIGHT_NORMS and step.args[0].slot in tape.state:
            origin[step.outputs[0]] = tape.state[step.args[0].slot]
    return origin


def normed_by(tape: Tape, steps: Sequence[Step], weight: str) -> Step | None:
    """The step that makes a weight of the direction ``weight`` and its length; None for a plain weight."""
    normed = (step for step in steps if step.name in WEIGHT_NORMS)
    return next((step for step in normed if tape.state.get(step.args[0].slot) == weight), None)


def _weight_slot(step: Step) -> int | None:
    if step.name == "convolution":
        place = 1
    elif step.name in MATRIX:
        place = MATRIX[step.name][1]
    else:
        return None
    value = step.args[place]
    return value.slot if isinstance(value, Ref) else None


def _read_slot(step: Step) -> tuple[int, int]:
    """(slot of the activation, its channel axis)."""
    if step.name == "convolution":
        return step.args[0].slot, 1
    return step.args[MATRIX[step.name][0]].slot, -1
