"""Files from strangers: read as tensors or refused in one sentence; never run."""

from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from core.errors import LoadError
from core.load.weights import read_metadata, read_state_dict, sanitise_weights

STATE = {"conv.weight": torch.arange(12.0).reshape(3, 4), "conv.bias": torch.tensor([1, 2, 3])}


class Attack:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (self.target, "it ran")


def refusal(path: Path, **bounds: int) -> str:
    with pytest.raises(LoadError) as caught:
        read_state_dict(path, **bounds)
    message = str(caught.value)
    assert path.name in message and "\n" not in message and "Traceback" not in message
    return message


def same(found: dict[str, torch.Tensor]) -> bool:
    return set(found) == set(STATE) and all(torch.equal(found[name], value) for name, value in STATE.items())


@pytest.mark.parametrize(
    "wrapped",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "optimizer": {"lr": 0.1}},
        {"module." + name: value for name, value in STATE.items()},
        {"state_dict": {"module." + name: value for name, value in STATE.items()}},
    ],
    ids=["plain", "state_dict", "model", "module.", "both"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_common_wrappings_come_off(tmp_path: Path, wrapped: dict, zipped: bool) -> None:
    path = tmp_path / "weights.pth"
    torch.save(wrapped, path, _use_new_zipfile_serialization=zipped)
    assert same(read_state_dict(path))


def test_safetensors_with_metadata(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(STATE, path, {"note": "hello"})
    assert same(read_state_dict(str(path)))
    assert read_metadata(path) == {"note": "hello"}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"these are not weights\n" * 50, b"\x80\x02garbage", b"PK\x03\x04 cut short", bytes(4096)]
)
def test_what_is_no_weights_file_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("how", ["torch", "torch-legacy", "pickle"])
def test_a_malicious_pickle_never_runs(tmp_path: Path, how: str) -> None:
    ran, path = tmp_path / "ran.txt", tmp_path / "bad.pt"
    attack = {"conv.weight": torch.ones(1), "extra": Attack(ran)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(attack, protocol=2))
    else:
        torch.save(attack, path, _use_new_zipfile_serialization=how == "torch")
    message = refusal(path)
    assert not ran.exists()
    assert "Save the weights alone" in message
    pickle.loads(pickle.dumps(Attack(ran)))  # the attack is a real one
    assert ran.read_text() == "it ran"


def test_a_pickled_module_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "module.pt"
    torch.save(nn.Linear(2, 2), path)
    assert "model.state_dict()" in refusal(path)


@pytest.mark.parametrize("value", [[1, 2], {}, {"weight": "text"}, {3: torch.ones(1)}, torch.ones(2)])
def test_anything_but_named_tensors_is_refused(tmp_path: Path, value: object) -> None:
    path = tmp_path / "other.pt"
    torch.save(value, path)
    refusal(path)


def test_sizes_are_bounded_before_and_after_reading(tmp_path: Path) -> None:
    path = tmp_path / "big.pt"
    torch.save({"weight": torch.zeros(1000)}, path)
    assert "bytes" in refusal(path, limit_bytes=1000)
    torch.save({"weight": torch.zeros(1).expand(1000, 1000)}, path)  # a few bytes that describe four million
    assert "describes 4,000,000 bytes" in refusal(path, limit_bytes=1_000_000)
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(5_000_000))
    assert "unpacks to 5,000,000" in refusal(bomb, limit_bytes=1_000_000)


@pytest.mark.parametrize("name", ["missing.pt", "weights.bin", "folder.pt"])
def test_paths_that_are_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.pt").mkdir()
    refusal(tmp_path / name)


def test_sanitising_writes_the_same_tensors(tmp_path: Path) -> None:
    source, clean, evil = tmp_path / "in.pt", tmp_path / "out.safetensors", tmp_path / "evil.pt"
    torch.save({"state_dict": STATE}, source)
    sanitise_weights(source, clean)
    assert same(read_state_dict(clean))

    torch.save(Attack(tmp_path / "ran.txt"), evil)
    with pytest.raises(LoadError, match=r"Refused to read evil\.pt"):
        sanitise_weights(evil, tmp_path / "evil.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pt", "in.pt", "out.safetensors"]


@pytest.mark.skipif(sys.platform != "linux", reason="the memory bound needs RLIMIT_AS")
def test_sanitising_bounds_memory(tmp_path: Path) -> None:
    source = tmp_path / "large.pt"
    torch.save({"weight": torch.zeros(30_000_000)}, source)  # 120 MB
    with pytest.raises(LoadError, match=r"large\.pt"):
        sanitise_weights(source, tmp_path / "out.safetensors", memory_limit_bytes=60_000_000)
    assert not (tmp_path / "out.safetensors").exists()
