"""The command line: JSON out, exit statuses, one sentence for every mistake, help that teaches."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from core.cli import main
from core.cli.main import make_parser
from core.export import check, runner
from core.load import load_model
from core.records import fingerprint_state
from tests.network_files import sine

ROOT = Path(__file__).resolve().parents[3]
MODEL = "demo/digits-vgg"
COMMANDS = ("scan", "export", "apply", "report", "inspect")
pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(autouse=True)
def checked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are reloaded in this process; tests/core/export has the fresh one."""

    def here(directory: Path, jobs: list[Any], work: Path, engine: bool, timeout_s: float) -> None:
        images = safetensors.torch.load_file(directory / "reference.safetensors")["images"]
        for job in jobs:
            runner.run_job(directory, job, images, work)

    monkeypatch.setattr(check, "run_fresh", here)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any, str]:
    status = main([*words, "--quiet"])
    shown = capsys.readouterr()
    return status, json.loads(shown.out) if shown.out else None, shown.err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], *([name] for name in COMMANDS)):
        with pytest.raises(SystemExit) as left:
            main([*words, "--help"])
        shown = capsys.readouterr().out
        assert left.value.code == 0 and "Exit status: 0 done" in " ".join(shown.split())
        assert re.search(r"^  prunescope ", shown, re.MULTILINE)  # an example to copy
    commands = make_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    assert set(commands) == set(COMMANDS)
    for command in (make_parser(), *commands.values()):
        for example in re.findall(r"^  prunescope (.+)$", command.format_help(), re.MULTILINE):
            make_parser().parse_args(example.split())  # the examples are right
    for command in commands.values():
        assert all(action.help for action in command._actions) and "JSON: " in command.format_help()


def test_the_readme_names_every_command_and_status() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    story = [line.partition("#")[0] for line in text.splitlines() if line.startswith("prunescope ")]
    named = [make_parser().parse_args(line.split()[1:]).command for line in story]
    assert set(named) == set(COMMANDS)
    for name in COMMANDS:
        assert f"| `{name}` |" in text  # what its JSON holds


def test_the_entry_point_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"]["prunescope"] == "core.cli:main"
    done = subprocess.run([sys.executable, "-m", "core.cli"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "COMMAND" in done.stderr and "Traceback" not in done.stderr


def test_export_report_and_apply(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, again = tmp_path / "smaller", tmp_path / "again"
    status, told, _ = run(
        capsys, "export", MODEL, "--remove", "0.5", "--repair", "batchnorm", "--formats", "checkpoint", "--out",
        str(folder),
    )  # fmt: skip
    assert status == 0 and told["verified"]["ok"] and not told["failed"]
    assert told["params"][1] < told["params"][0] and len(told["difference"]) == 3
    assert (folder / "report.html").is_file() and (folder / "layers.csv").is_file()

    words = ["--formats", "checkpoint", "--no-verify", "--out", str(again)]
    status, told, _ = run(capsys, "apply", str(folder / "recipe.json"), *words)
    assert status == 0 and told["exact"]
    states = [safetensors.torch.load_file(one / "model.safetensors") for one in (folder, again)]
    assert fingerprint_state(states[0]) == fingerprint_state(states[1])
    recipe = json.loads((again / "recipe.json").read_text())
    assert recipe["method"]["repair"] == "batchnorm"

    (folder / "model.safetensors").write_bytes(b"short")
    status, told, _ = run(capsys, "report", str(folder))
    assert status == 1 and not told["ok"] and "is damaged" in told["message"]
    assert "is damaged" in (folder / "report.html").read_text()


def test_a_recipe_on_other_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "smaller"
    words = ["--data", "random", "--formats", "checkpoint", "--no-verify", "--out"]
    run(capsys, "export", MODEL, "--remove", "0.5", *words, str(folder))
    weights = tmp_path / "mine.pt"
    torch.save(load_model(MODEL, weights="random").module.state_dict(), weights)
    status, _, error = run(capsys, "apply", str(folder), "--weights", str(weights), *words, str(tmp_path / "b"))
    assert status == 2 and "was made on other weights" in error
    status, told, _ = run(
        capsys, "apply", str(folder), "--weights", str(weights), "--any-weights", *words, str(tmp_path / "b")
    )
    assert status == 0 and told["exact"] is False


def test_plans_come_from_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"kept": {"features.0": [0, 1, 2, 3]}, "origin": "by hand"}))
    words = ["--data", "random", "--formats", "checkpoint", "--no-verify", "--out", str(tmp_path / "out")]
    status, told, _ = run(capsys, "export", MODEL, "--plan", str(plan), *words)
    assert status == 0 and "4 x" not in str(told)
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert recipe["layers"]["features.0"] == {"channels": 32, "kept": [0, 1, 2, 3]}
    shutil.copy(tmp_path / "out" / "recipe.json", plan)  # a recipe holds a plan too
    assert run(capsys, "export", MODEL, "--plan", str(plan), *words)[0] == 0


def test_scan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scan.json"
    status, told, _ = run(
        capsys, "scan", MODEL, "--criterion", "weight-l2", "--fractions", "0.5", "--limit", "40", "--out", str(out)
    )
    assert status == 0 and set(told["groups"]) and json.loads(out.read_text())["criterion"] == "weight-l2"
    assert all(0 <= point["accuracy"] <= 1 for rows in told["groups"].values() for point in rows)


def test_inspect_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, told, _ = run(capsys, "inspect", MODEL, "--time")
    assert status == 0 and told["macs"] == 44680768 and told["latency"]["median_ms"] > 0
    assert "latency_ms" not in told and "onnx" not in told
    path = tmp_path / "net.onnx"
    path.write_bytes(sine())
    status, told, _ = run(capsys, "inspect", str(path), "--time")
    assert status == 0 and told["prunable"] is False and "uses Sin" in told["why_not"]
    assert told["onnx"]["operators"] == {"Sin": 1} and told["latency_ms"] > 0
    assert "latency_ms" not in run(capsys, "inspect", str(path))[1]
    path.write_bytes(b"no network")
    status, told, error = run(capsys, "inspect", str(path))
    assert status == 2 and told is None and "net.onnx" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["inspect", "torchvision/resnet5000"], "Nearest"),
        (["inspect", "nowhere.pt2"], "no file there"),
        (["scan", MODEL, "--fractions", "half"], "expected shares"),
        (["scan", MODEL, "--data", "nowhere"], "nowhere"),
        (["scan", MODEL, "--out", "nowhere/scan.json"], "there is no folder"),
        (["export", MODEL, "--out", "x"], "one of --remove, --plan and --recipe"),
        (["export", MODEL, "--remove", "0.5", "--plan", "p", "--out", "x"], "remove, plan"),
        (["export", MODEL, "--remove", "1.5", "--out", "x"], "found 1.5"),
        (["export", MODEL, "--recipe", "?", "--macs", "0.5", "--out", "x"], "cp-lasso"),
        (["export", MODEL, "--recipe", "cp-lasso", "--out", "x"], "--macs or --params"),
        (["export", MODEL, "--plan", "nowhere.json", "--out", "x"], "cannot be read"),
        (["apply", "nowhere", "--out", "x"], "recipe"),
        (["report", "nowhere"], "no folder"),
    ],
)
def test_mistakes_get_one_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, told, error = run(capsys, *words)
    assert status == 2 and told is None and said in error
    assert error.startswith(f"prunescope {words[0]}: ") and "Traceback" not in error and error.count("\n") == 1
