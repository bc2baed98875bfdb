"""What a lesson is, and how its file is read.

A lesson is one TOML file: a goal, minutes, and steps in order. Texts hold places such as ``{macs:,}``, which are filled
with the facts that core/learn/facts.py computes of the network at hand: no number is written in a text.
"""

from __future__ import annotations

import string
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from core.errors import CoreError
from core.registry import unknown_name

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "texts" / "lessons"
# What a step asks of the learner: to read, to say what will happen (locked in), to look, to move through a picture, to
# read the answer to what they said, to see the formula with this network's numbers, to show that they know.
KINDS = ("read", "predict", "see", "act", "explain", "formula", "check", "desk")
FACTS_VERSION = 4  # of all facts: those that an older version kept are computed anew


@dataclass(frozen=True)
class Symbol:
    """One sign of a formula: what it means, and its value here (a text with places for facts)."""

    sign: str
    meaning: str
    value: str = ""


@dataclass(frozen=True)
class LessonStep:
    """One step. ``options``: answer -> words, to choose from; none: a number is asked for, right within ``tolerance``
    (a share of the true one) or ``within`` (as it stands). ``answer``: the fact that holds the truth. ``options_from``:
    the fact that lists options which depend on the network. ``view``: the picture to draw; ``scene``: the one to move
    through. ``right`` and ``wrong``: what is said after. ``about``: the number of the step whose answer an explanation
    takes up. ``goal``: limits that a plan on the desk must keep. ``formula``: in the LaTeX of core/learn/formula.py;
    ``numbers``: the same with this network's numbers."""

    kind: str
    title: str
    text: str
    options: Mapping[str, str]
    options_from: str
    answer: str
    tolerance: float
    within: float
    unit: str
    view: str
    scene: str
    right: str
    wrong: str
    about: int
    formula: str
    numbers: str
    symbols: tuple[Symbol, ...]
    goal: Mapping[str, float]


@dataclass(frozen=True)
class Lesson:
    name: str
    title: str
    goal: str
    minutes: int
    facts: str  # the row of core/learn/facts.FACTS that fills the texts; "" for none
    steps: tuple[LessonStep, ...]
    reading: tuple[str, ...]  # further reading, Markdown


def list_lessons() -> tuple[Lesson, ...]:
    """All lessons in order. Raises CoreError for a file that is not a lesson."""
    return tuple(_read(path, path.stat().st_mtime) for path in sorted(FOLDER.glob("*.toml")))


def find_lesson(name: str) -> Lesson:
    """Raises LoadError with the names there are."""
    known = {lesson.name: lesson for lesson in list_lessons()}
    if name not in known:
        raise unknown_name("lesson", name, list(known))
    return known[name]


def filled(text: str, facts: Mapping[str, Any]) -> str:
    """``text`` with its places filled. Raises CoreError that names a fact which is not there."""
    try:
        return string.Formatter().vformat(text, (), facts)
    except KeyError as error:
        raise CoreError(f"A lesson's text asks for {error}, which was not computed: {text[:60]!r}.") from error


def places(text: str) -> set[str]:
    """The facts that ``text`` asks for."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@lru_cache(maxsize=64)
def _read(path: Path, stamp: float) -> Lesson:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        steps = tuple(_step(one) for one in found["step"])
        name = path.stem.partition("-")[2]
        return Lesson(
            name, found["title"], found["goal"], int(found["minutes"]), found.get("facts", ""), steps,
            tuple(found.get("reading", ())),
        )  # fmt: skip
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise CoreError(f"The lesson in {path.name} cannot be read: {error}. Mend or remove the file.") from error


def _step(found: Mapping[str, Any]) -> LessonStep:
    if found["kind"] not in KINDS:
        raise ValueError(f"there is no kind of step {found['kind']!r}; there are {', '.join(KINDS)}")
    return LessonStep(
        found["kind"],
        found.get("title", ""),
        found.get("text", "").strip(),
        dict(found.get("options", {})),
        found.get("options_from", ""),
        found.get("answer", ""),
        float(found.get("tolerance", 0.02)),
        float(found.get("within", 0.0)),
        found.get("unit", ""),
        found.get("view", ""),
        found.get("scene", ""),
        found.get("right", "").strip(),
        found.get("wrong", "").strip(),
        int(found.get("about", 0)),
        found.get("formula", ""),
        found.get("numbers", ""),
        tuple(Symbol(one["sign"], one["meaning"], one.get("value", "")) for one in found.get("symbols", ())),
        dict(found.get("goal", {})),
    )
