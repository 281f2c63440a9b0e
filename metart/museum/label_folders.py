"""The folders of labels below met_art: photographs that a list gives another label, leftovers of interrupted runs."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
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

DOWNLOAD_LOCK = ".download{}.lock"  # In the data set's folder, one for each shard.
LEFTOVER = re.compile(rf"(?:[0-9]+\.jpg|{re.escape(FULL_LABEL_FILENAME)}){re.escape(PARTIAL_SUFFIX)}")


def photograph_path(pictures: Path, artwork: Artwork) -> Path:
    """Returns where the photograph of an artwork belongs, below the folder met_art."""
    return pictures / folder_name(artwork.label) / f"{artwork.object_id}.jpg"


def is_there(path: Path) -> bool:
    """Returns whether a photograph has been downloaded; an empty file is what a full disk can leave of a copy."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # None, or a name that the locale cannot hold.
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


def find_relabelled(pictures: Path, read: Callable[[], Iterable[Artwork]]) -> dict[Path, list[Artwork]]:
    """Finds photographs in the folder of a label that the list does not give them.

    Args:
        pictures: The folder met_art.
        read: Returns all artworks of the list.

    Returns:
        What the list has of the object instead, under other labels, by the path of the photograph.
    """
    unlisted: dict[Path, set[int]] = {}  # Objects in each folder, without those that the list gives its label.
    folders: dict[str, list[Path]] = defaultdict(list)  # Of a label: by a link, or a wrong `.label`, it has several.
    for folder in _label_folders(pictures):
        names = (re.fullmatch(r"(0|[1-9][0-9]*)\.jpg", file.name) for file in folder.iterdir())
        unlisted[folder] = {int(name[1]) for name in names if name}
        with contextlib.suppress(UserError, UnicodeDecodeError):  # Lost or damaged: the folder's name decides, below.
            folders[normalise_label(label_of_folder(folder))].append(folder)
    for artwork in read() if unlisted else ():
        for folder in folders.get(artwork.label, ()):
            unlisted[folder].discard(artwork.object_id)
    elsewhere: set[int] = set().union(*unlisted.values())
    artworks: dict[int, list[Artwork]] = defaultdict(list)
    for artwork in read() if elsewhere else ():
        if artwork.object_id in elsewhere:
            artworks[artwork.object_id].append(artwork)
    found = {}
    for folder, numbers in unlisted.items():
        for number in sorted(numbers.intersection(artworks)):
            picture = folder / f"{number}.jpg"
            places = (photograph_path(pictures, artwork) for artwork in artworks[number])
            # Where a link leads here, or `.label` says something else or nothing, it is in its place.
            if is_there(picture) and not any(is_there(place) and place.samefile(picture) for place in places):
                found[picture] = artworks[number]
    return found


def relabel(dataset_dir: Path, read: Callable[[], Iterable[Artwork]], listed: Collection[str]) -> tuple[int, int]:
    """Moves photographs to the labels that a list gives them, and tidies the folders.

    Each goes to the first of its labels that has none of the object; it is deleted where all have one.

    Args:
        dataset_dir: The folder above met_art; neither a download nor convert.py may be at work there.
        read: Returns all artworks of the list.
        listed: All labels of the list.

    Returns:
        How many were moved and how many deleted; neither where links lead to one photograph twice.

    Raises:
        Retry: Another process is at work there.
        UserError: There is no met_art.
    """
    pictures = dataset_dir / PICTURES_FOLDER
    if not pictures.is_dir():
        raise UserError(f"there is no folder {pictures}; name the one that it is in with --dataset_dir")
    shards = {lock.name for lock in dataset_dir.glob(DOWNLOAD_LOCK.format("-*"))}
    moved = deleted = 0
    with contextlib.ExitStack() as stack:
        for lock in sorted({LOCK_FILENAME, DOWNLOAD_LOCK.format(""), *shards}):
            stack.enter_context(locked(dataset_dir, lock))
        relabelled = find_relabelled(pictures, read)
        progress = stack.enter_context(Progress("Moving", len(relabelled), "photographs"))
        for picture, artworks in relabelled.items():
            lacking = [artwork for artwork in artworks if not is_there(photograph_path(pictures, artwork))]
            if is_there(picture) and lacking:  # Otherwise it was moved from another folder, to which a link leads.
                _move(picture, write_folder(pictures, lacking[0].label) / picture.name)
                moved += 1
            elif is_there(picture):
                picture.unlink()
                deleted += 1
            progress.update()
        tidy_folders(pictures, listed)
    return moved, deleted


def tidy_folders(pictures: Path, listed: Collection[str]) -> None:
    """Removes the partial files of runs that were cut short, and folders without pictures, which convert.py refuses.

    Folders of long labels get their `.label` back where it is lost or damaged.

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
    for label in listed:
        if (pictures / folder_name(label)).is_dir():
            write_folder(pictures, label)


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
