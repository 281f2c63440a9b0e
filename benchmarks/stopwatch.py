"""What the contestants of table.py share: the flags of the peers, and the time of training steps as JSON.

The standard library is enough for it: PyTorch and timm have an environment of their own.
"""

import argparse
from collections.abc import Callable
import json
import time


def peer_parser(description: str | None, image_size: str) -> argparse.ArgumentParser:
    """Returns the flags that table.py gives to every peer; `image_size` says what its network takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", default="cpu", choices=("cpu", "gpu"))
    add("--precision", default="float32", choices=("float32", "bfloat16", "float16"), help="float32 is TF32 on a GPU")
    add("--image_size", type=int, default=299, help=image_size)
    add("--batch_size", type=int, default=32)
    add("--num_classes", type=int, default=100)
    add("--steps", type=int, default=10)
    return parser


class Stopwatch:
    """Counts from the end of the first step on, as train_image_classifier.py does: that one compiles."""

    def __init__(self, batch_size: int, wait: Callable[[], None] = lambda: None):
        """Takes what waits until the device has done all it was asked to, for a peer that does not wait by itself."""
        self._batch_size = batch_size
        self._wait = wait
        self._steps = 0
        self._first_end = 0.0

    def step_done(self) -> None:
        """To be called at the end of each step."""
        self._steps += 1
        if self._steps == 1:
            self._wait()
            self._first_end = time.monotonic()

    def print_report(self, device_bytes: float | None = None) -> None:
        """Prints images a second and when the first step had ended, by the clock that all processes share, as JSON.

        Args:
            device_bytes: The most memory of a GPU that was in use.
        """
        self._wait()
        seconds_per_step = (time.monotonic() - self._first_end) / (self._steps - 1)
        report = {"images_per_second": self._batch_size / seconds_per_step, "first_step_at": self._first_end}
        if device_bytes is not None:
            report["device_megabytes"] = device_bytes / 1e6
        print(json.dumps(report))
