"""Picture files proved whole and brought into one form, by several processes at once."""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
import contextlib
import multiprocessing
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
import os
from pathlib import Path
import signal
import threading
from typing import NamedTuple

from metart.common.flags import UserError
from metart.common.progress import Progress
from metart.records.near_duplicates import perceptual_hash
from metart.records.pictures import BadPicture, normalise_and_show, read_file
from metart.records.record_set import Picture, sha256

BATCH = 8  # Pictures handed to a worker at a time.
BATCHES_AHEAD = 64  # Of all workers together: what may wait in memory.


@contextlib.contextmanager
def start_workers(number: int) -> Iterator[ProcessPoolExecutor]:
    """Yields processes that decode and write.

    Raises:
        UserError: One of them was killed.
    """
    try:
        with ProcessPoolExecutor(number, _Spawn(), _start_worker) as workers:
            yield workers
    except BrokenProcessPool:
        raise UserError("a worker process was killed, perhaps because memory ran out; lower --num_workers") from None


class _Worker(SpawnProcess):
    """Leaves Ctrl-C to the parent from its first moment on: its long imports would end with a traceback."""

    def start(self) -> None:
        resource_tracker.ensure_running()  # It lets Ctrl-C through when it has started itself.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # A new process inherits it.
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


class _Spawn(SpawnContext):
    """The same on every system, and no thread is copied half-alive."""

    Process = _Worker


def _start_worker() -> None:
    """Ends the worker when the parent has ended, however it did."""

    def follow_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

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
        results = _normalise_all([f"{root}/{path}" for path in labels], max_side, workers)
        for (path, label), made in zip(labels.items(), results, strict=True):
            place = offset, len(made.jpeg)
            pictures.append(
                Picture(path, label, made.sha256, made.problem, made.height, made.width, *place, made.perceptual_hash)
            )
            offset += file.write(made.jpeg)
            progress.update()
    _refuse_contradictions(pictures)
    return pictures


class Normalised(NamedTuple):
    """What became of a file."""

    sha256: str  # Of the file.
    problem: str
    jpeg: bytes = b""  # Empty if the file needs no change, too.
    height: int = 0
    width: int = 0
    perceptual_hash: bytes = b""


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
            data = read_file(path)
            jpeg, shown = normalise_and_show(data, max_side)
            made = b"" if jpeg is data else jpeg
            results.append(Normalised(sha256(data), "", made, *shown.size[::-1], perceptual_hash(shown)))
        except BadPicture as error:
            results.append(Normalised(sha256(data), str(error)))
    return results


def _refuse_contradictions(pictures: Iterable[Picture]) -> None:
    """Marks pictures whose very bytes lie under two labels: neither training nor validation could be right."""
    copies = defaultdict(list)
    for picture in pictures:
        if not picture.problem:
            copies[picture.sha256].append(picture)
    for group in copies.values():
        first_of: dict[str, str] = {}
        for picture in group:
            first_of.setdefault(picture.label, picture.path)
        for picture in group:
            other = next((path for label, path in first_of.items() if label != picture.label), None)
            if other:
                picture.problem = f"the same file as {other}, under another label"
