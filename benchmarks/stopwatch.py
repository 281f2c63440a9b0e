"""What the contestants of table.py share: the flags of the peers, and the time of training steps as JSON.

The standard library is enough for it: PyTorch and timm have an environment of their own.
"""

import argparse
import json
import time


def peer_parser(description: str | None, image_size: str) -> argparse.ArgumentParser:
    """Returns the flags that table.py gives to every peer; `image_size` says what its network takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--precision", default="float32", choices=("float32", "bfloat16"))
    add("--image_size", type=int, default=299, help=image_size)
    add("--batch_size", type=int, default=32)
    add("--num_classes", type=int, default=100)
    add("--steps", type=int, default=10)
    return parser


class Stopwatch:
    """Counts from the end of the first step on, as train_image_classifier.py does: that one compiles."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._ends: list[float] = []

    def step_done(self) -> None:
        """To be called at the end of each step."""
        self._ends.append(time.monotonic())

    def print_report(self) -> None:
        """Prints images a second and when the first step had ended, by the clock that all processes share, as JSON."""
        seconds_per_step = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        report = {"images_per_second": self._batch_size / seconds_per_step, "first_step_at": self._ends[0]}
        print(json.dumps(report))
