r"""A lesson's formula as HTML in which every sign explains itself: under the pointer, a finger, or reached by Tab.

Written in a small part of LaTeX: \frac \sqrt \sum \text, sub- and superscripts, brackets and letters; and
``\sign{2}{C_{in}}``, which says that what stands in the second braces is sign number 2 of the step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from core.errors import CoreError
from core.learn.lesson import LessonStep, filled

_TOKEN = re.compile(r"\\[A-Za-z]+|\\[,;|!]|.", re.DOTALL)
_LETTERS = {
    "alpha": "α", "beta": "β", "gamma": "γ", "lambda": "λ", "mu": "μ", "Theta": "Θ", "Sigma": "Σ", "Delta": "Δ",
    "partial": "∂", "cdot": "·", "times": "×", "approx": "≈", "le": "≤", "ge": "≥", "ne": "≠", "in": "∈", "to": "→",
    "lVert": "‖", "rVert": "‖", "lvert": "|", "rvert": "|", "lfloor": "⌊", "rfloor": "⌋", "top": "⊤", "pm": "±",
    "min": "min", "max": "max", "quad": "\u2003",
}  # fmt: skip
_UPRIGHT = {"min", "max", "cdot", "times", "approx", "le", "ge", "quad", "partial", "top"}
Explain = Callable[[int, str], str]


def formula_html(step: LessonStep, facts: Mapping[str, Any]) -> str:
    """The formula, the same with numbers, and a table of its signs. Raises CoreError for what cannot be read.

    Every sign is a button: pointed at, tapped or focused it shows what it means and its value here, in a place that is
    kept free for it.
    """
    told = [(one.sign, filled(one.meaning, facts), filled(one.value, facts)) for one in step.symbols]

    def explain(number: int, inside: str) -> str:
        if not 1 <= number <= len(told):
            raise CoreError(f"A formula names sign {number}; the step explains {len(told)}.")
        sign, meaning, value = told[number - 1]
        words = f"{sign}: {meaning}" + (f"; here {value}" if value else "")
        return (
            f'<button type="button" class="sign" aria-label="{escape(words)}">{inside}'
            f'<span class="tip" aria-hidden="true"><b>{escape(sign)}</b> {escape(meaning)}'
            f"{f' · here <b>{escape(value)}</b>' if value else ''}</span></button>"
        )

    rows = "".join(
        f'<tr><th scope="row">{escape(sign)}</th><td>{escape(meaning)}</td><td>{escape(value)}</td></tr>'
        for sign, meaning, value in told
    )
    numbers = f'<p class="numbers">{escape(filled(step.numbers, facts))}</p>' if step.numbers else ""
    return (
        f'<div class="ps-formula"><div class="line" role="group" aria-label="Formula">{to_html(step.formula, explain)}'
        f'</div>{numbers}<p class="hint">Point at a sign, tap it, or reach it with the Tab key.</p></div>'
        f'<table class="ps-symbols"><thead><tr><th scope="col">Sign</th><th scope="col">What it means</th>'
        f'<th scope="col">Here</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def to_html(formula: str, explain: Explain = lambda _, inside: inside) -> str:
    """The formula alone; ``explain(number, html)`` wraps what ``\\sign`` marks. Raises CoreError for an unknown word or
    braces that do not match."""
    tokens = _TOKEN.findall(formula)
    html, rest = _row(tokens, explain, closing=False)
    if rest:
        raise CoreError(f"A formula has a brace too many: {formula!r}.")
    return html


def _row(tokens: list[str], explain: Explain, *, closing: bool) -> tuple[str, list[str]]:
    parts: list[str] = []
    while tokens:
        if tokens[0] == "}":
            if closing:
                return "".join(parts), tokens[1:]
            raise CoreError("A formula closes a brace that was not opened.")
        part, tokens = _one(tokens, explain)
        parts.append(part)
    if closing:
        raise CoreError("A formula leaves a brace open.")
    return "".join(parts), []


def _one(tokens: list[str], explain: Explain) -> tuple[str, list[str]]:
    first, rest = tokens[0], tokens[1:]
    if first == "{":
        return _row(rest, explain, closing=True)
    if first in "_^":
        inside, rest = _one(rest, explain)
        tag = "sub" if first == "_" else "sup"
        return f"<{tag}>{inside}</{tag}>", rest
    if first.startswith("\\"):
        return _command(first[1:], rest, explain)
    if first.isspace():
        return "", rest
    if first in "=+<>:":
        return f'<span class="op">{escape(first)}</span>', rest
    if first == "-":
        return '<span class="op">−</span>', rest
    return (f"<i>{first}</i>" if first.isalpha() else escape(first)), rest


def _command(name: str, rest: list[str], explain: Explain) -> tuple[str, list[str]]:
    if name in {",", ";", "!"}:
        return '<span class="gap"></span>', rest
    if name in {"left", "right"}:
        return "", rest
    if name in {"text", "mathrm"}:
        words, rest = _words(rest)
        return f'<span class="word">{escape(words)}</span>', rest
    if name == "sign":
        number, rest = _words(rest)
        inside, rest = _one(rest, explain)
        return explain(int(number), inside), rest
    if name == "frac":
        above, rest = _one(rest, explain)
        below, rest = _one(rest, explain)
        return f'<span class="frac"><span>{above}</span><span>{below}</span></span>', rest
    if name == "sqrt":
        inside, rest = _one(rest, explain)
        return f'<span class="root">√<span>{inside}</span></span>', rest
    if name == "sum":
        return '<span class="big">Σ</span>', rest
    if name in _LETTERS:
        kind = "op" if name in _UPRIGHT else "letter"
        return f'<span class="{kind}">{_LETTERS[name]}</span>', rest
    raise CoreError(f"A formula says \\{name}, which is not known here.")


def _words(tokens: list[str]) -> tuple[str, list[str]]:
    """What stands in braces, as it is."""
    if not tokens or tokens[0] != "{" or "}" not in tokens:
        raise CoreError("A formula lacks the braces behind a word.")
    end = tokens.index("}")
    return "".join(tokens[1:end]), tokens[end + 1 :]
