"""What the base had made where forks left it, for batches that come again in a later round."""

from __future__ import annotations

from torch import Tensor

from core.measure.scan.program import Env

ROOM = 256 << 20  # bytes, of all batches together


class Waypoints:
    """``places``: how many batches there are; each has its share of the room. What does not fit is walked again: the
    beginning of a network, where a step made again costs as much as elsewhere and what it made is largest."""

    def __init__(self, places: int) -> None:
        self.share = ROOM // max(1, places)
        self.logits: dict[int, Tensor] = {}
        self.silent: dict[int, dict[str, frozenset[int]]] = {}
        self._made: dict[int, dict[int, Env]] = {}

    def last(self, place: int, index: int) -> tuple[int, Env]:
        """The last known point at or before step ``index``, with what had been made by then; (0, nothing) if none."""
        made = self._made.get(place, {})
        at = max((known for known in made if known <= index), default=0)
        return at, made.get(at, {})

    def keep(self, place: int, index: int, made: Env) -> None:
        """``made``: all that later steps may read, without weights. It must not be written to any more."""
        known = self._made.setdefault(place, {})
        known[index] = made
        while known and _bytes(known) > self.share:
            del known[min(known)]


def _bytes(known: dict[int, Env]) -> int:
    tensors = {id(tensor): tensor for made in known.values() for tensor in made.values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
