"""Forms whose choices outlive their page, and the one that opens a network with its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import streamlit as st

from core import (
    CoreError,
    Opening,
    Subject,
    begin_opening,
    data_address,
    keep_images,
    keep_weights,
    list_data,
    list_families,
    list_models,
)
from pages.components import network_file, session

FAMILIES = {
    "demo": "Demos",
    "cifar": "CIFAR ResNets",
    "torchvision": "torchvision",
    "timm": "timm",
    network_file.FAMILY: "From a file",
}
OWN, RANDOM, PRETRAINED, FILE = "Trained here", "Random", "Its authors'", "From a file"
FOLDER, NPZ, SUITED = "folder", "npz", ""
ROOTED = ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST")  # kept by torchvision under a root folder


@dataclass(frozen=True)
class Request:
    """What the form says. ``model``: a name, or network_file.FAMILY for a file, which brings its own weights.
    ``weights``: OWN, RANDOM, PRETRAINED or FILE. A file comes as an upload or a path on the server's own disk.
    ``data``: a name of ``list_data``, FOLDER, NPZ, or SUITED for what suits the model. ``size``: edge of the images in
    pixels, 0 = as the network was made for."""

    model: str
    weights: str = OWN
    weights_file: IO[bytes] | None = None
    weights_name: str = ""
    weights_path: str = ""
    data: str = SUITED
    data_file: IO[bytes] | None = None
    data_name: str = ""
    data_path: str = ""
    size: int = 0
    model_file: IO[bytes] | None = None
    model_name: str = ""
    model_path: str = ""


@dataclass(frozen=True)
class Choice:
    """What opens a network, its files kept. ``name``: of the person's own file, as it was called; ``data_name``: of
    their own images."""

    model: str
    weights: str
    data: str
    name: str
    data_name: str = ""

    @property
    def shown(self) -> str:
        """The network, to be read."""
        return self.name or Path(self.model).name

    def begin(self, *, anew: bool = False) -> Opening[Subject]:
        return begin_opening(self.model, self.weights, self.data, who=waiting(), anew=anew)

    def in_words(self, sentence: str) -> str:
        """``sentence`` with each file called as the person called it."""
        for kept, name in ((self.weights or self.model, self.name), (self.data.partition("?")[0], self.data_name)):
            sentence = sentence.replace(Path(kept).name, name) if kept and name else sentence
        return sentence


def waiting() -> str:
    """In whose name a network is opened from the form."""
    return f"form-{session.owner()}"


def prepare(request: Request) -> Choice | None:
    """Check and keep what the form brings. Raises CoreError with a sentence for the user. None: a network file that can
    only be looked at; the page shows what is in it."""
    model, weights, name = request.model, "", ""
    if request.model == network_file.FAMILY:
        if request.model_file is not None and request.model_path.strip():
            raise _two_ways(request.model_name, request.model_path)
        found, name = network_file.take(request.model_file, request.model_name, request.model_path)
        if found.why_not:
            return None
        model = str(found.path)
    else:
        weights, name = _weights(request)
    images = request.data_name if request.data == NPZ and request.data_file is not None else ""
    return Choice(model, weights, _data(request), name, images)


def _weights(request: Request) -> tuple[str, str]:
    if request.weights == RANDOM:
        return "random", ""
    if request.weights == PRETRAINED:
        return "pretrained", ""
    if request.weights == OWN:
        return "", ""
    if request.weights_file is not None and request.weights_path.strip():
        raise _two_ways(request.weights_name, request.weights_path)
    if request.weights_file is not None:
        kept = keep_weights(request.weights_file, request.weights_name, session.owner())
        return str(kept), request.weights_name
    path = Path(request.weights_path.strip()).expanduser()
    if not request.weights_path.strip():
        raise CoreError("Expected a weights file; found none. Upload one (.pt, .pth or .safetensors) or give its path.")
    if not path.is_file():
        raise CoreError(f"There is no weights file at {path}. Check the path, or upload the file.")
    with path.open("rb") as file:
        return str(keep_weights(file, path.name, session.owner())), path.name


def _two_ways(name: str, path: str) -> CoreError:
    return CoreError(f"Expected one file; found the upload {name} and the path {path.strip()}. Take one of them away.")


def _data(request: Request) -> str:
    size = request.size or None
    if request.data == NPZ and request.data_file is not None and request.data_path.strip():
        raise _two_ways(request.data_name, request.data_path)
    if request.data == NPZ and request.data_file is not None:
        return data_address(str(keep_images(request.data_file, request.data_name, session.owner())), size=size)
    if request.data in (NPZ, FOLDER):
        path = request.data_path.strip()
        if not path:
            kind = "an .npz file" if request.data == NPZ else "a folder with one folder of images per class"
            raise CoreError(f"Expected {kind}; found no path. Type the path, or choose other images.")
        if not Path(path).expanduser().exists():
            raise CoreError(f"There are no images at {path}. Check the path.")
        return data_address(str(Path(path).expanduser()), size=size)
    if request.data in ROOTED:
        return data_address(request.data, root=request.data_path.strip(), size=size)
    return data_address(request.data, size=size) if request.data else ""


def choose_subject() -> Request | None:
    """Draw the form; what it says when "Open" was pressed in this run, else None."""
    st.markdown("##### Network")
    model = _model()
    file, path = network_file.choose() if model == network_file.FAMILY else (None, "")
    weights, weights_file, weights_path = _weights_choice(model)
    st.markdown("##### Images")
    data, data_file, data_path, size = _data_choice(model)
    if not st.button("Open", type="primary", icon=":material/play_arrow:"):
        return None
    return Request(
        model,
        weights,
        weights_file,
        weights_file.name if weights_file else "",
        weights_path,
        data,
        data_file,
        data_file.name if data_file else "",
        data_path,
        size,
        file,
        file.name if file else "",
        path,
    )


def _model() -> str:
    now = session.workspace().model_source or "demo/digits-vgg"
    begun = now.partition("/")[0]
    family = st.segmented_control(
        "Family",
        [*list_families(), network_file.FAMILY],
        format_func=FAMILIES.get,
        default=begun if begun in list_families() else network_file.FAMILY,
        key="model-family",
        required=True,
    )
    if family == network_file.FAMILY:
        return family
    sources = {choice.source: choice for choice in _models(family)}
    known = list(sources)
    source = st.selectbox(
        "Network",
        known,
        index=known.index(now) if now in known else 0,
        format_func=lambda one: sources[one].title,
        key=f"model-{family}",
    )
    st.caption(sources[source].summary)
    return source


@st.cache_data(show_spinner="Looking which networks there are ...")
def _models(family: str) -> list[Any]:
    return list_models(family)


def _weights_choice(model: str) -> tuple[str, Any, str]:
    family = model.partition("/")[0]
    if family == network_file.FAMILY:
        return OWN, None, ""
    offered: Sequence[str] = {"demo": (OWN, RANDOM, FILE), "cifar": (FILE, RANDOM)}.get(
        family, (RANDOM, PRETRAINED, FILE)
    )
    weights = st.radio("Weights", offered, horizontal=True, key=f"weights-{family}")
    if weights == PRETRAINED:
        st.caption("Downloads the file that its authors published, once. Needs the network.")
    if weights != FILE:
        return weights, None, ""
    file = st.file_uploader(
        "State dict (.pt, .pth, .safetensors)", type=["pt", "pth", "safetensors"], key="weights-file"
    )
    path = st.text_input("or a path on this computer", key="weights-path", placeholder="/path/to/weights.pt")
    return weights, file, path


def _data_choice(model: str) -> tuple[str, Any, str, int]:
    titles = {choice.source: choice.title for choice in list_data()}
    summaries = {choice.source: choice.summary for choice in list_data()}
    titles = {SUITED: "What suits the network", **titles, FOLDER: "A folder of images", NPZ: "An .npz file"}
    summaries[SUITED] = "The images a demo was trained on; random noise for any other network."
    summaries[FOLDER] = "One folder per class, with images in it; or train and val folders of such folders."
    summaries[NPZ] = "Arrays images (uint8, N x H x W x 3) and labels; optionally mean, std and classes."
    data = st.selectbox("Images", list(titles), format_func=titles.get, key="data-source")
    st.caption(summaries[data])
    file, path, size = None, "", 0
    if data == NPZ:
        file = st.file_uploader("Images (.npz)", type=["npz"], key="data-file")
    if data in (NPZ, FOLDER):
        path = st.text_input("or a path on this computer" if data == NPZ else "Path on this computer", key="data-path")
    if data in ROOTED:
        path = st.text_input("Folder that holds it (torchvision's root)", key="data-root")
    if data not in (SUITED, "digits"):
        size = st.number_input(
            "Edge in pixels (0: as the network was made for)", min_value=0, max_value=1024, step=8, key="data-size"
        )
    return data, file, path, int(size)
