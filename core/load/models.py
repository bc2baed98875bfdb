"""One network from its name and its weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from core.errors import LoadError
from core.load.architectures import Blueprint, default_file, find_blueprint, list_families, list_models, with_classes
from core.load.weights import SUFFIXES, read_metadata, read_state_dict
from core.records import LoadedModel

SOURCE_KEY = "prunescope.source"  # in a file's own header, or in a .json beside it: the architecture its weights fit
RANDOM_SEED = 0
FAMILIES = ("demo", "torchvision", "timm", "cifar")

__all__ = ["build_seeded", "list_families", "list_models", "load_model", "register_reader"]

Reader = Callable[[Path], LoadedModel | None]
_readers: list[Reader] = []


def register_reader(reader: Reader) -> None:
    """Let ``reader`` open paths given as a model source. It returns None for a path that is not its own."""
    _readers.append(reader)


def load_model(source: str, *, weights: str | None = None, num_classes: int | None = None) -> LoadedModel:
    """A network in eval mode with one example input (1 x C x H x W, float32, standard normal, always the same).

    source: ``demo/digits-vgg``, ``cifar/resnet20`` (any 6n + 2), ``torchvision/resnet50``, ``timm/...``, or the path of
    something Prunescope exported. weights: the path of a state dict (.pt, .pth, .safetensors); ``"pretrained"`` for the
    authors' weights; ``"random"`` or None for random ones (seed 0; the global generator is left alone), except that
    None gives a demo the weights it was trained to. num_classes: size of the head; None takes it from the weights. With
    pretrained weights a head of another size starts random. Raises LoadError when the name is unknown, the file cannot
    be read safely, or its tensors do not fit.
    """
    if num_classes is not None and not 1 <= num_classes <= 1_000_000:
        raise LoadError(f"num_classes: expected 1 or more, found {num_classes}.")
    if source.partition("/")[0] not in FAMILIES:
        return _load_path(source, weights, num_classes)
    if weights == "random":
        return _load_random(source, num_classes)
    if weights is None:
        shipped = find_blueprint(source).shipped
        return _load_random(source, num_classes) if shipped is None else _load_own(source, num_classes)
    if weights == "pretrained":
        return _load_own(source, num_classes)
    return _load_file(source, weights, num_classes)


def _load_path(source: str, weights: str | None, num_classes: int | None) -> LoadedModel:
    path = Path(source)
    if not source.strip() or not path.exists():
        raise LoadError(
            f"There is no model called {source!r} and no file there. Names begin with {', '.join(FAMILIES)}, as in "
            "demo/digits-vgg; list_models() gives all."
        )
    for reader in _readers:
        loaded = reader(path)
        if loaded is not None:
            return loaded
    architecture = _named_architecture(path)
    if architecture is None or weights is not None:
        raise LoadError(
            f"{path.name or source} names no network of its own. Give the architecture as the source, such as "
            "torchvision/resnet50, and this path as weights."
        )
    return _load_file(architecture, str(path), num_classes)


def _named_architecture(path: Path) -> str | None:
    """What the file itself, or the .json of the same name beside it, says its weights fit."""
    if path.is_dir() or path.suffix not in SUFFIXES:
        return None
    note: object = read_metadata(path) if path.suffix == ".safetensors" else {}
    beside = path.with_suffix(".json")
    if not (isinstance(note, Mapping) and SOURCE_KEY in note) and beside.is_file() and beside.stat().st_size < 1 << 20:
        try:
            note = json.loads(beside.read_text(encoding="utf-8"))
        except (ValueError, OSError):
            note = {}
    named = note.get(SOURCE_KEY) if isinstance(note, Mapping) else None
    return named if isinstance(named, str) and named.partition("/")[0] in FAMILIES else None


def _load_random(source: str, num_classes: int | None) -> LoadedModel:
    blueprint = find_blueprint(source)
    blueprint = with_classes(blueprint, num_classes or blueprint.num_classes)
    return _finish(build_seeded(blueprint), blueprint, source, None)


def _load_own(source: str, num_classes: int | None) -> LoadedModel:
    """With the weights its makers trained: shipped beside this program for demos, downloaded for the others."""
    blueprint = find_blueprint(source, default_file(source))
    if blueprint.shipped is not None:
        origin, state = "shipped", read_state_dict(blueprint.shipped)
    elif blueprint.pretrained is not None:
        origin, state = "pretrained", blueprint.adapt(blueprint.pretrained())
    else:
        raise LoadError(f"There are no pretrained weights for {source}. Give the path of a state dict as weights.")
    wanted = with_classes(blueprint, num_classes or blueprint.num_classes)
    module = build_seeded(wanted)
    if wanted.num_classes != blueprint.num_classes:
        fresh = module.state_dict()
        for name in _head_entries(state, fresh, blueprint.num_classes, wanted.num_classes) or ():
            state[name] = fresh[name]
    _fill(module, state, source, origin)
    return _finish(module, wanted, source, origin)


def _load_file(source: str, weights: str, num_classes: int | None) -> LoadedModel:
    path = Path(weights)
    if not path.exists():
        raise LoadError(f'There is no weights file at {path}. Give a path, "pretrained" or "random".')
    state = read_state_dict(path)
    blueprint = find_blueprint(source, path.name)
    state = blueprint.adapt(state)
    blueprint = with_classes(blueprint, num_classes or blueprint.num_classes)
    module = build_seeded(blueprint)
    if num_classes is None:
        found = _classes_in(state, module.state_dict(), blueprint.num_classes)
        if found is not None:
            blueprint = with_classes(blueprint, found)
            module = build_seeded(blueprint)
    _fill(module, state, source, path.name)
    return _finish(module, blueprint, source, str(path))


def _classes_in(state: Mapping[str, Tensor], fresh: Mapping[str, Tensor], classes: int) -> int | None:
    """How many classes the file's head has, when that is all in which its shapes differ; else None."""
    differing = [name for name in fresh if name in state and state[name].shape != fresh[name].shape]
    if not differing or not state[differing[0]].ndim:
        return None
    found = state[differing[0]].shape[0]
    head = _head_entries(state, fresh, found, classes)
    return found if head is not None and set(head) == set(differing) else None


def _head_entries(
    state: Mapping[str, Tensor], fresh: Mapping[str, Tensor], in_state: int, in_fresh: int
) -> list[str] | None:
    """Entries that differ only in the number of classes along their first dimension; None when others differ too."""
    entries = []
    for name, value in fresh.items():
        other = state.get(name)
        if other is None or other.shape == value.shape:
            continue
        ends = (other.shape[:1], value.shape[:1])
        if ends != ((in_state,), (in_fresh,)) or other.shape[1:] != value.shape[1:]:
            return None
        entries.append(name)
    return entries


def build_seeded(blueprint: Blueprint, seed: int = RANDOM_SEED) -> nn.Module:
    """The blueprint's network with random weights from ``seed``; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return blueprint.build(blueprint.num_classes)


def _fill(module: nn.Module, state: Mapping[str, Tensor], source: str, origin: str) -> None:
    """Copies ``state`` into ``module``. Raises LoadError naming the first entries that do not fit."""
    expected = module.state_dict()
    # Old files lack the batch counter, which nothing reads in eval mode.
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in expected]
    shapes = [
        f"{name} is {_size(state[name])}, expected {_size(value)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    if missing or unexpected or shapes:
        facts = [_few("missing", missing), _few("unexpected", unexpected), _few("other shapes", shapes)]
        raise LoadError(
            f"The weights in {origin} do not fit {source}: {'; '.join(fact for fact in facts if fact)}. "
            "Name the architecture and the number of classes they were saved from."
        )
    module.load_state_dict(dict(state), strict=False)


def _few(title: str, names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{title}: {', '.join(names[:most])}{more}" if names else ""


def _size(value: Tensor) -> str:
    return " x ".join(str(length) for length in value.shape) or "one number"


def _finish(module: nn.Module, blueprint: Blueprint, source: str, weights: str | None) -> LoadedModel:
    example = torch.randn(1, *blueprint.shape, generator=torch.Generator().manual_seed(0))
    return LoadedModel(module.eval(), example, blueprint.name, source, weights, blueprint.data, blueprint.classes)
