"""Recipes on the page Recover: what is asked for, what a run shows, what taking its plan does, what there is to watch.

No worker here; tests/core/test_recipe_runs.py has the real ones.
"""

from __future__ import annotations

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from core import AS_CUT, OWN, Plan, job_key, open_subject, own_choices, prune_model, recipe_cards
from core.keep.networks import keep_network
from core.keep.store import open_store
from core.keep.workspace import Workspace, undo
from pages.components import runs, stories, story_charts, work
from tests.pages.stand_in import Jobs
from tests.pages.test_recover_ladder import again, labels, press, said, saved, visit

PLAN = Plan({"features.0": tuple(range(2, 20)), "features.24": tuple(range(40))}, "a recipe")
FIRST = recipe_cards()[0].name
pytestmark = pytest.mark.usefixtures("jobs")


def opened(**chosen: Any) -> AppTest:
    return visit(choices={"recover_view": "recipe", **chosen})


def result(network: str = "", **more: Any) -> dict[str, Any]:
    accuracy = {"value": 0.9, "low": 0.87, "high": 0.93, "images": 360, "correct": 324, "loss": 0.3}
    costs = {
        "macs": 20e6,
        "dense_macs": 44.7e6,
        "params": 3e5,
        "dense_params": 7e5,
        "size_bytes": 1,
        "dense_size_bytes": 2,
    }
    return {
        "plan": PLAN.to_json(), "network": network, "accuracy": accuracy,
        "dense_accuracy": {**accuracy, "value": 1.0, "correct": 360}, "difference": [-0.1, -0.13, -0.07],
        "seconds": 12.0, "log": ["0.0 s  Tracing channels"], "stories": [], "curve": [], **costs, **more,
    }  # fmt: skip


def run_of(recipe: str = FIRST, **more: Any) -> dict[str, Any]:
    subject = open_subject(work.FIRST_MODEL)
    return {
        "subject": subject.key,
        "recipe": recipe,
        "own": {},
        "budget": {"macs": 0.5},
        "finetune": 0,
        "seed": 0,
        **more,
    }


def filed(run: dict[str, Any], found: dict[str, Any]) -> None:
    key = job_key("recipe", open_subject(work.FIRST_MODEL), **runs.arguments(run))
    open_store().put_result("recipe", key, found)


def test_every_recipe_says_what_it_will_do_and_where_it_is_from() -> None:
    for card in recipe_cards():
        text = said(opened(recover_recipe=card.name))
        assert card.summary in text and all(step in text for step in card.steps) and card.source in text


def test_a_run_asks_for_the_recipe_and_the_budget(jobs: Jobs) -> None:
    app = opened(recover_recipe=FIRST, recover_kind="params", recover_amount_params=25, recover_finetune="60")
    assert not jobs.asked
    press(app, "Run")
    ((verb, arguments, _),) = jobs.asked
    asked = {name: arguments[name] for name in ("recipe", "own", "budget", "finetune", "seed")}
    wanted = {"recipe": FIRST, "own": {}, "budget": {"params": 0.25}, "finetune": 60, "seed": 0}
    assert verb == "recipe" and asked == wanted
    assert next(button for button in app.button if button.label == "Run").disabled
    assert "Cancel" in labels(app)
    press(app, "Cancel")
    assert "was cancelled" in said(app)


def test_a_recipe_of_ones_own_sends_its_parts(jobs: Jobs) -> None:
    app = opened(recover_recipe=OWN, recover_kind="accuracy_drop")
    for part in own_choices():
        app.selectbox(key=f"menu_own_{part.field}").set_value(part.rows[-1].name)
    press(again(app), "Run")
    (_, arguments, _) = jobs.asked[0]
    assert arguments["recipe"] == OWN and arguments["budget"] == {"accuracy_drop": 0.01}
    assert arguments["own"] == {part.field: part.rows[-1].name or None for part in own_choices()}


def test_a_failed_run_says_why(jobs: Jobs) -> None:
    app = press(opened(), "Run")
    jobs.say = {"state": "failed", "error": "The budget is out of reach. Allow more to remain."}
    app.run()
    assert [error.value for error in app.error] == ["The budget is out of reach. Allow more to remain."]
    assert "Start again" in labels(app)


def test_what_runs_gave_is_one_table_and_taking_a_plan_is_one_step_of_undo() -> None:
    subject = open_subject(work.FIRST_MODEL)
    name = keep_network(prune_model(subject.loaded.module, subject.trace, PLAN), PLAN)
    filed(run_of(), result(name))
    filed(run_of(budget={"params": 0.5}), result(accuracy={**result()["accuracy"], "value": 0.8}))
    both = [run_of(), run_of(budget={"params": 0.5})]
    app = opened(recover_runs=both, recover_shown=runs.run_key(both[0]))
    table = app.dataframe[0].value
    assert list(table["Accuracy, %"]) == [90.0, 80.0] and list(table["MACs"].round()) == [45, 45]
    assert list(table["Budget"]) == ["50 % of the MACs", "50 % of the parameters"]
    before = saved(app)
    press(app, "Take this plan")
    record = saved(app)
    plan = work.plan(record, subject)
    assert plan == PLAN and work.repair(record, PLAN) == name
    assert record.history[-1].label.endswith("50 % of the MACs") and "On the desk" in labels(app)
    assert work.measured(record, subject, PLAN)["accuracy"]["value"] == 0.9
    back = undo(record)
    assert back.removed == before.removed and work.plan(back, subject) == work.plan(before, subject)
    assert work.repair(back) == AS_CUT


def test_weights_that_left_the_server_are_said_to_have_left(jobs: Jobs) -> None:
    filed(run_of(), result("kept-0123456789abcdef"))
    app = opened(recover_runs=[run_of()], recover_recipe=FIRST)
    assert "no longer kept" in said(app)
    press(app, "Take this plan")
    assert saved(app).pin == "" and not jobs.asked
    press(app, "Run")
    assert [verb for verb, _, _ in jobs.asked] == ["recipe"], "it is made again"


def story(method: str, path: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "group": "features.0", "layer": "features.3", "method": method, "kept": 2, "units": 4, "order": [2, 0, 3, 1],
        "raw_error": 0.2, "rebuilt_error": 0.05, "rows": 2000, "path": path, **more,
    }  # fmt: skip


LASSO = {
    "lambdas": [4.0, 2.0, 1.0, 0.0], "counts": [0, 1, 2, 4], "lambda": 1.0, "betas": [0.3, 0, 0.7, 0],
    "entered": [1.5, 0.1, 3.0, 0.5],
}  # fmt: skip


def test_a_layer_can_be_watched(jobs: Jobs) -> None:
    told = [
        story("lasso", LASSO),
        story("qr", {"pivots": [2, 0, 3, 1], "diagonal": [4.0, 2.0, 1.0, 0.5]}, layer="features.7"),
        story("greedy", {"left": [0.5, 0.2, 0.1, 0.05]}, layer="features.10"),
        story("weight-l2", {}, layer="features.14"),
    ]
    filed(run_of(), result(stories=told))
    for at, words in enumerate(("the LASSO path", "pivoted QR", "forward greedy", "the criterion Weight L2 norm")):
        app = opened(recover_runs=[run_of()], recover_layer=str(at))
        assert words in said(app) and "4.0 times less" in said(app) and "2, 0" in said(app)
        assert len(app.get("plotly_chart")) == (2 if told[at]["path"] else 1)
    assert stories.story_title(open_subject(work.FIRST_MODEL), told[0]) == "features.3: 2 of 4 channels stay"


def test_paths_are_drawn_from_their_numbers() -> None:
    lasso = story_charts.lasso_figure(story("lasso", LASSO))
    assert list(lasso.data[0].x) == LASSO["lambdas"] and list(lasso.data[0].y) == LASSO["counts"]
    assert lasso.layout.shapes[0].x0 == 1.0, "a line where as many take part as asked for"
    known = {"knots": [4.0, 1.0, 0.1], "coefficients": {"0": [0, 0.3, 0.4], "1": [0, 0, 0.1], "2": [0, 0.7, 0.9]}}
    drawn = story_charts.lasso_figure(story("lasso", {**LASSO, **known}))
    solid = {one.name for one in drawn.data if one.x[0] is not None and one.line.dash == "solid"}
    assert solid == {"channel 0", "channel 2"}
    qr = story_charts.qr_figure(story("qr", {"pivots": [2, 0, 3, 1], "diagonal": [4.0, 2.0, 1.0, 0.5]}))
    assert [list(bar.y) for bar in qr.data] == [[4.0, 2.0], [1.0, 0.5]]
    greedy = story_charts.greedy_figure(story("greedy", {"left": [0.5, 0.2, 0.1, 0.05]}))
    assert list(greedy.data[0].y) == pytest.approx([50, 20, 10, 5]) and greedy.data[1].y[0] == pytest.approx(20)
    errors = story_charts.errors_figure([story("qr", {}), story("qr", {}, raw_error=0.0), story("qr", {})], 0)
    assert [list(part.y) for part in errors.data] == [[20], [20], [5], [5]] and list(errors.data[1].x) == ["1"]


def test_the_way_down_is_drawn_while_it_is_gone(jobs: Jobs) -> None:
    steps = [{"kind": "maps", "step": n, "maps": 9, "macs": 1 - n / 10, "accuracy": 0.9} for n in range(4)]
    steps[2]["accuracy"] = None
    jobs.say = {"state": "running", "fraction": 0.5, "partial": {"curve": steps, "stories": []}}
    app = press(opened(), "Run")
    assert len(app.get("plotly_chart")) == 1 and "50 %" in str(app.get("progress")[0].proto)
    figure = story_charts.fall(steps)
    assert list(figure.data[0].x) == pytest.approx([100, 90, 70])
    epochs = [
        {"kind": "epochs", "epoch": n, "silent": 40, "changed": 40 - 10 * n, "accuracy": 0.9, "loss": 0.1}
        for n in range(3)
    ]
    bars = story_charts.soft_epochs(epochs)
    assert list(bars.data[0].y) == [0, 10, 20] and list(bars.data[1].y) == [40, 30, 20]


def test_what_a_cancelled_run_had_complete_can_be_taken(jobs: Jobs) -> None:
    app = press(opened(), "Run")
    left = {"curve": [], "stories": [], "plan": PLAN.to_json(), "network": ""}
    jobs.say = {"state": "cancelled", "partial": left}
    press(again(app), "Take the plan as it stood")
    record = saved(app)
    assert work.plan(record, open_subject(work.FIRST_MODEL)) == PLAN
    assert "as it stood when it was cancelled" in record.history[-1].label


def test_searches_are_drawn() -> None:
    plans = [{"kind": "trials", "accuracy": 0.8 + n / 100, "loss": 1 - n / 10, "foretold": None} for n in range(3)]
    figure = story_charts.trials(plans)
    assert list(figure.data[1].x) == [3] and list(figure.data[0].y) == pytest.approx([80, 81])
    tried = [[0.5, 0.99], [0.75, 0.9], [0.625, 0.97]]
    steps = [{"kind": "layers", "group": "a", "tried": tried, "removed": 5, "threshold": 0.95, "accuracy": 0.97}]
    assert list(story_charts.layers(steps).data[1].y) == pytest.approx([62.5])


def test_a_workspace_knows_nothing_of_runs_on_other_networks() -> None:
    app = opened(recover_runs=[{**run_of(), "subject": "another"}])
    assert "No recipe has been run" in said(app) and isinstance(saved(app), Workspace)


def test_a_run_under_way_and_one_that_is_done_are_drawn_together(jobs: Jobs) -> None:
    steps = [{"kind": "maps", "step": n, "maps": 9, "macs": 1 - n / 10, "accuracy": 0.9} for n in range(4)]
    filed(run_of(), result(curve=steps))
    jobs.say = {"state": "running", "fraction": 0.5, "partial": {"curve": steps[:2], "stories": []}}
    app = press(opened(recover_runs=[run_of()], recover_kind="params"), "Run")
    assert len(app.get("plotly_chart")) == 2


def test_an_accuracy_to_keep_is_no_budget_for_what_trains() -> None:
    trains = next(card.name for card in recipe_cards() if card.trains)
    menu = opened(recover_recipe=trains, recover_kind="accuracy_drop").selectbox(key="menu_recover_kind")
    assert len(menu.options) == 3 and menu.value == "macs"
    assert len(opened(recover_recipe=FIRST).selectbox(key="menu_recover_kind").options) == 4


def test_a_new_run_sweeps_away_what_failed(jobs: Jobs) -> None:
    app = press(opened(recover_recipe=FIRST), "Run")
    jobs.say = {"state": "failed", "error": "Out of reach."}
    app.run()
    assert [error.value for error in app.error] == ["Out of reach."]
    app.selectbox(key="menu_recover_kind").set_value("params")
    app.run()
    next(button for button in app.button if button.label == "Run").click()
    app.run()
    assert [run["budget"] for run in saved(app).choices["recover_runs"]] == [{"params": 0.5}]
