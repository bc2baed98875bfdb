"""A network run step by step over all calibration images at once, so that later steps see what was changed before."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.errors import PruneError
from core.records import ImageData
from core.trace.graph import Ref, Step, record_tape
from core.trace.replay import Replay

MEMORY_BYTES = 1 << 30  # activations that may be alive at once, per network
SEED = 0


class Walk:
    """One network on many images. ``edits``: state entries that replace the module's own from now on."""

    def __init__(self, module: nn.Module, example: Tensor, batches: Sequence[Tensor]) -> None:
        batch = len(batches[0])  # a tape holds for one batch size
        self.replay = Replay(record_tape(module, example[:1].repeat(batch, *[1] * (example.dim() - 1))), module)
        self.steps = self.replay.steps
        self.edits: dict[str, Tensor] = {}
        self.envs: list[dict[int, Tensor]] = [{self.replay.tape.input: images} for images in batches]

    def values(self, slot: int) -> list[Tensor]:
        """The tensor in ``slot``, per batch. Read it before the last step that uses it has run."""
        return [self.replay.value(slot, env, self.edits) for env in self.envs]

    def run(self, index: int) -> None:
        for env in self.envs:
            self.replay.run_step(index, env, self.edits)

    def state(self, name: str) -> Tensor:
        return self.edits.get(name, self.replay.state[name])

    def name(self, value: object) -> str | None:
        """State name behind an argument of a step; through a transposed view of a weight."""
        if not isinstance(value, Ref):
            return None
        tape = self.replay.tape
        found = tape.state.get(value.slot)
        if found is None:
            maker = next((step for step in self.steps if value.slot in step.outputs and step.name == "t"), None)
            found = tape.state.get(maker.reads[0]) if maker is not None else None
        return found

    def readers(self, slot: int) -> list[Step]:
        return [step for step in self.steps if slot in step.reads]

    def finish(self, module: nn.Module) -> nn.Module:
        """``module`` with the edits written into it."""
        state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        with torch.no_grad():
            for name, value in self.edits.items():
                state[name].copy_(value)
        return module


def calibration_batches(
    module: nn.Module, example: Tensor, data: ImageData, images: int, batch_size: int
) -> list[Tensor]:
    """At most ``images`` random images (always the same) in batches of one size, on the module's device.

    Fewer when their activations would not fit in memory. Raises PruneError when there are none, or when the network
    does not take them.
    """
    shape, expected = tuple(data.images.shape[1:]), tuple(example.shape[1:])
    if not len(data):
        raise PruneError(f"Rebuilding needs calibration images; {data.name} has none. Load images first.")
    if shape != expected:
        found, wanted = (" x ".join(map(str, size)) for size in (shape, expected))
        raise PruneError(f"The network was traced on images of {wanted}; {data.name} has {found}. Choose those images.")
    count = max(1, min(len(data), images, MEMORY_BYTES // bytes_per_image(module, example)))
    size = min(batch_size, count)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(SEED))[: count - count % size]
    reference = next(iter(module.parameters()), example)
    return list(data.images[order].to(reference.device, reference.dtype).split(size))


def bytes_per_image(module: nn.Module, example: Tensor) -> int:
    """The most that one image's activations hold at any step."""
    replay = Replay(record_tape(module, example[:1]), module)
    sizes = {slot: 4 * math.prod(shape) for slot, shape in replay.tape.shapes.items() if slot not in replay.tape.state}
    alive = most = 1
    for index, step in enumerate(replay.steps):
        alive += sum(sizes.get(slot, 0) for slot in step.outputs if replay.last_use.get(slot, -1) > index)
        most = max(most, alive)
        alive -= sum(sizes.get(slot, 0) for slot in set(step.reads) if replay.last_use[slot] == index)
    return most
