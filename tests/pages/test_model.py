"""The model page: what the form opens, and what it refuses in one sentence while the open network stays."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from streamlit.testing.v1 import AppTest

from core import CoreError, load_data, load_model
from core.keep import subject as subjects
from core.keep.store import open_store
from pages.components import forms, work

PAGE = Path(__file__).parents[2] / "pages" / "1_Model.py"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path / "home"))
    yield tmp_path
    monkeypatch.setenv("PRUNESCOPE_HOME", str(tmp_path / "home"))
    open_store().close()


@pytest.fixture
def app() -> AppTest:
    found = AppTest.from_file(PAGE, default_timeout=60).run()
    assert not found.exception
    assert "digits-vgg" in shown(found)
    return found


def shown(app: AppTest) -> str:
    return " ".join(element.value for element in (*app.markdown, *app.caption, *app.subheader, *app.info))


def press(app: AppTest) -> AppTest:
    next(button for button in app.button if button.label == "Open").click()
    app.run()
    assert not app.exception
    return app


def refused(app: AppTest, *words: str) -> None:
    """One sentence that holds ``words``, no traceback, and the demo is still open."""
    assert len(app.error) == 1
    sentence = app.error[0].value
    assert all(word in sentence for word in words), sentence
    assert "Traceback" not in sentence
    assert "digits-vgg" in shown(app)
    app.run()
    assert not app.error
    assert "digits-vgg" in shown(app)


def choose_weights(app: AppTest, family: str, source: str, path: Path) -> AppTest:
    app.button_group(key="model-family").set_value(family)
    app.run()
    app.selectbox(key=f"model-{family}").set_value(source)
    app.radio(key=f"weights-{family}").set_value("From a file")
    app.run()
    app.text_input(key="weights-path").set_value(str(path))
    return press(app)


def choose_images(app: AppTest, kind: str, path: Path | str) -> AppTest:
    app.selectbox(key="data-source").set_value(kind)
    app.run()
    app.text_input(key="data-path").set_value(str(path))
    return press(app)


def test_it_shows_the_open_network_its_layers_and_its_images(app: AppTest) -> None:
    table = app.dataframe[-1].value
    assert next(iter(table["Layer"])) == "features.0"
    assert list(table["May leave"])[-1].startswith("no: feeds the output")
    assert int(table["MACs"].sum()) == 44_680_768
    assert "10 classes" in shown(app)


def test_another_demo_opens_and_random_weights_are_named(app: AppTest) -> None:
    app.selectbox(key="model-demo").set_value("demo/digits-resnet")
    app.radio(key="weights-demo").set_value("Random")
    press(app)
    assert not app.error
    assert "digits-resnet" in shown(app)
    assert "its accuracy means nothing" in shown(app)
    again = AppTest.from_file(PAGE, default_timeout=60)
    again.query_params["w"] = token(app)
    again.run()
    assert "digits-resnet" in shown(again)


def token(app: AppTest) -> str:
    found = app.query_params["w"]
    return found[0] if isinstance(found, list) else found


def test_a_network_without_images_gets_noise_and_says_so(app: AppTest) -> None:
    app.button_group(key="model-family").set_value("cifar")
    app.run()
    app.radio(key="weights-cifar").set_value("Random")
    press(app)
    assert not app.error
    assert "ResNet-20" in shown(app)
    assert "random images with random labels: accuracy means nothing" in shown(app)


def test_weights_from_a_file_open(app: AppTest, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file(load_model("cifar/resnet20").module.state_dict(), file)
    choose_weights(app, "cifar", "cifar/resnet20", file)
    assert not app.error
    assert "Weights from mine.safetensors" in shown(app)


def test_a_text_file_is_no_checkpoint(app: AppTest, tmp_path: Path) -> None:
    (tmp_path / "notes.pt").write_text("these are my notes")
    choose_weights(app, "cifar", "cifar/resnet20", tmp_path / "notes.pt")
    refused(app, "notes.pt")


def test_weights_of_another_architecture_do_not_fit(app: AppTest, tmp_path: Path) -> None:
    torch.save(load_model("demo/digits-resnet").module.state_dict(), tmp_path / "other.pt")
    choose_weights(app, "cifar", "cifar/resnet20", tmp_path / "other.pt")
    refused(app, "The weights in other.pt do not fit", "cifar/resnet20")


def test_an_upload_beside_a_path_is_not_silently_preferred() -> None:
    both = forms.Request("cifar/resnet20", forms.FILE, io.BytesIO(b"x"), "mine.pt", " /other.pt ")
    images = forms.Request("demo/digits-vgg", data="npz", data_file=io.BytesIO(b"x"), data_name="a.npz", data_path="/b")
    for request, names in ((both, ("mine.pt", "/other.pt.")), (images, ("a.npz", "/b."))):
        with pytest.raises(CoreError, match="Expected one file") as caught:
            forms.prepare(request)
        assert all(name in str(caught.value) for name in names)


class Trap:
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_a_malicious_pickle_does_not_run(app: AppTest, tmp_path: Path) -> None:
    torch.save({"weight": Trap(str(tmp_path / "sprung"))}, tmp_path / "evil.pt")
    choose_weights(app, "cifar", "cifar/resnet20", tmp_path / "evil.pt")
    time.sleep(0.1)
    assert not (tmp_path / "sprung").exists()
    refused(app, "evil.pt")


@pytest.mark.parametrize(("path", "words"), [("", "found none"), ("/no/such/file.pt", "There is no weights file")])
def test_a_missing_weights_file_is_named(app: AppTest, path: str, words: str) -> None:
    app.radio(key="weights-demo").set_value("From a file")
    app.run()
    app.text_input(key="weights-path").set_value(path)
    press(app)
    refused(app, words)


def test_a_folder_without_images_and_a_folder_of_one_class_are_refused(app: AppTest, tmp_path: Path) -> None:
    (tmp_path / "empty" / "cats").mkdir(parents=True)
    (tmp_path / "empty" / "dogs").mkdir()
    choose_images(app, "folder", tmp_path / "empty")
    refused(app, "no images")
    (tmp_path / "one" / "cats").mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (8, 8)).save(tmp_path / "one" / "cats" / f"{number}.png")
    choose_images(app, "folder", tmp_path / "one")
    refused(app, "one class", "cats")


def npz(path: Path, count: int) -> Path:
    file = io.BytesIO()
    np.savez(file, images=np.zeros((count, 8, 8, 3), np.uint8), labels=np.zeros(count, np.int64))
    path.write_bytes(file.getvalue())
    return path


@pytest.mark.parametrize(("count", "words"), [(0, "0 images"), (2, "at least 3 are needed")])
def test_too_few_images_to_calibrate_on_are_refused(app: AppTest, tmp_path: Path, count: int, words: str) -> None:
    choose_images(app, "npz", npz(tmp_path / "tiny.npz", count))
    refused(app, words)


def test_images_with_other_channels_are_refused(app: AppTest, tmp_path: Path) -> None:
    choose_images(app, "npz", npz(tmp_path / "rgb.npz", 6))
    refused(app, "channel")


@pytest.mark.parametrize("path", ["", "/no/such/folder"])
def test_a_missing_folder_is_named(app: AppTest, path: str) -> None:
    choose_images(app, "folder", path)
    refused(app, "path")


def test_a_network_that_cannot_be_opened_leaves_a_way_out(tmp_path: Path) -> None:
    """A link to work whose weights file has gone: the form is still there, and the demo one press away."""
    from core.keep.workspace import Workspace, new_token

    lost = Workspace(new_token(), "cifar/resnet20", weights_path=str(tmp_path / "gone.pt"), data_source="random")
    open_store().save_workspace(lost.token, lost.to_json(), 0)
    app = AppTest.from_file(PAGE, default_timeout=60)
    app.query_params["w"] = lost.token
    app.run()
    assert "gone.pt" in app.error[0].value
    app.button_group(key="model-family").set_value("demo")
    app.run()
    press(app)
    assert not app.error
    assert "digits-vgg" in shown(app)


def open_untrained(app: AppTest, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for a CIFAR network; the page says at once what is happening."""
    monkeypatch.setattr(work, "PATIENCE_S", 0.05)
    app.button_group(key="model-family").set_value("cifar")
    app.run()
    app.selectbox(key="model-cifar").set_value(f"cifar/{name}")
    app.radio(key="weights-cifar").set_value("Random")
    press(app)


def test_a_slow_network_says_what_is_happening_and_can_be_given_up(
    app: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was open stays in use meanwhile, and a cancel leaves it so."""
    free = threading.Event()
    monkeypatch.setattr(subjects, "load_data", lambda *_, **__: free.wait(60) and load_data("digits"))
    open_untrained(app, "resnet44", monkeypatch)
    assert "**Opening resnet44**" in shown(app) and "digits-vgg" in shown(app)
    next(button for button in app.button if button.label == "Cancel").click()
    app.run()
    assert "**Opening" not in shown(app) and "digits-vgg" in shown(app) and not app.error
    free.set()


def test_a_slow_network_opens_when_it_is_there(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    monkeypatch.setattr(subjects, "load_data", lambda *args, **more: free.wait(60) and load_data(*args, **more))
    open_untrained(app, "resnet32", monkeypatch)
    assert "**Opening resnet32**" in shown(app)
    free.set()
    monkeypatch.setattr(work, "PATIENCE_S", 60.0)
    app.run()
    assert "### ResNet-32 (CIFAR)" in shown(app) and "**Opening" not in shown(app)


def test_a_fault_calls_files_as_their_owner_called_them() -> None:
    """Kept files bear names of our own, which nobody else knows."""
    weights = forms.Choice("cifar/resnet20", "/kept/net-12ab.safetensors", "", "my net.pt")
    assert weights.in_words("net-12ab.safetensors does not fit.") == "my net.pt does not fit."
    images = forms.Choice("cifar/resnet20", "random", "/kept/photos-34cd.npz?size=32", "", "photos.npz")
    assert images.in_words("photos-34cd.npz lacks labels.") == "photos.npz lacks labels."
