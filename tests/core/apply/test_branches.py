"""What stands behind a layer, and in which order branches run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.apply.branches import affine_of, look_behind, shallow_first
from core.trace.graph import Step, Tape, needed_steps, record_tape


class Block(nn.Module):
    """The long branch is written first; its shortcut is a convolution of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.na, self.nb, self.nc = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.nb(self.b(F.relu(self.na(self.a(x)))))
        return F.relu(y + self.nc(self.c(x)))


def where(steps: Sequence[Step], tape: Tape, name: str) -> int:
    weights = [tape.state[step.reads[1]] if step.name == "convolution" else "" for step in steps]
    return weights.index(f"{name}.weight")


def test_a_shortcut_runs_before_the_branch_it_joins() -> None:
    net = Block().eval()
    tape = record_tape(net, torch.zeros(1, 3, 5, 5))
    before = needed_steps(tape)
    steps = shallow_first(tape, before)
    assert sorted(map(id, steps)) == sorted(map(id, before))
    known = {tape.input, *tape.state, *tape.constants}
    for step in steps:
        assert known.issuperset(step.reads)
        known.update(step.outputs)
    assert where(steps, tape, "c") < where(steps, tape, "b")


def test_norm_addition_and_relu_are_seen() -> None:
    net = Block().eval()
    tape = record_tape(net, torch.zeros(1, 3, 5, 5))
    steps = shallow_first(tape, needed_steps(tape))
    first, last = (look_behind(tape, steps, where(steps, tape, name)) for name in "ab")
    assert first.norm is not None and first.others == () and first.rectified
    assert last.norm is not None and len(last.others) == 1 and last.rectified
    made = next(step for step in steps if last.others[0] in step.outputs)
    assert tape.state[made.reads[1]] == "nc.weight"


class Plain(nn.Module):
    """The sum leaves the network; one branch is scaled, the other feeds two readers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return torch.add(self.b(y), y, alpha=2.0)


def test_what_is_not_a_plain_sum_is_left_alone() -> None:
    net = Plain().eval()
    tape = record_tape(net, torch.zeros(1, 3, 5, 5))
    steps = shallow_first(tape, needed_steps(tape))
    for name in "ab":
        behind = look_behind(tape, steps, where(steps, tape, name))
        assert behind.norm is None and behind.others == () and not behind.rectified


def test_a_norm_as_numbers() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 5, 1), nn.BatchNorm2d(5)).eval()
    with torch.no_grad():
        for tensor in (net[1].weight, net[1].bias, net[1].running_mean):
            tensor.normal_()
        net[1].running_var.uniform_(0.5, 2.0)
        net[1].weight[3] = 0.0
    tape = record_tape(net, torch.zeros(1, 2, 4, 4))
    affine = affine_of(tape.steps[1], tape.state, net.state_dict(), 5)
    z = torch.randn(7, 5, 2, 2)
    expected = net[1](z)
    found = z * affine.scale.float()[:, None, None] + affine.shift.float()[:, None, None]
    assert torch.allclose(found, expected, atol=1e-5)
    assert affine.safe.tolist() == [True, True, True, False, True]
