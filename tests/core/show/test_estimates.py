"""What measured plans teach, why a plan is as it is, and the stages of a network."""

from __future__ import annotations

import random

import pytest

from core import Scores, Sensitivity, count_cost, find_result, open_subject, propose, widths_plan
from core.errors import PlanError
from core.keep.store import open_store
from core.show.comparison import SeenPlan
from core.show.estimates import PRIOR, fit, foretold_drop, learn_correction
from core.show.reasons import plan_reasons, reasons_csv
from core.show.stages import FLAT, group_stages

CRITERION = "taylor"


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNESCOPE_HOME", str(tmp_path_factory.mktemp("home")))
        subject = open_subject("demo/digits-vgg")
        scores = Scores.from_dict(find_result(open_store(), "score", subject, criterion=CRITERION))
        curves = Sensitivity.from_dict(find_result(open_store(), "scan", subject, criterion=CRITERION))
        yield subject, scores, curves
        open_store().close()


def seen(removed: dict[str, int], accuracy: float, repair: str = "none") -> SeenPlan:
    return SeenPlan(str(removed), "", removed, repair, accuracy, accuracy, accuracy, 360, {})


def test_the_fit_minimises_its_own_objective() -> None:
    rng = random.Random(2)
    for _ in range(20):
        pairs = [(rng.uniform(0.05, 0.2), rng.uniform(0, 0.3)) for _ in range(rng.randint(1, 6))]

        def objective(s: float, pairs: list[tuple[float, float]] = pairs) -> float:
            return sum((found - s * foretold) ** 2 for foretold, found in pairs) + PRIOR * (s - 1) ** 2

        best = fit(pairs)
        assert all(objective(best) <= objective(best + step) + 1e-15 for step in (-1e-3, 1e-3))
    assert fit([]) == 1.0


def test_plans_that_lost_twice_what_was_foretold_double_the_estimate(known) -> None:
    subject, _, curves = known
    group = subject.trace.prunable[0]
    dense = curves.dense.accuracy
    plans = []
    for count in range(1, group.units):
        drop = foretold_drop(curves, {group.id: count}, subject.trace)
        if 0.01 < drop < 0.14:
            plans.append(seen({group.id: count}, dense - 2 * drop))
    assert len(plans) >= 2
    others = [seen({group.id: 1}, dense, repair="batchnorm"), seen({}, dense), seen({group.id: group.units - 1}, 0.1)]
    found = learn_correction(subject.trace, curves, [*plans, *others], dense, "none")
    assert found.plans == len(plans), "another repair, the dense network and collapsed plans teach nothing here"
    assert found.scale == pytest.approx(2, abs=0.1)
    assert found.error_after < 0.2 * found.error_before
    assert learn_correction(subject.trace, curves, [], dense, "none").scale == 1.0


def test_every_group_has_a_reason_and_savings_are_exact(known) -> None:
    subject, _, curves = known
    first, second, third = subject.trace.prunable[:3]
    removed = {first.id: 8, second.id: 4}
    rows = {row.id: row for row in plan_reasons(subject.trace, curves, removed, held=(third.id,))}
    assert list(rows) == [group.id for group in subject.trace.prunable]
    dense, both = (count_cost(subject.trace, widths_plan(subject.trace, one)).macs for one in ({}, removed))
    alone = count_cost(subject.trace, widths_plan(subject.trace, {second.id: 4})).macs
    assert rows[first.id].saves == pytest.approx((alone - both) / dense)
    expected = curves.dense.accuracy - curves.accuracy(first.id, 8 / first.units)
    assert rows[first.id].lost == pytest.approx(expected)
    assert rows[third.id].text == "Locked by you."
    assert rows[subject.trace.prunable[4].id].text.startswith("Left whole")
    assert "of the MACs" in rows[first.id].text and "would cost" in rows[first.id].text
    assert "not scanned" in plan_reasons(subject.trace, None, removed)[0].text
    assert reasons_csv(list(rows.values())).count("\n") == 1 + len(rows)


def test_a_size_in_bytes_is_met(known) -> None:
    subject, scores, curves = known
    dense = count_cost(subject.trace).size_bytes
    counts = propose(subject.trace, scores, curves, {"size_bytes": 0.4 * dense})
    left = count_cost(subject.trace, widths_plan(subject.trace, counts)).size_bytes
    assert 0.37 * dense < left <= 0.4 * dense
    assert not any(propose(subject.trace, scores, curves, {"size_bytes": 2 * dense}).values())
    with pytest.raises(PlanError, match="out of reach"):
        propose(subject.trace, scores, curves, {"size_bytes": 100})


def test_stages_are_the_sizes_of_the_maps(known) -> None:
    subject, _, _ = known
    found = group_stages(subject.trace)
    assert list(found) == [group.id for group in subject.trace.coupled]
    assert found["features.0"] == "32 × 32" and found["classifier"] == FLAT
    sizes = [int(stage.split()[0]) for stage in found.values() if stage != FLAT]
    assert sizes == sorted(sizes, reverse=True)
