"""Run every benchmark beside this file, one after another, each in a process of its own: `make bench`.

A benchmark is a script bench_*.py that prints its figures and exits with an error when a bar is missed.
Arguments choose by part of the name: ``make bench ARGS="latency"``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def main(wanted: list[str]) -> int:
    scripts = [path for path in sorted(HERE.glob("bench_*.py")) if not wanted or any(w in path.stem for w in wanted)]
    if not scripts:
        print(f"No benchmark matches {' '.join(wanted) or 'bench_*.py'}.")
        return 1
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    results = []
    for script in scripts:
        print(f"\n== {script.stem.removeprefix('bench_')}", flush=True)
        start = time.perf_counter()
        code = subprocess.run([sys.executable, str(script)], cwd=ROOT, env=environment, check=False).returncode
        results.append((script.stem, code, time.perf_counter() - start))
    print("\n== summary")
    for name, code, seconds in results:
        print(f"{name:32} {'ok' if code == 0 else f'FAILED ({code})':12} {seconds:7.1f} s")
    return int(any(code for _, code, _ in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
