"""Keeps what the measuring benches print in assets/bench/measure.md: a part per bench, a section per run, each with its
command, commit and load. A new run replaces its own section and leaves the others."""

from __future__ import annotations

import contextlib
import io
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import torch

from core.measure.cost.latency import device_name

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "assets" / "bench" / "measure.md"
OPENING = """# Measuring: what it costs, and how far it can be believed

Written by the benches named under every figure (`--write-docs`), which also say what each line means. A shared machine
slows everything: times of the processor (CPU) say more than times by the wall, and both are of the load that is told.
"""
PARTS = {  # in this order: name -> what stands under its heading
    "Scan": "A whole scan beside the naive way, which builds a copy for every point and evaluates it on all images. "
    "Bars: 4 times faster on ResNet-56 and 3 times on ResNet-50, equal values, within 1.5 of the lower bound, first "
    "curves 20 times sooner.",
    "Ranking": "How well a scan that was stopped at 30 % of its work ranks the groups: Spearman's correlation with the "
    "whole scan, one figure per seed, and their median. Bar: 0.95.",
    "Criteria": "Seconds of every criterion, and its rank correlation with the oracle (Molchanov et al. 2017).",
    "Large networks": "Time and memory of criteria and scans on ResNet-50 at 224 pixels. Bar: 2 GB over the network.",
    "Latency": "30 random plans of every network, foretold and measured. Bars: median absolute error under 8 %, rank "
    "correlation over 0.95, one prediction in under 5 ms.",
}


class _Both(io.StringIO):
    """Shows what is printed, and remembers it."""

    def __init__(self, shown: TextIO) -> None:
        super().__init__()
        self.shown = shown

    def write(self, text: str) -> int:
        self.shown.write(text)
        return super().write(text)

    def flush(self) -> None:
        self.shown.flush()


@contextlib.contextmanager
def kept(part: str, name: str, *, wanted: bool) -> Iterator[None]:
    """What is printed inside becomes the section ``name`` of ``part``, when it is ``wanted`` and ends well."""
    if not wanted:
        yield
        return
    load = os.getloadavg()[0]
    printed = _Both(sys.stdout)
    with contextlib.redirect_stdout(printed):
        yield
    text = f"{setting(load)}\n\n```\n{printed.getvalue().strip()}\n```"
    sections = read(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    sections.setdefault(part, {})[name] = text
    PAGE.write_text(page(sections), encoding="utf-8")


def setting(load: float) -> str:
    command = " ".join([f"python tests/bench/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    processor = f"{device_name(torch.device('cpu'))}, {os.cpu_count()} cores"
    return (
        f"`{command}`, commit {commit()}, {when}; {processor}, load {load:.1f} at the start and "
        f"{os.getloadavg()[0]:.1f} at the end; Python {platform.python_version()}, torch {torch.__version__}"
    )


def commit() -> str:
    """The commit that is checked out; "+" where files of the project differ from it."""
    try:
        name, changed = (
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--", "core", "tests/bench"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name + "+" * bool(changed)


def read(text: str) -> dict[str, dict[str, str]]:
    """part -> section -> its text."""
    found: dict[str, dict[str, str]] = {}
    for block in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        part, *sections = re.split(r"^### ", block, flags=re.MULTILINE)
        rows = (section.partition("\n") for section in sections)
        found[part.partition("\n")[0].strip()] = {name.strip(): body.strip() for name, _, body in rows}
    return found


def page(sections: dict[str, dict[str, str]]) -> str:
    lines = [OPENING]
    for part, words in PARTS.items():
        if part in sections:
            lines.append(f"## {part}\n\n{words}\n")
            lines += [f"### {name}\n\n{body}\n" for name, body in sections[part].items()]
    return "\n".join(lines)
