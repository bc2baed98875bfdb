"""The way in: the Makefile's words, the settings, and colours that can be read."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8"))


def make(*words: str, directory: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = ["make", "-s", "-C", str(ROOT), *words]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=clean, cwd=directory)


@pytest.mark.parametrize("version", ["3.9.2", "3.10.14"])
def test_an_old_python_gets_one_sentence(tmp_path: Path, version: str) -> None:
    old = tmp_path / "old-python"
    old.write_text(f"#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'Python {version}'; exit 0; fi\nexit 1\n")
    old.chmod(0o755)
    answer = make("run", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")
    assert answer.returncode != 0 and not (tmp_path / "venv").exists()
    said = [line for line in answer.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1 and f"needs Python 3.11 or newer; '{old}' is Python {version}" in said[0]


def test_a_missing_python_gets_one_sentence(tmp_path: Path) -> None:
    answer = make("test", "PYTHON=no-such-python", f"VENV={tmp_path / 'venv'}")
    said = [line for line in answer.stderr.splitlines() if not line.startswith("make")]
    assert answer.returncode != 0 and len(said) == 1
    assert "'no-such-python' is not there" in said[0] and "PYTHON=python3.11" in said[0]


def test_help_names_every_word() -> None:
    answer = make()
    for word in ("run", "test", "check", "bench", "demos", "clean"):
        assert f"make {word}" in answer.stdout


def test_settings_that_everything_relies_on() -> None:
    assert SETTINGS["runner"]["postScriptGC"] is False
    assert SETTINGS["server"]["fileWatcherType"] == "none" and SETTINGS["server"]["address"] == "localhost"
    assert SETTINGS["server"]["maxUploadSize"] <= 200 and SETTINGS["server"]["showEmailPrompt"] is False
    assert SETTINGS["browser"]["gatherUsageStats"] is False
    assert SETTINGS["client"]["showErrorDetails"] == "none" and SETTINGS["client"]["showErrorLinks"] is False
    assert SETTINGS["client"]["showSidebarNavigation"] is False


def test_streamlit_knows_every_setting() -> None:
    from streamlit import config

    known = set(config.get_config_options())
    for section, options in SETTINGS.items():
        for name, value in options.items():
            for key in [f"{name}.{inner}" for inner in value] if isinstance(value, dict) else [name]:
                assert f"{section}.{key}" in known


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance of #rrggbb."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_controls_can_be_read(theme: str) -> None:
    """AA: 4.5 for text, 3 for controls. Streamlit writes white on primary buttons in both themes."""
    colours = SETTINGS["theme"][theme]
    for background in (colours["backgroundColor"], colours["secondaryBackgroundColor"]):
        for text in (colours["textColor"], colours["linkColor"], colours["blueTextColor"]):
            assert contrast(text, background) >= 4.5
        assert contrast(colours["primaryColor"], background) >= 3.0
    assert contrast("#FFFFFF", colours["primaryColor"]) >= 4.5


def story_of_the_readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]


def test_the_python_story_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a reader would paste it, in a folder and a namespace of its own; without a warning."""
    story = story_of_the_readme()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path / "home"))
    exec(compile(story, "README.md", "exec"), {})
    costs, dense, _, rebuilt = capsys.readouterr().out.splitlines()
    assert int(costs.split(" -> ")[1]) < 0.3 * int(costs.split(" -> ")[0])
    assert float(rebuilt.split()[0]) > float(dense.split()[0]) - 2
    assert (tmp_path / "pruned" / "model.safetensors").exists()


def test_the_notebook_tells_the_same_story() -> None:
    """Its code is the block that the test above runs; its form is nbformat 4.5's, with nothing run in it."""
    book = json.loads((ROOT / "assets" / "examples" / "prune.ipynb").read_text(encoding="utf-8"))
    assert set(book) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    every = {"cell_type", "id", "metadata", "source"}
    ran = {"execution_count", "outputs"}
    for cell in book["cells"]:
        assert set(cell) == (every | ran if cell["cell_type"] == "code" else every)
        assert all(line.endswith("\n") for line in cell["source"][:-1]) and not cell["source"][-1].endswith("\n")
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    kinds = [cell["cell_type"] for cell in book["cells"]]
    assert kinds == ["markdown", "code"] * (len(kinds) // 2), "words before every piece of code"
    cells = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] is None and not cell["outputs"] for cell in book["cells"][1::2])
    assert all(ast.parse(cell).body for cell in cells), "every cell is whole statements"
    story = [line for line in story_of_the_readme().splitlines() if line]
    assert "\n".join(cells).splitlines() == story
