"""Networks that no repair makes again: fine-tuned ones, and those a recipe gave. Kept as files of weights.

A file is named by its content and holds no code. All files together are bounded: those used longest ago leave.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from core.apply import build_network, prune_model
from core.config import home_folder
from core.errors import LoadError, PruneError
from core.export.checkpoint import with_versions
from core.export.files import write_whole
from core.keep.subject import Subject
from core.load import read_state_dict
from core.load.weights import read_metadata
from core.records import Plan, Trace, fingerprint_state

KEPT = "kept-"
NAME = re.compile(r"kept-[0-9a-f]{16}")
MAX_FILE_BYTES, MAX_BYTES = 1 << 30, 4 << 30
PLAN_KEY, ORIGIN_KEY = "prunescope.plan", "prunescope.origin"


def keep_network(module: nn.Module, plan: Plan) -> str:
    """Write the weights of a pruned network; the name under which ``load_network`` finds them again.

    Raises PruneError when they are larger than MAX_FILE_BYTES.
    """
    state = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    size = sum(value.numel() * value.element_size() for value in state.values())
    if size > MAX_FILE_BYTES:
        raise PruneError(
            f"This network has {size / 2**20:,.0f} MiB of weights; at most {MAX_FILE_BYTES >> 20:,} MiB are kept. "
            "Prune more, or use the engine from Python."
        )
    name = f"{KEPT}{fingerprint_state(state)}"
    path = _path(name)
    header = {PLAN_KEY: plan.key, ORIGIN_KEY: plan.origin[:2000]}
    write_whole(path, lambda partial: safetensors.torch.save_file(state, partial, header))
    _make_room(path)
    return name


def is_kept(repair: str) -> bool:
    """Whether a repair is the name of a kept network rather than a way to build one."""
    return repair.startswith(KEPT)


def has_network(name: str) -> bool:
    """Whether the weights are still there; the oldest leave when many are kept."""
    return NAME.fullmatch(name) is not None and _path(name).is_file()


def load_network(name: str, module: nn.Module, trace: Trace, plan: Plan) -> tuple[nn.Module, Plan]:
    """The kept network, in eval mode, and its plan with how it was made in ``origin``.

    module, trace: the dense network that ``plan`` prunes. Raises PruneError when the file has left or is damaged, or
    belongs to another plan.
    """
    if not has_network(name):
        raise PruneError(
            "The weights of this network are no longer kept on this server. Make it again on the page Recover, or "
            "choose a repair that can be built at once."
        )
    path = _path(name)
    try:
        told = read_metadata(path)
        if told.get(PLAN_KEY) != plan.key:
            raise PruneError("These kept weights belong to another plan. Choose a repair for this one.")
        network = prune_model(module, trace, plan, verify=False)
        network.load_state_dict(with_versions(read_state_dict(path), network), strict=True)
    except (RuntimeError, LoadError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PruneError(f"The kept weights do not fit the network of this plan: {reason}. Make it again.") from error
    os.utime(path)
    return network.eval(), Plan(plan.kept, told.get(ORIGIN_KEY) or plan.origin)


def build_any(
    subject: Subject,
    plan: Plan,
    repair: str,
    *,
    on_progress: Callable[..., None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> tuple[nn.Module, Plan]:
    """The network of ``plan``: a kept one, or built by a method of REPAIRS from calibration images.

    Errors as of ``load_network`` and ``build_network``.
    """
    dense, trace = subject.loaded.module, subject.trace
    if is_kept(repair):
        return load_network(repair, dense, trace, plan)
    told: dict[str, Any] = {"on_progress": on_progress, "cancelled": cancelled}
    return build_network(dense, trace, plan, subject.data.calibration, repair, **told)


def _path(name: str) -> Path:
    folder = home_folder() / "networks"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{name}.safetensors"


def _make_room(newest: Path) -> None:
    """Only whole files count; one that another process takes away meanwhile is gone all the same."""
    found = []
    for path in newest.parent.glob(f"{KEPT}*.safetensors"):
        try:
            found.append((path.stat().st_mtime, path.stat().st_size, path))
        except FileNotFoundError:
            continue
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found, key=lambda one: one[0]):
        if total <= MAX_BYTES:
            break
        if path != newest:
            path.unlink(missing_ok=True)
            total -= size
