"""The record of one person's work: edits, undo and redo, named plans, JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from core.errors import CoreError
from core.keep import workspace as records
from core.keep.workspace import (
    MAX_STEPS,
    Workspace,
    describe_plan,
    edit,
    find_plan,
    is_token,
    made_how,
    new_token,
    overrides,
    plan_tree,
    redo,
    restore_plan,
    save_plan,
    undo,
)


@pytest.fixture
def start() -> Workspace:
    return Workspace(new_token(), "demo/digits-vgg", data_source="digits", criterion="weight-l2")


def test_undo_and_redo_walk_the_same_states(start: Workspace) -> None:
    states = [start]
    for removed in ({"a": 3}, {"a": 5, "b": 1}, {"b": 0}, {"c": 2, "a": 0}):
        states.append(edit(states[-1], removed, f"edit {len(states)}"))
    assert [dict(state.removed) for state in states] == [{}, {"a": 3}, {"a": 5, "b": 1}, {"a": 5}, {"c": 2}]
    now = states[-1]
    for state in reversed(states[:-1]):
        now = undo(now)
        assert now.removed == state.removed and now.history == state.history
    assert not now.can_undo and undo(now) is now
    for state in states[1:]:
        now = redo(now)
        assert now.removed == state.removed and now.history == state.history
    assert not now.can_redo and redo(now) is now
    assert start.removed == {} and start.history == ()


def test_a_new_edit_ends_what_could_be_redone(start: Workspace) -> None:
    after = edit(undo(edit(start, {"a": 1}, "one")), {"b": 1}, "two")
    assert after.removed == {"b": 1} and not after.can_redo
    assert [step.label for step in after.history] == ["two"]


def test_an_edit_that_changes_nothing_is_no_step(start: Workspace) -> None:
    once = edit(start, {"a": 1}, "one")
    assert edit(once, {"a": 1, "b": 0}, "same") is once
    with pytest.raises(CoreError, match="0 or more"):
        edit(once, {"a": -1}, "wrong")


def test_rev_rises_unless_the_equaliser_made_the_change(start: Workspace) -> None:
    dragged = edit(start, {"a": 1}, "drag", from_equaliser=True)
    assert dragged.rev == start.rev
    revs = [dragged.rev]
    for record in (preset := edit(dragged, {"a": 4}, "preset"), back := undo(preset), redo(back)):
        revs.append(record.rev)
    assert revs == sorted(set(revs))


def test_history_is_bounded(start: Workspace) -> None:
    now = start
    for i in range(MAX_STEPS + 10):
        now = edit(now, {"a": i + 1}, str(i))
    assert len(now.history) == MAX_STEPS and now.history[-1].label == str(MAX_STEPS + 9)
    while now.can_undo:
        now = undo(now)
    assert now.removed == {"a": 10}


def test_named_plans_come_back_as_an_edit(start: Workspace) -> None:
    now = records.save_plan(edit(start, {"a": 2}, "drag"), "first", '{"kept": {}}')
    now = records.save_plan(edit(now, {"a": 0, "b": 7}, "drag", from_equaliser=True), "second")
    assert [(plan.name, plan.parent) for plan in now.plans] == [("first", ""), ("second", "first")]
    back = records.restore_plan(now, "first")
    assert back.removed == {"a": 2} and back.current_plan == "first"
    assert undo(back).removed == {"b": 7}
    assert [plan.name for plan in records.remove_plan(back, "first").plans] == ["second"]
    assert len(records.save_plan(back, "first").plans) == 2
    with pytest.raises(CoreError, match="no plan called 'third'"):
        records.restore_plan(now, "third")
    with pytest.raises(CoreError, match="1 to 80"):
        records.save_plan(now, "  ")
    other = records.open_model(now, "demo/shapes", "shapes")
    assert other.removed == {} and not other.can_undo and len(other.plans) == 2 and other.rev > now.rev
    with pytest.raises(CoreError, match="belongs to 'demo/digits-vgg'"):
        records.restore_plan(other, "first")


def test_json_keeps_everything(start: Workspace) -> None:
    now = records.save_plan(edit(start, {"a": 2}, "drag"), "first")
    now = records.lock(records.note_measured(undo(now), "key", {"value": 0.5}), "b")
    now = records.choose(now, fractions=[0.1, 0.5], sort="depth")
    state = json.loads(json.dumps(now.to_json()))
    assert Workspace.from_json(state, revision=4).revision == 4
    assert Workspace.from_json(state) == now
    assert records.lock(now, "b", False).locked == ()
    minimal = Workspace.from_json({"version": 1, "token": now.token, "from_the_future": 1})
    assert minimal == Workspace(now.token)


@pytest.mark.parametrize(
    "state",
    [{}, {"version": 1}, {"version": 1, "token": "t", "removed": [1]}, {"version": 1, "token": "t", "history": [3]}],
)
def test_what_is_no_workspace_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(CoreError, match="cannot be read"):
        Workspace.from_json(state)


def test_a_newer_version_is_refused() -> None:
    with pytest.raises(CoreError, match="newer Prunescope"):
        Workspace.from_json({"version": 2, "token": "t"})


def test_tokens_are_random_and_checked() -> None:
    assert len({new_token() for _ in range(100)}) == 100 and is_token(new_token())
    for wrong in (None, "", "short", "x" * 23, "../../../../etc/passwd", "a" * 21 + "\n", "é" * 22):
        assert not is_token(wrong)


def test_a_pin_comes_and_goes_with_its_step(start: Workspace) -> None:
    dragged = edit(start, {"a": 1}, "drag")
    taken = edit(dragged, {"a": 3, "gather:b": 2}, "CP", pin='{"kept": {}}')
    assert taken.pinned == '{"kept": {}}' and dragged.pinned == ""
    moved = edit(taken, {"a": 4}, "drag")
    assert moved.pinned == taken.pinned, "a drag leaves the other groups their units"
    cleared = edit(moved, {"a": 0, "gather:b": 0}, "Dense", pin="")
    assert cleared.pinned == "" and cleared.removed == {}
    back = undo(cleared)
    assert back.pinned == taken.pinned and back.removed == moved.removed
    assert undo(undo(back)).pinned == "" and undo(undo(back)).removed == dragged.removed
    assert redo(undo(undo(back))).pinned == taken.pinned
    read = Workspace.from_json(json.loads(json.dumps(back.to_json())))
    assert read == back and undo(undo(read)).pinned == ""


def test_other_units_of_the_same_counts_are_a_step(start: Workspace) -> None:
    first = edit(start, {"a": 1}, "one", pin='{"kept": {"a": [0]}}')
    second = edit(first, {"a": 1}, "other", pin='{"kept": {"a": [1]}}')
    assert second is not first and undo(second).pinned == first.pinned
    assert edit(second, {"a": 1}, "same", pin=second.pinned) is second


def test_work_saved_before_there_were_pins_is_read(start: Workspace) -> None:
    state = edit(start, {"a": 1}, "one").to_json()
    del state["pin"]
    state["history"] = [{key: step[key] for key in ("label", "before", "after")} for step in state["history"]]
    read = Workspace.from_json(state)
    assert read.pin == "" and undo(read).removed == {}


def test_a_named_plan_brings_its_units_back(start: Workspace) -> None:
    named = records.save_plan(edit(start, {"a": 1}, "one", pin='{"kept": {"a": [0]}}'), "mine", '{"kept": {"a": [0]}}')
    other = edit(named, {"a": 2}, "two", pin="")
    assert records.restore_plan(other, "mine").pinned == '{"kept": {"a": [0]}}'


def test_what_was_moved_by_hand_since_a_plan_was_set(start: Workspace) -> None:
    work = edit(start, {"a": 4, "b": 2}, "Half the MACs")
    assert overrides(work) == {} and made_how(work) == "Half the MACs"
    work = edit(work, {"a": 6}, "a", from_equaliser=True)
    work = edit(work, {"a": 7, "c": 1}, "2 groups", from_equaliser=True)
    assert overrides(work) == {"a": 4, "c": 0}
    assert made_how(work) == "Half the MACs, then 2 groups by hand"
    work = edit(work, {"a": 4}, "a", from_equaliser=True)
    assert overrides(work) == {"c": 0}, "back where the plan had it"
    assert overrides(Workspace.from_json(work.to_json())) == {"c": 0}


def test_the_tree_of_origins(start: Workspace) -> None:
    work = save_plan(edit(start, {"a": 1}, "Even"), "first", note=" why ")
    work = save_plan(edit(work, {"a": 2}, "a", from_equaliser=True), "second")
    work = save_plan(restore_plan(edit(work, {"a": 3}, "a", from_equaliser=True), "first"), "third")
    work = save_plan(edit(work, {"a": 5}, "Half"), "fourth")
    tree = [(plan.name, depth) for plan, depth in plan_tree(work.plans)]
    assert sorted(tree[:1] + tree[-1:]) == [("first", 0), ("fourth", 0)]
    assert {("second", 1), ("third", 1)} <= set(tree)
    assert find_plan(work, "first").note == "why" and find_plan(work, "first").how == "Even"
    renamed = describe_plan(work, "first", new_name="1st", note="")
    assert find_plan(renamed, "second").parent == "1st" and find_plan(renamed, "1st").note == ""
    with pytest.raises(CoreError, match="already"):
        describe_plan(work, "first", new_name="second", note="")
    with pytest.raises(CoreError, match="at most"):
        describe_plan(work, "first", new_name="first", note="x" * 2000)
    circle = [replace(find_plan(work, "first"), parent="second"), find_plan(work, "second")]
    assert sorted(plan.name for plan, _ in plan_tree(circle)) == ["first", "second"]
