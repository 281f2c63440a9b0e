#!/usr/bin/env python3
"""Step 7 of 10: measures how well a checkpoint names the labels of pictures it was not trained on.

Reads   CHECKPOINT_PATH, a folder (its newest checkpoint) or one checkpoint; DATASET_DIR/arts_validation_*.tfrecord.
Writes  EVAL_DIR/metrics.json, predictions.csv, labels.csv, confusion_matrix.csv and .png, reliability.png,
        mistakes.png and event files for TensorBoard; with --calibrate, a temperature beside the checkpoint.

    python eval_image_classifier.py --checkpoint_path=logs --eval_dir=logs/eval --dataset_dir=data

Safe to run again: each run measures again. With --watch it measures each new checkpoint as training writes it.
"""

from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).resolve().parent))  # Left out under PYTHONSAFEPATH.
if __name__ == "__main__":  # Before the long imports.
    from metart.common import startup

    startup.begin()

from collections.abc import Mapping, Sequence
import contextlib
import json
import time
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from metart.networks.slim_compat import slim
import dataset_factory
from metart.common.files import locked, make_folder, open_replacing
from metart.common.flags import Parser, Retry, UserError, notice, number, path, run, select
from metart.evaluation import metrics, reports
from metart.evaluation.best_checkpoint import BEST_FOLDER
from metart.evaluation.inference import (
    METRICS_FILENAME,
    Answers,
    Classifier,
    open_classifier,
    predict,
    write_temperature,
)
from metart.networks import checkpoints, registry
from metart.networks.preprocessing import IMAGE_SIZES
from metart.networks.session import PRECISIONS, Device
from metart.records import record_set, seen_pictures, splits
from metart.records.record_set import RecordSet
from metart.training import input_pipeline
from metart.training.summaries import Summaries

WATCH_SECONDS = 10  # Between two looks for a new checkpoint.
LABELS_WITH_CURVE = 30  # In TensorBoard; labels.csv has all.
LOCK_FILENAME = ".eval.lock"  # In EVAL_DIR, which may be TRAIN_DIR, where training holds the usual one.
PICTURE_NAMES = ("confusion_matrix", "reliability", "mistakes")


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--checkpoint_path", type=path, required=True, help="checkpoint, or folder for its newest")
    add("--eval_dir", type=path, required=True, help="folder for the reports")
    add("--dataset_dir", type=path, required=True, help="folder with the records and labels.txt")
    add("--dataset_name", default="arts", choices=dataset_factory.DATASETS, help="kind of data set")
    add("--dataset_split_name", default="validation", help="split to evaluate on")
    add("--model_name", choices=registry.NETWORKS, metavar="NAME", help="network; default: the one trained")
    add("--eval_image_size", type=number(int, *IMAGE_SIZES), help="side of the input, pixels; default: as trained")
    add("--batch_size", type=number(int, 1), default=100, help="images at once; changes nothing but memory")
    add("--max_num_batches", type=number(int, 1), help="stop after this many; default: the whole split")
    parser.add_boolean("calibrate", False, "fit a temperature to this split and save it for classify.py")
    parser.add_boolean("allow_seen_pictures", False, "measure although the checkpoint was trained on such pictures")
    parser.add_boolean("watch", False, "continue with each new checkpoint, to the last step of the training run")
    add("--precision", default="float32", choices=PRECISIONS, help="number format; auto may be faster")
    parser.add_boolean("clone_on_cpu", False, "do not use a GPU")
    parser.add_ignored("alsologtostderr")
    return parser


class Uncalibrated(UserError):
    """No temperature fits the answers of a checkpoint; one may fit those of a later checkpoint."""


class Settings(NamedTuple):
    """How to evaluate a checkpoint; the fields that are no groups have the names of the flags."""

    eval_dir: Path
    dataset_dir: Path
    dataset_split_name: str
    model_name: str | None  # None and None: as it was trained.
    eval_image_size: int | None
    batch_size: int
    max_num_batches: int | None
    calibrate: bool
    allow_seen_pictures: bool
    device: Device


def write_reports(
    eval_dir: Path, dataset: slim.dataset.Dataset, label_names: Sequence[str], answers: Answers
) -> list[metrics.LabelFigures]:
    """Writes the tables and the pictures of PICTURE_NAMES; returns the figures of each label."""
    truth, probabilities, names = answers
    label_figures = metrics.by_label(truth, probabilities)
    matrix = metrics.confusion_matrix(truth, probabilities)
    reports.write_predictions(eval_dir / "predictions.csv", names, truth, probabilities, label_names)
    reports.write_label_table(eval_dir / "labels.csv", label_figures, label_names)
    reports.write_confusion_matrix(eval_dir / "confusion_matrix.csv", matrix, label_names)
    mistakes = reports.most_confident_mistakes(truth, probabilities)
    pictures = input_pipeline.pictures_at(dataset.data_sources, mistakes.tolist())
    for name, figure in zip(
        PICTURE_NAMES,
        (
            reports.confusion_figure(matrix, label_names),
            reports.reliability_figure(truth, probabilities),
            reports.mistakes_figure(
                pictures, [names[index] for index in mistakes], truth[mistakes], probabilities[mistakes], label_names
            ),
        ),
        strict=True,
    ):
        reports.save(figure, eval_dir / f"{name}.png")
    return label_figures


def write_summaries(
    eval_dir: Path,
    step: int,
    figures: dict[str, float],
    label_figures: Sequence[metrics.LabelFigures],
    label_names: Sequence[str],
) -> None:
    """Writes what TensorBoard shows: the figures as curves over the steps, and the pictures of the reports."""
    largest = sorted(label_figures, key=lambda each: -each.pictures)[:LABELS_WITH_CURVE]
    recalls = {f"recall/{label_names[each.label]}": each.recall for each in largest if each.pictures}
    with contextlib.closing(Summaries(eval_dir)) as summaries:
        summaries.scalars(step, {f"eval/{name}": value for name, value in figures.items()} | recalls)
        pictures = [np.asarray(Image.open(eval_dir / f"{name}.png").convert("RGB")) for name in PICTURE_NAMES]
        summaries.pictures(step, pictures, [f"eval/{name}" for name in PICTURE_NAMES])


def describe(figures: dict[str, float]) -> str:
    """Returns the figures for a reader, one a line."""
    lines = [f"  {name.replace('_', ' '):18} {value:.4f}" for name, value in figures.items()]
    if "top_5" not in figures:
        lines.insert(1, f"  top 5              of at most {metrics.TOP} labels is always 1, so not shown")
    return "\n".join(lines)


def count_seen(
    settings: Settings, records: RecordSet | None, checkpoint: str, trained_on: Mapping[str, Any]
) -> int | None:
    """Returns how many pictures of the split the run was trained on, None where nobody knows; says so.

    Raises:
        UserError: There are some, and they would flatter the figures or a temperature.
    """
    split = settings.dataset_split_name
    # Whoever evaluates on the training split knows that the network has seen it.
    allow = settings.allow_seen_pictures or split == splits.TRAIN
    seen = seen_pictures.refuse_seen(Path(checkpoint).parent, records, split, trained_on, allow)
    if seen:
        notice(f"the run was trained on {seen:,} of the {split} pictures")
    if records and seen is None and split != splits.TRAIN:
        notice("the run does not tell which pictures it was trained on; these may be among them")
    if seen and settings.calibrate:
        raise UserError(
            f"a network is too sure of pictures that it was trained on, and {seen:,} of the {split} pictures are such; "
            f"--calibrate needs the {splits.VALIDATION} split of the records that it was trained with"
        )
    return seen


def evaluate(settings: Settings, dataset: slim.dataset.Dataset, records: RecordSet | None, checkpoint: str) -> str:
    """Measures one checkpoint on a split of some records, writes all reports, returns the last line for the reader."""
    eval_dir, split = settings.eval_dir, settings.dataset_split_name
    trained_on = checkpoints.settings(checkpoint).get("records", {})
    seen = count_seen(settings, records, checkpoint, trained_on)
    neighbours = None
    if records and split == splits.VALIDATION:
        neighbours = splits.share_with_neighbours(
            (record_set.label_of(path, records.folders), path, source.split) for path, source in records.sources.items()
        )
        print(f"pictures with a neighbour in training (number within {splits.NEIGHBOURS}): {neighbours:.1%}")
    make_folder(eval_dir)
    with open_classifier(
        checkpoint,
        settings.model_name,
        settings.eval_image_size,
        settings.dataset_dir,
        calibrated=not settings.calibrate,
        device=settings.device,
    ) as classifier:
        max_side = of_run = classifier.looks.max_side
        if records and "max_side" in trained_on:  # Older runs do not tell.
            max_side = records.settings.max_side
        if max_side != of_run:
            shown = f"these pictures have up to {max_side} pixels a side, those of the run {of_run}"
            if settings.calibrate:
                raise UserError(f"{shown}; --calibrate needs records made with --max_side={of_run}")
            notice(f"{shown}; classify.py and exports see pictures as the run did")
        answers = predict(classifier, dataset, settings.batch_size, settings.max_num_batches)
    if seen and records and records.sources.keys() >= set(answers.names):  # --max_num_batches may leave out some.
        seen = seen_pictures.count(records, answers.names, Path(checkpoint).parent)
    temperature = classifier.temperature
    if settings.calibrate:
        temperature, answers = calibrate(classifier, answers, records.fingerprint if records else None)
    figures = metrics.summary(answers.truth, answers.probabilities)
    about = {
        "checkpoint": checkpoint,
        "records_fingerprint": records.fingerprint if records else None,
        "pictures_seen_in_training": seen,
        **classifier.described(),
        "temperature": temperature,
        "max_side": max_side,
        "split": split,
        "neighbours_in_training": neighbours,
        "pictures": len(answers.truth),
        "labels": len(classifier.label_names),
        "precision": classifier.device.arithmetic,
    }
    with locked(eval_dir, LOCK_FILENAME):
        (eval_dir / METRICS_FILENAME).unlink(missing_ok=True)  # Where it is, all reports are about the same checkpoint.
        label_figures = write_reports(eval_dir, dataset, classifier.label_names, answers)
        write_summaries(eval_dir, checkpoints.step(checkpoint), figures, label_figures, classifier.label_names)
        record_set.require_still(settings.dataset_dir, records)
        with open_replacing(eval_dir / METRICS_FILENAME) as file:
            json.dump(about | figures, file, indent=2)
            file.write("\n")
    print(describe(figures))
    return (
        f"{checkpoint}: top-1 {figures['top_1']:.4f} on {len(answers.truth):,} {split} pictures of "
        f"{len(classifier.label_names)} labels; reports in {eval_dir}"
    )


def calibrate(classifier: Classifier, answers: Answers, records_fingerprint: str | None) -> tuple[float, Answers]:
    """Fits a temperature and saves it beside the checkpoint; returns it and what the answers are with it.

    Raises:
        Uncalibrated: All answers are right, or all are wrong, or they hardly depend on the picture.
    """
    before = metrics.summary(answers.truth, answers.probabilities)
    if before["top_1"] in (0.0, 1.0):  # The best temperature would be 0, or infinite.
        raise Uncalibrated(
            f"all {len(answers.truth):,} answers are {'right' if before['top_1'] else 'wrong'}, which says nothing "
            "about how sure to be; --calibrate needs more pictures"
        )
    temperature = metrics.fit_temperature(answers.truth, answers.probabilities)
    lowest, highest = metrics.TEMPERATURE_RANGE
    if not 1.01 * lowest < temperature < 0.99 * highest:
        raise Uncalibrated(
            f"no temperature from {lowest} to {highest} fits these answers; train the network better first"
        )
    path = write_temperature(classifier, temperature, records_fingerprint)
    print(
        f"temperature {temperature:.3f}, of {len(answers.truth):,} answers, saved as {path}; without it: "
        f"log loss {before['log_loss']:.4f}, calibration error {before['calibration_error']:.4f}"
    )
    return temperature, answers._replace(probabilities=metrics.calibrated(answers.probabilities, temperature))


def watch(settings: Settings, dataset: slim.dataset.Dataset, records: RecordSet | None, folder: Path) -> None:
    """Evaluates the newest checkpoint in a folder each time there is a new one, until the last step of the training."""
    done, folder = "", folder.absolute()  # Training replaces `best`, which may be where this process is.
    uncalibrated = None  # Why `done` has no temperature, if it has none.
    print(f"waiting for checkpoints in {folder}; Ctrl-C ends it", flush=True)
    while True:
        # The best checkpoint need not be of the last step: the folder above tells whether the run has ended.
        is_over = folder.name == BEST_FOLDER and "finished_step" in checkpoints.settings_in(folder.parent)
        checkpoint = next(reversed(checkpoints.all_in(folder)), "")
        if checkpoint and checkpoint != done:
            uncalibrated = None
            try:
                print(evaluate(settings, dataset, records, checkpoint), flush=True)
            except Uncalibrated as error:
                notice(f"{checkpoint}: {error}")
                uncalibrated = error
            except (UserError, FileNotFoundError):
                if Path(f"{checkpoint}.index").is_file():
                    raise
                checkpoint = ""  # Training has deleted it meanwhile; there is a newer one.
            except Retry as error:
                notice(str(error))
                checkpoint = ""  # In a moment.
        done = checkpoint  # Empty where another run begins in the folder.
        if done:
            trained_with = checkpoints.settings(done)
            last_step = trained_with.get("finished_step") or trained_with.get("max_number_of_steps")
            if is_over or (last_step and checkpoints.step(done) >= last_step):
                if uncalibrated:
                    raise uncalibrated
                return
        time.sleep(WATCH_SECONDS)


def main(argv: Sequence[str] | None = None) -> None:
    flags = build_parser().parse_args(argv)
    device = Device(flags.precision, use_gpu=not flags.clone_on_cpu)
    settings = select(Settings, {**vars(flags), "device": device})
    with record_set.reading(flags.dataset_dir) as records:
        dataset = input_pipeline.open_split(flags.dataset_name, flags.dataset_split_name, flags.dataset_dir)
        if not flags.watch:
            print(evaluate(settings, dataset, records, checkpoints.newest(flags.checkpoint_path)))
        elif Path(f"{flags.checkpoint_path}.index").is_file():
            raise UserError(f"--watch needs a folder, --checkpoint_path={flags.checkpoint_path} is one checkpoint")
        else:
            watch(settings, dataset, records, flags.checkpoint_path)


if __name__ == "__main__":
    run(main)
