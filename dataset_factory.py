"""The data sets by name: what `--dataset_name` may say."""

import os
from typing import Any

import tf_slim as slim

if __package__:  # A copy in models/research/slim/datasets/.
    from datasets import arts
else:
    import arts

DATASETS = {"arts": arts}


def get_dataset(
    name: str,
    split_name: str,
    dataset_dir: str | os.PathLike[str],
    file_pattern: str | None = None,
    reader: Any = None,
) -> slim.dataset.Dataset:
    """Returns a split of the data set with this name; see `arts.get_split`.

    Raises:
        ValueError: The name is unknown, or the data set says what is wrong with the split or folder.
    """
    if name not in DATASETS:
        raise ValueError(f"no data set is named {name!r}; take --dataset_name={' or '.join(DATASETS)}")
    return DATASETS[name].get_split(split_name, dataset_dir, file_pattern, reader)
