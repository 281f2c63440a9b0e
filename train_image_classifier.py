"""Step 6 of 10: trains a network on the records of convert.py.

Reads   DATASET_DIR/arts_train_*.tfrecord and labels.txt; with --checkpoint_path, weights to start from.
Writes  TRAIN_DIR/model.ckpt-N.*, checkpoint, event files for TensorBoard, flags.json, labels.txt.

    python train_image_classifier.py --train_dir=logs --dataset_dir=data --max_number_of_steps=100

Safe to run again: it goes on from the newest checkpoint in TRAIN_DIR. Ctrl-C and SIGTERM save one first.
"""

import argparse
from collections.abc import Callable, Sequence
import contextlib
import functools
import json
import math
from pathlib import Path
import time
from typing import NamedTuple

import numpy as np

from slim_compat import slim, tf
import batches
import checkpoints
import dataset_factory
from files import open_replacing
from flags import Parser, Retry, UserError, number, run
from interruption import Interruption
from labels import LABELS_FILENAME, read_labels, write_labels
import networks
import optimizers
from progress import Progress
from summaries import Summaries
import workers

AUXILIARY_LOSS_WEIGHT = 0.4  # Of the second head of inception_v3, as its authors have it.
CHECKPOINTS_TO_KEEP = 5
PICTURES_SHOWN = 4  # In TensorBoard, of one batch.


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--train_dir", required=True, help="folder for checkpoints and event files")
    add("--dataset_dir", required=True, help="folder with the records and labels.txt")
    add("--dataset_name", default="arts", choices=dataset_factory.DATASETS, help="kind of data set")
    add("--dataset_split_name", default="train", help="split to train on")
    add("--model_name", default="inception_v3", choices=networks.NETWORKS, help="network", metavar="NAME")
    add("--train_image_size", type=number(int, 32), help="side of the input, pixels; default: the network's own")
    add("--batch_size", type=number(int, 1), default=32, help="images in a step")
    add("--max_number_of_steps", type=number(int, 1), help="train up to this step; default: by --num_epochs")
    add("--num_epochs", type=number(float, 0), default=10, help="passes over the data without --max_number_of_steps")
    add("--optimizer", default="adam", choices=optimizers.OPTIMIZERS)
    add("--learning_rate", type=number(float, 0), default=0.001, help="the rate after the warm-up")
    add("--learning_rate_decay_type", default="cosine", choices=optimizers.SCHEDULES)
    add("--end_learning_rate", type=number(float, 0), default=0.00001, help="of cosine and polynomial")
    add("--learning_rate_decay_factor", type=number(float, 0), default=0.94, help="of exponential")
    add("--num_epochs_per_decay", type=number(float, 0), default=2.0, help="of exponential")
    add("--warmup_epochs", type=number(float, 0), help="of a rising rate; default: a tenth of the run, at most one")
    add("--momentum", type=number(float, 0, 1), default=0.9, help="of momentum and rmsprop")
    add("--rmsprop_decay", type=number(float, 0, 1), default=0.9, help="of the squared gradients' average")
    add("--opt_epsilon", type=number(float, 0), default=0.001, help="of rmsprop and adam")
    add("--weight_decay", type=number(float, 0), default=0.00004, help="factor of the L2 loss of the weights")
    add("--label_smoothing", type=number(float, 0, 1), default=0.1, help="share of the truth spread over all labels")
    add("--moving_average_decay", type=number(float, 0, 1), help="also keep averaged weights; evaluation uses them")
    add("--checkpoint_path", help="weights to start from, where TRAIN_DIR has no checkpoint yet")
    add("--checkpoint_exclude_scopes", default="", help="comma-separated scopes not to take from --checkpoint_path")
    add("--trainable_scopes", default="", help="comma-separated scopes to train; default: all")
    parser.add_boolean("ignore_missing_vars", False, "leave out what --checkpoint_path does not have")
    add("--precision", default="auto", choices=("auto", "float32", "bfloat16"), help="of the arithmetic")
    add("--random_seed", type=number(int, 0), default=0, help="of the first weights, order and crops")
    add("--log_every_n_steps", type=number(int, 1), default=10)
    add("--save_summaries_secs", type=number(int, 1), default=600, help="between two samples of input pictures")
    add("--save_interval_secs", type=number(int, 1), default=600, help="between two checkpoints")
    parser.add_boolean("clone_on_cpu", False, "do not use a GPU")
    workers.add_flags(parser)
    parser.add_ignored("alsologtostderr")
    return parser


class Model(NamedTuple):
    """What one training step needs of the graph."""

    train_op: tf.Operation
    loss: tf.Tensor  # Mean over the workers.
    learning_rate: tf.Tensor  # Placeholder, fed in each step.
    stop: tf.Tensor  # Placeholder: whether this worker was told to stop, 0.0 or 1.0.
    stopping: tf.Tensor  # Above 0 if any worker was: all learn it in the same step.
    pictures: tf.Tensor  # A few images of the batch, and their labels, as in batches.training_batches.
    labels: tf.Tensor
    is_finite: tf.Tensor  # False once a weight is infinite or no number.


def build_model(
    arguments: argparse.Namespace,
    num_classes: int,
    images: tf.Tensor,
    labels: tf.Tensor,
    cluster: workers.Cluster,
) -> Model:
    """Builds network, losses and the update of the weights in the current graph."""
    logits, auxiliary_logits = networks.build(
        arguments.model_name, images, num_classes, is_training=True, weight_decay=arguments.weight_decay
    )
    targets = tf.one_hot(labels, num_classes)
    for head, weight in ((logits, 1.0), (auxiliary_logits, AUXILIARY_LOSS_WEIGHT)):
        if head is not None:
            tf.compat.v1.losses.softmax_cross_entropy(
                targets, head, weights=weight, label_smoothing=arguments.label_smoothing
            )
    loss = tf.compat.v1.losses.get_total_loss()

    trained = checkpoints.in_scopes(tf.compat.v1.trainable_variables(), arguments.trainable_scopes)
    if not trained:
        raise UserError(f"--trainable_scopes={arguments.trainable_scopes} names nothing in {arguments.model_name}")
    rate = tf.compat.v1.placeholder(tf.float32, [], name="learning_rate")
    optimizer = optimizers.build(
        arguments.optimizer, rate, arguments.momentum, arguments.rmsprop_decay, arguments.opt_epsilon
    )
    step = tf.compat.v1.train.get_or_create_global_step()
    gradients = cluster.mean([gradient for gradient, _ in optimizer.compute_gradients(loss, trained)])
    averages = [variable for variable in slim.get_model_variables() if not variable.trainable]
    with tf.control_dependencies(tf.compat.v1.get_collection(networks.BATCH_NORM_UPDATES)):
        batch_norm_means = cluster.mean([average.read_value() for average in averages])
    train_op = tf.group(
        optimizer.apply_gradients(zip(gradients, trained, strict=True), global_step=step),
        [average.assign(mean) for average, mean in zip(averages, batch_norm_means, strict=True)],
    )
    stop = tf.compat.v1.placeholder(tf.float32, [], name="stop")
    loss, stopping = cluster.mean([loss, stop])
    if arguments.moving_average_decay:
        average = tf.train.ExponentialMovingAverage(arguments.moving_average_decay, step)
        with tf.control_dependencies([train_op]):
            train_op = average.apply(slim.get_model_variables())
    is_finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(weight)) for weight in slim.get_model_variables()])
    return Model(train_op, loss, rate, stop, stopping, images[:PICTURES_SHOWN], labels[:PICTURES_SHOWN], is_finite)


def session_config(precision: str, clone_on_cpu: bool) -> tf.compat.v1.ConfigProto:
    """Returns the settings of the training session; `auto` is bfloat16 where the CPU computes with it."""
    config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
    config.gpu_options.allow_growth = True
    if clone_on_cpu:
        config.device_count["GPU"] = 0
    if precision == "bfloat16" or (precision == "auto" and _cpu_has_bfloat16()):
        # Weights, and so checkpoints, stay float32; only convolutions and products are rewritten.
        config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = 1
    return config


def _cpu_has_bfloat16() -> bool:
    cpu = Path("/proc/cpuinfo")
    return cpu.is_file() and not {"avx512_bf16", "amx_bf16"}.isdisjoint(cpu.read_text().split())


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


def write_settings(arguments: argparse.Namespace, label_names: list[str]) -> None:
    """Leaves beside the checkpoints what evaluation and inference need to know of the run."""
    Path(arguments.train_dir).mkdir(parents=True, exist_ok=True)
    write_labels(label_names, arguments.train_dir)
    with open_replacing(Path(arguments.train_dir) / checkpoints.SETTINGS_FILENAME) as file:
        json.dump(vars(arguments), file, indent=2, sort_keys=True)
        file.write("\n")


def train(
    arguments: argparse.Namespace, dataset: slim.dataset.Dataset, label_names: list[str], cluster: workers.Cluster
) -> str:
    """Trains up to the last step, from the newest checkpoint in TRAIN_DIR or from the start.

    Returns:
        One line for the reader: what was reached and where it is.

    Raises:
        Retry, KeyboardInterrupt: The run was interrupted; what was reached is saved.
        UserError: A checkpoint or records file does not fit or is damaged, or the loss is no longer a number.
    """
    newest = newest_checkpoint(arguments.train_dir, label_names)
    first_step = checkpoints.step(newest) if newest else 0
    global_batch_size = arguments.batch_size * cluster.size
    steps_per_epoch = dataset.num_samples / global_batch_size
    total_steps = arguments.max_number_of_steps or max(1, math.ceil(arguments.num_epochs * steps_per_epoch))
    if first_step >= total_steps:
        return f"nothing to do: {newest} is at step {first_step:,} of {total_steps:,}"
    print(
        f"{dataset.num_samples:,} pictures of {len(label_names)} labels, {steps_per_epoch:,.1f} steps of "
        f"{global_batch_size} an epoch; from step {first_step:,} to {total_steps:,}",
        flush=True,
    )
    if cluster.size > 1:
        print(
            f"worker {cluster.index} of {cluster.size}: {arguments.batch_size} pictures of each step. --learning_rate="
            f"{arguments.learning_rate:g} is for all {global_batch_size}; one tuned on a single worker, multiply by "
            f"{cluster.size}",
            flush=True,
        )
    schedule = functools.partial(rate_of_step, arguments, total_steps, steps_per_epoch)
    with tf.Graph().as_default(), Interruption() as interruption:
        tf.compat.v1.set_random_seed(arguments.random_seed + cluster.index)  # Dropout of its own on each worker.
        data = batches.training_batches(
            dataset.data_sources,
            arguments.batch_size,
            arguments.train_image_size or networks.NETWORKS[arguments.model_name].image_size,
            arguments.random_seed,
            first_step,
            cluster.size,
            cluster.index,
        )
        iterator = tf.compat.v1.data.make_initializable_iterator(data)
        pictures, picture_labels = iterator.get_next()
        model = build_model(arguments, len(label_names), pictures, picture_labels, cluster)
        saver = tf.compat.v1.train.Saver(max_to_keep=CHECKPOINTS_TO_KEEP, save_relative_paths=True)
        restored, restorer = newest, saver
        if newest:
            checkpoints.check(newest, tf.compat.v1.global_variables(), arguments.model_name, len(label_names))
            saver.recover_last_checkpoints(checkpoints.all_in(arguments.train_dir))  # They count for max_to_keep.
        elif arguments.checkpoint_path:
            restored = checkpoints.newest(arguments.checkpoint_path)
            restorer = tf.compat.v1.train.Saver(
                checkpoints.warm_start_variables(
                    restored,
                    arguments.model_name,
                    len(label_names),
                    arguments.checkpoint_exclude_scopes,
                    arguments.ignore_missing_vars,
                )
            )
        broadcast = cluster.broadcast(tf.compat.v1.global_variables())
        config = session_config(arguments.precision, arguments.clone_on_cpu)
        with (
            cluster.connect(config, interruption) as target,
            tf.compat.v1.Session(target, config=config) as session,
        ):
            session.run([tf.compat.v1.global_variables_initializer(), iterator.initializer])
            if cluster.index == 0:
                if restored:
                    checkpoints.restore(session, restorer, restored)
                write_settings(arguments, label_names)
            session.run(broadcast)
            if session.run(tf.compat.v1.train.get_global_step()) != first_step:
                raise Retry(f"worker 0 sees another newest checkpoint in {arguments.train_dir} than this worker")
            try:
                steps = range(first_step + 1, total_steps + 1)
                return run_steps(session, model, saver, steps, schedule, label_names, arguments, cluster, interruption)
            except (tf.errors.DataLossError, tf.errors.OutOfRangeError, tf.errors.InvalidArgumentError):
                batches.raise_damaged(dataset.data_sources)
                raise


def run_steps(
    session: tf.compat.v1.Session,
    model: Model,
    saver: tf.compat.v1.train.Saver,
    steps: range,
    schedule: Callable[[int], float],
    label_names: list[str],
    arguments: argparse.Namespace,
    cluster: workers.Cluster,
    interruption: Interruption,
) -> str:
    """Runs steps, reports them and saves checkpoints; see `train`."""
    basename = str(Path(arguments.train_dir) / checkpoints.BASENAME)
    saved = f"{basename}-{steps[0] - 1}" if steps[0] > 1 else "none"
    start = last_save = time.monotonic()
    next_pictures = start
    summaries = Summaries(arguments.train_dir if cluster.index == 0 else None)
    global_batch_size = arguments.batch_size * cluster.size
    everybody_is_done = cluster.barrier()
    with contextlib.closing(summaries), Progress("training", steps[-1], "steps", initial=steps[0] - 1) as progress:
        for step in steps:
            rate = schedule(step - 1)
            shown = []
            if time.monotonic() >= next_pictures:
                next_pictures += arguments.save_summaries_secs
                shown = [model.pictures, model.labels]
            inputs = {model.learning_rate: rate, model.stop: interruption.signal is not None}
            _, loss, stopping, *batch = session.run([model.train_op, model.loss, model.stopping, *shown], inputs)
            if step == steps[0]:
                start = time.monotonic()  # The first step also compiles and fills the queues.
            images_per_second = (step - steps[0]) * global_batch_size / max(time.monotonic() - start, 1e-9)
            progress.update(1, f"loss {loss:.3f}, {images_per_second:.1f} images/s")
            if batch:
                summaries.pictures(step, batch[0].clip(0, 255).astype(np.uint8), [label_names[i] for i in batch[1]])
            if step % arguments.log_every_n_steps == 0 or step == steps[-1]:
                values = {"loss": loss, "learning_rate": rate, "images_per_second": images_per_second}
                summaries.scalars(step, values)
            is_last = step == steps[-1] or stopping > 0
            if not math.isfinite(loss) or (is_last or time.monotonic() - last_save >= arguments.save_interval_secs):
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
            if is_last:
                break
    session.run(everybody_is_done)  # Whoever left earlier would look lost to worker 0, which may still be saving.
    if step < steps[-1]:
        interruption.leave(f"saved {saved} at step {step:,} of {steps[-1]:,}; run the same command again to go on")
        raise Retry(f"another worker was told to stop at step {step:,}; run the same command again to go on")
    return f"trained to step {step:,}: loss {loss:.3f}, {images_per_second:.1f} images/s, checkpoint {saved}"


def main(argv: Sequence[str] | None = None) -> None:
    arguments = build_parser().parse_args(argv)
    dataset = batches.open_split(arguments.dataset_name, arguments.dataset_split_name, arguments.dataset_dir)
    label_names = read_labels(arguments.dataset_dir)
    print(train(arguments, dataset, label_names, workers.from_flags(arguments)))


if __name__ == "__main__":
    run(main)
