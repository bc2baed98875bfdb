"""Networks kept as files: what goes in comes out, nothing foreign does, and the folder stays bounded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from core import AS_CUT, Plan, Subject, has_network, is_kept, load_model, open_subject, prune_model, trace_channels
from core.errors import PruneError
from core.keep import networks as kept
from core.keep.networks import build_any, keep_network, load_network
from core.records import fingerprint_state

PLAN = Plan({"features.0": tuple(range(8)), "features.3": (1, 3, 5)}, "by hand")
pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="module")
def subject() -> Subject:
    return open_subject("demo/digits-vgg")


def other(subject: Subject, seed: int) -> torch.nn.Module:
    """A pruned network with weights that no repair makes."""
    module = prune_model(subject.loaded.module, subject.trace, PLAN)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return module


def test_what_is_kept_comes_back_to_the_last_bit(subject: Subject) -> None:
    module = other(subject, 1)
    name = keep_network(module, PLAN)
    assert is_kept(name) and has_network(name) and not is_kept(AS_CUT)
    found, plan = build_any(subject, PLAN, name)
    assert not found.training and plan == PLAN and plan.origin == "by hand"
    assert fingerprint_state(found.state_dict()) == fingerprint_state(module.state_dict())
    images = subject.data.images[:4]
    with torch.inference_mode():
        assert torch.equal(found(images), module.eval()(images))
    assert keep_network(module, PLAN) == name, "named by its content"
    built, _ = build_any(subject, PLAN, AS_CUT)
    cut = prune_model(subject.loaded.module, subject.trace, PLAN)
    assert fingerprint_state(built.state_dict()) == fingerprint_state(cut.state_dict())


def test_a_class_that_asks_for_the_version_of_its_weights_comes_back() -> None:
    """MNASNet refuses a state dict that does not say of which version it is, and files do not keep that."""
    dense = load_model("torchvision/mnasnet0_5")
    trace = trace_channels(dense.module, torch.zeros(1, 3, 32, 32))
    plan = Plan({trace.prunable[0].id: (0, 2)})
    module = prune_model(dense.module, trace, plan)
    found, _ = load_network(keep_network(module, plan), dense.module, trace, plan)
    assert fingerprint_state(found.state_dict()) == fingerprint_state(module.state_dict())


def test_nothing_is_built_from_what_left_is_damaged_or_of_another_plan(subject: Subject, home: Path) -> None:
    name = keep_network(other(subject, 2), PLAN)
    dense, trace = subject.loaded.module, subject.trace
    with pytest.raises(PruneError, match="another plan"):
        load_network(name, dense, trace, Plan({"features.0": (0, 1)}))
    path = home / "networks" / f"{name}.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(PruneError, match="do not fit"):
        load_network(name, dense, trace, PLAN)
    path.unlink()
    assert not has_network(name)
    with pytest.raises(PruneError, match="no longer kept"):
        load_network(name, dense, trace, PLAN)
    for foreign in ("kept-../../etc/passwd", "kept-", "kept-0123456789ABCDEF"):
        assert not has_network(foreign)
        with pytest.raises(PruneError, match="no longer kept"):
            load_network(foreign, dense, trace, PLAN)


def test_the_folder_is_bounded_and_those_used_longest_ago_leave(
    subject: Subject, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (keep_network(other(subject, seed), PLAN) for seed in (3, 4))
    folder = home / "networks"
    size = (folder / f"{first}.safetensors").stat().st_size
    for at, name in enumerate((first, second)):
        os.utime(folder / f"{name}.safetensors", (1000 + at, 1000 + at))
    load_network(first, subject.loaded.module, subject.trace, PLAN)  # used: now the younger of the two
    monkeypatch.setattr(kept, "MAX_BYTES", int(2.5 * size))
    third = keep_network(other(subject, 5), PLAN)
    assert [has_network(name) for name in (first, second, third)] == [True, False, True]
    monkeypatch.setattr(kept, "MAX_FILE_BYTES", size // 2)
    with pytest.raises(PruneError, match="MiB"):
        keep_network(other(subject, 6), PLAN)
