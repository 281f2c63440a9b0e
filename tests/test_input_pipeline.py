"""Batches: each picture once in evaluation, once an epoch in training; damage is named."""

from collections.abc import Sequence
import io
from pathlib import Path
import re

import numpy as np
from PIL import Image
import pytest

from metart.networks.slim_compat import tf
from metart.common.flags import UserError
from metart.networks import preprocessing
from metart.records.record_set import SHARD_NAME
from metart.training import input_pipeline
from metart.training.input_pipeline import Augmentation

COUNT = 23


def record(jpeg: bytes, label: int, filename: str) -> bytes:
    features = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[jpeg])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "image/filename": tf.train.Feature(bytes_list=tf.train.BytesList(value=[filename.encode()])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_records(folder: Path, num_shards: int, count: int = COUNT) -> list[str]:
    """Writes `count` pictures whose label is their number, dealt to shards; returns the files."""
    paths = [str(folder / (SHARD_NAME.format("train", shard, num_shards))) for shard in range(num_shards)]
    for shard, path in enumerate(paths):
        with tf.io.TFRecordWriter(path) as writer:
            for number in range(shard, count, num_shards):
                file = io.BytesIO()
                Image.new("RGB", (20, 20), (number * 10, 128, 128)).save(file, "JPEG")
                writer.write(record(file.getvalue(), number, f"label/{number}.jpg"))
    return paths


@pytest.fixture
def records(tmp_path: Path) -> list[str]:
    return write_records(tmp_path, num_shards=5)


@pytest.mark.parametrize("num_shards", [1, 5, 30])
@pytest.mark.parametrize("batch_size", [1, 7, COUNT, 100])
def test_evaluation_has_every_picture_once_in_order(tmp_path: Path, num_shards: int, batch_size: int) -> None:
    data = input_pipeline.evaluation_batches(write_records(tmp_path, num_shards)[::-1], batch_size, 16)
    images, labels, names = (np.concatenate(parts) for parts in zip(*data.as_numpy_iterator(), strict=True))
    assert list(labels) == [number for shard in range(num_shards) for number in range(shard, COUNT, num_shards)]
    assert [name.decode() for name in names] == [f"label/{number}.jpg" for number in labels]
    assert images.shape == (COUNT, 16, 16, 3)
    np.testing.assert_allclose(images[:, 8, 8, 0], labels * 10, atol=3)  # The picture that belongs to the label.


def test_the_first_view_is_what_evaluation_sees(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((40, 40)).convert("RGB").save(file, "JPEG")
    source = str(tmp_path / "arts_train_00000-of-00001.tfrecord")
    with tf.io.TFRecordWriter(source) as writer:
        writer.write(record(file.getvalue(), 0, "label/0.jpg"))
    for fraction in (0.5, 1.0):
        augmentation = Augmentation(16, eval_central_fraction=fraction)
        ((view, _),) = input_pipeline.view_batches([source], 1, augmentation, tf.constant(0, tf.int64))
        ((seen, _, _),) = input_pipeline.evaluation_batches([source], 1, 16, fraction)
        np.testing.assert_array_equal(view, seen)
        assert np.ptp(seen) == pytest.approx(255 * fraction, rel=0.1)


def test_views_are_those_of_a_seed_whatever_the_batch(records: Sequence[str]) -> None:
    def views(batch_size: int, view: int) -> np.ndarray:
        data = input_pipeline.view_batches(records, batch_size, Augmentation(16, seed=5), tf.constant(view, tf.int64))
        images, labels = (np.concatenate(parts) for parts in zip(*data.as_numpy_iterator(), strict=True))
        ((_, expected, _),) = input_pipeline.evaluation_batches(records, COUNT, 16).as_numpy_iterator()
        np.testing.assert_array_equal(labels, expected)
        return images

    first = views(7, 1)
    np.testing.assert_array_equal(first, views(COUNT, 1))
    assert (first != views(7, 2)).any(axis=(1, 2, 3)).all()


def take(data: tf.data.Dataset, count: int) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*data.take(count).as_numpy_iterator(), strict=True)
    return np.stack(images), np.stack(labels)


@pytest.mark.parametrize("batch_size", [1, 7, 50])
def test_training_batches_are_full(records: Sequence[str], batch_size: int) -> None:
    data = input_pipeline.training_batches(records, batch_size, Augmentation(16, seed=0))
    images, labels = take(data, 5)
    assert images.shape == (5, batch_size, 16, 16, 3)
    assert data.element_spec[0].shape == (batch_size, 16, 16, 3)  # Known to the network before it runs.
    assert (images.dtype, labels.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("batch_size", [7, 16, 40])
def test_images_made_together_are_those_made_one_by_one(records: Sequence[str], batch_size: int) -> None:
    (images,), (labels,) = take(
        input_pipeline.training_batches(records, batch_size, Augmentation(16, seed=3), first_batch=2), 1
    )
    examples = [tf.train.Example.FromString(data.numpy()) for data in tf.data.TFRecordDataset(records)]
    features = [example.features.feature for example in examples]
    jpegs = {
        each["image/class/label"].int64_list.value[0]: each["image/encoded"].bytes_list.value[0] for each in features
    }
    variations = preprocessing.draw_variations(batch_size, tf.constant([3, 2], tf.int64))
    for place, label in enumerate(labels):
        variation = preprocessing.Variation(*(of_batch[place] for of_batch in variations))
        np.testing.assert_array_equal(images[place], preprocessing.training_image(jpegs[label], 16, variation))


def test_the_first_parts_of_a_run_have_smaller_images(records: Sequence[str]) -> None:
    for first_batch in (0, 3):  # Also of one that goes on.
        data = input_pipeline.training_batches(
            records, 2, Augmentation(16), first_batch, first_sizes=[8, 12], total_batches=6
        )
        shapes = [images.shape for images, _ in data.take(8 - first_batch).as_numpy_iterator()]
        sides = [8, 8, 12, 12, 16, 16, 16, 16][first_batch:]
        assert shapes == [(2, side, side, 3) for side in sides]
        assert data.element_spec[0].shape.as_list() == [2, None, None, 3]


def test_training_has_every_picture_once_before_any_again(records: Sequence[str]) -> None:
    _, labels = take(input_pipeline.training_batches(records, 1, Augmentation(16, seed=0)), 3 * COUNT)
    epochs = labels.reshape(3, COUNT)
    for epoch in epochs:
        assert sorted(epoch) == list(range(COUNT))
    assert len({tuple(epoch) for epoch in epochs}) == 3  # In another order each time.


def test_training_repeats_with_its_seed(records: Sequence[str]) -> None:
    images, labels = take(input_pipeline.training_batches(records, 4, Augmentation(16, seed=3)), 8)
    for order in (records, records[::-1]):
        again, labels_again = take(input_pipeline.training_batches(order, 4, Augmentation(16, seed=3)), 8)
        np.testing.assert_array_equal(labels, labels_again)
        np.testing.assert_array_equal(images, again)
    _, others = take(input_pipeline.training_batches(records, 4, Augmentation(16, seed=4)), 8)
    assert not np.array_equal(labels, others)


def test_a_resumed_run_sees_other_crops_in_another_order(records: Sequence[str]) -> None:
    images, labels = take(input_pipeline.training_batches(records, COUNT, Augmentation(16, seed=0)), 1)
    later, labels_later = take(
        input_pipeline.training_batches(records, COUNT, Augmentation(16, seed=0), first_batch=7), 1
    )
    assert not np.array_equal(labels, labels_later)
    assert not np.array_equal(images[0][labels[0].argsort()], later[0][labels_later[0].argsort()])


def test_pictures_are_read_by_their_position_in_evaluation(records: Sequence[str]) -> None:
    data = input_pipeline.evaluation_batches(records, COUNT, 16)
    _, labels, _ = next(data.as_numpy_iterator())
    for position, picture in zip([4, 0, 22], input_pipeline.pictures_at(records, [4, 0, 22]), strict=True):
        assert abs(int(picture[5, 5, 0]) - labels[position] * 10) <= 3


def damage(path: str, how: str) -> None:
    data = bytearray(Path(path).read_bytes())
    if how == "cut off":
        del data[-20:]
    elif how == "overwritten":
        data[len(data) // 2] ^= 0xFF
    elif how == "no records":
        data = bytearray(b"<html>502 Bad Gateway</html>")
    Path(path).write_bytes(data)


@pytest.mark.parametrize("how", ["cut off", "overwritten", "no records"])
@pytest.mark.parametrize("in_graph", [False, True])
def test_the_damaged_file_is_named(records: Sequence[str], how: str, in_graph: bool) -> None:
    damage(records[3], how)
    expected = re.escape(f"{records[3]} is damaged or cut off; delete it and run convert.py again")
    with pytest.raises(UserError, match=expected):
        if in_graph:  # As training does.
            with tf.Graph().as_default():
                input_pipeline.raise_damaged(records)
        else:
            input_pipeline.raise_damaged(records)


def encoded(file_format: str) -> bytes:
    output = io.BytesIO()
    Image.new("RGB", (40, 30), (180, 30, 40)).save(output, file_format)
    return output.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff\xd8\xff no JPEG", ""),
        (encoded("JPEG")[:200], ""),
        (encoded("PNG"), "a PNG, the records hold JPEGs"),
        (encoded("GIF"), "a GIF, the records hold JPEGs"),
    ],
)
def test_a_picture_that_cannot_be_used_is_named(records: Sequence[str], content: bytes, why: str) -> None:
    with tf.io.TFRecordWriter(records[2]) as writer:
        writer.write(record(content, 0, "Greek/7.jpg"))
    named = re.escape(f"{records[2]}: Greek/7.jpg cannot be used ({why}") + ".*run convert.py again"
    with pytest.raises(UserError, match=named):
        input_pipeline.raise_damaged(records)


def test_a_file_that_is_gone_is_not_called_damaged(records: Sequence[str]) -> None:
    folder = Path(records[1]).parent
    (folder / "labels.txt").write_text("".join(f"{number}:label {number}\n" for number in range(COUNT)))
    dataset = input_pipeline.open_split("arts", "train", folder)
    Path(records[1]).unlink()
    with pytest.raises(UserError, match=re.escape(f"{records[1]} is gone or may not be read; ")):
        list(input_pipeline.evaluation_arrays(dataset, 8, preprocessing.Looks(16)))


def test_whole_files_are_not_called_damaged(records: Sequence[str]) -> None:
    input_pipeline.raise_damaged(records)


def test_a_folder_without_records_is_an_error_of_the_user(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=f"no records .* in {folder}; run convert.py --dataset_dir={folder}"):
            input_pipeline.open_split("arts", "train", str(folder))
