"""Corrupt, truncated, foreign and hostile files: one clear sentence each, nothing executed, nothing lost."""

from __future__ import annotations

import copy
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from core.errors import CoreError
from core.export.exported_program import write_exported_program
from core.export.source import Source
from core.load import inspect_onnx, load_model, read_state_dict

MARK = "mark-that-nobody-should-make"


class Attack:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path(MARK),)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The entries of a sound .pt2 file, by their path below its own folder."""
    path = tmp_path_factory.mktemp("good") / "good.pt2"
    write_exported_program(Source(Tiny().eval(), torch.randn(1, 1, 8, 8), {}), path)
    with zipfile.ZipFile(path) as archive:
        return {info.filename.partition("/")[2]: archive.read(info) for info in archive.infolist()}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pack(path: Path, entries: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in entries.items():
            archive.writestr(f"net/{name}", content)


def refused(path: Path) -> str:
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(CoreError) as caught:
        load_model(str(path))
    message = str(caught.value)
    assert path.name in message and "\n" not in message and "Traceback" not in message and len(message) < 500
    assert not Path(MARK).exists()
    assert before is None or path.read_bytes() == before
    return message


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def scripted() -> bytes:
    file = io.BytesIO()
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(Tiny().eval(), torch.zeros(1, 1, 8, 8)), file)
    return file.getvalue()


FOREIGN: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"this is no network\n" * 40,
    "zeros": lambda: bytes(4096),
    "html": lambda: b"<!DOCTYPE html><html>404</html>",
    "zip signature alone": lambda: b"PK\x03\x04",
    "a pickle": lambda: pickle.dumps(Attack()),
    "saved weights": lambda: saved({"conv.weight": torch.ones(1)}),
    "a saved attack": lambda: saved({"conv.weight": Attack()}),
    "TorchScript": scripted,
}


@pytest.mark.filterwarnings("ignore:.*jit.*:DeprecationWarning")
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"foreign{suffix}"
    path.write_bytes(FOREIGN[kind]())
    refused(path)


Change = Callable[[dict[str, Any]], None]


def node(graph: dict[str, Any], place: int = 0) -> dict[str, Any]:
    return graph["graph_module"]["graph"]["nodes"][place]


def retarget(target: str) -> Change:
    def change(graph: dict[str, Any]) -> None:
        node(graph)["target"] = target

    return change


def replace_arg(arg: dict[str, Any]) -> Change:
    def change(graph: dict[str, Any]) -> None:
        node(graph)["inputs"][0]["arg"] = arg

    return change


def spec(graph: dict[str, Any]) -> list[dict[str, Any]]:
    return graph["graph_module"]["signature"]["input_specs"]


def input_sizes(graph: dict[str, Any]) -> list[dict[str, Any]]:
    return graph["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]


GRAPHS: dict[str, tuple[Change, str]] = {
    "runs a shell": (retarget("torch.os.system"), "not among the operators"),
    "evaluates": (retarget("builtins.eval"), "not among the operators"),
    "reads a file": (retarget("torch.ops.aten.from_file.default"), "not among the operators"),
    "loads a library": (retarget("torch.ops.load_library"), "not among the operators"),
    "reaches into Python": (retarget("_operator.attrgetter"), "not among the operators"),
    "a nested graph": (replace_arg({"as_graph": {"name": "g", "graph": {}}}), "nested graph"),
    "an object": (replace_arg({"as_custom_obj": {"name": "o", "class_fqn": "evil.Class"}}), "object"),
    "reads what is not there": (replace_arg({"as_tensor": {"name": "nobody"}}), "before it is made"),
    "an object as input": (lambda g: spec(g).insert(0, {"custom_obj": {"arg": {"name": "o"}}}), "custom obj"),
    "a fixed batch": (lambda g: input_sizes(g).__setitem__(0, {"as_int": 4}), "free batch size"),
    "free height": (lambda g: input_sizes(g).__setitem__(2, {"as_expr": {"expr_str": "s"}}), "one size"),
    "huge images": (lambda g: input_sizes(g).__setitem__(2, {"as_int": 1 << 30}), "more than is opened"),
    "two inputs": (lambda g: spec(g).append(copy.deepcopy(spec(g)[-1])), "2 inputs"),
    "no output": (lambda g: g["graph_module"]["signature"].update(output_specs=[]), "gives no tensor"),
    "weights of another layer": (
        lambda g: spec(g)[0]["parameter"].update(parameter_name="head.weight"), "does not run"
    ),
    "other settings": (lambda g: node(g)["inputs"].append({"name": "s", "arg": {"as_ints": [-9] * 3}, "kind": 1}), ""),
    "no graph": (lambda g: g.pop("graph_module"), "does not make sense"),
    "nodes are text": (lambda g: g["graph_module"]["graph"].update(nodes="rm -rf"), "does not make sense"),
    "a weight that is not there": (
        lambda g: spec(g)[0]["parameter"].update(parameter_name="conv.other"), "does not make sense"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_programs_with_a_changed_graph(tmp_path: Path, good: dict[str, bytes], name: str) -> None:
    change, words = GRAPHS[name]
    graph = json.loads(good["models/model.json"])
    change(graph)
    path = tmp_path / "changed.pt2"
    pack(path, {**good, "models/model.json": json.dumps(graph).encode()})
    assert words in refused(path)


WEIGHTS, CONFIG = "data/weights/weight_0", "data/weights/model_weights_config.json"


def configured(good: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    config = json.loads(good[CONFIG])
    entry = config["config"]["conv.weight"]
    for name, value in changes.items():
        (entry["tensor_meta"] if name in entry["tensor_meta"] else entry)[name] = value
    return {**good, CONFIG: json.dumps(config).encode()}


ARCHIVES: dict[str, tuple[Callable[[dict[str, bytes]], dict[str, bytes]], str]] = {
    "no graph": (lambda g: {k: v for k, v in g.items() if k != "models/model.json"}, "no program"),
    "graph is no JSON": (lambda g: {**g, "models/model.json": b"{"}, "does not make sense"),
    "graph is a list": (lambda g: {**g, "models/model.json": b"[1, 2]"}, "does not make sense"),
    "graph is deep": (lambda g: {**g, "models/model.json": b"[" * 200_000}, "does not make sense"),
    "weights cut short": (lambda g: {**g, WEIGHTS: g[WEIGHTS][:20]}, "cut short"),
    "weights are missing": (lambda g: {k: v for k, v in g.items() if k != WEIGHTS}, "does not make sense"),
    "pickled weights": (lambda g: {**configured(g, use_pickle=True), WEIGHTS: pickle.dumps(Attack())}, "is pickled"),
    "huge sizes": (lambda g: configured(g, sizes=[{"as_int": 1 << 33}] * 4), "cut short"),
    "steps over itself": (
        lambda g: configured(g, sizes=[{"as_int": 1 << 15}] * 4, strides=[{"as_int": 0}] * 4), "describes"
    ),
    "negative sizes": (lambda g: configured(g, sizes=[{"as_int": -4}] * 4), "does not make sense"),
    "another type": (lambda g: configured(g, dtype=99), "type of numbers"),
    "compiled code": (lambda g: {"data/aotinductor/model/a.so": b"\x7fELF"}, "machine code"),
    "older format": (lambda g: {"serialized_exported_program.json": b"{}", "version": b"5.1"}, "an older PyTorch"),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_programs_in_a_changed_archive(tmp_path: Path, good: dict[str, bytes], name: str) -> None:
    change, words = ARCHIVES[name]
    path = tmp_path / "archive.pt2"
    pack(path, change(good))
    assert words in refused(path)


def test_names_that_lead_elsewhere(tmp_path: Path, good: dict[str, bytes]) -> None:
    for bad in ("../../etc/passwd", "a b", "conv.__class__", "", "x" * 400):
        config = json.loads(good[CONFIG])
        config["config"][bad] = config["config"].pop("conv.weight")
        path = tmp_path / "names.pt2"
        pack(path, {**good, CONFIG: json.dumps(config).encode()})
        assert "not a name of a tensor" in refused(path)


def test_a_truncated_and_a_bombed_archive(
    tmp_path: Path, good: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cut.pt2"
    pack(path, good)
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        refused(path)
    path.write_bytes(whole[:200] + bytes(400) + whole[600:])  # the directory is sound, what it points at is not
    refused(path)
    monkeypatch.setattr("core.load.program.archive.read_program.__kwdefaults__", {"limit_bytes": 1 << 20})
    pack(path, {**good, "data/extra": bytes(3 << 20)}, zipfile.ZIP_DEFLATED)
    assert "unpacks to" in refused(path)


def test_what_would_run_elsewhere_is_not_even_read(tmp_path: Path, good: dict[str, bytes]) -> None:
    """Parts that PyTorch's own reader unpickles or evaluates: the network opens, and nothing happens."""
    graph = json.loads(good["models/model.json"])
    evil = f"__import__('pathlib').Path({MARK!r}).touch()"
    graph["guards_code"] = [evil]
    graph["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0] = {"as_expr": {"expr_str": evil, "hint": None}}
    graph["range_constraints"] = {evil: {"min_val": 1, "max_val": None}}
    path = tmp_path / "quiet.pt2"
    attack = saved(Attack())
    more = {
        "data/sample_inputs/model.pt": attack,
        "data/constants/custom_obj_0": attack,
        "extra/evil.py": evil.encode(),
    }
    pack(path, {**good, **more, "models/model.json": json.dumps(graph).encode()})
    module = load_model(str(path)).module
    with torch.no_grad():
        assert module(torch.zeros(3, 1, 8, 8)).shape == (3, 2)
    assert not Path(MARK).exists()


def tiny_onnx(*nodes: Any, inputs: Any = None, initializers: Any = ()) -> bytes:
    images = inputs or [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 1, 8, 8])]
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph(list(nodes), "g", images, [scores], initializer=list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def outside() -> bytes:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 1, 3, 3])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../../../etc/passwd")
    return tiny_onnx(helper.make_node("Conv", ["images", "w"], ["scores"]), initializers=[weight])


def value(name: str, *sizes: Any) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(sizes))


ONNX: dict[str, tuple[Callable[[], bytes], str]] = {
    "weights in other files": (outside, "other files"),
    "an operator without counterpart": (lambda: tiny_onnx(helper.make_node("Sin", ["images"], ["scores"])), "Sin"),
    "an operator of somebody's own": (
        lambda: tiny_onnx(helper.make_node("Evil", ["images"], ["scores"], domain="evil")), "ONNX"
    ),
    "no operators": (lambda: tiny_onnx(), "no operators"),
    "reads what is not there": (lambda: tiny_onnx(helper.make_node("Relu", ["nobody"], ["scores"])), "no valid"),
    "free height": (
        lambda: tiny_onnx(helper.make_node("Relu", ["images"], ["scores"]), inputs=[value("images", "n", 1, "h", 8)]),
        "fixed size",
    ),
    "two inputs": (
        lambda: tiny_onnx(
            helper.make_node("Add", ["a", "b"], ["scores"]), inputs=[value("a", "n", 1, 8, 8), value("b", "n", 1, 8, 8)]
        ),
        "one batch of images",
    ),
    "cut short": (lambda: outside()[:-30], "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", ONNX)
def test_onnx_files(tmp_path: Path, name: str) -> None:
    make, words = ONNX[name]
    path = tmp_path / "net.onnx"
    path.write_bytes(make())
    message = refused(path)
    assert words in message
    if "counterpart" in name or "height" in name or "two" in name:  # it can still be looked into
        assert "can be inspected" in message
        assert inspect_onnx(path).operators
    assert onnx.__version__


def long_header() -> bytes:
    return struct.pack("<Q", 1 << 60) + b"{}"


def overlapping() -> bytes:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    header = json.dumps({"a": entry, "b": {**entry, "data_offsets": [8, 24]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(24)


@pytest.mark.parametrize("content", [long_header, overlapping, lambda: b"\xff" * 64], ids=["long", "overlap", "noise"])
def test_safetensors_files(tmp_path: Path, content: Callable[[], bytes]) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content())
    with pytest.raises(CoreError, match=r"weights\.safetensors"):
        read_state_dict(path)


@pytest.mark.parametrize("suffix", [".pt2", ".onnx", ".safetensors", ".txt", ""])
def test_paths_that_are_no_file(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    with pytest.raises(CoreError):
        load_model(str(folder))
    with pytest.raises(CoreError, match="no file there"):
        load_model(str(tmp_path / f"nothing{suffix}"))
