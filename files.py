"""Files that are whole or absent: written under a temporary name, then renamed."""

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path
from typing import IO, Any

PARTIAL_SUFFIX = ".partial"  # What an interrupted run leaves behind; the next run overwrites it.


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
