"""What the pages take for granted before anybody has chosen anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from core import Plan, desk_figures, headline, prune_model
from core.keep.networks import keep_network
from core.keep.workspace import Workspace, choose, edit, new_token
from core.show.desk import desk_plan
from pages.components import work


def test_a_new_workspace_scores_by_images_only_where_their_labels_mean_something() -> None:
    trained = Workspace(new_token(), work.FIRST_MODEL)
    assert work.criterion(trained) == work.FIRST_CRITERION
    random = Workspace(new_token(), "cifar/resnet8", data_source="random")
    assert work.criterion(random) == work.WEIGHTS_CRITERION
    assert work.criterion(Workspace(new_token(), "cifar/resnet8", data_source="random", criterion="qr")) == "qr"


def test_the_accuracy_of_a_plan_that_removes_nothing_was_measured_by_the_scan() -> None:
    record = Workspace(new_token(), work.FIRST_MODEL)
    subject = work.subject(record)
    curves, scores = work.sensitivity(record, subject), work.scores(record, subject)
    assert curves is not None and scores is not None
    whole = desk_figures(headline(subject.trace, Plan({}), sensitivity=curves), {}, {})[0]
    assert (whole.how, whole.value) == ("measured", curves.dense.accuracy)
    group = subject.trace.prunable[0]
    plan = desk_plan(subject.trace, scores, {group.id: group.units // 2})
    assert desk_figures(headline(subject.trace, plan, sensitivity=curves), {}, {})[0].how == "estimated"


def test_a_pinned_plan_keeps_its_units_where_its_counts_stand() -> None:
    record = Workspace(new_token(), work.FIRST_MODEL)
    subject = work.subject(record)
    scores = work.scores(record, subject)
    assert scores is not None
    first, second, third = subject.trace.prunable[:3]
    own = Plan({first.id: tuple(range(5)), second.id: tuple(range(1, 8))}, "CP")
    removed = {first.id: first.units - 5, second.id: second.units - 7}
    taken = edit(record, removed, "CP", pin=own.to_json())
    plan = work.plan(taken, subject)
    assert plan == own and plan is not None and plan.key == own.key
    moved = edit(taken, {first.id: 2, third.id: 3}, "drag")
    by_score = desk_plan(subject.trace, scores, {first.id: 2, third.id: 3})
    found = work.plan(moved, subject)
    assert found is not None and found.kept == {**by_score.kept, second.id: own.kept[second.id]}


def test_a_kept_network_is_built_for_its_own_plan_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path))
    record = Workspace(new_token(), work.FIRST_MODEL)
    subject = work.subject(record)
    group = subject.trace.prunable[0]
    plan = Plan({group.id: tuple(range(5))})
    name = keep_network(prune_model(subject.loaded.module, subject.trace, plan), plan)
    entry = {"name": name, "title": "Fine-tuning", "used": True}
    record = choose(record, repair="batchnorm", **{work.NETWORKS: {plan.key: entry}})
    assert work.repair(record, plan) == name and work.repair(record, Plan({})) == "batchnorm"
    assert work.repair_words(record, name)[0] == "Fine-tuning"
    put_away = choose(record, **{work.NETWORKS: {plan.key: {**entry, "used": False}}})
    assert work.repair(put_away, plan) == "batchnorm"
    (tmp_path / "networks" / f"{name}.safetensors").unlink()
    assert work.repair(record, plan) == "batchnorm", "weights that left are not promised"
