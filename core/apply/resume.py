"""A training run on disk: what is needed to go on as if it had never stopped. A .safetensors file, written whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from core.apply.course import Course, EpochLog
from core.apply.training import Trainer
from core.errors import TrainError
from core.records import ImageData, fingerprint_state
from core.trace.copies import named_state

NETWORK, OPTIMISER, EXTRA = "network.", "optimiser.", "extra."


def identify_run(module: nn.Module, data: ImageData, course: Course, **more: Any) -> dict[str, Any]:
    """What a run starts from. A stored run goes on only where all of it is the same."""
    return {
        "network": fingerprint_state(named_state(module)),
        "images": data.fingerprint,
        "course": asdict(course),
        **json.loads(json.dumps(more)),
    }


def save_run(
    trainer: Trainer, path: Path, identity: Mapping[str, Any], extra: Mapping[str, Tensor] | None = None
) -> None:
    """Write network, optimiser and logs as they stand between two epochs; ``extra``: tensors of the caller's own."""
    tensors = {f"{NETWORK}{name}": tensor for name, tensor in named_state(trainer.module).items()}
    for index, parameter in enumerate(trainer.parameters):
        for key, value in trainer.optimiser.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{OPTIMISER}{index}.{key}"] = value
    tensors.update({f"{EXTRA}{name}": tensor for name, tensor in (extra or {}).items()})
    told = {
        "identity": identity,
        "logs": [asdict(log) for log in trainer.logs],
        "elapsed": trainer.elapsed,
        "scaler": trainer.scaler.state_dict(),
    }
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    path = Path(path)
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(plain, partial, {"prunescope.run": json.dumps(told)})
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise TrainError(
            f"The training run cannot be stored in {path.name}: {error.strerror or error}. Choose a folder that can be "
            "written."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def read_extra(path: Path, identity: Mapping[str, Any]) -> dict[str, Tensor]:
    """The ``extra`` tensors of the one who stored a run.

    Raises TrainError when the file is no such run, or one of another network, other images or another course.
    """
    _, tensors = _checked(Path(path), identity)
    return _extra(tensors)


def load_run(trainer: Trainer, path: Path, identity: Mapping[str, Any]) -> dict[str, Tensor]:
    """Put a stored run's state into ``trainer``; returns and raises as ``read_extra``."""
    told, tensors = _checked(Path(path), identity)
    state = named_state(trainer.module)
    with torch.inference_mode(False), torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(tensors[f"{NETWORK}{name}"])
        for index, parameter in enumerate(trainer.parameters):
            start = f"{OPTIMISER}{index}."
            for name, value in tensors.items():
                if name.startswith(start):
                    trainer.optimiser.state[parameter][name.removeprefix(start)] = _like(value, parameter)
    trainer.logs = [EpochLog(**log) for log in told["logs"]]
    trainer.elapsed = float(told["elapsed"])
    if told["scaler"]:
        trainer.scaler.load_state_dict(told["scaler"])
    return _extra(tensors)


def _extra(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(EXTRA): value for name, value in tensors.items() if name.startswith(EXTRA)}


def _checked(path: Path, identity: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    told, tensors = _read(path)
    found, wanted = told["identity"], json.loads(json.dumps(dict(identity)))
    for part in wanted:
        if found.get(part) != wanted[part]:
            raise TrainError(
                f"{path.name} holds a run with another {part} ({_differences(found.get(part), wanted[part])}). "
                "Start anew with resume=False or another checkpoint file."
            )
    return told, tensors


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """``value`` laid out as the optimiser had it; its count of steps stays on the CPU."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value.clone()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {})["prunescope.run"])
            return told, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise TrainError(
            f"Expected a stored training run in {path.name}; it cannot be read as one. Delete it, or start anew with "
            "resume=False."
        ) from error


def _differences(found: Any, wanted: Any) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        return ", ".join(f"{key}: {found.get(key)} there, {wanted[key]} here" for key in wanted
                         if found.get(key) != wanted[key])  # fmt: skip
    return f"{found} there, {wanted} here"
