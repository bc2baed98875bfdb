"""What a criterion is, and the table of all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from core.errors import Cancelled
from core.records import Group, ImageData, Trace
from core.registry import Registry

Progress = Callable[..., None]
Stop = Callable[[], bool]


@dataclass(frozen=True)
class Request:
    """One scoring job. ``data``: None for criteria that look at weights only."""

    trace: Trace
    data: ImageData | None
    seed: int
    batch_size: int
    options: Mapping[str, Any]
    on_progress: Progress | None = None
    cancelled: Stop | None = None

    def report(self, fraction: float, message: str) -> None:
        if self.on_progress is not None:
            self.on_progress(fraction, message)

    def check(self) -> None:
        """Raises Cancelled when the caller wants no more."""
        if self.cancelled is not None and self.cancelled():
            raise Cancelled("Scoring was cancelled; no scores were kept.")

    def numbers(self, name: str) -> torch.Generator:
        """Random numbers of its own for ``name`` (a group id), the same for the same seed; the global state stays."""
        digest = hashlib.sha256(f"{self.seed}|{name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@dataclass(frozen=True)
class Criterion:
    """score: a Request in, group id -> float64 scores (units,) out, higher = keep. options: name -> default. passes:
    about how many forward passes of the network it costs per image, with its usual options."""

    score: Callable[[Request], dict[str, Tensor]]
    needs_images: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    passes: float = 1.0


CRITERIA: Registry[Criterion] = Registry("importance criterion")


def add_by_unit(units: int, unit_of: Tensor, values: Tensor) -> Tensor:
    """Sum of ``values`` (..., positions) over the positions of each unit: float64, (..., units)."""
    here = unit_of >= 0
    total = torch.zeros((*values.shape[:-1], units), dtype=torch.float64)
    return total.index_add_(-1, unit_of[here], values[..., here].double().cpu())


def chunks(groups: Sequence[Group], size: Callable[[Group], int], most: int) -> Iterator[list[Group]]:
    """Groups in order, cut so that their sizes add up to at most ``most``; a larger one stands alone."""
    chunk: list[Group] = []
    used = 0
    for group in groups:
        if chunk and used + size(group) > most:
            yield chunk
            chunk, used = [], 0
        chunk.append(group)
        used += size(group)
    if chunk:
        yield chunk
