"""``prunescope``: what the words after it mean, and what comes back.

Results go to the standard output as one JSON object, progress to the standard error. Exit status: 0 done; 1 done, but
something is not as it should be (a file that computes something else); 2 refused, with one sentence; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from core.errors import CoreError

DONE, WRONG, REFUSED, INTERRUPTED = 0, 1, 2, 130
ABOUT = """\
Prune convolutional networks from scripts, with the same engine as the app.

  What every group of channels can lose:
  prunescope scan demo/digits-vgg --out scan.json

  Prune, write every format, reload each in a fresh process; by a share, or by a published method:
  prunescope export demo/digits-vgg --remove 0.5 --repair least-squares --out smaller
  prunescope export demo/digits-vgg --recipe chapr-qr --macs 0.5 --out smaller

  The same cut in a fresh copy of the network:
  prunescope apply smaller/recipe.json --out again

  Verify an export again, and rewrite its report:
  prunescope report smaller

  Structure, cost and time of a network or a file:
  prunescope inspect network.onnx --time

MODEL is a name (demo/digits-vgg, cifar/resnet56, torchvision/resnet50, timm/...) or a file: .pt2, .onnx, or a folder
that was exported. A group is a set of channels that can only leave together. Each command has its own --help.
"""
STATUS = """\
The result is one JSON object on the standard output; progress goes to the error output. Exit status: 0 done; 1 done,
but a check failed; 2 refused, with one sentence on the error output; 130 interrupted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. Nothing a user does ends in a traceback."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.threads < 0:
        parser.error(f"argument --threads: expected 1 or more, found {options.threads}")
    from core.cli import verbs  # only now: help and mistakes need not wait for PyTorch

    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    verb: Callable[..., tuple[dict[str, Any], bool]] = getattr(verbs, options.command)
    try:
        result, fine = verb(options, _teller(options.quiet))
    except CoreError as error:
        print(f"prunescope {options.command}: {error}", file=sys.stderr)
        return REFUSED
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"prunescope {options.command}: {error.filename or 'a file'}: {error.strerror}.", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print(f"prunescope {options.command}: interrupted.", file=sys.stderr)
        return INTERRUPTED
    try:
        print(json.dumps(result, indent=1, allow_nan=False))
    except BrokenPipeError:  # the reader had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DONE if fine else WRONG


def _teller(quiet: bool) -> Callable[..., None]:
    def tell(fraction: float, message: str = "", partial: object = None) -> None:
        if not quiet:
            print(f"{100 * fraction:3.0f} % {message}", file=sys.stderr, flush=True)

    return tell


def make_parser() -> argparse.ArgumentParser:
    """The whole command line; every option says what it does and what it is when left out."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("prunescope", description=ABOUT, formatter_class=plain, epilog=STATUS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, summary: str, about: str) -> argparse.ArgumentParser:
        text = f"{summary}\n\n{about}"
        made = commands.add_parser(name, help=summary, description=text, formatter_class=plain, epilog=STATUS)
        made.add_argument(
            "--threads", type=int, default=0, metavar="N", help="processor threads (default: PyTorch's own choice)"
        )
        made.add_argument("--quiet", action="store_true", help="no progress on the error output")
        return made

    _add_scan(add("scan", "Measure what every group of channels can lose.", SCAN))
    _add_export(add("export", "Prune a network, write it in every format, and verify the files.", EXPORT))
    _add_apply(add("apply", "Cut a recipe into a fresh copy of the dense network.", APPLY))
    _add_report(add("report", "Reload every file of an export, compare, and rewrite its report.html.", REPORT))
    _add_inspect(add("inspect", "What is in a network: layers, cost, groups, and whether it can be pruned.", INSPECT))
    return parser


SCAN = """\
  prunescope scan demo/digits-vgg --fractions 0.5 --limit 200
  prunescope scan torchvision/resnet18 --weights pretrained --data /pictures --size 224 --out scan.json

The channels that a criterion holds least of leave first; accuracy is measured on selection images, with 95 % interval.
JSON: model, data, criterion, dense (accuracy), groups {id: [{removed, accuracy, low, high, images}]}, file.
"""
EXPORT = """\
  prunescope export demo/digits-vgg --remove 0.5 --repair least-squares --out smaller
  prunescope export torchvision/resnet50 --weights pretrained --data /pictures --remove 0.3 --out smaller
  prunescope export demo/digits-vgg --recipe chapr-qr --macs 0.5 --formats checkpoint,onnx --out smaller
  prunescope export demo/digits-vgg --plan plan.json --out smaller

JSON: folder, files, failed {format: why}, macs and params [dense, pruned]; with images of its own accuracy [dense,
pruned] and difference [low, value, high]; verified {ok, message, files}. Status 1 when a format failed or differs.
"""
APPLY = """\
  prunescope apply smaller/recipe.json --out again
  prunescope apply smaller/recipe.json --weights resnet50.pth --out again
  prunescope apply smaller/recipe.json --weights mine.pth --any-weights --out mine-smaller

The recipe names the network, which channels stay, and how weights were repaired; the result has the same weights, bit
by bit. JSON: as of export, and exact. Status 1 when the weights are others than those exported.
"""
REPORT = """\
  prunescope report smaller

Each file is loaded in a fresh process that cannot import Prunescope, and must compute what was exported. Files of
others that run code when they are loaded are run only with --run-code. JSON: ok, message, files, report. Status 1 when
a file is missing, damaged, or computes something else.
"""
INSPECT = """\
  prunescope inspect torchvision/resnet50
  prunescope inspect network.onnx --time

JSON: name, input, macs, params, size_bytes, prunable, layers, groups (with the reason where one may not leave),
uncounted (operators without a count); of an ONNX file also onnx {opset, layers, operators, ...}, and why_not when it
cannot be pruned. With --time: latency (in PyTorch), and latency_ms (in ONNX Runtime, one thread).
"""


def _add_scan(one: argparse.ArgumentParser) -> None:
    _add_model(one)
    _add_data(one)
    one.add_argument(
        "--criterion", default="taylor", metavar="NAME",
        help="which channels leave first: taylor, weight-l2, fpgm, apoz, ... (default: taylor)",
    )  # fmt: skip
    one.add_argument(
        "--fractions", default="0.25,0.5,0.75", metavar="SHARES", help="removed, in 0..1 (default: 0.25,0.5,0.75)"
    )
    one.add_argument(
        "--limit", type=int, metavar="N", help="at most so many images per point (default: all selection images)"
    )
    one.add_argument("--out", metavar="FILE", help="also write the scan there, for Sensitivity.from_dict in Python")


def _add_export(one: argparse.ArgumentParser) -> None:
    _add_model(one)
    _add_data(one)
    how = one.add_argument_group("what leaves (one of these)")
    how.add_argument("--remove", type=float, metavar="SHARE", help="the same share of every group, in 0..1")
    how.add_argument("--plan", metavar="FILE", help="a plan as JSON: from Python, or a recipe.json of this network")
    how.add_argument(
        "--recipe", metavar="NAME", help="a published method, within --macs or --params; --recipe ? lists the names"
    )
    one.add_argument(
        "--criterion", default="weight-l2", metavar="NAME", help="with --remove: which leave (default: weight-l2)"
    )
    one.add_argument("--macs", type=float, metavar="SHARE", help="with --recipe: multiply-adds that may remain")
    one.add_argument("--params", type=float, metavar="SHARE", help="with --recipe: parameters that may remain")
    one.add_argument(
        "--repair", default="none", metavar="NAME",
        help="of the weights that stay: none, batchnorm, least-squares or compensation (default: none)",
    )  # fmt: skip
    _add_out(one)


def _add_apply(one: argparse.ArgumentParser) -> None:
    one.add_argument("recipe", metavar="RECIPE", help="recipe.json, or the folder it is in")
    one.add_argument("--model", help="the dense network (default: the one the recipe names)")
    one.add_argument("--weights", metavar="FILE", help="its weights: .pt, .pth or .safetensors; pretrained or random")
    _add_data(one)
    one.add_argument(
        "--any-weights", action="store_true", help="take other weights: the same channels of them are kept"
    )
    _add_out(one)


def _add_report(one: argparse.ArgumentParser) -> None:
    one.add_argument("folder", metavar="FOLDER", help="an exported folder")
    one.add_argument(
        "--run-code", action="store_true", help="also run files that were not written by this installation"
    )


def _add_inspect(one: argparse.ArgumentParser) -> None:
    _add_model(one)
    one.add_argument("--time", action="store_true", help="also measure the time of one image on this machine")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a name, such as torchvision/resnet50, or a file (.pt2, .onnx)")
    weights = "a .pt, .pth or .safetensors file, pretrained, or random (default: the demo's own, else random)"
    parser.add_argument("--weights", metavar="FILE", help=weights)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", metavar="IMAGES",
        help="digits, shapes, a folder with one folder per class, or an .npz file (default: a demo's own, else noise)",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=int, metavar="PIXELS", help="edge of the images (default: as the network was made for)"
    )


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="the folder to write; an earlier export there gives way"
    )
    parser.add_argument(
        "--formats", default="all", metavar="NAMES",
        help="all, or some with commas: checkpoint, python, python_class, exported_program, onnx, torchscript",
    )  # fmt: skip
    parser.add_argument("--no-verify", action="store_true", help="do not reload the files in a fresh process")
