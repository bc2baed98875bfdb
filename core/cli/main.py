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
  prunescope export demo/digits-vgg --remove 0.5 --out smaller
  prunescope export demo/digits-vgg --recipe chapr-qr --macs 0.5 --out smaller

  The same cut in a fresh copy of the network:
  prunescope apply smaller/recipe.json --out again

  Verify an export again, and rewrite its report:
  prunescope report smaller

  Structure, cost and time of a network or a file:
  prunescope inspect network.onnx

MODEL is a name (demo/digits-vgg, cifar/resnet56, torchvision/resnet50, timm/...) or a file: .pt2, .onnx, or a folder
that was exported. Each command has its own --help.
"""
STATUS = "Prints one JSON object. Exit status: 0 done, 1 a check failed, 2 refused (one sentence on the error output)."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. Nothing a user does ends in a traceback."""
    parser = make_parser()
    options = parser.parse_args(arguments)
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

    def add(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        about = f"{summary}\n\n  {example}"
        made = commands.add_parser(name, help=summary, description=about, formatter_class=plain, epilog=STATUS)
        made.add_argument("--threads", type=int, default=0, help="processor threads (default: PyTorch's own choice)")
        made.add_argument("--quiet", action="store_true", help="no progress on the error output")
        return made

    one = add(
        "scan", "Measure what every group of channels can lose.", "prunescope scan demo/digits-vgg --out scan.json"
    )
    _add_model(one)
    _add_data(one)
    one.add_argument("--criterion", default="taylor", help="which channels leave first (default: taylor)")
    one.add_argument("--fractions", default="0.25,0.5,0.75", help="shares removed, in 0..1 (default: 0.25,0.5,0.75)")
    one.add_argument("--limit", type=int, help="at most so many images per point (default: all selection images)")
    one.add_argument("--out", help="also write the curves there; the app and plans read them")

    one = add("export", "Prune a network, write it in every format, and verify the files.",
              "prunescope export torchvision/resnet50 --weights pretrained --data /pictures --remove 0.5 --out smaller"
              )  # fmt: skip
    _add_model(one)
    _add_data(one)
    how = one.add_argument_group("what leaves (one of these)")
    how.add_argument("--remove", type=float, help="the same share of every group, in 0..1")
    how.add_argument("--plan", help="a plan as JSON: from the app, from Python, or a recipe.json of this network")
    how.add_argument(
        "--recipe", help="a published method by name, within --macs or --params (see the app, or --recipe ?)"
    )
    one.add_argument(
        "--criterion", default="weight-l2", help="with --remove: which channels leave (default: weight-l2)"
    )
    one.add_argument("--macs", type=float, help="with --recipe: share of the multiply-adds that may remain")
    one.add_argument("--params", type=float, help="with --recipe: share of the parameters that may remain")
    one.add_argument("--repair", default="none", help="none, batchnorm, least-squares or compensation (default: none)")
    _add_out(one)

    _add_later(add)
    return parser


def _add_later(add: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """The commands on what was exported, and on files."""
    one = add("apply", "Cut a recipe into a fresh copy of the dense network.",
              "prunescope apply smaller/recipe.json --weights resnet50.pth --out again")  # fmt: skip
    one.add_argument("recipe", metavar="RECIPE", help="recipe.json, or the folder it is in")
    one.add_argument("--model", help="the dense network (default: the one the recipe names)")
    one.add_argument("--weights", help="its weights: a .pt, .pth or .safetensors file, pretrained or random")
    _add_data(one)
    one.add_argument(
        "--any-weights", action="store_true", help="take other weights: the same channels of them are kept"
    )
    _add_out(one)

    one = add("report", "Reload every file of an export in a fresh process, compare, and rewrite its report.html.",
              "prunescope report smaller")  # fmt: skip
    one.add_argument("folder", metavar="FOLDER", help="an exported folder")
    one.add_argument(
        "--run-code", action="store_true", help="also run files that were not written by this installation"
    )

    one = add("inspect", "What is in a network or a network file: layers, cost, groups, and whether it can be pruned.",
              "prunescope inspect network.onnx")  # fmt: skip
    _add_model(one)
    one.add_argument("--time", action="store_true", help="also measure the time of one image on this machine")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a name, such as torchvision/resnet50, or a file (.pt2, .onnx)")
    weights = "a .pt, .pth or .safetensors file, pretrained, or random (default: the demo's own, else random)"
    parser.add_argument("--weights", help=weights)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", help="digits, shapes, a folder of images, or an .npz file (default: what suits a demo)"
    )
    parser.add_argument("--size", type=int, help="edge of the images in pixels (default: as the network was made for)")


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, help="the folder to write; an earlier export there gives way")
    parser.add_argument("--formats", default="all", help="all, or names with commas: checkpoint, python, python_class, "
                        "exported_program, onnx, torchscript (default: all)")  # fmt: skip
    parser.add_argument("--no-verify", action="store_true", help="do not reload the files in a fresh process")
