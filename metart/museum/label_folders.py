"""The folders of labels below met_art: photographs that a list gives another label, leftovers of interrupted runs."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
import contextlib
import errno
from pathlib import Path
import re
import shutil
import stat

from metart.common.files import LOCK_FILENAME, PARTIAL_SUFFIX, exclusive_lock, locked, replacing
from metart.common.flags import UserError
from metart.common.labels import (
    FULL_LABEL_FILENAME,
    PICTURES_FOLDER,
    folder_name,
    label_of_folder,
    normalise_label,
    write_folder,
)
from metart.common.progress import Progress
from metart.museum.artworks import Artwork

LEFTOVER = re.compile(rf"(?:[0-9]+\.jpg|{re.escape(FULL_LABEL_FILENAME)}){re.escape(PARTIAL_SUFFIX)}")


def is_there(path: Path) -> bool:
    """Returns whether a photograph has been downloaded; an empty file is what a full disk can leave of a copy."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # None, or a name that the locale cannot hold.
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


def find_relabelled(pictures: Path, read: Callable[[], Iterable[Artwork]]) -> dict[Path, list[str]]:
    """Finds photographs in the folder of a label that the list does not give them.

    Args:
        pictures: The folder met_art.
        read: Returns all artworks of the list.

    Returns:
        The labels that the list gives the object instead, by the path of the photograph.
    """
    places: list[tuple[Path, set[int]]] = []
    of_label: dict[str, list[set[int]]] = defaultdict(list)
    for folder in _label_folders(pictures):
        with contextlib.suppress(UserError, UnicodeDecodeError):  # `restore_folders` brings its label back.
            label = normalise_label(label_of_folder(folder))
            names = (re.fullmatch(r"(0|[1-9][0-9]*)\.jpg", file.name) for file in folder.iterdir())
            numbers = {int(name[1]) for name in names if name}
            places.append((folder, numbers))
            of_label[label].append(numbers)
    if not any(numbers for _, numbers in places):
        return {}
    for artwork in read():
        for numbers in of_label.get(artwork.label, ()):
            numbers.discard(artwork.object_id)
    elsewhere = {number for _, numbers in places for number in numbers}
    labels = defaultdict(list)
    for artwork in read() if elsewhere else ():
        if artwork.object_id in elsewhere:
            labels[artwork.object_id].append(artwork.label)
    found = {
        folder / f"{number}.jpg": labels[number]
        for folder, numbers in places
        for number in sorted(numbers.intersection(labels))
    }

    def is_elsewhere(picture: Path, label: str) -> bool:
        """Returns whether the label has its folder elsewhere: a link may lead here, or `.label` say something else."""
        there = pictures / folder_name(label) / picture.name
        return not (is_there(there) and picture.samefile(there))

    return {
        picture: of_list
        for picture, of_list in found.items()
        if is_there(picture) and all(is_elsewhere(picture, label) for label in of_list)
    }


def relabel(dataset_dir: Path, read: Callable[[], Iterable[Artwork]], listed: Iterable[str]) -> tuple[int, int]:
    """Moves photographs to the labels that a list gives them, and removes what runs that were cut short have left.

    Args:
        dataset_dir: The folder above met_art; neither a download nor convert.py may be at work there.
        read: Returns all artworks of the list.
        listed: All labels of the list.

    Returns:
        How many were moved, and how many deleted, as all their labels have one of the object.

    Raises:
        Retry: Another process is at work there.
    """
    pictures = dataset_dir / PICTURES_FOLDER
    shards = {lock.name for lock in dataset_dir.glob(".download-*.lock")}
    with contextlib.ExitStack() as locks:
        for lock in sorted({LOCK_FILENAME, ".download.lock", *shards}):
            locks.enter_context(locked(dataset_dir, lock))
        relabelled = find_relabelled(pictures, read)
        counts = _move_to_labels(relabelled, pictures)
        remove_leftovers(pictures, listed)
    return counts


def remove_leftovers(pictures: Path, listed: Iterable[str]) -> None:
    """Removes the partial files of runs that were cut short, and folders without pictures, which convert.py refuses.

    Args:
        pictures: The folder met_art.
        listed: Labels whose folders are about to be filled, and stay.
    """
    kept = set(map(folder_name, listed))
    for folder in _label_folders(pictures):
        with contextlib.suppress(OSError):  # Not ours to remove, or another shard was faster.
            for file in folder.iterdir():
                if LEFTOVER.fullmatch(file.name) and file.is_file():
                    with exclusive_lock(file) as holder:
                        if not holder:
                            file.unlink()
            names = {file.name for file in folder.iterdir()}
            if folder.name not in kept and not folder.is_symlink() and names <= {FULL_LABEL_FILENAME, ".DS_Store"}:
                for name in names:
                    (folder / name).unlink()
                folder.rmdir()  # Which it is not if somebody has put a picture there meanwhile.


def restore_folders(pictures: Path, labels: Iterable[str]) -> None:
    """Writes again what folders of long labels have lost, or what is damaged; makes no folder."""
    for label in labels:
        if (pictures / folder_name(label)).is_dir():
            write_folder(pictures, label)


def _move_to_labels(relabelled: Mapping[Path, Sequence[str]], pictures: Path) -> tuple[int, int]:
    """Moves photographs to the labels that the list gives them.

    Args:
        relabelled: See `find_relabelled`. Each goes to the first of its labels that has none of the object; it is
            deleted where all have one.
        pictures: The folder met_art.

    Returns:
        How many were moved and how many deleted; neither where links lead to one photograph twice.
    """
    moved = deleted = 0
    with Progress("Moving", len(relabelled), "photographs") as progress:
        for picture, of_list in relabelled.items():
            lacking = [label for label in of_list if not is_there(pictures / folder_name(label) / picture.name)]
            if is_there(picture) and lacking:  # Otherwise it was moved from another folder, to which a link leads.
                _move(picture, write_folder(pictures, lacking[0]) / picture.name)
                moved += 1
            elif is_there(picture):
                picture.unlink()
                deleted += 1
            progress.update()
    return moved, deleted


def _move(source: Path, target: Path) -> None:
    """Moves a file, also to another file system; the target is complete or not there."""
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with replacing(target) as partial:
            shutil.copyfile(source, partial)
        source.unlink()


def _label_folders(pictures: Path) -> list[Path]:
    """Returns the folders that convert.py takes for those of labels."""
    there = pictures.iterdir() if pictures.is_dir() else ()
    return sorted(folder for folder in there if folder.is_dir() and not folder.name.startswith("."))
