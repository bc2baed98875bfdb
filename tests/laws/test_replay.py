"""The tape, run step by step on real images, is the network."""

from __future__ import annotations

import pytest
import torch
from torch.utils._pytree import tree_leaves

from core.errors import TraceError
from core.trace import trace_channels
from core.trace.graph import record_tape
from core.trace.replay import Replay
from tests.traced import lent
from tests.zoo import NETS, ZOO, ZooNet, images, outputs

REPLAYABLE = pytest.mark.parametrize("net", [net for net in NETS if net.replays], ids=lambda net: net.name)


@REPLAYABLE
@pytest.mark.parametrize("batch", [1, 4])
def test_replay_is_forward(net: ZooNet, batch: int) -> None:
    module = net.build()
    pictures = images(net.shape, batch)
    replay = Replay(record_tape(module, pictures), module)
    given = pictures.clone()
    found = tree_leaves(replay.output(replay.run({replay.tape.input: given})))
    expected = outputs(module, pictures)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    assert torch.equal(given, pictures), "the input was written to"


@REPLAYABLE
def test_a_fork_finds_what_it_needs(net: ZooNet) -> None:
    """From any step on, a copy of what is alive there gives the same answer, again and again."""
    module, trace = lent(net)
    tape = trace.tape
    replay = Replay(tape, module)
    whole = replay.logits(replay.run({tape.input: net.example}))
    env = {tape.input: net.example}
    for index in range(len(replay.steps)):
        for _ in range(2):
            torch.testing.assert_close(replay.logits(replay.run(dict(env), start=index)), whole)
        replay.run(env, start=index, stop=index + 1)
        assert all(replay.last_use[slot] > index for slot in env), "a tensor nobody reads again is kept"


@REPLAYABLE
def test_edits_stand_in_for_weights(net: ZooNet) -> None:
    module, trace = lent(net)
    tape, other = trace.tape, net.build(1)
    edits = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    replay = Replay(tape, module)
    found = replay.logits(replay.run({tape.input: net.example}, edits=edits))
    torch.testing.assert_close(found, outputs(other, net.example)[0], rtol=1e-5, atol=1e-6)


def test_writing_through_views_is_refused() -> None:
    net = ZOO["BorderCleared"]
    module = net.build()
    with pytest.raises(TraceError, match="writes into views"):
        Replay(trace_channels(module, net.example).tape, module)
