"""Networks by name: what comes back, and the sentence when nothing can."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from core.errors import LoadError
from core.load import list_models, load_data, load_model, models, read_state_dict
from core.load.torchvision_guard import has_timm, import_torchvision
from core.records import LoadedModel

SHARED = Path(__file__).resolve().parents[4] / "shared"
DEMOS = ["demo/digits-vgg", "demo/digits-resnet", "demo/shapes-cnn"]


def refusal(*arguments: str, **options: object) -> str:
    with pytest.raises(LoadError) as caught:
        load_model(*arguments, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def outputs(loaded: LoadedModel) -> torch.Tensor:
    with torch.inference_mode():
        return loaded.module(loaded.example)


@pytest.mark.parametrize("source", [*DEMOS, "cifar/resnet20", "torchvision/squeezenet1_1"])
def test_random_weights_are_the_same_each_time_and_leave_the_generator_alone(source: str) -> None:
    before = torch.get_rng_state()
    first, second = load_model(source, weights="random"), load_model(source, weights="random")
    assert torch.equal(before, torch.get_rng_state())
    assert first.fingerprint == second.fingerprint and torch.equal(first.example, second.example)
    assert not first.module.training and first.weights is None and first.source == source
    assert all(value.requires_grad for value in first.module.parameters())
    assert outputs(first).isfinite().all()


@pytest.mark.parametrize(
    ("source", "shape"),
    [
        ("demo/digits-vgg", (1, 1, 32, 32)),
        ("demo/shapes-cnn", (1, 3, 48, 48)),
        ("cifar/resnet8", (1, 3, 32, 32)),
        ("torchvision/googlenet", (1, 3, 224, 224)),
        ("torchvision/inception_v3", (1, 3, 299, 299)),
    ],
)
def test_examples_and_heads_have_the_size_asked_for(source: str, shape: tuple[int, ...]) -> None:
    loaded = load_model(source, weights="random", num_classes=7)
    assert loaded.example.shape == shape and loaded.example.dtype == torch.float32
    assert outputs(loaded).shape == (1, 7)


def test_a_demo_knows_its_data_and_keeps_its_features_under_a_new_head() -> None:
    loaded = load_model("demo/digits-resnet")
    assert (loaded.data, loaded.weights, loaded.classes) == ("digits", "shipped", tuple("0123456789"))
    other = load_model("demo/digits-resnet", num_classes=4)
    assert torch.equal(loaded.module.stem[0].weight, other.module.stem[0].weight)  # type: ignore[index,union-attr]
    assert outputs(other).shape == (1, 4) and other.data is None


def test_every_listed_name_is_one_that_loads_or_needs_a_download() -> None:
    listed = list_models()
    names = [row.source for row in listed]
    assert len(set(names)) == len(names) and set(DEMOS) <= set(names)
    assert sum(name.startswith("torchvision/") for name in names) == 80
    assert all(row.title and row.summary.endswith(".") for row in listed)
    assert any(name.startswith("timm/") for name in names) == has_timm()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("demo/digits-vg", "demo/digits-vgg"),
        ("torchvision/resnet51", "resnet5"),
        ("torchvision/fasterrcnn_resnet50_fpn", "resnet50"),
        ("cifar/resnet21", "cifar/resnet20"),
        ("resnet18", "list_models"),
        ("", "list_models"),
    ],
)
def test_unknown_names_list_what_is_near(source: str, says: str) -> None:
    assert says in refusal(source)


def test_timm_is_used_when_installed_and_explained_when_not(monkeypatch: pytest.MonkeyPatch) -> None:
    if has_timm():
        loaded = load_model("timm/mobilenetv3_small_050", num_classes=5)
        assert outputs(loaded).shape == (1, 5)
    monkeypatch.setattr("core.load.torchvision_guard.has_timm", lambda: False)
    models.find_blueprint.__globals__["import_timm"].cache_clear()
    assert "pip install" in refusal("timm/resnet18")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_state_dict_goes_onto_a_named_architecture(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    state = {
        name: torch.full_like(value, 0.01) for name, value in load_model("cifar/resnet8").module.state_dict().items()
    }
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    loaded = load_model("cifar/resnet8", weights=str(path))
    assert loaded.weights == str(path)
    assert all(torch.equal(value, state[name]) for name, value in loaded.module.state_dict().items())


def test_the_head_size_is_taken_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "hundred.pt"
    torch.save(load_model("cifar/resnet20", num_classes=100).module.state_dict(), path)
    assert outputs(load_model("cifar/resnet20", weights=str(path))).shape == (1, 100)
    message = refusal("cifar/resnet20", weights=str(path), num_classes=10)
    assert "linear.weight is 100 x 64, expected 10 x 64" in message


def test_weights_of_another_architecture_are_named_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save(load_model("cifar/resnet20").module.state_dict(), path)
    message = refusal("demo/digits-vgg", weights=str(path))
    assert "other.pt do not fit demo/digits-vgg" in message
    assert "missing: features.0.weight" in message and "unexpected: conv1.weight" in message and "more" in message
    assert "layer1.1.conv1.weight" in refusal("cifar/resnet8", weights=str(path))


def test_a_file_alone_needs_an_architecture_unless_it_names_one(tmp_path: Path) -> None:
    state = load_model("cifar/resnet8").module.state_dict()
    bare, named, noted = tmp_path / "bare.pt", tmp_path / "named.safetensors", tmp_path / "noted.pt"
    torch.save(state, bare)
    assert "architecture" in refusal(str(bare))
    save_file(state, named, {"prunescope.source": "cifar/resnet8"})
    assert load_model(str(named)).source == "cifar/resnet8"
    torch.save(state, noted)
    noted.with_suffix(".json").write_text(json.dumps({"prunescope.source": "cifar/resnet8"}))
    assert load_model(str(noted)).source == "cifar/resnet8"
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    assert "architecture" in refusal(str(text))


def test_a_registered_reader_opens_its_own_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_readers", [])
    known = load_model("cifar/resnet8")
    models.register_reader(lambda path: known if path.name == "mine" else None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "theirs").mkdir()
    assert load_model(str(tmp_path / "mine")) is known
    refusal(str(tmp_path / "theirs"))


@pytest.mark.parametrize("weights", ["missing.pt", "pretrained"])
def test_weights_that_do_not_exist(weights: str) -> None:
    assert "path" in refusal("cifar/resnet20", weights=weights)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine, and the folder it serves."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()


def test_pretrained_weights_come_through_the_hub_cache(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = server
    entry = import_torchvision().models.SqueezeNet1_1_Weights.DEFAULT
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(entry.value, "url", f"{address}/tiny.pth")

    message = refusal("torchvision/squeezenet1_1", weights="pretrained")
    assert address in message and "404" in message and "path as weights" in message

    state = load_model("torchvision/squeezenet1_1").module.state_dict()
    torch.save({name: value + 1 for name, value in state.items()}, folder / "tiny.pth")
    loaded = load_model("torchvision/squeezenet1_1", weights="pretrained")
    assert torch.equal(loaded.module.state_dict()["features.0.bias"], state["features.0.bias"] + 1)
    assert loaded.classes is not None and loaded.classes[0] == "tench" and loaded.weights == "pretrained"

    (folder / "tiny.pth").unlink()  # now only the cache has it
    other = load_model("torchvision/squeezenet1_1", weights="pretrained", num_classes=3)
    assert outputs(other).shape == (1, 3) and other.classes is None
    assert torch.equal(other.module.state_dict()["features.0.bias"], state["features.0.bias"] + 1)


def test_a_download_that_fails_its_checksum_is_refused(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = server
    entry = import_torchvision().models.SqueezeNet1_1_Weights.DEFAULT
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(entry.value, "url", f"{address}/tiny-00000000.pth")
    torch.save({"weight": torch.ones(1)}, folder / "tiny-00000000.pth")
    assert "tiny-00000000.pth" in refusal("torchvision/squeezenet1_1", weights="pretrained")
    assert not list((tmp_path / "home").rglob("*.pth"))


def test_published_files_load_with_their_old_names_and_auxiliary_heads(tmp_path: Path) -> None:
    tv = import_torchvision().models
    official = tv.GoogLeNet_Weights.DEFAULT
    path = tmp_path / official.url.rsplit("/", 1)[-1]
    torch.save(tv.googlenet(weights=None, init_weights=False).state_dict(), path)
    loaded = load_model("torchvision/googlenet", weights=str(path))
    assert loaded.module.transform_input is True and outputs(loaded).shape == (1, 1000)

    state = load_model("torchvision/densenet121").module.state_dict()
    old = {name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value for name, value in state.items()}
    assert set(old) != set(state)
    dense = tmp_path / "dense.pth"
    torch.save(old, dense)
    assert load_model("torchvision/densenet121", weights=str(dense)).weights == str(dense)


@pytest.mark.parametrize(("depth", "share"), [(20, 0.917), (56, 0.934)])
def test_cifar_checkpoints_score_what_their_makers_say(depth: int, share: float) -> None:
    weights, images = SHARED / f"models/cifar10_resnet{depth}.pt", SHARED / "data/cifar10/select.npz"
    if not (weights.exists() and images.exists()):
        pytest.skip("the CIFAR checkpoint or images of ../shared are not here")
    loaded, data = load_model(f"cifar/resnet{depth}", weights=str(weights)), load_data(images)
    assert len(data) == 300 and data.classes[0] == "airplane"
    with torch.inference_mode():
        found = (loaded.module(data.images).argmax(1) == data.labels).float().mean().item()
    assert abs(found - share) < 0.035  # 300 images: 95 % of samples lie within 3 points of the share on all 10,000


@pytest.mark.parametrize("source", DEMOS)
def test_demos_score_on_the_report_part_what_their_log_says(source: str) -> None:
    assets = Path(models.__file__).resolve().parents[2] / "assets" / "demos"
    log = json.loads((assets / "log.json").read_text())[source.removeprefix("demo/")]
    loaded = load_model(source)
    assert loaded.data is not None
    report = load_data(loaded.data, split="report")
    with torch.inference_mode():
        correct = sum(
            int((loaded.module(images).argmax(1) == labels).sum())
            for images, labels in zip(report.images.split(100), report.labels.split(100), strict=True)
        )
    assert len(report) == log["images"]["report"]
    assert abs(correct - log["report"]["correct"]) <= 1  # another processor may round a tie the other way
    low, high = (0.98, 1.0) if loaded.data == "digits" else (0.90, 0.97)
    assert low <= correct / len(report) <= high
    assert all(value.isfinite().all() for value in read_state_dict(assets / f"{loaded.name}.safetensors").values())


def test_the_shipped_files_are_small() -> None:
    assets = Path(models.__file__).resolve().parents[2] / "assets" / "demos"
    assert sum(path.stat().st_size for path in assets.glob("*.safetensors")) < 8_000_000
