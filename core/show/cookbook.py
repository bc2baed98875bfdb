"""Recipes in words: what each will do, step by step, and what a recipe of one's own is put together from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from core.apply import AS_CUT, list_repairs
from core.apply.choosers import CHOOSERS
from core.measure.importance import list_criteria
from core.plan import GROUP_SETS, list_ratio_rules
from core.recipes import LOOPS, Recipe, list_recipes
from core.show.curves import write_csv

OWN = "own"  # the name of a recipe that a person puts together
OWN_LOOPS, TRAINING = ("once", "front-to-back"), ("iterative", "soft")
SOLVERS = (AS_CUT, "least-squares", "compensation")


@dataclass(frozen=True)
class RecipeCard:
    """One recipe as a page shows it. ``steps``: what it will do, in order, a sentence each. ``trains``: while it
    prunes; then an accuracy to keep is no budget, for every trial of it would be a training."""

    name: str
    title: str
    summary: str
    source: str
    steps: tuple[str, ...]
    trains: bool


@dataclass(frozen=True)
class Words:
    """One option of a menu."""

    name: str
    title: str
    summary: str


@dataclass(frozen=True)
class OwnChoice:
    """One part of a recipe of one's own: a field of ``Recipe``, its options, and the one to begin with."""

    field: str
    title: str
    default: str
    rows: tuple[Words, ...]


def recipe_cards() -> list[RecipeCard]:
    """Every recipe, in the order of the menu."""
    return [
        RecipeCard(row.name, row.title, row.summary, row.source, recipe_steps(row.value), row.value.loop in TRAINING)
        for row in list_recipes()
    ]


def recipe_steps(recipe: Recipe) -> tuple[str, ...]:
    """What ``recipe`` will do, a sentence for each of its parts that says something."""
    told = [f"{LOOPS.row(recipe.loop).title}. {LOOPS.row(recipe.loop).summary}"]
    trains = recipe.loop in TRAINING
    for part in _parts():
        words = next((row for row in part.rows if row.name == (getattr(recipe, part.field) or "")), None)
        if words is not None and not (trains and part.field in ("solver", "criterion")):
            told.append(f"{part.title}: **{words.title}.** {words.summary}")
    return tuple(told)


def own_choices() -> list[OwnChoice]:
    """The parts of a recipe of one's own, in the order in which they act. Training loops are recipes of their own."""
    loops = tuple(Words(row.name, row.title, row.summary) for row in LOOPS if row.name in OWN_LOOPS)
    return [OwnChoice("loop", "How it goes about it", "front-to-back", loops), *_parts()]


def _parts() -> list[OwnChoice]:
    ways = [Words(row.name, row.title, row.summary) for row in (*CHOOSERS, *list_criteria())]
    criteria = tuple({words.name: words for words in reversed(ways)}.values())[::-1]
    rules = tuple(Words(row.name, row.title, row.summary) for row in list_ratio_rules())
    sets = tuple(Words(row.name, row.title, row.summary) for row in GROUP_SETS)
    repairs = (row for row in list_repairs() if row.name in SOLVERS)
    solvers = tuple(Words("" if row.name == AS_CUT else row.name, row.title, row.summary) for row in repairs)
    return [
        OwnChoice("groups", "What may leave", "inside", sets),
        OwnChoice("ratios", "How many leave each group", "uniform", rules),
        OwnChoice("criterion", "Which channels stay", "lasso", criteria),
        OwnChoice("solver", "What is rebuilt", "least-squares", solvers),
    ]


def runs_csv(runs: Iterable[Mapping[str, Any]]) -> str:
    """Finished runs as CSV: recipe, budget, accuracy and difference as shares, costs, seconds."""
    head = ["recipe", "title", "budget", "accuracy", "low", "high", "images", "difference", "difference_low"]
    lines: list[list[Any]] = [[*head, "difference_high", "macs", "dense_macs", "params", "dense_params", "seconds"]]
    for run in runs:
        accuracy = [run["accuracy"][name] for name in ("value", "low", "high", "images")]
        budget = ", ".join(f"{name} {value:g}" for name, value in run["budget"].items())
        costs = [run[name] for name in ("macs", "dense_macs", "params", "dense_params", "seconds")]
        lines.append([run["recipe"], run["title"], budget, *accuracy, *run["difference"], *costs])
    return write_csv(lines)
