"""What one person is working on: one immutable record, with undo and redo, that goes to JSON and back.

Every function gives a new record and leaves the old one alone. Nothing here knows where records are kept.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from core.errors import CoreError

VERSION = 1
MAX_STEPS = 200
MAX_PLANS = 200
MAX_MEASURED = 200
MAX_NOTE = 1000
PINS, MAX_PINS = "pins", 24  # among the choices: plans whose own units hold, by key
TOKEN = re.compile(r"[A-Za-z0-9_-]{22}")


@dataclass(frozen=True)
class Step:
    """One edit: for each group that changed, how many units were removed before and after; and the pin before and
    after. ``by_hand``: a bar was moved; else a whole plan was set."""

    label: str
    before: Mapping[str, int]
    after: Mapping[str, int]
    pin_before: str = ""
    pin_after: str = ""
    by_hand: bool = False


@dataclass(frozen=True)
class NamedPlan:
    """A plan kept under a name. ``plan``: its units as Plan JSON, or "" when only the counts matter. ``parent``: the
    name of the plan it grew from, or "". ``created``: seconds since 1970. ``note``: a person's own words. ``how``: how
    it was made, in words."""

    name: str
    removed: Mapping[str, int]
    criterion: str
    model_source: str
    plan: str = ""
    parent: str = ""
    created: float = 0.0
    note: str = ""
    how: str = ""


@dataclass(frozen=True)
class Workspace:
    """``removed``: units removed per group id; groups that are not named keep all. ``rev`` rises when anything but a
    drag changes ``removed``, so that the equaliser adopts it. ``measured``: results by the key of a plan. ``choices``:
    what was picked in forms, by name. ``pin``: key of a plan whose own units hold in the groups that still have its
    counts, "" = the criterion says which leave. ``revision``: as stored, 0 = never saved; not part of the JSON."""

    token: str
    model_source: str = ""
    weights_path: str = ""
    weights_name: str = ""
    data_source: str = ""
    criterion: str = ""
    selected_group: str = ""
    removed: Mapping[str, int] = field(default_factory=dict)
    pin: str = ""
    locked: tuple[str, ...] = ()
    history: tuple[Step, ...] = ()
    future: tuple[Step, ...] = ()
    plans: tuple[NamedPlan, ...] = ()
    current_plan: str = ""
    measured: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, Any] = field(default_factory=dict)
    rev: int = 0
    revision: int = 0

    @property
    def can_undo(self) -> bool:
        return bool(self.history)

    @property
    def can_redo(self) -> bool:
        return bool(self.future)

    @property
    def pinned(self) -> str:
        """The pinned plan as Plan JSON, "" when there is none."""
        return str(self.choices.get(PINS, {}).get(self.pin, ""))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values with a version, to be read only; ``Workspace.from_json`` gives an equal record back."""
        # vars() copies nothing: a long history would take 50 ms to copy, at every release of a drag.
        state = {name: value for name, value in vars(self).items() if name != "revision"}
        for name in ("history", "future", "plans"):
            state[name] = [vars(entry) for entry in state[name]]
        return {"version": VERSION, **state}

    @staticmethod
    def from_json(state: Mapping[str, Any], revision: int = 0) -> Workspace:
        """Missing fields get their default, unknown ones are ignored. Raises CoreError when it does not fit."""
        try:
            if state["version"] > VERSION:
                raise CoreError("This work was saved by a newer Prunescope. Update this one, or open another link.")
            known = {item.name for item in fields(Workspace)} - {"revision"}
            values = {name: value for name, value in state.items() if name in known}
            values["removed"] = _counts(values.get("removed", {}))
            values["locked"] = tuple(str(name) for name in values.get("locked", ()))
            for name in ("history", "future"):
                steps = values.get(name, ())
                values[name] = tuple(_step(step) for step in steps)
            values["plans"] = tuple(_named_plan(plan) for plan in values.get("plans", ()))
            return Workspace(**values, revision=revision)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CoreError(
                f"This saved work cannot be read: {error!r}. Open Prunescope without a link to begin anew."
            ) from error


def new_token() -> str:
    """A name for a workspace that nobody can guess: 128 random bits."""
    return secrets.token_urlsafe(16)


def is_token(text: object) -> bool:
    return isinstance(text, str) and TOKEN.fullmatch(text) is not None


def open_model(
    workspace: Workspace,
    model_source: str,
    data_source: str,
    *,
    weights_path: str = "",
    weights_name: str = "",
    criterion: str | None = None,
) -> Workspace:
    """Begin with another network or other images: the plan starts empty; named plans and form choices stay."""
    fresh = Workspace(
        workspace.token,
        model_source,
        weights_path,
        weights_name,
        data_source,
        workspace.criterion if criterion is None else criterion,
        plans=workspace.plans,
        choices=workspace.choices,
    )
    return replace(fresh, rev=workspace.rev + 1, revision=workspace.revision)


def edit(
    workspace: Workspace,
    removed: Mapping[str, int],
    label: str,
    *,
    from_equaliser: bool = False,
    pin: str | None = None,
) -> Workspace:
    """Set how many units each group in ``removed`` loses; groups that are not named stay as they are.

    One undo step with ``label``; what was undone before can no longer be redone. Nothing changes: the same record.
    ``from_equaliser``: the component shows these values already, so ``rev`` stays. ``pin``: a plan (its JSON) whose
    own units hold from now on, "" for none; None leaves the pin as it is. Raises CoreError below 0.
    """
    wanted = _counts(removed)
    now = workspace.removed
    changed = {name: count for name, count in wanted.items() if count != now.get(name, 0)}
    key = workspace.pin if pin is None else hashlib.sha256(pin.encode()).hexdigest()[:16] if pin else ""
    if not changed and key == workspace.pin:
        return workspace
    step = Step(label, {name: now.get(name, 0) for name in changed}, changed, workspace.pin, key, from_equaliser)
    if pin:
        others = {name: plan for name, plan in workspace.choices.get(PINS, {}).items() if name != key}
        pins = dict([*others.items(), (key, pin)][-MAX_PINS:])
        workspace = choose(workspace, **{PINS: pins})
    return replace(
        workspace,
        removed=_merged(now, changed),
        pin=key,
        history=(*workspace.history, step)[-MAX_STEPS:],
        future=(),
        rev=workspace.rev + (not from_equaliser),
        current_plan=workspace.current_plan if from_equaliser else "",
    )


def overrides(workspace: Workspace) -> dict[str, int]:
    """Groups moved by hand since a whole plan was set last, each with the units that plan removed there."""
    first: dict[str, int] = {}
    for step in reversed(workspace.history):
        if not step.by_hand:
            break
        first.update(step.before)
    return {name: count for name, count in first.items() if count != workspace.removed.get(name, 0)}


def made_how(workspace: Workspace) -> str:
    """How the present plan was made, in words: "Half the MACs, then 3 groups by hand"."""
    base = next((step.label for step in reversed(workspace.history) if not step.by_hand), "")
    count = len(overrides(workspace))
    moved = f"{count} group{'' if count == 1 else 's'} by hand" if count else ""
    return f"{base}, then {moved}" if base and moved else base or moved


def undo(workspace: Workspace) -> Workspace:
    """Take back the last edit; the same record when there is none."""
    if not workspace.history:
        return workspace
    *history, step = workspace.history
    return replace(
        workspace,
        removed=_merged(workspace.removed, step.before),
        pin=step.pin_before,
        history=tuple(history),
        future=(*workspace.future, step),
        rev=workspace.rev + 1,
    )


def redo(workspace: Workspace) -> Workspace:
    """Do again what was undone last; the same record when there is nothing."""
    if not workspace.future:
        return workspace
    *future, step = workspace.future
    return replace(
        workspace,
        removed=_merged(workspace.removed, step.after),
        pin=step.pin_after,
        history=(*workspace.history, step),
        future=tuple(future),
        rev=workspace.rev + 1,
    )


def save_plan(workspace: Workspace, name: str, plan: str = "", note: str = "") -> Workspace:
    """Keep the present counts (and ``plan``, Plan JSON) under ``name``; a plan of that name is replaced.

    Raises CoreError for an empty or overlong name or note, or when there are too many.
    """
    name, note = _plan_name(name), _plan_note(note)
    others = tuple(other for other in workspace.plans if other.name != name)
    if len(others) >= MAX_PLANS:
        raise CoreError(f"There are {MAX_PLANS} named plans, the most a workspace keeps. Remove one first.")
    parent = workspace.current_plan if workspace.current_plan != name else _parent(workspace, name)
    kept = NamedPlan(
        name,
        workspace.removed,
        workspace.criterion,
        workspace.model_source,
        plan,
        parent,
        round(time.time(), 3),
        note,
        made_how(workspace),
    )
    return replace(workspace, plans=(*others, kept), current_plan=name)


def describe_plan(workspace: Workspace, name: str, *, new_name: str, note: str) -> Workspace:
    """Give a named plan another name and note; plans that grew from it follow. Raises CoreError when there is none of
    that name, when the new one is taken, or for an overlong text."""
    found, new_name, note = find_plan(workspace, name), _plan_name(new_name), _plan_note(note)
    if new_name != name and any(plan.name == new_name for plan in workspace.plans):
        raise CoreError(f"There is a plan called {new_name!r} already. Choose another name.")

    def renamed(plan: NamedPlan) -> NamedPlan:
        plan = replace(plan, name=new_name, note=note) if plan is found else plan
        return replace(plan, parent=new_name) if plan.parent == name else plan

    current = new_name if workspace.current_plan == name else workspace.current_plan
    return replace(workspace, plans=tuple(map(renamed, workspace.plans)), current_plan=current)


def find_plan(workspace: Workspace, name: str) -> NamedPlan:
    """The plan of that name. Raises CoreError when there is none."""
    found = next((plan for plan in workspace.plans if plan.name == name), None)
    if found is None:
        raise CoreError(
            f"There is no plan called {name!r} in this workspace. It may have been removed in another window."
        )
    return found


def plan_tree(plans: Sequence[NamedPlan]) -> list[tuple[NamedPlan, int]]:
    """Every plan with its depth, each behind the one it grew from, oldest first. A parent that is gone, or a circle,
    counts as no parent."""
    names = {plan.name: plan for plan in plans}

    def parent(plan: NamedPlan) -> str:
        above, seen = plan.parent, {plan.name}
        while above in names and above not in seen:
            seen.add(above)
            above = names[above].parent
        return plan.parent if plan.parent in names and above not in seen else ""

    tree: list[tuple[NamedPlan, int]] = []

    def grow(name: str, depth: int) -> None:
        for plan in sorted(plans, key=lambda plan: plan.created):
            if parent(plan) == name:
                tree.append((plan, depth))
                grow(plan.name, depth + 1)

    grow("", 0)
    return tree


def restore_plan(workspace: Workspace, name: str) -> Workspace:
    """Bring back a named plan's counts, its units and its criterion as one edit that can be undone. Raises CoreError
    when there is none of that name, or when it belongs to another network."""
    found = find_plan(workspace, name)
    if found.model_source != workspace.model_source:
        raise CoreError(
            f"The plan {name!r} belongs to {found.model_source!r}; {workspace.model_source!r} is open. "
            "Open its network first."
        )
    wanted = {group: 0 for group in workspace.removed} | dict(found.removed)
    back = edit(workspace, wanted, f"Plan {name}", pin=found.plan)
    return replace(back, criterion=found.criterion, current_plan=name)


def remove_plan(workspace: Workspace, name: str) -> Workspace:
    plans = tuple(plan for plan in workspace.plans if plan.name != name)
    return replace(
        workspace, plans=plans, current_plan="" if workspace.current_plan == name else workspace.current_plan
    )


def lock(workspace: Workspace, group_id: str, locked: bool = True) -> Workspace:
    """Hold a group where it is while others move, or let it go."""
    others = tuple(name for name in workspace.locked if name != group_id)
    return replace(workspace, locked=(*others, group_id) if locked else others)


def note_measured(workspace: Workspace, key: str, result: Any) -> Workspace:
    """Keep a measured result (plain JSON) under a plan's key; the oldest leave when there are many."""
    others = [(name, value) for name, value in workspace.measured.items() if name != key]
    return replace(workspace, measured=dict([*others, (key, result)][-MAX_MEASURED:]))


def choose(workspace: Workspace, **choices: Any) -> Workspace:
    """Remember what was picked in forms (plain JSON values), by name."""
    return replace(workspace, choices={**workspace.choices, **choices})


def _step(values: Mapping[str, Any]) -> Step:
    pins = (str(values.get("pin_before", "")), str(values.get("pin_after", "")))
    by_hand = bool(values.get("by_hand", False))
    return Step(str(values["label"]), _counts(values["before"]), _counts(values["after"]), *pins, by_hand)


def _named_plan(values: Mapping[str, Any]) -> NamedPlan:
    known = {item.name: values[item.name] for item in fields(NamedPlan) if item.name in values}
    return NamedPlan(**{**known, "removed": _counts(known["removed"])})


def _plan_name(text: str) -> str:
    text = text.strip()
    if not 1 <= len(text) <= 80:
        raise CoreError(f"Expected a name of 1 to 80 characters for the plan. Found {len(text)} characters.")
    return text


def _plan_note(text: str) -> str:
    text = text.strip()
    if len(text) > MAX_NOTE:
        raise CoreError(f"Expected a note of at most {MAX_NOTE:,} characters. Found {len(text):,}. Shorten it.")
    return text


def _parent(workspace: Workspace, name: str) -> str:
    return next((plan.parent for plan in workspace.plans if plan.name == name), "")


def _merged(now: Mapping[str, int], changed: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in {**now, **changed}.items() if count}


def _counts(values: Mapping[str, int]) -> dict[str, int]:
    counts = {str(name): int(count) for name, count in values.items()}
    below = [name for name, count in counts.items() if count < 0]
    if below:
        raise CoreError(f"Expected how many units leave each group, 0 or more. Found {counts[below[0]]} in {below[0]}.")
    return counts
