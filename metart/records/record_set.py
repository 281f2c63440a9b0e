"""A set of records in a folder: read, proved, written, and put where the old set was.

A set is the record files of both splits, labels.txt, splits.json (settings, counts, hash and split of every picture;
see splits.py) and bad-pictures.csv (the bad pictures and what is wrong with them, if there are any). Needs no
TensorFlow.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
import contextlib
from dataclasses import dataclass
import hashlib
import json
import os
from pathlib import Path
import sys
import time
from typing import IO, NamedTuple

from metart.common.files import PARTIAL_SUFFIX, csv_line, exclusive_lock, read_json, shared_lock
from metart.common.flags import Retry, UserError
from metart.common.interruption import Interruption
from metart.common.labels import LABELS_FILENAME, PICTURES_FOLDER, labels_text, read_labels
from metart.records import splits, tfrecord
from metart.records.pictures import BadPicture, read_file

SHARD_NAME = "arts_{}_{:05d}-of-{:05d}.tfrecord"  # Split, shard's number, number of shards; arts.FILE_PATTERN finds it.
ALL_SHARDS = tuple(f"arts_{split}_*-of-*.tfrecord" for split in splits.NAMES)
SPLITS_FILENAME = "splits.json"
BAD_PICTURES_FILENAME = "bad-pictures.csv"
STORE_FILENAME = "pictures" + PARTIAL_SUFFIX  # Waits there from reading to writing: JPEGs that had to be made.
READERS_LOCK = ".records.lock"  # Shared by those who read the set, exclusive while it is exchanged.


class Settings(NamedTuple):
    """What, apart from the pictures, decides the bytes of a set; see the flags of convert.py."""

    percent_validation: int
    num_shards: int  # Of each split.
    random_seed: int
    max_side: int  # Pixels.
    min_images_per_label: int
    series: int = splits.SERIES  # Numbers that lie on one side if possible; 0 in sets that knew no series.


@dataclass(slots=True)
class Picture:
    """A source file, and where its JPEG is."""

    path: str  # Below met_art, with "/".
    label: str
    sha256: str  # Of the source file.
    problem: str  # Why it is left out; empty if it is not.
    height: int
    width: int
    offset: int  # Of the JPEG in the store, a file that decoding.read_pictures wrote.
    length: int  # 0 if the source file itself is the JPEG.
    perceptual_hash: bytes  # See near_duplicates.py.
    split: str | None = None


class Source(NamedTuple):
    """What splits.json has of a source file."""

    split: str | None  # None: in neither split, a bad picture or one of a label that is left out.
    sha256: str


class Sides(NamedTuple):
    """The splits of pictures."""

    by_path: Mapping[str, str] = {}  # Below met_art.
    by_content: Mapping[str, str] = {}  # By SHA-256, whatever the name was.


class RecordSet(NamedTuple):
    """A set as its splits.json describes it."""

    fingerprint: str  # Of the pictures' content, split and label, and the settings: 16 hexadecimal digits.
    settings: Settings
    labels: list[str]  # Their order gives their numbers.
    folders: dict[str, str]  # Label of the folders below met_art that have another name.
    shards: dict[str, int]  # Bytes of each record file, by its name.
    sources: dict[str, Source]  # By path below met_art.
    earlier: Sides  # Of pictures that had one in an earlier set and are in neither split now.


def read(dataset_dir: str | os.PathLike[str]) -> RecordSet | None:
    """Reads splits.json.

    Returns:
        None where there is no such file: no records, or those of slim or the original tutorial.

    Raises:
        UserError: The file is damaged.
    """
    path = Path(dataset_dir) / SPLITS_FILENAME
    try:
        described = read_json(path)
        settings = Settings(**{"series": 0, **described["settings"]})
        labels, in_validation = (list(described["counts"][split]) for split in splits.NAMES)
        folders, shards = dict(described.get("folders", {})), dict(described["shards"])
        earlier = Sides(dict(described.get("former_sides", {})), dict(described.get("former_contents", {})))
        sources = {name: _source(**of_file) for name, of_file in described["pictures"].items()}
        if not set(splits.NAMES).issuperset([*earlier.by_path.values(), *earlier.by_content.values()]):
            raise ValueError
        counts = Counter((source.split, label_of(name, folders)) for name, source in sources.items())
        for split, of_split in described["counts"].items():
            # Older sets do not name the folders of labels.
            if "folders" in described and any(counts[split, label] != number for label, number in of_split.items()):
                raise ValueError
        fingerprint = _fingerprint(settings, labels, folders, sources)
        # Sets of before the fingerprint have none; a hand that changed the rest would change it.
        if labels != in_validation or described.get("fingerprint", fingerprint) != fingerprint:
            raise ValueError
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path} is damaged; move it away and run convert.py --dataset_dir={dataset_dir} again, for a new split"
        ) from None
    return RecordSet(fingerprint, settings, labels, folders, shards, sources, earlier)


def known_contents(records: RecordSet) -> dict[str, str]:
    """Returns the side of each content, by SHA-256, that has one or had one before."""
    now = ((source.sha256, source.split) for source in records.sources.values() if source.split)
    return splits.decided([*records.earlier.by_content.items(), *now])


def label_of(path: str, folders: Mapping[str, str]) -> str:
    """Returns the label of a picture by its path below met_art; see `RecordSet.folders`."""
    folder = path.partition("/")[0]
    return folders.get(folder, folder)


def _source(split: str | None, sha256: str, **_: object) -> Source:
    if split not in (None, *splits.NAMES) or len(bytes.fromhex(sha256)) != 32:
        raise ValueError
    return Source(split, sha256)


def _fingerprint(
    settings: Settings, labels: Sequence[str], folders: Mapping[str, str], sources: Mapping[str, Source]
) -> str:
    used = sorted((path, *source) for path, source in sources.items() if source.split)
    named = [dict(sorted(folders.items()))] if folders else []
    return sha256(json.dumps([settings, labels, used, *named]).encode())[:16]


def _folders(labels: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Returns the labels of folders with another name, of pairs of a path below met_art and its label."""
    folders = {path.partition("/")[0]: label for path, label in labels}
    return {folder: label for folder, label in folders.items() if folder != label}


@contextlib.contextmanager
def reading(dataset_dir: str | os.PathLike[str]) -> Iterator[RecordSet | None]:
    """Keeps convert.py from changing the records of a folder as long as the block runs, and tells what they are.

    Yields what `read` returns. Where the file system has no locks, or the folder is read only and convert.py has not
    been there, nothing is kept; whoever reads for long compares the fingerprint before writing down a result.
    """
    with shared_lock(Path(dataset_dir) / READERS_LOCK):
        records = read(dataset_dir)
        if records:
            finish_exchange(Path(dataset_dir), records)
        yield records


def is_still(dataset_dir: str | os.PathLike[str], records: RecordSet | None) -> bool:
    """Returns whether a folder still holds the set that was read from it, or still has no splits.json (None)."""
    path = Path(dataset_dir) / SPLITS_FILENAME
    if records is None:
        return not path.exists()
    try:
        with open(path, encoding="utf-8") as file:
            start = file.read(200)  # convert.py writes the fingerprint first; it need not read half a million pictures.
    except FileNotFoundError:
        return False
    if '"fingerprint"' in start:
        return f'"{records.fingerprint}"' in start
    return read(dataset_dir) == records


def require_still(dataset_dir: str | os.PathLike[str], records: RecordSet | None) -> None:
    """Stops a reader that would write down what it learned from two sets, on a file system without locks.

    Raises:
        UserError: The folder no longer holds the set that was read from it.
    """
    if not is_still(dataset_dir, records):
        raise UserError(
            f"the records in {dataset_dir} changed in the meantime; nothing new was saved. Run the same "
            "command again, a training with another --train_dir if labels or split have changed"
        )


def raise_if_read(dataset_dir: Path) -> None:
    """Tells early what `write` would wait for.

    Raises:
        Retry: Another process reads the records.
    """
    with exclusive_lock(dataset_dir / READERS_LOCK) as holder:
        if holder:
            raise Retry(
                f"{holder} is reading the records in {dataset_dir}; run the same command again when that has ended"
            )


def is_current(dataset_dir: Path, former: RecordSet, settings: Settings, labels: Mapping[str, str]) -> bool:
    """Returns whether the set that `former` describes is whole and made from the same files and settings."""
    if former.settings != settings or former.sources.keys() != labels.keys():
        return False
    if _folders(labels.items()) != former.folders:
        return False  # A folder's label was changed, and not its name.
    if {path.name: path.stat().st_size for path in _shards(dataset_dir)} != former.shards:
        return False
    try:
        if read_labels(dataset_dir) != former.labels:
            return False
    except UserError:
        return False
    has_bad = any(source.split is None and labels[path] in former.labels for path, source in former.sources.items())
    if has_bad and not (dataset_dir / BAD_PICTURES_FILENAME).is_file():
        return False
    root = dataset_dir / PICTURES_FOLDER
    return all(sha256(_content(root / path)) == known.sha256 for path, known in former.sources.items())


def _shards(dataset_dir: Path) -> list[Path]:
    """Returns the record files of both splits; others, of a split by hand for instance, are not of this program."""
    return [path for pattern in ALL_SHARDS for path in dataset_dir.glob(pattern)]


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
    known: Sides,
    workers: ProcessPoolExecutor,
) -> None:
    """Writes the records, and all that describes them, in place of the former ones; waits for who reads those.

    Args:
        dataset_dir: Where to.
        pictures: All files below met_art, good and bad.
        names: The labels.
        settings: Of the set.
        known: The sides that pictures of earlier sets had; remembered of those that this one leaves out.
        workers: Write the record files.

    Raises:
        UserError: A source file is no longer what it was when it was proved.
    """
    counts = {split: _count(pictures, split, names) for split in splits.NAMES}
    contents = _deal(pictures, settings)
    sources = {picture.path: Source(picture.split, picture.sha256) for picture in pictures}
    folders = _folders((picture.path, picture.label) for picture in pictures)
    fingerprint = _fingerprint(settings, names, folders, sources)
    new = {
        name: _waiting(dataset_dir, name, fingerprint) for name in (*contents, LABELS_FILENAME, BAD_PICTURES_FILENAME)
    }
    new_splits = dataset_dir / (SPLITS_FILENAME + PARTIAL_SUFFIX)
    with contextlib.ExitStack() as given_up:
        given_up.callback(delete_leftovers, dataset_dir)
        root, store = dataset_dir / PICTURES_FOLDER, dataset_dir / STORE_FILENAME
        tasks = {
            name: workers.submit(_write_shard, new[name], of_shard, names, root, store)
            for name, of_shard in contents.items()
        }
        try:
            # In bytes: a file that was cut off between two records looks whole from within.
            shards = {name: task.result() for name, task in tasks.items()}
        finally:
            wait([task for task in tasks.values() if not task.cancel()])  # Nobody writes to a file that is given up.
        store.unlink()  # From here on the next reader completes what a killed run has left.
        there = {path: source.sha256 for path, source in sources.items() if source.split}
        by_path = {path: side for path, side in known.by_path.items() if path not in there}
        of_there = set(there.values())
        by_content = {sha256: side for sha256, side in known.by_content.items() if sha256 not in of_there}
        records = RecordSet(fingerprint, settings, names, folders, shards, sources, Sides(by_path, by_content))
        _write_text(new[LABELS_FILENAME], labels_text(names))
        _write_text(new_splits, _describe(records, counts))
        _write_text(new[BAD_PICTURES_FILENAME], _bad_pictures(pictures))  # The last one; see finish_exchange.
        with _without_readers(dataset_dir), Interruption() as interruption:
            given_up.pop_all()
            new_splits.replace(dataset_dir / SPLITS_FILENAME)
            finish_exchange(dataset_dir, records)
    interruption.leave(f"the new records in {dataset_dir} are whole")


def _waiting(dataset_dir: Path, name: str, fingerprint: str) -> Path:
    """Returns the temporary path of a file of a new set."""
    return dataset_dir / f"{name}.{fingerprint}{PARTIAL_SUFFIX}"


def delete_leftovers(dataset_dir: Path) -> None:
    """Deletes the files of a set that was not finished; for the process that has the lock of the folder."""
    new = [
        f"{name}*{PARTIAL_SUFFIX}" for name in (BAD_PICTURES_FILENAME, SPLITS_FILENAME, LABELS_FILENAME, *ALL_SHARDS)
    ]
    for pattern in (STORE_FILENAME, *new):
        for path in dataset_dir.glob(pattern):
            path.unlink()


@contextlib.contextmanager
def _without_readers(dataset_dir: Path) -> Iterator[None]:
    """Waits until nobody reads the records."""
    said = False
    while True:
        with exclusive_lock(dataset_dir / READERS_LOCK) as holder:
            if not holder:
                yield
                return
        if not said:
            print(f"waiting: {holder} is reading the records in {dataset_dir}", file=sys.stderr, flush=True)
            said = True
        time.sleep(1)


def finish_exchange(dataset_dir: Path, records: RecordSet) -> None:
    """Gives the files of a set their names, in place of those of the set before; does nothing if they have them.

    The set counts from the moment that splits.json is its own: whoever is killed after that leaves files that wait
    under other names, and the next to come goes on here. The list of bad pictures, empty if there are none, was
    the last to be written and is the last to go.
    """
    bad_pictures = _waiting(dataset_dir, BAD_PICTURES_FILENAME, records.fingerprint)
    if not bad_pictures.exists():
        return
    for path in _shards(dataset_dir):
        if path.name not in records.shards:
            path.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):  # Another process may be doing the same.
        for name in (*records.shards, LABELS_FILENAME):
            with contextlib.suppress(FileNotFoundError):
                _waiting(dataset_dir, name, records.fingerprint).replace(dataset_dir / name)
        if bad_pictures.stat().st_size == 0:
            (dataset_dir / BAD_PICTURES_FILENAME).unlink(missing_ok=True)
            bad_pictures.unlink()
        else:
            bad_pictures.replace(dataset_dir / BAD_PICTURES_FILENAME)


def _describe(records: RecordSet, counts: Mapping[str, Mapping[str, int]]) -> str:
    """Returns the content of splits.json, a line for each picture."""
    about = {
        "fingerprint": records.fingerprint,
        "settings": records.settings._asdict(),
        "counts": counts,
        "folders": records.folders,
        "shards": records.shards,
        "former_sides": records.earlier.by_path,
        "former_contents": records.earlier.by_content,
    }
    lines = [f"{_json(key)}: {_json(value)}" for key, value in about.items()]
    pictures = [f"  {_json(path)}: {_json(source._asdict())}" for path, source in records.sources.items()]
    lines.append('"pictures": {\n' + ",\n".join(pictures) + "\n }")
    return "{\n " + ",\n ".join(lines) + "\n}\n"


_json = json.JSONEncoder(ensure_ascii=False).encode  # With an indent it would be several times as slow.


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _count(pictures: Iterable[Picture], split: str, names: Iterable[str]) -> Counter[str]:
    counts = Counter(dict.fromkeys(names, 0))
    counts.update(picture.label for picture in pictures if picture.split == split)
    return counts


def _deal(pictures: Iterable[Picture], settings: Settings) -> dict[str, list[Picture]]:
    """Returns the pictures of each record file, by its name, in an order that mixes the labels."""
    order = sorted(pictures, key=lambda picture: splits.stable_hash(settings.random_seed, picture.path))
    contents = {}
    for split in splits.NAMES:
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


def _bad_pictures(pictures: Iterable[Picture]) -> str:
    """Returns the content of bad-pictures.csv; nothing where there are none."""
    rows = [(picture.path, picture.problem) for picture in pictures if picture.problem]
    return "".join(map(csv_line, [("path", "problem"), *rows] if rows else []))
