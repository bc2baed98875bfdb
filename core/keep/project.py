"""A project file: one person's work to take elsewhere, and to open again. A zip of plain JSON, weights and images.

It holds the workspace (network, plan, undo, named plans, what was measured of them) and the files that were uploaded
for it. The workspace's own token, which opens it to everybody who knows it, is nowhere in it. Curves and scores are
not in it either: what everybody on a server shares is never taken from a stranger's file; they are measured again
where they are missing.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from core.errors import CoreError, LoadError
from core.keep.model_files import MODEL_SUFFIXES, keep_model_file
from core.keep.subject import data_address, split_address, uploads_folder
from core.keep.uploads import UPLOAD_LIMIT_BYTES, keep_images, keep_weights
from core.keep.workspace import Workspace, new_token

FORMAT = 1
SUFFIX = ".prunescope"
STATE, WEIGHTS, IMAGES, NETWORK = "project.json", "weights/", "images/", "network/"
MAX_STATE_BYTES = 32 << 20
MAX_FILES = 4
OF_CLASS = "class_"  # choices that belong to a class on this server, a teacher's key among them


def pack_project(workspace: Workspace) -> bytes:
    """The work as a project file. Files too large for an upload stay out; the project names them all the same."""
    choices = {name: value for name, value in workspace.choices.items() if not name.startswith(OF_CLASS)}
    state: dict[str, Any] = {**workspace.to_json(), "token": "", "choices": choices}
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED) as archive:
        text = json.dumps({"format": FORMAT, "workspace": state})
        archive.writestr(STATE, text.replace(workspace.token, ""))  # it is part of the paths of uploads and exports
        for kind, path in _own_files(workspace).items():
            archive.write(path, kind + path.name)
    return found.getvalue()


def open_project(file: IO[bytes]) -> Workspace:
    """The work in a project file, under a token of its own, saved nowhere yet; its files are kept as uploads of that
    token. Nothing is unpickled. Raises LoadError for what is no project file, or one that is too large."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = _checked(archive)
            with archive.open(STATE) as opened:
                text = opened.read(MAX_STATE_BYTES + 1)
            if len(text) > MAX_STATE_BYTES:
                raise LoadError(f"{STATE} in this project is larger than {MAX_STATE_BYTES >> 20} MiB.")
            work = _read(text)
            return _with_files(archive, names, replace(work, token=new_token()))
    except (zipfile.BadZipFile, OSError, KeyError, RuntimeError, NotImplementedError) as error:
        raise LoadError(f"Expected a project file ({SUFFIX}) made by Prunescope; this one cannot be read.") from error


def _own_files(workspace: Workspace) -> dict[str, Path]:
    """Uploaded files that the work needs: folder in the archive -> path."""
    home, found = uploads_folder(workspace.token).resolve(), {}
    for kind, text in ((WEIGHTS, workspace.weights_path), (IMAGES, split_address(workspace.data_source)[0])):
        path = Path(text).resolve() if text else None
        if path is not None and path.is_file() and path.parent == home and path.stat().st_size <= UPLOAD_LIMIT_BYTES:
            found[kind] = path
    network = Path(workspace.model_source).resolve() if workspace.model_source.endswith(MODEL_SUFFIXES) else home
    if network.is_file() and network.parent.parent == home and network.stat().st_size <= UPLOAD_LIMIT_BYTES:
        found[NETWORK] = network
    return found


def _checked(archive: zipfile.ZipFile) -> list[str]:
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    known = all(name == STATE or name.startswith((WEIGHTS, IMAGES, NETWORK)) for name in names)
    if STATE not in names or len(names) > MAX_FILES or not known:
        raise LoadError(f"Expected a project file ({SUFFIX}) made by Prunescope; this archive holds something else.")
    if sum(entry.file_size for entry in entries) > 3 * UPLOAD_LIMIT_BYTES + MAX_STATE_BYTES:
        most = f"{3 * UPLOAD_LIMIT_BYTES >> 20} MiB"
        raise LoadError(f"This project unpacks to more than {most}, the most that is taken.")
    return names


def _read(text: bytes) -> Workspace:
    try:
        document = json.loads(text)
        if document["format"] > FORMAT:
            raise LoadError("This project was written by a newer Prunescope. Update this one, then open it again.")
        return Workspace.from_json(document["workspace"])
    except (ValueError, TypeError, KeyError) as error:
        raise LoadError(f"{STATE} in this project cannot be read: {error!r}.") from error
    except CoreError as error:
        raise LoadError(str(error)) from error


def _with_files(archive: zipfile.ZipFile, names: list[str], work: Workspace) -> Workspace:
    for name in names:
        if name.startswith(WEIGHTS):
            with archive.open(name) as opened:
                work = replace(work, weights_path=str(keep_weights(opened, Path(name).name, work.token)))
        elif name.startswith(NETWORK):
            with archive.open(name) as opened:
                work = _with_network(work, str(keep_model_file(opened, Path(name).name, work.token).path))
        elif name.startswith(IMAGES):
            _, root, size = split_address(work.data_source)
            with archive.open(name) as opened:
                kept = keep_images(opened, Path(name).name, work.token)
            work = replace(work, data_source=data_address(str(kept), root=root, size=size))
    return work


def _with_network(work: Workspace, source: str) -> Workspace:
    """The work, and the plans made of its network, with the file that it is read from here."""
    plans = (
        replace(plan, model_source=source) if plan.model_source == work.model_source else plan for plan in work.plans
    )
    return replace(work, model_source=source, plans=tuple(plans))
