"""Fine-tuning: a new network that learned, the same one for the same seed, and a run that can be stopped anywhere."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.apply import finetune, prune_model, training
from core.apply.augment import augment_images, way_to_augment
from core.apply.course import Course
from core.apply.finetune import FineTuned, finetune_model
from core.apply.training import Trainer
from core.errors import Cancelled, CoreError, TrainError
from core.records import ImageData, Plan, fingerprint_state
from core.trace import trace_channels
from tests.untouched import same, state_of
from tests.zoo import ZOO
from tests.zoo import images as noise


class Small(nn.Module):
    """Convolution, batch norm, dropout and a linear layer; ``views``: takes maps only as they lie by default."""

    def __init__(self, views: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(6 * 16, 3)
        self.views = views

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn(self.conv(x))), 2)
        return self.fc(self.drop(x.view(len(x), -1) if self.views else x.flatten(1)))


def pictures(count: int = 60) -> ImageData:
    """Three classes of 2 x 8 x 8 noise that differ in their mean, in three parts."""
    labels = torch.arange(count) % 3
    images = torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    images += 0.6 * (labels - 1)[:, None, None, None]
    parts = {"calibration": torch.arange(0, 42), "selection": torch.arange(42, 51), "report": torch.arange(51, count)}
    return ImageData(images, labels, ("a", "b", "c"), "noise", (0.0, 0.0), (1.0, 1.0), parts)


def small(views: bool = False) -> nn.Module:
    torch.manual_seed(3)
    return Small(views).eval()


def key(result: FineTuned) -> str:
    return fingerprint_state(result.module.state_dict())


COURSE = {"epochs": 4, "lr": 0.05, "batch_size": 16}


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize("views", [False, True])
def test_a_new_network_learns_and_the_old_one_is_left_alone(optimiser: str, views: bool) -> None:
    module, teacher, data = small(views), small(views), pictures()
    before, taught, state = state_of(module), state_of(teacher), torch.get_rng_state()
    lr = 0.05 if optimiser == "sgd" else 0.01
    result = finetune_model(module, data, epochs=6, lr=lr, optimiser=optimiser, batch_size=16, watch=data.selection)
    finetune_model(module, data, epochs=1, teacher=teacher)
    assert same(before, state_of(module)) and same(taught, state_of(teacher))
    assert torch.equal(state, torch.get_rng_state())
    assert result.complete and [log.epoch for log in result.epochs] == [1, 2, 3, 4, 5, 6]
    assert result.epochs[-1].loss < 0.6 * result.epochs[0].loss and result.epochs[-1].watched is not None
    assert not any(layer.training for layer in result.module.modules())
    strides = [(p.shape, p.stride(), p.requires_grad) for p in module.parameters()]
    assert strides == [(p.shape, p.stride(), p.requires_grad) for p in result.module.parameters()]


def test_one_seed_one_result() -> None:
    module, data = small(), pictures()
    first, second = (key(finetune_model(module, data, seed=5, **COURSE)) for _ in range(2))
    torch.manual_seed(99)
    assert first == second == key(finetune_model(module, data, seed=5, watch=data.selection, **COURSE))
    assert first != key(finetune_model(module, data, seed=6, **COURSE))


def test_steps_are_those_of_plain_pytorch() -> None:
    """Against a loop written out: nesterov SGD, cosine per step, label smoothing, no augmentation."""
    data = pictures()
    reference = small(True).train()
    reference.drop.p = 0.0
    module = small(True)
    module.drop.p = 0.0
    found = finetune_model(
        module, data, epochs=2, lr=0.1, label_smoothing=0.1, augment="none", batch_size=21, weight_decay=1e-3
    )
    optimiser = torch.optim.SGD(reference.parameters(), 0.1, 0.9, weight_decay=1e-3, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 4)
    learned = data.calibration
    for epoch in (1, 2):
        order = torch.randperm(42, generator=training.numbers(0, epoch))
        for chosen in order.split(21):
            optimiser.zero_grad()
            loss = F.cross_entropy(reference(learned.images[chosen]), learned.labels[chosen], label_smoothing=0.1)
            loss.backward()
            optimiser.step()
            schedule.step()
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(found.module.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_distillation_is_hintons() -> None:
    module, teacher, data = small(), small(), pictures()
    with torch.no_grad():
        teacher.fc.weight.mul_(3)
    trainer = Trainer(module, data, Course(1, teach=0.7, temperature=2.0, label_smoothing=0.1), teacher=teacher)
    images, labels = data.images[:9], data.labels[:9]
    scores = torch.randn(9, 3)
    with torch.no_grad():
        said, known = (scores / 2).softmax(1).double(), (teacher(images) / 2).softmax(1).double()
        divergence = (known * (known.log() - said.log())).sum(1).mean()
        smooth = F.one_hot(labels, 3) * 0.9 + 0.1 / 3
        expected = 0.3 * -(smooth * scores.log_softmax(1)).sum(1).mean() + 0.7 * 4 * divergence
        assert float(trainer.loss(scores, images, labels)) == pytest.approx(float(expected), rel=1e-5)


class StopAfter:
    """Says stop once ``epochs`` epochs were told of."""

    def __init__(self, epochs: int) -> None:
        self.epochs, self.told = epochs, 0

    def listen(self, share: float, message: str, logs: tuple = ()) -> None:
        self.told = len(logs)

    def __call__(self) -> bool:
        return self.told >= self.epochs


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path, optimiser: str) -> None:
    module, data, file = small(), pictures(), tmp_path / "deep" / "run.safetensors"
    course = {**COURSE, "optimiser": optimiser, "teacher": small(), "watch": data.selection}
    whole = finetune_model(module, data, **course)
    stop = StopAfter(2)
    with pytest.raises(Cancelled, match="2 complete epochs") as caught:
        finetune_model(module, data, checkpoint=file, on_progress=stop.listen, cancelled=stop, **course)
    partial = caught.value.partial
    assert isinstance(partial, FineTuned) and not partial.complete and len(partial.epochs) == 2
    assert not partial.module.training and key(partial) not in {key(whole), fingerprint_state(module.state_dict())}
    resumed = finetune_model(module, data, checkpoint=file, **course)
    assert key(resumed) == key(whole) and len(resumed.epochs) == 4
    assert [log.loss for log in resumed.epochs] == [log.loss for log in whole.epochs]
    again = finetune_model(module, data, checkpoint=file, **course)  # nothing left to do
    assert key(again) == key(whole) and again.complete
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def right_of(module: nn.Module, data: ImageData) -> tuple[int, float]:
    with torch.no_grad():
        scores = module(data.images)
    return int((scores.argmax(1) == data.labels).sum()), -float(F.cross_entropy(scores, data.labels))


def test_the_state_that_does_best_on_images_for_choosing_is_kept() -> None:
    module, data = small(), pictures(240)
    course = {**COURSE, "epochs": 6, "lr": 0.3, "schedule": "constant"}  # up and down
    plain = finetune_model(module, data, watch=data.selection, **course)
    kept = finetune_model(module, data, keep=data.selection, watch=data.selection, **course)
    assert plain.chosen is None and plain.epochs[-1].watched is not None
    watched = [log.watched for log in kept.epochs]
    assert kept.chosen is not None and kept.chosen > 0
    assert right_of(kept.module, data.selection)[0] == round(9 * max(map(float, watched))), "far above the start"
    assert watched[kept.chosen - 1] == max(map(float, watched)) and watched == [log.watched for log in plain.epochs]


def test_training_that_harms_gives_the_start_back() -> None:
    module, data = small(), pictures()
    good = finetune_model(module, data, epochs=8, lr=0.05, batch_size=16).module
    spoiled = ImageData(data.images, (data.labels + 1) % 3, data.classes, "wrong", (0.0, 0.0), (1.0, 1.0), data.parts)
    found = finetune_model(good, spoiled, epochs=2, lr=0.1, batch_size=16, keep=data.selection)
    assert found.chosen == 0 and found.complete and len(found.epochs) == 2
    assert key(found) == fingerprint_state(good.state_dict())


def test_a_little_better_is_not_better() -> None:
    before = torch.arange(100) < 60
    assert not finetune._clearly_more(before, before)
    assert not finetune._clearly_more(torch.arange(100) < 62, before), "2 of 100: within 1.64 sqrt(2)"
    assert finetune._clearly_more(torch.arange(100) < 63, before)
    shifted = (torch.arange(100) < 69) & (torch.arange(100) >= 4)
    assert not finetune._clearly_more(shifted, before), "9 won, 4 lost: within 1.64 sqrt(13)"


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_stopped_run_remembers_its_best_state(tmp_path: Path, stop_after: int) -> None:
    module, data, file = small(), pictures(), tmp_path / "run.safetensors"
    course = {**COURSE, "lr": 0.3, "schedule": "constant", "keep": data.selection}
    whole, stop = finetune_model(module, data, **course), StopAfter(stop_after)
    with pytest.raises(Cancelled) as caught:
        finetune_model(module, data, checkpoint=file, on_progress=stop.listen, cancelled=stop, **course)
    partial = caught.value.partial
    assert partial.chosen <= stop_after
    assert right_of(partial.module, data.selection) >= right_of(module, data.selection)
    resumed = finetune_model(module, data, checkpoint=file, **course)
    assert key(resumed) == key(whole) and resumed.chosen == whole.chosen
    with pytest.raises(TrainError, match="another keep"):
        finetune_model(module, data, checkpoint=file, **{**course, "keep": data.report})


def test_a_stored_run_of_something_else_is_refused(tmp_path: Path) -> None:
    module, data, file = small(), pictures(), tmp_path / "run.safetensors"
    finetune_model(module, data, checkpoint=file, **COURSE)
    with pytest.raises(TrainError, match=r"another course \(lr: 0.05 there, 0.01 here"):
        finetune_model(module, data, checkpoint=file, **{**COURSE, "lr": 0.01})
    with pytest.raises(TrainError, match="another images"):
        finetune_model(module, data.take(torch.arange(30)), checkpoint=file, **COURSE)
    finetune_model(module, data, checkpoint=file, resume=False, **{**COURSE, "epochs": 1})
    file.write_bytes(b"no such thing")
    with pytest.raises(TrainError, match="stored training run"):
        finetune_model(module, data, checkpoint=file, **COURSE)


def test_stopped_before_the_first_epoch_the_network_is_as_it_came() -> None:
    module = small()
    with pytest.raises(Cancelled) as caught:
        finetune_model(module, pictures(), cancelled=lambda: True, **COURSE)
    assert key(caught.value.partial) == fingerprint_state(module.state_dict())


class Slow(nn.Module):
    """Forty layers that take a while each, and remember how many of them ran."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(40, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(dim=(2, 3))[:, :1].expand(-1, 3)
        for row in self.weights:
            time.sleep(0.02)
            SEEN.append(1)
            x = torch.sigmoid(x * row)
        return x


SEEN: list[int] = []


def test_one_long_step_can_be_stopped_inside() -> None:
    SEEN.clear()
    with pytest.raises(Cancelled):
        finetune_model(Slow(), pictures(), epochs=1, batch_size=64, cancelled=lambda: len(SEEN) > 41)
    assert len(SEEN) < 75  # 40 for a look at what it takes, then less than a whole pass


def test_a_time_limit_ends_with_the_cosine_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(clock) / 4)
    rates: list[float] = []
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, *given: rates.append(given[-1]) or step(self, *given))
    result = finetune_model(small(), pictures(), seconds=12.0, lr=0.1, batch_size=16)
    assert result.complete and rates[0] == 0.1 and rates[-1] < 0.01 and rates == sorted(rates, reverse=True)
    assert result.epochs[-1].seconds >= 12.0 and len(result.epochs) > 2


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("cosine", [1.0, 0.5, 0.0]), ("steps", [1.0, 0.2, 0.008]), ("constant", [1.0, 1.0, 1.0])],
)
def test_schedules(schedule: str, expected: list[float]) -> None:
    course = Course(10, lr=0.4, schedule=schedule)
    assert [course.rate(share) / 0.4 for share in (0.0, 0.5, 1.0)] == pytest.approx(expected)
    rising = Course(10, lr=0.4, schedule=schedule, warmup=0.2)
    assert [rising.rate(0.0), rising.rate(0.1)] == pytest.approx([0.0, course.rate(0.1) / 2])


def test_only_the_calibration_part_is_learned() -> None:
    data = pictures()
    data.images[42:] = math.nan
    result = finetune_model(small(), data, **COURSE)
    assert all(bool(torch.isfinite(value).all()) for value in result.module.state_dict().values())


@pytest.mark.parametrize("way", ["shift", "flip-shift"])
def test_an_augmented_image_is_the_image_shifted_or_mirrored(way: str) -> None:
    images = torch.randn(40, 3, 16, 12)
    changed = augment_images(images, way, torch.Generator().manual_seed(0))
    kinds = set()
    for before, after in zip(images, changed, strict=True):
        padded = F.pad(before[None], (1, 1, 2, 2), mode="reflect")[0]
        found = [
            (top, left, flip)
            for top in range(5)
            for left in range(3)
            for flip in (False, True)
            if torch.equal(after, (padded.flip(2) if flip else padded)[:, top : top + 16, left : left + 12])
        ]
        assert len(found) == 1
        kinds.update(found)
    assert {flip for _, _, flip in kinds} == ({False, True} if way == "flip-shift" else {False})
    assert {top for top, _, _ in kinds} == set(range(5)) and {left for _, left, _ in kinds} == set(range(3))


def test_digits_are_never_mirrored_unasked() -> None:
    assert way_to_augment("auto", torch.zeros(1, 1, 32, 32)) == "shift"
    assert way_to_augment("auto", torch.zeros(1, 3, 32, 32)) == "flip-shift"
    assert way_to_augment("flip-shift", torch.zeros(1, 3, 4, 4)) == "none"  # too small to shift


class Extra(Small):
    """Gives a second output in training, as networks with auxiliary heads do."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        scores = super().forward(x)
        return (scores, scores[:, :1]) if self.training else scores


def test_the_first_output_counts() -> None:
    torch.manual_seed(3)
    assert key(finetune_model(Extra().eval(), pictures(), **COURSE)) == key(
        finetune_model(small(), pictures(), **COURSE)
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optimiser": "sdg"}, "Nearest: sgd"),
        ({"schedule": "cosin"}, "Nearest: cosine"),
        ({"augment": "mirror"}, "way to augment"),
        ({"epochs": 0}, "epochs: expected"),
        ({"lr": math.nan}, "lr: expected"),
        ({"teach": 2.0}, "teach: expected a share"),
        ({"lr": 1e30}, "learning rate"),
    ],
)
def test_a_course_that_cannot_be_says_so(change: dict[str, object], words: str) -> None:
    with pytest.raises(CoreError, match=words):
        finetune_model(small(), pictures(), **{**COURSE, **change})


def test_images_and_networks_that_do_not_fit_say_so() -> None:
    module, data = small(), pictures()
    with pytest.raises(TrainError, match="two images"):
        finetune_model(module, data.take(torch.arange(1)))
    wrong = ImageData(data.images, data.labels + 5, data.classes, "noise", (0.0,), (1.0,))
    with pytest.raises(TrainError, match="labels from 5 to 7"):
        finetune_model(module, wrong)
    with pytest.raises(TrainError, match="does not take images of 1 x 8 x 8"):
        finetune_model(module, ImageData(data.images[:, :1], data.labels, data.classes, "grey", (0.0,), (1.0,)))
    with pytest.raises(TrainError, match="frozen"):
        finetune_model(small().requires_grad_(False), data)


def test_a_network_that_gathers_its_inputs_can_be_trained() -> None:
    net = ZOO["ResidualProjection"]
    module = net.build()
    trace = trace_channels(module, net.example)
    gather = trace.gathers[0]
    pruned = prune_model(module, trace, Plan({gather.id: tuple(range(1, gather.units)), "a.0": (0, 2, 5)}))
    batch = noise(net.shape, 12, seed=1)
    data = ImageData(batch, torch.arange(12) % 3, ("a", "b", "c"), "zoo", (0.0,), (1.0,))
    before = state_of(pruned)
    result = finetune_model(pruned, data, epochs=6, lr=0.05, batch_size=6, augment="none")
    assert same(before, state_of(pruned)) and result.epochs[-1].loss < result.epochs[0].loss
    shapes = {name: value.shape for name, value in pruned.state_dict().items()}
    assert shapes == {name: value.shape for name, value in result.module.state_dict().items()}
    assert type(result.module) is type(pruned) and result.module(batch).shape == (12, 3)


def test_it_runs_where_no_gradients_are_wanted() -> None:
    with torch.inference_mode():
        result = finetune_model(small(), pictures(), **COURSE)
    assert key(result) == key(finetune_model(small(), pictures(), **COURSE))
    assert not any(parameter.is_inference() for parameter in result.module.parameters())
