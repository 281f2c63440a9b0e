"""Times training steps: what each contestant prints for table.py. The standard library is enough for it."""

import json
import time


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
