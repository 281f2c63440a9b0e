"""From TFRecord files to batches of images, with tf.data."""

from collections.abc import Callable, Iterator, Sequence
import math
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import DecodeError
import numpy as np

from metart.networks.slim_compat import slim, tf, without_autograph
import arts
import dataset_factory
from metart.common.flags import UserError
from metart.networks import preprocessing
from metart.records.pictures import BadPicture, open_picture

# Records are kept encoded while they are shuffled: 2,048 of some 60 kB are about 120 MB.
SHUFFLE_BUFFER = 2048
DRAWN_AT_ONCE = 128  # Pictures of `view_batches`, whatever its batch: the same seed gives the same views.
# Images of a training batch, at most: their number divides the batch. One by one, tf.data itself takes a fifth of the
# time of small ones.
MADE_AT_ONCE = 16
# What TensorFlow says of records that are damaged, hold what is no picture, are gone, or may not be read.
UNREADABLE = (
    tf.errors.DataLossError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
)
READ_AT_ONCE = 8  # Files read in turn, so that neighbours in a batch come from different files.


class Augmentation(NamedTuple):
    """How training images are made from the pictures."""

    image_size: int  # Side of the images, pixels.
    seed: int = 0  # The same seed gives the same images in the same order; in training, in batches of the same size.
    min_crop_area: float = preprocessing.MIN_CROP_AREA  # See `preprocessing.training_image`.
    eval_central_fraction: float = preprocessing.CENTRAL_FRACTION  # Of the view that is the image of evaluation.


@without_autograph
def training_batches(
    data_sources: Sequence[str],
    batch_size: int,
    augmentation: Augmentation,
    first_batch: int = 0,
    num_workers: int = 1,
    worker: int = 0,
    first_sizes: Sequence[int] = (),
    total_batches: int = 1,
) -> tf.data.Dataset:
    """Returns an endless data set of shuffled, randomly cropped and coloured training images.

    Args:
        data_sources: TFRecord files that convert.py wrote.
        batch_size: Images in a batch; every batch is full.
        augmentation: Of the images, and the seed of their order.
        first_batch: Number of batches that an interrupted run has already used: it goes on with other ones.
        num_workers: The pictures are dealt to so many workers; none goes to two of them as long as the random seed of
            TensorFlow, on which the order of the files depends, is the same for all.
        worker: Which of them this is, from 0.
        first_sizes: Sides of the images in the first parts of the run; the last part, as long as each of them, has
            image_size.
        total_batches: Length of the run.

    Returns:
        (images, labels): float32 [batch_size, size, size, 3], RGB, range [0, 255]; int64 [batch_size].
    """
    image_size, seed, min_crop_area, _ = augmentation
    sizes = [*first_sizes, image_size]
    shuffle_seed = seed + first_batch
    files = tf.data.Dataset.from_tensor_slices(sorted(data_sources))
    deal_files = len(data_sources) % num_workers == 0  # Otherwise every worker reads all and skips what is not its own.
    if deal_files:
        files = files.shard(num_workers, worker)
    files = files.shuffle(len(data_sources), seed=shuffle_seed)
    records = files.interleave(
        tf.data.TFRecordDataset, cycle_length=READ_AT_ONCE, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    if not deal_files:
        records = records.shard(num_workers, worker)
    records = records.shuffle(SHUFFLE_BUFFER, seed=shuffle_seed).repeat()

    def seed_of(batch: tf.Tensor) -> tf.Tensor:
        return tf.stack([seed, batch * num_workers + worker])

    group = math.gcd(batch_size, MADE_AT_ONCE)

    def in_groups(of_batch: tf.Tensor) -> tf.Tensor:
        return tf.reshape(of_batch, [batch_size // group, group, *of_batch.shape[1:]])

    @tf.function(autograph=False)
    def to_image(encoded: tf.Tensor, size: int | tf.Tensor, variation: preprocessing.Variation) -> tf.Tensor:
        return preprocessing.training_image(encoded, size, variation, min_crop_area)

    def to_images(
        batch: tf.Tensor, encoded: tf.Tensor, labels: tf.Tensor, variations: preprocessing.Variation
    ) -> tuple[tf.Tensor, tf.Tensor]:
        size = image_size
        if first_sizes:
            part = batch[0] * len(sizes) // total_batches
            size = tf.gather(sizes, tf.minimum(part, len(sizes) - 1))
        each = zip(tf.unstack(encoded), *map(tf.unstack, variations), strict=True)
        return tf.stack([to_image(one, size, preprocessing.Variation(*of_one)) for one, *of_one in each]), labels

    batches = _varied(records.batch(batch_size, drop_remainder=True).enumerate(first_batch), seed_of)
    # `rebatch` would do, too, but TensorFlow writes an error line for each encoded picture that it passes on.
    groups = batches.map(lambda *of_batch: tf.nest.map_structure(in_groups, of_batch)).unbatch()
    dataset = groups.map(to_images, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.rebatch(batch_size, drop_remainder=True).prefetch(2)


def _varied(batches: tf.data.Dataset, seed_of: Callable[[tf.Tensor], tf.Tensor]) -> tf.data.Dataset:
    """Returns the pictures of numbered batches of records, with what each is varied by.

    Args:
        batches: Their numbers, int64, and the records, string [n].
        seed_of: Returns the seed of the variations of a batch, int64 [2], for its number.

    Returns:
        (number of the batch, the encoded pictures, their labels, preprocessing.Variation), each with n in front.
    """

    def read(number: tf.Tensor, records: tf.Tensor) -> tuple[tf.Tensor, ...]:
        features = tf.io.parse_example(records, arts.KEYS_TO_FEATURES)
        size = tf.shape(records)[0]
        variations = preprocessing.draw_variations(size, seed_of(number))
        return tf.fill([size], number), features["image/encoded"], features["image/class/label"], variations

    return batches.map(read)


@without_autograph
def evaluation_batches(
    data_sources: Sequence[str],
    batch_size: int,
    image_size: int,
    central_fraction: float = preprocessing.CENTRAL_FRACTION,
) -> tf.data.Dataset:
    """Returns a data set of every image exactly once, in the order of the files.

    Returns:
        (images, labels, names): float32 [n, image_size, image_size, 3], RGB, range [0, 255]; int64 [n];
        string [n], the path of the picture below met_art. n is batch_size, in the last batch what is left.
    """

    def to_image(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        features = tf.io.parse_single_example(record, arts.KEYS_TO_FEATURES)
        image = preprocessing.evaluation_image(features["image/encoded"], image_size, central_fraction)
        return image, features["image/class/label"], features["image/filename"]

    records = tf.data.TFRecordDataset(sorted(data_sources))
    dataset = records.map(to_image, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(batch_size).prefetch(2)


def evaluation_arrays(
    dataset: slim.dataset.Dataset, batch_size: int, looks: preprocessing.Looks, max_num_batches: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
    """Yields what `evaluation_batches` has, up to so many batches; None for all.

    Raises:
        UserError: A records file is damaged, gone or may not be read.
    """
    data = evaluation_batches(dataset.data_sources, batch_size, looks.image_size, looks.central_fraction)
    data = data.take(max_num_batches or -1)
    try:
        for pictures, labels, names in data.as_numpy_iterator():
            yield pictures, labels, [name.decode(errors="replace") for name in names]
    except UNREADABLE:
        raise_damaged(dataset.data_sources, dataset.num_classes)
        raise


@without_autograph
def view_batches(
    data_sources: Sequence[str], batch_size: int, augmentation: Augmentation, view: tf.Tensor
) -> tf.data.Dataset:
    """Returns a data set of every image exactly once, in the order of the files, in one of many views.

    Args:
        data_sources: TFRecord files that convert.py wrote.
        batch_size: Images in a batch, in the last what is left.
        augmentation: Of the images; the same seed gives the same views.
        view: int64 scalar: 0 for the image that evaluation sees, others for a training image each.

    Returns:
        (images, labels), as `training_batches`.
    """
    image_size, seed, min_crop_area, central_fraction = augmentation

    def to_image(
        _: tf.Tensor, encoded: tf.Tensor, label: tf.Tensor, variation: preprocessing.Variation
    ) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.cond(
            tf.equal(view, 0),
            lambda: preprocessing.evaluation_image(encoded, image_size, central_fraction),
            lambda: preprocessing.training_image(encoded, image_size, variation, min_crop_area),
        )
        return tf.ensure_shape(image, [image_size, image_size, 3]), label

    records = tf.data.TFRecordDataset(sorted(data_sources)).batch(DRAWN_AT_ONCE).enumerate()
    dataset = _varied(records, lambda number: tf.stack([seed + view * 2**32, number])).unbatch()
    dataset = dataset.map(to_image, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(batch_size).prefetch(2)


def require_pictures_for_all(dataset: slim.dataset.Dataset, num_workers: int) -> None:
    """Makes sure that no worker goes without a picture, as `training_batches` deals them.

    Raises:
        UserError: One would.
    """
    files = sorted(dataset.data_sources)
    supplied = min(dataset.num_samples, num_workers)
    if len(files) % num_workers == 0:
        supplied = sum(
            any(Path(file).stat().st_size for file in files[worker::num_workers]) for worker in range(num_workers)
        )
    if supplied < num_workers:
        raise UserError(
            f"{num_workers} workers, but the {dataset.num_samples:,} training pictures in {len(files):,} files are "
            f"enough for {supplied} only; start no more than that"
        )


@without_autograph
def with_known_labels(batches: tf.data.Dataset, num_classes: int) -> tf.data.Dataset:
    """Returns the same (images, labels); a label number that labels.txt does not have is an InvalidArgumentError."""

    def checked(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        below = tf.debugging.assert_less(labels, tf.constant(num_classes, labels.dtype))
        with tf.control_dependencies([below, tf.debugging.assert_non_negative(labels)]):
            return images, tf.identity(labels)

    return batches.map(checked)


def pictures_at(data_sources: Sequence[str], positions: Sequence[int]) -> list[np.ndarray]:
    """Returns the pictures, uint8 [height, width, 3], RGB, at some positions of the order of `evaluation_batches`."""
    wanted = set(positions)
    found: dict[int, np.ndarray] = {}
    for position, record in enumerate(tf.data.TFRecordDataset(sorted(data_sources)).as_numpy_iterator()):
        if len(found) == len(wanted):
            break
        if position in wanted:
            example = tf.train.Example.FromString(record)
            picture = open_picture(example.features.feature["image/encoded"].bytes_list.value[0])
            found[position] = np.asarray(picture.convert("RGB"))
    return [found[position] for position in positions]


def raise_damaged(data_sources: Sequence[str], num_classes: float = math.inf) -> None:
    """Names the first records file that cannot be read to its end, or the first picture that cannot be used.

    TensorFlow's own message gives a byte offset but not the file.

    Raises:
        UserError: A file is damaged, gone or may not be read.
    """
    for source in sorted(data_sources):
        try:
            for record in tf.compat.v1.io.tf_record_iterator(source):  # Needs no eager mode; training has none.
                features = tf.train.Example.FromString(record).features.feature
                label = features["image/class/label"].int64_list.value[0]
                if not 0 <= label < num_classes:
                    raise UserError(
                        f"{source} has the label number {label}, labels.txt names {num_classes}; run convert.py again"
                    )
                picture = open_picture(features["image/encoded"].bytes_list.value[0])
                if picture.format != "JPEG":
                    raise BadPicture(f"a {picture.format}, the records hold JPEGs")
        except (tf.errors.NotFoundError, tf.errors.PermissionDeniedError):
            raise UserError(f"{source} is gone or may not be read; restore it, or run convert.py again") from None
        except (tf.errors.DataLossError, DecodeError, IndexError):
            raise UserError(f"{source} is damaged or cut off; delete it and run convert.py again") from None
        except BadPicture as error:
            name = b"".join(features["image/filename"].bytes_list.value).decode(errors="replace") or "a picture"
            raise UserError(
                f"{source}: {name} cannot be used ({error}); repair or remove that picture and run convert.py again"
            ) from None


def open_split(dataset_name: str, split_name: str, dataset_dir: str | Path) -> slim.dataset.Dataset:
    """Returns `dataset_factory.get_dataset`; what is wrong with the folder is an error of the user.

    Raises:
        UserError: No such folder, no complete records, no labels.txt.
    """
    str(dataset_dir).encode()  # TensorFlow takes no name that is not text: `flags.run` says which and what to do.
    try:
        return dataset_factory.get_dataset(dataset_name, split_name, dataset_dir)
    except ValueError as error:
        raise UserError(str(error)) from None
