"""What a teacher sets: a network, images, a lesson, a goal, and what is held still. It travels in a link's address.

What comes from an address is outside input: every part is checked, and a link never names a file. Uploaded weights or
images can be passed on by a class only, which keeps the task in the store.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from core.errors import CoreError
from core.keep.subject import split_address
from core.learn.answers import BUDGETS, goal_words
from core.learn.lesson import list_lessons
from core.load import list_families
from core.measure.importance import list_criteria
from core.registry import unknown_name

LONGEST = 2000  # characters of all parameters together
MODEL = re.compile(r"[a-z0-9]{1,20}/[A-Za-z0-9_.-]{1,80}")
DATA = ("", "digits", "shapes", "random")  # images that every server has
MAX_SEED, MAX_SIZE = 10**6, 512
PLAIN = re.compile(r"[A-Za-z0-9_./,?= -]{0,200}")  # nothing that a page could take for markup
BY_CLASS = "class"  # in place of a file: only the class knows it
FROZEN, HIDDEN = "frozen", "hidden"


@dataclass(frozen=True)
class Control:
    """Something a teacher may hold still. ``page``: the page that is hidden with it, "" for none."""

    name: str
    title: str
    summary: str
    page: str = ""


CONTROLS = (
    Control("criterion", "Choice of the criterion", "Which channels leave first."),
    Control("starts", "Ready-made plans", "Plans to start from; the desk then opens with the whole network."),
    Control("scan", "Sensitivity scan", "New scans; hidden, the page Sensitivity too.", "Sensitivity"),
    Control("recover", "Repairs and recipes", "Plans are then handed in as cut.", "Recover"),
    Control("export", "Export", "Taking the network away.", "Export"),
)
NAMES = tuple(control.name for control in CONTROLS)


@dataclass(frozen=True)
class Assignment:
    """``model``, ``weights`` and ``data`` open the subject, as in ``open_subject``. ``criterion``: "" = the page's own
    choice. ``seed``: of the recipes that draw at random. ``budget``: a name of BUDGETS and the share of the whole
    network's that may remain. ``drop``: the largest share of images that may be lost. ``frozen``, ``hidden``: names of
    CONTROLS."""

    model: str
    weights: str = ""
    weights_name: str = ""
    data: str = ""
    lesson: str = "challenge"
    criterion: str = ""
    seed: int = 0
    budget: tuple[str, float] = ("macs", 0.5)
    drop: float = 0.02
    frozen: tuple[str, ...] = field(default=())
    hidden: tuple[str, ...] = field(default=())

    @property
    def goal(self) -> dict[str, float]:
        """As ``goal_met`` reads it."""
        return {self.budget[0]: self.budget[1], "accuracy_drop": self.drop}

    @property
    def goal_words(self) -> str:
        """ "at most 50 % of the MACs, at most 2 points of accuracy lost" """
        return goal_words(self.goal)

    @property
    def needs_class(self) -> bool:
        """Whether it names files, which no link may."""
        return not (MODEL.fullmatch(self.model) and self.weights in ("", "random") and _plain_data(self.data))

    def held(self, control: str) -> str:
        """FROZEN, HIDDEN or "" (free). Raises CoreError for what is no control."""
        if control not in NAMES:
            raise unknown_name("control", control, list(NAMES))
        return HIDDEN if control in self.hidden else FROZEN if control in self.frozen else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; ``from_dict`` gives an equal one back."""
        return {**asdict(self), "budget": list(self.budget), "frozen": list(self.frozen), "hidden": list(self.hidden)}

    @staticmethod
    def from_dict(found: Mapping[str, Any]) -> Assignment:
        """What ``to_dict`` gave, checked. Raises CoreError when it does not fit."""
        try:
            budget, share = found["budget"]
            made = Assignment(
                str(found["model"]), str(found["weights"]), str(found["weights_name"]), str(found["data"]),
                str(found["lesson"]), str(found["criterion"]), int(found["seed"]), (str(budget), float(share)),
                float(found["drop"]), tuple(map(str, found["frozen"])), tuple(map(str, found["hidden"])),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise CoreError("This class task cannot be read. Ask your teacher for a new link.") from error
        return checked(made)


def checked(task: Assignment) -> Assignment:
    """The same, once every part of it is what it may be; files are not looked for. Raises CoreError with one sentence
    that names the part."""
    lessons = [lesson.name for lesson in list_lessons()]
    if task.lesson not in lessons:
        raise unknown_name("lesson", task.lesson, lessons)
    criteria = [row.name for row in list_criteria()]
    if task.criterion and task.criterion not in criteria:
        raise unknown_name("criterion", task.criterion, criteria)
    if task.budget[0] not in BUDGETS:
        raise unknown_name("budget", task.budget[0], list(BUDGETS))
    if not 0.01 <= task.budget[1] <= 1:
        raise _wrong(task.budget[0], "a share from 0.01 to 1", task.budget[1])
    if not 0 <= task.drop <= 1:
        raise _wrong("drop", "a share from 0 to 1", task.drop)
    if not 0 <= task.seed <= MAX_SEED:
        raise _wrong("seed", f"a whole number from 0 to {MAX_SEED:,}", task.seed)
    for name in (*task.frozen, *task.hidden):
        task.held(name)
    both = sorted(set(task.frozen) & set(task.hidden))
    if both:
        raise CoreError(f"The link both freezes and hides {both[0]!r}. Ask your teacher for a new link.")
    order = NAMES.index
    return replace(
        task, frozen=tuple(sorted(set(task.frozen), key=order)), hidden=tuple(sorted(set(task.hidden), key=order))
    )


# The address


def is_link(parameters: Mapping[str, str]) -> bool:
    """Whether an address holds a teacher's task; a lesson alone is none."""
    return "model" in parameters


def to_parameters(task: Assignment, code: str = "") -> dict[str, str]:
    """The parameters of a link. ``code``: of the class, "" for an exercise without one. Raises CoreError when the task
    names files and there is no class to pass them on."""
    if task.needs_class and not code:
        raise CoreError("A link cannot pass on uploaded files. Open a class: it passes them on.")
    found = {
        "lesson": task.lesson,
        "model": task.model if MODEL.fullmatch(task.model) else BY_CLASS,
        "weights": task.weights if task.weights in ("", "random") else BY_CLASS,
        "data": task.data if _plain_data(task.data) else BY_CLASS,
        "criterion": task.criterion,
        "seed": str(task.seed),
        task.budget[0]: _written(task.budget[1]),
        "drop": _written(task.drop),
        "freeze": ",".join(task.frozen),
        "hide": ",".join(task.hidden),
        "class": code,
    }
    return {name: value for name, value in found.items() if value}


def to_query(task: Assignment, code: str = "") -> str:
    """``to_parameters`` as the tail of an address, without the question mark."""
    return urlencode(to_parameters(task, code), safe="/,")


def from_parameters(parameters: Mapping[str, str]) -> Assignment:
    """The task in a link's parameters. Raises CoreError with one sentence for a link that nobody here made."""
    if sum(len(name) + len(value) for name, value in parameters.items()) > LONGEST:
        raise CoreError(f"This link is longer than {LONGEST:,} characters. Ask your teacher for a new one.")
    odd = next((name for name, value in parameters.items() if not PLAIN.fullmatch(name + value)), None)
    if odd is not None:
        raise CoreError("A teacher's link: found characters that no such link holds. Ask your teacher for a new one.")
    model, weights, data = (parameters.get(name, "") for name in ("model", "weights", "data"))
    if BY_CLASS in (model, weights, data):
        raise CoreError("This link works only with its class, and there is no such class here. Ask your teacher.")
    if not MODEL.fullmatch(model) or model.partition("/")[0] not in list_families():
        raise _wrong("model", "a network's name such as demo/digits-vgg", model)
    if weights not in ("", "random"):
        raise _wrong("weights", "nothing, or random: a link cannot name a file", weights)
    if not _plain_data(data):
        raise _wrong("data", f"one of {', '.join(DATA[1:])}: a link cannot name a file", data)
    budgets = [name for name in BUDGETS if name in parameters]
    if len(budgets) != 1:
        raise CoreError(f"A teacher's link sets one of {', '.join(BUDGETS)}; this one sets {len(budgets)} of them.")
    made = Assignment(
        model=model,
        weights=weights,
        data=data,
        lesson=parameters.get("lesson", "challenge"),
        criterion=parameters.get("criterion", ""),
        seed=int(_number(parameters, "seed", 0)),
        budget=(budgets[0], _number(parameters, budgets[0], 0.5)),
        drop=_number(parameters, "drop", 0.02),
        frozen=_names(parameters, "freeze"),
        hidden=_names(parameters, "hide"),
    )
    return checked(made)


def _names(parameters: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(one for one in parameters.get(name, "").split(",") if one)


def _number(parameters: Mapping[str, str], name: str, default: float) -> float:
    text = parameters.get(name, "")
    if not text:
        return default
    if not re.fullmatch(r"\d{1,7}(\.\d{1,6})?", text):
        raise _wrong(name, "a number", text)
    return float(text)


def _written(share: float) -> str:
    return f"{share:.6f}".rstrip("0").rstrip(".")


def _plain_data(address: str) -> bool:
    source, root, size = split_address(address)
    return source in DATA and not root and (size is None or 8 <= size <= MAX_SIZE)


def _wrong(name: str, expected: str, found: object) -> CoreError:
    text = str(found)
    shown = text if len(text) <= 40 else f"{text[:40]}…"
    return CoreError(f"A teacher's link: expected {name} to be {expected}; found {shown!r}. Ask for a new link.")
