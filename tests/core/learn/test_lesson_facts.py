"""The facts of the lessons on choice, repair, time and harm, against slower or other ways to the same numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from core import (
    count_cost,
    evaluate_model,
    plan_uniform,
    prune_model,
    reconstruct_model,
    score_channels,
    trace_channels,
)
from core.errors import CoreError
from core.keep.subject import Subject, open_subject
from core.learn import afford, facts_repair, ground
from core.learn.afford import macs_behind
from core.learn.facts import facts_of
from core.learn.facts_choice import lengths_left, solved_for
from core.learn.facts_repair import error_on_the_way
from core.learn.formula import to_html
from core.learn.ground import contributions, read_group, readings_of
from core.learn.lesson import filled, list_lessons
from core.measure.forks import ForkEngine
from core.measure.importance.moments import Reading
from core.measure.importance.oracle import single_unit_forks
from core.measure.importance.taylor import read_contributions
from core.measure.walk import Replays, batches, replay_for
from core.records import Group, ImageData, Plan
from core.solvers.least_squares import compensate
from tests.core.learn.lesson_facts import IMAGES, MODEL, quick, quick_facts


@pytest.fixture(scope="module")
def subject() -> Subject:
    return open_subject(MODEL)


@pytest.fixture(scope="module")
def few(subject: Subject) -> ImageData:
    return subject.data.calibration.take(torch.arange(IMAGES))


@pytest.fixture(scope="module")
def group(subject: Subject) -> Group:
    return read_group(subject.trace)


@pytest.fixture(scope="module")
def readings(subject: Subject, group: Group) -> list[Reading]:
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        return readings_of(subject, group, None, None)[0]


def known(name: str) -> dict[str, Any]:
    return quick_facts()[name]


def test_channels_enter_the_path_where_the_criterion_says(subject: Subject, few: ImageData, group: Group) -> None:
    facts = known("lasso")
    scores = score_channels(replace(subject.trace, groups=(group,)), few, "lasso").scores[group.id]
    assert facts["first_enters"] == pytest.approx(float(scores.max()), rel=1e-9)
    assert int(facts["pick"]) == torch.argsort(scores, descending=True)[facts["nth"] - 1]


def test_coefficients_are_those_of_a_slow_lasso(readings: list[Reading], group: Group) -> None:
    facts, G = known("lasso"), contributions(readings, group.units)
    beta = torch.zeros(group.units, dtype=torch.float64)
    for _ in range(4000):  # coordinate descent
        for unit in range(group.units):
            toward = float(G[unit].sum() - G[unit] @ beta + G[unit, unit] * beta[unit])
            beta[unit] = np.sign(toward) * max(0.0, abs(toward) - facts["penalty"]) / float(G[unit, unit])
        if _ % 200 == 199 and float((beta - _at_place(facts, group.units)).abs().max()) < 1e-3:
            break
    assert torch.allclose(beta, _at_place(facts, group.units), atol=1e-3)
    rest = 1 - _at_place(facts, group.units)
    assert facts["error"] == pytest.approx(float(rest @ G @ rest / G.sum()), abs=1e-3)
    stay = [unit for unit in range(group.units) if beta[unit].abs() > 1e-4]
    assert len(stay) == facts["keep"]
    best = np.linalg.pinv(G[stay][:, stay].numpy()) @ G[stay].sum(1).numpy()
    full = np.zeros(group.units)
    full[stay] = best
    left = (1 - full) @ G.numpy() @ (1 - full) / float(G.sum())
    assert facts["again_error"] == pytest.approx(left, abs=1e-6) and left <= facts["error"]


def _at_place(facts: dict[str, Any], units: int) -> Tensor:
    beta = torch.zeros(units, dtype=torch.float64)
    beta[facts["drawn"]] = torch.tensor(facts["betas"][facts["place"]], dtype=torch.float64)
    return beta


def test_what_the_path_makes_small_is_what_the_formula_says(readings: list[Reading], group: Group) -> None:
    facts, G = known("lasso"), contributions(readings, group.units)
    beta = _at_place(facts, group.units)
    rest = 1 - beta
    penalised = float(rest @ G @ rest) / 2 + facts["penalty"] * float(beta.abs().sum())
    assert facts["objective"] == pytest.approx(penalised, rel=1e-3)
    assert facts["left"] == pytest.approx(facts["error"] * facts["whole"])
    assert facts["column"] == pytest.approx(float(G[facts["strongest"], facts["strongest"]]))


def test_contributions_are_those_of_single_channels(subject: Subject, group: Group, readings: list[Reading]) -> None:
    """The energy of one channel's part: its inputs' second moments under its own weights alone."""
    one = readings[0]
    for unit in (0, group.units - 1):
        alone = torch.where(one.unit_of == unit, one.W, 0.0)
        energy = sum(float(((alone @ r.second) * alone).sum()) / r.energy for r in readings)
        assert float(contributions(readings, group.units)[unit, unit]) == pytest.approx(energy)


def test_pivots_are_lapacks_and_lengths_are_projections(readings: list[Reading], group: Group) -> None:
    facts, G = known("pivots"), contributions(readings, group.units)
    values, vectors = np.linalg.eigh(G.numpy())
    Z = np.sqrt(values.clip(min=0))[:, None] * vectors.T
    triangle, pivots = scipy.linalg.qr(Z, mode="r", pivoting=True)
    assert facts["taken"][:12] == pivots[:12].tolist()
    assert facts["diagonal"][:12] == pytest.approx(np.abs(np.diagonal(triangle))[:12].tolist(), rel=1e-6)
    chosen = Z[:, pivots[:5]]
    rest = Z - chosen @ np.linalg.lstsq(chosen, Z, rcond=None)[0]
    expected = np.linalg.norm(rest, axis=0)
    assert lengths_left(G, pivots[:5].tolist())[-1].numpy() == pytest.approx(expected, abs=1e-6)
    whole = np.linalg.norm(Z, axis=0)
    assert facts["lengths"][5] == pytest.approx((expected / whole.max())[facts["drawn"]], abs=2e-4)
    assert facts["diagonal"][facts["needed"]] <= facts["share"] * facts["diagonal"][0]


def test_what_compensation_leaves_is_the_closed_form(subject: Subject, group: Group) -> None:
    facts = known("compensation")
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        seen = readings_of(subject, group, None, None, rows_per_input=8)[0]
    assert facts["greedy_line"] == sorted(facts["greedy_line"], reverse=True)
    kept = facts["order"][: facts["half"]]
    total = 0.0
    for one in seen:
        stay = np.isin(one.unit_of.numpy(), kept) | (one.unit_of.numpy() < 0)
        C, W = one.covariance.numpy(), one.W.numpy()
        part = C[:, stay] @ np.linalg.pinv(C[np.ix_(stay, stay)], rcond=1e-12) @ C[stay]
        total += float(np.trace(W @ (C - part) @ W.T)) / one.energy
    assert solved_for(seen, kept) == pytest.approx(total, abs=1e-5)
    assert facts["greedy"] == pytest.approx(total, abs=1e-4)
    assert facts["solved"] < facts["cut"] and facts["at"][-1] == group.units
    assert facts["cut_line"][-1] == pytest.approx(0, abs=1e-9) == facts["solved_line"][-1]


def test_the_ladder_is_that_of_the_engine(subject: Subject) -> None:
    facts, data = known("least_squares"), subject.data
    judged = data.selection.take(torch.arange(facts["judged"]))
    plan = plan_uniform(subject.trace, score_channels(subject.trace, None, "weight-l2"), facts["share"])
    cut = prune_model(subject.loaded.module, subject.trace, plan)
    assert facts["cut"] == evaluate_model(cut, judged).value
    few = data.calibration.take(torch.arange(facts["images"]))
    solved = reconstruct_model(subject.loaded.module, subject.trace, plan, few, "least-squares", images=len(few))
    assert facts["solved"] == evaluate_model(solved, judged).value
    assert facts["won"] == pytest.approx(100 * (facts["solved"] - facts["cut"]))
    assert min(facts["errors"]) == facts["new_error"] < facts["old_error"]


def test_solved_weights_lie_at_the_bottom_of_the_valley(readings: list[Reading], group: Group) -> None:
    one, numbers = readings[0], torch.Generator().manual_seed(0)
    stay = one.unit_of < group.units // 2
    new, shift = compensate(one.W, one.means[0], one.covariance, stay)
    least = error_on_the_way(one, stay, new, shift)(1.0)
    for _ in range(5):  # no step in any direction leads lower
        aside = torch.randn(new.shape, generator=numbers, dtype=torch.float64) * new.std() * 0.01
        assert error_on_the_way(one, stay, new + aside, shift)(1.0) >= least * (1 - 1e-9)
    whole = error_on_the_way(one, torch.ones_like(stay), one.W, torch.zeros(len(one.W), dtype=torch.float64))
    assert whole(0.0) == pytest.approx(0, abs=1e-12)


def test_value_times_slope_is_taylors_term_of_one_image(subject: Subject) -> None:
    alone = next(group for group in subject.trace.coupled if len(group.consumers) == 1)
    data = subject.data.calibration
    images, labels = next(batches(data, torch.arange(1), 1, subject.trace.module))
    replay = replay_for(Replays(subject.trace), images, "The test")
    terms = read_contributions(replay, subject.trace, images, labels, data, averaged=False)[alone.id][0]
    for unit in (0, alone.units - 1):
        value, slope, total = ground.value_and_slope(subject, alone, unit, data)
        assert total == pytest.approx(float(terms[unit]), rel=1e-4, abs=1e-9)
        assert abs(value * slope) <= abs(total) * 1e6 and np.isfinite([value, slope]).all()
    facts = known("taylor")
    assert facts["one_score"] == pytest.approx(abs(facts["total"]) / facts["places"])


def test_what_runs_again_is_what_the_engine_counts(subject: Subject) -> None:
    behind, images = macs_behind(subject.trace), subject.data.images[:1]
    for group in subject.trace.prunable:
        fork = single_unit_forks(group)[0]
        counted = ForkEngine(subject.trace, [fork]).macs(images)[fork]
        assert behind[group.id] == pytest.approx(counted, rel=0.25), group.name


def test_of_very_many_channels_some_are_tried(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    group = ground.tried_group(subject.trace)
    every = ground.true_losses(subject, group, range(group.units), None, None)
    monkeypatch.setattr(ground, "FEWEST_UNITS", 4)
    monkeypatch.setattr(ground, "LOSS_MACS", 1.0)
    tried = ground.tried_units(subject, group)
    assert len(tried) == 4 and ground.tried_words(group, tried).startswith("(This network is large: of the")
    norms = ground.filter_norms(subject, group)
    assert {int(norms.argmin()), int(norms.argmax())} <= set(tried)
    some = ground.true_losses(subject, group, tried, None, None)
    assert torch.allclose(some, every[tried], atol=1e-6)
    assert ground.tried_group(subject.trace).by_role("consumer"), "the cheapest where none is cheap enough"


@pytest.mark.parametrize("name", ["norms", "sensitivity", "taylor", "least_squares", "soft", "time", "harm"])
def test_of_a_large_network_a_lesson_sees_less_and_says_so(
    subject: Subject, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    monkeypatch.setattr(afford, "LARGE", 1.0)
    monkeypatch.setattr(ground, "LOSS_MACS", 1.0)
    monkeypatch.setattr(facts_repair, "SOLVE_WORK", 2e6)
    monkeypatch.setattr("core.learn.facts.find_result", lambda *_, **__: None)
    monkeypatch.setattr("core.learn.facts.SCAN_MACS", 1e6)
    seen: list[float] = []
    facts = facts_of(name, subject, lambda fraction, *_: seen.append(fraction), None)
    assert seen and all(0 <= fraction <= 1 for fraction in seen)
    lesson = next(one for one in list_lessons() if one.facts == name)
    told = " ".join(filled(step.text, facts) for step in lesson.steps)
    if name in ("norms", "sensitivity", "taylor"):
        assert "This network is large" in told
    if name == "least_squares":
        assert re.search(r"channels of \d+ of the \d+ groups", told)
    if name == "harm":
        assert facts["images"] <= 16 * len(subject.data.classes) and len(facts["shares"]) == 3
    if name == "soft":
        assert len(facts["silent"]) == 2 and "2 short epochs" in told
    if name == "time":
        assert facts["rule_ms"] == pytest.approx(max(facts["compute_ms"], facts["move_ms"]) + facts["start_ms"])


@pytest.mark.parametrize("name", ["least_squares", "harm"])
def test_a_giant_is_refused_before_it_costs_minutes(
    subject: Subject, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(afford, "MOST", 1.0)
    with pytest.raises(CoreError, match=r"many minutes.*smaller"):
        facts_of(name, subject)


def test_as_many_filters_are_silent_as_the_rate_says(subject: Subject) -> None:
    facts = known("soft")
    assert facts["count"] == int(facts["units"] * facts["rate"] + 1e-9)
    assert all(len(silent) == facts["count"] for silent in facts["silent"])
    assert facts["silenced"] == facts["stayed"] + facts["returned"]
    assert facts["group_back"] == len(set(facts["silent"][0]) - set(facts["silent"][-1]))
    assert facts["filters"] == sum(group.units for group in subject.trace.prunable)


def test_both_plans_cost_what_their_networks_count(subject: Subject) -> None:
    facts = known("time")
    assert facts["front_macs"] == pytest.approx(facts["back_macs"], rel=0.05)
    assert facts["share"] < 0.95 and facts["dense_macs"] == count_cost(subject.trace).macs
    rows = {name: values for name, *values in facts["times"]}
    (_, low, high, _), (_, other_low, other_high, _) = rows["cut in front"], rows["cut in the back"]
    assert (facts["answer"] == "same") == (low <= other_high and other_low <= high)
    assert facts["widths"][-1][:3] == [facts["units"], 1.0, 1.0]
    group = next(group for group in subject.trace.prunable if group.name == facts["group"])
    kept = {group.id: tuple(range(facts["widths"][0][0]))}
    pruned = prune_model(subject.loaded.module, subject.trace, Plan(kept))
    macs = count_cost(trace_channels(pruned, subject.loaded.example)).macs
    assert facts["widths"][0][1] == pytest.approx(macs / facts["dense_macs"])


def test_classes_are_those_of_the_pruned_networks(subject: Subject) -> None:
    facts = known("harm")
    few = subject.data.selection.take(torch.arange(facts["images"]))
    scores = ground.known_scores(subject, "taylor")
    plan = plan_uniform(subject.trace, scores, facts["share"])
    before = evaluate_model(subject.loaded.module, few)
    after = evaluate_model(prune_model(subject.loaded.module, subject.trace, plan), few)
    assert facts["by_class"][0] == pytest.approx(before.per_class)
    assert facts["by_class"][facts["chosen"]] == pytest.approx(after.per_class)
    falls = {name: a - b for name, a, b in zip(few.classes, before.per_class, after.per_class, strict=True)}
    assert facts["worst_fall"] == pytest.approx(100 * max(falls.values()))
    assert falls[facts["worst"]] == max(falls.values())
    assert facts["low"] <= facts["worst_fall"] <= facts["high"]
    assert facts["mean"] == pytest.approx(100 * (before.value - after.value))


class Narrow(nn.Module):
    """Nothing to compare: one small group."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lasso", "four channels that may leave"), ("pivots", "four channels"), ("compensation", "four channels"),
        ("sensitivity", "three groups"), ("time", "this network has one"), ("least_squares", "nothing to win back"),
        ("harm", "trained network"),
    ],
)  # fmt: skip
def test_what_a_network_lacks_is_said_in_a_sentence(
    subject: Subject, name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    torch.manual_seed(0)
    module = Narrow().eval()
    poor = replace(
        subject,
        loaded=replace(subject.loaded, module=module, weights=None),
        trace=trace_channels(module, subject.loaded.example),
    )
    monkeypatch.setattr("core.learn.facts.find_result", lambda *_, **__: None)
    with pytest.raises(CoreError, match=said):
        facts_of(name, poor)


def test_a_network_too_large_to_train_here_is_refused(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts_repair, "MOST_TRAIN_MACS", 1)
    with pytest.raises(CoreError, match="would take many minutes"):
        facts_of("soft", subject)


@pytest.mark.parametrize("formula", [r"\frac{a}{b", r"a}", r"\wobble", r"\sign{9}{x}", r"\text"])
def test_a_formula_that_cannot_be_read_is_refused(formula: str) -> None:
    def explain(number: int, inside: str) -> str:
        if number > 2:
            raise CoreError("A formula names a sign that is not there.")
        return inside

    with pytest.raises(CoreError, match="formula"):
        to_html(formula, explain)


def test_a_formula_is_written_as_html() -> None:
    html = to_html(r"\sign{1}{w_i^2} = \frac{1}{n} \sum x < \lambda", lambda number, inside: f"[{number}:{inside}]")
    assert html == (
        '[1:<i>w</i><sub><i>i</i></sub><sup>2</sup>]<span class="op">=</span><span class="frac"><span>1</span>'
        '<span><i>n</i></span></span><span class="big">Σ</span><i>x</i><span class="op">&lt;</span>'
        '<span class="letter">λ</span>'
    )
