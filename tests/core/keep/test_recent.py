"""What was made a moment ago is made once, and not for ever."""

from __future__ import annotations

from core.keep.recent import Recent


def test_it_is_made_once_until_it_is_dropped_or_others_were_asked_for() -> None:
    made: list[str] = []

    def make(name: str) -> str:
        made.append(name)
        return name.upper()

    recent: Recent[str] = Recent(2)
    assert [recent.get(name, lambda name=name: make(name)) for name in ("a", "a", "b", "a")] == ["A", "A", "B", "A"]
    assert made == ["a", "b"]
    recent.get("c", lambda: make("c"))
    recent.get("a", lambda: make("a"))
    assert made == ["a", "b", "c"], "the one asked for longest ago has left, and that was b"
    recent.get("b", lambda: make("b"))
    recent.drop("b")
    recent.get("b", lambda: make("b"))
    assert made == ["a", "b", "c", "b", "b"]


def test_nothing_found_is_looked_for_again() -> None:
    found: list[int | None] = [None, 3]
    recent: Recent[int] = Recent(2)
    assert [recent.get("x", lambda: found.pop(0)) for _ in range(3)] == [None, 3, 3]
