"""Formulas on paper: the part of LaTeX that lessons use, as MathML, which every browser prints without help."""

from __future__ import annotations

import re
from html import escape

from core.errors import CoreError

TOKEN = re.compile(r"\\[A-Za-z]+\*?|\\.|\s+|.", re.DOTALL)
GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "varepsilon": "ε", "eta": "η", "theta": "θ",
    "kappa": "κ", "lambda": "λ", "mu": "μ", "nu": "ν", "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ", "phi": "φ",
    "chi": "χ", "psi": "ψ", "omega": "ω", "Delta": "Δ", "Theta": "Θ", "Lambda": "Λ", "Sigma": "Σ", "Phi": "Φ",
    "Omega": "Ω", "Gamma": "Γ", "Pi": "Π", "Psi": "Ψ", "ell": "ℓ", "partial": "∂", "nabla": "∇", "infty": "∞",
}  # fmt: skip
SIGNS = {
    "cdot": "·", "times": "×", "approx": "≈", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠", "neq": "≠",
    "in": "∈", "notin": "∉", "subset": "⊂", "subseteq": "⊆", "setminus": "∖", "cup": "∪", "cap": "∩", "to": "→",
    "rightarrow": "→", "leftarrow": "←", "gets": "←", "mapsto": "↦", "pm": "±", "odot": "⊙", "top": "⊤", "dots": "…",
    "ldots": "…", "cdots": "⋯", "mid": "∣", "lVert": "‖", "rVert": "‖", "Vert": "‖", "lvert": "|", "rvert": "|",
    "vert": "|", "|": "‖", "{": "{", "}": "}", "langle": "⟨", "rangle": "⟩", "lfloor": "⌊", "rfloor": "⌋",
    "lceil": "⌈", "rceil": "⌉", "%": "%", "&": "&", "propto": "∝", "equiv": "≡", "ll": "≪", "gg": "≫", "ast": "∗",
    "star": "⋆", "prime": "′", "sim": "∼", "perp": "⊥", "dagger": "†", "colon": ":", "_": "_", "#": "#", "$": "$",
}  # fmt: skip
LARGE = {"sum": "∑", "prod": "∏", "int": "∫"}
WORDS = ("min", "max", "arg", "argmin", "argmax", "log", "exp", "ln", "sin", "cos", "det", "dim", "lim", "sup", "inf")
UNDER = {"min", "max", "argmin", "argmax", "lim", *LARGE}  # what stands under them in a line of its own
ACCENTS = {"hat": "^", "widehat": "^", "tilde": "~", "widetilde": "~", "bar": "¯", "overline": "¯", "vec": "→"}
PLAIN = {"text", "mathrm", "textrm", "operatorname", "operatorname*", "textbf", "textit", "texttt", "mbox"}
STYLED = {"mathbf": "bold", "boldsymbol": "bold", "mathcal": "script", "mathbb": "double-struck", "mathit": "italic"}
SPACES = {",": 0.17, ":": 0.22, ";": 0.28, " ": 0.25, "quad": 1.0, "qquad": 2.0, "!": 0.0}
IGNORED = {"left", "right", "big", "Big", "bigl", "bigr", "Bigl", "Bigr", "displaystyle", "limits", "nolimits"}


def mathml(latex: str, *, block: bool = True) -> str:
    """``latex`` as one <math> element. Raises CoreError for a command that is not known here."""
    inner = "".join(_Reader(latex).group(""))
    shown = ' display="block"' if block else ""
    return f"<math{shown}><mrow>{inner}</mrow></math>"


class _Reader:
    """Reads a formula from left to right into MathML nodes."""

    def __init__(self, latex: str) -> None:
        self.tokens = TOKEN.findall(latex)
        self.at = 0

    def next(self) -> str:
        """The next token, "" at the end."""
        self.at += 1
        return self.tokens[self.at - 1] if self.at <= len(self.tokens) else ""

    def peek(self) -> str:
        while self.at < len(self.tokens) and self.tokens[self.at].isspace():
            self.at += 1
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def group(self, end: str) -> list[str]:
        """Nodes up to the token ``end``, which is taken too."""
        found: list[str] = []
        while True:
            token = self.peek()
            if token == end or (end == "" and not token):
                self.next()
                return found
            if not token:
                raise CoreError("A lesson's formula opens a brace that it does not close.")
            found.append(self.scripted())

    def scripted(self) -> str:
        """One atom with what stands above and below it."""
        name = self.peek().lstrip("\\")
        atom, low, high = self.atom(), "", ""
        while self.peek() in ("_", "^", "'"):
            sign = self.next()
            part = "<mo>′</mo>" if sign == "'" else self.argument()
            low, high = (part, high) if sign == "_" else (low, part)
        under = name in UNDER
        if low and high:
            kind = "munderover" if under else "msubsup"
            return f"<{kind}>{atom}{low}{high}</{kind}>"
        if low or high:
            kind = ("munder" if low else "mover") if under else ("msub" if low else "msup")
            return f"<{kind}>{atom}{low or high}</{kind}>"
        return atom

    def argument(self) -> str:
        """What a command takes: a group in braces, or one atom."""
        if self.peek() == "{":
            self.next()
            return f"<mrow>{''.join(self.group('}'))}</mrow>"
        return self.atom()

    def words(self) -> str:
        """The text in braces, as it stands."""
        self.peek()
        if self.next() != "{":
            raise CoreError("A lesson's formula has a text without braces.")
        found = ""
        while (token := self.next()) != "}":
            if not token:
                raise CoreError("A lesson's formula opens a brace that it does not close.")
            found += token.lstrip("\\") if len(token) == 2 else token
        return found

    def atom(self) -> str:
        token = self.next()
        if token == "{":
            return f"<mrow>{''.join(self.group('}'))}</mrow>"
        if token.startswith("\\"):
            return self.command(token[1:])
        if token.isdigit():
            while self.at < len(self.tokens) and re.fullmatch(r"[\d.]", self.tokens[self.at]):
                token += self.next()
            return f"<mn>{token}</mn>"
        if token.isalpha():
            return f"<mi>{token}</mi>"
        return f"<mo>{escape({'-': '−', '*': '∗'}.get(token, token))}</mo>"

    def command(self, name: str) -> str:
        if name in IGNORED:
            return self.atom() if self.peek() not in ("", ".") else (self.next() and "") or "<mrow></mrow>"
        if name in GREEK:
            return f"<mi>{GREEK[name]}</mi>"
        if name in SIGNS:
            return f"<mo>{escape(SIGNS[name])}</mo>"
        if name in LARGE:
            return f'<mo largeop="true">{LARGE[name]}</mo>'
        if name in WORDS:
            return f"<mi>{name}</mi>"
        if name in SPACES:
            return f'<mspace width="{SPACES[name]}em"></mspace>'
        if name in PLAIN:
            return f"<mtext>{escape(self.words())}</mtext>"
        if name in STYLED:
            return f'<mstyle mathvariant="{STYLED[name]}">{self.argument()}</mstyle>'
        if name in ACCENTS:
            return f'<mover accent="true">{self.argument()}<mo>{ACCENTS[name]}</mo></mover>'
        if name in ("frac", "tfrac", "dfrac"):
            return f"<mfrac>{self.argument()}{self.argument()}</mfrac>"
        if name == "sqrt":
            return f"<msqrt>{self.argument()}</msqrt>"
        raise CoreError(f"A lesson's formula uses \\{name}, which cannot be printed yet.")
