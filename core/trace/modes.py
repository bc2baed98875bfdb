"""What a measurement switches on, and switches off again also when it fails: eval mode and the number of threads."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Every module in eval mode without gradients; each layer's own mode comes back after."""
    modes = [(layer, layer.training) for module in modules for layer in module.modules()]
    for module in modules:
        module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for layer, training in modes:
            layer.training = training


@contextmanager
def collecting_later() -> Iterator[None]:
    """No garbage collection inside: copies of a network are many objects at once and none of them garbage, but each
    few hundred would set off a search through all that the program holds."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def thread_count(threads: int | None) -> Iterator[int]:
    """PyTorch on ``threads`` CPU threads (None = as set); gives the number in use, the former one comes back."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
