"""Tracing and pruning 80 torchvision networks and 40 timm CNNs, beside Torch-Pruning: `make bench-trace`.

Every network runs in fresh processes of its own with a time limit, first ours, then the peer, on the same threads: a
warm-up, then the median of three. Weights are random. Each prunable group loses half its units at random, at seeds
0 to 4, and the pruned network is compared with the masked one on an image the engine has not seen.

    make bench-trace ARGS="--only torchvision/resnet50 timm/dla34"
    make bench-trace ARGS="--resume"        go on where a run stopped (build/bench-trace.json)
    make bench-trace ARGS="--write-docs"    also write the table and the chart that the README shows

Exits with an error when a bar is missed. The full run takes about an hour.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from core.load.torchvision_guard import has_timm, import_torchvision
from tests.bench.trace_report import bars, failure, progress_line, write_docs

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("trace_worker.py")
RESULTS = ROOT / "build" / "bench-trace.json"
# One of each family, small or middling where there is a choice: stems, norms, attentions and wirings that differ.
TIMM = (  # noqa: SIM905 - forty lines of one word each would tell less
    "resnet26d resnet50_gn resnetv2_50x1_bit ecaresnet26t seresnext26d_32x4d skresnet18 resnest26d res2net50_26w_4s "
    "nf_resnet50 tresnet_m densenetblur121d dla34 dpn68b hrnet_w18_small cspresnet50 cs3darknet_m selecsls42b "
    "ese_vovnet19b_dw hgnetv2_b0 repvgg_a2 mobileone_s1 rexnet_100 regnetz_b16 tf_efficientnet_b0 efficientnetv2_rw_t "
    "mobilenetv3_large_100 mobilenetv4_conv_small ghostnet_100 hardcorenas_a fbnetv3_b mixnet_s tinynet_e lcnet_100 "
    "semnasnet_100 xception41 inception_v4 inception_resnet_v2 pnasnet5large convnext_atto convnextv2_atto"
).split()


def main() -> int:
    options = arguments()
    parts = ["peer"] if options.peer_only else ["ours"] if options.no_peer else ["ours", "peer"]
    if "peer" in parts and importlib.util.find_spec("torch_pruning") is None:
        print('The peer is not installed: pip install "torch-pruning==1.6.1", or leave it out with --no-peer.')
        return 1
    names = wanted(options)
    if not names:
        return 1
    results = read(options.json) if options.resume or options.retry or options.report else {}
    results.setdefault("models", {})
    results["setting"] = setting(options.threads)
    print(describe(results["setting"]), flush=True)
    if not options.report:
        run_all(names, parts, options, results)
    lines, missed = bars(results)
    print("\n" + "\n".join(lines))
    if options.write_docs:
        for path in write_docs(results, lines, describe(results["setting"]), ROOT / "assets" / "bench"):
            print(f"wrote {path.relative_to(ROOT)}")
    return int(missed)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these networks; the family may be left out")
    parser.add_argument("--family", choices=("torchvision", "timm", "all"), default="all")
    parser.add_argument("--no-peer", action="store_true", help="ours alone")
    parser.add_argument("--peer-only", action="store_true", help="the peer alone")
    parser.add_argument("--seeds", type=int, default=5, help="random plans per network (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads, for both (default 2)")
    parser.add_argument(
        "--limit", type=float, default=900, help="seconds each part of a network may take (default 900)"
    )
    parser.add_argument("--memory-gb", type=float, default=16, help="memory a process may ask for (default 16)")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where results go (default build/bench-trace.json)")
    parser.add_argument("--resume", action="store_true", help="keep what the file has, run what it lacks")
    parser.add_argument("--retry", action="store_true", help="as --resume, and run again where ours fell short")
    parser.add_argument("--report", action="store_true", help="run nothing: judge what the file has")
    parser.add_argument("--write-docs", action="store_true", help="write assets/bench/trace.md and trace.svg")
    return parser.parse_args()


def wanted(options: argparse.Namespace) -> list[str]:
    """Full names in the order of running; a word about what cannot be run."""
    models = import_torchvision().models
    names = [f"torchvision/{name}" for name in models.list_models(module=models)]
    names += [f"timm/{name}" for name in TIMM]
    if options.only:
        chosen = [name for name in names if {name, name.partition("/")[2]} & set(options.only)]
        known = {word for name in names for word in (name, name.partition("/")[2])}
        chosen += [word for word in options.only if word not in known and "/" in word]
        for word in options.only:
            if word not in known and "/" not in word:
                print(f"{word} is not in this bench: write timm/{word} or torchvision/{word} to run it all the same.")
        names = chosen
    if options.family != "all":
        names = [name for name in names if name.startswith(options.family)]
    if not has_timm() and any(name.startswith("timm/") for name in names):
        print('The timm networks are left out: pip install "timm>=1.0,<2" adds them.')
        names = [name for name in names if not name.startswith("timm/")]
    return names


def run_all(names: list[str], parts: list[str], options: argparse.Namespace, results: dict[str, Any]) -> None:
    begun = time.monotonic()
    for at, name in enumerate(names, start=1):
        entry = results["models"].setdefault(name, {})
        for part in parts:
            again = options.retry and part == "ours" and failure(entry.get(part, {})) is not None
            if again or not ((options.resume or options.retry) and entry.get(part, {}).get("finished")):
                entry[part] = run_one(name, part, options)
                write(options.json, results)
        print(f"{at:3}/{len(names)} {time.monotonic() - begun:6.0f} s  {progress_line(name, entry)}", flush=True)


def run_one(name: str, part: str, options: argparse.Namespace) -> dict[str, Any]:
    """What the worker found; when it was stopped or died, what it had found by then, and why there is no more."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(options.threads)}
    with tempfile.TemporaryDirectory(prefix="prunescope-bench-") as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, str(WORKER), name, str(out), "--part", part]
        command += ["--seeds", str(options.seeds), "--threads", str(options.threads)]
        command += ["--memory-gb", str(options.memory_gb)]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, timeout=options.limit, capture_output=True, text=True, check=False
            )
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            why = f"the process ended with code {done.returncode}: {last}"
        except subprocess.TimeoutExpired:
            why = f"stopped after {options.limit:.0f} s"
        found: dict[str, Any] = read(out)
        return found if found.get("finished") else {**found, "error": why, "finished": True}


def read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def write(path: Path, results: dict[str, Any]) -> None:
    """All or nothing: a run may be stopped at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".part")
    fresh.write_text(json.dumps(results), encoding="utf-8")
    fresh.replace(path)


def setting(threads: int) -> dict[str, Any]:
    packages = ("torch", "torchvision", "timm", "torch-pruning")
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: version for name in packages if (version := installed(name))},
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    def lines() -> Iterator[str]:
        try:
            yield from Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        except OSError:
            return

    named = (line.partition(":")[2].strip() for line in lines() if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def describe(found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"{found['date']}, CPU {found['processor']}, {found['cores']} cores, {found['threads']} threads for both, "
        f"load {found['load']} at the start; Python {found['python']}, {versions}"
    )


if __name__ == "__main__":
    sys.exit(main())
