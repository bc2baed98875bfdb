"""What a hand may do to the plan on the tuning desk. Every change is one undo step and is saved at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from core import (
    PROPOSED,
    CoreError,
    Plan,
    StartPlan,
    Subject,
    Trace,
    count_cost,
    even_counts,
    every_count,
    note_of,
    propose,
    removed_counts,
    removed_from_kept,
)
from core.keep import workspace as records
from core.keep.workspace import Workspace
from pages.components import classroom_rules, session, tables, work
from pages.components.desk import known_now, why_meaningless
from pages.components.equaliser import Edit


def attempt(change: Callable[[], object]) -> None:
    """Do it; what a CoreError says is told once, and nothing is changed then."""
    try:
        change()
    except CoreError as error:
        session.notify(str(error))


def on_edit(edit: Edit) -> None:
    """Each gesture that the browser reports is an undo step of its own; locks are not."""
    if edit["phase"] != "commit":
        return
    subject = work.subject(session.workspace())

    def change(record: Workspace) -> Workspace:
        for step in edit["steps"]:
            removed = removed_from_kept(subject.trace, step)
            record = records.edit(record, removed, step_label(subject, step), from_equaliser=True)
        return replace(record, locked=tuple(edit["locked"]))

    attempt(lambda: session.update(change))


def step_label(subject: Subject, step: Mapping[str, int]) -> str:
    """ "features.3: 24 of 32", "7 groups" """
    if len(step) != 1:
        return tables.plural(len(step), "group")
    ((group_id, kept),) = step.items()
    group = subject.trace.group(group_id)
    return f"{group.name}: {kept} of {group.units}"


def on_command(name: str) -> None:
    attempt(session.undo if name == "undo" else session.redo)


def start_from(plan: StartPlan) -> None:
    """Set one of the start plans; groups that a person locked stay as they are."""

    def change() -> None:
        record = session.workspace()
        desk = known_now(record)
        trace, held = desk.subject.trace, record.locked
        if plan is PROPOSED and desk.proposal is not None:
            counts = every_count(trace, desk.proposal["removed"], held)
        elif plan is not PROPOSED and desk.scores is not None and desk.curves is not None:
            counts = propose(trace, desk.scores, desk.curves, plan.budget, table=desk.table, held=held)
        else:
            raise CoreError(f"{plan.title}: not all it needs has been measured yet. Try again in a moment.")
        session.edit(own_widths(trace, record, counts), plan.title, pin="")

    attempt(change)


def start_at_size(megabytes: float) -> None:
    """A plan whose network takes at most so many MB (of 2^20 bytes), taken where it costs least."""

    def change() -> None:
        record = session.workspace()
        desk = known_now(record)
        if desk.scores is None or desk.curves is None:
            raise CoreError("Not all this needs has been measured yet. Try again in a moment.")
        trace, budget = desk.subject.trace, {"size_bytes": megabytes * 2**20}
        counts = propose(trace, desk.scores, desk.curves, budget, held=record.locked)
        session.edit(own_widths(trace, record, counts), f"At most {megabytes:.3g} MB", pin="")

    attempt(change)


def set_even(removed_fraction: float) -> None:
    record = session.workspace()
    trace = work.subject(record).trace
    counts = own_widths(trace, record, even_counts(trace, removed_fraction, record.locked))
    attempt(lambda: session.edit(counts, f"{tables.percent(removed_fraction, 0)} of every group", pin=""))


def own_widths(trace: Trace, record: Workspace, counts: Mapping[str, int]) -> dict[str, int]:
    """``counts``, and nothing for the inputs that single layers chose: those came with a plan that is given up."""
    gathers = {group.id for group in trace.gathers}
    return {**{name: 0 for name in record.removed if name in gathers}, **counts}


def set_dense() -> None:
    attempt(lambda: session.edit(dict.fromkeys(session.workspace().removed, 0), "Dense", pin=""))


def reset_overrides() -> None:
    """Bars moved by hand go back to where the plan that was set before had them."""

    def change(record: Workspace) -> Workspace:
        base = next((step.label for step in reversed(record.history) if not step.by_hand), "Dense network")
        return records.edit(record, records.overrides(record), f"{base}, as it was")

    attempt(lambda: session.update(change))


def set_criterion(name: str) -> None:
    """From now on this criterion chooses in every group, also where a plan's own units held."""
    attempt(lambda: session.update(lambda record: replace(record, criterion=name, pin="")))


def set_repair(name: str) -> None:
    """How the network of this plan is built: a way of REPAIRS, for every plan, or the network kept for this one."""

    def change(record: Workspace) -> Workspace:
        plan = work.plan(record, work.subject(record))
        kept = dict(record.choices.get(work.NETWORKS, {}))
        if plan is not None and plan.key in kept:
            kept[plan.key] = {**kept[plan.key], "used": kept[plan.key]["name"] == name}
        chosen = {"repair": name} if name in work.REPAIRS else {}
        return records.choose(record, **{work.NETWORKS: kept}, **chosen)

    attempt(lambda: session.update(change))


def keep_network(plan: Plan, name: str, title: str, measured: Mapping[str, Any] | None = None) -> None:
    """Build ``plan`` as the network that is kept under ``name`` from now on; called ``title``. measured: its "accuracy"
    on the selection images (fields of core's ``Accuracy``), "difference" to the dense network and "seconds"."""

    def change(record: Workspace) -> Workspace:
        others = [one for one in record.choices.get(work.NETWORKS, {}).items() if one[0] != plan.key]
        entry: dict[str, Any] = {"name": name, "title": title, "used": True}
        if measured is not None:
            fields = ("value", "low", "high", "loss", "correct", "images")
            entry["accuracy"] = {field: measured["accuracy"][field] for field in fields}
            entry |= {"difference": list(measured["difference"]), "seconds": measured["seconds"]}
        kept = dict([*others, (plan.key, entry)][-work.MAX_NETWORKS :])
        return records.choose(record, **{work.NETWORKS: kept})

    attempt(lambda: session.update(change))


def take_plan(plan: Plan, label: str) -> None:
    """Put ``plan`` on the desk with its very units, as one step of undo."""
    trace = work.subject(session.workspace()).trace
    counts = dict.fromkeys(session.workspace().removed, 0) | removed_counts(trace, plan)
    attempt(lambda: session.edit(counts, label, pin=plan.to_json()))


def open_with_a_plan(record: Workspace, subject: Subject) -> Workspace:
    """A workspace that was never tuned begins with the proposed plan, one undo away from the dense network."""
    mark = f"proposed-{subject.key}"
    untouched = not (record.removed or record.history or record.future)
    if not untouched or why_meaningless(subject) or session.temporary(mark) or classroom_rules.frozen("starts"):
        return record
    proposal = work.known("propose", subject, dict, criterion=work.criterion(record))
    if proposal is None:
        return record
    session.set_temporary(mark, True)
    counts = every_count(subject.trace, proposal["removed"], record.locked)
    return session.edit(counts, f"Proposed: {PROPOSED.title.lower()}")


def take_widths(removed: Mapping[str, int], label: str) -> None:
    """Put widths on the desk, as one step of undo; the criterion in use chooses which channels leave."""
    record = session.workspace()
    trace = work.subject(record).trace
    counts = own_widths(trace, record, every_count(trace, removed, record.locked))
    attempt(lambda: session.edit(counts, label, pin=""))


def note_plan(subject: Subject, plan: Plan, repair: str, measured: Mapping[str, Any], label: str) -> Workspace:
    """Remember what was measured of a plan, once, for the picture of everything measured so far."""
    record = session.workspace()
    key = work.network_key(record, plan)
    known = record.measured.get(key)
    with_latency = "latency" in measured
    if "accuracy" not in measured or (known is not None and (not with_latency or "latency_ms" in known["costs"])):
        return record
    cost, removed = count_cost(subject.trace, plan), removed_counts(subject.trace, plan)
    note = note_of(measured, cost, subject=subject, removed=removed, repair=repair, label=label)
    return session.update(lambda newest: records.note_measured(newest, key, note))


def describe_plan(name: str, new_name: str, note: str) -> bool:
    """Another name and note for a plan. False, and told, when that cannot be."""
    try:
        session.update(lambda record: records.describe_plan(record, name, new_name=new_name, note=note))
    except CoreError as error:
        session.notify(str(error))
        return False
    return True


def save_plan(name: str, note: str = "") -> None:
    """Keep the plan as it stands under ``name``, with the units it keeps."""

    def change() -> None:
        record = session.workspace()
        plan = work.plan(record, work.subject(record))
        if plan is None:
            raise CoreError("Which channels leave is not known yet: they are being scored. Save it in a moment.")
        session.update(lambda newest: records.save_plan(newest, name, plan.to_json(), note))

    attempt(change)


def restore_plan(name: str) -> None:
    attempt(lambda: session.update(lambda record: records.restore_plan(record, name)))


def remove_plan(name: str) -> None:
    attempt(lambda: session.update(lambda record: records.remove_plan(record, name)))
