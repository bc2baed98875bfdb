"""A lesson on paper: one HTML file that needs nothing else, black on white, made for A4.

First what is asked; then, after a page break, what was found, with blanks in place of this network's numbers; for
teachers the answers on a last page.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from html import escape
from typing import Any

from core.errors import CoreError
from core.learn.answers import options_of
from core.learn.formula import to_html
from core.learn.lesson import Lesson, LessonStep, filled

Facts = Mapping[str, Any]
BLANK, MARK = '<span class="blank"></span>', "\x01"
TRIES = 5  # lines of the table in which a learner notes plans


def handout_html(
    lesson: Lesson,
    facts: Facts,
    *,
    network: str,
    images: str,
    goal: str = "",
    link: str = "",
    code: str = "",
    pictures: Mapping[int, str] | None = None,
    answers: bool = False,
) -> str:
    """The hand-out of ``lesson`` as one page of HTML. ``facts``: of the network at hand. ``goal``, ``link``, ``code``:
    of the class, "" without one. ``pictures``: by the number of the step, as ``lesson_pictures`` draws them.
    ``answers``: with the teacher's page. Raises CoreError for a fact that is missing."""
    turned, body = False, []
    for number, step in enumerate(lesson.steps, start=1):
        if step.kind in ("see", "act", "explain") and not turned:
            turned = True
            body.append('<p class="turn">Make your prediction before you turn the page.</p><div class="page"></div>')
        body.append(_step(number, step, facts, goal, (pictures or {}).get(number, "")))
    last = _answers(lesson, facts) if answers else ""
    head = _head(lesson, network, images, goal, link, code)
    reading = "".join(f"<li>{markdown(one)}</li>" for one in lesson.reading)
    foot = f'<section class="reading"><h2>Further reading</h2><ul>{reading}</ul></section>' if reading else ""
    return PAGE.replace("@TITLE@", escape(lesson.title)).replace("@BODY@", head + "\n".join(body) + foot + last)


def _head(lesson: Lesson, network: str, images: str, goal: str, link: str, code: str) -> str:
    rows = [("Goal", lesson.goal), ("Time", f"about {lesson.minutes} minutes")]
    rows += [("Network", f"{network}, with {images}")]
    rows += [("To reach", goal)] if goal else []
    rows += [("Class", code)] if code else []
    rows += [("Link", link)] if link else []
    cells = "".join(f"<tr><th>{title}</th><td>{escape(text)}</td></tr>" for title, text in rows)
    name = '<p class="name">Name <span class="line"></span> Date <span class="line short"></span></p>'
    return f"<header><h1>{escape(lesson.title)}</h1>{name}<table>{cells}</table></header>"


def _step(number: int, step: LessonStep, facts: Facts, goal: str, picture: str) -> str:
    inner = markdown(filled(step.text, facts)) if step.text else ""
    if step.kind in ("predict", "check"):
        inner += _question(step, facts)
    elif step.kind in ("see", "act"):
        inner += picture + '<p>What I see:</p><div class="lines"><i></i><i></i></div>'
    elif step.kind == "explain":
        inner += "<p>Fill in the blanks with what the lesson shows.</p>" + _with_blanks(step.wrong)
    elif step.kind == "desk":
        inner += _tries(goal)
    if step.formula:
        inner += _formula(step, facts)
    return f"<section><h2>{number} · {escape(step.title)}</h2>{inner}</section>"


def _question(step: LessonStep, facts: Facts) -> str:
    options = options_of(step, facts)
    if not options:
        return f"<p>Answer: {BLANK} {escape(step.unit)}</p>"
    items = "".join(f"<li>{markdown(filled(words, facts), inline=True)}</li>" for words in options.values())
    return f'<ul class="boxes">{items}</ul>'


def _with_blanks(text: str) -> str:
    """``text`` with a blank for every number that would be filled in."""
    parts = [part + (MARK if name is not None else "") for part, name, _, _ in string.Formatter().parse(text)]
    return markdown("".join(parts)).replace(MARK, BLANK)


def _formula(step: LessonStep, facts: Facts) -> str:
    """The formula and its symbols with this network's values; the last one, what it gives, is left to the learner."""
    rows = []
    for place, one in enumerate(step.symbols):
        last = place == len(step.symbols) - 1
        value = BLANK if last else escape(filled(one.value, facts))
        meaning = escape(filled(one.meaning, facts))
        rows.append(f"<tr><th>{escape(one.sign)}</th><td>{meaning}</td><td>{value}</td></tr>")
    head = "<tr><th>Sign</th><th>Meaning</th><th>Here</th></tr>"
    return f'<div class="formula">{_math(step.formula)}</div><table class="symbols">{head}{"".join(rows)}</table>'


def _tries(goal: str) -> str:
    told = f"<p>The goal: <b>{escape(goal)}</b>.</p>" if goal else ""
    head = "".join(f"<th>{one}</th>" for one in ("Try", "What I changed", "Cost left", "Accuracy", "Goal met?"))
    lines = "".join(f"<tr><td>{n}</td>{'<td></td>' * 4}</tr>" for n in range(1, TRIES + 1))
    return f'{told}<table class="tries"><tr>{head}</tr>{lines}</table>'


def _answers(lesson: Lesson, facts: Facts) -> str:
    """For the teacher: every answer, explanation and value."""
    found = []
    for number, step in enumerate(lesson.steps, start=1):
        told = ""
        if step.kind in ("predict", "check"):
            options, truth = options_of(step, facts), facts[step.answer]
            words = filled(options[str(truth)], facts) if options else f"{truth:,.6g} {step.unit}"
            told = markdown(words, inline=True)
        elif step.kind == "explain":
            told = markdown(filled(step.wrong, facts))
        if step.formula and step.symbols:
            told += f"<p>{escape(step.symbols[-1].sign)} = {escape(filled(step.symbols[-1].value, facts))}</p>"
        if told:
            found.append(f"<dt>{number} · {escape(step.title)}</dt><dd>{told}</dd>")
    return f'<div class="page"></div><section><h2>Answers, for the teacher</h2><dl>{"".join(found)}</dl></section>'


def markdown(text: str, *, inline: bool = False) -> str:
    """The Markdown that lessons use, as HTML: paragraphs, lists, **strong**, *emphasis*, `code`, $formula$, links.
    Everything else is escaped."""
    if inline:
        return _spans(text)
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.split("\n")
        if all(re.match(r"\s*[-*] ", line) for line in lines):
            blocks.append("<ul>" + "".join(f"<li>{_spans(line.strip()[2:])}</li>" for line in lines) + "</ul>")
        else:
            blocks.append(f"<p>{_spans(block)}</p>")
    return "".join(blocks)


def _spans(text: str) -> str:
    kept: list[str] = []

    def keep(html: str) -> str:
        kept.append(html)
        return f"\x02{len(kept) - 1}\x03"

    text = text.replace("\x02", "").replace("\x03", "")
    text = re.sub(r"`([^`]+)`", lambda m: keep(f"<code>{escape(m[1])}</code>"), text)
    text = re.sub(r"\$([^$\n]+)\$", lambda m: keep(_math(m[1])), text)
    text = re.sub(
        r"\[([^\]]+)\]\((https?://[^)\s]+)\)",
        lambda m: keep(f'{escape(m[1])} <span class="address">({escape(m[2])})</span>'),
        text,
    )
    text = escape(text)
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text, flags=re.DOTALL)
    text = re.sub(r"\*(\S.*?)\*", r"<i>\1</i>", text, flags=re.DOTALL)
    return re.sub("\x02(\\d+)\x03", lambda m: kept[int(m[1])], text)


def _math(written: str) -> str:
    """Ready to print; as it is written where it cannot be shown so."""
    try:
        return f'<span class="math">{to_html(written)}</span>'
    except CoreError:
        return f"<code>{escape(written)}</code>"


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@TITLE@</title>
<style>
@page { size: A4; margin: 16mm 18mm; }
:root { color-scheme: only light; }
body { max-width: 42rem; margin: 1.5rem auto; padding: 0 1rem; background: #fff; color: #000;
  font: 11.5pt/1.45 Georgia, "Times New Roman", serif; }
h1 { font-size: 1.5rem; margin: 0 0 .6rem; }
h2 { font-size: 1.05rem; margin: 1.1rem 0 .3rem; break-after: avoid; }
p, ul, dl { margin: .35rem 0; }
section { break-inside: avoid; }
header table, .symbols, .tries { border-collapse: collapse; width: 100%; margin: .4rem 0; }
th, td { text-align: left; vertical-align: top; padding: .22rem .6rem .22rem 0; font-weight: normal; }
header th { width: 5rem; font-weight: bold; }
header td { overflow-wrap: anywhere; }
.symbols th, .symbols td, .tries th, .tries td { border: .6pt solid #000; padding: .25rem .5rem; }
.tries td { height: 1.5rem; }
.symbols th { white-space: nowrap; }
.name { margin-bottom: .6rem; }
.line { display: inline-block; width: 15rem; border-bottom: .6pt solid #000; }
.line.short { width: 8rem; }
.blank { display: inline-block; width: 5.5em; border-bottom: .8pt solid #000; height: 1em; vertical-align: -.15em; }
.lines i { display: block; height: 1.6rem; border-bottom: .6pt solid #000; }
.boxes { list-style: none; padding: 0; }
.boxes li { margin: .3rem 0; padding-left: 1.5em; text-indent: -1.5em; }
.boxes li::before { content: ""; display: inline-block; width: .75em; height: .75em; margin-right: .75em;
  border: .9pt solid #000; vertical-align: -.05em; }
.formula { margin: .5rem 0; font-size: 1.2em; line-height: 2; text-align: center; }
.math { font-family: "Latin Modern Math", Cambria, Georgia, "Times New Roman", serif; }
.math sub, .math sup { font-size: .68em; line-height: 0; }
.math .op { padding-inline: .25em; }
.math .gap { display: inline-block; width: .18em; }
.math .big { font-size: 1.35em; }
.math .frac { display: inline-flex; flex-direction: column; align-items: center; line-height: 1.4;
  vertical-align: middle; }
.math .frac > span:first-child { padding-inline: .3em; border-bottom: .6pt solid #000; }
.math .root > span { padding: .1em .2em 0; border-top: .6pt solid #000; }
.picture { margin: .5rem 0; }
.picture svg { display: block; width: 100%; height: auto; font-family: Helvetica, Arial, sans-serif; }
.picture .symbols td:not(:first-child) { font-variant-numeric: tabular-nums; }
figcaption { font-size: .85em; margin: .1rem 0 .5rem; }
.turn { margin-top: 1rem; font-style: italic; }
.address { font-size: .85em; overflow-wrap: anywhere; }
code { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .92em; }
dt { font-weight: bold; margin-top: .5rem; }
dd { margin: 0 0 0 1rem; }
.page { border-top: 1px dashed #000; margin: 1.2rem 0; }
@media print {
  body { margin: 0; padding: 0; max-width: none; }
  .page { break-before: page; border: 0; margin: 0; }
}
</style>
</head>
<body>
@BODY@
</body>
</html>
"""
