"""Iterative pruning on disk: what is needed to go on after a removal as if the run had never stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from core.apply.resume import load_run, read_extra, save_run
from core.trace.copies import copy_with, named_state

if TYPE_CHECKING:
    from core.apply.iterative import IterativeRun

STORY, WHOLE, MEMORY = "story", "whole.", "memory."


def save_iterative(run: IterativeRun, path: Path, identity: Mapping[str, Any]) -> None:
    """Write the run as it stands after a removal. Raises TrainError where nothing can be written."""
    story = {"kept": run.kept, "curve": [asdict(point) for point in run.curve], "looked_at": run.looked_at}
    extra: dict[str, Tensor] = {STORY: torch.tensor(list(json.dumps(story).encode()), dtype=torch.uint8)}
    extra |= {f"{WHOLE}{name}": tensor for name, tensor in named_state(run.whole).items()}
    for key, net in run.memory.items():
        extra |= {f"{MEMORY}{key}.{name}": tensor for name, tensor in named_state(net).items()}
    save_run(run.trainer, path, identity, extra)


def take_up_iterative(run: IterativeRun, path: Path, identity: Mapping[str, Any]) -> None:
    """Put a stored run's state into ``run``. Raises TrainError when the file is no such run, or another one."""
    extra = read_extra(path, identity)
    story = json.loads(bytes(extra[STORY].tolist()).decode())
    keys = {name.removeprefix(MEMORY).split(".")[0] for name in extra if name.startswith(MEMORY)}
    run.memory = {key: _filled(run.whole, extra, f"{MEMORY}{key}.") for key in sorted(keys)}
    run.whole = _filled(run.whole, extra, WHOLE)
    run.restore(story["kept"], story["curve"], story["looked_at"])
    load_run(run.trainer, path, identity)


def _filled(net: nn.Module, values: Mapping[str, Tensor], prefix: str) -> nn.Module:
    """A copy of ``net`` with these values."""
    return copy_with(net, lambda name, tensor: values[f"{prefix}{name}"].to(tensor))
