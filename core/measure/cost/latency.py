"""The time of one forward pass, measured here and now."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from core.errors import Cancelled, MeasureError
from core.records import Latency
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
    cancelled: Callable[[], bool] | None = None,
) -> Latency:
    """Time of one forward pass of ``batch`` images: median and quartiles, in milliseconds.

    example: 1 x C x H x W (its values are repeated). threads: CPU threads, None = as set. At least ``repeats`` passes
    and ``min_seconds`` of them; past ``max_seconds`` five are enough. The module's modes and the thread count come back
    as they were. Raises MeasureError when the network does not take the input, Cancelled when asked to stop.
    """
    return measure_together(
        [module], example, batch=batch, threads=threads, warmup=warmup, repeats=repeats,
        min_seconds=min_seconds, max_seconds=max_seconds, cancelled=cancelled,
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
    cancelled: Callable[[], bool] | None = None,
) -> list[Latency]:
    """``measure_latency`` of several networks in turns, so that a slower moment of the machine hits all alike.

    Arguments and errors as there; repeats and seconds count rounds of all networks.
    """
    if batch < 1 or repeats < 1 or (threads is not None and threads < 1):
        raise MeasureError(
            f"Latency: expected batch, repeats and threads of 1 or more; found {batch}, {repeats}, {threads}."
        )
    if not modules:
        return []
    reference = next(iter(modules[0].parameters()), example)
    image = example[:1].detach().to(reference.device, reference.dtype)
    image = image.repeat(batch, *[1] * (image.dim() - 1))
    with evaluating(*modules), thread_count(threads) as used:
        calls = [_call(module, image) for module in modules]
        for _ in range(max(1, warmup)):
            for call in calls:
                _stop(cancelled)
                _checked(call, image)
        samples = time_rounds(calls, repeats, min_seconds, max_seconds, cancelled)
    device = device_name(reference.device)
    return [_summary(row, batch, used, device) for row in samples]


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


def _call(module: nn.Module, image: Tensor) -> Callable[[], object]:
    if image.device.type != "cuda":
        return lambda: module(image)

    def run() -> None:
        module(image)
        torch.cuda.synchronize(image.device)

    return run


def _checked(call: Callable[[], object], image: Tensor) -> None:
    try:
        call()
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        size = " x ".join(str(length) for length in image.shape)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MeasureError(f"The network does not run on an input of {size}: {reason} Check the input size.") from error


def _stop(cancelled: Callable[[], bool] | None) -> None:
    if cancelled is not None and cancelled():
        raise Cancelled("Measuring latency was cancelled.")


def _summary(samples: list[float], batch: int, threads: int, device: str) -> Latency:
    low, median, high = np.percentile(samples, [25, 50, 75]).tolist()
    return Latency(median, low, high, len(samples), batch, threads, device)


@cache
def device_name(device: torch.device) -> str:
    """What the times belong to, in words: the processor's or accelerator's own name."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(errors="replace").splitlines() if listing.is_file() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine() or "cpu"
