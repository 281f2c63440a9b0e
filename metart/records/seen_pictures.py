"""Which pictures a training run has seen, so that none of them validates its network unnoticed.

A few bytes a picture, beside the checkpoints. A picture is known by its content, whatever its name, its folder or its
split has become since.
"""

import io
import os
from pathlib import Path

import numpy as np

from metart.common.files import open_replacing
from metart.common.flags import UserError
from metart.records.record_set import RecordSet

FILENAME = "seen-pictures.npy"


def add(train_dir: str | os.PathLike[str], records: RecordSet, split: str) -> None:
    """Adds the pictures of a split to those that the run in `train_dir` remembers, now that it is about to see them."""
    before = read(train_dir)
    seen = np.union1d(np.array([], np.uint64) if before is None else before, _digests(records, split))
    with open_replacing(Path(train_dir) / FILENAME, "wb") as file:
        np.save(file, seen)


def read(train_dir: str | os.PathLike[str]) -> np.ndarray | None:
    """Returns what the run in a folder of checkpoints remembers.

    Returns:
        uint64 [pictures], in order; None where nothing was noted: an older run, slim's, or records without splits.json.

    Raises:
        UserError: The file is damaged.
    """
    path = Path(train_dir) / FILENAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        seen = np.load(io.BytesIO(data), allow_pickle=False)
        if seen.dtype != np.uint64 or seen.ndim != 1:
            raise ValueError
    except (ValueError, EOFError, OSError):
        raise UserError(
            f"{path} is damaged; put a whole copy there, or train in another folder (--train_dir)"
        ) from None
    return seen


def count(records: RecordSet, split: str, seen: np.ndarray) -> int:
    """Returns how many pictures of a split are among those seen."""
    return int(np.isin(_digests(records, split), seen).sum())


def _digests(records: RecordSet, split: str) -> np.ndarray:
    """Returns the first 8 bytes of each picture's SHA-256: one set in 30 million has them twice among a million."""
    chosen = [int(source.sha256[:16], 16) for source in records.sources.values() if source.split == split]
    return np.array(chosen, dtype=np.uint64)
