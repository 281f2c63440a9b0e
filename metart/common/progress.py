"""Progress of long work: a bar on a terminal, whole lines where the output is a log."""

import sys
import time

from tqdm import tqdm

LINE_SECONDS = 10.0  # Between two lines of a log: `kubectl logs` stays readable over hours.


class Progress:
    """Counts finished items on stderr with rate and time left.

    Use as a context manager; `update` once for each finished item or batch.
    """

    def __init__(self, description: str, total: int | None, unit: str, initial: int = 0):
        self._description = description
        self._total = total
        self._unit = unit
        self._initial = initial
        self._done = self._printed = initial
        self._start = self._last_line = time.monotonic()
        self._note = ""
        self._bar = (
            tqdm(desc=description, total=total, unit=f" {unit}", initial=initial, dynamic_ncols=True)
            if sys.stderr.isatty()
            else None
        )

    def update(self, count: int = 1, note: str = "") -> None:
        """Adds `count` finished items; `note` (loss, bytes, failures) stands at the end of the line."""
        self._done += count
        self._note = note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._print_line()

    def write(self, line: str) -> None:
        """Prints a line of its own without breaking the bar."""
        tqdm.write(line, file=sys.stderr)

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        self._printed = self._done
        rate = (self._done - self._initial) / max(self._last_line - self._start, 1e-9)
        parts = [f"{self._description}: {self._done:,}"]
        if self._total is not None:
            parts[0] += f" of {self._total:,}"
        parts[0] += f" {self._unit}"
        parts.append(f"{rate:,.1f}/s")
        if self._total is not None and rate > 0 and self._done < self._total:
            parts.append(f"{tqdm.format_interval((self._total - self._done) / rate)} left")
        if self._note:
            parts.append(self._note)
        print(", ".join(parts), file=sys.stderr, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._done > self._printed:
            self._print_line()
