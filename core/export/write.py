"""Write a pruned network in every format asked for, with what is needed to verify the files later."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from core.errors import CoreError, ExportError
from core.evaluate.metrics import class_scores
from core.export.files import RECIPE, REFERENCE, REPORT, VERIFICATION, make_folder, write_text, write_whole
from core.export.formats import FORMATS, Format
from core.export.papers import PAPERS, write_papers
from core.export.recipe import describe, list_files, to_text
from core.export.report import write_report
from core.export.source import Source
from core.export.trust import seal
from core.records import ImageData, LoadedModel, Plan, Trace
from core.registry import Row
from core.trace import trace_channels
from core.trace.modes import evaluating

REFERENCE_IMAGES, REFERENCE_BYTES = 512, 8 << 20
RANDOM_IMAGES = 8
BATCH = 50


@dataclass(frozen=True)
class ExportReport:
    """What was written. ``failed``: format -> one sentence why it is not there."""

    directory: str
    files: tuple[str, ...]
    failed: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def export_model(
    module: nn.Module,
    plan: Plan,
    directory: str | Path,
    formats: str | Sequence[str] = "all",
    *,
    loaded: LoadedModel | None = None,
    trace: Trace | None = None,
    measurements: Mapping[str, Any] | None = None,
    data: ImageData | None = None,
    on_progress: Callable[..., None] | None = None,
) -> ExportReport:
    """Write the pruned ``module`` that ``plan`` led to into ``directory``; files of an earlier export there give way.

    formats: "all", or names from ``FORMATS``. recipe.json and reference.safetensors (images of ``data``, up to 512 and
    8 MB, with the network's outputs and their labels; random images without data) are always written. loaded: the
    network it was pruned from; without it the checkpoint cannot be rebuilt from its recipe. One of loaded and trace is
    needed for the input's size. A format that fails leaves the others and is named in the report. Raises ExportError
    when nothing could be written.
    """

    def tell(message: str) -> None:
        if on_progress is not None:
            on_progress(len(written) / max(1, len(rows)), message)

    rows = _ordered(formats)
    known = trace or loaded
    if known is None:
        raise ExportError("Export needs the size of the input: give loaded= or trace=.")
    folder = make_folder(directory)
    network = copy.deepcopy(module).cpu().eval()
    trace = trace if trace is not None or loaded is None else _trace(loaded)
    recipe = describe(network, plan, loaded, trace, measurements, data)
    source = Source(network, known.example[:1].cpu(), recipe, plan, loaded, trace)
    _clear(folder)
    failed: dict[str, str] = {}
    written: list[str] = []
    for row in rows:
        if formats == "all" and not row.value.applies(source):
            continue
        tell(f"Writing {row.title}")
        try:
            _write_format(row.value, folder, source)
            written.append(row.value.file)
        except Exception as error:  # exporters raise whatever their parts raise; the others must still be written
            failed[row.name] = f"{row.title} could not be written: {_sentence(error)}"
    if not written:
        raise ExportError(" ".join(failed.values()) or "No export format was asked for.")
    write_whole(folder / REFERENCE, lambda path: _write_reference(path, network, source.example, data))
    recipe["failed"] = failed
    papers = write_papers(folder, source)
    recipe["files"] = list_files(folder, [*written, REFERENCE, *papers])
    recipe["seal"] = seal(recipe)
    write_text(folder / RECIPE, to_text(recipe))  # last: it seals the rest
    write_report(folder)
    return ExportReport(str(folder), (*written, REFERENCE, *papers, RECIPE, REPORT), failed)


def _trace(loaded: LoadedModel) -> Trace | None:
    """The recipe tells layers by name where the network can be followed; without that the files are as good."""
    try:
        return trace_channels(loaded.module, loaded.example)
    except CoreError:
        return None


def _ordered(formats: str | Sequence[str]) -> list[Row[Format]]:
    """The rows asked for and those they cannot do without, in the order of FORMATS."""
    names = FORMATS.names() if formats == "all" else [formats] if isinstance(formats, str) else list(formats)
    wanted = {needed for name in names for needed in (FORMATS.row(name).name, *FORMATS[name].needs)}
    return [row for row in FORMATS if row.name in wanted]


def _write_format(chosen: Format, folder: Path, source: Source) -> None:
    write_whole(folder / chosen.file, lambda path: chosen.write(source, path))


def _clear(folder: Path) -> None:
    """Take away what an earlier export wrote, so that nothing old is taken for new."""
    for name in (RECIPE, REFERENCE, VERIFICATION, REPORT, *PAPERS, *(row.value.file for row in FORMATS)):
        (folder / name).unlink(missing_ok=True)


def _write_reference(path: Path, network: nn.Module, example: Tensor, data: ImageData | None) -> None:
    generator = torch.Generator().manual_seed(0)
    entries: dict[str, Tensor] = {}
    if data is not None and len(data):
        fitting = max(1, REFERENCE_BYTES // max(1, data.images[0].numel() * 4))
        order = torch.randperm(len(data), generator=generator)[: min(REFERENCE_IMAGES, fitting)]
        entries["labels"] = data.labels[order].clone()
        images = data.images[order]
    else:
        images = torch.randn(RANDOM_IMAGES, *example.shape[1:], generator=generator)
    with evaluating(network):
        outputs = torch.cat([class_scores(network, batch) for batch in images.split(BATCH)])
    entries |= {"images": images.contiguous(), "outputs": outputs.clone().contiguous()}
    safetensors.torch.save_file(entries, path)


def _sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:240]}" if lines else type(error).__name__
