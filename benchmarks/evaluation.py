"""Measures how many pictures a second eval_image_classifier.py answers for, read from the records.

python benchmarks/evaluation.py --checkpoint_path=logs --dataset_dir=data
"""

from collections.abc import Sequence
import json
from pathlib import Path
import sys
import time

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from metart.common.flags import Parser, number, run
from metart.evaluation.inference import open_classifier, predict
from metart.networks.session import PRECISIONS, Device
from metart.training import input_pipeline


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--checkpoint_path", required=True, help="checkpoint, or folder for its newest")
    add("--dataset_dir", type=Path, required=True, help="folder with the records of convert.py")
    add("--batch_size", type=number(int, 1), default=100)
    add("--batches", type=number(int, 1), default=3)
    add("--precision", default="float32", choices=PRECISIONS)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    flags = build_parser().parse_args(argv)
    dataset = input_pipeline.open_split("arts", "validation", flags.dataset_dir)
    device = Device(flags.precision)
    with open_classifier(flags.checkpoint_path, dataset_dir=flags.dataset_dir, device=device) as classifier:
        predict(classifier, dataset, flags.batch_size, max_num_batches=1)
        start = time.monotonic()
        truth, _, _ = predict(classifier, dataset, flags.batch_size, flags.batches)
        print(json.dumps({"images_per_second": len(truth) / (time.monotonic() - start)}))


if __name__ == "__main__":
    run(main)
