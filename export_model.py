#!/usr/bin/env python3
"""Turns a trained checkpoint into a model that runs without this project, on servers, in programs and on phones.

Reads   CHECKPOINT_PATH, a folder (its newest checkpoint) or one checkpoint; labels.txt beside it or in DATASET_DIR;
        the records of DATASET_DIR for the 8-bit model; EVAL_DIR/metrics.json for the model card.
Writes  EXPORT_DIR/<number>/, the step if that is new: a SavedModel (encoded pictures in, labels and probabilities
        out), model.tflite and model_int8.tflite (pixels in, probabilities out), labels.txt, README.md (the model
        card), export.json (what all this was made from).

    python export_model.py --checkpoint_path=logs --export_dir=export --dataset_dir=data --eval_dir=logs/eval

Safe to run again: what has been exported stays as it is. Other weights, labels, temperature or figures get a new
number above all that are there: serve-model.yaml serves the highest, so the newest export.
"""

from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).resolve().parent))  # Left out under PYTHONSAFEPATH.
if __name__ == "__main__":  # Before the long imports.
    from metart.common import startup

    startup.begin()

from collections import Counter
from collections.abc import Mapping, Sequence
import contextlib
import json
import platform
import re
import shutil
from typing import Any

import numpy as np

from metart.networks.slim_compat import slim, tf, without_autograph, without_notices
import dataset_factory
from metart import __version__
from metart.common.files import PARTIAL_PREFIX, locked, read_json, replacing_folder
from metart.common.flags import Parser, UserError, notice, number, path, run
from metart.common.labels import LABELS_FILENAME, write_labels
from metart.evaluation.inference import METRICS_FILENAME, Classifier, open_classifier
from metart.networks import checkpoints, registry
from metart.networks.preprocessing import IMAGE_SIZES
from metart.networks.session import Device
from metart.networks.uploads import uploaded_image
from metart.records import record_set, splits
from metart.records.record_set import RecordSet
from metart.training import input_pipeline

CALIBRATION_PICTURES = 200  # What TensorFlow Lite's guide calls enough to find the range of each activation.
EXPORT_FILENAME = "export.json"
LOCK_FILENAME = ".export.lock"  # Its own: the folder may be that of a run.
# Of metrics.json, beside the figures themselves.
FIGURES_OF_THE_CARD = {"pictures", "split", "records_fingerprint", "precision", "pictures_seen_in_training"}
LITE_FILES = {"model.tflite": "float32", "model_int8.tflite": "uint8"}  # With the type of their input.
ONE_LOOK = "\n  It looks at a picture once; the figures below are those of several looks."


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--checkpoint_path", type=path, required=True, help="checkpoint, or folder for its newest")
    add("--export_dir", type=path, required=True, help="folder in which a numbered folder is made")
    add("--dataset_dir", type=path, help="folder with the records it was trained on; without it, no 8-bit model")
    add("--dataset_name", default="arts", choices=dataset_factory.DATASETS, help="kind of data set")
    add("--eval_dir", type=path, help="folder of its evaluation; default: no figures in the card")
    add("--model_name", choices=registry.NETWORKS, metavar="NAME", help="network; default: the one trained")
    add("--eval_image_size", type=number(int, *IMAGE_SIZES), help="side of the input, pixels; default: as trained")
    parser.add_boolean("tflite", True, "also for TensorFlow Lite, which takes some minutes")
    return parser


def _frozen(classifier: Classifier, output: tf.Tensor) -> tf.compat.v1.GraphDef:
    """Returns what computes an output of the classifier, with the weights as constants."""
    session = classifier.session
    return tf.compat.v1.graph_util.convert_variables_to_constants(
        session, session.graph.as_graph_def(), [output.op.name]
    )


@without_autograph
def write_saved_model(classifier: Classifier, folder: Path) -> None:
    """Writes a SavedModel with weights, preprocessing and labels inside.

    Its signature `serving_default` takes `image_bytes`, string [n], JPEG or PNG files, and gives `labels`, string
    [n, labels], and `probabilities`, float32 [n, labels], the most probable label first.

    Raises:
        UserError: It cannot be written.
    """
    with tf.Graph().as_default():
        image_bytes = tf.compat.v1.placeholder(tf.string, [None], name="image_bytes")
        images = tf.map_fn(
            lambda encoded: uploaded_image(encoded, classifier.looks),
            image_bytes,
            fn_output_signature=tf.TensorSpec(classifier.images.shape[1:], tf.float32),
        )
        (output,) = tf.import_graph_def(
            _frozen(classifier, classifier.output),
            {classifier.images.name: images},
            [classifier.output.name],
            name="network",
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
        calibration: Images, float32 [1, image_size, image_size, 3]; with them the model computes with 8-bit integers,
            its input is uint8 and it looks at a picture only once; without them it computes with float32.
    """
    # TensorFlow Lite's 8-bit form of layers that share weights, as several looks do, answers wrongly: 0.49 for 0.55.
    output = classifier.output_of_one_look if len(calibration) else classifier.output
    # A graph of its own, as the converter would look for what initialises the variables of the other.
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        ends = tf.import_graph_def(
            _frozen(classifier, output), return_elements=[classifier.images.name, output.name], name=""
        )
        converter = tf.compat.v1.lite.TFLiteConverter.from_session(session, ends[:1], ends[1:])
        if len(calibration):
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([image] for image in calibration)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = tf.uint8
        with without_notices():
            return converter.convert()


def calibration_images(dataset: slim.dataset.Dataset, classifier: Classifier) -> list[np.ndarray]:
    """Returns some training images as `tflite_model` takes them; the records are in random order."""
    data = input_pipeline.evaluation_arrays(dataset, 1, classifier.looks, CALIBRATION_PICTURES)
    return [images for images, _, _ in data]


def read_metrics(eval_dir: Path, classifier: Classifier) -> dict[str, Any]:
    """Returns the figures of eval_image_classifier.py for a classifier.

    Raises:
        UserError: There are none, or those of something else.
    """
    path = eval_dir / METRICS_FILENAME
    evaluate = f"run eval_image_classifier.py --checkpoint_path={classifier.checkpoint} --eval_dir={eval_dir}"
    if not path.is_file():
        raise UserError(f"{path} is missing; {evaluate}")
    try:
        figures = read_json(path)
        about = Path(figures["checkpoint"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged; {evaluate}") from None
    if about.name != Path(classifier.checkpoint).name:
        raise UserError(f"{path} is about {about}; {evaluate}")
    for name, value in {**classifier.described(), "max_side": classifier.looks.max_side}.items():
        if figures.get(name) != value:
            raise UserError(
                f"{path} is about {name.replace('_', ' ')} {figures.get(name, 'unknown')}, not {value}; {evaluate}"
            )
    if not FIGURES_OF_THE_CARD.issubset(figures):
        raise UserError(f"{path} is damaged; {evaluate}")
    return figures


def model_card(classifier: Classifier, records: RecordSet | None, about: Mapping[str, Any]) -> str:
    """Returns what a user of the model has to know, as Markdown; `about` is the content of export.json."""
    fingerprint = about["records_fingerprint"]
    data = f"records {fingerprint}" if fingerprint else "not recorded"
    if records and records.fingerprint == fingerprint:
        counts = Counter(source.split for source in records.sources.values())
        data = ", ".join(f"{counts[split]:,} pictures for {split}" for split in splits.NAMES)
        data += f" (records {fingerprint})"
    looks, step = classifier.looks, checkpoints.step(classifier.checkpoint)
    size = looks.image_size
    figures = about["figures"]
    measured = "Not measured; eval_image_classifier.py does it."
    if figures:
        rows = [
            f"| {name.replace('_', ' ')} | {value:.4f} |"
            for name, value in figures.items()
            if type(value) is float and name not in (*looks.described(), "temperature")
        ]
        title = f"On {figures['pictures']:,} pictures of the {figures['split']} split (records "
        title += f"{figures['records_fingerprint'] or 'without a fingerprint'}), computed in {figures['precision']}:"
        if seen := figures["pictures_seen_in_training"]:
            title = f"The network was trained on {seen:,} of these pictures. {title}"
        elif seen is None:
            title = f"It is not known whether the network was trained on some of these pictures. {title}"
        measured = "\n".join([title, "", "| figure | value |", "|---|---|", *rows])
    # As code, where "*", "_" and "<" mean nothing.
    names = "\n".join(f"    {name}" for name in classifier.label_names)
    lite = "".join(
        f"- `{name}`: {kind} RGB pixels, range 0 to 255, {size} x {size}, of the upright picture's central\n"
        f"  {looks.central_fraction:.1%} of width and height, transparent parts white, to probabilities in the "
        f"order of `labels.txt`.{ONE_LOOK if looks.sizes and kind == 'uint8' else ''}\n"
        for name, kind in LITE_FILES.items()
        if name in about["files"]
    )
    return f"""# {classifier.model_name} for {len(classifier.label_names)} labels of artworks

Names the label (such as the culture) of a photograph of an artwork. {classifier.model_name}, {size} x {size} pixels,
step {step:,}, weights {about["checkpoint_fingerprint"]}, temperature {classifier.temperature:.3f}.

## Use

- SavedModel, signature `serving_default`: `image_bytes`, any number of JPEG or PNG files, to `labels` and
  `probabilities`, the most probable first.
{lite}
## Data

Photographs of the Metropolitan Museum of Art's Open Access collection (CC0), unless its user trained it on others:
{data}.
Labels are the museum's words, or a cleaned form of them, and follow its collection: what is rare there is answered
rarely and less reliably, and a picture of something else still gets one of the labels. Not for deciding provenance,
authenticity or value.

## Measured

{measured}

## Made with

TensorFlow {tf.__version__}, Python {platform.python_version()}. The code is under the Apache License 2.0; the weights
may be used as their training data allows.

## Labels

{names}
"""


def remove_unfinished(export_dir: Path) -> None:
    """Removes what killed runs have left in a folder, each as large as a model; the next has another number."""
    for folder in export_dir.glob(f"{PARTIAL_PREFIX}*"):
        if re.fullmatch(f"{PARTIAL_PREFIX}[0-9]+", folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def newest_export(export_dir: Path) -> tuple[int, Mapping[str, Any]]:
    """Returns the highest number in a folder, 0 where there is none, and what its export.json says.

    That is empty where a new number is right: without one, with one of an older release or a damaged one, and where
    a file of the model is missing.
    """
    highest = max((int(path.name) for path in export_dir.glob("*") if path.name.isdecimal()), default=0)
    folder = export_dir / str(highest)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        about = read_json(folder / EXPORT_FILENAME)
        if all((folder / name).is_file() for name in ("saved_model.pb", LABELS_FILENAME, *about["files"])):
            return highest, about
    return highest, {}


def main(argv: Sequence[str] | None = None) -> None:
    flags = build_parser().parse_args(argv)
    with_records = flags.dataset_dir and any(flags.dataset_dir.glob("*.tfrecord"))
    with (
        record_set.reading(flags.dataset_dir) if with_records else contextlib.nullcontext() as records,
        open_classifier(
            flags.checkpoint_path,
            flags.model_name,
            flags.eval_image_size,
            flags.dataset_dir,
            device=Device(use_gpu=False),
        ) as classifier,
    ):
        learned_from = checkpoints.settings(classifier.checkpoint).get("records", {}).get("fingerprint")
        if records and learned_from not in (None, records.fingerprint):
            notice(
                f"the records in {flags.dataset_dir} are not those that the run was trained on; the card names "
                "those, without their numbers"
            )
        training = None
        if with_records:
            training = input_pipeline.open_split(flags.dataset_name, splits.TRAIN, flags.dataset_dir)
        files = [name for name in LITE_FILES if flags.tflite and (training or name == "model.tflite")]
        about = {
            **classifier.described(),
            "records_fingerprint": learned_from or (records.fingerprint if records else None),
            "labels": classifier.label_names,
            "figures": read_metrics(flags.eval_dir, classifier) if flags.eval_dir else None,
            "files": files,
            "version": __version__,
        }
        with locked(flags.export_dir, LOCK_FILENAME):
            remove_unfinished(flags.export_dir)
            highest, there = newest_export(flags.export_dir)
            folder = flags.export_dir / str(highest)
            if there == about:
                print(f"nothing to do: {folder} is this very model; delete it to export it again")
                return
            folder = flags.export_dir / str(max(checkpoints.step(classifier.checkpoint), highest + 1))
            with replacing_folder(folder) as partial:
                write_saved_model(classifier, partial)
                write_labels(classifier.label_names, partial)
                (partial / "README.md").write_text(model_card(classifier, records, about), encoding="utf-8")
                if "model.tflite" in files:
                    (partial / "model.tflite").write_bytes(tflite_model(classifier))
                if "model_int8.tflite" in files:
                    calibration = calibration_images(training, classifier)
                    (partial / "model_int8.tflite").write_bytes(tflite_model(classifier, calibration))
                if with_records:
                    record_set.require_still(flags.dataset_dir, records)
                (partial / EXPORT_FILENAME).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    without = "" if training or not flags.tflite else "; no model_int8.tflite: that needs records in --dataset_dir"
    print(f"{classifier.checkpoint} exported to {folder}{without}")


if __name__ == "__main__":
    run(main)
