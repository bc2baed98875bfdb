"""Recipes on the page Recover: choose one or put one together, give it a budget, run it, look, take what it made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from core import (
    OWN,
    CoreError,
    Plan,
    RecipeCard,
    Subject,
    has_network,
    own_choices,
    predict_latency,
    recipe_cards,
    repair_of,
    runs_csv,
)
from core.workspace import choose
from pages.components import choices, moves, session, stories, tables, work
from pages.components.ladder import TRAINING

VERB, SLOT = "recipe", "recipe"
RECIPE, KIND, RUNS, SHOWN = "recover_recipe", "recover_kind", "recover_runs", "recover_shown"
MOST_RUNS = 24
KINDS = {"macs": "MACs", "params": "Parameters", "latency_ms": "Latency", "accuracy_drop": "Points lost"}
AMOUNT, TRAIN = "recover_amount_", "recover_finetune"
Run = Mapping[str, Any]


def busy(subject: Subject) -> bool:
    """Whether a recipe of this person runs on this network."""
    return any(_work(subject, run).active for run in _runs(subject))


def show(subject: Subject) -> None:
    """The whole view. While a recipe runs it is drawn again and again."""
    left, right = st.columns([3, 2], gap="medium")
    with left.container(border=True, height="stretch", key="card-recipe"):
        name, own = _recipe(subject)
    with right.container(border=True, height="stretch", key="card-budget"):
        budget = _budget(subject)
        _run_button(subject, {"recipe": name, "own": own, "budget": budget, "finetune": _finetune(), "seed": 0})
    runs = _runs(subject)
    for run in runs:
        found = _work(subject, run)
        words = f"{run_title(run)}, {budget_words(run['budget'])}"
        again = lambda run=run: _start(subject, run)  # noqa: E731
        work.progress(found, words, retry=again, key=f"recipe-{run_key(run)}")
        if found.job is not None and found.job.state == "cancelled" and (found.result or {}).get("plan"):
            _offer_unfinished(run, found.result)
    if runs:
        _results(subject, runs)
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


def _budget(subject: Subject) -> dict[str, float]:
    """What may remain, in one of four units."""
    kind = choices.chosen(KIND, list(KINDS), "macs")
    st.selectbox(
        "Budget", list(KINDS), format_func=KINDS.__getitem__, key=f"menu_{KIND}", on_change=choices.remember,
        args=(KIND,), help="What limits the smaller network: the recipe removes no more than it must.",
    )  # fmt: skip
    if kind in ("macs", "params"):
        words = f"{KINDS[kind]} that may remain"
        share = _slider(kind, words, 5, 95, 50)
        st.caption(f"At most {share} % of the dense network's {KINDS[kind].replace('Par', 'par')}.")
        return {kind: share / 100}
    if kind == "accuracy_drop":
        points = choices.number(
            f"{AMOUNT}{kind}", "Points that may be lost", 1.0, step=0.5, most=50.0, format="%.1f",
            help="The fewest MACs whose accuracy on selection images stays within this of the dense network's.",
        )  # fmt: skip
        return {kind: points / 100}
    table = work.latency_table(subject)
    dense = predict_latency(subject.trace, Plan({}), table).median_ms if table is not None else None
    known = f"The dense network takes {tables.ms(dense)} here, as predicted." if dense is not None else TIMED_FIRST
    amount = choices.number(
        f"{AMOUNT}{kind}", "Milliseconds that may remain", round((dense or 2.0) / 2, 3), step=0.1, most=1e5,
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


def _run_button(subject: Subject, arguments: Run) -> None:
    run: Run = {"subject": subject.key, **arguments}
    found = _work(subject, run)
    st.button(
        "Run",
        key="run-recipe",
        type="primary",
        icon=":material/play_arrow:",
        width="stretch",
        disabled=found.active or not all(value > 0 for value in run["budget"].values()),
        on_click=_start,
        args=(subject, run),
    )
    if found.done:
        st.caption("This was run before; its result is shown below at once.")


def _start(subject: Subject, run: Run) -> None:
    """Run it, or show what it gave before. Runs of one person wait for each other."""

    def noted(record: Any) -> Any:
        others = [one for one in record.choices.get(RUNS, []) if one != run]
        return choose(record, **{RUNS: [*others, run][-MOST_RUNS:], SHOWN: run_key(run)})

    if not _usable(subject, run):
        work.forget(VERB, subject, **_arguments(run))
    elif not _work(subject, run).done:
        work.again(VERB, subject, **_arguments(run))
    try:
        work.ensure(VERB, subject, **_arguments(run))
    except CoreError as error:
        session.notify(str(error))
        return
    session.update(noted)


def _arguments(run: Run) -> dict[str, Any]:
    return {name: run[name] for name in ("recipe", "own", "budget", "finetune", "seed")}


def _runs(subject: Subject) -> list[Run]:
    return [run for run in session.choice(RUNS, []) if run["subject"] == subject.key]


def _work(subject: Subject, run: Run) -> work.Work:
    return work.ensure(VERB, subject, start=False, **_arguments(run))


def _usable(subject: Subject, run: Run) -> bool:
    """False for a result whose kept weights have left the server."""
    found = _work(subject, run)
    return not found.done or not found.result["network"] or has_network(found.result["network"])


def run_key(run: Run) -> str:
    """Names a run among a person's own."""
    parts = [*map(str, run["own"].values()), *(f"{name}{value:g}" for name, value in run["budget"].items())]
    return "-".join([run["recipe"], *parts, f"{run['finetune']}s"])


def run_title(run: Run) -> str:
    titles = {card.name: card.title for card in recipe_cards()}
    title = titles.get(run["recipe"], run["recipe"]) if run["recipe"] != OWN else own_title(run["own"])
    return f"{title}, fine-tuned {TRAINING[str(run['finetune'])]}" if run["finetune"] else title


def own_title(own: Mapping[str, Any]) -> str:
    """ "Own: Taylor, Uniform, Least squares" """
    words = []
    for part in own_choices():
        row = next((row for row in part.rows if row.name == (own.get(part.field) or "")), None)
        if row is not None and row.name and part.field in ("ratios", "criterion", "solver"):
            words.append(row.title)
    return f"Own: {', '.join(words)}"


def budget_words(budget: Mapping[str, float]) -> str:
    """ "50 % of the MACs" """
    written = {
        "macs": lambda value: f"{tables.percent(value, 0)} of the MACs",
        "params": lambda value: f"{tables.percent(value, 0)} of the parameters",
        "latency_ms": lambda value: f"{tables.ms(value)} predicted",
        "accuracy_drop": lambda value: f"at most {100 * value:g} points lost",
    }
    return ", ".join(written[name](value) for name, value in budget.items())


def _results(subject: Subject, runs: Sequence[Run]) -> None:
    """Every run in one table, and the one picked in full."""
    done = {run_key(run): run for run in runs if _work(subject, run).done}
    partial = {run_key(run): run for run in runs if _work(subject, run).active}
    for run in partial.values():
        so_far = _work(subject, run).result
        if so_far:
            stories.show(subject, so_far, run["recipe"])
    if not done:
        return
    st.markdown("##### What recipes gave")
    keys = list(done)
    picked = session.choice(SHOWN)
    picked = picked if picked in done else keys[-1]
    rows = [_row(done[key], _work(subject, done[key]).result) for key in keys]
    session.set_widget_value("recipe-runs", {"selection": {"rows": [keys.index(picked)]}})
    st.dataframe(
        rows,
        key="recipe-runs",
        hide_index=True,
        width="stretch",
        on_select=lambda: _pick(keys),
        selection_mode="single-row",
        column_config=COLUMNS,
    )
    _one(subject, done[picked])
    st.download_button(
        "Runs as CSV",
        runs_csv([{**done[key], **_work(subject, done[key]).result, "title": run_title(done[key])} for key in keys]),
        file_name=f"recipes-{subject.loaded.name.replace('/', '-')}.csv",
        mime="text/csv",
        icon=":material/download:",
        on_click="ignore",
    )


COLUMNS = {
    "Recipe": st.column_config.TextColumn(pinned=True, width="medium"),
    "Accuracy, %": st.column_config.NumberColumn(format="%.1f"),
    "To dense, points": st.column_config.NumberColumn(format="%+.1f"),
    "MACs": st.column_config.ProgressColumn(format="%.0f %%", min_value=0, max_value=100),
    "Parameters": st.column_config.ProgressColumn(format="%.0f %%", min_value=0, max_value=100),
    "Seconds": st.column_config.NumberColumn(format="%.0f"),
}


def _row(run: Run, result: Mapping[str, Any]) -> dict[str, Any]:
    accuracy, (less, least, most) = result["accuracy"], result["difference"]
    return {
        "Recipe": run_title(run),
        "Budget": budget_words(run["budget"]),
        "Accuracy, %": 100 * accuracy["value"],
        "95 % interval": tables.interval(accuracy["low"], accuracy["high"]),
        "To dense, points": 100 * less,
        "Its 95 % interval": f"{tables.points(least)} to {tables.points(most)}",
        "MACs": 100 * result["macs"] / max(1, result["dense_macs"]),
        "Parameters": 100 * result["params"] / max(1, result["dense_params"]),
        "Seconds": result["seconds"],
    }


def _pick(keys: Sequence[str]) -> None:
    picked = (session.widget_value("recipe-runs") or {}).get("selection", {}).get("rows", [])
    if picked and picked[0] < len(keys):
        session.choose(**{SHOWN: keys[picked[0]]})


def _one(subject: Subject, run: Run) -> None:
    """One run: its numbers, the way to its plan, and what there is to watch."""
    result = _work(subject, run).result
    plan = Plan.from_json(result["plan"])
    record = session.workspace()
    taken = work.plan(record, subject) == plan and work.repair(record, plan) == repair_of(result)
    with st.container(horizontal=True, vertical_alignment="center", key="recipe-take"):
        st.markdown(f"**{run_title(run)}**, {budget_words(run['budget'])}")
        label, icon = ("On the desk", ":material/check:") if taken else ("Take this plan", ":material/bookmark_add:")
        if st.button(label, key="take-plan", icon=icon, disabled=taken, type="secondary" if taken else "primary"):
            _take(subject, run, plan, result)
            st.rerun()
    if not _usable(subject, run):
        st.warning(GONE, icon=":material/warning:")
    st.caption(
        f"Accuracy on {tables.plural(result['accuracy']['images'], 'selection image')}, by which nothing of this "
        f"network's weights was fitted. Dense network: {tables.percent(result['dense_accuracy']['value'])}. Export "
        "measures on images that nothing was chosen by."
    )
    stories.show(subject, result, f"{run['recipe']}-{subject.loaded.name.replace('/', '-')}")
    with st.expander("What was done, with seconds"):
        st.code("\n".join(result["log"]), language=None)


def _offer_unfinished(run: Run, left: Mapping[str, Any]) -> None:
    """A run that was stopped had a complete network: it may be taken, unmeasured as it is."""
    plan = Plan.from_json(left["plan"])
    if st.button("Take the plan as it stood", key=f"take-{run_key(run)}", icon=":material/bookmark_add:"):
        title = f"{run_title(run)}, as it stood when it was cancelled"
        moves.take_plan(plan, title)
        if left["network"]:
            moves.keep_network(plan, left["network"], title)
        session.notify_done(f"{title}: its plan is on the desk.")
        st.rerun()


GONE = "The weights of this run are no longer kept on the server. Press Run to make them again, then take the plan."


def _take(subject: Subject, run: Run, plan: Plan, result: Mapping[str, Any]) -> None:
    title = run_title(run)
    if not _usable(subject, run):
        session.notify(GONE)
        return
    moves.take_plan(plan, f"{title}, {budget_words(run['budget'])}")
    if result["network"]:
        moves.keep_network(plan, result["network"], title, result["accuracy"])
    else:
        moves.set_repair(repair_of(result))
    session.notify_done(f"{title}: its plan is on the desk. Undo on the page Tune brings the old one back.")
