"""Measures the training step of a peer: a network of timm's on PyTorch, channels last, the same batch each time.

    python benchmarks/peer_timm.py --precision=bfloat16

Optimizer, losses (but for L2) and number of labels are those of training.py.

Needs the packages of requirements/benchmarks.txt.
"""

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types

from stopwatch import Stopwatch, peer_parser

AUXILIARY_LOSS_WEIGHT = 0.4


class Missing(type):
    """A class that stands for anything in torchvision, and so do its attributes."""

    def __getattr__(cls, name: str) -> "Missing":
        if name.startswith("__"):
            raise AttributeError(name)
        return Missing(name, (), {})


class MissingModule(types.ModuleType):
    """A module with every name there could be."""

    __getattr__ = Missing.__getattr__


class WithoutTorchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets timm be imported without torchvision, whose data sets and transforms it needs; networks need neither.

    There is no torchvision beside the PyTorch that computes on CPUs alone.
    """

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name.split(".")[0] != "torchvision":
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return MissingModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


if importlib.util.find_spec("torchvision") is None:
    sys.meta_path.append(WithoutTorchvision())
import timm  # noqa: E402
import torch  # noqa: E402


def build_parser() -> argparse.ArgumentParser:
    parser = peer_parser(__doc__, image_size="pixels; with fewer, the auxiliary head does not fit")
    parser.add_argument("--model_name", default="inception_v3", help="timm's name")
    parser.add_argument("--compile", action="store_true", help="with torch.compile; needs a C++ compiler")
    return parser


def main() -> None:
    flags = build_parser().parse_args()
    on_gpu = flags.device == "gpu"
    device = torch.device("cuda" if on_gpu else "cpu")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    with_auxiliary_head = {"aux_logits": True} if flags.model_name == "inception_v3" else {}
    model = timm.create_model(flags.model_name, num_classes=flags.num_classes, **with_auxiliary_head)
    model = model.train().to(device, memory_format=torch.channels_last)
    images = torch.rand(flags.batch_size, 3, flags.image_size, flags.image_size) * 2 - 1
    images = images.to(device, memory_format=torch.channels_last)
    labels = torch.randint(0, flags.num_classes, (flags.batch_size,), device=device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=True)
    cross_entropy = torch.nn.CrossEntropyLoss(label_smoothing=0.1)

    def forward() -> torch.Tensor:
        if not with_auxiliary_head:
            return cross_entropy(model(images), labels)
        logits, auxiliary_logits = model(images)
        return cross_entropy(logits, labels) + AUXILIARY_LOSS_WEIGHT * cross_entropy(auxiliary_logits, labels)

    loss_of_batch = torch.compile(forward) if flags.compile else forward
    stopwatch = Stopwatch(flags.batch_size, torch.cuda.synchronize if on_gpu else lambda: None)
    for _ in range(flags.steps):
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=flags.precision == "bfloat16"):
            loss = loss_of_batch()
        loss.backward()
        optimizer.step()
        stopwatch.step_done()
    stopwatch.print_report(torch.cuda.max_memory_allocated() if on_gpu else None)


if __name__ == "__main__":
    main()
