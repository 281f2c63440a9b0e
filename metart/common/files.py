"""Files that are whole or absent: written under a temporary name, then renamed; and folders that one process has."""

from collections.abc import Iterator
import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO, Any

from metart.common.flags import Retry

PARTIAL_SUFFIX = ".partial"  # What an interrupted run leaves behind; the next run overwrites it.

LOCK_FILENAME = ".lock"  # Stays when its process has ended; only the lock on it counts.


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str], filename: str = LOCK_FILENAME) -> Iterator[None]:
    """Makes a folder where there is none and keeps it for this process; the system ends that with the process.

    Raises:
        Retry: Another process has it. Not an error of the user's that would end a Job for good: on a shared volume the
            lock of a node that was lost lasts a minute or two.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with open(Path(folder) / filename, "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Retry(
                f"another process is writing to {folder}; run the same command again when that has ended, or name "
                "another folder"
            ) from None
        except OSError:
            pass  # A file system without locks: there the user has to look out.
        yield


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`; it takes its place when the block ends without error."""
    target = Path(path)
    partial = target.with_name(target.name + PARTIAL_SUFFIX)
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())  # Otherwise a power cut can leave the new name on an empty file.
        os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


@contextlib.contextmanager
def open_replacing(path: str | os.PathLike[str], mode: str = "w", **keywords: Any) -> Iterator[IO[Any]]:
    """Opens `path` for writing so that readers see the old file or the complete new one.

    Text is UTF-8 with the newlines as written (what the csv module asks for).
    """
    if "b" not in mode:
        keywords = {"encoding": "utf-8", "newline": "", **keywords}
    with replacing(path) as partial, open(partial, mode, **keywords) as file:
        yield file
        file.flush()
