#!/usr/bin/env python3
"""Step 4 of 10: converts the pictures to TFRecord files, one part for training and one for validation.

Reads   DATASET_DIR/met_art/<label folder>/*: JPEG, PNG, WebP, GIF, BMP or TIFF, whatever the names say.
Writes  DATASET_DIR/arts_train_00000-of-00005.tfrecord …, arts_validation_00000-of-00005.tfrecord …,
        labels.txt, splits.json (settings, counts, hash and split of every picture; see splits.py) and
        bad-pictures.csv (what was left out and why, if anything was).

    python convert.py --dataset_dir=data

Safe to run again: with the same pictures and flags there is nothing to do; with others the old records
stay until the new ones are whole. While it runs it needs room for both, and for the pictures it has to make anew.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
import contextlib
import csv
from dataclasses import dataclass
import hashlib
import json
import multiprocessing
import os
from pathlib import Path
import signal
import sys
import threading
from typing import IO, Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # Left out under PYTHONSAFEPATH.

from metart.common.files import PARTIAL_SUFFIX, locked, open_replacing, replacing
from metart.common.flags import Parser, UserError, number, run
from metart.common.labels import FULL_LABEL_FILENAME, is_text, label_of_folder, read_labels, write_labels
from metart.common.progress import Progress
from metart.records import splits, tfrecord
from metart.records.pictures import MAX_SIDE, BadPicture, normalise, read_file

PICTURES_FOLDER = "met_art"
SHARD_NAME = "arts_{}_{:05d}-of-{:05d}.tfrecord"  # What arts.py reads: split, shard's number, number of shards.
OLD_SHARDS = "arts_*-of-*.tfrecord"
SPLITS_FILENAME = "splits.json"
BAD_PICTURES_FILENAME = "bad-pictures.csv"
STORE_FILENAME = "pictures" + PARTIAL_SUFFIX  # Waits there from reading to writing: JPEGs that had to be made.
BATCH = 8  # Pictures handed to a worker at a time.
BATCHES_AHEAD = 64  # Of all workers together: what may wait in memory.
SYSTEM_FILES = {"thumbs.db", "desktop.ini"}
SETTINGS = ("percent_validation", "num_shards", "random_seed", "max_side", "min_images_per_label")  # Decide the bytes.


def build_parser() -> Parser:
    parser = Parser(__doc__)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for name, kind, default, help in [
        ("percent_validation", number(int, 1, 90), 25, "share of the pictures for validation"),
        ("num_shards", number(int, 1, 99_999), 5, "record files of each split"),
        ("random_seed", number(int), 0, "another seed gives another split and order"),
        ("max_side", number(int, 32, 65_000), MAX_SIDE, "longest side of a picture in the records, pixels"),
        ("min_images_per_label", number(int, 1), 1, "leave out labels with fewer pictures"),
        ("num_workers", number(int, 1), cores, "processes that decode"),
    ]:
        parser.add_argument(f"--{name}", type=kind, default=default, help=help)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder with met_art/; gets the records")
    parser.add_boolean("check_image", default=False, help="write nothing, list bad pictures; status 1 if any")
    return parser


@dataclass(slots=True)
class Picture:
    """A source file, and where its JPEG is."""

    path: str  # Below met_art, with "/".
    label: str
    sha256: str  # Of the source file.
    problem: str  # Why it is left out; empty if it is not.
    height: int
    width: int
    offset: int  # Of the JPEG in the file of STORE_FILENAME.
    length: int  # 0 if the source file itself is the JPEG.
    split: str | None = None


def find_files(root: Path) -> tuple[dict[str, str], list[str], list[str]]:
    """Lists the label folders below `root`.

    Returns:
        (label of each file by its path below root, in order; all labels; paths passed over, which are no pictures).
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}; run download.py, or tar xzf sample-dataset.tar.gz -C {root.parent}")
    labels: dict[str, str] = {}
    names = set()
    passed_over = []
    for folder in sorted(root.iterdir()):
        if folder.name.startswith(".") or not folder.is_dir():
            passed_over.append(folder.name)
            continue
        label = _label(folder)
        names.add(label)
        for file in sorted(folder.iterdir()):
            path = f"{folder.name}/{file.name}"
            if not is_text(path):
                raise UserError(f"{root}: the name {path!r} is not UTF-8; rename it")
            if file.name == FULL_LABEL_FILENAME:
                continue
            not_meant = file.name.startswith(".") or file.name.lower() in SYSTEM_FILES
            if not_meant or file.name.endswith(PARTIAL_SUFFIX) or not file.is_file():
                passed_over.append(path)
            else:
                labels[path] = label
    if not names:
        raise UserError(f"{root} is empty; run download.py, or tar xzf sample-dataset.tar.gz -C {root.parent}")
    return labels, sorted(names), passed_over


def _label(folder: Path) -> str:
    """Returns the label of a folder, one that labels.txt can hold on a line."""
    try:
        label = label_of_folder(folder)
    except UnicodeDecodeError:
        raise UserError(f"{folder / FULL_LABEL_FILENAME} is not UTF-8 text; delete it") from None
    if not label.strip() or not is_text(label) or not {"\n", "\r"}.isdisjoint(label):
        raise UserError(f"{str(folder)!r} stands for the label {label!r}, which is no line of text; rename the folder")
    return label


def read_set(dataset_dir: Path) -> dict[str, Any]:
    """Returns the splits.json of the run before, or of one that was killed on its last metres, or an empty dict."""
    path = dataset_dir / SPLITS_FILENAME
    partial = dataset_dir / (SPLITS_FILENAME + PARTIAL_SUFFIX)
    try:
        former = json.loads((path if path.exists() else partial).read_text(encoding="utf-8"))
        expected = {"settings": set(SETTINGS), "counts": {splits.TRAIN, splits.VALIDATION}, "shards": set()}
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


def is_current(dataset_dir: Path, former: Mapping[str, Any], settings: object, paths: Iterable[str]) -> bool:
    """Returns whether the set that `former` describes is whole and made from the same files and settings."""
    if not former or former["settings"] != settings or former["pictures"].keys() != set(paths):
        return False
    sizes = {path.name: path.stat().st_size for path in dataset_dir.glob(OLD_SHARDS)}
    if not (dataset_dir / SPLITS_FILENAME).is_file() or sizes != former["shards"]:
        return False
    try:
        if read_labels(dataset_dir) != list(former["counts"][splits.TRAIN]):
            return False
    except UserError:
        return False
    root = dataset_dir / PICTURES_FOLDER
    return all(_sha256(_read(root / path)) == known["sha256"] for path, known in former["pictures"].items())


def _read(path: Path) -> bytes:
    """Returns the content of a file, nothing where it cannot be had."""
    try:
        return read_file(path)
    except BadPicture:
        return b""


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def start_workers(number: int) -> Iterator[ProcessPoolExecutor]:
    """Gives processes that decode and write.

    Raises:
        UserError: One of them was killed.
    """
    spawn = multiprocessing.get_context("spawn")  # The same on every system, and no thread is copied half-alive.
    try:
        with ProcessPoolExecutor(number, spawn, _start_worker) as workers:
            yield workers
    except BrokenProcessPool:
        raise UserError("a worker process was killed, perhaps for want of memory; lower --num_workers") from None


def _start_worker() -> None:
    """Leaves Ctrl-C to the parent, and ends when the parent has ended, however it did."""

    def follow_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=follow_parent, daemon=True).start()


def read_pictures(
    root: Path, labels: Mapping[str, str], max_side: int, workers: ProcessPoolExecutor, store: Path
) -> list[Picture]:
    """Proves and normalises pictures; writes to `store` the JPEGs that are not files already.

    Returns:
        All pictures in the order of `labels`, also the bad ones.
    """
    pictures = []
    offset = 0
    with Progress("convert", len(labels), "pictures") as progress, store.open("wb") as file:
        results = _normalise_all([str(root / path) for path in labels], max_side, workers)
        for (path, label), (sha256, problem, jpeg, height, width) in zip(labels.items(), results, strict=True):
            pictures.append(Picture(path, label, sha256, problem, height, width, offset, len(jpeg)))
            offset += file.write(jpeg)
            progress.update()
    _refuse_contradictions(pictures)
    return pictures


# SHA-256 of the file, problem, JPEG (empty if the file needs no change), height, width.
Normalised = tuple[str, str, bytes, int, int]


def _normalise_all(paths: Sequence[str], max_side: int, workers: ProcessPoolExecutor) -> Iterator[Normalised]:
    """Yields a result for each path in order; a bounded number of them wait in memory."""
    pending: deque[Future[list[Normalised]]] = deque()
    for start in range(0, len(paths), BATCH):
        pending.append(workers.submit(_normalise_batch, paths[start : start + BATCH], max_side))
        if len(pending) > BATCHES_AHEAD:
            yield from pending.popleft().result()
    while pending:
        yield from pending.popleft().result()


def _normalise_batch(paths: Sequence[str], max_side: int) -> list[Normalised]:
    results: list[Normalised] = []
    for path in paths:
        data = b""
        try:
            data = read_file(Path(path))
            jpeg, height, width = normalise(data, max_side)
            results.append((_sha256(data), "", b"" if jpeg is data else jpeg, height, width))
        except BadPicture as error:
            results.append((_sha256(data), str(error), b"", 0, 0))
    return results


def _refuse_contradictions(pictures: Iterable[Picture]) -> None:
    """Marks pictures whose very bytes lie under two labels: neither training nor validation could be right."""
    copies = defaultdict(list)
    for picture in pictures:
        if not picture.problem:
            copies[picture.sha256].append(picture)
    for group in copies.values():
        for picture in group:
            others = [other.path for other in group if other.label != picture.label]
            if others:
                picture.problem = f"the same file as {others[0]}, under another label"


def choose_labels(pictures: Iterable[Picture], names: Iterable[str], minimum: int, root: Path) -> list[str]:
    """Returns the labels that have at least `minimum` usable pictures; their order gives their numbers.

    With a minimum of 1 all labels must have one: an empty folder is an accident, not a choice.
    """
    counts = Counter(picture.label for picture in pictures if not picture.problem)
    small = [name for name in names if counts[name] < minimum]
    if small and minimum == 1:
        raise UserError(
            f"{root} has no readable picture of {listing(small)}; --check_image lists the bad ones; fetch others "
            "with download.py, or leave such labels out with --min_images_per_label=2"
        )
    if small:
        print(f"left out, fewer than {minimum} pictures: {listing(small)}")
    chosen = [name for name in names if name not in small]
    if len(chosen) < 2:
        raise UserError(
            f"{root}: {len(chosen)} label with {minimum} or more readable pictures, a classifier needs two; "
            "run download.py with more labels"
        )
    return chosen


def split_pictures(pictures: Iterable[Picture], former: Mapping[str, Any], settings: Mapping[str, int]) -> None:
    """Sets `split` of each picture, label by label; all of them are usable."""
    known = {}
    if former and all(former["settings"][name] == settings[name] for name in ("percent_validation", "random_seed")):
        known = {path: picture["split"] for path, picture in former["pictures"].items() if picture["split"]}
    by_label = defaultdict(list)
    for picture in pictures:
        by_label[picture.label].append(picture)
    for label, group in by_label.items():
        sha256 = {picture.path: picture.sha256 for picture in group}
        sides = splits.assign(label, sha256, known, settings["percent_validation"] / 100, settings["random_seed"])
        for picture in group:
            picture.split = sides[picture.path]


def write_set(
    dataset_dir: Path,
    pictures: Sequence[Picture],
    names: list[str],
    settings: dict[str, int],
    workers: ProcessPoolExecutor,
    store: Path,
) -> dict[str, Counter[str]]:
    """Writes the records, and all that describes them, in place of the former ones.

    Returns:
        The number of pictures by split and label.

    Raises:
        UserError: A source file is no longer what it was when it was proved.
    """
    _delete(dataset_dir, OLD_SHARDS + PARTIAL_SUFFIX)  # Of a run that was killed.
    order = sorted(pictures, key=lambda picture: splits.stable_hash(settings["random_seed"], picture.path))
    counts = {}
    contents = {}  # Pictures of each shard, by its name.
    with replacing(dataset_dir / SPLITS_FILENAME) as splits_json, contextlib.ExitStack() as renamed_together:
        for split in (splits.TRAIN, splits.VALIDATION):
            chosen = [picture for picture in order if picture.split == split]
            counts[split] = Counter(dict.fromkeys(names, 0))
            counts[split].update(picture.label for picture in chosen)
            for shard in range(settings["num_shards"]):
                name = SHARD_NAME.format(split, shard, settings["num_shards"])
                contents[name] = chosen[shard :: settings["num_shards"]]
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
        description = {"settings": settings, "counts": counts, "shards": shards, "pictures": of_pictures}
        splits_json.write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

        # All is written. From here to the last rename there is no set, neither the old nor the new.
        (dataset_dir / SPLITS_FILENAME).unlink(missing_ok=True)
        _delete(dataset_dir, OLD_SHARDS)
        write_labels(names, dataset_dir)
        _write_bad_pictures(dataset_dir / BAD_PICTURES_FILENAME, pictures)
    return counts


def _delete(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        path.unlink()


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
    data = _read(root / picture.path)
    if _sha256(data) != picture.sha256:
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


def listing(items: Sequence[str], at_most: int = 10) -> str:
    """Returns "a, b, c and 7 more"."""
    more = f" and {len(items) - at_most} more" if len(items) > at_most else ""
    return ", ".join(items[:at_most]) + more


def check_pictures(root: Path, labels: Mapping[str, str], max_side: int, workers: ProcessPoolExecutor) -> None:
    """Prints the bad pictures.

    Raises:
        UserError: There is one at least.
    """
    pictures = read_pictures(root, labels, max_side, workers, Path(os.devnull))
    bad = [picture for picture in pictures if picture.problem]
    for picture in bad:
        print(f"{root / picture.path}: {picture.problem}")
    if bad:
        raise UserError(
            f"{len(bad)} of {len(pictures)} pictures are bad; delete or replace them, or run convert.py "
            "without --check_image, which leaves them out"
        )
    print(f"{len(pictures)} pictures in {root}, all good")


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    root = args.dataset_dir / PICTURES_FOLDER
    labels, names, passed_over = find_files(root)
    if passed_over:
        print(f"passed over, no pictures: {len(passed_over)} ({listing(passed_over)})")
    if args.check_image:
        with start_workers(args.num_workers) as workers:
            return check_pictures(root, labels, args.max_side, workers)

    settings = {name: getattr(args, name) for name in SETTINGS}
    former = read_set(args.dataset_dir)
    if is_current(args.dataset_dir, former, settings, labels):
        print(f"nothing to do: the records in {args.dataset_dir} are made from these {len(labels)} files")
        return None

    with locked(args.dataset_dir), start_workers(args.num_workers) as workers, contextlib.ExitStack() as at_the_end:
        store = args.dataset_dir / STORE_FILENAME
        at_the_end.callback(store.unlink, missing_ok=True)
        pictures = read_pictures(root, labels, args.max_side, workers, store)
        names = choose_labels(pictures, names, args.min_images_per_label, root)
        bad = sum(bool(picture.problem) for picture in pictures)
        if bad > len(pictures) / 2:
            raise UserError(f"{bad} of {len(pictures)} pictures in {root} are bad; --check_image lists them")
        chosen = set(names)
        usable = [picture for picture in pictures if picture.label in chosen and not picture.problem]
        split_pictures(usable, former, settings)
        counts = write_set(args.dataset_dir, pictures, names, settings, workers, store)

    if bad:
        print(f"left out, bad pictures: {bad}, listed in {args.dataset_dir / BAD_PICTURES_FILENAME}")
    without = [name for name in names if not counts["validation"][name]]
    if without:
        print(f"labels without a validation picture: {len(without)} ({listing(without)})")
    print(
        f"{len(names)} labels, {counts['train'].total()} pictures for training and {counts['validation'].total()} "
        f"for validation, in {2 * args.num_shards} files in {args.dataset_dir}"
    )


if __name__ == "__main__":
    run(main)
