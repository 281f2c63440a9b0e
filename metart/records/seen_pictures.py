"""Which pictures a training run has seen, so that none of them validates its network unnoticed.

A few bytes a picture, beside the checkpoints. A picture is known by its content, whatever its name, its folder or its
split has become since.
"""

from collections.abc import Iterable, Mapping
import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from metart.common.files import open_replacing
from metart.common.flags import UserError
from metart.records.record_set import RecordSet

FILENAME = "seen-pictures.npy"


def note(train_dir: str | os.PathLike[str], before: np.ndarray | None, records: RecordSet | None, split: str) -> bool:
    """Notes what the run in `train_dir` is about to see, and what its weights have seen before.

    Args:
        train_dir: Folder of the run.
        before: See `read`; of the weights that the run begins with, empty for random ones.
        records: What it trains on.
        split: A split of it.

    Returns:
        False if either is not known: then nothing is noted, as a part would look like the whole.
    """
    if before is None or records is None:
        (Path(train_dir) / FILENAME).unlink(missing_ok=True)
        return False
    write(train_dir, np.union1d(before, _digests(records, names_of(records, split))))
    return True


def write(train_dir: str | os.PathLike[str], seen: np.ndarray) -> None:
    """Leaves beside the checkpoints in a folder what `read` returns."""
    with open_replacing(Path(train_dir) / FILENAME, "wb") as file:
        np.save(file, seen)


def read(train_dir: str | os.PathLike[str]) -> np.ndarray | None:
    """Returns what the run in a folder of checkpoints remembers.

    Returns:
        uint64 [pictures], in order; None where it is not known: an older run, slim's, or records without splits.json.

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


def count(records: RecordSet, names: Iterable[str], checkpoint_dir: str | os.PathLike[str]) -> int | None:
    """Returns how many of some pictures, by their paths below met_art, the run in a folder has seen; None: not known.

    Raises:
        UserError: See `read`.
    """
    seen = read(checkpoint_dir)
    return None if seen is None else int(np.isin(_digests(records, names), seen).sum())


def refuse_seen(
    checkpoint_dir: str | os.PathLike[str],
    records: RecordSet | None,
    split: str,
    former: Mapping[str, Any],
    allow: bool,
) -> int | None:
    """Says how many pictures of a split the run in a folder of checkpoints was trained on, and refuses any.

    Args:
        checkpoint_dir: Of the run.
        records: The set that is to be evaluated on.
        split: One of its splits.
        former: What the run noted of the set that it was trained on: fingerprint and settings; or nothing.
        allow: Return the number whatever it is.

    Returns:
        None where it is not known.

    Raises:
        UserError: There are such pictures; names the cause.
    """
    if records is None:
        return None
    names = names_of(records, split)
    number = count(records, names, checkpoint_dir)
    if number and not allow:
        settings = records.settings._asdict()
        cause = "these records are another data set than the one it was trained on"
        if former.get("fingerprint") == records.fingerprint:
            cause = "it, or the run whose weights it began with, was trained on that split"
        for name in ("random_seed", "percent_validation"):
            if name in former and former[name] != settings[name]:
                cause = f"these records were split with --{name}={settings[name]}, those with {former[name]}"
        raise UserError(
            f"{number:,} of the {len(names):,} {split} pictures are among those that the run in {checkpoint_dir} was "
            f"trained on: {cause}; take the records that it was trained with, or add --allow_seen_pictures"
        )
    return number


def names_of(records: RecordSet, split: str) -> list[str]:
    """Returns the paths below met_art of the pictures of a split."""
    return [name for name, source in records.sources.items() if source.split == split]


def _digests(records: RecordSet, names: Iterable[str]) -> np.ndarray:
    """Returns the first 8 bytes of each picture's SHA-256: one set in 30 million has them twice among a million."""
    return np.array([int(records.sources[name].sha256[:16], 16) for name in names], dtype=np.uint64)
