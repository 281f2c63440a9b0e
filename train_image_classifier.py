#!/usr/bin/env python3
"""Step 6 of 10: trains a network on the records of convert.py.

Reads   DATASET_DIR/arts_train_*.tfrecord and labels.txt; with --checkpoint_path, weights to start from.
Writes  TRAIN_DIR/model.ckpt-N.*, checkpoint, event files for TensorBoard, flags.json, labels.txt; features/ if the
        head alone is trained; best/ and validation.json with --validation_epochs.

    python train_image_classifier.py --train_dir=logs --dataset_dir=data --max_number_of_steps=100

Safe to run again: it goes on from the newest checkpoint in TRAIN_DIR. Ctrl-C and SIGTERM save one first.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
import itertools
import json
import math
from pathlib import Path
import sys
import time
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))  # Left out under PYTHONSAFEPATH.

import numpy as np

from metart.networks.slim_compat import slim, tf
import dataset_factory
from metart.common.files import locked, open_replacing
from metart.common.flags import Parser, Retry, UserError, number, run
from metart.common.interruption import Interruption
from metart.common.labels import LABELS_FILENAME, read_labels, write_labels
from metart.common.progress import Progress
from metart.evaluation.best_checkpoint import Validation
from metart.networks import checkpoints, registry
from metart.networks.preprocessing import MIN_CROP_AREA
from metart.networks.session import PRECISIONS, session_config
from metart.training import frozen_features, input_pipeline, optimizers, training_graph
from metart.training.cluster import Cluster
from metart.training.cluster import add_flags as add_cluster_flags
from metart.training.cluster import from_flags as cluster_from_flags
from metart.training.summaries import Summaries
from metart.training.training_graph import Model

CHECKPOINTS_TO_KEEP = 5
FEATURES_FOLDER = "features"


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--train_dir", required=True, help="folder for checkpoints and event files")
    add("--dataset_dir", required=True, help="folder with the records and labels.txt")
    add("--dataset_name", default="arts", choices=dataset_factory.DATASETS, help="kind of data set")
    add("--dataset_split_name", default="train", help="split to train on")
    add("--model_name", default="inception_v3", choices=registry.NETWORKS, help="network", metavar="NAME")
    add("--train_image_size", type=number(int, 32), help="side of the input, pixels; default: the network's own")
    add("--batch_size", type=number(int, 1), default=32, help="images in a step")
    add("--max_number_of_steps", type=number(int, 1), help="train up to this step; default: by --num_epochs")
    add("--num_epochs", type=number(float, 0), default=10, help="passes over the data without --max_number_of_steps")
    add("--optimizer", default="adam", choices=optimizers.OPTIMIZERS, help="rule of the update")
    add("--learning_rate", type=number(float, 0), default=0.001, help="the rate after the warm-up")
    add("--learning_rate_decay_type", default="cosine", choices=optimizers.SCHEDULES, help="course of the rate")
    add("--end_learning_rate", type=number(float, 0), default=0.00001, help="of cosine and polynomial")
    add("--learning_rate_decay_factor", type=number(float, 0), default=0.94, help="of exponential")
    add("--num_epochs_per_decay", type=number(float, 0), default=2.0, help="of exponential")
    add(
        "--warmup_epochs",
        type=number(float, 0),
        help="epochs of a rising rate; default: a tenth of the run, at most one",
    )
    add("--momentum", type=number(float, 0, 1), default=0.9, help="of momentum and rmsprop")
    add("--rmsprop_decay", type=number(float, 0, 1), default=0.9, help="of the squared gradients' average")
    add("--opt_epsilon", type=number(float, 0), default=0.0001, help="of rmsprop and adam")
    add("--weight_decay", type=number(float, 0), default=0.00004, help="factor of the L2 loss of the weights")
    add("--min_crop_area", type=number(float, 0.01, 1), default=MIN_CROP_AREA, help="share of a picture seen at least")
    add("--label_smoothing", type=number(float, 0, 1), default=0.1, help="share of the truth spread over all labels")
    add("--class_balance", type=number(float, 0, 1), default=0, help="0: pictures count the same, 1: labels do")
    add("--moving_average_decay", type=number(float, 0, 1), help="also keep averaged weights; evaluation uses them")
    add("--checkpoint_path", help="weights to start from, where TRAIN_DIR has no checkpoint yet")
    add("--checkpoint_exclude_scopes", default="", help="comma-separated scopes not to take from --checkpoint_path")
    add("--trainable_scopes", default="", help="comma-separated scopes to train; default: all")
    parser.add_boolean("ignore_missing_vars", False, "leave out what --checkpoint_path does not have")
    add("--feature_views", type=number(int, 0), default=4, help="looks at a picture if the head alone is trained")
    add("--validation_epochs", type=number(float, 0), help="epochs between two measurements on the validation split")
    add("--early_stop", type=number(int, 1), help="stop after so many measurements without a better one")
    add("--precision", default="auto", choices=PRECISIONS, help="of the arithmetic")
    add("--random_seed", type=number(int, 0), default=0, help="of the first weights, order and crops")
    add("--log_every_n_steps", type=number(int, 1), default=10, help="steps between two points of the curves")
    add("--save_summaries_secs", type=number(int, 1), default=600, help="seconds between two samples of input pictures")
    add("--save_interval_secs", type=number(int, 1), default=600, help="seconds between two checkpoints")
    parser.add_boolean("clone_on_cpu", False, "do not use a GPU")
    add_cluster_flags(parser)
    parser.add_ignored("alsologtostderr")
    return parser


def rate_of_step(arguments: argparse.Namespace, total_steps: int, steps_per_epoch: float, step: int) -> float:
    """Returns the learning rate of a step, from 0, by the flags."""
    warmup_steps = min(total_steps / 10, steps_per_epoch)
    if arguments.warmup_epochs is not None:
        warmup_steps = arguments.warmup_epochs * steps_per_epoch
    return optimizers.learning_rate(
        step,
        schedule=arguments.learning_rate_decay_type,
        peak=arguments.learning_rate,
        end=min(arguments.end_learning_rate, arguments.learning_rate),
        total_steps=total_steps,
        warmup_steps=math.ceil(warmup_steps),
        decay_steps=max(1, int(arguments.num_epochs_per_decay * steps_per_epoch)),
        decay_factor=arguments.learning_rate_decay_factor,
    )


def newest_checkpoint(train_dir: str, label_names: list[str]) -> str | None:
    """Returns the checkpoint in TRAIN_DIR to go on from, None for a new run.

    Raises:
        UserError: The folder belongs to a run on other labels.
    """
    if not checkpoints.all_in(train_dir):
        return None
    if (Path(train_dir) / LABELS_FILENAME).is_file() and read_labels(train_dir) != label_names:
        raise UserError(f"{train_dir} holds a run on other labels; give another --train_dir")
    return checkpoints.newest(train_dir)


class Plan(NamedTuple):
    """How long a run is."""

    first_step: int  # Steps already done.
    total_steps: int
    steps_per_epoch: float
    global_batch_size: int  # Pictures of a step, all workers together.


def write_settings(arguments: argparse.Namespace, plan: Plan, label_names: list[str]) -> None:
    """Leaves beside the checkpoints what evaluation and inference need to know of the run."""
    Path(arguments.train_dir).mkdir(parents=True, exist_ok=True)
    write_labels(label_names, arguments.train_dir)
    with open_replacing(Path(arguments.train_dir) / checkpoints.SETTINGS_FILENAME) as file:
        json.dump(vars(arguments) | {"max_number_of_steps": plan.total_steps}, file, indent=2, sort_keys=True)
        file.write("\n")


def train(
    arguments: argparse.Namespace, dataset: slim.dataset.Dataset, label_names: list[str], cluster: Cluster
) -> str:
    """Trains up to the last step, from the newest checkpoint in TRAIN_DIR or from the start.

    Returns:
        One line for the reader: what was reached and where it is.

    Raises:
        Retry, KeyboardInterrupt: The run was interrupted; what was reached is saved.
        UserError: A checkpoint or records file does not fit or is damaged, or the loss is no longer a number.
    """
    if cluster.index == 0 and Path(arguments.train_dir).is_dir():
        with locked(arguments.train_dir):
            pass  # Otherwise another run could delete a checkpoint while this one looks at it.
    newest = newest_checkpoint(arguments.train_dir, label_names)
    global_batch_size = arguments.batch_size * cluster.size
    steps_per_epoch = dataset.num_samples / global_batch_size
    total_steps = arguments.max_number_of_steps or max(1, math.ceil(arguments.num_epochs * steps_per_epoch))
    plan = Plan(checkpoints.step(newest) if newest else 0, total_steps, steps_per_epoch, global_batch_size)
    if newest and plan.first_step >= total_steps:
        return f"nothing to do: {newest} is at step {plan.first_step:,} of {total_steps:,}"
    validation = None
    if arguments.validation_epochs:
        held_out = input_pipeline.open_split(arguments.dataset_name, "validation", arguments.dataset_dir)
        validation = Validation(
            arguments.train_dir,
            held_out,
            arguments.batch_size,
            arguments.precision,
            not arguments.clone_on_cpu,
            plan.first_step,
        )
        if validation.is_over(arguments.early_stop):
            return f"nothing to do: stopped at step {plan.first_step:,}, {validation}"
        if cluster.index > 0:
            validation = None  # Worker 0 measures for all.
    image_size = arguments.train_image_size or registry.NETWORKS[arguments.model_name].image_size
    head_alone = (
        training_graph.trains_head_alone(arguments.model_name, image_size, len(label_names), arguments.trainable_scopes)
        and arguments.feature_views > 0
    )
    if head_alone and cluster.size > 1:
        raise UserError("a head alone trains in seconds; train it on one worker, or add --feature_views=0")
    counts = input_pipeline.label_counts(dataset) if arguments.class_balance else [1] * len(label_names)
    label_weights = training_graph.label_weights(counts, arguments.class_balance)
    print_plan(arguments, plan, dataset, cluster)
    with tf.Graph().as_default(), Interruption() as interruption:
        tf.compat.v1.set_random_seed(arguments.random_seed)  # One order of the pictures, from which all workers deal.
        view = tf.compat.v1.placeholder_with_default(tf.constant(0, tf.int64), [], name="view")
        data = input_batches(arguments, plan, dataset, image_size, cluster, view if head_alone else None)
        iterator = tf.compat.v1.data.make_initializable_iterator(data)
        pictures, picture_labels = iterator.get_next()
        tf.compat.v1.set_random_seed(arguments.random_seed + cluster.index)  # Dropout of its own on each worker.
        if head_alone:
            model, head = training_graph.build_head(arguments, label_weights, pictures, cluster)
        else:
            model = training_graph.build_network(arguments, label_weights, pictures, picture_labels, cluster)
        saver = tf.compat.v1.train.Saver(max_to_keep=CHECKPOINTS_TO_KEEP, save_relative_paths=True)
        if newest:
            saver.recover_last_checkpoints(checkpoints.all_in(arguments.train_dir))  # They count for max_to_keep.
        restored, restorer = starting_point(arguments, newest, saver, len(label_names))
        broadcast = cluster.broadcast(tf.compat.v1.global_variables())
        config = session_config(arguments.precision, arguments.clone_on_cpu)
        with (
            locked(arguments.train_dir) if cluster.index == 0 else contextlib.nullcontext(),
            cluster.connect(config, interruption) as target,
            tf.compat.v1.Session(target, config=config) as session,
        ):
            if newest_checkpoint(arguments.train_dir, label_names) != newest:
                raise Retry(f"another process has saved a checkpoint in {arguments.train_dir} meanwhile")
            session.run([tf.compat.v1.global_variables_initializer(), iterator.initializer])
            if cluster.index == 0:
                if restored:
                    checkpoints.restore(session, restorer, restored)
                write_settings(arguments, plan, label_names)
            session.run(broadcast)
            if session.run(tf.compat.v1.train.get_global_step()) != plan.first_step:
                raise Retry(f"worker 0 sees another newest checkpoint in {arguments.train_dir} than this worker")
            feeds: Iterator[dict[tf.Tensor, Any]] = itertools.repeat({})
            try:
                if head_alone:

                    def look(view_number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
                        session.run(iterator.initializer, {view: view_number})
                        with contextlib.suppress(tf.errors.OutOfRangeError):
                            while True:
                                interruption.leave(
                                    "the features are not complete yet; run the same command again to go on"
                                )
                                yield session.run([head.of_pictures, picture_labels])

                    feeds = head_feeds(session, head, look, dataset, image_size, arguments, plan)
                return run_steps(
                    session, model, feeds, saver, plan, label_names, validation, arguments, cluster, interruption
                )
            except (tf.errors.DataLossError, tf.errors.OutOfRangeError, tf.errors.InvalidArgumentError):
                input_pipeline.raise_damaged(dataset.data_sources)
                raise


def input_batches(
    arguments: argparse.Namespace,
    plan: Plan,
    dataset: slim.dataset.Dataset,
    image_size: int,
    cluster: Cluster,
    view: tf.Tensor | None,
) -> tf.data.Dataset:
    """Returns what the network is given: batches for training or, of a head alone, every picture once in a `view`."""
    if view is not None:
        return input_pipeline.view_batches(
            dataset.data_sources,
            arguments.batch_size,
            image_size,
            arguments.random_seed,
            view,
            arguments.min_crop_area,
        )
    return input_pipeline.training_batches(
        dataset.data_sources,
        arguments.batch_size,
        image_size,
        arguments.random_seed,
        plan.first_step,
        cluster.size,
        cluster.index,
        arguments.min_crop_area,
    )


def starting_point(
    arguments: argparse.Namespace, newest: str | None, saver: tf.compat.v1.train.Saver, num_classes: int
) -> tuple[str | None, tf.compat.v1.train.Saver]:
    """Returns the checkpoint that the run starts from, if there is one, and what restores it.

    Raises:
        UserError: The checkpoint does not fit the network in the current graph.
    """
    if newest:
        checkpoints.check(newest, tf.compat.v1.global_variables(), arguments.model_name, num_classes)
        return newest, saver
    if not arguments.checkpoint_path:
        return None, saver
    checkpoint = checkpoints.newest(arguments.checkpoint_path)
    variables = checkpoints.warm_start_variables(
        checkpoint,
        arguments.model_name,
        num_classes,
        arguments.checkpoint_exclude_scopes,
        arguments.ignore_missing_vars,
    )
    return checkpoint, tf.compat.v1.train.Saver(variables)


def head_feeds(
    session: tf.compat.v1.Session,
    head: training_graph.HeadInputs,
    look: Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]],
    dataset: slim.dataset.Dataset,
    image_size: int,
    arguments: argparse.Namespace,
    plan: Plan,
) -> Iterator[dict[tf.Tensor, Any]]:
    """Returns what each step of a head alone is fed, from features that are computed first where they are missing.

    Args:
        look: Yields (features, labels) of all pictures in one view, by its number.
    """
    settings = {name: vars(arguments)[name] for name in ("random_seed", "min_crop_area", "precision")}
    settings["image_size"] = image_size
    frozen = [each for each in slim.get_model_variables() if not registry.is_in_scopes(each.op.name, head.scope)]
    kept = frozen_features.kept_features(
        Path(arguments.train_dir) / FEATURES_FOLDER,
        frozen_features.identity(session, frozen, dataset.data_sources, settings),
        arguments.feature_views,
        (dataset.num_samples, head.features.shape[-1]),
        look,
    )
    kept_batches = kept.batches(arguments.batch_size, arguments.random_seed, plan.first_step)
    return ({head.features: seen, head.labels: labels} for seen, labels in kept_batches)


def print_plan(arguments: argparse.Namespace, plan: Plan, dataset: slim.dataset.Dataset, cluster: Cluster) -> None:
    """Says how much there is to do."""
    print(
        f"{dataset.num_samples:,} pictures of {dataset.num_classes} labels, {plan.steps_per_epoch:,.1f} steps of "
        f"{plan.global_batch_size} an epoch; from step {plan.first_step:,} to {plan.total_steps:,}",
        flush=True,
    )
    if cluster.size > 1:
        print(
            f"worker {cluster.index} of {cluster.size}: {arguments.batch_size} pictures of each step. --learning_rate="
            f"{arguments.learning_rate:g} is for all {plan.global_batch_size}; one tuned on a single worker, multiply "
            f"by {cluster.size}",
            flush=True,
        )


def run_steps(
    session: tf.compat.v1.Session,
    model: Model,
    feeds: Iterator[dict[tf.Tensor, Any]],
    saver: tf.compat.v1.train.Saver,
    plan: Plan,
    label_names: list[str],
    validation: Validation | None,
    arguments: argparse.Namespace,
    cluster: Cluster,
    interruption: Interruption,
) -> str:
    """Runs steps, reports them, saves checkpoints and has them measured; see `train`."""
    basename = str(Path(arguments.train_dir) / checkpoints.BASENAME)
    saved = f"{basename}-{plan.first_step}" if plan.first_step else "none"
    start = last_save = next_pictures = time.monotonic()
    validation_steps = max(1, round((arguments.validation_epochs or 0) * plan.steps_per_epoch))
    enough = False
    summaries = Summaries(arguments.train_dir if cluster.index == 0 else None)
    everybody_is_done = cluster.barrier()
    with (
        contextlib.closing(summaries),
        Progress("training", plan.total_steps, "steps", initial=plan.first_step) as progress,
    ):
        for step in range(plan.first_step + 1, plan.total_steps + 1):
            rate = rate_of_step(arguments, plan.total_steps, plan.steps_per_epoch, step - 1)
            shown = []
            if time.monotonic() >= next_pictures:
                next_pictures += arguments.save_summaries_secs
                shown = model.shown
            inputs = {
                model.learning_rate: rate,
                model.stop: interruption.signal is not None,
                model.enough: enough,
                **next(feeds),
            }
            _, loss, stopping, finishing, *batch = session.run(
                [model.train_op, model.loss, model.stopping, model.finishing, *shown], inputs
            )
            if step == plan.first_step + 1:
                start = time.monotonic()  # The first step also compiles and fills the queues.
            seen = (step - plan.first_step - 1) * plan.global_batch_size
            images_per_second = seen / max(time.monotonic() - start, 1e-9)
            progress.update(1, f"loss {loss:.3f}, {images_per_second:.1f} images/s")
            if batch:
                summaries.pictures(step, batch[0].clip(0, 255).astype(np.uint8), [label_names[i] for i in batch[1]])
            is_last = step == plan.total_steps or stopping > 0 or finishing > 0
            if step % arguments.log_every_n_steps == 0 or is_last:
                values = {"loss": loss, "learning_rate": rate, "images_per_second": images_per_second}
                summaries.scalars(step, values)
            measures = arguments.validation_epochs and (step % validation_steps == 0 or step == plan.total_steps)
            if (
                measures
                or is_last
                or not math.isfinite(loss)
                or (cluster.index == 0 and time.monotonic() - last_save >= arguments.save_interval_secs)
            ):
                pause = time.monotonic()
                if not (math.isfinite(loss) and session.run(model.is_finite)):
                    raise UserError(
                        f"the loss or a weight is no longer a finite number at step {step:,} (loss {loss}); try "
                        f"--learning_rate={arguments.learning_rate / 10:g} in a new --train_dir (last good "
                        f"checkpoint: {saved})"
                    )
                if cluster.index == 0:
                    checkpoints.save(session, saver, arguments.train_dir, step)
                saved = f"{basename}-{step}"
                last_save = time.monotonic()
                if validation and measures:
                    figures = validation.measure(saved)
                    summaries.scalars(step, {f"validation/{name}": value for name, value in figures.items()})
                    progress.write(f"step {step:,}: validation top-1 {figures['top_1']:.4f}; {validation}")
                    enough = validation.is_over(arguments.early_stop)  # All workers learn it with the next step.
                start += time.monotonic() - pause
            if is_last:
                break
    session.run(everybody_is_done)  # Whoever left earlier would look lost to worker 0, which may still be saving.
    if stopping > 0 and step < plan.total_steps:
        interruption.leave(
            f"saved {saved} at step {step:,} of {plan.total_steps:,}; run the same command again to go on"
        )
        raise Retry(f"{cluster.told_to_stop()} was told to stop at step {step:,}; run the same command again to go on")
    reached = f"trained to step {step:,}: loss {loss:.3f}, {images_per_second:.1f} images/s, checkpoint {saved}"
    return f"{reached}; {validation}" if validation else reached


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.early_stop and not arguments.validation_epochs:
        parser.error("--early_stop needs --validation_epochs, how often to measure")
    dataset = input_pipeline.open_split(arguments.dataset_name, arguments.dataset_split_name, arguments.dataset_dir)
    label_names = read_labels(arguments.dataset_dir)
    print(train(arguments, dataset, label_names, cluster_from_flags(arguments)))


if __name__ == "__main__":
    run(main)
