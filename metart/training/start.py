"""How a training run starts: what it is asked for, its input, its first weights, its session."""

from collections.abc import Iterator, Mapping
import contextlib
from pathlib import Path
import threading
import time
from typing import Any, NamedTuple

import numpy as np

from metart.networks.slim_compat import slim, tf
from metart.common.cores import available_cores
from metart.common.files import locked
from metart.common.flags import Retry, UserError, notice
from metart.common.interruption import Interruption
from metart.common.labels import write_labels
from metart.networks import checkpoints, registry, warm_start
from metart.networks.session import Device
from metart.records import record_set, seen_pictures, splits
from metart.records.record_set import RecordSet
from metart.training import frozen_features, input_pipeline, training_graph
from metart.training.cluster import Cluster
from metart.training.input_pipeline import Augmentation
from metart.training.loop import Intervals, Plan, Run
from metart.training.optimizers import Schedule
from metart.training.training_graph import Recipe

CHECKPOINTS_TO_KEEP = 5
PICTURES_SHOWN = 4  # In TensorBoard, of one batch.
CLOSE_SECONDS = 5.0  # For the session to end by itself.
SHARED_SECONDS = 90.0  # For a file to appear on the other machines; NFS remembers for 60 s that there was none.


class WarmStart(NamedTuple):
    """The weights that a new run begins with; the fields have the names of the flags."""

    checkpoint_path: Path | None  # None begins with random weights.
    checkpoint_exclude_scopes: str
    ignore_missing_vars: bool


class Settings(NamedTuple):
    """What a run is asked for, apart from its data; the fields that are no groups have the names of the flags."""

    train_dir: Path
    batch_size: int
    max_number_of_steps: int | None
    num_epochs: float  # Without max_number_of_steps.
    class_balance: float
    feature_views: int
    first_image_sizes: list[int]
    early_stop: int | None
    allow_seen_pictures: bool
    random_seed: int
    device: Device
    recipe: Recipe
    schedule: Schedule
    augmentation: Augmentation
    warm_start: WarmStart
    intervals: Intervals


class Data(NamedTuple):
    """What a run learns from."""

    training: slim.dataset.Dataset
    held_out: slim.dataset.Dataset | None  # The validation split, if checkpoints are to be measured.
    label_names: list[str]  # In the order of their numbers.
    records: RecordSet | None  # None without splits.json: nobody can tell which pictures were seen.
    dataset_dir: Path
    split_name: str


class Inputs(NamedTuple):
    """What the network is given: batches for training or, of a head alone, every picture once in a view."""

    iterator: tf.compat.v1.data.Iterator
    images: tf.Tensor  # float32 [batch, image_size, image_size, 3], RGB, range [0, 255].
    labels: tf.Tensor  # int64 [batch].
    view: tf.Tensor  # Placeholder, fed to the iterator's initializer; of a head alone.
    # The first images and labels of a batch, the next one where batches are copied ahead; nothing of a head alone.
    shown: list[tf.Tensor]
    # Takes a batch to the GPU while the one before is computed, if there is one: run it at first, then in each step.
    copy_ahead: list[tf.Operation]


def build_inputs(
    settings: Settings, plan: Plan, dataset: slim.dataset.Dataset, workers: Cluster, head_alone: bool
) -> Inputs:
    """Builds the input in the current graph, and sets the graph's seed."""
    tf.compat.v1.set_random_seed(settings.random_seed)  # One order of the pictures, from which all workers deal.
    view = tf.compat.v1.placeholder_with_default(tf.constant(0, tf.int64), [], name="view")
    if head_alone:
        data = input_pipeline.view_batches(dataset.data_sources, settings.batch_size, settings.augmentation, view)
    else:
        data = input_pipeline.training_batches(
            dataset.data_sources,
            settings.batch_size,
            settings.augmentation,
            first_batch=plan.first_step,
            num_workers=workers.size,
            worker=workers.index,
            first_sizes=settings.first_image_sizes,
            total_batches=plan.total_steps,
        )
    data = input_pipeline.with_known_labels(data, dataset.num_classes)
    if settings.device.has_gpu:  # The threads that feed the GPU must not wait for pictures.
        options = tf.data.Options()
        options.threading.private_threadpool_size = available_cores()
        data = data.with_options(options)
    iterator = tf.compat.v1.data.make_initializable_iterator(data)
    images, labels = iterator.get_next()
    shown = [] if head_alone else [images[:PICTURES_SHOWN], labels[:PICTURES_SHOWN]]
    copy_ahead = []
    if settings.device.has_gpu and not head_alone:
        with tf.device("/gpu:0"):
            copy_ahead = [tf.raw_ops.Stage(values=[images, labels], shared_name="copies")]
            copies = tf.raw_ops.Unstage(dtypes=[images.dtype, labels.dtype], shared_name="copies")
        images, labels = tf.ensure_shape(copies[0], images.shape), tf.ensure_shape(copies[1], labels.shape)
    tf.compat.v1.set_random_seed(settings.random_seed + workers.index)  # Dropout of its own on each worker.
    return Inputs(iterator, images, labels, view, shown, copy_ahead)


def head_feeds(
    run: Run, settings: Settings, data: Data, inputs: Inputs, head: training_graph.HeadInputs
) -> Iterator[dict[tf.Tensor, Any]]:
    """Returns what each step of a head alone is fed, from features that are computed first where they are missing."""

    def compute(view: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        run.session.run(inputs.iterator.initializer, {inputs.view: view})
        with contextlib.suppress(tf.errors.OutOfRangeError):
            while True:
                run.interruption.leave("the features are not complete yet; run the same command again to continue")
                yield run.session.run([head.of_pictures, inputs.labels])

    frozen = [each for each in slim.get_model_variables() if not registry.is_in_scopes(each.op.name, head.scope)]
    decides = {**settings.augmentation._asdict(), "precision": settings.recipe.precision}
    decides["records_fingerprint"] = data.records.fingerprint if data.records else None
    kept = frozen_features.kept_features(
        run.train_dir / frozen_features.FOLDER,
        frozen_features.identity(run.session, frozen, data.training.data_sources, decides),
        settings.feature_views,
        (data.training.num_samples, head.features.shape[-1]),
        compute,
    )
    batches = kept.batches(settings.batch_size, settings.random_seed, run.plan.first_step)
    return ({head.features: features, head.labels: labels} for features, labels in batches)


class Start(NamedTuple):
    """The checkpoint that a run begins with, and what restores it."""

    checkpoint: str | None
    restorer: tf.compat.v1.train.Saver


def build_savers(
    settings: Settings, data: Data, newest: str | None, unpacked: contextlib.ExitStack
) -> tuple[tf.compat.v1.train.Saver, Start]:
    """Returns what saves the run's checkpoints, and where it starts.

    Args:
        settings: What the run is asked for.
        data: What it trains on.
        newest: Its newest checkpoint.
        unpacked: Holds a published checkpoint's files until they were read.

    Raises:
        UserError: A checkpoint does not fit the network in the current graph, or has seen pictures that it should not.
    """
    num_classes = len(data.label_names)
    saver = tf.compat.v1.train.Saver(max_to_keep=CHECKPOINTS_TO_KEEP, save_relative_paths=True)
    if newest:
        before = map(checkpoints.literal, checkpoints.all_in(settings.train_dir))
        saver.recover_last_checkpoints(list(before))  # They count for max_to_keep.
        checkpoints.check(newest, tf.compat.v1.global_variables(), settings.recipe.model_name, num_classes)
        return saver, Start(newest, saver)
    warm = settings.warm_start
    if not warm.checkpoint_path:
        if settings.recipe.trainable_scopes:
            notice("all layers outside of --trainable_scopes keep their random weights; give --checkpoint_path")
        return saver, Start(None, saver)
    checkpoint = unpacked.enter_context(warm_start.opened(str(warm.checkpoint_path)))
    refuse_seen_pictures(checkpoint, data, settings)
    excluded = warm_start.excluded_scopes(checkpoint, data.label_names, warm.checkpoint_exclude_scopes)
    variables = warm_start.variables(
        checkpoint, settings.recipe.model_name, num_classes, excluded, warm.ignore_missing_vars
    )
    warm_start.refuse_random_layers(checkpoint, variables, settings.recipe.trainable_scopes)
    # Weights that were averaged over training answer better, and are what is evaluated.
    return saver, Start(checkpoint, tf.compat.v1.train.Saver(checkpoints.averaged(checkpoint, variables)))


def refuse_seen_pictures(checkpoint: str, data: Data, settings: Settings) -> None:
    """Makes sure that no picture of the validation split has been trained on.

    Raises:
        UserError: See `seen_pictures.refuse_seen`.
    """
    if data.split_name == splits.VALIDATION:  # Which is what is asked for.
        return
    former = checkpoints.settings(checkpoint).get("records", {})
    folder = Path(checkpoint).parent
    seen_pictures.refuse_seen(folder, data.records, splits.VALIDATION, former, settings.allow_seen_pictures)


def _hash_of_run(settings: Settings, data: Data, plan: Plan) -> str:
    """Returns a hash of what has to be the same on all workers.

    Nobody would notice weights that drift apart, or a worker that trains on pictures which are validation elsewhere.
    """
    same = [
        data.records.fingerprint if data.records else data.training.num_samples,
        data.label_names,
        data.split_name,
        settings.recipe._replace(precision=""),  # `start_together` compares what counts of it.
        plan.schedule,
        plan.global_batch_size,
        settings.augmentation,
        settings.first_image_sizes,
        settings.class_balance,
        settings.random_seed,
        settings.early_stop,
        settings.intervals.validation_epochs,
    ]
    return record_set.sha256(repr(same).encode())[:16]


@contextlib.contextmanager
def open_session(
    settings: Settings, data: Data, plan: Plan, workers: Cluster, interruption: Interruption
) -> Iterator[tf.compat.v1.Session]:
    """Yields a session when all workers are there; worker 0 has TRAIN_DIR to itself meanwhile."""
    config = settings.device.session_config()
    with (
        locked(settings.train_dir) if workers.index == 0 else contextlib.nullcontext(),
        workers.connect(config, interruption, _hash_of_run(settings, data, plan)) as target,
    ):
        session = tf.compat.v1.Session(target, config=config)
        try:
            yield session
        finally:
            # It waits for tf.data to end, which now and then takes half a minute; what counts is saved by now.
            closing = threading.Thread(target=session.close, daemon=True)
            closing.start()
            closing.join(CLOSE_SECONDS)


def start_together(run: Run, start: Start, inputs: Inputs, data: Data, written_flags: Mapping[str, Any]) -> None:
    """Gives all workers the weights that the run begins with; worker 0 writes what it is about.

    Raises:
        Retry: The workers do not see the same checkpoints.
        UserError: The checkpoint is damaged, the workers have different folders, or only some of them leave out steps
            that overflow.
    """
    session = run.session
    if run.workers.size > 1:
        (in_float16,) = session.run(run.workers.mean([tf.constant(float(run.train_step.applied is not None))]))
        if 0 < in_float16 < 1:
            raise UserError("some workers compute in float16 and some do not; start all with the same --precision")
    initializers = tf.compat.v1.global_variables_initializer(), tf.compat.v1.local_variables_initializer()
    session.run([*initializers, inputs.iterator.initializer])
    if run.workers.index == 0:
        with run.workers.busy():
            if start.checkpoint:
                checkpoints.restore(session, start.restorer, start.checkpoint)
            note_pictures(run.train_dir, start.checkpoint, data)
            write_settings(run.train_dir, run.plan, data, written_flags)
    if run.workers.size > 1:
        session.run(run.workers.broadcast(tf.compat.v1.global_variables()))
        require_same_folder(run.train_dir, run.interruption)
        if session.run(tf.compat.v1.train.get_global_step()) != run.plan.first_step:
            raise Retry(
                f"worker 0 sees another newest checkpoint in {run.train_dir} than this worker; run the same command "
                "again"
            )


def require_same_folder(train_dir: Path, interruption: Interruption) -> None:
    """Makes sure that this worker sees what worker 0 has written: it could not start from a checkpoint later.

    Raises:
        UserError: It does not, even after a while.
        Retry, KeyboardInterrupt: A signal came.
    """
    end = time.monotonic() + SHARED_SECONDS
    while not (train_dir / checkpoints.SETTINGS_FILENAME).exists():
        interruption.leave("nothing is trained yet; run the same command again")
        if time.monotonic() > end:
            raise UserError(
                f"{train_dir} is not the folder that worker 0 writes to; all workers need the same --train_dir, on a "
                "volume that they share"
            )
        time.sleep(1)


def note_pictures(train_dir: Path, start: str | None, data: Data) -> None:
    """Notes which pictures the run has seen when it ends, or says that nobody will know."""
    seen: np.ndarray | None = np.empty(0, np.uint64)
    if start:
        seen = seen_pictures.read(Path(start).parent)
        if seen is None and Path(start).parent != train_dir and warm_start.is_published(start, len(data.label_names)):
            seen = np.empty(0, np.uint64)  # They have seen none of these.
    if not seen_pictures.note(train_dir, seen, data.records, data.split_name):
        unknown = "evaluation will not know which pictures this run was trained on"
        if data.records:
            notice(f"{start} does not tell which pictures it has seen: {unknown}")
        else:
            missing = data.dataset_dir / record_set.SPLITS_FILENAME
            notice(f"no {missing}: {unknown}, nor classify.py how large they were")


def write_settings(train_dir: Path, plan: Plan, data: Data, written_flags: Mapping[str, Any]) -> None:
    """Leaves beside the checkpoints what evaluation and inference need to know of the run."""
    write_labels(data.label_names, train_dir)
    settings = {**written_flags, "max_number_of_steps": plan.total_steps, "labels": data.label_names}
    if data.records:
        settings["records"] = {"fingerprint": data.records.fingerprint, **data.records.settings._asdict()}
    checkpoints.write_settings(train_dir, settings)
