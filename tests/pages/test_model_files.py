"""The model page with network files: .pt2 and ONNX open, an ONNX file is shown at least, what is wrong is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from onnx import helper
from streamlit.testing.v1 import AppTest

from core.export.exported_program import write_exported_program
from core.export.source import Source
from core.keep import model_files
from core.keep.store import open_store
from tests.network_files import Tiny, onnx_file, sine

PAGE = Path(__file__).parents[2] / "pages" / "1_Model.py"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    tiny, make = Tiny().eval(), helper.make_node
    write_exported_program(Source(tiny, torch.randn(1, 1, 8, 8), {}), folder / "tiny.pt2")
    (folder / "tiny.onnx").write_bytes(onnx_file(
        make("Conv", ["images", "first.weight", "first.bias"], ["a"]), make("Relu", ["a"], ["b"]),
        make("Conv", ["b", "second.weight", "second.bias"], ["c"]), make("GlobalAveragePool", ["c"], ["d"]),
        make("Flatten", ["d"], ["e"]), make("Gemm", ["e", "head.weight", "head.bias"], ["scores"], transB=1),
        gives=(3,), weights=tiny.state_dict(),
    ))  # fmt: skip
    (folder / "sine.onnx").write_bytes(sine())
    (folder / "cut.pt2").write_bytes((folder / "tiny.pt2").read_bytes()[:-100])
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path / "home"))

    def here(path: Path, result: Path, memory_limit_bytes: int, timeout_s: float) -> None:
        """The looking without a process of its own, which tests/core/keep has."""
        result.write_text(json.dumps(model_files.examine(path)))

    monkeypatch.setattr(model_files, "_examine_apart", here)
    yield
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path / "home"))
    open_store().close()


def visit(token: str = "") -> AppTest:
    app = AppTest.from_file(PAGE, default_timeout=60)
    if token:
        app.query_params["w"] = token
    app.run()
    assert not app.exception
    return app


def token(app: AppTest) -> str:
    found = app.query_params["w"]
    return found[0] if isinstance(found, list) else found


def open_file(app: AppTest, path: Path | str) -> AppTest:
    app.button_group(key="model-family").set_value("file")
    app.run()
    app.text_input(key="network-path").set_value(str(path))
    next(button for button in app.button if button.label == "Open").click()
    app.run()
    assert not app.exception
    return app


def shown(app: AppTest) -> str:
    return " ".join(one.value for one in (*app.markdown, *app.caption, *app.info, *app.warning))


def test_a_program_opens_without_its_source(written: Path) -> None:
    app = visit()
    app.button_group(key="model-family").set_value("file")
    app.run()
    app.file_uploader(key="network-file").set_value(
        ("tiny.pt2", (written / "tiny.pt2").read_bytes(), "application/zip")
    )
    next(button for button in app.button if button.label == "Open").click()
    app.run()
    assert not app.exception and not app.error
    assert "### tiny" in shown(app) and "Weights from tiny.pt2" in shown(app)
    table = app.dataframe[-1].value.set_index("Layer")
    assert list(table["Channels out"]) == [6, 4, 3] and table.loc["first", "May leave"] == "yes"
    assert str(written) not in shown(app) and token(app) not in shown(app)
    again = visit(token(app))
    assert "### tiny" in shown(again) and again.button_group(key="model-family").value == "file"
    assert "tiny.pt2 is open. Leave both empty to keep it" in shown(again)
    again.selectbox(key="data-source").set_value("random")
    open_file(again, "")  # the same network, with other images
    assert not again.error and "### tiny" in shown(again)


def test_an_onnx_file_that_converts_opens_and_shows_what_is_in_it(written: Path) -> None:
    app = open_file(visit(), written / "tiny.onnx")
    assert not app.error and not app.warning
    assert "### tiny" in shown(app) and "opset 18" in shown(app)
    inside, layers = app.dataframe[0].value, app.dataframe[-1].value.set_index("Layer")
    assert list(inside["Operator"]) == ["Conv", "Conv", "Gemm"] and list(inside["Layer"]) == ["first", "second", "head"]
    assert list(inside["MACs"]) == list(layers["MACs"]) and list(inside["Parameters"]) == list(layers["Parameters"])
    assert layers.loc["second", "May leave"] == "yes"


def test_an_onnx_file_that_does_not_convert_is_looked_at_and_says_why(written: Path) -> None:
    app = open_file(visit(), written / "sine.onnx")
    assert not app.error and len(app.warning) == 1
    assert "sine.onnx uses Sin, which has no counterpart here" in app.warning[0].value
    assert "digits-vgg" in shown(app) and "Operators: Sin 1" in shown(app)
    again = visit(token(app))
    assert "sine.onnx uses Sin" in again.warning[0].value
    next(button for button in again.button if button.label == "Close").click()
    again.run()
    assert not again.warning and "Operators: Sin" not in shown(again)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cut.pt2", "cut.pt2 is damaged"),
        ("", "Expected a network file; found none"),
        ("nowhere.onnx", "There is no network file"),
        (__file__, "Expected a file ending in .pt2, .onnx; found 'test_model_files.py'"),
    ],
)
def test_what_is_wrong_is_told_and_what_was_open_stays(written: Path, name: str, words: str) -> None:
    app = open_file(visit(), written / name if name else "")
    assert len(app.error) == 1 and words in app.error[0].value and "Traceback" not in app.error[0].value
    assert "digits-vgg" in shown(app)


def test_only_a_persons_own_uploads_are_looked_into(written: Path) -> None:
    """A project file of a stranger may name any file of the server."""
    from dataclasses import replace

    from core.keep.workspace import Workspace, new_token

    hostile = replace(Workspace(new_token(), "demo/digits-vgg"), choices={"network_file": str(written / "sine.onnx")})
    open_store().save_workspace(hostile.token, hostile.to_json(), 0)
    app = visit(hostile.token)
    assert not app.warning and not list(written.glob("*.json"))
