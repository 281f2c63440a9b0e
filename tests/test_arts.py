"""The record format: read by slim's own provider, by a copy inside slim, and from the original's folders."""

import io
import json
from pathlib import Path
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
from PIL import Image
import pytest

from metart.networks.slim_compat import slim, tf
import arts
import convert
import dataset_factory

COLOURS = {"American": (200, 30, 30), "Japan": (30, 30, 200)}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with 24 pictures, converted to two shards a split."""
    folder = tmp_path_factory.mktemp("data")
    for label, colour in COLOURS.items():
        (folder / "met_art" / label).mkdir(parents=True)
        for number in range(12):
            picture = Image.new("RGB", (20 + number, 40), (*colour[:2], colour[2] + number))
            picture.save(folder / "met_art" / label / f"{number}.jpg")
    convert.main([f"--dataset_dir={folder}", "--num_shards=2", "--num_workers=1"])
    return folder


@pytest.fixture
def folder(converted: Path, tmp_path: Path) -> Path:
    """Returns a copy of its records and descriptions, to be spoilt."""
    for path in converted.iterdir():
        if path.is_file():
            shutil.copyfile(path, tmp_path / path.name)
    return tmp_path


def provide(dataset: slim.dataset.Dataset, count: int) -> list[dict[str, Any]]:
    """Returns `count` items as slim's DatasetDataProvider gives them, with its queues."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        provider = slim.dataset_data_provider.DatasetDataProvider(dataset, shuffle=False)
        items = dict(zip(["image", "label", "filename"], provider.get(["image", "label", "filename"]), strict=True))
        coordinator = tf.compat.v1.train.Coordinator()
        threads = tf.compat.v1.train.start_queue_runners(session, coordinator)
        found = [session.run(items) for _ in range(count)]
        coordinator.request_stop()
        coordinator.join(threads, ignore_live_threads=True, stop_grace_period_secs=2)
    return found


def test_slims_provider_reads_each_picture_as_pillow_does(converted: Path) -> None:
    described = json.loads((converted / "splits.json").read_text())["pictures"]
    seen = set()
    for split in arts.SPLIT_NAMES:
        dataset = arts.get_split(split, converted)
        expected = {name for name, source in described.items() if source["split"] == split}
        assert dataset.num_samples == len(expected)
        assert dataset.num_classes == 2
        assert dataset.label_counts == [
            sum(name.startswith(label) for name in expected) for label in ("American", "Japan")
        ]
        assert dataset.labels_to_names == {0: "American", 1: "Japan"}
        for item in provide(dataset, dataset.num_samples):
            name = item["filename"].decode()
            assert dataset.labels_to_names[item["label"]] == name.split("/")[0]
            assert item["image"].dtype == np.uint8
            oracle = np.asarray(Image.open(converted / "met_art" / name)).astype(int)
            assert np.abs(item["image"] - oracle).max() <= 3  # The two decoders round colours differently.
            seen.add(name)
        assert seen >= expected
    assert seen == set(described)


def test_data_sources_are_the_files_in_order(converted: Path) -> None:
    assert arts.get_split("train", converted).data_sources == [
        f"{converted}/arts_train_00000-of-00002.tfrecord",
        f"{converted}/arts_train_00001-of-00002.tfrecord",
    ]


def test_each_feature_is_read_as_it_was_written(converted: Path) -> None:
    for shard in arts.get_split("train", converted).data_sources:
        for record in tf.data.TFRecordDataset(shard):
            features = {
                key: value.numpy() for key, value in tf.io.parse_single_example(record, arts.KEYS_TO_FEATURES).items()
            }
            source = converted / "met_art" / features["image/filename"].decode()
            assert features == {
                "image/encoded": source.read_bytes(),
                "image/format": b"jpg",
                "image/class/label": ["American", "Japan"].index(source.parent.name),
                "image/height": 40,
                "image/width": 20 + int(source.stem),
                "image/filename": f"{source.parent.name}/{source.name}".encode(),
            }


def test_records_of_the_original_tutorial_are_counted_by_reading(tmp_path: Path) -> None:
    """They have no splits.json and no image/filename."""
    jpeg = io.BytesIO()
    Image.new("RGB", (8, 6), "green").save(jpeg, "JPEG")
    feature = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[jpeg.getvalue()])),
        "image/format": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"jpg"])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[1])),
        "image/height": tf.train.Feature(int64_list=tf.train.Int64List(value=[6])),
        "image/width": tf.train.Feature(int64_list=tf.train.Int64List(value=[8])),
    }
    record = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
    for shard in range(5):
        with tf.io.TFRecordWriter(str(tmp_path / f"arts_validation_{shard:05d}-of-00005.tfrecord")) as writer:
            for _ in range(shard):
                writer.write(record)
    (tmp_path / "labels.txt").write_bytes("1:Roman: Cypriot\u2028\r\n0:Iran\n".encode())
    dataset = arts.get_split("validation", str(tmp_path))
    assert dataset.num_samples == 0 + 1 + 2 + 3 + 4
    assert dataset.label_counts == [0, 10]
    assert dataset.labels_to_names == {0: "Iran", 1: "Roman: Cypriot\u2028"}
    (item,) = provide(dataset, 1)
    assert (item["image"].shape, item["label"], item["filename"]) == ((6, 8, 3), 1, b"")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("0:Iran\n", r"has a picture of label 1, labels.txt beside it names 0 to 0; put the labels.txt there that"),
        ("0:Iran\n2:Korea\n", "has a picture of label 1, labels.txt beside it names 0 to 2; put the labels.txt there"),
        ("1:Iran\n2:Korea\n", "has a picture of label 0, labels.txt beside it names 1 to 2; put the labels.txt there"),
    ],
)
def test_records_of_other_labels_than_labels_txt_names(folder: Path, labels: str, message: str) -> None:
    """On a GPU they would train and evaluate without a word: the loss of such a label is no number there."""
    (folder / "splits.json").unlink()
    assert arts.get_split("validation", folder).num_samples
    (folder / "labels.txt").write_text(labels)
    with pytest.raises(ValueError, match=f"{folder}/arts_validation_0000.-of-00002.tfrecord {message}"):
        arts.get_split("validation", folder)


@pytest.mark.parametrize("record", [b"<html>", tf.train.Example().SerializeToString()])
def test_records_of_something_else(folder: Path, record: bytes) -> None:
    (folder / "splits.json").unlink()
    shard = folder / "arts_train_00001-of-00002.tfrecord"
    with tf.io.TFRecordWriter(str(shard)) as writer:
        writer.write(record)
    with pytest.raises(ValueError, match=f"{shard} has a record without image/class/label; make it again"):
        arts.get_split("train", folder)


def test_a_file_pattern_is_a_name_of_this_folder(folder: Path) -> None:
    for pattern in (f"{folder}/arts_%s_*", "/*"):
        with pytest.raises(ValueError, match=r"is not one of names in .*; leave the folder out of it"):
            arts.get_split("validation", folder, pattern)
    with pytest.raises(ValueError, match=r"^no records 100%_validation\* in "):
        arts.get_split("validation", folder, "100%_%s*")


def test_another_file_pattern_and_reader(folder: Path) -> None:
    for path in folder.glob("arts_validation_*"):
        path.rename(folder / path.name.replace("arts", "mine"))
    expected = sum(json.loads((folder / "splits.json").read_text())["counts"]["validation"].values())
    for pattern in ("mine_%s_*", "mine_validation_*"):
        dataset = arts.get_split("validation", folder, pattern, tf.compat.v1.FixedLengthRecordReader)
        assert dataset.num_samples == expected
        assert dataset.reader is tf.compat.v1.FixedLengthRecordReader


def test_a_copy_serves_slims_own_scripts(converted: Path, tmp_path: Path) -> None:
    """In models/research/slim/, `datasets` is a package and nothing of this project is in sight."""
    package = tmp_path / "datasets"
    package.mkdir()
    (package / "__init__.py").touch()
    for module in (arts, dataset_factory):
        shutil.copy(str(module.__file__), package)
    program = """
import sys
from tensorflow.python.framework import ops
import tensorflow
ops.Tensor = tensorflow.Tensor  # What tf-slim misses on this TensorFlow.
from datasets import arts, dataset_factory
dataset = dataset_factory.get_dataset("arts", "train", sys.argv[1])
assert dataset_factory.DATASETS == {"arts": arts}
print(dataset.num_samples, dataset.num_classes)
"""
    done = subprocess.run([sys.executable, "-c", program, converted], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == f"{arts.get_split('train', converted).num_samples} 2\n", done.stderr


@pytest.mark.parametrize(
    ("spoil", "split", "message"),
    [
        (None, "test", "no split is named 'test'; take --dataset_split_name=train or validation"),
        ("*", "train", r"no records arts_train_\*.tfrecord in {0}; run convert.py --dataset_dir={0}$"),
        ("*_train_00001-*", "train", r"{0} are not one whole set; run convert.py --dataset_dir={0}$"),
        ("labels.txt", "train", r"{0}/labels.txt is missing; run convert.py --dataset_dir={0}$"),
    ],
)
def test_what_is_missing(folder: Path, spoil: str | None, split: str, message: str) -> None:
    for path in folder.glob(spoil) if spoil else []:
        path.unlink()
    with pytest.raises(ValueError, match=message.format(folder)):
        arts.get_split(split, folder)


def test_shards_of_two_conversions_are_no_set(folder: Path) -> None:
    shutil.copy(folder / "arts_train_00001-of-00002.tfrecord", folder / "arts_train_00002-of-00005.tfrecord")
    with pytest.raises(ValueError, match="are not one whole set; run convert"):
        arts.get_split("train", folder)
    assert arts.get_split("validation", folder).num_samples


def test_a_split_without_pictures(folder: Path) -> None:
    splits = json.loads((folder / "splits.json").read_text())
    splits["counts"]["validation"] = {"American": 0, "Japan": 0}
    (folder / "splits.json").write_text(json.dumps(splits))
    with pytest.raises(
        ValueError,
        match=r"no picture for validation: a label .*; fetch more, or run convert.py .* --percent_validation",
    ):
        arts.get_split("validation", folder)


def test_data_sets_by_name(converted: Path) -> None:
    dataset = dataset_factory.get_dataset("arts", "train", converted)
    assert dataset.data_sources == arts.get_split("train", converted).data_sources
    with pytest.raises(ValueError, match="no data set is named 'flowers'; take --dataset_name=arts"):
        dataset_factory.get_dataset("flowers", "train", converted)
