"""What the pages take for granted before anybody has chosen anything."""

from __future__ import annotations

from core import Plan, desk_figures, headline
from core.desk import desk_plan
from core.workspace import Workspace, new_token
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
