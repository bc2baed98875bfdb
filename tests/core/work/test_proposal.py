"""The proposed plan keeps its promise on the images it was measured on."""

from __future__ import annotations

import pytest

from core import Plan, Scores, Sensitivity, Subject, count_cost, desk_plan, evaluate_model, open_subject, prune_model
from core.errors import Cancelled
from core.keep.shelf import _shipped, job_key
from core.work.proposal import IMAGES, search_proposal


@pytest.fixture(scope="module")
def known() -> tuple[Subject, Scores, Sensitivity]:
    subject = open_subject("demo/digits-resnet")
    stored = _shipped()
    scores = Scores.from_dict(stored[job_key("score", subject, criterion="taylor")])
    curves = Sensitivity.from_dict(stored[job_key("scan", subject, criterion="taylor")])
    return subject, scores, curves


def test_the_promise_holds_and_something_is_saved(known: tuple[Subject, Scores, Sensitivity]) -> None:
    subject, scores, curves = known
    found = search_proposal(subject, scores, curves, drop=0.01)
    plan = desk_plan(subject.trace, scores, found.removed)
    again = evaluate_model(
        prune_model(subject.loaded.module, subject.trace, plan), subject.data.selection, limit=IMAGES
    )
    dense = evaluate_model(subject.loaded.module, subject.data.selection, limit=IMAGES)
    assert again == found.accuracy and dense == found.dense_accuracy
    assert dense.correct - again.correct <= 0.01 * dense.images
    share = count_cost(subject.trace, plan).macs / count_cost(subject.trace).macs
    assert found.macs == pytest.approx(share) and share < 0.95


def test_what_cannot_be_kept_proposes_nothing(known: tuple[Subject, Scores, Sensitivity]) -> None:
    subject, scores, curves = known
    found = search_proposal(subject, scores, curves, drop=-1.0)
    assert found.removed == {} and found.macs == 1.0 and found.accuracy == found.dense_accuracy
    assert desk_plan(subject.trace, scores, found.removed) == Plan({})


def test_it_stops_when_asked(known: tuple[Subject, Scores, Sensitivity]) -> None:
    with pytest.raises(Cancelled):
        search_proposal(*known, cancelled=lambda: True)


def test_the_shipped_proposals_are_what_the_search_gives(known: tuple[Subject, Scores, Sensitivity]) -> None:
    subject, scores, curves = known
    shipped = _shipped()[job_key("propose", subject, criterion="taylor")]
    assert search_proposal(subject, scores, curves).removed == shipped["removed"]
