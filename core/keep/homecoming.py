"""A network that was trained further elsewhere, back on the desk as the network of its plan."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from core.apply import prune_model
from core.errors import CoreError, LoadError
from core.export.checkpoint import with_versions
from core.keep.networks import PLAN_KEY, keep_network
from core.keep.subject import Subject, uploads_folder
from core.keep.uploads import keep_stream
from core.load import read_state_dict
from core.load.weights import read_metadata
from core.records import Plan

LIMIT_BYTES = 1 << 30


def take_back(path: str | Path, subject: Subject, plan: Plan) -> str:
    """Keep the weights in ``path`` (finetuned.safetensors of an export's finetune.py, or any state dict of the pruned
    network) as the network of ``plan``; the name it is built by from now on, as a repair.

    Nothing is unpickled. Raises LoadError when the file cannot be read, says that it belongs to another plan, or does
    not fit the network of this one.
    """
    path = Path(path)
    state = read_state_dict(path, limit_bytes=LIMIT_BYTES)
    told = read_metadata(path).get(PLAN_KEY) if path.suffix == ".safetensors" else None
    if told is not None and told != plan.key:
        raise LoadError(
            f"{path.name} was trained from another plan (its key is {told[:16]}, this one's {plan.key}). Open the plan "
            "it was exported with, and bring it back there."
        )
    network = prune_model(subject.loaded.module, subject.trace, plan, verify=False)
    expected = network.state_dict()
    wrong = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(value.shape)}"
        if name in state
        else f"{name} is missing"
        for name, value in expected.items()
        if (name not in state and not name.endswith("num_batches_tracked"))
        or (name in state and state[name].shape != value.shape)
    ]
    wrong += [f"{name} is not in it" for name in state if name not in expected]
    bad = [name for name, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if wrong:
        raise LoadError(f"{path.name} does not fit the network of this plan: {'; '.join(wrong[:2])}.")
    if bad:
        raise LoadError(f"{path.name} holds numbers that are not finite, in {bad[0]}: its training went astray.")
    network.load_state_dict(with_versions(state, network), strict=False)
    return keep_network(network.eval(), plan)


def take_back_upload(file: IO[bytes], name: str, owner: str, subject: Subject, plan: Plan) -> str:
    """``take_back`` of a file that arrives from a browser; nothing of it stays beside what is kept."""
    if Path(name).suffix.lower() != ".safetensors":
        raise LoadError(f"Expected a .safetensors file, as finetune.py writes it; found {Path(name).name!r}.")
    raw = uploads_folder(owner) / "returning.safetensors"
    try:
        keep_stream(file, raw, name, LIMIT_BYTES)
        return take_back(raw, subject, plan)
    except CoreError as error:
        raise LoadError(str(error).replace(raw.name, Path(name).name)) from error
    finally:
        raw.unlink(missing_ok=True)
