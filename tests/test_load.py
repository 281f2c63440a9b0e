"""As many pictures and labels as the museum has: memory stays bounded, rates are printed."""

from collections.abc import Mapping
import json
from pathlib import Path
import subprocess
import sys
import time

import corpus
from processes import REPO, run_script
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

# Reads an epoch as training does and prints the memory in use, megabytes, at every twentieth of it.
READ_AN_EPOCH = """
import sys
from pathlib import Path
import re
from metart.training import input_pipeline
dataset = input_pipeline.open_split("arts", "train", sys.argv[1])
number_of_batches = dataset.num_samples // 100
read = 0
batches = input_pipeline.training_batches(dataset.data_sources, 100, input_pipeline.Augmentation(32))
for position, (images, labels) in enumerate(batches):
    read += len(labels)
    if position % (number_of_batches // 20) == 0:
        status = Path("/proc/self/status").read_text()
        print(read, int(re.search(r"VmRSS:\\s*(\\d+) kB", status)[1]) // 1024, flush=True)
    if read >= dataset.num_samples:
        break
"""


def draw_many(folder: Path, counts: Mapping[str, int]) -> int:
    """Writes so many pictures of each label, all different, and returns how many in all."""
    jpegs = [corpus.encode(corpus.drawing(number, (16, 12))) for number in range(20)]
    total = 0
    for label, count in counts.items():
        label_folder = folder / "met_art" / label
        label_folder.mkdir(parents=True)
        for _ in range(count):
            jpeg, comment = jpegs[total % len(jpegs)], str(total).encode()
            comment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
            (label_folder / f"{total}.jpg").write_bytes(jpeg[:2] + comment + jpeg[2:])
            total += 1
    return total


def convert(folder: Path, total: int) -> str:
    """Converts a folder and returns what the reader of the test should see of it."""
    run = run_script("convert.py", f"--dataset_dir={folder}")
    assert run.status == 0, run.errors
    counts = json.loads((folder / "splits.json").read_text(encoding="utf-8"))["counts"]
    assert sum(sum(of_label.values()) for of_label in counts.values()) == total
    # doc/kubernetes.md: 50 MB and a part for the list of the pictures.
    assert run.peak_megabytes < 100 + total / 1000 * 3
    return f"convert: {total:,} pictures, {total / run.seconds:,.0f}/s, {run.peak_megabytes:.0f} MB"


def test_200_000_pictures_of_600_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    total = draw_many(tmp_path, {f"Culture {number:03}": 200_000 // 600 + (number < 200) for number in range(600)})
    assert total == 200_000
    shown = convert(tmp_path, total)
    again = run_script("convert.py", f"--dataset_dir={tmp_path}")
    assert again.output.startswith("nothing to do"), again.errors

    start = time.monotonic()
    command = [sys.executable, "-c", READ_AN_EPOCH, str(tmp_path)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    points = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    read, megabytes = points[-1]
    filled = points[len(points) // 4][1]  # By then all buffers are full.
    assert megabytes < 1.1 * filled
    with capsys.disabled():
        print(f"\n{shown}, again {again.seconds:.0f} s; epoch: {read:,} pictures, {read / seconds:,.0f}/s,", end=" ")
        print(f"{filled} MB after a quarter, {megabytes} MB at the end")


def test_a_folder_of_100_000_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    total = draw_many(tmp_path, {"Greek, Attic": 100_000, "Minoan": 1000})
    shown = convert(tmp_path, total)
    with capsys.disabled():
        print(f"\none folder of 100,000: {shown}")
