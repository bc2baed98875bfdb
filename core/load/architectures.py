"""Every network that can be asked for by name, as a blueprint: how to build it and what goes in.

Four families: ``demo/`` (ours, trained), ``cifar/`` (6n + 2 layers), ``torchvision/`` (its classification models) and
``timm/`` (optional package).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError

import torch
from torch import Tensor, nn

from core.errors import LoadError
from core.load.cifar_resnet import CifarResNet
from core.load.demo_nets import DigitsResNet, DigitsVgg, ShapesCnn
from core.load.shapes import CLASSES as SHAPES
from core.load.torchvision_guard import has_timm, import_timm, import_torchvision
from core.load.weights import read_state_dict
from core.registry import Registry, Row, unknown_name

DEMOS = Path(__file__).resolve().parents[2] / "assets" / "demos"
DIGITS = tuple(str(digit) for digit in range(10))
IMAGENET_CLASSES = 1000
CIFAR_DEPTHS = (20, 32, 44, 56, 110)


class Choice(NamedTuple):
    """One line of a menu: what code says, what a person reads, and one plain sentence."""

    source: str
    title: str
    summary: str


@dataclass(frozen=True)
class Blueprint:
    """How to build one network.

    build: number of classes -> module. shape: (C, H, W) of one input image. data: the data source that suits it.
    shipped: the file of its own trained weights, for demos. pretrained: fetches the authors' weights.
    adapt: brings older or wider state dicts to today's names.
    """

    name: str
    build: Callable[[int], nn.Module]
    shape: tuple[int, int, int]
    num_classes: int
    data: str | None = None
    classes: tuple[str, ...] | None = None
    shipped: Path | None = None
    pretrained: Callable[[], dict[str, Tensor]] | None = None
    adapt: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict


MODELS: Registry[Blueprint] = Registry("model")


def _add_demo(
    name: str,
    title: str,
    summary: str,
    build: Callable[[int], nn.Module],
    shape: tuple[int, int, int],
    data: str,
    classes: tuple[str, ...],
) -> None:
    shipped = DEMOS / f"{name}.safetensors"
    blueprint = Blueprint(name, build, shape, len(classes), data, classes, shipped)
    MODELS.add(Row(f"demo/{name}", blueprint, title, summary, source="assets/demos/make_demos.py"))


_add_demo(
    "digits-vgg",
    "Digits, plain (VGG)",
    "Eight convolutions in a row with batch norm, trained on scikit-learn's handwritten digits.",
    DigitsVgg,
    (1, 32, 32),
    "digits",
    DIGITS,
)
_add_demo(
    "digits-resnet",
    "Digits, residual (ResNet)",
    "Six residual blocks, so channels hang together across shortcuts; the same handwritten digits.",
    DigitsResNet,
    (1, 32, 32),
    "digits",
    DIGITS,
)
_add_demo(
    "shapes-cnn",
    "Shapes and textures, mixed blocks",
    "Plain, depthwise, two-branch and residual blocks, trained on drawn colour pictures of shapes and textures.",
    ShapesCnn,
    (3, 48, 48),
    "shapes",
    SHAPES,
)


def _cifar(depth: int) -> Blueprint:
    return Blueprint(f"ResNet-{depth} (CIFAR)", lambda classes: CifarResNet(depth, classes), (3, 32, 32), 10)


for _depth in CIFAR_DEPTHS:
    MODELS.add(
        Row(
            f"cifar/resnet{_depth}",
            _cifar(_depth),
            f"ResNet-{_depth} (CIFAR)",
            f"The {_depth}-layer ResNet for 32 x 32 images; bring its weights as a file.",
            source="He, Zhang, Ren, Sun 2016, arXiv 1512.03385",
        )
    )


def find_blueprint(source: str, official_file: str | None = None) -> Blueprint:
    """The blueprint of ``family/name``. ``official_file``: the name of a weights file that torchvision published, whose
    settings (input size, input transform, class names) then apply. Raises LoadError for an unknown name."""
    family, _, name = source.partition("/")
    if family == "torchvision":
        return _torchvision(name, official_file)
    if family == "timm":
        return _timm(name)
    depth = re.fullmatch(r"resnet(\d{1,4})", name)
    if family == "cifar" and depth and int(depth[1]) >= 8 and int(depth[1]) % 6 == 2 and int(depth[1]) <= 1202:
        return _cifar(int(depth[1]))
    if source in MODELS:
        return MODELS[source]
    raise unknown_name("model", source, [*MODELS.names(), "torchvision/resnet50", "timm/resnet50"], LoadError)


def _torchvision(name: str, official_file: str | None) -> Blueprint:
    models = import_torchvision().models
    known = torchvision_names()
    if name not in known:
        near = unknown_name("torchvision classification model", name, list(known), LoadError)
        raise near
    entries = list(models.get_model_weights(name))
    chosen = next((entry for entry in entries if official_file == entry.url.rsplit("/", 1)[-1]), None)
    options: dict[str, Any] = {}
    size = 224
    if name in ("googlenet", "inception_v3"):
        # Auxiliary heads run in training only: a pruned copy in eval mode has no use for them.
        size = 299 if name == "inception_v3" else 224
        options = {"aux_logits": False, "init_weights": True, "transform_input": chosen is not None}
    if chosen is not None and name.startswith("vit_"):
        size = chosen.meta["min_size"][0]
        options = {"image_size": size}
    return Blueprint(
        name,
        lambda classes: models.get_model(name, weights=None, num_classes=classes, **options),
        (3, size, size),
        IMAGENET_CLASSES,
        classes=tuple(chosen.meta["categories"]) if chosen else None,
        pretrained=lambda: _download(models.get_model_weights(name).DEFAULT.url),
        adapt=_adapt_torchvision,
    )


def default_file(source: str) -> str | None:
    """The name of the file that ``weights="pretrained"`` fetches for a torchvision source, None for other families."""
    family, _, name = source.partition("/")
    if family != "torchvision" or name not in torchvision_names():
        return None
    weights = import_torchvision().models.get_model_weights(name)
    return weights.DEFAULT.url.rsplit("/", 1)[-1]


def _adapt_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drops auxiliary heads; renames the "norm.1" of published DenseNets, which predate a ban on dots in names."""
    dotted = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")
    kept = {name: value for name, value in state.items() if not name.startswith(("AuxLogits.", "aux1.", "aux2."))}
    return {dotted.sub(r"\1\2", name): value for name, value in kept.items()}


def _download(url: str) -> dict[str, Tensor]:
    """The state dict behind ``url``, through the usual hub cache. Raises LoadError when it cannot be fetched."""
    file = url.rsplit("/", 1)[-1]
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    digest = re.search(r"-([a-f0-9]{8,})\.", file)
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), digest[1] if digest else None, progress=False)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: the digest does not match
        if isinstance(error, HTTPError):
            error.close()  # it holds the answer's socket open
        raise LoadError(
            f"Could not fetch {url} ({error}). Connect to the network, or download {file} elsewhere and give its path "
            "as weights."
        ) from error
    return read_state_dict(path)


def _timm(name: str) -> Blueprint:
    timm = import_timm()
    if not timm.is_model(name):
        raise unknown_name("timm model", name, timm.list_models(), LoadError)
    config = timm.get_pretrained_cfg(name)
    classes = getattr(config, "num_classes", None) or IMAGENET_CLASSES
    shape = tuple(getattr(config, "input_size", None) or (3, 224, 224))

    def fetch() -> dict[str, Tensor]:
        try:
            return timm.create_model(name, pretrained=True).state_dict()
        except Exception as error:  # timm passes on whatever its download client and its registry raise
            reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            raise LoadError(
                f"Could not fetch the pretrained weights of timm/{name} ({reason}). Connect to the network, or give "
                "the path of a state dict as weights."
            ) from error

    return Blueprint(name, lambda count: timm.create_model(name, num_classes=count), shape, classes, pretrained=fetch)


@cache
def torchvision_names() -> tuple[str, ...]:
    """Torchvision's classification models."""
    models = import_torchvision().models
    return tuple(models.list_models(module=models))


def list_families() -> list[str]:
    """The families that can be opened here; nothing heavy is imported to tell."""
    return ["demo", "cifar", "torchvision", *(["timm"] if has_timm() else [])]


def list_models(family: str | None = None) -> list[Choice]:
    """Every model by name: demos, CIFAR ResNets, torchvision's, and timm's when it is installed; or one family's."""
    if family is None:
        return [choice for one in list_families() for choice in list_models(one)]
    if family not in list_families():
        raise unknown_name("family of models", family, list_families(), LoadError)
    if family in ("torchvision", "timm"):
        names = torchvision_names() if family == "torchvision" else import_timm().list_models()
        summary = f"A {family} classification network, built for ImageNet: random weights, its authors', or a file."
        return [Choice(f"{family}/{name}", name, summary) for name in names]
    return [Choice(row.name, row.title, row.summary) for row in MODELS if row.name.startswith(f"{family}/")]


def with_classes(blueprint: Blueprint, num_classes: int) -> Blueprint:
    """The blueprint with another head. Class names and the suggested data stay only when the head does."""
    if num_classes == blueprint.num_classes:
        return blueprint
    return replace(blueprint, num_classes=num_classes, data=None, classes=None)
