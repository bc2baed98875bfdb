"""A residual network trained here in seconds, for tests that ask what holds on a network that knows something."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.load import load_data
from core.load.demo_nets import ResidualBlock
from core.records import LoadedModel

EPOCHS, BATCH = 3, 32


class SmallResNet(nn.Module):
    """As demo/digits-resnet, with a twentieth of its work. (N, 1, 32, 32) -> (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.stage1 = ResidualBlock(16, 24, stride=2)
        self.stage2 = nn.Sequential(ResidualBlock(24, 32, stride=2), ResidualBlock(32, 32))
        self.classifier = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.stage2(self.stage1(self.stem(x))).mean(dim=(2, 3)))


def small_resnet() -> LoadedModel:
    """The same weights in every process: it knows the digits of the report part nearly as well as the demo does."""
    module = SmallResNet().eval()
    module.load_state_dict(_weights())
    return LoadedModel(module, load_data("digits", limit=3).images[:1], "small-resnet", "small-resnet")


@functools.cache
def _weights() -> dict[str, Tensor]:
    part = load_data("digits", split="calibration")
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        module = SmallResNet()
        optimiser = torch.optim.Adam(module.parameters(), 0.01)
        steps = EPOCHS * -(-len(part) // BATCH)
        falling = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.01, steps)
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(part)).split(BATCH):
                optimiser.zero_grad()
                F.cross_entropy(module(part.images[chosen]), part.labels[chosen]).backward()
                optimiser.step()
                falling.step()
    return module.state_dict()
