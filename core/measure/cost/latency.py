"""The time of one forward pass, measured here and now."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.errors import Cancelled, MeasureError
from core.measure.cost.memory import keeping_memory
from core.measure.cost.ways import DTYPES, first_line, prepare_run
from core.records import Latency
from core.registry import unknown_name
from core.trace.copies import copy_with
from core.trace.modes import evaluating, thread_count

ENOUGH = 5  # repeats that are made even when they take longer than max_seconds


def measure_latency(
    module: nn.Module,
    example: Tensor,
    *,
    batch: int = 1,
    threads: int | None = None,
    warmup: int = 3,
    repeats: int = 30,
    min_seconds: float = 0.05,
    max_seconds: float = 20.0,
    way: str = "eager",
    dtype: str | None = None,
    device: str | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Latency:
    """Time of one forward pass of ``batch`` images: median and quartiles, in milliseconds.

    example: 1 x C x H x W (its values are repeated). threads: CPU threads, None = as set. At least ``repeats`` passes
    and ``min_seconds`` of them; past ``max_seconds`` five are enough. way: "eager" (as it stands), "compiled"
    (torch.compile) or "onnx" (ONNX Runtime); making it ready is no part of the time. dtype ("float32", "bfloat16",
    "float16", "float64") and device ("cpu", "cuda", "cuda:1"): of a copy that is timed instead; None = the network's
    own. Freed memory stays with the process meanwhile. The module, its modes and the thread count come back as they
    were. Raises MeasureError when the network does not take the input, or the way, number type or device is not to be
    had here; Cancelled when asked to stop.
    """
    return measure_together(
        [module], example, batch=batch, threads=threads, warmup=warmup, repeats=repeats, min_seconds=min_seconds,
        max_seconds=max_seconds, way=way, dtype=dtype, device=device, cancelled=cancelled,
    )[0]  # fmt: skip


def measure_together(
    modules: Sequence[nn.Module],
    example: Tensor,
    *,
    batch: int = 1,
    threads: int | None = None,
    warmup: int = 3,
    repeats: int = 30,
    min_seconds: float = 0.05,
    max_seconds: float = 60.0,
    way: str = "eager",
    dtype: str | None = None,
    device: str | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> list[Latency]:
    """``measure_latency`` of several networks in turns, so that a slower moment of the machine hits all alike.

    Arguments and errors as there; repeats and seconds count rounds of all networks.
    """
    if batch < 1 or repeats < 1 or (threads is not None and threads < 1):
        raise MeasureError(
            f"Latency: expected batch, repeats and threads of 1 or more; found {batch}, {repeats}, {threads}."
        )
    wanted = _wanted(dtype, device)
    if not modules:
        return []
    if wanted:
        modules = [_moved(module, **wanted) for module in modules]
    reference = next((p for p in modules[0].parameters()), example.to(**wanted))
    image = example[:1].detach().to(reference.device, reference.dtype)
    image = image.repeat(batch, *[1] * (image.dim() - 1))
    with evaluating(*modules), thread_count(threads) as used, keeping_memory():
        calls = []
        for module in modules:
            _stop(cancelled)
            check_runs(module, image)
            calls.append(prepare_run(module, image, way))
        for _ in range(warmup - 1):
            for call in calls:
                _stop(cancelled)
                call()
        samples = time_rounds(calls, repeats, min_seconds, max_seconds, cancelled)
    about = (batch, used, device_name(reference.device), way, str(reference.dtype).removeprefix("torch."))
    return [_summary(row, *about) for row in samples]


def _wanted(dtype: str | None, device: str | None) -> dict[str, Any]:
    """Arguments for ``Tensor.to``; only what was asked for."""
    wanted: dict[str, Any] = {}
    if dtype is not None:
        if dtype not in DTYPES:
            raise unknown_name("number type", dtype, list(DTYPES), MeasureError)
        wanted["dtype"] = DTYPES[dtype]
    if device is not None:
        try:
            found = torch.device(device)
        except RuntimeError as error:
            raise MeasureError(f"There is no device called {device!r}. Expected cpu, cuda or cuda:1.") from error
        if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise MeasureError(f"PyTorch sees {count} CUDA devices here, so {device} cannot be timed. Choose cpu.")
        if found.type not in {"cpu", "cuda"}:
            raise MeasureError(f"Latency is timed on cpu or cuda; found the device {device!r}.")
        wanted["device"] = found
    return wanted


def _moved(module: nn.Module, **wanted: Any) -> nn.Module:
    """A copy on another device or with other numbers; whole numbers stay what they are."""

    def moved(tensor: Tensor) -> Tensor:
        there = wanted if tensor.is_floating_point() else {k: v for k, v in wanted.items() if k == "device"}
        return tensor.detach().to(**there, copy=True) if there else tensor.detach().clone()

    return copy_with(module, lambda _, tensor: moved(tensor), moved)


def time_rounds(
    calls: Sequence[Callable[[], object]],
    repeats: int,
    min_seconds: float = 0.0,
    max_seconds: float = float("inf"),
    cancelled: Callable[[], bool] | None = None,
) -> list[list[float]]:
    """Milliseconds of each call in each round; all calls take their turn in every round."""
    samples: list[list[float]] = [[] for _ in calls]
    begin = time.perf_counter()
    rounds = 0
    while True:
        spent = time.perf_counter() - begin
        if (rounds >= repeats and spent >= min_seconds) or (spent >= max_seconds and rounds >= min(ENOUGH, repeats)):
            return samples
        for call, row in zip(calls, samples, strict=True):
            _stop(cancelled)
            start = time.perf_counter()
            call()
            row.append(1e3 * (time.perf_counter() - start))
        rounds += 1


def check_runs(module: nn.Module, image: Tensor) -> None:
    """One forward pass. Raises MeasureError when the network does not take ``image``."""
    try:
        module(image)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        size = " x ".join(str(length) for length in image.shape)
        kind = str(image.dtype).removeprefix("torch.")
        remedy = "Check the input size." if kind == "float32" else "Check the input size, or choose float32."
        raise MeasureError(
            f"The network does not run on an input of {size} ({kind}): {first_line(error)} {remedy}"
        ) from error


def _stop(cancelled: Callable[[], bool] | None) -> None:
    if cancelled is not None and cancelled():
        raise Cancelled("Measuring latency was cancelled.")


def _summary(samples: list[float], batch: int, threads: int, device: str, way: str, dtype: str) -> Latency:
    low, median, high = np.percentile(samples, [25, 50, 75]).tolist()
    return Latency(median, low, high, len(samples), batch, threads, device, way=way, dtype=dtype)


def machine_identity() -> str:
    """What times belong to, beside network, batch and threads: host, processor or accelerator, cores, and PyTorch.

    Tables are stored under it, so another machine, or this one with another PyTorch, measures its own.
    """
    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    names = dict.fromkeys((device_name(torch.device("cpu")), device_name(device)))
    facts = [platform.node(), platform.machine(), *names, os.cpu_count(), torch.__version__]
    return " | ".join(map(str, facts))


@cache
def device_name(device: torch.device) -> str:
    """What the times belong to, in words: the processor's or accelerator's own name."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(errors="replace").splitlines() if listing.is_file() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine() or "cpu"
