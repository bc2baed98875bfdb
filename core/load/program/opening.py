"""A .pt2 file as a model source."""

from __future__ import annotations

from pathlib import Path

import torch

from core.errors import LoadError
from core.load.program.archive import REMEDY, read_program
from core.load.program.layers import build_network
from core.records import LoadedModel

SUFFIX = ".pt2"


def read_pt2(path: Path) -> LoadedModel | None:
    """The network of a .pt2 file, without its source code; None for any other path. Raises LoadError as
    ``read_program``, and when the network does not run on two images."""
    if path.suffix != SUFFIX or path.is_dir():
        return None
    program = read_program(path)
    example = torch.randn(1, *program.input_shape, generator=torch.Generator().manual_seed(0))
    try:
        network = build_network(program)
        with torch.inference_mode():
            network(torch.cat([example, example]).to("cpu"))
    except Exception as error:  # its steps are arbitrary; whatever they raise, the file is no network to work with
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise LoadError(f"{path.name} was read, but does not run ({reason}). {REMEDY}") from error
    return LoadedModel(network, example, path.stem, str(path), path.name)
