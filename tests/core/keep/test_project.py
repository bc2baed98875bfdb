"""The project file: there and back, and what is no project."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from core.errors import LoadError
from core.keep import workspace as records
from core.keep.project import STATE, open_project, pack_project
from core.keep.subject import split_address
from core.keep.uploads import keep_images, keep_weights
from core.keep.workspace import Workspace, new_token

pytestmark = pytest.mark.usefixtures("home")


def some_work() -> Workspace:
    work = records.edit(Workspace(new_token(), "demo/digits-vgg", criterion="taylor"), {"features.0": 4}, "a bar")
    work = records.save_plan(work, "mine", '{"kept": {}}', "a note")
    return records.note_measured(work, "k", {"accuracy": 0.5})


def test_there_and_back_under_a_token_of_its_own() -> None:
    work = some_work()
    found = open_project(io.BytesIO(pack_project(work)))
    assert found.token != work.token and replace(found, token=work.token) == work
    with zipfile.ZipFile(io.BytesIO(pack_project(work))) as archive:
        assert work.token not in archive.read(STATE).decode(), "the token opens the work: it stays here"


def test_uploaded_weights_and_images_travel(tmp_path: Path) -> None:
    work = some_work()
    weights, images = tmp_path / "w.safetensors", tmp_path / "i.npz"
    safetensors.torch.save_file({"a": torch.arange(4.0)}, weights)
    images.write_bytes(b"not read here")
    with weights.open("rb") as one, images.open("rb") as two:
        kept = keep_weights(one, "w.safetensors", work.token)
        work = replace(work, weights_path=str(kept), data_source=f"{keep_images(two, 'i.npz', work.token)}?size=16")
    found = open_project(io.BytesIO(pack_project(work)))
    assert found.token in found.weights_path and Path(found.weights_path).is_file()
    assert torch.equal(safetensors.torch.load_file(found.weights_path)["a"], torch.arange(4.0))
    path, _, size = split_address(found.data_source)
    assert Path(path).read_bytes() == b"not read here" and size == 16 and found.token in path


def test_files_of_others_and_of_the_server_are_not_packed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.safetensors"
    secret.write_bytes(b"secret")
    packed = pack_project(replace(some_work(), weights_path=str(secret)))
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.namelist() == [STATE]


def archive_of(**members: str) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "/").replace("project_json", STATE), text)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (io.BytesIO(b"no zip at all"), "cannot be read"),
        (archive_of(other="x"), "something else"),
        (archive_of(project_json="{}", etc__passwd="x"), "something else"),
        (archive_of(project_json="not json"), "cannot be read"),
        (archive_of(project_json="[]"), "cannot be read"),
        (archive_of(project_json=json.dumps({"format": 99})), "newer"),
        (archive_of(project_json=json.dumps({"format": 1, "workspace": {"version": 1}})), "cannot be read"),
        (archive_of(project_json=json.dumps({"format": 1, "workspace": []})), "cannot be read"),
    ],
)
def test_what_is_no_project_is_refused(file: io.BytesIO, words: str) -> None:
    with pytest.raises(LoadError, match=words):
        open_project(file)
