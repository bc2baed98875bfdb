"""The files beside the network: what they say is so, other programs take it, and the script trains and comes home."""

from __future__ import annotations

import copy
import csv
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from core.apply import prune_model
from core.apply.settle import settle_norms
from core.errors import ExportError, LoadError
from core.evaluate import evaluate_model
from core.export import apply_recipe, export_model, write_report
from core.export.papers import ratios
from core.export.recipe import describe
from core.export.training_script import training_script
from core.keep import homecoming
from core.keep.homecoming import take_back
from core.keep.networks import build_any
from core.keep.subject import Subject, open_subject
from core.load.torchvision_guard import import_torchvision
from core.plan import plan_uniform
from core.records import Plan, Scores, fingerprint_state
from core.trace import trace_channels

MODEL = "demo/digits-resnet"


@pytest.fixture(scope="module")
def subject() -> Subject:
    return open_subject(MODEL)


@pytest.fixture(scope="module")
def plan(subject: Subject) -> Plan:
    scores = Scores("x", {g.id: -torch.arange(g.units).double() for g in subject.trace.groups})
    return plan_uniform(subject.trace, scores, 0.5)


@pytest.fixture(scope="module")
def folder(subject: Subject, plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("papers") / "export"
    pruned = prune_model(subject.loaded.module, subject.trace, plan)
    accuracy = {"value": 0.5, "low": 0.4, "high": 0.6, "images": 10}
    latency = {"median_ms": 1.0, "low_ms": 0.9, "high_ms": 1.1, "device": "cpu", "threads": 1, "batch": 1}
    one = {"accuracy": accuracy, "latency": latency}
    curves = {g.id: [[0.0, 1.0], [0.5, 0.8]] for g in subject.trace.prunable}
    told: dict[str, Any] = {"dense": one, "pruned": one, "data": "<b>x</b>", "curves": curves}
    export_model(
        pruned, plan, path, "python", loaded=subject.loaded, trace=subject.trace, data=subject.data.report,
        measurements=told,
    )  # fmt: skip
    return path


def test_the_table_of_layers_is_the_network(folder: Path, subject: Subject, plan: Plan) -> None:
    pruned = prune_model(subject.loaded.module, subject.trace, plan)
    rows = {row["layer"]: row for row in csv.DictReader((folder / "layers.csv").read_text().splitlines())}
    for name, layer in pruned.named_modules():
        if isinstance(layer, nn.Conv2d):
            old = subject.loaded.module.get_submodule(name)
            assert (int(rows[name]["channels"]), int(rows[name]["kept"])) == (old.out_channels, layer.out_channels)
            assert int(rows[name]["params_after"]) == sum(value.numel() for value in layer.parameters())
    recipe = json.loads((folder / "recipe.json").read_text())
    dense, state = subject.loaded.module.state_dict(), pruned.state_dict()
    for name, one in recipe["layers"].items():  # by name, each kept channel is the dense network's own
        assert len(one["kept"]) == state[f"{name}.weight"].shape[0] and one["channels"] == len(dense[f"{name}.weight"])
        if f"{name}.bias" in state:
            assert torch.equal(state[f"{name}.bias"], dense[f"{name}.bias"][one["kept"]])


def test_other_programs_ratios_give_the_same_widths(folder: Path, subject: Subject) -> None:
    found = json.loads((folder / "ratios.json").read_text())
    for name, ratio in found["torch_pruning"]["pruning_ratio_dict"].items():
        widths = found["widths"][name]
        assert int(widths["channels"] * (1 - ratio)) == widths["kept"]  # as that program counts
    for entry in found["nni"]["config_list"]:
        (name,) = entry["op_names"]
        assert entry["op_types"] == [type(subject.loaded.module.get_submodule(name)).__name__]
        assert round(found["widths"][name]["channels"] * (1 - entry["sparse_ratio"])) == found["widths"][name]["kept"]


def densenet() -> nn.Module:
    return import_torchvision().models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=7)


def resnet18() -> nn.Module:
    return import_torchvision().models.resnet18(num_classes=7)


def separable() -> nn.Module:
    """Depthwise layers, squeeze and excitation, residuals."""
    return import_torchvision().models.mobilenet_v3_small(num_classes=7)


def resnext() -> nn.Module:
    models = import_torchvision().models
    return models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=7, groups=4, width_per_group=4)


@pytest.mark.parametrize("make", [resnet18, densenet, separable, resnext])
def test_torch_pruning_takes_the_ratios(make: Callable[[], nn.Module]) -> None:
    """The program itself, called as ``how`` says: the same widths, or a note that says where they differ."""
    tp = pytest.importorskip("torch_pruning")
    dense, images = make().eval(), torch.randn(1, 3, 64, 64)
    trace = trace_channels(dense, images)
    plan = plan_uniform(trace, Scores("x", {g.id: -torch.arange(g.units).double() for g in trace.groups}), 0.4)
    pruned = prune_model(dense, trace, plan)
    told = ratios(describe(pruned, plan, None, trace, None, None), dense)["torch_pruning"]
    model = copy.deepcopy(dense)
    exec(told["how"], {"model": model, "images": images, "found": told, "tp": tp})
    ours, theirs = (
        {name: one.weight.shape[0] for name, one in module.named_modules() if isinstance(one, nn.Conv2d | nn.Linear)}
        for module in (pruned, model)
    )
    assert theirs["fc" if "fc" in theirs else next(reversed(theirs))] == 7  # what is not named stays whole
    if told["note"]:
        assert make is resnext and ours != theirs and "groups" in told["note"]
    else:
        assert ours == theirs != {name: one.weight.shape[0] for name, one in dense.named_modules() if name in ours}


def test_the_report_stands_alone(folder: Path) -> None:
    text = write_report(folder).read_text()
    assert not re.search(r"(src|href)\s*=|https?://|<script|@import|url\(", text)
    assert text.count("<svg") == 3 and "Not verified yet" in text
    assert "<b>x</b>" not in text and "&lt;b&gt;x&lt;/b&gt;" in text
    for words in ("Accuracy", "Latency", "Kept channels by layer", "torch", "50.0 % [40.0, 60.0]", "from model import"):
        assert words in text
    (folder / "verification.json").write_text(json.dumps({"ok": False, "message": "model.py differs.", "files": []}))
    assert 'bad">model.py differs.' in write_report(folder).read_text()
    (folder / "verification.json").unlink()


def test_a_recipe_is_refused_where_it_does_not_belong(folder: Path, subject: Subject, tmp_path: Path) -> None:
    found = apply_recipe(folder)
    assert found.exact and found.repair == "none"
    other = open_subject("demo/digits-vgg").loaded
    with pytest.raises(ExportError, match="made on other weights"):
        apply_recipe(folder, other)
    with pytest.raises(ExportError, match="another network"):
        apply_recipe(folder, other, any_weights=True)
    recipe = json.loads((folder / "recipe.json").read_text())
    for change, words in (
        ({"plan": {"kept": "all"}}, "no plan"),
        ({"model": None}, "names no network"),
        ({"format": 99}, "Update"),
        ({"model": {**recipe["model"], "weights": "mine.pt"}}, "Give them"),
        ({"method": {"repair": "weights"}}, "trained after the cut"),
    ):
        (tmp_path / "recipe.json").write_text(json.dumps({**recipe, **change}))
        with pytest.raises(ExportError, match=words):
            apply_recipe(tmp_path)


def images(subject: Subject, path: Path) -> None:
    """Calibration images as a training file: uint8, N x H x W x C."""
    part = subject.data.calibration.take(torch.arange(500))
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (part.mean, part.std))
    pixels = ((part.images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    np.savez(path, images=pixels.permute(0, 2, 3, 1).numpy(), labels=part.labels.numpy())


@pytest.mark.usefixtures("home")
def test_the_script_trains_resumes_and_its_result_comes_home(
    folder: Path, subject: Subject, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    images(subject, tmp_path / "images.npz")
    out = tmp_path / "finetuned.safetensors"

    words = [
        "--data",
        str(tmp_path / "images.npz"),
        "--out",
        str(out),
        "--batch",
        "20",
        "--device",
        "cpu",
        "--shift",
        "0",
    ]
    done = subprocess.run(
        [sys.executable, "-B", "finetune.py", *words, "--epochs", "1"], cwd=folder, capture_output=True, text=True,
        env={"OMP_NUM_THREADS": "1", "PATH": ""}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first = [json.loads(line) for line in done.stdout.splitlines()]
    assert first[0]["device"] == "cpu" and [line.get("epoch") for line in first[1:]] == [1, None]
    assert first[-1]["best"] >= first[0]["start"]
    monkeypatch.setattr(sys, "argv", ["finetune.py", *words, "--epochs", "2", "--resume"])
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "model", raising=False)  # another test's network may go by that name
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(folder / "finetune.py"), run_name="__main__")
    del sys.modules["model"]  # by monkeypatch it would be put back in the end
    more = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("epoch") for line in more[1:]] == [2, None]

    name = take_back(out, subject, plan)
    module, _ = build_any(subject, plan, name)
    cut = prune_model(subject.loaded.module, subject.trace, plan)
    assert fingerprint_state(module.state_dict()) != fingerprint_state(cut.state_dict())
    part = subject.data.selection
    assert evaluate_model(module, part).value > evaluate_model(cut, part).value + 0.2
    with pytest.raises(LoadError, match="another plan"):
        take_back(out, subject, Plan({}))
    with pytest.raises(LoadError, match="does not fit"):
        take_back(Path("assets/demos/digits-resnet.safetensors").resolve(), subject, plan)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("net.pt", b"x", "Expected a .safetensors"), ("net.safetensors", b"", "is empty"),
     ("net.safetensors", b"x" * 2000, "larger than")],
)  # fmt: skip
def test_what_comes_home_through_a_browser_is_bounded(
    name: str, content: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homecoming, "LIMIT_BYTES", 1000)
    with pytest.raises(LoadError, match=said):
        homecoming.take_back_upload(BytesIO(content), name, "somebody", open_subject("demo/digits-vgg"), Plan({}))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix == ".safetensors"]


def test_the_script_settles_norms_as_the_engine_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The script cannot import the engine, so it has a copy of its own."""
    monkeypatch.setitem(sys.modules, "model", SimpleNamespace(SHAPE=(3, 8, 8)))
    script: dict[str, Any] = {"__name__": "finetune", "__file__": "finetune.py"}
    exec(compile(training_script({"plan": {"key": "0"}}), "finetune.py", "exec"), script)
    torch.manual_seed(0)
    one = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4)).eval()
    with torch.no_grad():
        for norm in (one[1], one[4]):
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(1, 4)
            norm.weight.uniform_(0.5, 2)
            norm.bias.uniform_(-1, 1)
    other, pixels = copy.deepcopy(one), torch.randint(0, 256, (70, 3, 8, 8), dtype=torch.uint8)
    given = pixels.float() / 255
    before = one(given).detach()
    script["settle_norms"](one, pixels, 32, torch.device("cpu"))
    assert settle_norms(other, given) == ("1", "4")
    for name, tensor in other.state_dict().items():
        assert torch.allclose(one.state_dict()[name], tensor, rtol=1e-4, atol=1e-5), name
    assert torch.allclose(one(given), before, atol=1e-4)


def test_nothing_from_a_recipe_becomes_code() -> None:
    text = training_script({"plan": {"key": '"; import os; os.abort() #'}})
    assert "os.abort" not in text
    compile(text, "finetune.py", "exec")
