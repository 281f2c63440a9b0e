#!/usr/bin/env python3
"""Makes a trained checkpoint a model that needs nothing of this project, for servers, programs and telephones.

Reads   CHECKPOINT_PATH, a folder (its newest checkpoint) or one checkpoint; labels.txt beside it or in DATASET_DIR;
        the records of DATASET_DIR for the 8-bit model; EVAL_DIR/metrics.json for the model card.
Writes  EXPORT_DIR/<step>/: a SavedModel (encoded pictures in, labels and probabilities out), model.tflite and
        model_int8.tflite (pixels in, probabilities out), labels.txt, README.md (the model card).

    python export_model.py --checkpoint_path=logs --export_dir=export --dataset_dir=data --eval_dir=logs/eval

Safe to run again: a step that has been exported stays as it is. serve-model.yaml serves the newest step.
"""

from collections.abc import Iterator, Sequence
import json
from pathlib import Path
import platform
import shutil
import sys
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # Left out under PYTHONSAFEPATH.

import numpy as np

from metart.networks.slim_compat import slim, tf
import dataset_factory
from metart.common.files import make_folder
from metart.common.flags import Parser, UserError, number, run
from metart.common.labels import write_labels
from metart.evaluation.inference import Classifier, open_classifier
from metart.networks import checkpoints, registry
from metart.networks.preprocessing import uploaded_image
from metart.networks.session import Device
from metart.records.pictures import MAX_SIDE
from metart.training import input_pipeline

CALIBRATION_PICTURES = 200  # What TensorFlow Lite's guide calls enough to find the range of each activation.


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--checkpoint_path", required=True, help="checkpoint, or folder for its newest")
    add("--export_dir", type=Path, required=True, help="folder that gets a folder named after the step")
    add("--dataset_dir", type=Path, help="folder with the records it was trained on; without it, no 8-bit model")
    add("--dataset_name", default="arts", choices=dataset_factory.DATASETS, help="kind of data set")
    add("--eval_dir", type=Path, help="folder of its evaluation; default: no figures in the card")
    add("--model_name", choices=registry.NETWORKS, metavar="NAME", help="network; default: the one trained")
    add("--eval_image_size", type=number(int, 32), help="side of the input, pixels; default: as trained")
    parser.add_boolean("tflite", True, "also for TensorFlow Lite, which takes some minutes")
    return parser


def write_saved_model(classifier: Classifier, folder: Path) -> None:
    """Writes a SavedModel with weights, preprocessing and labels inside.

    Its signature `serving_default` takes `image_bytes`, string [n], JPEG or PNG files, and gives `labels`, string
    [n, labels], and `probabilities`, float32 [n, labels], the most probable label first.

    Raises:
        UserError: It cannot be written.
    """
    network = tf.compat.v1.graph_util.convert_variables_to_constants(
        classifier.session, classifier.session.graph.as_graph_def(), [classifier.output.op.name]
    )
    with tf.Graph().as_default():
        image_bytes = tf.compat.v1.placeholder(tf.string, [None], name="image_bytes")
        images = tf.map_fn(
            lambda encoded: uploaded_image(encoded, classifier.image_size, MAX_SIDE),
            image_bytes,
            fn_output_signature=tf.TensorSpec([classifier.image_size, classifier.image_size, 3], tf.float32),
        )
        (output,) = tf.import_graph_def(
            network, {classifier.images.name: images}, [classifier.output.name], name="network"
        )
        probabilities, order = tf.math.top_k(output, k=len(classifier.label_names))
        labels = tf.gather(tf.constant(classifier.label_names), order)
        with tf.compat.v1.Session() as session:
            inputs, outputs = {"image_bytes": image_bytes}, {"labels": labels, "probabilities": probabilities}
            with checkpoints.writing(folder):
                tf.compat.v1.saved_model.simple_save(session, str(folder), inputs, outputs)


def tflite_model(classifier: Classifier, calibration: Sequence[np.ndarray] = ()) -> bytes:
    """Returns a TensorFlow Lite model of the network alone.

    Its input is RGB, range [0, 255], [n, image_size, image_size, 3], as `preprocessing.evaluation_image` makes it, its
    output float32 [n, labels], probabilities in the order of labels.txt.

    Args:
        classifier: The network.
        calibration: Images, float32 [1, image_size, image_size, 3]; with them the model computes with 8-bit integers
            and its input is uint8, without them with float32.
    """
    converter = tf.compat.v1.lite.TFLiteConverter.from_session(
        classifier.session, [classifier.images], [classifier.output]
    )
    if len(calibration):

        def representative_dataset() -> Iterator[list[np.ndarray]]:
            return ([image] for image in calibration)

        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative_dataset
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
    with classifier.session.graph.as_default():
        return converter.convert()


def calibration_images(dataset: slim.dataset.Dataset, image_size: int) -> list[np.ndarray]:
    """Returns some training images as `tflite_model` takes them; the records are in random order."""
    return [
        images
        for images, _, _ in input_pipeline.evaluation_arrays(dataset.data_sources, 1, image_size, CALIBRATION_PICTURES)
    ]


def read_metrics(eval_dir: Path, checkpoint: str) -> dict[str, Any]:
    """Returns the figures of eval_image_classifier.py for a checkpoint.

    Raises:
        UserError: There are none, or those of another checkpoint.
    """
    path = eval_dir / "metrics.json"
    evaluate = f"run eval_image_classifier.py --checkpoint_path={checkpoint} --eval_dir={eval_dir}"
    if not path.is_file():
        raise UserError(f"{path} is missing; {evaluate}")
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
        about = Path(figures["checkpoint"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged; {evaluate}") from None
    if about.name != Path(checkpoint).name:
        raise UserError(f"{path} is about {about}; {evaluate}")
    return figures


def model_card(classifier: Classifier, dataset_dir: Path | None, figures: dict[str, Any] | None) -> str:
    """Returns what a user of the model has to know, as Markdown."""
    if dataset_dir and (dataset_dir / "splits.json").is_file():
        counts = json.loads((dataset_dir / "splits.json").read_text(encoding="utf-8"))["counts"]
        data = ", ".join(f"{sum(of_label.values()):,} pictures for {split}" for split, of_label in counts.items())
    else:
        data = "not recorded"
    measured = "Not measured; eval_image_classifier.py does it."
    if figures:
        rows = [
            f"| {name.replace('_', ' ')} | {value:.4f} |" for name, value in figures.items() if type(value) is float
        ]
        title = f"On {figures['pictures']:,} pictures of the {figures['split']} split:"
        measured = "\n".join([title, "", "| figure | value |", "|---|---|", *rows])
    names = "\n".join(f"- {name}" for name in classifier.label_names)
    size, step = classifier.image_size, checkpoints.step(classifier.checkpoint)
    return f"""# {classifier.model_name} for {len(classifier.label_names)} labels of artworks

Names the label (such as the culture) of a photograph of an artwork. {classifier.model_name} of TF-Slim at
{size} x {size} pixels, step {step:,}, temperature {classifier.temperature:.3f}.

## Use

- SavedModel, signature `serving_default`: `image_bytes`, any number of JPEG or PNG files, to `labels` and
  `probabilities`, the most probable first.
- `model.tflite`, `model_int8.tflite`: RGB pixels, range 0 to 255, {size} x {size}, of the central 87.5 % of the picture
  (float32 and uint8), to probabilities in the order of `labels.txt`.

## Data

Photographs of the Metropolitan Museum of Art's Open Access collection (CC0), unless its user trained it on others:
{data}. Labels are the museum's words, or a cleaned form of them, and follow its collection: what is rare there is
answered rarely and less reliably, and a picture of something else still gets one of the labels. Not for deciding
provenance, authenticity or value.

## Measured

{measured}

## Made with

TensorFlow {tf.__version__}, Python {platform.python_version()}. The code is under the Apache License 2.0; the weights
may be used as their training data allows.

## Labels

{names}
"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = build_parser().parse_args(argv)
    checkpoint = checkpoints.newest(flags.checkpoint_path)
    folder = flags.export_dir / str(checkpoints.step(checkpoint))
    if folder.exists():
        print(f"nothing to do: {folder} is there; delete it to export {checkpoint} again")
        return
    figures = read_metrics(flags.eval_dir, checkpoint) if flags.eval_dir else None
    training = None
    if flags.dataset_dir and any(flags.dataset_dir.glob("*.tfrecord")):
        training = input_pipeline.open_split(flags.dataset_name, "train", flags.dataset_dir)
    partial = folder.with_name(f"partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)  # Of an interrupted run.
    make_folder(partial)
    with open_classifier(
        checkpoint, flags.model_name, flags.eval_image_size, flags.dataset_dir, device=Device(use_gpu=False)
    ) as classifier:
        write_saved_model(classifier, partial)
        write_labels(classifier.label_names, partial)
        (partial / "README.md").write_text(model_card(classifier, flags.dataset_dir, figures), encoding="utf-8")
        if flags.tflite:
            (partial / "model.tflite").write_bytes(tflite_model(classifier))
        if flags.tflite and training:
            calibration = calibration_images(training, classifier.image_size)
            (partial / "model_int8.tflite").write_bytes(tflite_model(classifier, calibration))
    partial.rename(folder)
    without = "" if training or not flags.tflite else "; no model_int8.tflite: that needs records in --dataset_dir"
    print(f"{checkpoint} exported to {folder}{without}")


if __name__ == "__main__":
    run(main)
