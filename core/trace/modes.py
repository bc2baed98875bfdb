"""What a measurement switches on, and switches off again also when it fails: eval mode and the number of threads."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

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


@contextmanager
def one_thread() -> Iterator[None]:
    """This thread's own work on one CPU thread, for a while in which others need the cores: threads that PyTorch splits
    a call among wait for their next part in busy loops. What later threads start with stays as it was."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    leave_to_others(before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def leave_to_others(threads: int) -> None:
    """Threads of the program that start from now on have ``threads`` CPU threads, whatever this one has: PyTorch hands
    on what was set last, by any of them."""
    other = Thread(target=torch.set_num_threads, args=(threads,))
    other.start()
    other.join()
