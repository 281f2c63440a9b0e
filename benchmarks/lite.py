"""Measures the TensorFlow Lite models of an export on the validation pictures.

python benchmarks/lite.py --export_dir=export/100 --dataset_dir=data
"""

from collections.abc import Sequence
import json
from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from metart.networks.slim_compat import tf
from export_model import EXPORT_FILENAME, LITE_FILES
from metart.common.flags import Parser, UserError, run
from metart.common.labels import read_labels
from metart.evaluation import metrics
from metart.networks.preprocessing import Looks
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
    if about["labels"] != read_labels(flags.dataset_dir):
        raise UserError(f"{flags.dataset_dir} has other labels than {flags.export_dir}")
    probabilities: dict[str, list[np.ndarray]] = {name: [] for name in LITE_FILES}
    models = []
    for name, kind in LITE_FILES.items():
        interpreter = tf.lite.Interpreter(str(flags.export_dir / name), num_threads=1)
        interpreter.allocate_tensors()
        (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
        models.append((interpreter, kind, taken["index"], given["index"], probabilities[name]))
    truth = []
    looks = Looks(about["image_size"], central_fraction=about["eval_central_fraction"])
    for image, label, _ in input_pipeline.evaluation_arrays(dataset, 1, looks):
        truth.append(label)
        for interpreter, kind, taken, given, answers in models:
            interpreter.set_tensor(taken, (image.round() if kind == "uint8" else image).astype(kind))
            interpreter.invoke()
            answers.append(interpreter.get_tensor(given))
    for name, rows in probabilities.items():
        print(json.dumps({"file": name} | metrics.summary(np.concatenate(truth), np.concatenate(rows))))


if __name__ == "__main__":
    run(main)
