"""Scripts run as a reader runs them: a process of their own, with its time and its memory."""

import os
from pathlib import Path
import re
import resource
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from control_groups import python_within

REPO = Path(__file__).resolve().parent.parent


class Run(NamedTuple):
    """What a run came to."""

    status: int
    output: str
    errors: str
    seconds: float
    cpu_seconds: float  # Of all its threads and processes: what other work on the machine hardly changes.
    peak_megabytes: float


def run_script(
    name: str,
    *flags: str,
    folder: Path = REPO,
    environment: dict[str, str] | None = None,
    group: Path | None = None,
) -> Run:
    """Runs a script of the repo to its end, in a control group if one is given."""
    python = [sys.executable] if group is None else python_within(group)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        start, cpu_start = time.monotonic(), _cpu_seconds_of_children()
        process = subprocess.Popen(
            [*python, REPO / name, *flags],
            stdout=output,
            stderr=errors,
            cwd=folder,
            env={**os.environ, **(environment or {})},
        )
        peak = 0.0
        try:
            while process.poll() is None:
                peak = max(peak, peak_megabytes(process.pid))
                time.sleep(0.02)
        finally:
            process.kill()  # Where the test was stopped; otherwise it has ended.
            process.wait()
        seconds, cpu_seconds = time.monotonic() - start, _cpu_seconds_of_children() - cpu_start
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode("utf-8"))
        return Run(process.returncode, texts[0], texts[1], seconds, cpu_seconds, peak)


def output_and_peak(program: str, *arguments: str | os.PathLike[str]) -> tuple[str, float]:
    """Runs a program of Python beside the repo's modules; returns what it prints and its peak in MB."""
    peak = "\nimport os, processes\nprint(processes.peak_megabytes(os.getpid()))"
    done = subprocess.run(
        [sys.executable, "-c", program + peak, *arguments],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO / "tests")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    output, megabytes = done.stdout.rstrip("\n").rpartition("\n")[::2]
    return output, float(megabytes)


def _cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def peak_megabytes(process_id: int) -> float:
    """Returns the most memory that a process has held; getrusage would count its parent's at the fork as well."""
    try:
        status = Path(f"/proc/{process_id}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    return int(found.group(1)) / 1024 if found else 0.0
