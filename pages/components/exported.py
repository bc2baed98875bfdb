"""The files of an export: what each is for, whether it reloads, how to load it, and a button to take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from core import how_to_load, list_formats
from pages.components import downloads, tables

# Files beside the network, in the order in which they are shown.
PAPERS = {
    "report.html": ("Report", "Everything on one page that opens offline: figures, charts, checks, environment."),
    "recipe.json": ("Recipe", "Which channels stay, by layer and name, and how they were chosen. "
                    "`prunescope apply` cuts it into a fresh copy of the dense network."),
    "finetune.py": ("Training script", "Plain PyTorch; trains this network further on another machine."),
    "ratios.json": ("Ratios", "The share of each layer that left, as Torch-Pruning and NNI take it; they choose the "
                    "channels themselves. Torch-Pruning gives other widths where convolutions have groups (ResNeXt, "
                    "RegNet), and does not take networks that shuffle channels (ShuffleNet)."),
    "layers.csv": ("Table of layers", "Channels, parameters and multiply-adds of every layer, before and after."),
    "reference.safetensors": ("Reference", "The images and outputs that every file was compared with."),
    "verification.json": ("Verification", "What the comparison found, as JSON."),
}  # fmt: skip


def show(found: dict[str, Any], directory: Path, names: list[str], key: str) -> None:
    """All of it. ``found``: the result of the export job; ``names``: which of its files are still there."""
    verdict(found)
    downloads.everything(directory, names, key)
    checks = {check["file"]: check for check in found["verification"]["files"]}
    for row in list_formats():
        if row.value.file in names or row.value.file in checks:
            _format(row, checks.get(row.value.file), directory, names, key)
    for sentence in found["failed"].values():
        st.markdown(f":red[:material/cancel:] {sentence}")
    papers = [name for name in PAPERS if name in names]
    if papers:
        with st.container(border=True, key="card-papers"):
            st.markdown("**Beside the network**")
            for name in papers:
                title, about = PAPERS[name]
                words, button = st.columns([4, 1], vertical_alignment="center")
                words.markdown(f"**{title}** · {about}")
                with button:
                    downloads.one(directory, name, key)


def verdict(found: dict[str, Any]) -> None:
    """The whole in one line: every file reloaded, or which did not."""
    report = found["verification"]
    if not report["files"] or not report["ok"]:
        st.error(report["message"], icon=":material/error:")
    else:
        st.success(report["message"], icon=":material/verified:")


def _format(row: Any, check: dict[str, Any] | None, directory: Path, names: list[str], key: str) -> None:
    file = row.value.file
    with st.container(border=True, key=f"card-format-{row.name}"):
        words, take = st.columns([4, 1], vertical_alignment="top")
        with words:
            st.markdown(f"**{row.title}** · {row.summary}")
            _checked(check)
        if file in names:
            with take:
                downloads.one(directory, file, key)
                with st.popover("How to load", width="stretch"):
                    st.code(how_to_load(row.name, directory.name), language="python")


def _checked(check: dict[str, Any] | None) -> None:
    if check is None:
        st.caption("Not verified.")
        return
    mark = ":green[:material/check_circle:]" if check["ok"] else ":red[:material/cancel:]"
    st.markdown(f"{mark} {check['message']}{_answers(check)}")
    where = "in a process with Prunescope's engine" if check.get("with_engine") else "in a process without Prunescope"
    if check.get("latency_ms") is not None:
        error = check["max_abs_error"]
        st.caption(f"Loaded {where}; largest error {error:.1e}; {tables.ms(check['latency_ms'])} per image there.")


def _answers(check: dict[str, Any]) -> str:
    """Accuracy on the stored images, reloaded and at export, when they have labels."""
    if check["accuracy"] is None:
        return ""
    now, then = tables.percent(check["accuracy"]), tables.percent(check["expected_accuracy"])
    return f" Right on {now} of them; {then} at export."
