"""Network files from strangers: looked at in a process of their own, nothing left behind when refused."""

from __future__ import annotations

import io
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.errors import LoadError
from core.export.exported_program import write_exported_program
from core.export.onnx import write_onnx
from core.export.source import Source
from core.keep import model_files
from core.keep.model_files import examine, examine_model_file, keep_model_file
from core.keep.project import open_project, pack_project
from core.keep.subject import open_subject, uploads_folder
from core.keep.workspace import Workspace, new_token, save_plan
from core.load import load_model
from core.measure.cost import count_cost
from core.trace import trace_channels
from tests.network_files import Tiny, sine

OWNER = "visitor"
IMAGES = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.pt2 and tiny.onnx of one network, and sine.onnx, which has no counterpart in PyTorch here."""
    folder = tmp_path_factory.mktemp("written")
    source = Source(Tiny().eval(), IMAGES[:1], {})
    write_exported_program(source, folder / "tiny.pt2")
    write_onnx(source, folder / "tiny.onnx")
    (folder / "sine.onnx").write_bytes(sine())
    return folder


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The looking without a process of its own: what is made of its result is the same."""

    def apart(path: Path, result: Path, memory_limit_bytes: int, timeout_s: float) -> None:
        result.write_text(model_files.json.dumps(examine(path)))

    monkeypatch.setattr(model_files, "_examine_apart", apart)


def keep(path: Path, name: str = "") -> model_files.ModelFile:
    return keep_model_file(io.BytesIO(path.read_bytes()), name or path.name, OWNER)


def left_behind() -> list[str]:
    return sorted(path.name for path in uploads_folder(OWNER).rglob("*"))


def test_a_program_is_kept_looked_at_apart_and_opens(written: Path) -> None:
    found = keep(written / "tiny.pt2", "my net.PT2")
    assert found.why_not == "" and not found.onnx and found.latency_ms is None
    assert found.path.name == "my-net.pt2" and uploads_folder(OWNER) in found.path.parents
    opened = open_subject(str(found.path), "", "random")
    assert opened.loaded.name == "my-net" and opened.source_name == "my-net.pt2" and opened.trace.prunable
    with torch.no_grad():
        expected = load_model(str(written / "tiny.pt2")).module(IMAGES)
        assert torch.equal(opened.loaded.module(IMAGES), expected)


def test_an_onnx_file_tells_its_structure_cost_and_time(written: Path, in_this_process: None) -> None:
    found = keep(written / "tiny.onnx")
    cost = count_cost(trace_channels(load_model(str(written / "tiny.pt2")).module, IMAGES[:1]))
    assert found.why_not == "" and found.latency_ms is not None and found.latency_ms > 0
    assert found.onnx["macs"] == cost.macs and found.onnx["params"] == cost.params
    assert open_subject(str(found.path), "", "random").trace.prunable


def test_what_cannot_be_converted_is_kept_with_the_reason(written: Path, in_this_process: None) -> None:
    found = keep(written / "sine.onnx")
    assert "sine.onnx uses Sin" in found.why_not and "cannot be pruned" in found.why_not
    assert found.onnx["operators"] == {"Sin": 1} and found.latency_ms is not None
    assert examine_model_file(found.path) == found  # what was found is kept beside it


def test_a_refused_file_leaves_nothing_and_says_one_sentence(written: Path) -> None:
    cut = io.BytesIO((written / "tiny.pt2").read_bytes()[:-200])
    with pytest.raises(LoadError, match=r"^cut one\.pt2 is damaged") as caught:
        keep_model_file(cut, "cut one.pt2", OWNER)
    assert "\n" not in str(caught.value) and str(uploads_folder(OWNER)) not in str(caught.value)
    with pytest.raises(LoadError, match=r"Expected a file ending in \.pt2, \.onnx"):
        keep_model_file(io.BytesIO(b"x"), "net.pkl", OWNER)
    with pytest.raises(LoadError, match="is empty"):
        keep_model_file(io.BytesIO(), "net.onnx", OWNER)
    assert left_behind() == []


def test_memory_and_time_are_bounded(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoadError, match="was not read within"):
        examine_model_file(written / "tiny.pt2", timeout_s=0.01)
    monkeypatch.setattr("core.keep.uploads.UPLOAD_LIMIT_BYTES", 1 << 10)
    with pytest.raises(LoadError, match="is larger than"):
        keep(written / "tiny.pt2")
    assert left_behind() == []
    asked: list[int] = []
    monkeypatch.setattr(model_files, "bound_memory", asked.append)  # what it does is tested with the weights
    assert model_files.main(str(written / "tiny.pt2"), str(written / "result"), 64 << 20) == 0
    assert asked == [64 << 20]
    died = subprocess.CompletedProcess([], -9, "", "")
    monkeypatch.setattr(model_files.subprocess, "run", lambda *_, **__: died)
    with pytest.raises(LoadError, match="within 64 MiB of memory"):
        examine_model_file(written / "tiny.pt2", memory_limit_bytes=64 << 20)


def test_only_a_few_are_kept(in_this_process: None) -> None:
    for number in range(model_files.KEPT_MODELS + 2):
        newest = keep_model_file(io.BytesIO(sine(f"g{number}")), "sine.onnx", OWNER)
    assert len(list(uploads_folder(OWNER).iterdir())) == model_files.KEPT_MODELS and newest.path.is_file()


def test_a_project_takes_its_network_file_along(written: Path, in_this_process: None) -> None:
    work = Workspace(new_token(), data_source="random")
    path = keep_model_file(io.BytesIO((written / "tiny.pt2").read_bytes()), "tiny.pt2", work.token).path
    work = save_plan(replace(work, model_source=str(path)), "mine", '{"kept": {}}')
    packed = pack_project(work)
    assert work.token.encode() not in packed
    found = open_project(io.BytesIO(packed))
    assert found.token in found.model_source and Path(found.model_source).read_bytes() == path.read_bytes()
    assert found.plans[0].model_source == found.model_source
