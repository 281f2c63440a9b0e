#!/usr/bin/env python3
"""Step 6 of 10: trains a network on the records of convert.py.

Reads   DATASET_DIR/arts_train_*.tfrecord and labels.txt; with --checkpoint_path, weights to start from.
Writes  TRAIN_DIR/model.ckpt-N.*, checkpoint, event files for TensorBoard, flags.json, labels.txt; seen-pictures.npy;
        features/ if the head alone is trained; best/ and validation.json with --validation_epochs.

    python train_image_classifier.py --train_dir=logs --dataset_dir=data --max_number_of_steps=100

Safe to run again: it continues from the newest checkpoint in TRAIN_DIR. Ctrl-C and SIGTERM save one first.
"""

from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).resolve().parent))  # Left out under PYTHONSAFEPATH.
if __name__ == "__main__":  # Before the long imports.
    from metart.common import startup

    startup.begin()

from collections.abc import Mapping, Sequence
import contextlib
import functools
import itertools
from typing import Any

from metart.networks.slim_compat import slim, tf
import dataset_factory
from metart.common.files import locked
from metart.common.flags import Parser, Retry, UserError, comma_separated, notice, number, path, run, select
from metart.common.interruption import Interruption
from metart.common.labels import read_labels, write_labels
from metart.evaluation.best_checkpoint import BEST_FOLDER, BestCheckpoint, begin_anew
from metart.networks import checkpoints, registry
from metart.networks.preprocessing import CENTRAL_FRACTION, IMAGE_SIZES, MIN_CROP_AREA
from metart.networks.session import PRECISIONS, Device, enough_memory
from metart.records import record_set, splits
from metart.training import cluster, input_pipeline, optimizers, training_graph
from metart.training.cluster import Cluster
from metart.training.input_pipeline import Augmentation
from metart.training.loop import Intervals, Plan, Run, run_steps
from metart.training.optimizers import Schedule
from metart.training.resume import FormerRun, former_run, make_plan, require_same_run
from metart.training.start import (
    Data,
    Settings,
    WarmStart,
    build_inputs,
    build_savers,
    head_feeds,
    open_session,
    refuse_seen_pictures,
    start_together,
    write_settings,
)
from metart.training.summaries import Summaries
from metart.training.training_graph import Recipe

MAX_EPOCHS = 1e6
EVALUATION_FLAGS = ("eval_image_sizes", "eval_central_fraction")
MAX_SEED = 2**31 - 1  # TensorFlow's random numbers take no larger one.


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    epochs = number(float, 0, MAX_EPOCHS)
    add("--train_dir", type=path, required=True, help="folder for checkpoints and event files")
    add("--dataset_dir", type=path, required=True, help="folder with the records and labels.txt")
    add("--dataset_name", default="arts", choices=dataset_factory.DATASETS, help="kind of data set")
    add("--dataset_split_name", default="train", help="split to train on")
    add("--model_name", default="inception_v3", choices=registry.NETWORKS, help="network", metavar="NAME")
    add(
        "--train_image_size",
        type=number(int, *IMAGE_SIZES),
        help="side of the input, pixels; default: the network's own",
    )
    add(
        "--first_image_sizes",
        type=comma_separated(number(int, *IMAGE_SIZES)),
        default=[],
        help="smaller sides for the first parts of a run, all as long as the last; default: one size",
        metavar="PIXELS,PIXELS",
    )
    add(
        "--eval_image_sizes",
        type=comma_separated(number(int, *IMAGE_SIZES)),
        help="sides for test-time augmentation, with the mirror image in each; default: one look, as trained",
        metavar="PIXELS,PIXELS",
    )
    add(
        "--eval_central_fraction",
        type=number(float, 0.1, 1),
        default=CENTRAL_FRACTION,
        help="share of width and height that evaluation sees",
    )
    add("--batch_size", type=number(int, 1), default=32, help="images in a step")
    add("--max_number_of_steps", type=number(int, 1), help="train up to this step; default: by --num_epochs")
    add("--num_epochs", type=epochs, default=10, help="passes over the data without --max_number_of_steps")
    add("--optimizer", default="adam", choices=optimizers.OPTIMIZERS, help="how the weights are updated")
    add("--learning_rate", type=number(float, 0), default=0.001, help="the rate after the warm-up")
    add("--learning_rate_decay_type", default="cosine", choices=optimizers.SCHEDULES, help="how the rate changes")
    add("--end_learning_rate", type=number(float, 0), default=0.00001, help="for cosine and polynomial")
    add("--learning_rate_decay_factor", type=number(float, 0), default=0.94, help="for exponential")
    add("--num_epochs_per_decay", type=epochs, default=2.0, help="for exponential")
    add(
        "--warmup_epochs",
        type=epochs,
        help="epochs in which the rate rises; default: a tenth of the run, at most one",
    )
    add("--momentum", type=number(float, 0, 1), default=0.9, help="for momentum, muon and rmsprop")
    add("--rmsprop_decay", type=number(float, 0, 1), default=0.9, help="of the average of squared gradients")
    add("--opt_epsilon", type=number(float, 0), default=0.0001, help="for rmsprop and adam")
    add("--weight_decay", type=number(float, 0), default=0.00004, help="factor of the weights' L2 loss; muon has none")
    add("--min_crop_area", type=number(float, 0.01, 1), default=MIN_CROP_AREA, help="smallest share of a picture seen")
    add("--label_smoothing", type=number(float, 0, 1), default=0.1, help="share of the truth spread over all labels")
    add("--mixup_alpha", type=number(float, 0), default=0, help="of mixup's Beta distribution; 0: none; 0.4 is usual")
    add("--cutmix_alpha", type=number(float, 0), default=0, help="of CutMix's Beta distribution; 0: none; 1 is usual")
    add("--mixup_prob", type=number(float, 0, 1), default=1, help="share of the batches with either of the two")
    add("--class_balance", type=number(float, 0, 1), default=0, help="0: pictures count the same, 1: labels do")
    add("--moving_average_decay", type=number(float, 0, 1), help="also keep averaged weights, which evaluation uses")
    add("--checkpoint_path", type=path, help="weights to start from where TRAIN_DIR has none: file, folder or archive")
    add("--checkpoint_exclude_scopes", default="", help="comma-separated scopes not to take from --checkpoint_path")
    add("--trainable_scopes", default="", help="comma-separated scopes to train; default: all")
    parser.add_boolean("ignore_missing_vars", False, "leave out what --checkpoint_path does not have")
    parser.add_boolean("allow_seen_pictures", False, "continue although validation pictures were trained on")
    add("--feature_views", type=number(int, 0), default=4, help="crops of each picture if the head alone is trained")
    add("--validation_epochs", type=epochs, help="epochs between two measurements on the validation split")
    add("--early_stop", type=number(int, 1), help="stop after this many measurements without a better one")
    add("--precision", default="auto", choices=PRECISIONS, help="number format of the arithmetic")
    add("--random_seed", type=number(int, 0, MAX_SEED), default=0, help="for the first weights, order and crops")
    add("--log_every_n_steps", type=number(int, 1), default=10, help="steps between two points of the curves")
    add("--save_summaries_secs", type=number(int, 1), default=600, help="seconds between two samples of input pictures")
    add("--save_interval_secs", type=number(int, 1), default=600, help="seconds between two checkpoints")
    parser.add_boolean("clone_on_cpu", False, "do not use a GPU")
    parser.add_boolean("jit", False, "compile the step for a GPU with XLA: faster, and a minute more to start")
    cluster.add_flags(parser)
    parser.add_ignored("alsologtostderr")
    return parser


def train(settings: Settings, data: Data, workers: Cluster, written_flags: Mapping[str, Any]) -> str:
    """Trains up to the last step, from the newest checkpoint in TRAIN_DIR or from the start.

    Args:
        settings: What to do.
        data: What to learn from; nobody changes it in the meantime.
        workers: All that train together, this process among them.
        written_flags: What flags.json should say.

    Returns:
        One line for the reader: what was reached and where it is.

    Raises:
        Retry, KeyboardInterrupt: The run was interrupted; what was reached is saved.
        UserError: A checkpoint or records file does not fit or is damaged, or the loss is no longer a number.
    """
    train_dir, recipe, num_classes = settings.train_dir, settings.recipe, len(data.label_names)
    if workers.index == 0 and train_dir.is_dir():
        with locked(train_dir):
            pass  # Otherwise another run could delete a checkpoint while this one looks at it.
    former = former_run(train_dir, data.label_names)
    newest = former.checkpoint if former else None
    plan = make_plan(settings, data.training.num_samples, former, workers)
    if former:
        require_same_run(settings, plan, former, data, workers)
        given, begun_with = settings.warm_start.checkpoint_path, former.flags.get("checkpoint_path")
        if given and str(given) != begun_with:
            notice(f"--checkpoint_path is not used, as {train_dir} holds a checkpoint")
        written_flags = {**written_flags, "checkpoint_path": begun_with}
    best = open_best(settings, data, plan) if data.held_out else None
    if former:
        refuse_seen_pictures(former.checkpoint, data, settings)
        if best and not former.has_ended and workers.index == 0:
            measure_missed_checkpoint(best, former, settings, plan, data)
        if done := why_done(plan, former, best):
            if workers.index == 0:
                with locked(train_dir):
                    last_step = former.flags.get("max_number_of_steps", plan.total_steps)
                    if former.flags and not former.has_ended and former.step >= last_step:  # Killed after it.
                        checkpoints.write_settings(train_dir, {**former.flags, "finished_step": former.step})
                    update_looks(train_dir, written_flags)
            return f"nothing to do: {done}"
    if workers.size > 1:
        input_pipeline.require_pictures_for_all(data.training, workers.size)
    head_alone = trains_on_kept_features(settings, num_classes, workers)
    label_weights = training_graph.label_weights(data.training.label_counts, settings.class_balance)
    print_plan(settings, plan, data.training, workers)
    with tf.Graph().as_default(), Interruption() as interruption, contextlib.ExitStack() as unpacked:
        inputs = build_inputs(settings, plan, data.training, workers, head_alone)
        head = None
        if head_alone:
            train_step, head = training_graph.build_head(recipe, label_weights, inputs.images, workers)
        else:
            train_step = training_graph.build_network(recipe, label_weights, inputs.images, inputs.labels, workers)
            train_step = train_step._replace(train_op=tf.group(train_step.train_op, *inputs.copy_ahead))
        saver, start = build_savers(settings, data, newest, unpacked)
        with open_session(settings, data, plan, workers, interruption) as session:
            if checkpoints.all_in(train_dir)[-1:] != ([newest] if newest else []):
                raise Retry(
                    f"another process has saved a checkpoint in {train_dir} in the meantime; run the same command again"
                )
            check = functools.partial(record_set.require_still, data.dataset_dir, data.records)
            names = data.label_names
            run = Run(train_dir, session, train_step, inputs.shown, saver, plan, workers, interruption, names, check)
            if former and workers.index == 0:
                update_looks(train_dir, written_flags)
            start_together(run, start, inputs, data, written_flags)
            if not former and workers.index == 0:
                begin_anew(train_dir)
            unpacked.close()
            try:
                feeds = head_feeds(run, settings, data, inputs, head) if head else itertools.repeat({})
                # Worker 0 measures for all.
                measure = best.measure if best and workers.index == 0 else None
                with enough_memory():
                    session.run(inputs.copy_ahead)
                    is_over = bool(measure and best and best.is_over)
                    reached = run_steps(run, feeds, settings.intervals, measure, is_over)
            except (*input_pipeline.UNREADABLE, tf.errors.OutOfRangeError):
                input_pipeline.raise_damaged(data.training.data_sources, num_classes)
                raise
            if workers.index == 0:
                last = checkpoints.step(checkpoints.newest(str(train_dir)))
                write_settings(train_dir, plan, data, {**written_flags, "finished_step": last})
    return f"{reached}; {best}" if measure else reached


def open_best(settings: Settings, data: Data, plan: Plan) -> BestCheckpoint:
    """Returns what measures checkpoints and keeps the best."""
    fingerprint = data.records.fingerprint if data.records else None
    device = settings.device._replace(jit=False)  # It would compile again for each measurement.
    return BestCheckpoint(
        settings.train_dir,
        data.held_out,
        fingerprint,
        settings.batch_size,
        device,
        settings.early_stop,
        plan.first_step,
    )


def measure_missed_checkpoint(
    best: BestCheckpoint, former: FormerRun, settings: Settings, plan: Plan, data: Data
) -> None:
    """Measures the newest checkpoint if the run was killed before it could."""
    train_dir, step = settings.train_dir, former.step
    if best.has_measured(step) or not settings.intervals.is_measured(step, plan):
        return
    if not former.flags:
        notice(f"{former.checkpoint} is not measured, as {train_dir / checkpoints.SETTINGS_FILENAME} is lost")
        return
    with locked(train_dir), contextlib.closing(Summaries(train_dir)) as summaries:
        write_labels(data.label_names, train_dir)  # They may be lost.
        measured = best.measure(former.checkpoint)
        summaries.validation(step, measured.figures)
    print(f"step {step:,}, which the interrupted run did not measure: {measured.message}")


def why_done(plan: Plan, former: FormerRun, best: BestCheckpoint | None) -> str | None:
    """Returns what a run has reached that has no step left, None for all others.

    Args:
        plan: Of the run.
        former: What it was. Whether the best checkpoint ends a run that was killed, only worker 0 may know; such a run
            makes one step more, in which all learn it.
        best: What measures its checkpoints.
    """
    if best and best.is_over and former.has_ended:
        return f"stopped at step {former.step:,}, {best}"
    if former.step >= plan.total_steps:
        return f"{former.checkpoint} is at step {former.step:,} of {plan.total_steps:,}"
    return None


def trains_on_kept_features(settings: Settings, num_classes: int, workers: Cluster) -> bool:
    """Returns whether the head trains alone, on features that are kept.

    Raises:
        UserError: It does, but several workers were started, or pictures are to be mixed or of several sizes; or see
            `training_graph.trains_head_alone`.
    """
    recipe, size = settings.recipe, settings.augmentation.image_size
    head_alone = training_graph.trains_head_alone(recipe.model_name, size, num_classes, recipe.trainable_scopes)
    if not head_alone or not settings.feature_views:
        return False
    if workers.size > 1:
        raise UserError("a head alone trains in seconds; train it on one worker, or add --feature_views=0")
    if recipe.mixup_alpha or recipe.cutmix_alpha or settings.first_image_sizes:
        raise UserError(
            "a head alone sees features, which are of one size and not mixed; leave out --mixup_alpha, --cutmix_alpha "
            "and --first_image_sizes, or add --feature_views=0"
        )
    return True


def print_plan(settings: Settings, plan: Plan, dataset: slim.dataset.Dataset, workers: Cluster) -> None:
    """Says how much there is to do."""
    print(
        f"{dataset.num_samples:,} pictures of {dataset.num_classes} labels, {plan.schedule.steps_per_epoch:,.1f} steps "
        f"of {plan.global_batch_size} an epoch; from step {plan.first_step:,} to {plan.total_steps:,}",
        flush=True,
    )
    if settings.device.has_gpu:
        print(f"{settings.recipe.precision} on {settings.device.name}", flush=True)
    if workers.size > 1:
        print(
            f"worker {workers.index} of {workers.size}: {settings.batch_size} pictures of each step. --learning_rate="
            f"{plan.schedule.learning_rate:g} is for all {plan.global_batch_size}; multiply one that was "
            f"tuned on a single worker by {workers.size}",
            flush=True,
        )


def update_looks(train_dir: Path, written_flags: Mapping[str, Any]) -> None:
    """Changes how a run that has ended is evaluated, where the flags say other than when it ended."""
    looks = {name: written_flags[name] for name in EVALUATION_FLAGS if name in written_flags}
    for folder in (train_dir, train_dir / BEST_FOLDER):
        settings = checkpoints.settings_in(folder)
        if settings and {**settings, **looks} != settings:
            checkpoints.write_settings(folder, {**settings, **looks})
            print(f"{folder}: evaluation looks as these flags say from now on")


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    flags = parser.parse_args(argv)
    if flags.validation_epochs and flags.dataset_split_name == splits.VALIDATION:
        parser.error("--validation_epochs measures on the validation split, which is trained on here; leave it out")
    if flags.early_stop and not flags.validation_epochs:
        parser.error("--early_stop needs --validation_epochs, how often to measure")
    if len(set(flags.eval_image_sizes or [])) < len(flags.eval_image_sizes or []):
        parser.error("--eval_image_sizes names a size twice")
    if (flags.mixup_alpha or flags.cutmix_alpha) and flags.batch_size == 1:
        parser.error("--mixup_alpha and --cutmix_alpha mix the pictures of a batch; give a --batch_size of 2 at least")
    workers = cluster.from_flags(flags.worker_replicas, flags.task, flags.worker_address)
    values = vars(flags)
    image_size = flags.train_image_size or registry.NETWORKS[flags.model_name].image_size
    device = Device(flags.precision, use_gpu=not flags.clone_on_cpu, jit=flags.jit)
    groups = {
        "recipe": select(Recipe, {**values, "precision": device.arithmetic}),
        "schedule": select(Schedule, values),
        "augmentation": Augmentation(image_size, flags.random_seed, flags.min_crop_area, flags.eval_central_fraction),
        "warm_start": select(WarmStart, values),
        "intervals": select(Intervals, values),
        "device": device,
    }
    settings = select(Settings, {**values, **groups})
    if flags.first_image_sizes:
        training_graph.require_changing_size(flags.model_name, min(flags.first_image_sizes))
    if flags.eval_image_sizes:
        training_graph.require_size(flags.model_name, min(flags.eval_image_sizes))
    with record_set.reading(flags.dataset_dir) as records:
        training = input_pipeline.open_split(flags.dataset_name, flags.dataset_split_name, flags.dataset_dir)
        held_out = None
        if flags.validation_epochs:
            held_out = input_pipeline.open_split(flags.dataset_name, splits.VALIDATION, flags.dataset_dir)
        labels = read_labels(flags.dataset_dir)
        data = Data(training, held_out, labels, records, flags.dataset_dir, flags.dataset_split_name)
        print(train(settings, data, workers, values))


if __name__ == "__main__":
    run(main)
