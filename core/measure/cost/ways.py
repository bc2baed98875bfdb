"""The ways to run a network that can be timed: as it stands, compiled by PyTorch, or in ONNX Runtime."""

from __future__ import annotations

import io
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import MeasureError
from core.registry import unknown_name

Run = Callable[[], object]
COMPILERS = ("c++", "g++", "clang++")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def prepare_run(module: nn.Module, image: Tensor, way: str) -> Run:
    """One forward pass of ``module`` (in eval mode, without gradients) on ``image``, as a call that waits for its end.

    way: one of WAYS. Raises MeasureError when this machine lacks what the way needs, or the network cannot go it.
    """
    if way not in WAYS:
        raise unknown_name("way to run", way, list(WAYS), MeasureError)
    call = WAYS[way](module, image)
    if image.device.type != "cuda":
        return call

    def waited() -> None:
        call()
        torch.cuda.synchronize(image.device)

    return waited


def _eager(module: nn.Module, image: Tensor) -> Run:
    return lambda: module(image)


def _compiled(module: nn.Module, image: Tensor) -> Run:
    """Compiled by torch.compile for this one size of input; the module itself stays as it is."""
    if image.device.type == "cpu" and compiler() is None:
        raise MeasureError(
            "Timing a compiled network needs a C++ compiler, and none was found here: set CXX, or install g++ or "
            "clang++. Or time the network as it stands (eager)."
        )
    if image.device.type == "cuda" and not torch.utils._triton.has_triton():
        raise MeasureError("Timing a compiled network on this GPU needs the package triton. Or time it eager.")
    try:
        with _quietly():
            from torch._inductor import config  # here: merely importing it takes a second

            with config.patch(compile_threads=1):
                compiled = torch.compile(module, dynamic=False)
                compiled(image)
    except Exception as error:  # compilers fail in ways of their own
        raise MeasureError(f"The network cannot be compiled here: {first_line(error)} Time it eager.") from error
    return lambda: compiled(image)


def _onnx(module: nn.Module, image: Tensor) -> Run:
    """In ONNX Runtime, with as many threads as PyTorch has now; the graph's own optimisations are on."""
    try:
        import onnx  # noqa: F401 - the exporter needs it
        import onnxruntime
        import onnxscript  # noqa: F401 - idem
    except ImportError as error:
        raise MeasureError(
            f"Timing in ONNX Runtime needs the package {error.name or 'onnxruntime'}, which is not installed: "
            "pip install onnx onnxscript onnxruntime"
        ) from error
    wanted = "CUDAExecutionProvider" if image.device.type == "cuda" else "CPUExecutionProvider"
    if wanted not in onnxruntime.get_available_providers():
        raise MeasureError(f"ONNX Runtime here has no {wanted}. Install onnxruntime-gpu for a GPU, or time on the cpu.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    try:
        with _quietly(), torch.inference_mode(False), torch.no_grad():
            made: Any = torch.onnx.export(module, (image.clone(),), dynamo=True, verbose=False)
            held = io.BytesIO()
            held.write(made.model_proto.SerializeToString())
            session = onnxruntime.InferenceSession(held.getvalue(), options, providers=[wanted])
    except Exception as error:  # exporters and runtimes fail in ways of their own
        raise MeasureError(f"The network cannot run in ONNX Runtime: {first_line(error)} Time it eager.") from error
    binding = session.io_binding()
    values = image.detach().contiguous()
    if values.dtype is torch.bfloat16:
        raise MeasureError("ONNX Runtime takes no bfloat16 input on the cpu. Choose float32 or float16.")
    fed = onnxruntime.OrtValue.ortvalue_from_numpy(values.cpu().numpy(), image.device.type, image.device.index or 0)
    binding.bind_ortvalue_input(session.get_inputs()[0].name, fed)
    for output in session.get_outputs():
        binding.bind_output(output.name, image.device.type)
    return _Bound(session, binding)


@dataclass(frozen=True)
class _Bound:
    """A run of an ONNX Runtime session on input that lies ready."""

    session: Any
    binding: Any

    def __call__(self) -> None:
        self.session.run_with_iobinding(self.binding)


WAYS: dict[str, Callable[[nn.Module, Tensor], Run]] = {"eager": _eager, "compiled": _compiled, "onnx": _onnx}


def compiler() -> str | None:
    """The C++ compiler that PyTorch would call; None when there is none."""
    named = os.environ.get("CXX")
    if named:
        return shutil.which(named.split()[0])
    if sys.platform == "win32":
        return shutil.which("cl")
    return next((found for name in COMPILERS if (found := shutil.which(name))), None)


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the tools' own warnings, about which a caller can do nothing."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch._inductor", "torch._dynamo")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
