"""Why a plan takes what it takes: of every group what it loses alone, what that saves, and what the next step costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.measure.cost import count_cost
from core.measure.sensitivity import Sensitivity
from core.plan.limits import stand_in
from core.records import Trace
from core.show.curves import write_csv

CHEAP = 0.005  # half a point: under what a few hundred images can tell


@dataclass(frozen=True)
class Reason:
    """One group of a plan. ``lost``: accuracy it loses alone at this width, ``following`` (removed share, loss) at the
    next measured width with fewer channels; None where no curve tells. ``saves``: share of the dense
    MACs that come back when the group gets its channels back. ``text``: all of it in a sentence."""

    id: str
    name: str
    units: int
    kept: int
    lost: float | None
    following: tuple[float, float] | None
    saves: float
    text: str


def plan_reasons(
    trace: Trace, sensitivity: Sensitivity | None, removed: Mapping[str, int], held: Collection[str] = ()
) -> list[Reason]:
    """The groups that may shrink, in network order. removed: units per group; held: groups that a person locked."""
    dense, whole = count_cost(trace).macs, {name: count for name, count in removed.items() if count}
    now = count_cost(trace, stand_in(trace, whole)).macs
    found = []
    for group in trace.prunable:
        count = whole.get(group.id, 0)
        back = {name: n for name, n in whole.items() if name != group.id}
        saves = (count_cost(trace, stand_in(trace, back)).macs - now) / max(1, dense) if count else 0.0
        lost, following = _losses(sensitivity, group.id, count / group.units)
        text = _words(count, group.units, lost, following, saves, group.id in held)
        found.append(Reason(group.id, group.name, group.units, group.units - count, lost, following, saves, text))
    return found


def _losses(
    sensitivity: Sensitivity | None, group_id: str, fraction: float
) -> tuple[float | None, tuple[float, float] | None]:
    """What is lost at ``fraction``, and (fraction, loss) at the next measured width beyond it."""
    points = sensitivity.points.get(group_id, ()) if sensitivity else ()
    if sensitivity is None or not points:
        return None, None
    dense = sensitivity.dense.accuracy
    lost = dense - sensitivity.accuracy(group_id, min(fraction, points[-1].removed_fraction)) if fraction else 0.0
    beyond = next((point for point in points if point.removed_fraction > fraction + 1e-9), None)
    return lost, (beyond.removed_fraction, dense - beyond.accuracy) if beyond else None


def _words(
    count: int, units: int, lost: float | None, following: tuple[float, float] | None, saves: float, held: bool
) -> str:
    cost = "nothing, as measured" if following is None or following[1] < 5e-4 else _points(following[1])
    ahead = "" if following is None else f"; {100 * following[0]:.0f} % removed would cost {cost}"
    if held:
        return "Locked by you" + (f" at {units - count} of {units}." if count else ".")
    if lost is None:
        return f"Saves {100 * saves:.0f} % of the MACs; not scanned." if count else "Not scanned, so left whole."
    if not count:
        return f"Left whole{ahead.replace(' removed', '')}." if ahead else "Left whole."
    price = "Nothing lost as measured" if lost <= 0 else f"Loses {_points(lost)} alone"
    kind = "Cheap: " if lost <= CHEAP and saves >= 0.02 else ""
    price = price[0].lower() + price[1:] if kind else price
    return f"{kind}{price}, saves {100 * saves:.0f} % of the MACs{ahead}."


def _points(share: float) -> str:
    text = f"{100 * max(0.0, share):.1f}"
    return f"{text} point{'' if text == '1.0' else 's'}"


def reasons_csv(reasons: Sequence[Reason]) -> str:
    """Every reason as CSV; shares in 0..1."""
    lines: list[list[Any]] = [["group", "units", "kept", "lost_alone", "saves_macs", "reason"]]
    return write_csv([*lines, *([one.id, one.units, one.kept, one.lost, one.saves, one.text] for one in reasons)])
