"""What leaves the classroom: the printed lesson, and a learner's progress as a file."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from core.errors import CoreError
from core.keep.project import open_project, pack_project
from core.keep.workspace import Workspace, new_token
from core.learn.classroom_handout import handout_html, markdown
from core.learn.formula import to_html
from core.learn.lesson import Lesson, find_lesson, list_lessons, places
from core.learn.progress import MAX_BYTES, pack_progress, unpack_progress

LESSONS = {lesson.name: lesson for lesson in list_lessons()}


class Balanced(HTMLParser):
    """Every tag that opens closes, in order; nothing is fetched from elsewhere."""

    VOID = frozenset({"meta", "br", "img", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "img", "iframe", "link") and not {"src", "href", "onload"} & {n for n, _ in attrs}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def stand_in(lesson: Lesson) -> dict[str, Any]:
    """A number for every place, the first option for every question."""
    texts = [text for step in lesson.steps for text in (step.text, step.right, step.wrong, *step.options.values())]
    texts += [text for step in lesson.steps for one in step.symbols for text in (one.value, one.meaning)]
    found: dict[str, Any] = {name: 7 for text in texts for name in places(text)}
    for step in lesson.steps:
        if step.options_from:
            found[step.options_from] = [["a", "the first"], ["b", "the second"]]
        if step.answer:
            found[step.answer] = "a" if step.options_from else next(iter(step.options), 7.0)
    return found


@pytest.mark.parametrize("name", LESSONS)
def test_every_lesson_prints_whole(name: str) -> None:
    lesson = LESSONS[name]
    facts = stand_in(lesson)
    sheet = handout_html(lesson, facts, network="a net", images="digits", goal="at most 50 % of the MACs")
    page = Balanced(sheet)
    assert lesson.title in page.text and lesson.goal in page.text and "@" not in re.sub(r"@page|@media", "", sheet)
    for number, step in enumerate(lesson.steps, start=1):
        assert f"{number} · {step.title}" in page.text
        if step.formula:
            assert to_html(step.formula) in sheet, f"this formula cannot be printed: {step.formula}"
    if any(step.kind == "explain" and places(step.wrong) for step in lesson.steps):
        assert 'class="blank"' in sheet
    assert "Answers, for the teacher" not in sheet
    told = Balanced(handout_html(lesson, facts, network="a net", images="digits", answers=True))
    assert "Answers, for the teacher" in told.text


def test_questions_come_before_what_answers_them() -> None:
    lesson = find_lesson("norms")
    sheet = handout_html(
        lesson, stand_in(lesson), network="a net", images="digits", code="bako-timu-resa", link="http://x"
    )
    asked, turned = sheet.index("Say it first"), sheet.index("before you turn the page")
    assert asked < turned < sheet.index("What I see")
    assert sheet.count('<ul class="boxes">') == 2 and "bako-timu-resa" in sheet and "size: A4" in sheet


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a & b < c"])
def test_names_are_escaped(hostile: str) -> None:
    lesson = find_lesson("channel")
    facts = stand_in(lesson) | {"layer": hostile}
    sheet = handout_html(lesson, facts, network=hostile, images=hostile, goal=hostile, link=hostile, code=hostile)
    assert Balanced(sheet).text.count(hostile) >= 6


def test_markdown_of_lessons() -> None:
    said = markdown(
        "One **strong** word, *soft*, `a*b*c`, $x_i$.\nNext line.\n\n- a\n- <b>\n\n[arXiv](https://arxiv.org/abs/1)"
    )
    opening = "<p>One <b>strong</b> word, <i>soft</i>, <code>a*b*c</code>, "
    assert said.startswith(f'{opening}<span class="math"><i>x</i><sub><i>i</i></sub></span>')
    assert "<ul><li>a</li><li>&lt;b&gt;</li></ul>" in said and "(https://arxiv.org/abs/1)" in said


def test_a_project_file_takes_no_class_along() -> None:
    choices = {"class_key": "secret-key", "class_code": "bako-timu-resa", "lessons": {}}
    packed = pack_project(Workspace(new_token(), "demo/digits-vgg", choices=choices))
    assert open_project(io.BytesIO(packed)).choices == {"lessons": {}}


# Progress


def steps_done(name: str, step: int, done: bool = False) -> dict[str, Any]:
    lesson = LESSONS[name]
    asked = [n for n, one in enumerate(lesson.steps[:step], start=1) if one.kind in ("predict", "check")]
    return {"step": step, "answers": {str(n): 1.5 if n % 2 else "own" for n in asked}, "done": done}


def test_progress_comes_back_and_the_further_one_holds() -> None:
    kept = {"channel": steps_done("channel", 3), "norms": steps_done("norms", len(LESSONS["norms"].steps), True)}
    packed = pack_progress(kept, "demo/digits-vgg")
    assert unpack_progress(packed, {}) == (kept, [LESSONS[name].title for name in kept], "demo/digits-vgg")
    here = {"channel": steps_done("channel", 5), "norms": steps_done("norms", 2), "taylor": steps_done("taylor", 1)}
    merged, taken, _ = unpack_progress(packed, here)
    assert merged == {**here, "norms": kept["norms"]} and taken == [LESSONS["norms"].title]
    assert unpack_progress(packed, merged)[1] == [], "a second time changes nothing"


GOOD = steps_done("channel", 3)
SPOILED = {
    "a step beyond": {**GOOD, "step": 99},
    "a step below": {**GOOD, "step": 0},
    "a step that is no number": {**GOOD, "step": "3"},
    "true for a step": {**GOOD, "step": True},
    "an answer to what is not open": {**GOOD, "answers": {**GOOD["answers"], "6": 1}},
    "an answer to what asks nothing": {**GOOD, "answers": {**GOOD["answers"], "1": "x"}},
    "a question left out": {**GOOD, "answers": {}},
    "an answer without end": {**GOOD, "answers": {"2": "x" * 1000}},
    "an infinite answer": {**GOOD, "answers": {"2": float("inf")}},
    "a list for an answer": {**GOOD, "answers": {"2": [1]}},
    "no answers": {"step": 2},
    "no mapping": [1, 2],
}


@pytest.mark.parametrize("found", SPOILED.values(), ids=SPOILED)
def test_progress_that_cannot_be_is_refused(found: Any) -> None:
    packed = json.dumps({"kind": "prunescope-progress", "format": 1, "network": "x", "lessons": {"channel": found}})
    with pytest.raises(CoreError, match="What a channel does"):
        unpack_progress(packed.encode(), {})


@pytest.mark.parametrize(
    "packed", [b"", b"\xff\xfe", b"[]", b"{}", b'{"kind": "other"}', b"[" * 100_000, b"1" * (MAX_BYTES + 1)]
)
def test_what_is_no_progress_file_is_refused(packed: bytes) -> None:
    with pytest.raises(CoreError, match="progress file"):
        unpack_progress(packed, {})


def test_lessons_that_nobody_knows_and_later_formats() -> None:
    told = {"kind": "prunescope-progress", "format": 1, "network": 5, "lessons": {"juggling": {"step": 1}}}
    assert unpack_progress(json.dumps(told).encode(), {}) == ({}, [], "")
    with pytest.raises(CoreError, match="newer"):
        unpack_progress(json.dumps({**told, "format": 2}).encode(), {})
