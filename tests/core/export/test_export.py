"""What is exported reloads in a fresh process and computes the same; what is damaged or different says so."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import safetensors.torch
import torch
from torch import nn

from core.apply import prune_model, reconstruct_model
from core.errors import CoreError, ExportError
from core.evaluate import evaluate_model
from core.export import export_model, load_exported, runner, verify_export
from core.export.check import check_export, run_fresh
from core.export.files import checksum
from core.export.formats import FORMATS, Format
from core.export.trust import seal
from core.load import load_data, load_model
from core.plan import plan_uniform
from core.records import Accuracy, ImageData, LoadedModel, Plan, Scores, Trace, fingerprint_state
from core.registry import Row
from core.trace import trace_channels

ROOT = Path(__file__).resolve().parents[3]
WRITTEN = ["checkpoint", "python", "exported_program", "onnx", "torchscript"]
FILES = [FORMATS[name].file for name in WRITTEN]
LOAD = """
import json, sys
import torch
from core.evaluate import evaluate_model
from core.export import load_exported
from core.load import load_data
found = evaluate_model(load_exported(sys.argv[1]), load_data("digits").report.take(torch.arange(100)))
print(json.dumps([found.correct, found.images, found.loss]))
"""


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model("demo/digits-vgg")


@pytest.fixture(scope="module")
def trace(loaded: LoadedModel) -> Trace:
    return trace_channels(loaded.module, loaded.example)


@pytest.fixture(scope="module")
def report() -> ImageData:
    return load_data("digits").report.take(torch.arange(100))


@pytest.fixture(scope="module")
def plan(trace: Trace) -> Plan:
    scores = Scores("first-k", {g.id: -torch.arange(g.units).double() for g in trace.groups})
    return plan_uniform(trace, scores, 0.5)


@pytest.fixture(scope="module")
def pruned(loaded: LoadedModel, trace: Trace, plan: Plan) -> nn.Module:
    calibration = load_data("digits").calibration
    return reconstruct_model(loaded.module, trace, plan, calibration, "least-squares", images=100)


@pytest.fixture(scope="module")
def accuracy(pruned: nn.Module, report: ImageData) -> Accuracy:
    return evaluate_model(pruned, report)


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory,
    loaded: LoadedModel,
    trace: Trace,
    plan: Plan,
    pruned: nn.Module,
    report: ImageData,
    accuracy: Accuracy,
) -> Path:
    folder = tmp_path_factory.mktemp("export") / "all"
    before = fingerprint_state(pruned.state_dict())
    figures = {"data": report.name, "accuracy": accuracy.value, "nothing": float("nan")}
    done = export_model(pruned, plan, folder, loaded=loaded, trace=trace, measurements=figures, data=report)
    assert not done.failed and fingerprint_state(pruned.state_dict()) == before
    assert sorted(path.name for path in folder.iterdir()) == sorted(done.files)
    return folder


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def test_verification_in_a_fresh_process(exported: Path, accuracy: Accuracy) -> None:
    found = verify_export(exported)
    assert found.ok, found.message
    assert [check.format for check in found.files] == WRITTEN
    for check in found.files:
        assert check.with_engine is (check.format == "checkpoint") and check.latency_ms and check.latency_ms > 0
        assert check.ok and check.images == accuracy.images
        assert check.accuracy == check.expected_accuracy == pytest.approx(accuracy.value)
        assert check.max_rel_error is not None and check.max_rel_error < 1e-4
    assert json.loads((exported / "verification.json").read_text())["ok"] is True


def test_a_fresh_process_reproduces_the_accuracy(exported: Path, accuracy: Accuracy) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(exported)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    correct, images, loss = json.loads(done.stdout)
    assert (correct, images) == (accuracy.correct, accuracy.images) and loss == pytest.approx(accuracy.loss, rel=1e-4)
    assert accuracy.value > 0.9


def test_reloaded_equals_bit_for_bit(exported: Path, pruned: nn.Module) -> None:
    found = load_exported(exported)
    assert type(found) is type(pruned) and not found.training
    assert fingerprint_state(found.state_dict()) == fingerprint_state(pruned.state_dict())
    opened = load_model(str(exported))
    assert torch.equal(opened.module(opened.example), pruned(opened.example))


def test_an_export_can_be_pruned_and_exported_again(exported: Path, copied: Path, tmp_path: Path) -> None:
    opened = load_model(str(copied))
    trace = trace_channels(opened.module, opened.example)
    group = trace.prunable[0]
    again = Plan({group.id: tuple(range(group.units // 2))})
    module = prune_model(opened.module, trace, again)
    export_model(module, again, tmp_path / "second", "checkpoint", loaded=opened, trace=trace)
    shutil.rmtree(copied)  # the first export may be gone
    found = load_exported(tmp_path / "second")
    assert fingerprint_state(found.state_dict()) == fingerprint_state(module.state_dict())


def test_the_recipe_says_what_happened(exported: Path, loaded: LoadedModel, plan: Plan, pruned: nn.Module) -> None:
    recipe = json.loads((exported / "recipe.json").read_text())
    assert recipe["model"]["source"] == "demo/digits-vgg" and recipe["model"]["outputs"] == 10
    assert recipe["model"]["weights_fingerprint"] == loaded.fingerprint
    assert Plan.from_json(json.dumps(recipe["plan"])) == plan and recipe["plan"]["origin"] == plan.origin
    assert recipe["measurements"]["nothing"] is None and recipe["versions"]["torch"] == torch.__version__
    for name, dims in recipe["kept_channels"].items():
        for dim, kept in dims.items():
            assert pruned.state_dict()[name].shape[int(dim)] == len(kept)
    assert str(exported) not in (exported / "recipe.json").read_text()
    for name, entry in recipe["files"].items():
        assert entry["sha256"] == checksum(exported / name)


def test_onnx_takes_any_batch(exported: Path, pruned: nn.Module, report: ImageData) -> None:
    session = onnxruntime.InferenceSession(str(exported / "model.onnx"), providers=["CPUExecutionProvider"])
    for count in (1, 7):
        (found,) = session.run(None, {"images": report.images[:count].numpy()})
        assert torch.allclose(torch.from_numpy(found), pruned(report.images[:count]), atol=1e-4)


def run_here(directory: Path, jobs: list, work: Path, engine: bool, timeout_s: float) -> None:
    """The runner's work without a process of its own, to test what is made of its results."""
    images = safetensors.torch.load_file(directory / "reference.safetensors")["images"]
    for job in jobs:
        runner.run_job(directory, job, images, work)


def run_outside(directory: Path, jobs: list, work: Path, engine: bool, timeout_s: float) -> str | None:
    """A fresh process for what needs none of this program; the rest here, where it is quicker."""
    return (run_here if engine else run_fresh)(directory, jobs, work, engine, timeout_s)


def reseal(folder: Path, *names: str) -> None:
    """The recipe of files that were changed by somebody who holds the key: only computing shows the change."""
    recipe = json.loads((folder / "recipe.json").read_text())
    for name in names:
        path = folder / name
        recipe["files"][name] = {"size_bytes": path.stat().st_size, "sha256": checksum(path)}
    recipe["seal"] = seal(recipe)
    (folder / "recipe.json").write_text(json.dumps(recipe))


def only(folder: Path, *formats: str) -> None:
    """An export of these formats alone."""
    recipe = json.loads((folder / "recipe.json").read_text())
    for row in FORMATS:
        if row.name not in formats:
            recipe["files"].pop(row.value.file, None)
            (folder / row.value.file).unlink(missing_ok=True)
    recipe["seal"] = seal(recipe)
    (folder / "recipe.json").write_text(json.dumps(recipe))


def damage_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-40] ^= 0xFF
    path.write_bytes(data)


def change_weights(folder: Path) -> None:
    """Other weights, with a recipe that was made to agree."""
    path, recipe_path = folder / "model.safetensors", folder / "recipe.json"
    state = safetensors.torch.load_file(path)
    state["classifier.bias"] += 0.5
    safetensors.torch.save_file(state, path)
    recipe = json.loads(recipe_path.read_text())
    recipe["fingerprint"] = fingerprint_state(state)
    recipe_path.write_text(json.dumps(recipe))
    reseal(folder, path.name)


def swap_program(folder: Path) -> None:
    (folder / "model.pt2").write_bytes(b"not a program")
    reseal(folder, "model.pt2")


def change_class(folder: Path) -> None:
    path = folder / "model.py"
    path.write_text(path.read_text().replace("return x\n", "return x * 1.01\n"))
    reseal(folder, path.name)


@pytest.mark.parametrize(
    ("harm", "files", "words"),
    [
        (damage_weights, FILES[:2], "model.safetensors is damaged"),
        (change_weights, FILES[:2], "model.safetensors computes something else"),
        (lambda folder: (folder / "model.onnx").unlink(), ["model.onnx"], "model.onnx is missing"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"short"), ["model.onnx"], "model.onnx is damaged"),
        (swap_program, ["model.pt2"], "model.pt2 does not reload"),
        (change_class, ["model.py"], "model.py computes something else"),
    ],
)
def test_harm_to_one_file_is_told(copied: Path, harm, files: list[str], words: str) -> None:
    harm(copied)
    found = check_export(copied, run=run_here)
    assert not found.ok and words in found.message and "Traceback" not in found.message
    assert {check.file: check.ok for check in found.files} == {name: name not in files for name in FILES}


def test_code_that_was_not_written_here_is_not_run(copied: Path) -> None:
    """Somebody else's folder, in itself consistent: its Python file would leave a mark if it ran."""
    path, recipe_path = copied / "model.py", copied / "recipe.json"
    path.write_text(path.read_text() + f"\nPath({str(copied / 'ran')!r}).touch()\n")
    reseal(copied, path.name)
    recipe = json.loads(recipe_path.read_text())
    recipe_path.write_text(json.dumps({**recipe, "seal": "0" * 64}))
    found = check_export(copied, run=run_here)
    assert not (copied / "ran").exists()
    assert [check.format for check in found.files if check.ok] == ["checkpoint", "onnx"]
    assert "was not written by this installation" in found.message
    assert check_export(copied, run=run_here, run_code=True).ok and (copied / "ran").exists()


def test_a_file_that_ends_its_process_leaves_the_others(copied: Path) -> None:
    path = copied / "model.py"
    path.write_text(path.read_text().replace("import torch\n", "import os\n\nos._exit(7)\n", 1))
    reseal(copied, path.name)
    only(copied, "checkpoint", "python", "torchscript")
    found = check_export(copied, run=run_outside)
    assert {check.format: check.ok for check in found.files} == {
        "checkpoint": True,
        "python": False,
        "torchscript": True,
    }
    assert "model.py ended the process that loaded it (status 7" in found.message


def test_the_check_cannot_reach_this_program(copied: Path) -> None:
    path = copied / "model.py"
    path.write_text(path.read_text().replace("import torch\n", "import core\nimport torch\n", 1))
    reseal(copied, path.name)
    only(copied, "checkpoint", "python")
    found = check_export(copied, run=run_outside)
    assert [check.file for check in found.files if not check.ok] == ["model.py"]
    assert "core is not needed to load this file" in found.message


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "recipe.json").unlink(),
        lambda folder: (folder / "recipe.json").write_text("{"),
        lambda folder: (folder / "recipe.json").write_text('{"format": 1}'),
        lambda folder: (folder / "reference.safetensors").write_bytes(b"\0" * 64),
        lambda folder: (folder / "reference.safetensors").unlink(),
    ],
)
def test_harm_to_the_whole_is_told(copied: Path, harm) -> None:
    harm(copied)
    found = check_export(copied, run=run_here)
    assert not found.ok and not found.files and "Export again" in found.message


def test_harm_is_told_by_the_fresh_process_too(copied: Path) -> None:
    damage_weights(copied)
    for path in (copied / "model.pt2", copied / "model.onnx"):
        path.unlink()
    (copied / "model.torchscript.pt").unlink()
    found = verify_export(copied)
    assert not found.ok and [check.ok for check in found.files] == [False] * 5
    assert json.loads((copied / "verification.json").read_text())["ok"] is False
    assert "is damaged" in (copied / "report.html").read_text()
    with pytest.raises(ExportError, match="is damaged"):
        verify_export(copied, strict=True)


def test_a_check_that_takes_too_long_is_stopped(copied: Path) -> None:
    found = verify_export(copied, timeout_s=0.01)
    assert not found.ok and "was not checked within" in found.message


def test_weights_that_do_not_belong_are_refused(copied: Path) -> None:
    damage_weights(copied)
    with pytest.raises(ExportError, match="other weights"):
        load_exported(copied)
    path = copied / "model.safetensors"
    state = safetensors.torch.load_file(path)
    state.pop("classifier.bias")
    safetensors.torch.save_file(state, path)
    with pytest.raises(ExportError, match="does not fit"):
        load_exported(copied)
    with pytest.raises(ExportError, match="it has no recipe"):
        load_exported(copied.parent)
    with pytest.raises(ExportError, match="no folder"):
        verify_export(copied / "nowhere")


def test_one_format_that_fails_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: LoadedModel, trace: Trace, plan: Plan, pruned: nn.Module
) -> None:
    def fails(source: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("an operator has no translation\nlong story")

    broken = Row("onnx", Format("model.onnx", fails, 1e-3), "ONNX", "")
    monkeypatch.setitem(FORMATS._rows, "onnx", broken)
    done = export_model(pruned, plan, tmp_path, ["checkpoint", "onnx"], loaded=loaded, trace=trace)
    assert done.failed == {"onnx": "ONNX could not be written: RuntimeError: an operator has no translation"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "layers.csv", "model.safetensors", "ratios.json", "recipe.json", "reference.safetensors", "report.html",
    ]  # fmt: skip
    with pytest.raises(ExportError, match="no translation"):
        export_model(pruned, plan, tmp_path, "onnx", loaded=loaded, trace=trace)


def test_without_data_or_loaded(tmp_path: Path, trace: Trace, plan: Plan, pruned: nn.Module) -> None:
    export_model(pruned, plan, tmp_path, ["checkpoint", "torchscript"], trace=trace)
    found = check_export(tmp_path, run=run_here)
    assert not found.ok and "names no architecture" in found.message
    assert {check.format: check.ok for check in found.files} == {"checkpoint": False, "torchscript": True}
    assert found.files[1].accuracy is None and found.files[1].images == 8
    export_model(pruned, plan, tmp_path, "python", trace=trace)  # the weights have a home in model.py
    assert sorted(p.name for p in tmp_path.glob("model.*")) == ["model.py", "model.safetensors"]
    assert check_export(tmp_path, run=run_here).ok


def test_bad_requests(tmp_path: Path, trace: Trace, plan: Plan, pruned: nn.Module) -> None:
    with pytest.raises(CoreError, match="Nearest: onnx"):
        export_model(pruned, plan, tmp_path, "onxx", trace=trace)
    with pytest.raises(ExportError, match="size of the input"):
        export_model(pruned, plan, tmp_path)
    (tmp_path / "taken").write_text("")
    with pytest.raises(ExportError, match="cannot be used"):
        export_model(pruned, plan, tmp_path / "taken", trace=trace)
