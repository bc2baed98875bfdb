"""What criteria and a scan cost on a large network: `python tests/bench/bench_large.py [criteria]`.

ResNet-50 with random weights on noise of 224 pixels, 256 images as the pages take at most: seconds by the wall and of
the processor, and how far the process, one for each, grew over network and images. "images" is how many the pages
would give the criterion (``affordable_images``); `--all-images` gives every criterion all of them. The scan is stopped
after `--scan-seconds`: its memory does not grow further. On one thread unless OMP_NUM_THREADS says more.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from core.load import load_model
from core.measure.importance import CRITERIA, affordable_images, score_channels
from core.measure.sensitivity import scan_sensitivity
from core.records import ImageData, Trace
from core.trace import trace_channels
from tests.bench.bench_measure import PeakMemory
from tests.bench.measure_report import kept

NET, CLASSES, LIMIT_GB = "torchvision/resnet50", 1000, 2.0
COSTLY = ("activation-mean", "mutual-information", "taylor", "qr", "lasso", "cap", "conductance", "grad-x-activation")


def noise(count: int) -> ImageData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(count, 3, 224, 224, generator=generator)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    return ImageData(pixels, labels, tuple(map(str, range(CLASSES))), "noise", (0.0,) * 3, (1.0,) * 3)


def watched(words: str, work: Callable[[], object]) -> str:
    memory = PeakMemory()
    memory.start()
    wall, processor = time.perf_counter(), time.process_time()
    work()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    memory.over.set()
    grown = (memory.peak - memory.before) / 1e9
    return (f"  {words:<34} {wall:8.1f} s {processor:8.1f} s CPU {grown:6.2f} GB "
            f"({'within' if grown <= LIMIT_GB else 'MORE THAN'} {LIMIT_GB:g})")  # fmt: skip


def loaded(images: int) -> tuple[Trace, ImageData]:
    model = load_model(NET)
    return trace_channels(model.module, model.example), noise(images)


def score(name: str, images: int, all_images: bool) -> str:
    trace, data = loaded(images)
    count = images if all_images else affordable_images(trace, name, images)
    few = data.take(torch.arange(count)) if CRITERIA[name].needs_images else None
    return watched(f"{name}, {count} images", lambda: score_channels(trace, few, name))


def scan(images: int, seconds: float) -> str:
    trace, data = loaded(images)
    began = time.monotonic()

    def late() -> bool:
        return time.monotonic() - began > seconds

    return watched(f"scan, {images} images, stopped", lambda: scan_sensitivity(trace, data, cancelled=late))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("criteria", nargs="*", help=f"default: {' '.join(COSTLY)}, and the scan")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--all-images", action="store_true", help="not fewer where a criterion is costly")
    parser.add_argument("--scan-seconds", type=float, default=60.0, help="0 = no scan")
    parser.add_argument("--write-docs", action="store_true", help="keep what is printed in assets/bench/measure.md")
    asked = parser.parse_args()
    jobs = {name: partial(score, name, asked.images, asked.all_images) for name in asked.criteria or COSTLY}
    if asked.scan_seconds:
        jobs["scan"] = partial(scan, asked.images, asked.scan_seconds)
    # each in a process of its own: what one has freed would hide what the next takes
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        for name, job in jobs.items():
            with kept("Large networks", name, wanted=asked.write_docs):
                print(processes.submit(job).result(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
