#!/usr/bin/env python3
"""Step 4 of 10: converts the pictures to TFRecord files, one part for training and one for validation.

Reads   DATASET_DIR/met_art/<label folder>/*: JPEG, PNG, WebP, GIF, BMP or TIFF, whatever the names say.
Writes  DATASET_DIR/arts_train_00000-of-00005.tfrecord …, arts_validation_00000-of-00005.tfrecord …,
        labels.txt, splits.json (settings, counts, hash and split of every picture) and bad-pictures.csv (what was
        left out and why, if anything was); see metart/records/record_set.py.

    python convert.py --dataset_dir=data

Safe to run again: with the same pictures and flags there is nothing to do; with others the old records
stay until the new ones are whole. While it runs it needs room for both, and for the pictures it has to make anew.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
import contextlib
import multiprocessing
import operator
import os
from pathlib import Path
import signal
import sys
import threading

sys.path.insert(0, str(Path(__file__).resolve().parent))  # Left out under PYTHONSAFEPATH.
if __name__ == "__main__":  # Before the long imports.
    from metart.common import startup

    startup.begin()

from metart.common.cores import available_cores
from metart.common.files import PARTIAL_SUFFIX, locked
from metart.common.flags import Parser, UserError, number, run
from metart.common.labels import FULL_LABEL_FILENAME, PICTURES_FOLDER, is_text, label_of_folder
from metart.common.progress import Progress
from metart.records import record_set, splits
from metart.records.pictures import MAX_SIDE, BadPicture, normalise, read_file
from metart.records.record_set import Picture, RecordSet, Settings, sha256

STORE_FILENAME = "pictures" + PARTIAL_SUFFIX  # Waits there from reading to writing: JPEGs that had to be made.
BATCH = 8  # Pictures handed to a worker at a time.
BATCHES_AHEAD = 64  # Of all workers together: what may wait in memory.
SYSTEM_FILES = {"thumbs.db", "desktop.ini"}


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--dataset_dir", type=Path, required=True, help="folder with met_art/; gets the records")
    add("--percent_validation", type=number(int, 1, 90), default=25, help="share of the pictures for validation")
    add("--num_shards", type=number(int, 1, 99_999), default=5, help="record files of each split")
    add("--random_seed", type=number(int), default=0, help="another seed gives another split and order")
    longest = number(int, 32, 65_000)
    add("--max_side", type=longest, default=MAX_SIDE, help="longest side of a picture in the records, pixels")
    add("--min_images_per_label", type=number(int, 1), default=1, help="leave out labels with fewer pictures")
    add("--num_workers", type=number(int, 1), default=available_cores(), help="processes that decode")
    parser.add_boolean("check_image", default=False, help="write nothing, list bad pictures; status 1 if any")
    return parser


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
            results.append((sha256(data), "", b"" if jpeg is data else jpeg, height, width))
        except BadPicture as error:
            results.append((sha256(data), str(error), b"", 0, 0))
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


def split_pictures(pictures: Iterable[Picture], former: RecordSet | None, settings: Settings) -> None:
    """Sets `split` of each picture, label by label; all of them are usable."""
    known = {}
    decisive = operator.attrgetter("percent_validation", "random_seed")
    if former and decisive(former.settings) == decisive(settings):
        known = {path: source.split for path, source in former.sources.items() if source.split}
    by_label = defaultdict(list)
    for picture in pictures:
        by_label[picture.label].append(picture)
    for label, group in by_label.items():
        hashes = {picture.path: picture.sha256 for picture in group}
        sides = splits.assign(label, hashes, known, settings.percent_validation / 100, settings.random_seed)
        for picture in group:
            picture.split = sides[picture.path]


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
    flags = build_parser().parse_args(argv)
    dataset_dir = flags.dataset_dir
    root = dataset_dir / PICTURES_FOLDER
    labels, names, passed_over = find_files(root)
    if passed_over:
        print(f"passed over, no pictures: {len(passed_over)} ({listing(passed_over)})")
    if flags.check_image:
        with start_workers(flags.num_workers) as workers:
            return check_pictures(root, labels, flags.max_side, workers)

    settings = Settings(*(getattr(flags, name) for name in Settings._fields))
    former = record_set.read(dataset_dir)
    if former:
        record_set.finish_exchange(dataset_dir, former)
    if former and record_set.is_current(dataset_dir, former, settings, labels):
        print(f"nothing to do: the records in {dataset_dir} are made from these {len(labels)} files")
        return None

    record_set.raise_if_read(dataset_dir)
    with locked(dataset_dir), start_workers(flags.num_workers) as workers, contextlib.ExitStack() as at_the_end:
        store = dataset_dir / STORE_FILENAME
        at_the_end.callback(store.unlink, missing_ok=True)
        pictures = read_pictures(root, labels, settings.max_side, workers, store)
        names = choose_labels(pictures, names, settings.min_images_per_label, root)
        bad = sum(bool(picture.problem) for picture in pictures)
        if bad > len(pictures) / 2:
            raise UserError(f"{bad} of {len(pictures)} pictures in {root} are bad; --check_image lists them")
        chosen = set(names)
        usable = [picture for picture in pictures if picture.label in chosen and not picture.problem]
        split_pictures(usable, former, settings)
        counts = record_set.write(dataset_dir, pictures, names, settings, workers, store)

    if bad:
        print(f"left out, bad pictures: {bad}, listed in {dataset_dir / record_set.BAD_PICTURES_FILENAME}")
    without = [name for name in names if not counts["validation"][name]]
    if without:
        print(f"labels without a validation picture: {len(without)} ({listing(without)})")
    print(
        f"{len(names)} labels, {counts['train'].total()} pictures for training and {counts['validation'].total()} "
        f"for validation, in {2 * settings.num_shards} files in {dataset_dir}"
    )


if __name__ == "__main__":
    run(main)
