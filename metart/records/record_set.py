"""A set of records in a folder: read, proved, written, and put in the place of the set before it.

A set is the record files of both splits, labels.txt, splits.json (settings, counts, hash and split of every picture;
see splits.py) and bad-pictures.csv (what was left out and why, if anything was). Needs no TensorFlow.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
import contextlib
import csv
from dataclasses import dataclass
import hashlib
import json
import os
from pathlib import Path
from typing import IO, Any, NamedTuple

from metart.common.files import PARTIAL_SUFFIX, open_replacing, replacing
from metart.common.flags import UserError
from metart.common.labels import PICTURES_FOLDER, read_labels, write_labels
from metart.records import splits, tfrecord
from metart.records.pictures import BadPicture, read_file

SHARD_NAME = "arts_{}_{:05d}-of-{:05d}.tfrecord"  # Split, shard's number, number of shards; arts.FILE_PATTERN finds it.
ALL_SHARDS = "arts_*-of-*.tfrecord"
SPLITS_FILENAME = "splits.json"
BAD_PICTURES_FILENAME = "bad-pictures.csv"


class Settings(NamedTuple):
    """What beside the pictures decides the bytes of a set; see the flags of convert.py."""

    percent_validation: int
    num_shards: int  # Of each split.
    random_seed: int
    max_side: int  # Pixels.
    min_images_per_label: int


@dataclass(slots=True)
class Picture:
    """A source file, and where its JPEG is."""

    path: str  # Below met_art, with "/".
    label: str
    sha256: str  # Of the source file.
    problem: str  # Why it is left out; empty if it is not.
    height: int
    width: int
    offset: int  # Of the JPEG in the store, a file that read_pictures of convert.py wrote.
    length: int  # 0 if the source file itself is the JPEG.
    split: str | None = None


def read(dataset_dir: Path) -> dict[str, Any]:
    """Returns the splits.json of the run before, or of one that was killed on its last metres, or an empty dict."""
    path = dataset_dir / SPLITS_FILENAME
    partial = dataset_dir / (SPLITS_FILENAME + PARTIAL_SUFFIX)
    try:
        former = json.loads((path if path.exists() else partial).read_text(encoding="utf-8"))
        expected = {
            "settings": set(Settings._fields),
            "counts": {splits.TRAIN, splits.VALIDATION},
            "shards": set(),
        }
        if not all(expected[key] <= former[key].keys() for key in expected):
            raise ValueError
        if not all({"split", "sha256"} <= picture.keys() for picture in former["pictures"].values()):
            raise ValueError
        return former
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        if not path.exists():  # The very first run was killed in the middle of this file.
            return {}
        raise UserError(f"{path} is damaged; delete it and run convert.py again, for a new split") from None


def is_current(dataset_dir: Path, former: Mapping[str, Any], settings: Settings, paths: Iterable[str]) -> bool:
    """Returns whether the set that `former` describes is whole and made from the same files and settings."""
    if not former or former["settings"] != settings._asdict() or former["pictures"].keys() != set(paths):
        return False
    sizes = {path.name: path.stat().st_size for path in dataset_dir.glob(ALL_SHARDS)}
    if not (dataset_dir / SPLITS_FILENAME).is_file() or sizes != former["shards"]:
        return False
    try:
        if read_labels(dataset_dir) != list(former["counts"][splits.TRAIN]):
            return False
    except UserError:
        return False
    root = dataset_dir / PICTURES_FOLDER
    return all(sha256(_content(root / path)) == known["sha256"] for path, known in former["pictures"].items())


def sha256(data: bytes) -> str:
    """Returns what splits.json has of a file's content."""
    return hashlib.sha256(data).hexdigest()


def _content(path: Path) -> bytes:
    """Returns the content of a file, nothing where it cannot be had."""
    try:
        return read_file(path)
    except BadPicture:
        return b""


def write(
    dataset_dir: Path,
    pictures: Sequence[Picture],
    names: list[str],
    settings: Settings,
    workers: ProcessPoolExecutor,
    store: Path,
) -> dict[str, Counter[str]]:
    """Writes the records, and all that describes them, in place of the former ones.

    Returns:
        The number of pictures by split and label.

    Raises:
        UserError: A source file is no longer what it was when it was proved.
    """
    _delete(dataset_dir, ALL_SHARDS + PARTIAL_SUFFIX)  # Of a run that was killed.
    counts = {split: _count(pictures, split, names) for split in (splits.TRAIN, splits.VALIDATION)}
    contents = _deal(pictures, settings)
    with replacing(dataset_dir / SPLITS_FILENAME) as splits_json, contextlib.ExitStack() as renamed_together:
        partial = {name: renamed_together.enter_context(replacing(dataset_dir / name)) for name in contents}
        root = dataset_dir / PICTURES_FOLDER
        sizes = {
            name: workers.submit(_write_shard, partial[name], contents[name], names, root, store) for name in contents
        }
        try:
            # In bytes: a file that was cut off between two records looks whole from within.
            shards = {name: size.result() for name, size in sizes.items()}
        finally:
            wait([size for size in sizes.values() if not size.cancel()])  # Nobody writes to a file that is given up.
        of_pictures = {picture.path: {"split": picture.split, "sha256": picture.sha256} for picture in pictures}
        description = {"settings": settings._asdict(), "counts": counts, "shards": shards, "pictures": of_pictures}
        splits_json.write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

        # All is written. From here to the last rename there is no set, neither the old nor the new.
        (dataset_dir / SPLITS_FILENAME).unlink(missing_ok=True)
        _delete(dataset_dir, ALL_SHARDS)
        write_labels(names, dataset_dir)
        _write_bad_pictures(dataset_dir / BAD_PICTURES_FILENAME, pictures)
    return counts


def _delete(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        path.unlink()


def _count(pictures: Iterable[Picture], split: str, names: Iterable[str]) -> Counter[str]:
    counts = Counter(dict.fromkeys(names, 0))
    counts.update(picture.label for picture in pictures if picture.split == split)
    return counts


def _deal(pictures: Iterable[Picture], settings: Settings) -> dict[str, list[Picture]]:
    """Returns the pictures of each record file, by its name, in an order that mixes the labels."""
    order = sorted(pictures, key=lambda picture: splits.stable_hash(settings.random_seed, picture.path))
    contents = {}
    for split in (splits.TRAIN, splits.VALIDATION):
        chosen = [picture for picture in order if picture.split == split]
        for shard in range(settings.num_shards):
            name = SHARD_NAME.format(split, shard, settings.num_shards)
            contents[name] = chosen[shard :: settings.num_shards]
    return contents


def _write_shard(path: Path, pictures: Iterable[Picture], names: Sequence[str], root: Path, store: Path) -> int:
    """Returns the number of bytes written."""
    numbers = {name: number for number, name in enumerate(names)}
    with path.open("wb") as file, store.open("rb") as made:
        for picture in pictures:
            features: dict[str, bytes | int] = {
                "image/encoded": _jpeg(picture, root, made),
                "image/format": b"jpg",
                "image/class/label": numbers[picture.label],
                "image/height": picture.height,
                "image/width": picture.width,
                "image/filename": picture.path.encode(),
            }
            file.write(tfrecord.record(features))
        file.flush()
        os.fsync(file.fileno())  # Now, so that the renames take no time.
        return file.tell()


def _jpeg(picture: Picture, root: Path, store: IO[bytes]) -> bytes:
    if picture.length:
        store.seek(picture.offset)
        return store.read(picture.length)
    data = _content(root / picture.path)
    if sha256(data) != picture.sha256:
        raise UserError(f"{root / picture.path} was changed while convert.py ran; run it again")
    return data


def _write_bad_pictures(path: Path, pictures: Iterable[Picture]) -> None:
    rows = [(picture.path, picture.problem) for picture in pictures if picture.problem]
    if not rows:
        path.unlink(missing_ok=True)
        return
    with open_replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "problem"))
        writer.writerows(rows)
