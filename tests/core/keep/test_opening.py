"""Opening once for all who ask: shared, given up when nobody waits, kept while there is room."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from core.errors import Cancelled, CoreError, LoadError
from core.keep.opening import Opening, Openings


def openings(**bounds: int) -> Openings[str]:
    return Openings(len, **{"least": 1, "most": 10, "most_bytes": 1000, **bounds})


class Gate:
    """Makes "value" in two stages; the first waits until it is let go."""

    def __init__(self) -> None:
        self.free, self.made = threading.Event(), 0

    def make(self, opening: Opening[str]) -> str:
        self.made += 1
        opening.tell("first")
        self.free.wait(30)
        opening.tell("second")
        return "value"


def test_all_who_ask_share_one_opening() -> None:
    found, gate = openings(), Gate()
    first = found.begin("a", gate.make, who="ada")
    second = found.begin("a", gate.make, who="bob")
    assert first is second and first.active and not first.wait(0)
    got: list[str] = []
    waiting = threading.Thread(target=lambda: got.append(found.get("a", gate.make)))
    waiting.start()
    gate.free.set()
    assert first.wait(30) and first.value == "value" and first.error is None and first.stage == "second"
    waiting.join(30)
    assert got == ["value"] and found.get("a", gate.make) == "value" and gate.made == 1
    assert not found.begin("a", gate.make, who="eve").active


def test_it_goes_on_for_those_who_stay_and_ends_when_nobody_does() -> None:
    found, gate = openings(), Gate()
    one = found.begin("a", gate.make, who="ada")
    found.begin("a", gate.make, who="bob")
    found.leave(one, "ada")
    found.leave(one, "ada")
    assert one.wanted == {"bob"}
    found.leave(one, "bob")
    gate.free.set()
    assert one.wait(30) and one.value is None and isinstance(one.fault, Cancelled)
    again = Gate()
    again.free.set()
    assert found.get("a", again.make) == "value" and again.made == 1


def failing(fault: BaseException) -> Callable[[Opening[str]], str]:
    def make(opening: Opening[str]) -> str:
        raise fault

    return make


def test_a_fault_is_told_to_the_page_and_tried_again_when_asked_for() -> None:
    found, gate = openings(), Gate()
    gate.free.set()
    bad = found.begin("a", failing(LoadError("No such file.")), who="ada")
    assert bad.wait(30) and str(bad.error) == "No such file."
    assert found.begin("a", gate.make, who="ada") is bad, "a page that is drawn again hears the same"
    fresh = found.begin("a", gate.make, who="ada", anew=True)
    assert fresh is not bad and fresh.wait(30) and fresh.value == "value"
    with pytest.raises(ZeroDivisionError):
        found.get("b", failing(ZeroDivisionError()))
    assert found.get("b", gate.make) == "value", "who waits for it tries anew"


def test_a_fault_of_ours_is_a_sentence_too() -> None:
    for fault, word in ((KeyError("x"), "broke"), (MemoryError(), "memory")):
        opening = openings().begin("a", failing(fault), who="ada")
        assert opening.wait(30) and isinstance(opening.error, CoreError) and word in str(opening.error)


def test_the_oldest_leave_when_there_is_no_room() -> None:
    made: list[str] = []

    def make(name: str) -> Callable[[Opening[str]], str]:
        return lambda opening: made.append(name) or 100 * name  # type: ignore[func-returns-value]

    found = openings(least=1, most=3, most_bytes=250)
    for name in "ab", "c", "d", "c", "ab":
        found.get(name, make(name))
    assert made == ["ab", "c", "d", "ab"], "ab left for c, and both others for ab"
    for name in "ab", "c":
        found.get(name, make(name))
    assert made[4:] == ["c"], "too large for two"
