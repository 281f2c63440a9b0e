"""What a frozen network sees in the training pictures: computed once, kept on disk, for a head that trains on it."""

from collections.abc import Callable, Iterator, Mapping
import hashlib
import itertools
import json
from pathlib import Path
import shutil
from typing import Any

import numpy as np

from metart.networks.slim_compat import tf
from metart.common.files import open_replacing
from metart.common.flags import UserError
from metart.common.progress import Progress

FOLDER = "features"  # In TRAIN_DIR.


class Features:
    """Several views of every training picture, as features."""

    def __init__(self, views: list[np.ndarray], labels: np.ndarray):
        """Takes the views, each float16 [pictures, depth], and the labels of the pictures, int64 [pictures]."""
        self._views = views
        self._labels = labels

    def batches(self, batch_size: int, seed: int, first_batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields full batches without end: each picture once an epoch, in one of its views by chance.

        Args:
            batch_size: Features in a batch.
            seed: The same seed gives the same batches.
            first_batch: Where in that order to begin.

        Yields:
            (features float32 [batch_size, depth], labels int64 [batch_size]).
        """
        first_epoch, skipped = divmod(first_batch * batch_size, len(self._labels))
        draws = itertools.islice(self._draws(seed, first_epoch), skipped, None)
        while True:
            chosen = list(itertools.islice(draws, batch_size))
            features = np.stack([self._views[view][picture] for view, picture in chosen]).astype(np.float32)
            yield features, self._labels[[picture for _, picture in chosen]]

    def _draws(self, seed: int, first_epoch: int) -> Iterator[tuple[int, int]]:
        """Yields (view, picture) without end, epoch by epoch."""
        for epoch in itertools.count(first_epoch):
            generator = np.random.default_rng([seed, epoch])
            order = generator.permutation(len(self._labels))
            view_of = generator.integers(len(self._views), size=len(order))
            yield from zip(view_of[order].tolist(), order.tolist(), strict=True)


def kept_features(
    folder: Path,
    made_of: str,
    num_views: int,
    shape: tuple[int, int],
    compute: Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]],
) -> Features:
    """Returns the features of all pictures, from disk where an earlier run has left them.

    Each view is a file of its own, whole or absent, so that an interrupted run continues with the next.

    Args:
        folder: For the files; those made of something else are deleted.
        made_of: Everything that decides the features, as text.
        num_views: How often each picture is looked at.
        shape: Number of pictures, length of a feature vector.
        compute: Yields (features float32 [n, depth], labels int64 [n]) of all pictures, in order, for a view's number.
    """
    source = folder / "made-of.json"
    if not source.is_file() or source.read_bytes() != made_of.encode():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        source.write_text(made_of, encoding="utf-8")
    paths = [folder / f"view-{view:02}.npy" for view in range(num_views)]
    labels_path = folder / "labels.npy"
    are_labelled = _is_whole(labels_path, shape[:1])  # Each view writes the labels, too.
    for path in paths:
        if not (are_labelled and _is_whole(path, shape)):
            path.unlink(missing_ok=True)
    there = sum(path.is_file() for path in paths)
    with Progress("features", num_views * shape[0], "pictures", initial=there * shape[0]) as progress:
        for view, path in enumerate(paths):
            if path.is_file():
                continue
            labels: list[np.ndarray] = []
            with open_replacing(path, "wb") as file:  # Not a memory map: on a full disk, one ends the process.
                header = {"descr": "<f2", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for of_batch, labels_of_batch in compute(view):
                    file.write(of_batch.astype("<f2").tobytes())
                    labels.append(labels_of_batch)
                    progress.update(len(of_batch))
                found = sum(map(len, labels))
                if found != shape[0]:
                    raise UserError(f"the records hold {found:,} pictures, not {shape[0]:,}; run convert.py again")
                with open_replacing(labels_path, "wb") as labels_file:
                    np.save(labels_file, np.concatenate(labels))
    return Features([np.load(path, mmap_mode="r") for path in paths], np.load(labels_path))


def _is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    """Returns whether a file holds an array of a shape."""
    try:
        return np.load(path, mmap_mode="r").shape == shape
    except (OSError, ValueError, EOFError):
        return False


def identity(
    session: tf.compat.v1.Session, frozen: list[tf.Variable], data_sources: list[str], settings: Mapping[str, Any]
) -> str:
    """Returns a text that changes with everything that decides features: weights, records, settings by name."""
    digest = hashlib.sha256()
    for value in session.run(frozen):
        digest.update(value.tobytes())
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in map(Path, data_sources)]
    return json.dumps({"weights": digest.hexdigest(), "records": files, **settings})
