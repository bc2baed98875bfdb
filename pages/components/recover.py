"""Recipes on the page Recover: choose one or put one together, give it a budget, run it."""

from __future__ import annotations

from typing import Any

import streamlit as st

from core import OWN, Plan, RecipeCard, Subject, own_choices, predict_latency, recipe_cards
from pages.components import choices, classroom_rules, runs, session, tables, work
from pages.components.ladder import TRAINING

RECIPE, KIND = "recover_recipe", "recover_kind"
KINDS = {"macs": "MACs", "params": "Parameters", "latency_ms": "Latency", "accuracy_drop": "Points lost"}
AMOUNT, TRAIN = "recover_amount_", "recover_finetune"


def busy(subject: Subject) -> bool:
    """Whether a recipe of this person runs on this network."""
    return any(runs.run_work(subject, run).active for run in runs.known_runs(subject))


def show(subject: Subject) -> None:
    """The whole view. While a recipe runs it is drawn again and again."""
    left, right = st.columns([3, 2], gap="medium")
    with left.container(border=True, height="stretch", key="card-recipe"):
        name, own = _recipe(subject)
    with right.container(border=True, height="stretch", key="card-budget"):
        budget = _budget(subject, trains=any(card.trains for card in recipe_cards() if card.name == name))
        run = {"recipe": name, "own": own, "budget": budget, "finetune": _finetune(), "seed": classroom_rules.seed()}
        _run_button(subject, run)
    known = runs.known_runs(subject)
    for run in known:
        found = runs.run_work(subject, run)
        words = f"{runs.run_title(run)}, {runs.budget_words(run['budget'])}"
        again = lambda run=run: runs.start(subject, run)  # noqa: E731
        work.progress(found, words, retry=again, key=f"recipe-{runs.run_key(run)}")
        if found.job is not None and found.job.state == "cancelled" and (found.result or {}).get("plan"):
            runs.offer_unfinished(run, found.result)
    if any(runs.run_work(subject, run).result is not None or runs.run_work(subject, run).active for run in known):
        runs.results(subject, known)
    else:
        st.caption(INVITATION)


INVITATION = (
    "No recipe has been run on this network yet. A run chooses the channels, makes the smaller network and measures it "
    "on the selection images; it changes nothing until you take its plan."
)


def _recipe(subject: Subject) -> tuple[str, dict[str, Any]]:
    """Which recipe, what it will do, and where it comes from."""
    cards = {card.name: card for card in recipe_cards()}
    names = [*cards, OWN]
    picked = choices.chosen(RECIPE, names, names[0])
    st.selectbox(
        "Recipe",
        names,
        format_func=lambda name: cards[name].title if name in cards else "Your own",
        key=f"menu_{RECIPE}",
        on_change=choices.remember,
        args=(RECIPE,),
    )
    if picked == OWN:
        return OWN, _own()
    card = cards[picked]
    st.markdown(card.summary)
    _steps(card)
    return picked, {}


def _steps(card: RecipeCard) -> None:
    st.markdown("\n".join(f"{number}. {step}" for number, step in enumerate(card.steps, start=1)))
    if card.source:
        st.caption(f":material/menu_book: {card.source}")


def _own() -> dict[str, Any]:
    """A recipe put together by hand: one choice for each of its parts."""
    fields: dict[str, Any] = {}
    for part in own_choices():
        name = f"own_{part.field}"
        rows = {row.name: row for row in part.rows}
        fields[part.field] = choices.chosen(name, list(rows), part.default) or None
        st.selectbox(
            part.title,
            list(rows),
            format_func=lambda one, rows=rows: rows[one].title,
            key=f"menu_{name}",
            on_change=choices.remember,
            args=(name,),
            help=rows[fields[part.field] or ""].summary,
        )
    return fields


def _budget(subject: Subject, trains: bool) -> dict[str, float]:
    """What may remain, in one of four units. trains: the recipe trains while it prunes."""
    kinds = [kind for kind in KINDS if kind != "accuracy_drop" or not trains]
    kind = choices.chosen(KIND, kinds, "macs")
    st.selectbox(
        "Budget", kinds, format_func=KINDS.__getitem__, key=f"menu_{KIND}", on_change=choices.remember,
        args=(KIND,), help="What limits the smaller network: the recipe removes no more than it must.",
    )  # fmt: skip
    if kind in ("macs", "params"):
        words = f"{KINDS[kind]} that may remain"
        share = _slider(kind, words, 5, 95, 50)
        st.caption(f"At most {share} % of the dense network's {KINDS[kind].replace('Par', 'par')}.")
        return {kind: share / 100}
    if kind == "accuracy_drop":
        points = choices.number(
            f"{AMOUNT}{kind}", "At most, points", 1.0, step=0.5, most=50.0, format="%.1f",
            help="The fewest MACs whose accuracy on selection images stays within this of the dense network's.",
        )  # fmt: skip
        return {kind: points / 100}
    table = work.latency_table(subject)
    dense = predict_latency(subject.trace, Plan({}), table).median_ms if table is not None else None
    known = f"The dense network takes {tables.ms(dense)} here, as predicted." if dense is not None else TIMED_FIRST
    amount = choices.number(
        f"{AMOUNT}{kind}", "At most, ms", round((dense or 2.0) / 2, 3), step=0.1, most=1e5,
        format="%.3f", help="One forward pass of one image, predicted from times of single layers on this machine.",
    )  # fmt: skip
    st.caption(known)
    return {kind: amount}


TIMED_FIRST = "This machine's times are not known yet: the run measures them first."


def _slider(kind: str, label: str, least: int, most: int, default: int) -> int:
    name = f"{AMOUNT}{kind}"
    value = session.choice(name, default)
    value = int(value) if isinstance(value, int | float) and least <= value <= most else default
    session.set_widget_value(f"menu_{name}", value)
    st.slider(label, least, most, step=5, format="%d %%", key=f"menu_{name}", on_change=choices.remember, args=(name,))
    return value


def _finetune() -> int:
    """How many seconds are trained afterwards."""
    picked = choices.chosen(TRAIN, list(TRAINING), "0")
    st.selectbox(
        "Then fine-tune for", list(TRAINING), format_func=TRAINING.__getitem__, key=f"menu_{TRAIN}",
        on_change=choices.remember, args=(TRAIN,),
        help="A short training of what the recipe made, on calibration images, batch norm included.",
    )  # fmt: skip
    return int(picked)


def _run_button(subject: Subject, arguments: runs.Run) -> None:
    run: runs.Run = {"subject": subject.key, **arguments}
    found = runs.run_work(subject, run)
    st.button(
        "Run",
        key="run-recipe",
        type="primary",
        icon=":material/play_arrow:",
        width="stretch",
        disabled=found.active
        or not all(value > 0 for value in run["budget"].values())
        or classroom_rules.frozen("recover"),
        on_click=runs.start,
        args=(subject, run),
    )
    classroom_rules.tell("recover")
    if found.done:
        st.caption("This was run before; its result is shown below at once.")
