#!/usr/bin/env python3
"""Step 7 of 10: measures how well a checkpoint names the labels of pictures it was not trained on.

Reads   CHECKPOINT_PATH, a folder (its newest checkpoint) or one checkpoint; DATASET_DIR/arts_validation_*.tfrecord.
Writes  EVAL_DIR: event files for TensorBoard.

    python eval_image_classifier.py --checkpoint_path=logs --eval_dir=logs/eval --dataset_dir=data

Safe to run again: each run measures anew.
"""

from collections.abc import Sequence
import contextlib

import numpy as np

from slim_compat import tf
import batches
import checkpoints
import dataset_factory
from flags import Parser, number, run
from inference import Classifier, open_classifier
import networks
from progress import Progress
from summaries import Summaries


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--checkpoint_path", required=True, help="checkpoint, or folder for its newest")
    add("--eval_dir", required=True, help="folder for the results")
    add("--dataset_dir", required=True, help="folder with the records and labels.txt")
    add("--dataset_name", default="arts", choices=dataset_factory.DATASETS, help="kind of data set")
    add("--dataset_split_name", default="validation", help="split to evaluate on")
    add("--model_name", choices=networks.NETWORKS, metavar="NAME", help="network; default: the one trained")
    add("--eval_image_size", type=number(int, 32), help="side of the input, pixels; default: as trained")
    add("--batch_size", type=number(int, 1), default=100, help="images at once; changes nothing but memory")
    add("--max_num_batches", type=number(int, 1), help="stop after so many; default: the whole split")
    parser.add_boolean("clone_on_cpu", False, "do not use a GPU")
    parser.add_ignored("alsologtostderr")
    return parser


def predict(
    classifier: Classifier, dataset: "tf.data.Dataset", num_samples: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Answers for every picture of a data set, in order.

    Returns:
        (truth int64 [n], probabilities float32 [n, labels], picture names).
    """
    truth: list[np.ndarray] = []
    probabilities: list[np.ndarray] = []
    names: list[str] = []
    with Progress("evaluating", num_samples, "pictures") as progress:
        for images, labels, filenames in dataset.as_numpy_iterator():
            truth.append(labels)
            probabilities.append(classifier.probabilities(images))
            names += [name.decode() for name in filenames]
            progress.update(len(labels))
    return np.concatenate(truth), np.concatenate(probabilities), names


def evaluate(arguments) -> str:  # type: ignore[no-untyped-def]
    dataset = batches.open_split(arguments.dataset_name, arguments.dataset_split_name, arguments.dataset_dir)
    classifier = open_classifier(
        arguments.checkpoint_path,
        arguments.model_name,
        arguments.eval_image_size,
        arguments.dataset_dir,
        use_gpu=not arguments.clone_on_cpu,
    )
    checkpoint = checkpoints.newest(arguments.checkpoint_path)
    data = batches.evaluation_batches(dataset.data_sources, arguments.batch_size, classifier.image_size)
    if arguments.max_num_batches:
        data = data.take(arguments.max_num_batches)
    try:
        truth, probabilities, _ = predict(classifier, data, dataset.num_samples)
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError):
        batches.raise_damaged(dataset.data_sources)
        raise
    order = np.argsort(-probabilities, axis=1)
    top_1 = float(np.mean(order[:, 0] == truth))
    top_5 = float(np.mean(np.any(order[:, :5] == truth[:, None], axis=1)))
    with contextlib.closing(Summaries(arguments.eval_dir)) as summaries:
        summaries.scalars(checkpoints.step(checkpoint), {"eval/top_1": top_1, "eval/top_5": top_5})
    return f"{checkpoint}: top-1 {top_1:.4f}, top-5 {top_5:.4f} on {len(truth):,} pictures"


def main(argv: Sequence[str] | None = None) -> None:
    print(evaluate(build_parser().parse_args(argv)))


if __name__ == "__main__":
    run(main)
