"""The guard has to hold in a fresh process, where nothing has imported torchvision yet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import torch
from core.load.torchvision_guard import import_torchvision
tv = import_torchvision()
assert import_torchvision() is tv
assert torch.ops.torchvision.nms is not None
print(tv.models.resnet18(num_classes=3).eval()(torch.zeros(1, 3, 64, 64)).shape[1])
"""


def test_torchvision_imports_in_a_fresh_process_without_a_warning() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "3", "")
