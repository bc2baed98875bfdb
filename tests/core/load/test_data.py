"""Images by name or file: normalised, in three disjoint parts that no seed moves; or one sentence."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import CoreError, LoadError
from core.load import data as data_module
from core.load import list_data, load_data
from core.load.image_sources import digit_table
from core.load.shapes import CLASSES, make_shapes
from core.load.split import balanced_order, keep_limited, partition
from core.load.torchvision_guard import import_torchvision
from core.records import PARTS

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(40) % 4


def refusal(source: object, **options: object) -> str:
    with pytest.raises(LoadError) as caught:
        load_data(source, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def archive(folder: Path, **arrays: object) -> Path:
    path = folder / "images.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def folder_of(root: Path, classes: dict[str, int]) -> Path:
    for label, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            colour = (60 * label, 5 * number, 200)
            Image.new("RGB", (40, 24), colour).save(root / name / f"{number:02}.png")
    return root


@pytest.mark.parametrize("source", ["digits", "shapes"])
def test_parts_are_disjoint_balanced_and_seed_independent(source: str) -> None:
    data, other = load_data(source), load_data(source, seed=5)
    assert data.fingerprint == other.fingerprint
    indices = [data.parts[name] for name in PARTS]
    assert torch.equal(torch.cat(indices).sort().values, torch.arange(len(data)))
    assert [round(len(part) / len(data), 2) for part in indices] == [0.6, 0.2, 0.2]
    for name in PARTS:
        assert torch.equal(data.parts[name], other.parts[name])
        assert torch.equal(data.part(name).labels, load_data(source, split=name, seed=9).labels)
        share = torch.bincount(data.part(name).labels) / torch.bincount(data.labels)
        assert (share.max() - share.min()) < 0.02


def test_the_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = digit_table()
    bunch = load_digits()
    assert np.array_equal(pixels, bunch.images) and np.array_equal(labels, bunch.target)


@pytest.mark.parametrize(("source", "shape"), [("digits", (1, 32, 32)), ("shapes", (3, 48, 48))])
def test_images_are_normalised_by_their_calibration_part(source: str, shape: tuple[int, ...]) -> None:
    data = load_data(source)
    assert data.images.shape[1:] == shape and data.images.dtype == torch.float32 and data.labels.dtype == torch.int64
    spread, middle = torch.std_mean(data.calibration.images, dim=(0, 2, 3))
    assert middle.abs().max() < 1e-4 and (spread - 1).abs().max() < 1e-4
    first = load_data(source, limit=30)
    assert first.mean == data.mean and first.std == data.std


@pytest.mark.parametrize("source", ["digits", "random"])
def test_a_limit_keeps_parts_apart_and_the_seed_chooses(source: str) -> None:
    whole = load_data("digits") if source == "digits" else None
    first, again, other = (load_data(source, limit=50, seed=seed, size=8) for seed in (1, 1, 2))
    assert len(first) == 50 and first.fingerprint == again.fingerprint != other.fingerprint
    assert [len(first.part(name)) for name in PARTS] == [30, 10, 10]
    assert torch.equal(torch.cat([first.parts[name] for name in PARTS]).sort().values, torch.arange(50))
    if whole is not None:
        for name in PARTS:
            large = load_data("digits", split=name, limit=20, seed=3)
            inside = {image.numpy().tobytes() for image in whole.part(name).images}
            assert len(large) == 20 and all(image.numpy().tobytes() in inside for image in large.images)


def test_one_part_has_no_parts() -> None:
    part = load_data("digits", split="report", limit=5)
    assert len(part) == 5 and part.name == "digits (report)"
    with pytest.raises(CoreError, match="one part already"):
        part.part("report")


@pytest.mark.parametrize("count", [3, 4, 7, 50, 101])
def test_partition_loses_nothing(count: int) -> None:
    parts = partition(RNG.integers(0, 3, count))
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(count))
    assert min(len(part) for part in parts.values()) >= 1


def test_prefixes_are_balanced_and_limits_nest() -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    order = balanced_order(labels, seed=4)
    assert sorted(order.tolist()) == list(range(100))
    for count in range(1, 101):
        seen = np.bincount(labels[order[:count]], minlength=3)
        assert (np.abs(seen - count * np.array([0.6, 0.3, 0.1])) <= 1.5).all()
    pieces = list(partition(labels).values())
    small, large = keep_limited(labels, pieces, 10, 0), keep_limited(labels, pieces, 37, 0)
    assert sum(map(len, small)) == 10 and sum(map(len, large)) == 37
    assert all(set(a) <= set(b) for a, b in zip(small, large, strict=True))


def test_shapes_are_the_same_each_time_and_differ_by_seed() -> None:
    images, labels = make_shapes(4, 1)
    make_shapes.cache_clear()
    again, _ = make_shapes(4, 1)
    other, _ = make_shapes(4, 2)
    assert np.array_equal(images, again) and not np.array_equal(images, other)
    assert images.shape == (40, 48, 48, 3) and np.array_equal(np.bincount(labels), [4] * len(CLASSES))
    assert not images.flags.writeable


def test_npz_gives_pixels_by_its_own_statistics(tmp_path: Path) -> None:
    path = archive(
        tmp_path, images=PIXELS, labels=LABELS, mean=[0.1, 0.2, 0.3], std=[0.5, 0.4, 0.2], classes=list("abcd")
    )
    data = load_data(path)
    expected = (PIXELS[7, 2, 5] / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.4, 0.2]
    assert np.allclose(data.images[7, :, 2, 5], expected, atol=1e-6)
    assert data.classes == tuple("abcd") and len(data) == 40 and data.labels[7] == 3
    plain = load_data(path, mean=(0, 0, 0), std=(1, 1, 1), size=16)
    assert plain.images.shape == (40, 3, 16, 16) and plain.images.min() >= 0 and plain.images.max() <= 1


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"labels": LABELS}, "lacks images"),
        ({"pictures": PIXELS}, "images and labels"),
        ({"images": PIXELS.astype(np.float32), "labels": LABELS}, "uint8"),
        ({"images": PIXELS[..., :2], "labels": LABELS}, "N x H x W x 3"),
        ({"images": PIXELS[:0], "labels": LABELS[:0]}, "0 images"),
        ({"images": PIXELS[:2], "labels": LABELS[:2]}, "at least 3"),
        ({"images": PIXELS, "labels": LABELS[:9]}, "one per image"),
        ({"images": PIXELS, "labels": LABELS / 2}, "whole numbers"),
        ({"images": PIXELS, "labels": LABELS, "classes": ["a", "b"]}, "0..1"),
        ({"images": PIXELS, "labels": LABELS - 1}, "found -1"),
        ({"images": PIXELS, "labels": LABELS, "std": [1, 0, 1]}, "positive"),
        ({"images": PIXELS, "labels": LABELS, "mean": [1, 1]}, "3 numbers"),
        ({"images": np.array([{}, {}], dtype=object), "labels": LABELS}, "pickled"),
    ],
)
def test_npz_faults_are_named(tmp_path: Path, arrays: dict[str, object], says: str) -> None:
    assert says in refusal(archive(tmp_path, **arrays))


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", pickle.dumps([1, 2])])
def test_files_that_are_no_archive_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    assert "cannot be read" in refusal(path)


def test_a_folder_of_images(tmp_path: Path) -> None:
    data = load_data(folder_of(tmp_path, {"cat": 6, "dog": 9}), size=12)
    assert data.images.shape == (15, 3, 12, 12) and data.classes == ("cat", "dog")
    assert torch.bincount(data.labels).tolist() == [6, 9]
    red = data.images[data.labels == 1][:, 0] * data.std[0] + data.mean[0]
    assert torch.allclose(red, torch.tensor(60 / 255), atol=1e-5)
    assert load_data(tmp_path, limit=3).images.shape == (3, 3, 224, 224)


def test_a_folder_with_its_own_test_set_keeps_it_out_of_calibration(tmp_path: Path) -> None:
    folder_of(tmp_path / "train", {"cat": 6, "dog": 6})
    folder_of(tmp_path / "val", {"cat": 4, "dog": 4})
    data = load_data(tmp_path, size=8)
    assert [len(data.part(name)) for name in PARTS] == [12, 4, 4]
    assert torch.equal(data.parts["calibration"], torch.arange(12))


def test_folder_faults_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    assert "no images" in refusal(tmp_path / "empty")
    assert "one class, 'cat'" in refusal(folder_of(tmp_path / "one", {"cat": 5}))
    assert "'dog' has no images" in refusal(folder_of(tmp_path / "gap", {"cat": 5, "dog": 0}))
    broken = folder_of(tmp_path / "broken", {"cat": 5, "dog": 5})
    (broken / "dog" / "03.png").write_text("not an image")
    assert "03.png is not a readable image" in refusal(broken)
    monkeypatch.setattr(data_module, "DATA_LIMIT_BYTES", 1_000_000)
    assert "limit=1 or less" in refusal(broken)


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("digits", {"limit": 0}, "found 0"),
        ("digits", {"limit": 2}, "one for each part"),
        ("digits", {"split": "test"}, "report"),
        ("digits", {"mean": (0.5, 0.5, 0.5)}, "one per channel"),
        ("digits", {"size": 0}, "size"),
        ("digit", {}, "digits"),
        ("no/such/folder", {}, "Check the path"),
        (__file__, {}, "Expected a folder"),
        ("CIFAR10", {}, "root="),
        ("CIFAR10", {"root": "nowhere"}, "nowhere"),
        ("MNIST", {"root": "nowhere"}, "nowhere"),
        ("random", {"shape": (3, 0, 5)}, "shape"),
    ],
)
def test_wrong_arguments_are_named(source: str, options: dict[str, object], says: str) -> None:
    assert says in refusal(source, **options)


def test_random_images_follow_shape_and_seed() -> None:
    data = load_data("random", shape=(1, 6, 5))
    assert data.images.shape == (256, 1, 6, 5) and len(data.classes) == 10
    assert load_data("random", shape=(1, 6, 5), seed=1).fingerprint != data.fingerprint
    assert len(load_data("random", shape=(1, 2, 2), limit=300)) == 300
    assert len(load_data("random", shape=(1, 2, 2), split="report", limit=8)) == 8


def test_a_torchvision_data_set_keeps_its_test_set_for_selection_and_report(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stand:
        classes = ("a", "b")

        def __init__(self, root: str, train: bool, download: bool) -> None:
            assert not download
            count = 30 if train else 10
            self.data = np.full((count, 4, 4, 3), 100 if train else 200, dtype=np.uint8)
            self.targets = [index % 2 for index in range(count)]

    monkeypatch.setattr(import_torchvision().datasets, "CIFAR10", Stand)
    data = load_data("CIFAR10", root="anywhere", mean=(0, 0, 0), std=(1, 1, 1))
    assert [len(data.part(name)) for name in PARTS] == [30, 5, 5]
    assert data.calibration.images.max() < 0.5 < data.report.images.min()


def test_every_listed_source_has_its_words() -> None:
    listed = list_data()
    assert {"digits", "shapes", "random", "CIFAR10"} <= {row.source for row in listed}
    assert all(row.title and row.summary.endswith(".") for row in listed)
