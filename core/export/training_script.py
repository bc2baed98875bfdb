"""finetune.py: trains an exported network further, on a machine that has neither Prunescope nor its packages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FINETUNE = "finetune.py"
TUNED = "finetuned.safetensors"


def training_script(recipe: Mapping[str, Any]) -> str:
    """The script as text; only the plan's key is filled in, so that the result is known again when it comes home."""
    key = "".join(char for char in str(recipe["plan"]["key"]) if char.isalnum())
    return SCRIPT.replace("@PLAN@", key)


SCRIPT = '''"""Fine-tune the exported network. Plain PyTorch: it takes this file, model.py and model.safetensors.

    python finetune.py --data images.npz                     # uint8 images (N x H x W x 3) and labels
    python finetune.py --data pictures/ --epochs 30          # pictures/train/<class>/..., pictures/val/<class>/...
    python finetune.py --data images.npz --resume            # go on after an interruption

It uses the GPU when there is one, prints a line of JSON per epoch, and keeps the weights that were best on images held
out for that in finetuned.safetensors. Bring that file back to Prunescope on its page Export, or in Python with
core.take_back; model.load("finetuned.safetensors") opens it without Prunescope. Needs PyTorch and NumPy, and Pillow for
folders of images. One device; for several, wrap the network in DistributedDataParallel.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import model as exported

PLAN = "@PLAN@"
HERE = Path(__file__).resolve().parent


def read_data(path: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and validation images (uint8, N x C x H x W) with labels (int64). Without a part for validation every
    tenth image is held out."""
    if path.is_dir():
        if (path / "train").is_dir() and (path / "val").is_dir():
            return read_folder(path / "train"), read_folder(path / "val")
        return hold_out(*read_folder(path))
    import numpy

    with numpy.load(path, allow_pickle=False) as stored:
        images, labels = stored["images"], stored["labels"]
    if images.ndim == 3:
        images = images[..., None]
    return hold_out(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels).long())


def read_folder(path: Path) -> tuple[Tensor, Tensor]:
    """One folder per class, classes in the order of exported.CLASSES where that is known, else by name."""
    import numpy
    from PIL import Image

    channels, height, width = exported.SHAPE
    names = sorted(one.name for one in path.iterdir() if one.is_dir())
    known = list(getattr(exported, "CLASSES", ()))
    if not set(names) <= set(known):
        known = names
    order = {name: known.index(name) for name in names}
    images, labels = [], []
    for name in names:
        for file in sorted((path / name).iterdir()):
            if file.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp", ".webp"):
                with Image.open(file) as picture:
                    picture = picture.convert("L" if channels == 1 else "RGB").resize((width, height), Image.BILINEAR)
                pixels = numpy.asarray(picture, dtype=numpy.uint8)
                images.append(torch.from_numpy(pixels.copy()).reshape(height, width, channels).permute(2, 0, 1))
                labels.append(order[name])
    if not images:
        sys.exit(f"There are no images in {path}: expected one folder per class.")
    return torch.stack(images), torch.tensor(labels)


def hold_out(images: Tensor, labels: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    val, train = order[: max(1, len(order) // 10)], order[max(1, len(order) // 10) :]
    return (images[train], labels[train]), (images[val], labels[val])


def normalise(images: Tensor) -> Tensor:
    """uint8 to what the network takes: (value in 0..1 - MEAN) / STD, at its size and number of channels."""
    channels, *size = exported.SHAPE
    values = images.float() / 255
    if values.shape[1] == 3 and channels == 1:
        values = values.mean(1, keepdim=True)
    values = values.expand(-1, channels, -1, -1)
    if list(values.shape[2:]) != size:
        values = F.interpolate(values, size=size, mode="bilinear", antialias=True)
    mean, std = (torch.tensor(getattr(exported, name, default), device=values.device).reshape(1, -1, 1, 1)
                 for name, default in (("MEAN", (0.0,)), ("STD", (1.0,))))
    return (values - mean) / std


def shift(images: Tensor, pixels: int, flip: bool) -> Tensor:
    """Each image moved by up to ``pixels`` and, when asked, mirrored: one draw for the batch per direction."""
    if pixels:
        dx, dy = (int(torch.randint(0, 2 * pixels + 1, ())) for _ in range(2))
        padded = F.pad(images, [pixels] * 4)
        images = padded[:, :, dy : dy + images.shape[2], dx : dx + images.shape[3]]
    if flip:
        mirrored = torch.rand(len(images), device=images.device) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return images


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor, batch: int, device: torch.device) -> float:
    network.eval()
    right = 0
    for part, wanted in zip(images.split(batch), labels.split(batch)):
        right += int((network(normalise(part.to(device))).argmax(1) == wanted.to(device)).sum())
    return right / len(images)


@torch.no_grad()
def settle_norms(network: nn.Module, images: Tensor, batch: int, device: torch.device) -> None:
    """Store in batch norms the mean and variance of what they read, and move scale and shift against it: in eval mode
    the network computes the same. A network whose weights were solved for carries older statistics, and its first step
    in train mode would be that of another, worse network."""
    norms = [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)
             and one.running_mean is not None and one.weight is not None]
    sums = {norm: torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in norms}

    def look(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        x = given[0].transpose(0, 1).flatten(1).float() - norm.running_mean[:, None]
        sums[norm] += torch.stack([torch.full_like(x[:, 0], x.shape[1]), x.sum(1), x.square().sum(1)]).cpu()

    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    network.eval()
    for part in images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:1024]].split(batch):
        network(normalise(part.to(device)))
    for hook in hooks:
        hook.remove()
    for norm, found in sums.items():
        count, total, squares = found
        if not found.isfinite().all() or count[0] < 2:
            continue
        moved = total / count
        var = ((squares - count * moved**2) / (count - 1)).clamp(min=0)
        before, gamma = norm.running_var.cpu().double() + norm.eps, norm.weight.cpu().double()
        norm.bias += (gamma * moved / before.sqrt()).to(norm.bias)
        norm.weight.copy_((gamma * ((var + norm.eps) / before).sqrt()).float())
        norm.running_mean += moved.to(norm.running_mean)
        norm.running_var.copy_(var.float())


def optimizer_for(network: nn.Module, lr: float, decay: float) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum; decay pulls on weights with two dimensions or more, not on norms and biases."""
    weights = [one for one in network.parameters() if one.ndim > 1]
    others = [one for one in network.parameters() if one.ndim <= 1]
    groups = [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)


def write_safetensors(state: dict[str, Tensor], path: Path, notes: dict[str, str]) -> None:
    types = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
             torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL"}
    header: dict[str, object] = {"__metadata__": notes}
    parts, end = [], 0
    for name, value in state.items():
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": types[value.dtype], "shape": list(value.shape), "data_offsets": [end, end + len(raw)]}
        parts.append(raw)
        end += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))
    partial.replace(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="an .npz file, or a folder of images")
    parser.add_argument("--weights", type=Path, default=HERE / "model.safetensors", help="where to start from")
    parser.add_argument("--out", type=Path, default=HERE / "finetuned.safetensors")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.02, help="the highest learning rate")
    parser.add_argument("--decay", type=float, default=5e-4)
    parser.add_argument("--shift", type=int, default=2, help="move training images by up to so many pixels")
    parser.add_argument("--flip", action="store_true", help="also mirror training images (not for digits and text)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", action="store_true", help="go on from the last complete epoch")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not options.data.exists():
        sys.exit(f"There is nothing at {options.data}. Give an .npz file or a folder of images as --data.")
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    network = exported.load(options.weights).to(device)
    (images, labels), (val_images, val_labels) = read_data(options.data)
    optimizer = optimizer_for(network, options.lr, options.decay)
    half = device.type == "cuda"
    kind = torch.bfloat16 if half and torch.cuda.is_bf16_supported() else torch.float16
    scaler = torch.amp.GradScaler(device.type, enabled=half and kind is torch.float16)
    steps = max(1, math.ceil(len(images) / options.batch)) * options.epochs
    checkpoint = options.out.with_suffix(".checkpoint.pt")
    begun, best = 0, accuracy(network, val_images, val_labels, options.batch, device)
    settle_norms(network, images, options.batch, device)
    best_state = {name: value.cpu().clone() for name, value in network.state_dict().items()}
    if options.resume and checkpoint.exists():
        kept = torch.load(checkpoint, map_location="cpu", weights_only=True)
        network.load_state_dict(kept["network"])
        optimizer.load_state_dict(kept["optimizer"])
        begun, best, best_state = kept["epoch"], kept["best"], kept["best_state"]
    told = {"images": len(images), "held_out": len(val_images), "device": str(device), "start": best}
    print(json.dumps(told), flush=True)
    step = begun * (steps // options.epochs)
    for epoch in range(begun, options.epochs):
        start, total = time.perf_counter(), 0.0
        network.train()
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(options.seed + epoch))
        for chosen in order.split(options.batch):
            if len(chosen) < 2:
                continue  # batch norm learns nothing from one image
            warm = min(1.0, (step + 1) / max(1, steps // 20))
            for group in optimizer.param_groups:
                group["lr"] = options.lr * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
            given = shift(normalise(images[chosen].to(device)), options.shift, options.flip)
            with torch.autocast(device.type, dtype=kind, enabled=half):
                loss = F.cross_entropy(network(given).float(), labels[chosen].to(device))
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            total += float(loss.detach()) * len(chosen)
            step += 1
        if not math.isfinite(total):
            sys.exit("Training went astray: the loss is not a number. Try a smaller --lr.")
        found = accuracy(network, val_images, val_labels, options.batch, device)
        if found >= best:
            best, best_state = found, {name: value.cpu().clone() for name, value in network.state_dict().items()}
        notes = {"prunescope.plan": PLAN, "prunescope.origin": f"fine-tuned {epoch + 1} epochs elsewhere"}
        write_safetensors(best_state, options.out, notes)
        torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1,
                    "best": best, "best_state": best_state}, checkpoint)
        told = {"epoch": epoch + 1, "loss": total / len(images), "held_out_accuracy": found, "best": best}
        print(json.dumps({**told, "seconds": round(time.perf_counter() - start, 2)}), flush=True)
    print(json.dumps({"best": best, "file": str(options.out)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
'''
