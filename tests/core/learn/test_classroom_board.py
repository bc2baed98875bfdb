"""The class board: one class, many learners, several processes at once; nicknames, bounds, and who may do what."""

from __future__ import annotations

import csv
import io
import multiprocessing
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from core import count_cost, evaluate_model, job_key, plan_uniform, prune_model, score_channels
from core.errors import CoreError
from core.keep.store import Store
from core.keep.subject import Subject, open_subject, uploads_folder
from core.learn import classroom_board as board
from core.learn.classroom import Assignment
from core.learn.classroom_plans import board_csv, board_of, measured_plan, plan_name
from core.records import Plan

TASK = Assignment("demo/digits-resnet", frozen=("recover",))
TOKENS = [f"token-number-{n:09d}" for n in range(9)]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path))
    found = Store(tmp_path / "store.sqlite")
    yield found
    found.close()


def told(value: float = 0.9, macs: int = 500) -> dict[str, Any]:
    shares = {"macs": macs / 1000, "params": 0.5, "size_bytes": 0.5}
    costs = {"macs": macs, "params": 50, "size_bytes": 200}
    return {
        "value": value, "low": value - 0.03, "high": value + 0.02, "images": 360, "removed": 3, "repair": "none",
        "dense": {"value": 0.97, "low": 0.95, "high": 0.98}, "costs": costs, "shares": shares, "passed": value > 0.85,
    }  # fmt: skip


def test_a_class_is_opened_joined_used_and_closed(store: Store) -> None:
    code, key = board.open_class(store, TASK, "teacher-token")
    found = board.find_class(store, code.upper().replace("-", " "))
    assert (found.code, found.task, found.closed) == (code, TASK, False)
    assert board.member_name(store, code, TOKENS[0]) == ""
    with pytest.raises(CoreError, match="nickname first"):
        board.hand_in(store, code, TOKENS[0], "plan-a", told())
    assert board.join(store, code, TOKENS[0], "  Ada   L. ") == "Ada L."
    assert board.hand_in(store, code, TOKENS[0], "plan-a", told())
    assert not board.hand_in(store, code, TOKENS[0], "plan-a", told()), "the same plan is not doubled"
    assert board.handed_in(store, code, TOKENS[0]) == {"plan-a"} and not board.handed_in(store, code, TOKENS[1])
    board.join(store, code, TOKENS[0], "Ada")
    assert [(one.name, one.told["value"]) for one in board.entries(store, code)] == [("Ada", 0.9)]
    assert board.find_class(store, code).version > found.version
    board.close_class(store, code, key)
    for forbidden in (
        lambda: board.hand_in(store, code, TOKENS[0], "plan-b", told()),
        lambda: board.join(store, code, TOKENS[1], "Bob"),
    ):
        with pytest.raises(CoreError, match="closed"):
            forbidden()
    board.close_class(store, code, key, closed=False)
    assert board.hand_in(store, code, TOKENS[0], "plan-b", told())
    board.remove_entry(store, code, key, board.entries(store, code)[0].number)
    assert len(board.entries(store, code)) == 1
    board.remove_class(store, code, key)
    with pytest.raises(CoreError, match="no class of that code"):
        board.find_class(store, code)


def test_only_the_teacher_may_close_and_remove(store: Store) -> None:
    code, key = board.open_class(store, TASK, "teacher-token")
    other, wrong = board.open_class(store, TASK, "teacher-token")
    board.join(store, code, TOKENS[0], "Ada")
    board.hand_in(store, code, TOKENS[0], "plan-a", told())
    assert board.is_teacher(store, code, key) and not board.is_teacher(store, code, wrong) and other != code
    for bad in ("", wrong, code, "x" * 500):
        for forbidden in (
            lambda bad=bad: board.close_class(store, code, bad),
            lambda bad=bad: board.remove_class(store, code, bad),
            lambda bad=bad: board.remove_entry(store, code, bad, 1),
        ):
            with pytest.raises(CoreError, match="Only this class's teacher"):
                forbidden()
    assert len(board.entries(store, code)) == 1 and not board.find_class(store, code).closed
    raw = b"".join(path.read_bytes() for path in store.path.parent.glob("store.sqlite*"))
    assert key.encode() not in raw and TOKENS[0].encode() not in raw, "neither the key nor a token is written down"


@pytest.mark.parametrize("code", ["", "bako", "bako-timu-resa-x", "qqqq-qqqq-qqqq", "' OR 1=1 --", "é" * 12, "b" * 999])
def test_what_is_no_code_finds_no_class(store: Store, code: str) -> None:
    with pytest.raises(CoreError, match="no class of that code"):
        board.find_class(store, code)


def test_codes_are_sayable_and_differ() -> None:
    codes = {board.new_code() for _ in range(500)}
    assert len(codes) == 500 and all(board.plain_code(code) == code for code in codes)


REFUSED = [
    "",
    "   ",
    "x" * 25,
    "a\nb",
    "a\tb",
    "a\x00b",
    "\u202eevil",
    "zero\u200bwidth",
    "...",
    "🎉",
    "é\u0301\u0301\u0301\u0301",
]


@pytest.mark.parametrize("name", REFUSED)
def test_a_nickname_that_is_none_is_refused(store: Store, name: str) -> None:
    code, _ = board.open_class(store, TASK, "teacher-token")
    with pytest.raises(CoreError, match="nickname") as caught:
        board.join(store, code, TOKENS[0], name)
    assert not name.strip() or name not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["<b>Bob</b>", "Robert'); DROP TABLE", "=1+cmd|' /C calc'!A", "+A1", "李雷", "Zoë", "7", "🎉 x"]
)
def test_odd_nicknames_are_kept_as_they_are_and_leave_safely(store: Store, name: str) -> None:
    code, _ = board.open_class(store, TASK, "teacher-token")
    board.join(store, code, TOKENS[0], name)
    board.hand_in(store, code, TOKENS[0], "plan-a", told())
    assert board.member_name(store, code, TOKENS[0]) == name
    text = board_csv(board_of(board.entries(store, code), TASK))
    (line,) = csv.DictReader(io.StringIO(text))
    assert line["nickname"] == (f"'{name}" if name[0] in "=+" else name)
    assert (line["accuracy"], line["macs"], line["goal_met"], line["on_front"]) == ("0.9", "500", "1", "1")


def test_nicknames_are_unique_however_they_are_written(store: Store) -> None:
    code, _ = board.open_class(store, TASK, "teacher-token")
    board.join(store, code, TOKENS[0], "Ada")
    for twin in ("ADA", " ada ", "Ａｄａ"):
        with pytest.raises(CoreError, match="nickname already"):
            board.join(store, code, TOKENS[1], twin)
    other, _ = board.open_class(store, TASK, "teacher-token")
    assert board.join(store, other, TOKENS[1], "Ada") == "Ada", "in another class it is free"


def test_everything_has_its_bound(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "MAX_LEARNERS", 3)
    monkeypatch.setattr(board, "MAX_PLANS", 2)
    monkeypatch.setattr(board, "MAX_CLASSES", 3)
    code, _ = board.open_class(store, TASK, "teacher-token")
    for number in range(3):
        board.join(store, code, TOKENS[number], f"Learner {number}")
    with pytest.raises(CoreError, match="full"):
        board.join(store, code, TOKENS[3], "One more")
    board.join(store, code, TOKENS[2], "Another name")
    for plan in ("a", "b"):
        board.hand_in(store, code, TOKENS[0], plan, told())
    with pytest.raises(CoreError, match="2 plans"):
        board.hand_in(store, code, TOKENS[0], "c", told())
    empty, _ = board.open_class(store, TASK, "teacher-token")
    joined, _ = board.open_class(store, TASK, "teacher-token")
    board.join(store, joined, TOKENS[0], "Ada")
    fourth, _ = board.open_class(store, TASK, "teacher-token")
    with pytest.raises(CoreError, match="no class"):
        board.find_class(store, empty)  # nobody had joined it: it left for the fourth
    board.join(store, fourth, TOKENS[0], "Ada")
    with pytest.raises(CoreError, match="3 classes, all of them in use"):
        board.open_class(store, TASK, "teacher-token")
    query = "UPDATE classes SET used = used - ? WHERE code = ?"
    store.transact(lambda c: c.execute(query, (board.IDLE_S + 9, joined)), writes=True)
    board.open_class(store, TASK, "teacher-token")
    with pytest.raises(CoreError, match="no class"):
        board.find_class(store, joined)
    assert board.find_class(store, code).code == code


def hand_in_six(path: Path, code: str, who: int) -> None:
    own = Store(path)
    for turn in range(6):
        token = f"token-{who}-{turn}"
        board.join(own, code, token, f"Learner {who} {turn}")
        for again in range(2):
            board.hand_in(own, code, token, "own", {"by": token})
            board.hand_in(own, code, token, f"plan-{again}", {"by": token})


def test_several_processes_at_once_lose_and_double_nothing(store: Store) -> None:
    code, _ = board.open_class(store, TASK, "teacher-token")
    store.close()
    forked = multiprocessing.get_context("fork")  # fresh ones would import torch four times
    programs = [forked.Process(target=hand_in_six, args=(store.path, code, who)) for who in range(4)]
    for program in programs:
        program.start()
    for program in programs:
        program.join(90)
    assert [program.exitcode for program in programs] == [0] * 4
    found = board.entries(store, code)
    assert len(found) == 4 * 6 * 3 and board.count_learners(store, code) == 24
    numbers = [one.number for one in found]
    assert numbers == sorted(set(numbers))
    for one in found:
        _, who, turn = one.told["by"].split("-")
        assert one.name == f"Learner {who} {turn}", "each plan under its own learner"


def test_uploaded_files_are_copied_so_that_no_learner_sees_the_teachers_work(store: Store) -> None:
    weights = uploads_folder("teacher-token") / "mine-1234.safetensors"
    weights.write_bytes(b"weights")
    images = uploads_folder("teacher-token") / "mine-1234.npz"
    images.write_bytes(b"images")
    task = replace(TASK, weights=str(weights), weights_name="mine.pt", data=f"{images}?size=32")
    code, key = board.open_class(store, task, "teacher-token")
    kept = board.find_class(store, code).task
    assert "teacher-token" not in kept.weights + kept.data and kept.data.endswith("?size=32")
    assert Path(kept.weights).read_bytes() == b"weights"
    assert Path(kept.data.partition("?")[0]).read_bytes() == b"images"
    board.remove_class(store, code, key)
    assert not Path(kept.weights).exists() and weights.exists()


# What is handed in


@pytest.fixture(scope="module")
def subject() -> Subject:
    return open_subject("demo/digits-resnet")


def put(store: Store, subject: Subject, plan: Plan) -> dict[str, Any]:
    """As the worker does it: the plan's network, measured on all selection images."""
    accuracy = asdict(evaluate_model(prune_model(subject.loaded.module, subject.trace, plan), subject.data.selection))
    key = job_key("evaluate_plan", subject, plan=plan.to_json(), repair="none")
    store.put_result("evaluate_plan", key, {"accuracy": accuracy})
    return accuracy


def test_a_plan_goes_on_the_board_as_the_store_measured_it(store: Store, subject: Subject) -> None:
    plan = plan_uniform(subject.trace, score_channels(subject.trace, None, "weight-l2"), 0.25)
    for step in range(2):
        with pytest.raises(CoreError, match="not been measured yet"):
            measured_plan(store, subject, TASK, plan, "none")
        known = put(store, subject, plan if step == 0 else Plan({}))
        dense = known
    accuracy = store.result("evaluate_plan", job_key("evaluate_plan", subject, plan=plan.to_json(), repair="none"))
    found = measured_plan(store, subject, TASK, plan, "none")
    cost, whole = count_cost(subject.trace, plan), count_cost(subject.trace)
    assert {name: found[name] for name in ("value", "low", "high", "images")} == {
        name: accuracy["accuracy"][name] for name in ("value", "low", "high", "images")
    }
    assert found["dense"]["value"] == dense["value"] and found["images"] == len(subject.data.selection)
    assert found["costs"] == {"macs": cost.macs, "params": cost.params, "size_bytes": cost.size_bytes}
    assert found["shares"]["macs"] == cost.macs / whole.macs
    assert found["removed"] == sum(g.units - len(plan.kept[g.id]) for g in subject.trace.groups if g.id in plan.kept)
    drop = dense["value"] - found["value"]
    for budget, most, passed in ((found["shares"]["macs"], drop, True), (0.01, drop, False)):
        easy = replace(TASK, budget=("macs", budget), drop=max(0.0, most))
        assert measured_plan(store, subject, easy, plan, "none")["passed"] is passed
    with pytest.raises(CoreError, match="as cut"):
        measured_plan(store, subject, TASK, plan, "least-squares")
    with pytest.raises(CoreError, match="Another network"):
        measured_plan(store, subject, replace(TASK, weights="random"), plan, "none")
    assert plan_name(plan, "none") != plan_name(plan, "least-squares")


def test_the_front_is_of_those_that_nobody_beats(store: Store) -> None:
    code, _ = board.open_class(store, TASK, "teacher-token")
    points = [(0.9, 500), (0.95, 700), (0.8, 600), (0.97, 900), (0.9, 450)]
    for number, (value, macs) in enumerate(points):
        board.join(store, code, TOKENS[number], f"L{number}")
        board.hand_in(store, code, TOKENS[number], "p", told(value, macs))
    found = board_of(board.entries(store, code), TASK)
    beaten = {
        a for a, (value, macs) in enumerate(points) for b, (better, cheaper) in enumerate(points)
        if a != b and better >= value and cheaper <= macs and (better, cheaper) != (value, macs)
    }  # fmt: skip
    assert set(found.front) == set(range(5)) - beaten and found.passed == 4
