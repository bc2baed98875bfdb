"""The export page, with a real worker: what it says before, how it runs, what it gives, what survives a reload."""

from __future__ import annotations

import io
import runpy
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from streamlit.testing.v1 import AppTest

from core import Plan, count_cost, export_model, is_kept, job_key, open_subject, prune_model, score_channels
from core.keep.networks import build_any
from core.keep.store import open_store
from core.keep.workspace import Workspace, new_token, note_measured
from core.work import jobs
from pages.components import downloads, work
from pages.components.standing import EXPORT

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "pages" / "7_Export.py"
CRITERION = "weight-l2"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path))
    monkeypatch.setattr(jobs, "_manager", None)  # workers of its own: they keep files in this test's folder
    yield
    if jobs._manager is not None:
        jobs._manager.close()
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path))
    open_store().close()


def record(**values: Any) -> Workspace:
    """The first demo with its channels scored."""
    subject = open_subject(work.FIRST_MODEL)
    scores = score_channels(subject.trace, None, CRITERION)
    open_store().put_result("score", job_key("score", subject, criterion=CRITERION), scores.to_dict())
    return Workspace(new_token(), work.FIRST_MODEL, criterion=CRITERION, **values)


def visit(work: Workspace | None = None, token: str = "") -> AppTest:
    app = AppTest.from_file(PAGE, default_timeout=60)
    if work is not None:
        open_store().save_workspace(work.token, work.to_json(), 0)
    app.query_params["w"] = work.token if work is not None else token
    app.run()
    assert not app.exception
    return app


def said(app: AppTest) -> str:
    return " ".join(element.value for element in (*app.markdown, *app.caption, *app.info, *app.warning, *app.error))


def labels(app: AppTest) -> list[str]:
    return [button.proto.label for button in app.get("download_button")]


def press_export(app: AppTest) -> AppTest:
    next(button for button in app.button if button.label == "Export").click()
    app.run()
    assert not app.exception
    return app


def ticket(token: str) -> dict[str, str]:
    found = open_store().workspace(token)
    assert found is not None
    return found[0]["choices"]["export_job"]


def test_a_plan_that_removes_nothing_has_nothing_to_export() -> None:
    app = visit(record())
    assert "This plan removes nothing" in said(app)
    assert not [button for button in app.button if button.label == "Export"]


def test_the_plan_is_shown_before_and_after() -> None:
    app = visit(record(removed={"features.0": 16}))
    table = app.dataframe[0].value.set_index("Layer")
    assert table.loc["features.0", "Channels"] == "32 → 16"
    assert table.loc["features.0", "Kept"] == 50
    subject = open_subject(work.FIRST_MODEL)
    planned = count_cost(subject.trace, Plan({"features.0": tuple(range(16))}))
    assert table["MACs after"].sum() == planned.macs
    assert table["Parameters before"].sum() < count_cost(subject.trace).params  # batch norms are not listed


def test_it_exports_measures_verifies_and_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = record(removed={"features.0": 16, "features.24": 80}, choices={"export_formats": []})
    app = press_export(visit(mine))
    job = ticket(mine.token)
    assert next(button for button in app.button if button.label == "Export").disabled
    ended = jobs.open_jobs().wait(job["id"], 180)
    assert ended.state == "done", ended.error
    app.run()
    assert not app.exception
    text = said(app)
    assert "model.safetensors reloads and computes the same" in text
    assert ":green[" in text and ":red[" not in text
    figures = app.table[0].value.set_index("Figure")
    assert list(figures.columns) == ["Dense", "Exported", "Change"]
    assert figures.loc["Accuracy [95 %]", ["Dense", "Exported"]].str.contains("359 images").all()
    assert "points" in figures.loc["Accuracy [95 %]", "Change"]
    assert figures.loc["MACs", "Change"].startswith("−")
    assert any(label.startswith("Download all") for label in labels(app))

    directory = Path(open_store().workspace(mine.token)[0]["measured"][EXPORT]["directory"])  # type: ignore[index]
    loads(app, directory, monkeypatch)
    again = visit(token=mine.token)
    assert "reloads and computes the same" in said(again)
    assert labels(again) == labels(app)
    changed(mine.token)
    for file in directory.iterdir():
        file.unlink()
    gone = visit(token=mine.token)
    assert "no longer on the server" in said(gone)
    assert not labels(gone)


def loads(app: AppTest, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippet the page shows runs as it stands beside the unpacked download."""
    snippet = next(block.value for block in app.code if "load_exported" in block.value)
    names = sorted(file.name for file in directory.iterdir())
    unpacked = directory.parent / "unpacked"
    zipfile.ZipFile(io.BytesIO(downloads._zipped(directory, names))).extractall(unpacked)
    monkeypatch.chdir(unpacked)
    found: dict[str, Any] = {"images": torch.zeros(2, 1, 32, 32)}
    exec(snippet, found)
    assert tuple(found["scores"].shape) == (2, 10)


def changed(token: str) -> None:
    """Another plan: the export is still shown, and said to be of an older one."""
    state, revision = open_store().workspace(token)  # type: ignore[misc]
    found = replace(Workspace.from_json(state), removed={"features.0": 8})
    open_store().save_workspace(token, found.to_json(), revision)
    assert "The plan has changed since this export" in said(visit(token=token))
    open_store().save_workspace(token, state, revision + 1)


def test_a_failed_check_and_a_failed_format_are_shown_with_their_sentences(tmp_path: Path) -> None:
    mine = record(removed={"features.0": 16})
    plan = work.plan(mine, open_subject(work.FIRST_MODEL))
    assert plan is not None
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.onnx").write_bytes(b"x")
    accuracy = {"value": 0.9, "low": 0.85, "high": 0.94, "images": 100}
    latency = {"median_ms": 1, "low_ms": 1, "high_ms": 1, "repeats": 3, "batch": 1, "threads": 1, "device": "cpu"}
    one = {"accuracy": accuracy, "latency": latency, "macs": 10, "params": 10, "size_bytes": 10}
    check = {"file": "model.onnx", "ok": False, "message": "model.onnx does not reload: broken.", "accuracy": None}
    result = {
        "plan": plan.key,
        "subject": open_subject(work.FIRST_MODEL).key,
        "directory": str(tmp_path / "out"),
        "files": [{"name": "model.onnx", "size_bytes": 1}],
        "verification": {"ok": False, "message": "model.onnx does not reload: broken.", "files": [check]},
        "measurements": {"data": "digits (report)", "dense": one, "pruned": one},
        "difference": {"value": 0.0, "low": -0.02, "high": 0.02},
        "failed": {"exported_program": "PyTorch program could not be written: reason."},
    }
    text = said(visit(note_measured(mine, EXPORT, result)))
    assert ":red[:material/cancel:] model.onnx does not reload: broken." in text
    assert "PyTorch program could not be written: reason." in text


def test_a_job_the_server_forgot_is_told_and_can_be_started_again() -> None:
    mine = record(removed={"features.0": 16})
    subject = open_subject(work.FIRST_MODEL)
    lost = {"id": "gone", "plan": "x", "subject": subject.key}
    app = visit(replace(mine, choices={"export_job": lost}))
    assert "no longer known" in said(app)
    assert any(button.label == "Start again" for button in app.button)


def exported(mine: Workspace, directory: Path) -> tuple[Workspace, Plan]:
    """The plan's network as model.py, weights and training script, and a record that knows of it."""
    subject = open_subject(work.FIRST_MODEL)
    plan = work.plan(mine, subject)
    assert plan is not None
    pruned = prune_model(subject.loaded.module, subject.trace, plan)
    done = export_model(pruned, plan, directory, "python", loaded=subject.loaded, trace=subject.trace)
    accuracy = {"value": 0.9, "low": 0.85, "high": 0.94, "images": 100}
    latency = {"median_ms": 1, "low_ms": 1, "high_ms": 1, "repeats": 3, "batch": 1, "threads": 1, "device": "cpu"}
    one = {"accuracy": accuracy, "latency": latency, "macs": 10, "params": 10, "size_bytes": 10}
    check = {"file": "model.py", "ok": True, "message": "model.py reloads.", "accuracy": None}
    result = {
        "plan": work.network_key(mine, plan),
        "subject": subject.key,
        "directory": str(directory),
        "files": [{"name": name, "size_bytes": 1} for name in done.files],
        "verification": {"ok": True, "message": "The file reloads.", "files": [check]},
        "measurements": {"data": "digits (report)", "dense": one, "pruned": one},
        "difference": {"value": 0.0, "low": -0.02, "high": 0.02},
        "failed": {},
    }
    return note_measured(mine, EXPORT, result), plan


def train(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch of finetune.py on some digits, run as a script."""
    part = open_subject(work.FIRST_MODEL).data.calibration.take(torch.arange(200))
    pixels = (part.images * part.std[0] + part.mean[0]).mul(255).round().clamp(0, 255).to(torch.uint8)
    np.savez(directory / "images.npz", images=pixels.permute(0, 2, 3, 1).numpy(), labels=part.labels.numpy())
    words = ["--data", str(directory / "images.npz"), "--epochs", "1", "--batch", "40", "--shift", "0"]
    monkeypatch.setattr(sys, "argv", ["finetune.py", *words])
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.delitem(sys.modules, "model", raising=False)
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(directory / "finetune.py"), run_name="__main__")
    assert left.value.code == 0
    del sys.modules["model"]  # by monkeypatch it would be put back in the end


def bring_home(app: AppTest, name: str, content: bytes) -> AppTest:
    app.file_uploader[0].set_value((name, content, "application/octet-stream"))
    app.run()
    next(button for button in app.button if button.label.startswith("Take it")).click()
    app.run()
    assert not app.exception
    return app


def test_a_network_trained_elsewhere_comes_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, plan = exported(record(removed={"features.0": 16, "features.24": 80}), tmp_path / "out")
    train(tmp_path / "out", monkeypatch)
    content = (tmp_path / "out" / "finetuned.safetensors").read_bytes()
    app = visit(mine)
    assert "python finetune.py --data images.npz" in app.code[-1].value
    for wrong, words in ((content[:-400], "finetuned.safetensors"), (b"", "is empty")):
        assert words in bring_home(app, "finetuned.safetensors", wrong).error[0].value
    bring_home(app, "finetuned.safetensors", content)
    assert not app.error
    kept = Workspace.from_json(open_store().workspace(mine.token)[0])  # type: ignore[index]
    subject, name = open_subject(work.FIRST_MODEL), work.repair(kept, plan)
    assert is_kept(name) and "Fine-tuned elsewhere" in work.repair_words(kept, name)[0]
    module, _ = build_any(subject, plan, name)
    trained = safetensors.torch.load(content)
    assert all(torch.equal(value, trained[key]) for key, value in module.state_dict().items() if key in trained)
    assert "The plan has changed since this export" in said(visit(token=mine.token))
