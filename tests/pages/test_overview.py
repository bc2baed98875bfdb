"""The first page: what is loaded, what was found, what comes next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from streamlit.testing.v1 import AppTest

from core import Scores, open_subject
from core.keep.store import open_store
from core.keep.workspace import Workspace, new_token, note_measured
from pages.components import standing, work

APP = Path(__file__).parents[2] / "app.py"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path))
    monkeypatch.setattr("core.work.jobs.JobManager.warm", lambda manager: None)  # no workers for pages that only look
    yield
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path))
    open_store().close()


def visit(record: Workspace | None = None) -> AppTest:
    app = AppTest.from_file(APP, default_timeout=60)
    if record is not None:
        open_store().save_workspace(record.token, record.to_json(), 0)
        app.query_params["w"] = record.token
    app.run()
    assert not app.exception
    return app


def said(app: AppTest) -> str:
    texts = [element.value for element in (*app.main.markdown, *app.main.caption, *app.main.info)]
    return " ".join([*texts, *(element.proto.body for element in app.main.get("html"))])


def test_a_newcomer_sees_the_demo_its_cost_its_groups_and_its_images() -> None:
    text = said(visit())
    for words in ("digits-vgg", "44.7 M", "704 k", "8 prunable", "feeds the output", "1,797", "data:image/png"):
        assert words in text, words
    assert "Every operator of this network is understood" in text
    assert "means nothing" not in text


def test_random_weights_and_images_are_told_plainly() -> None:
    text = said(visit(Workspace(new_token(), "cifar/resnet20", weights_path="random", data_source="random")))
    assert "Random weights, and random images with random labels: accuracy means nothing here." in text


def test_what_comes_next_follows_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = open_subject(work.FIRST_MODEL)
    record = Workspace(new_token(), work.FIRST_MODEL)
    assert standing.standing(record, None).next == "Model"
    monkeypatch.setattr(work, "scores", lambda record, about: None)
    monkeypatch.setattr(work, "sensitivity", lambda record, about: None)
    assert standing.standing(record, subject).next == "Channels"
    monkeypatch.setattr(work, "scores", lambda record, about: object())
    assert standing.standing(record, subject).next == "Sensitivity"
    monkeypatch.setattr(work, "sensitivity", lambda record, about: object())
    assert standing.standing(record, subject).next == "Tune"


def test_nobody_is_sent_to_scan_a_network_whose_accuracy_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "scores", lambda record, about: None)
    record = Workspace(new_token(), "cifar/resnet20", weights_path="random", data_source="random")
    subject = work.subject(record)
    assert standing.standing(record, subject).next == "Channels"
    scored = Scores("weight-l2", {group.id: torch.arange(float(group.units)) for group in subject.trace.groups})
    monkeypatch.setattr(work, "scores", lambda record, about: scored)
    assert standing.standing(record, subject).next == "Tune"
    assert "accuracy would mean nothing here" in said(visit(record))


def test_an_export_counts_only_for_its_own_plan_and_network() -> None:
    subject = open_subject(work.FIRST_MODEL)
    record = Workspace(new_token(), work.FIRST_MODEL)
    plan = work.plan(record, subject)
    assert plan is not None
    assert not standing.exported(record, subject)
    kept = {"plan": work.network_key(record, plan), "subject": subject.key}
    assert standing.exported(note_measured(record, standing.EXPORT, kept), subject)
    for other in ({**kept, "plan": "another"}, {**kept, "subject": "another"}):
        assert not standing.exported(note_measured(record, standing.EXPORT, other), subject)
