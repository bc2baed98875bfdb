"""Settling batch norms: the same function in eval mode, and nearly the same one in train mode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from core.apply import finetune
from core.apply.finetune import finetune_model
from core.apply.settle import settle_norms
from core.errors import Cancelled
from core.records import ImageData
from tests.untouched import same, state_of


def rebuilt() -> nn.Module:
    """Two batch norms whose statistics are far from what they read, as after a least-squares fit."""
    torch.manual_seed(2)
    layers = [nn.Conv2d(2, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4)]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3))
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.running_mean.uniform_(-1, 1)
                layer.running_var.uniform_(1, 4)
                layer.weight.uniform_(0.5, 2)
                layer.bias.uniform_(-1, 1)
        net[1].weight[0], net[0].weight[1] = -0.7, 0.0  # a norm that turns around, and one that reads a constant
    return net.eval()


def pictures(count: int = 96) -> ImageData:
    images = torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(count) % 3
    return ImageData(images, labels, ("a", "b", "c"), "noise", (0.0, 0.0), (1.0, 1.0))


def far(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_eval_mode_computes_the_same_and_train_mode_nearly_so() -> None:
    module, images = rebuilt(), pictures().images
    with torch.no_grad():
        before = module(images)
        foreign = far(module.train()(images), before)
    module = rebuilt()
    names = settle_norms(module, images)
    with torch.no_grad():
        assert names == ("1", "4", "7") and not module.training
        assert far(module(images), before) < 1e-5
        assert far(module.train()(images), before) < 0.02 < 0.3 < foreign  # all images as one batch


def test_statistics_are_those_that_the_norms_read() -> None:
    module, images = rebuilt(), pictures().images
    with torch.no_grad():
        read = module[:1](images), module[:4](images)
        settle_norms(module, images)
    for x, norm in zip(read, (module[1], module[4]), strict=True):
        # the first convolution is in front of every change; the second reads what is computed as before
        torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var, x.transpose(0, 1).flatten(1).var(1), rtol=1e-4, atol=1e-5)


def test_norms_that_cannot_or_need_not_be_settled_stay_as_they_are() -> None:
    fresh = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False)).eval()
    stateless = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)).eval()
    for module in (fresh, stateless, nn.Flatten()):
        before = state_of(module)
        assert settle_norms(module, pictures().images) == () and same(before, state_of(module))


def test_a_stop_changes_nothing() -> None:
    module = rebuilt()
    before = state_of(module)

    def stop() -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        settle_norms(module, pictures().images, check=stop)
    assert same(before, state_of(module))


def test_training_that_moves_nothing_changes_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """At learning rate 0 only the batch norms' statistics move; unsettled, they take the network elsewhere."""
    module, data = rebuilt(), pictures()
    course = {"epochs": 8, "lr": 0.0, "batch_size": 32, "augment": "none"}
    with torch.no_grad():
        before = module(data.images)
        settled = far(finetune_model(module, data, **course).module(data.images), before)
        monkeypatch.setattr(finetune, "settle_norms", lambda *_, **__: ())
        drifted = far(finetune_model(module, data, **course).module(data.images), before)
    assert settled < 0.05 < 0.3 < drifted
