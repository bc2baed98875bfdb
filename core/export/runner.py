"""The fresh process behind ``verify_export``: load files as their users would, and write down what they compute.

Run as ``python -I runner.py WORK``. It knows nothing of Prunescope: imports of it are refused, so a file that needs it
fails here. WORK/jobs.json names the folder and the files; the outputs go to WORK/<n>.safetensors and WORK/<n>.json.
The one job that needs the engine (the recipe, which cuts the dense network again) runs in a process of its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

APP = ("core", "pages", "prunescope", "streamlit")
REPEATS, SECONDS = 30, 0.6  # of timing one image, whichever ends first
Run = Callable[[Any], Any]


class NoApp:
    """Makes this program's own packages impossible to import."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in APP:
            raise ModuleNotFoundError(f"{name} is not needed to load this file, and is not there in this check")


def from_python(folder: Path, file: str) -> Run:
    declare_torchvision()
    spec = importlib.util.spec_from_file_location("exported_model", folder / file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["exported_model"] = module
    spec.loader.exec_module(module)
    network: Run = module.load()
    return network


def from_program(folder: Path, file: str) -> Run:
    import torch

    network: Run = torch.export.load(folder / file).module()
    return network


def from_torchscript(folder: Path, file: str) -> Run:
    import torch

    network: Run = torch.jit.load(folder / file)
    return network


def from_onnx(folder: Path, file: str) -> Run:
    import onnx
    import onnxruntime
    import torch

    onnx.checker.check_model(str(folder / file))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(folder / file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


def from_recipe(folder: Path, file: str) -> Run:
    from core.export.checkpoint import load_exported

    return load_exported(folder)


LOADERS: dict[str, Callable[[Path, str], Run]] = {
    "checkpoint": from_recipe,
    "python": from_python,
    "python_class": from_python,
    "exported_program": from_program,
    "torchscript": from_torchscript,
    "onnx": from_onnx,
}


def declare_torchvision() -> None:
    """A torchvision wheel beside a CPU-only torch fails to import for want of two operators, which no classifier
    calls."""
    import torch

    for name, rest in (("nms", "float iou_threshold"), ("qnms", "float iou_threshold")):
        with contextlib.suppress(RuntimeError):  # it has them
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{name}(Tensor dets, Tensor scores, {rest}) -> Tensor")
            sys.modules.setdefault(f"_keep_{name}", library)  # type: ignore[arg-type]


def run_job(folder: Path, job: dict[str, Any], images: Any, work: Path) -> None:
    """Outputs of one file for each batch (the first of one image), its time for one image, or why it failed."""
    import safetensors.torch
    import torch
    from torch.utils._pytree import tree_flatten

    number = job["number"]
    told: dict[str, Any] = {}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # a file's own business; what counts is what it computes
            network = LOADERS[job["format"]](folder, job["file"])
            one = images[:1].contiguous()
            found = []
            for batch in [one, *images.split(job["batch"])]:
                leaves = tree_flatten(network(batch.contiguous()))[0]
                found.append(next(leaf for leaf in leaves if isinstance(leaf, torch.Tensor)).detach().clone())
            told["latency_ms"] = time_one(network, one)
        outputs = torch.cat(found).float().contiguous()
        safetensors.torch.save_file({"outputs": outputs}, work / f"{number}.safetensors")
    except Exception as error:  # runtimes raise whatever their many parts raise; a report is owed for every file
        lines = str(error).strip().splitlines() or [type(error).__name__]
        told["error"] = f"{type(error).__name__}: {lines[0][:240]}"
    (work / f"{number}.json").write_text(json.dumps(told), encoding="utf-8")


def time_one(network: Run, one: Any) -> float:
    """Median milliseconds for one image."""
    times: list[float] = []
    network(one)
    until = time.perf_counter() + SECONDS
    while len(times) < REPEATS and (len(times) < 3 or time.perf_counter() < until):
        start = time.perf_counter()
        network(one)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2] * 1e3


def main(work: Path) -> int:
    asked = json.loads((work / "jobs.json").read_text(encoding="utf-8"))
    if not asked["engine"]:
        sys.meta_path.insert(0, NoApp())
    import safetensors.torch
    import torch

    torch.set_num_threads(asked["threads"])
    folder = Path(asked["folder"])
    images = safetensors.torch.load_file(folder / asked["reference"])["images"]
    for job in asked["jobs"]:
        if not (work / f"{job['number']}.json").exists():
            (work / "begun.json").write_text(json.dumps(job["number"]), encoding="utf-8")
            run_job(folder, job, images, work)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
