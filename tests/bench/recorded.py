"""Scans whose answers come from one run over all images: the order of a scan's work can be judged for many seeds at the
price of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from core.measure.forks import Fork, ForkEngine
from core.measure.scan import scanner
from core.records import ImageData, Trace

Name = tuple[str, int]  # group, units kept


class Recorded:
    """The class scores of every fork, and of the dense network, on every image."""

    def __init__(self, trace: Trace, data: ImageData, forks: Sequence[Fork], batch: int) -> None:
        engine = ForkEngine(trace, forks, narrow=True)
        parts: dict[Name | None, list[Tensor]] = {}
        for indices in torch.arange(len(data)).split(batch):
            for fork, scores in engine.outputs(data.images[indices], lambda: False):
                parts.setdefault(_name(fork), []).append(scores.clone())
        self.scores = {name: torch.cat(rows) for name, rows in parts.items()}
        self.macs = {_name(fork): macs for fork, macs in engine.macs(data.images[:batch]).items()}

    @contextmanager
    def handed_out(self) -> Iterator[None]:
        """Scans made inside take their answers from here."""
        engine, batches = scanner.ForkEngine, scanner.batches
        asked: list[Tensor] = []

        class Engine:
            replayed = True

            def __init__(self, _: Trace, forks: Sequence[Fork], *__: Any, **___: Any) -> None:
                self.forks = forks

            def macs(self, _: Tensor) -> Mapping[Fork, float]:
                return {fork: recorded.macs[_name(fork)] for fork in self.forks}

            def outputs(
                self, _: Tensor, stop: Callable[[], bool], forks: Sequence[Fork], __: int
            ) -> Iterator[tuple[Fork | None, Tensor]]:
                for fork in (*forks, None):
                    if fork is None or not stop():
                        yield fork, recorded.scores[_name(fork)][asked[-1]]

        def noting(data: ImageData, order: Tensor, *rest: Any) -> Iterator[tuple[Tensor, Tensor]]:
            asked.append(order)
            return batches(data, order, *rest)

        recorded = self
        scanner.ForkEngine, scanner.batches = Engine, noting  # type: ignore[assignment, misc]
        try:
            yield
        finally:
            scanner.ForkEngine, scanner.batches = engine, batches  # type: ignore[misc]


def _name(fork: Fork | None) -> Name | None:
    return None if fork is None else (fork.group.id, len(fork.kept))
