#!/usr/bin/env python3
"""Step 4 of 10: converts the pictures to TFRecord files, one part for training and one for validation.

Reads   DATASET_DIR/met_art/<label folder>/*: JPEG, PNG, WebP, GIF, BMP or TIFF, whatever the names say.
Writes  DATASET_DIR/arts_train_00000-of-00005.tfrecord …, arts_validation_00000-of-00005.tfrecord …,
        labels.txt, splits.json (settings, counts, hash and split of every picture) and bad-pictures.csv (the bad
        pictures and what is wrong with them, if there are any); see metart/records/record_set.py.

    python convert.py --dataset_dir=data

Safe to run again: with the same pictures and flags there is nothing to do; with others the old records
stay until the new ones are whole. While it runs it needs room for both, and for the pictures it has to convert again.
"""

from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).resolve().parent))  # Left out under PYTHONSAFEPATH.
if __name__ == "__main__":  # Before the long imports.
    from metart.common import startup

    startup.begin()

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
import contextlib
import os

from metart.common.cores import available_cores
from metart.common.files import PARTIAL_SUFFIX, locked
from metart.common.flags import Parser, Retry, UserError, number, path, run, select
from metart.common.labels import FULL_LABEL_FILENAME, PICTURES_FOLDER, is_text, label_of_folder
from metart.records import near_duplicates, record_set, splits
from metart.records.decoding import read_pictures, start_workers
from metart.records.pictures import MAX_SIDE
from metart.records.record_set import Picture, RecordSet, Settings, Sides
from metart.records.splits import Shown

IS_UTF8, SET_UTF8 = sys.getfilesystemencoding() == "utf-8", "set PYTHONUTF8=1"  # Otherwise no name is read as it is.
SYSTEM_FILES = {"thumbs.db", "desktop.ini"}
NO_PICTURES = (PARTIAL_SUFFIX, ":Zone.Identifier")  # The latter WSL makes beside each file that comes from Windows.


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--dataset_dir", type=path, required=True, help="folder with met_art/; gets the records")
    add("--percent_validation", type=number(int, 1, 90), default=25, help="share of the pictures for validation")
    add("--num_shards", type=number(int, 1, 99_999), default=5, help="record files of each split")
    add(
        "--random_seed", type=number(int, None, 2**63 - 1), default=0, help="another seed gives another split and order"
    )
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
    dataset_dir = root.parent
    unpack = f"run download.py, or mkdir -p {dataset_dir} && tar -xzf sample-dataset.tar.gz -C {dataset_dir}"
    if not root.is_dir():
        if dataset_dir.name == PICTURES_FOLDER:
            raise UserError(f"no folder {root}; --dataset_dir is the folder above: {dataset_dir.parent}")
        raise UserError(f"no folder {root}; {unpack}")
    labels: dict[str, str] = {}
    names = set()
    passed_over = []
    for folder in sorted(root.iterdir()):
        if folder.name.startswith(".") or not folder.is_dir():
            passed_over.append(folder.name)
            continue
        label = _label(folder)
        names.add(label)
        for file in sorted(os.scandir(folder), key=lambda entry: entry.name):  # Three times as fast as iterdir().
            name = f"{folder.name}/{file.name}"
            if not is_text(name):
                raise UserError(f"{root}: the name {name!r} is not UTF-8; {'rename it' if IS_UTF8 else SET_UTF8}")
            if file.name == FULL_LABEL_FILENAME:
                continue
            not_meant = file.name.startswith(".") or file.name.lower() in SYSTEM_FILES
            if not_meant or file.name.endswith(NO_PICTURES) or not _is_file(file):
                passed_over.append(name)
            else:
                labels[name] = label
    if not names:
        raise UserError(f"{root} has no folder of a label, as {root / 'French'} with pictures in it; {unpack}")
    return labels, sorted(names), passed_over


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Returns whether there is a file, if at the end of a link; not where that leads to itself."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _label(folder: Path) -> str:
    """Returns the label of a folder, one that labels.txt can hold on a line."""
    file, advice = folder / FULL_LABEL_FILENAME, "rename the folder" if IS_UTF8 else SET_UTF8
    try:
        label = label_of_folder(folder)
        if file.is_file():
            label, advice = label.rstrip("\r\n"), f"write the label into {file}"  # Editors end each line.
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text; write the label into it") from None
    if not label.strip() or not is_text(label) or not {"\n", "\r"}.isdisjoint(label):
        raise UserError(f"{str(folder)!r} stands for the label {label!r}, which is not one line of text; {advice}")
    if label != label.strip():
        raise UserError(f"{str(folder)!r} stands for {label!r}, which begins or ends with a blank; rename the folder")
    return label


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
    chosen = [name for name in names if counts[name] >= minimum]
    if len(chosen) < 2:
        raise UserError(
            f"{root}: labels with {minimum} or more readable pictures: {len(chosen)}; a classifier needs two; "
            f"{'run download.py with more labels' if minimum == 1 else 'lower --min_images_per_label'}"
        )
    return chosen


def split_pictures(
    pictures: Iterable[Picture], known: Mapping[str, str], settings: Settings
) -> dict[str, dict[str, Shown]]:
    """Sets `split` of each picture, label by label.

    Args:
        pictures: All usable ones.
        known: The sides to keep, by path; see `known_sides`.
        settings: Of the set.

    Returns:
        What each picture shows, by label and path.
    """
    by_label = defaultdict(list)
    for picture in pictures:
        by_label[picture.label].append(picture)
    of_folder: dict[str, dict[str, str]] = defaultdict(dict)
    for name, side in known.items():
        of_folder[name.partition("/")[0]][name] = side
    shown = {}
    for label, group in sorted(by_label.items()):
        near = [
            (group[one].path, group[other].path)
            for one, other in near_duplicates.pairs([p.perceptual_hash for p in group])
        ]
        shown[label] = splits.find_objects({p.path: p.sha256 for p in group}, near)
        former: dict[str, str] = {}
        for folder in {p.path.partition("/")[0] for p in group}:
            former |= of_folder[folder]
        sides = splits.assign(label, shown[label], former, settings.percent_validation / 100, settings.random_seed)
        for picture in group:
            picture.split = sides[picture.path]
    return shown


def known_sides(former: RecordSet, pictures: Sequence[Picture]) -> Sides:
    """Returns the sides that pictures had in earlier sets.

    Args:
        former: The set before, which remembers those that it left out.
        pictures: Those of the new set. One whose content had a side gets it, whatever its name; the name decides for
            content that is new.
    """
    contents = record_set.known_contents(former)
    now = {name: source.split for name, source in former.sources.items() if source.split}
    sides = {**former.earlier.by_path, **now}
    new = splits.decided((picture.sha256, sides[picture.path]) for picture in pictures if picture.path in sides)
    of_content = {**new, **contents}  # Copies of a new file have one side, too.
    renamed = {picture.path: of_content[picture.sha256] for picture in pictures if picture.sha256 in of_content}
    return Sides(sides | renamed, contents)


def split_flags(settings: Settings) -> str:
    """Returns the settings that decide the split, as flags."""
    return f"--percent_validation={settings.percent_validation} --random_seed={settings.random_seed}"


def listing(items: Sequence[str], at_most: int = 10) -> str:
    """Returns "a, b, c and 7 more"."""
    more = f" and {len(items) - at_most} more" if len(items) > at_most else ""
    return ", ".join(items[:at_most]) + more


def check_pictures(
    root: Path, labels: Mapping[str, str], empty: Sequence[str], max_side: int, workers: ProcessPoolExecutor
) -> None:
    """Prints the bad pictures.

    Raises:
        UserError: There is one at least, or one of the labels is `empty`.
    """
    pictures = read_pictures(root, labels, max_side, workers, Path(os.devnull))
    bad = [picture for picture in pictures if picture.problem]
    for picture in bad:
        print(f"{root / picture.path}: {picture.problem}")
    if bad:
        raise UserError(
            f"{len(bad)} of {len(pictures)} pictures are bad; replace them, or run convert.py "
            "without --check_image, which leaves them out"
        )
    if empty:
        raise UserError(
            f"{root} has no picture of {listing(empty)}; fetch some with download.py, or delete the folders"
        )
    print(f"{len(pictures)} pictures in {root}, all good")


def report(
    root: Path, pictures: Sequence[Picture], shown: Mapping[str, Mapping[str, Shown]], settings: Settings
) -> None:
    """Prints what became of the pictures."""
    bad = sum(bool(picture.problem) for picture in pictures)
    if bad:
        print(f"left out, bad pictures: {bad}, listed in {root.parent / record_set.BAD_PICTURES_FILENAME}")
    objects = {(label, thing) for label, of_label in shown.items() for thing in of_label.values()}
    number_of_series = len({(label, splits.series(thing.representative)) for label, thing in objects})
    print(
        f"{sum(map(len, shown.values())):,} pictures of {len(objects):,} objects in {number_of_series:,} series; "
        f"objects that look like another: {sum(thing.object != thing.representative for _, thing in objects):,}"
    )
    sides = {side: Counter(p.label for p in pictures if p.split == side) for side in splits.NAMES}
    untrained = [label for label in shown if not sides[splits.TRAIN][label]]
    if untrained:
        print(
            f"labels without a training picture: {len(untrained)} ({listing(untrained)}); for a new split move "
            f"{root.parent / record_set.SPLITS_FILENAME} away and run convert.py again"
        )
    without = [label for label in shown if not sides[splits.VALIDATION][label]]
    if without:
        print(f"labels without a validation picture: {len(without)} ({listing(without)})")
    single = [
        label for label in without if len({thing.object for thing in shown[label].values()}) < 2 < len(shown[label])
    ]
    if single:
        counted = [f"{label}, pictures: {len(shown[label])}" for label in single]
        print(f"of these, all pictures are of one object, by the names of their files: {listing(counted)}")
    share = splits.share_with_neighbours((p.label, p.path, p.split) for p in pictures)
    print(f"validation pictures with a neighbour in training (number within {splits.NEIGHBOURS}): {share:.1%}")
    print(
        f"{len(shown)} labels, {sides[splits.TRAIN].total()} pictures for training and "
        f"{sides[splits.VALIDATION].total()} for validation, in {2 * settings.num_shards} files in {root.parent}"
    )


def make_records(
    root: Path,
    labels: Mapping[str, str],
    names: Sequence[str],
    settings: Settings,
    former: RecordSet | None,
    num_workers: int,
) -> None:
    """Makes the records of the pictures below `root`, in the folder above it.

    Args:
        root: The folder met_art.
        labels: Label of each file, by its path below root.
        names: All labels.
        settings: Of the records.
        former: The set that is there.
        num_workers: Processes.
    """
    with locked(root.parent), start_workers(num_workers) as workers, contextlib.ExitStack() as at_the_end:
        record_set.raise_if_read(root.parent)
        if not record_set.is_still(root.parent, former):
            raise Retry(f"another process has made records in {root.parent} meanwhile; run the same command again")
        record_set.delete_leftovers(root.parent)  # Before the new set needs the room.
        store = root.parent / record_set.STORE_FILENAME
        at_the_end.callback(store.unlink, missing_ok=True)
        pictures = read_pictures(root, labels, settings.max_side, workers, store)
        chosen = choose_labels(pictures, names, settings.min_images_per_label, root)
        bad = sum(bool(picture.problem) for picture in pictures)
        if bad > len(pictures) / 2:
            raise UserError(f"{bad} of {len(pictures)} pictures in {root} are bad; --check_image lists them")
        left_out = set(names).difference(chosen)
        used = [picture for picture in pictures if not picture.problem and picture.label not in left_out]
        known = Sides()
        if former and split_flags(former.settings) == split_flags(settings):
            known = known_sides(former, used)
        elif former:
            print(f"a new split: the sides of {split_flags(former.settings)} are forgotten")
        shown = split_pictures(used, known.by_path, settings)
        record_set.write(root.parent, pictures, chosen, settings, known, workers)
    report(root, pictures, shown, settings)


def main(argv: Sequence[str] | None = None) -> None:
    flags = build_parser().parse_args(argv)
    dataset_dir = flags.dataset_dir
    root = dataset_dir / PICTURES_FOLDER
    labels, names, passed_over = find_files(root)
    if passed_over:
        print(f"skipped, not pictures: {len(passed_over)} ({listing(passed_over)})")
    empty = sorted(set(names).difference(labels.values()))
    if flags.check_image:
        with start_workers(flags.num_workers) as workers:
            check_pictures(root, labels, empty, flags.max_side, workers)
        return

    settings = select(Settings, vars(flags))
    former = record_set.read(dataset_dir)
    if former:
        record_set.finish_exchange(dataset_dir, former)
        if split_flags(former.settings) == split_flags(settings):  # Sides once given are kept.
            settings = settings._replace(series=former.settings.series)
        if not settings.series:
            print(
                "kept: the side that each picture had before series were kept together; for a new split move "
                f"{dataset_dir / record_set.SPLITS_FILENAME} away and run convert.py again"
            )
        may_be_empty = settings.min_images_per_label > 1
        if (may_be_empty or not empty) and record_set.is_current(dataset_dir, former, settings, labels):
            # Unless another process makes others, or this one may not write here.
            with contextlib.suppress(Retry, UserError, OSError), locked(dataset_dir):
                if record_set.is_still(dataset_dir, former):
                    record_set.delete_leftovers(dataset_dir)
            print(f"nothing to do: the records in {dataset_dir} are made from these {len(labels)} files")
            return
    make_records(root, labels, names, settings, former, flags.num_workers)


if __name__ == "__main__":
    run(main)
