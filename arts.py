"""The record format of the art pictures: what convert.py writes, what training and evaluation read.

This file needs nothing of the project, so a copy in `models/research/slim/datasets/` serves slim's own scripts.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
import tensorflow as tf
import tf_slim as slim

SPLIT_NAMES = ("train", "validation")
FILE_PATTERN = "arts_%s_*.tfrecord"  # Of a split name; for the star 00000-of-00005 and so on.

# The features of one record; slim's names, and the picture's path below met_art/ for reports.
KEYS_TO_FEATURES = {
    "image/encoded": tf.io.FixedLenFeature((), tf.string),
    "image/format": tf.io.FixedLenFeature((), tf.string, default_value="jpg"),
    "image/class/label": tf.io.FixedLenFeature((), tf.int64),
    "image/height": tf.io.FixedLenFeature((), tf.int64, default_value=0),
    "image/width": tf.io.FixedLenFeature((), tf.int64, default_value=0),
    "image/filename": tf.io.FixedLenFeature((), tf.string, default_value=""),
}

ITEMS_TO_DESCRIPTIONS = {
    "image": "A picture of an artwork: uint8 [height, width, 3], RGB.",
    "label": "The number of its label: int64, from 0.",
    "filename": "Its path below met_art/, or nothing: string.",
}


def get_split(
    split_name: str, dataset_dir: str | os.PathLike[str], file_pattern: str | None = None, reader: Any = None
) -> slim.dataset.Dataset:
    """Describes one split of the records in a folder.

    Args:
        split_name: One of SPLIT_NAMES.
        dataset_dir: The folder convert.py wrote to, or one of the original tutorial, without splits.json.
        file_pattern: Glob of other record files in that folder; `%s` in it stands for the split name.
        reader: A TensorFlow reader class for slim's data provider; TFRecordReader by default.

    Returns:
        A dataset with `data_sources` (list of files, in order), `num_samples`, `num_classes` and `labels_to_names`
        (dict of label number to name), which slim's DatasetDataProvider reads; and `label_counts`, the pictures of each
        label in the order of their numbers.

    Raises:
        ValueError: No such split, or no complete set of records; the text names the next command.
    """
    if split_name not in SPLIT_NAMES:
        raise ValueError(f"no split is named {split_name!r}; take --dataset_split_name={' or '.join(SPLIT_NAMES)}")
    convert = f"run convert.py --dataset_dir={dataset_dir}"
    pattern = (file_pattern or FILE_PATTERN).replace("%s", split_name)
    if Path(pattern).is_absolute():
        raise ValueError(f"the pattern {pattern} is not one of names in {dataset_dir}; leave the folder out of it")
    folder = Path(dataset_dir)
    shards = sorted(map(str, folder.glob(pattern)))
    whole = [pattern.replace("*", f"{shard:05}-of-{len(shards):05}") for shard in range(len(shards))]
    if not shards:
        raise ValueError(f"no records {pattern} in {dataset_dir}; {convert}")
    if file_pattern is None and whole != [Path(shard).name for shard in shards]:
        raise ValueError(f"the records {pattern} in {dataset_dir} are not one whole set; {convert}")
    labels_to_names = _read_labels(folder / "labels.txt", convert)

    splits_path = folder / "splits.json"
    if file_pattern is None and splits_path.exists():
        counts = _count_in_splits_json(splits_path, split_name, shards, list(labels_to_names.values()), convert)
    else:
        counts = _count_in_records(shards, labels_to_names)
    if not sum(counts):
        raise ValueError(
            f"{dataset_dir} has no picture for {split_name}: a label with pictures of one object alone has none; fetch "
            f"more, or {convert} with another --percent_validation"
        )

    return slim.dataset.Dataset(
        data_sources=shards,
        reader=reader or tf.compat.v1.TFRecordReader,
        decoder=slim.tfexample_decoder.TFExampleDecoder(
            KEYS_TO_FEATURES,
            {
                # Not slim's Image: it relies on functions that TensorFlow has moved since.
                "image": slim.tfexample_decoder.ItemHandlerCallback(
                    ["image/encoded"], lambda features: tf.io.decode_jpeg(features["image/encoded"], channels=3)
                ),
                "label": slim.tfexample_decoder.Tensor("image/class/label"),
                "filename": slim.tfexample_decoder.Tensor("image/filename"),
            },
        ),
        num_samples=sum(counts),
        label_counts=counts,
        items_to_descriptions=ITEMS_TO_DESCRIPTIONS,
        num_classes=len(labels_to_names),
        labels_to_names=labels_to_names,
    )


def _read_labels(path: Path, advice: str) -> dict[int, str]:
    if not path.exists():
        raise ValueError(f"{path} is missing; {advice}")
    try:
        lines = [line.partition(":") for line in path.read_text(encoding="utf-8").split("\n") if line]
        return dict(sorted((int(index), name) for index, _, name in lines))
    except ValueError:
        raise ValueError(f"{path} does not consist of lines `index:name` in UTF-8; {advice}") from None


def _count_in_splits_json(path: Path, split_name: str, shards: list[str], names: list[str], advice: str) -> list[int]:
    """Returns the pictures of each label by splits.json, once labels and files are those that it describes."""
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        counts, sizes = described["counts"][split_name], dict(described["shards"])
        sum(counts.values())  # Numbers, all of them.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{path} does not describe the records beside it; {advice}") from None
    if list(counts) != names:
        raise ValueError(f"{path.parent / 'labels.txt'} is not that of the records beside it; {advice}")
    for shard in shards:
        if Path(shard).stat().st_size != sizes.get(Path(shard).name):
            raise ValueError(f"{shard} is damaged or cut off; delete it and {advice} again")
    return list(counts.values())


def _count_in_records(shards: list[str], labels_to_names: dict[int, str]) -> list[int]:
    """Returns the pictures of each label in some files, all of which have to have a name."""
    counts = dict.fromkeys(labels_to_names, 0)
    for shard in shards:
        try:
            for record in tf.compat.v1.io.tf_record_iterator(shard):
                label = tf.train.Example.FromString(record).features.feature["image/class/label"].int64_list.value[0]
                if label not in counts:
                    raise ValueError(
                        f"{shard} has a picture of label {label}, labels.txt beside it names {min(labels_to_names)} to "
                        f"{max(labels_to_names)}; put the labels.txt there that these records were made with"
                    )
                counts[label] += 1
        except tf.errors.DataLossError:
            raise ValueError(f"{shard} is damaged or cut off; make it again") from None
        except (DecodeError, IndexError):
            raise ValueError(f"{shard} has a record without image/class/label; make it again") from None
    return list(counts.values())
