"""A network from a file (.pt2, .onnx): how it is chosen, and what is in an ONNX file, also when it cannot be pruned."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import streamlit as st

from core import MODEL_SUFFIXES, CoreError, ModelFile, examine_model_file, keep_model_file, uploads_folder
from core.keep.workspace import Workspace
from pages.components import session, tables

FAMILY = "file"
LOOKED_AT = "network_file"  # among the choices: path of the ONNX file that was looked at last
MOST_ROWS = 1000
SUMMARY = (
    "A program of torch.export (.pt2) opens without its source code. Of an ONNX file you see structure, cost and time; "
    "it opens too where every operator has a counterpart in PyTorch. Both are read as data: nothing in them is run."
)


def choose() -> tuple[Any, str]:
    """An upload or a path on the server's own disk."""
    st.caption(SUMMARY)
    kinds = [suffix.removeprefix(".") for suffix in MODEL_SUFFIXES]
    file = st.file_uploader("Network (.pt2, .onnx)", type=kinds, key="network-file")
    path = st.text_input("or a path on this computer", key="network-path", placeholder="/path/to/network.pt2")
    now = session.workspace().model_source
    if file is None and not path.strip() and _own(now):
        st.caption(f"{Path(now).name} is open. Leave both empty to keep it, with other images for example.")
    return file, path


def _own(path: str | None) -> bool:
    """Whether it is a network file that this person uploaded, and still there. A project file may name any other."""
    return bool(path) and Path(str(path)).is_file() and uploads_folder(session.owner()) in Path(str(path)).parents


def take(file: IO[bytes] | None, name: str, path: str) -> tuple[ModelFile, str]:
    """Keep the file for this person and look into it; what was found, and its name. An ONNX file is shown from now on.
    Without a file or a path the one that is open stays. Raises CoreError with a sentence for the user."""
    now = session.workspace().model_source
    if file is None and not path.strip() and _own(now):
        return examine_model_file(now), Path(now).name
    if file is not None:
        found = keep_model_file(file, name, session.owner())
    else:
        given = Path(path.strip()).expanduser()
        if not path.strip():
            raise CoreError("Expected a network file; found none. Upload one (.pt2 or .onnx) or give its path.")
        if not given.is_file():
            raise CoreError(f"There is no network file at {given}. Check the path, or upload the file.")
        name = given.name
        with given.open("rb") as opened:
            found = keep_model_file(opened, name, session.owner())
    session.choose(**{LOOKED_AT: str(found.path) if found.onnx else None})
    return found, name


def show(record: Workspace) -> None:
    """What is in the ONNX file that was looked at last; nothing when there is none, or it has left the server."""
    path = record.choices.get(LOOKED_AT)
    if not _own(path):
        return
    try:
        found = examine_model_file(path)
    except CoreError:
        return
    name = found.path.name
    if record.model_source == path:
        with st.expander(f"In the file {name}", icon=":material/deployed_code:"):
            _inside(found)
    elif found.why_not:
        with st.container(border=True, key="card-network-file"):
            words, button = st.columns([5, 1], vertical_alignment="center")
            words.markdown(f"### {name}")
            button.button("Close", on_click=_close, width="stretch")
            st.warning(f"{found.why_not} What was open stays open.", icon=":material/info:")
            _inside(found)


def _close() -> None:
    session.choose(**{LOOKED_AT: None})


def _inside(found: ModelFile) -> None:
    file = found.onnx
    batch = file["batch"] or "any size"
    reads = (
        f"images of {' x '.join(map(str, file['input_shape']))}" if file["input_shape"] else "inputs of no fixed size"
    )
    st.caption(
        f"ONNX, opset {file['opset']}, written by {file['producer'] or 'nobody named'}. Reads {reads}; batch: {batch}."
    )
    time = tables.ms(found.latency_ms) if found.latency_ms is not None else "does not run"
    beside = "1 image, 1 thread, measured" if found.latency_ms is not None else ""
    items = [
        ("Parameters", tables.count(file["params"]), ""),
        ("MACs per image", tables.count(file["macs"]), ""),
        ("Operators", tables.count(sum(file["operators"].values())), ""),
        ("ONNX Runtime", time, beside),
    ]
    st.html(tables.strip_html(items, plain=True))
    layers = file["layers"]
    unknown = sum(layer["macs"] is None for layer in layers)
    if unknown:
        st.caption(f"Not counted in the MACs: {tables.plural(unknown, 'layer')} whose sizes the file does not tell.")
    _layers(layers)
    st.caption("Operators: " + ", ".join(f"{kind} {count:,}" for kind, count in list(file["operators"].items())[:40]))


def _layers(layers: list[dict[str, Any]]) -> None:
    if not layers:
        st.caption("No operator in it has weights.")
        return
    shown = layers[:MOST_ROWS]
    st.dataframe(
        {
            "Layer": [layer["name"] for layer in shown],
            "Operator": [layer["operator"] for layer in shown],
            "Output": [" x ".join("?" if size < 0 else str(size) for size in layer["output"][1:]) for layer in shown],
            "MACs": [layer["macs"] for layer in shown],
            "Parameters": [layer["params"] for layer in shown],
        },
        hide_index=True,
        width="stretch",
        height=min(38 + 35 * len(shown), 390),
        column_config=tables.LAYER_COLUMNS,
    )
    if len(layers) > len(shown):
        st.caption(f"The first {len(shown):,} of {len(layers):,} layers.")
