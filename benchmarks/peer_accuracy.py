"""Trains a timm network from scratch for as much processor time as a run of ours, on the same pictures, and tests it.

    python benchmarks/peer_accuracy.py --dataset_dir=data --network=resnet18 --cpu_minutes=30

The recipe is the usual one of timm's training script: SGD with Nesterov's momentum, a cosine after a warm-up, random
resized crops, mirror images, colours, label smoothing, averaged weights; batch, rate, weight decay and crops are those
of this project's earlier recipe for its small network. All pictures are kept in memory, so decoding costs nothing.
Beside other programs set OMP_NUM_THREADS=1: threads that wait for one another use up processor time.

Needs the packages of requirements/benchmarks.txt, and pictures and splits.json of convert.py in DATASET_DIR.
"""

import argparse
import json
import math
from pathlib import Path
import time

import numpy as np
from peer_timm import timm, torch
from PIL import Image

functional = torch.nn.functional
STORED_SIZE = 96  # Side of the pictures in memory, pixels.
WARM_UP = 0.02  # Of the run.


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset_dir", type=Path, required=True)
    add("--network", default="resnet18")
    add("--image_size", type=int, default=64)
    add("--batch_size", type=int, default=64)
    add("--learning_rate", type=float, default=0.05)
    add("--weight_decay", type=float, default=0.0005)
    add("--min_crop_area", type=float, default=0.3)
    add("--cpu_minutes", type=float, default=30.0, help="of all cores together, training alone")
    add("--precision", default="bfloat16", choices=("bfloat16", "float32"), help="what this processor is faster in")
    add("--seed", type=int, default=0)
    return parser


def read_pictures(dataset_dir: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Returns (uint8 [n, 3, STORED_SIZE, STORED_SIZE], labels int64 [n]) of each split."""
    split_of = {
        path: one["split"] for path, one in json.loads((dataset_dir / "splits.json").read_text())["pictures"].items()
    }
    names = sorted({path.partition("/")[0] for path in split_of})
    data = {}
    for split in ("train", "validation"):
        paths = sorted(path for path in split_of if split_of[path] == split)
        pictures = []
        for path in paths:
            with Image.open(dataset_dir / "met_art" / path) as picture:
                pictures.append(np.asarray(picture.convert("RGB").resize((STORED_SIZE, STORED_SIZE))))
        labels = [names.index(path.partition("/")[0]) for path in paths]
        data[split] = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)
    return data


def look(pictures: torch.Tensor, size: int, centres: torch.Tensor, halves: torch.Tensor) -> torch.Tensor:
    """Cuts a part of each picture: float [n, 3, size, size], range [-1, 1].

    Args:
        pictures: uint8 [n, 3, STORED_SIZE, STORED_SIZE].
        size: Side of the result.
        centres: float [n, 2], x and y of the middle, range [-1, 1].
        halves: float [n, 2], half the width and height, at most 1; a negative width mirrors.
    """
    turn = torch.zeros(len(pictures), 2, 3)
    turn[:, 0, 0], turn[:, 1, 1] = halves[:, 0], halves[:, 1]
    turn[:, :, 2] = centres
    places = functional.affine_grid(turn, [len(pictures), 3, size, size], align_corners=False)
    return functional.grid_sample(pictures.float() / 127.5 - 1, places, align_corners=False, padding_mode="border")


def training_images(pictures: torch.Tensor, size: int, min_area: float) -> torch.Tensor:
    """Returns random resized crops, half of them mirrored, with other brightness, contrast and saturation."""
    count = len(pictures)
    area = min_area + (1 - min_area) * torch.rand(count)
    aspect = torch.exp((2 * torch.rand(count) - 1) * math.log(4 / 3))
    halves = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1).clamp(max=1)
    centres = (2 * torch.rand(count, 2) - 1) * (1 - halves)
    halves[:, 0] *= torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    images = look(pictures, size, centres, halves)
    brightness, contrast, saturation = (0.8 + 0.4 * torch.rand(3, count, 1, 1, 1)).unbind()
    images = (images + 1) * brightness - 1
    images = images.mean((1, 2, 3), keepdim=True) * (1 - contrast) + images * contrast
    images = images.mean(1, keepdim=True) * (1 - saturation) + images * saturation
    return images.clamp(-1, 1).contiguous(memory_format=torch.channels_last)


def rate(done: float, peak: float) -> float:
    """Returns the learning rate after a share of the run."""
    if done < WARM_UP:
        return peak * (done / WARM_UP + 0.01)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (done - WARM_UP) / (1 - WARM_UP))))


def figures(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Returns the figures that eval_image_classifier.py prints."""
    probabilities = logits.softmax(1)
    confidence, answers = probabilities.max(1)
    right = (answers == labels).float()
    bins = (confidence * 15).long().clamp(max=14)
    gaps = [abs((right - confidence)[bins == each].sum().item()) for each in range(15)]
    return {
        "top_1": right.mean().item(),
        "top_5": (logits.topk(5).indices == labels[:, None]).any(1).float().mean().item(),
        "log_loss": functional.cross_entropy(logits, labels).item(),
        "calibration_error": sum(gaps) / len(labels),
    }


def test(
    model: torch.nn.Module, pictures: torch.Tensor, labels: torch.Tensor, size: int
) -> dict[str, dict[str, float]]:
    """Returns the figures of one look at the central 87.5 %, and of the mean over looks at all of the picture."""
    model.eval()

    def logits(side: int, half: float, mirrored: bool) -> torch.Tensor:
        parts = []
        for batch in pictures.split(256):
            halves = torch.full([len(batch), 2], half) * torch.tensor([-1.0 if mirrored else 1.0, 1.0])
            parts.append(model(look(batch, side, torch.zeros(len(batch), 2), halves)))
        return torch.cat(parts)

    with torch.no_grad():
        several = [logits(side, 1.0, mirrored) for side in (size, size * 5 // 4) for mirrored in (False, True)]
        return {
            "one look": figures(logits(size, 0.875, False), labels),
            "four looks": figures(torch.stack(several).mean(0), labels),
        }


def main() -> None:
    flags = build_parser().parse_args()
    torch.manual_seed(flags.seed)
    data = read_pictures(flags.dataset_dir)
    pictures, labels = data["train"]
    model = timm.create_model(flags.network, num_classes=int(labels.max()) + 1).to(memory_format=torch.channels_last)
    averaged = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True
    )
    weights = [value for value in model.parameters() if value.ndim > 1]
    others = [value for value in model.parameters() if value.ndim <= 1]
    groups = [{"params": weights, "weight_decay": flags.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=flags.learning_rate, momentum=0.9, nesterov=True)
    order, steps, began, wall = torch.empty(0, dtype=torch.long), 0, time.process_time(), time.monotonic()
    while (done := (time.process_time() - began) / 60 / flags.cpu_minutes) < 1:
        if len(order) < flags.batch_size:
            order = torch.cat([order, torch.randperm(len(labels))])
        batch, order = order[: flags.batch_size], order[flags.batch_size :]
        for group in optimizer.param_groups:
            group["lr"] = rate(done, flags.learning_rate)
        images = training_images(pictures[batch], flags.image_size, flags.min_crop_area)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=flags.precision == "bfloat16"):
            loss = functional.cross_entropy(model(images).float(), labels[batch], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averaged.update_parameters(model)
        steps += 1
        if steps % 200 == 0:
            print(f"step {steps}, loss {loss.item():.3f}, {done:.1%} of the time", flush=True)
    report = {
        "network": flags.network,
        "epochs": steps * flags.batch_size / len(labels),
        "seconds": time.monotonic() - wall,
        **test(averaged, *data["validation"], flags.image_size),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
