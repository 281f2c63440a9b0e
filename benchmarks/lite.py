"""Measures the TensorFlow Lite models of an export on the validation pictures: each looks at a picture once.

python benchmarks/lite.py --export_dir=export/5000 --dataset_dir=data
"""

from collections.abc import Sequence
import json
from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from metart.networks.slim_compat import tf
from export_model import EXPORT_FILENAME, LITE_FILES
from metart.common.flags import Parser, run
from metart.evaluation import metrics
from metart.training import input_pipeline


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--export_dir", type=Path, required=True, help="numbered folder of export_model.py")
    add("--dataset_dir", type=Path, required=True, help="folder with the records of convert.py")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    flags = build_parser().parse_args(argv)
    about = json.loads((flags.export_dir / EXPORT_FILENAME).read_text(encoding="utf-8"))
    dataset = input_pipeline.open_split("arts", "validation", flags.dataset_dir)
    interpreters = {name: tf.lite.Interpreter(str(flags.export_dir / name), num_threads=1) for name in LITE_FILES}
    probabilities: dict[str, list[np.ndarray]] = {name: [] for name in LITE_FILES}
    truth = []
    for interpreter in interpreters.values():
        interpreter.allocate_tensors()
    pictures = input_pipeline.evaluation_arrays(dataset, 1, about["image_size"], about["eval_central_fraction"])
    for image, label, _ in pictures:
        truth.append(label)
        for name, interpreter in interpreters.items():
            (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
            interpreter.set_tensor(taken["index"], image.round().astype(np.uint8) if "int8" in name else image)
            interpreter.invoke()
            probabilities[name].append(interpreter.get_tensor(given["index"]))
    for name, answers in probabilities.items():
        print(json.dumps({"file": name} | metrics.summary(np.concatenate(truth), np.concatenate(answers))))


if __name__ == "__main__":
    run(main)
