"""Files from strangers: bounded, never unpickled, nothing left behind when refused."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import LoadError
from core.keep import uploads
from core.keep.subject import data_address, open_subject, split_address, uploads_folder
from core.load import load_data, load_model

OWNER = "visitor"
pytestmark = pytest.mark.usefixtures("home")


def saved(state: object) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def left_behind() -> list[str]:
    return sorted(path.name for path in uploads_folder(OWNER).iterdir())


def test_weights_are_rewritten_as_safetensors_and_load() -> None:
    state = load_model("cifar/resnet20").module.state_dict()
    kept = uploads.keep_weights(saved(state), "my net.pth", OWNER)
    assert kept.parent == uploads_folder(OWNER)
    assert kept.name.startswith("my-net-") and kept.suffix == ".safetensors"
    again = load_model("cifar/resnet20", weights=str(kept)).module.state_dict()
    assert all(torch.equal(again[name], value) for name, value in state.items())
    assert uploads.keep_weights(saved(state), "my net.pth", OWNER) == kept
    assert left_behind() == [kept.name]


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {os.environ['PRUNESCOPE_HOME']}/sprung",)


def test_a_malicious_pickle_is_refused_by_name_and_does_not_run() -> None:
    for payload in (saved({"weight": Trap()}), io.BytesIO(pickle.dumps(Trap()))):
        with pytest.raises(LoadError, match=r"evil\.pt"):
            uploads.keep_weights(payload, "evil.pt", OWNER)
    assert not (Path(os.environ["PRUNESCOPE_HOME"]) / "sprung").exists()
    assert left_behind() == []


@pytest.mark.parametrize("name", ["notes.txt", "model.py", "net", "../../net.exe"])
def test_other_kinds_of_files_are_refused_by_name(name: str) -> None:
    with pytest.raises(LoadError, match=r"Expected a file ending in"):
        uploads.keep_weights(io.BytesIO(b"hello"), name, OWNER)


def test_text_empty_and_oversized_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoadError, match=r"notes\.pt"):
        uploads.keep_weights(io.BytesIO(b"not a checkpoint"), "notes.pt", OWNER)
    with pytest.raises(LoadError, match="empty"):
        uploads.keep_weights(io.BytesIO(b""), "empty.pt", OWNER)
    monkeypatch.setattr(uploads, "UPLOAD_LIMIT_BYTES", 10)
    with pytest.raises(LoadError, match="larger than"):
        uploads.keep_images(io.BytesIO(b"x" * 11), "big.npz", OWNER)
    assert left_behind() == []


def test_images_are_kept_as_they_came_and_the_oldest_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "KEPT_FILES", 2)
    for number in range(3):
        file = io.BytesIO()
        np.savez(file, images=np.full((6, 4, 4, 3), number, np.uint8), labels=np.arange(6) % 2)
        file.seek(0)
        kept = uploads.keep_images(file, "set.npz", OWNER)
        os.utime(kept, (number, number))
    assert len(load_data(kept)) == 6
    assert len(left_behind()) == 2


def test_addresses_of_images_carry_root_and_size() -> None:
    for source, root, size in [("digits", "", None), ("CIFAR10", "/my data", None), ("/a b/c?d", "", 64)]:
        assert split_address(data_address(source, root=root, size=size)) == (source, root, size)
    assert split_address("/odd?folder=x") == ("/odd?folder=x", "", None)


def test_a_subject_takes_images_at_the_size_asked_for() -> None:
    subject = open_subject("cifar/resnet20", "random", data_address("shapes", size=40))
    assert tuple(subject.data.images.shape[1:]) == (3, 40, 40)
    assert subject.trace.example.shape[-1] == 40
