"""The shares that two workers take."""

from __future__ import annotations

from pathlib import Path

from tests.sharing import BROWSER, LONG, place_of, share_of

ROOT = Path(__file__).resolve().parent.parent


def test_a_file_is_one_share_and_all_that_needs_a_browser_another() -> None:
    assert share_of("tests/laws/test_replay.py::test_one[a::b]") == "tests/laws/test_replay.py"
    assert {share_of(f"tests/browser/test_{name}.py::test_it") for name in ("stories", "lessons")} == {BROWSER}


def test_what_is_named_as_long_is_there_and_begins_before_the_rest() -> None:
    assert len(set(LONG)) == len(LONG) and all((ROOT / share).exists() for share in LONG)
    tests = [f"{share}::test_it" for share in ("tests/test_sharing.py", LONG[1], f"{BROWSER}/test_stories.py")]
    assert sorted(tests, key=place_of) == tests[::-1]
