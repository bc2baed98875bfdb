"""What is being exported, with what several formats need made once."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.load.program import ProgramNetwork, build_network, read_program
from core.load.program.steps import Sized
from core.records import LoadedModel, Plan, Trace

CLEANED = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node")


@dataclass(frozen=True)
class Source:
    """The pruned ``module`` on the CPU in eval mode, one ``example`` input, and how it came about. ``loaded`` and
    ``trace``: the dense network, when known."""

    module: nn.Module
    example: Tensor
    recipe: Mapping[str, Any]
    plan: Plan = field(default_factory=lambda: Plan({}))
    loaded: LoadedModel | None = None
    trace: Trace | None = None

    @cached_property
    def program(self) -> Any:
        """The network as a torch.export program with a free batch size. It names no file of this machine, and carries
        no example images."""
        return export_program(self.module, self.example)

    @cached_property
    def network(self) -> ProgramNetwork:
        """The same program with its layers recognised, as it is opened from a .pt2 file."""
        if isinstance(self.module, ProgramNetwork) and all(_of_torch(layer) for layer in self.module.modules()):
            return self.module
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.pt2"
            save_program(self.program, path)
            return build_network(read_program(path))


def _of_torch(layer: nn.Module) -> bool:
    """Whether a layer is of PyTorch's own classes, or one that a program is made of: no layer that gathers."""
    return type(layer).__module__.startswith("torch.nn.") or type(layer) in (ProgramNetwork, Sized)


def export_program(module: nn.Module, example: Tensor) -> Any:
    """``module`` in eval mode as a torch.export program with a free batch size."""
    sample = torch.cat([example, example])  # a batch of 1 would be taken for a constant
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about internals of the exporter, nothing a caller could act on
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(copy.deepcopy(module).eval(), (sample,), dynamic_shapes=({0: batch},))
    for node in program.graph.nodes:
        for key in CLEANED:
            node.meta.pop(key, None)
    return program


def save_program(program: Any, path: Path) -> None:
    """Write a program without its example inputs. ``path`` ends in .pt2, as torch.export.save insists."""
    kept = program._example_inputs
    try:
        program._example_inputs = None
        torch.export.save(program, path)
    finally:
        program._example_inputs = kept
