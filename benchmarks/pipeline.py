"""Measures how many training images a second some cores read, decode, crop, colour and batch.

python benchmarks/pipeline.py --dataset_dir=data
"""

from collections.abc import Sequence
import json
import os
from pathlib import Path
import sys
import time

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from metart.networks.slim_compat import tf  # noqa: F401
from metart.common.flags import Parser, number, run
from metart.training import input_pipeline
from metart.training.input_pipeline import Augmentation


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--dataset_dir", required=True, help="folder with the records of convert.py")
    add("--cores", type=number(int, 1), default=1, help="of those that there are")
    add("--image_size", type=number(int, 32), default=299, help="pixels")
    add("--batch_size", type=number(int, 1), default=32)
    add("--batches", type=number(int, 1), default=30)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    flags = build_parser().parse_args(argv)
    cores = sorted(os.sched_getaffinity(0))[: flags.cores]
    os.sched_setaffinity(0, cores)  # TensorFlow counts them when it first computes.
    records = input_pipeline.open_split("arts", "train", flags.dataset_dir).data_sources
    iterator = iter(input_pipeline.training_batches(records, flags.batch_size, Augmentation(flags.image_size)))
    for _ in range(3):  # What is prefetched must not count.
        next(iterator)
    start = time.monotonic()
    for _ in range(flags.batches):
        next(iterator)
    images_per_second = flags.batches * flags.batch_size / (time.monotonic() - start)
    print(json.dumps({"images_per_second": images_per_second, "cores": len(cores)}))


if __name__ == "__main__":
    run(main)
