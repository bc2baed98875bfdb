"""Lessons: their files are whole, their facts are core's own numbers, answers are judged by them."""

from __future__ import annotations

import re
from dataclasses import replace
from html import escape
from pathlib import Path

import pytest
import torch
from torch import nn

from core import count_cost, evaluate_model, mask_model, prune_model
from core.errors import CoreError
from core.keep.subject import Subject, open_subject
from core.learn import lesson as lesson_module
from core.learn.answers import Progress, answered, fitting, goal_facts, goal_met, gone_on, judge, may_go_on, options_of
from core.learn.formula import formula_html
from core.learn.ground import middle_group
from core.learn.lesson import filled, find_lesson, list_lessons, places
from core.measure.importance import score_channels
from core.records import Plan
from tests.core.learn.lesson_facts import IMAGES, MODEL, facts_for, quick_facts

LESSONS = [lesson.name for lesson in list_lessons()]


@pytest.fixture(scope="module")
def subject() -> Subject:
    return open_subject(MODEL)


@pytest.fixture(scope="module")
def known() -> dict[str, dict]:
    return quick_facts()


@pytest.mark.parametrize("name", LESSONS)
def test_every_text_is_filled_and_every_answer_can_be_given(name: str) -> None:
    lesson = find_lesson(name)
    facts = facts_for(lesson)
    assert any(step.formula for step in lesson.steps)
    assert lesson.goal and 1 <= lesson.minutes <= 15 and lesson.reading
    for number, step in enumerate(lesson.steps, start=1):
        texts = [
            step.text,
            step.right,
            step.wrong,
            step.numbers,
            *(one.value for one in step.symbols),
            *step.options.values(),
        ]
        for text in texts:
            assert places(text) <= set(facts), (number, places(text) - set(facts))
            filled(text, facts)
        if step.kind in ("predict", "check"):
            options = options_of(step, facts)
            truth = facts[step.answer]
            assert judge(step, str(truth) if options else truth, facts).right
            assert (truth in options) if options else isinstance(truth, int | float)
            assert len(options) != 1
        if step.kind == "check":
            assert step.right and step.wrong
        if step.kind == "explain":
            assert lesson.steps[step.about - 1].kind == "predict"
            assert step.right and step.wrong
        assert step.formula or step.kind != "formula"
        if step.formula:
            assert step.numbers and len(step.symbols) >= 2
            html = formula_html(step, facts)
            assert "{" not in html, "every place is filled"
            for sign in step.symbols:
                assert html.count(f'<th scope="row">{escape(sign.sign)}</th>') == 1
                assert f'aria-label="{escape(sign.sign)}: ' in html, "every sign explains itself where it stands"
                assert re.search(r"\d", filled(sign.value, facts)), f"{sign.sign} carries no number of this network"
    assert lesson.steps[0].kind == "read" and lesson.steps[-1].kind in ("check", "desk")


def test_the_cost_of_a_channel_is_what_counting_says(subject: Subject, known: dict[str, dict]) -> None:
    facts, group = known["channel"], middle_group(subject.trace)
    dense = count_cost(subject.trace)
    one = count_cost(subject.trace, Plan({group.id: tuple(range(group.units - 1))}))
    assert facts["both"] == dense.macs - one.macs == facts["own"] + facts["others"]
    layer = subject.loaded.module.get_submodule(facts["layer"])
    assert isinstance(layer, nn.Conv2d)
    per_place = layer.weight[0].numel() * facts["units"]
    assert facts["layer_macs"] == facts["places"] * per_place  # the formula that the lesson shows
    assert sum(row[1] for row in facts["rows"]) == dense.macs
    half = count_cost(subject.trace, Plan({group.id: tuple(range(group.units // 2))}))
    assert facts["half_macs"] == half.macs / 1e6


def test_true_losses_are_those_of_masked_networks(subject: Subject, known: dict[str, dict]) -> None:
    facts, group = known["norms"], middle_group(subject.trace)
    few = subject.data.calibration.take(torch.arange(IMAGES))
    dense = evaluate_model(subject.loaded.module, few).loss
    for unit in (facts["smallest"], facts["least"]):
        plan = Plan({group.id: tuple(other for other in range(group.units) if other != unit)})
        masked = evaluate_model(mask_model(subject.loaded.module, subject.trace, plan), few).loss
        assert facts["losses"][unit] == pytest.approx(masked - dense, abs=2e-5)
    assert min(facts["losses"]) == facts["least_loss"]
    norms = score_channels(subject.trace, None, "weight-l2").scores[group.id]
    assert facts["norms"] == norms.tolist() and min(facts["norms"]) == facts["smallest_norm"]
    assert sorted(facts["losses"]).index(facts["smallest_loss"]) + 1 == facts["rank"]


def test_coupled_layers_are_the_traces_own(subject: Subject, known: dict[str, dict]) -> None:
    facts = known["coupled"]
    group = next(group for group in subject.trace.prunable if group.layers[0] == facts["layer"])
    assert facts["count"] == len(group.layers) > 1 and facts["answer"] == "added"
    assert facts["touched"] == len({member.layer for member in group.members})
    assert {(role, name) for role, name in facts["rows"]} == {(one.role, one.layer) for one in group.members}
    smaller = prune_model(subject.loaded.module, subject.trace, Plan({group.id: tuple(range(group.units - 1))}))
    whole, left = (sum(p.numel() for p in one.parameters()) for one in (subject.loaded.module, smaller))
    assert facts["gone"] == whole - left == facts["gone_made"] + facts["gone_follow"] + facts["gone_read"]
    assert facts["params"] == whole and min(facts["gone_made"], facts["gone_follow"], facts["gone_read"]) > 0


def test_the_three_groups_are_the_scans_own(subject: Subject, known: dict[str, dict]) -> None:
    facts = known["sensitivity"]
    worst = min(facts["rows"], key=lambda row: row[1])
    assert worst[1] == facts["value"] and facts["low"] <= facts["value"] <= facts["high"]
    assert facts["answer"] in [name for name, _ in facts["groups"]] and len(facts["rows"]) == 3


def test_a_prediction_is_locked_and_a_check_must_pass(known: dict[str, dict]) -> None:
    lesson, facts = find_lesson("channel"), known["channel"]
    at = gone_on(Progress(), lesson)
    assert at.step == 2 and not may_go_on(at, lesson, facts)
    at = answered(at, lesson, 2, "none")
    assert may_go_on(at, lesson, facts) and not judge(lesson.steps[1], "none", facts).right
    assert answered(at, lesson, 2, "both").answers["2"] == "none"
    for _ in range(4):
        at = gone_on(at, lesson)
    assert lesson.steps[at.step - 1].kind == "check" and not may_go_on(at, lesson, facts)
    at = answered(at, lesson, at.step, facts["half_macs"] * 1.5)
    assert not may_go_on(at, lesson, facts)
    at = answered(at, lesson, at.step, facts["half_macs"] * 1.009)
    assert may_go_on(at, lesson, facts)
    at = gone_on(at, lesson)
    assert at.done and Progress.from_dict(at.to_dict()) == at
    assert Progress.from_dict("nonsense") == Progress()


def test_answers_of_another_network_are_left_out(known: dict[str, dict]) -> None:
    lesson, facts = find_lesson("sensitivity"), known["sensitivity"]
    kept = Progress(7, {"2": facts["answer"], "5": "true", "7": facts["needed"]}, True)
    assert fitting(kept, lesson, facts) is kept
    other = replace(kept, answers={**kept.answers, "2": "a group of another network"})
    assert fitting(other, lesson, facts) == replace(kept, answers={"5": "true", "7": facts["needed"]})
    assert fitting(replace(kept, answers={"7": "twelve", "5": 3.0, "99": "x"}), lesson, facts).answers == {}


@pytest.mark.parametrize("given", ["somewhere", float("nan"), "12"])
def test_an_answer_that_is_none_is_refused(given: object, known: dict[str, dict]) -> None:
    lesson, facts = find_lesson("channel"), known["channel"]
    step = lesson.steps[1] if given == "somewhere" else lesson.steps[-1]
    with pytest.raises(CoreError, match=r"not one of the answers|number is asked"):
        judge(step, given, facts)  # type: ignore[arg-type]


def test_a_goal_is_met_limit_by_limit(subject: Subject) -> None:
    dense, group = count_cost(subject.trace), middle_group(subject.trace)
    now = count_cost(subject.trace, Plan({group.id: (0,)}))
    share = now.macs / dense.macs
    assert goal_met({"macs": share}, now, dense, None, None) == {"macs": True}
    assert goal_met({"macs": share - 1e-6}, now, dense, None, None) == {"macs": False}
    limits = {"accuracy_drop": 0.02}
    assert goal_met(limits, now, dense, None, 0.95) == {"accuracy_drop": None}
    assert goal_met(limits, now, dense, 0.93, 0.95) == {"accuracy_drop": True}
    assert goal_met(limits, now, dense, 0.92, 0.95) == {"accuracy_drop": False}
    told = goal_facts({"params": 0.25, "accuracy_drop": 0.075}, now, dense, None, None)
    assert told["goal_words"] == "at most 25 % of the parameters, at most 7.5 points of accuracy lost"
    assert (
        told["left"] == f"{now.params:,}" and told["whole"] == f"{dense.params:,}" and told["lost"] == "not known yet"
    )
    assert goal_facts({"macs": 0.5, "accuracy_drop": 0.01}, None, dense, 0.93, 0.95)["share"] == "not known yet"
    assert goal_facts({"macs": 0.5, "accuracy_drop": 0.01}, now, dense, 0.93, 0.95)["lost"] == "2.0 points"


def test_a_broken_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "01-broken.toml").write_text('title = "x"\n[[step]]\nkind = "dance"\n', encoding="utf-8")
    monkeypatch.setattr(lesson_module, "FOLDER", tmp_path)
    with pytest.raises(CoreError, match=r"01-broken\.toml cannot be read.*(kind|goal|minutes)"):
        list_lessons()
    with pytest.raises(CoreError, match="was not computed"):
        filled("{missing:.1f}", {})
