"""Features that a head trains on: which come in a batch, and when they are computed anew."""

from collections.abc import Iterator
import itertools
from pathlib import Path

import numpy as np

from metart.training.frozen_features import Features, kept_features

PICTURES, DEPTH, VIEWS = 7, 3, 4


def of(view: int, picture: int) -> float:
    return 10.0 * view + picture


def views() -> list[np.ndarray]:
    return [np.array([[of(view, picture)] * DEPTH for picture in range(PICTURES)], np.float16) for view in range(VIEWS)]


def test_each_picture_comes_once_an_epoch() -> None:
    kept = Features(views(), np.arange(PICTURES))
    taken = [labels.tolist() for _, labels in itertools.islice(kept.batches(2, seed=5, first_batch=0), 14)]
    flat = list(itertools.chain(*taken))
    for epoch in range(4):
        assert sorted(flat[epoch * PICTURES : (epoch + 1) * PICTURES]) == list(range(PICTURES))
    assert flat[:PICTURES] != flat[PICTURES : 2 * PICTURES]


def test_features_and_labels_belong_together_and_all_views_come() -> None:
    kept = Features(views(), np.arange(PICTURES))
    seen = set()
    for features, labels in itertools.islice(kept.batches(2, seed=5, first_batch=0), 70):
        assert features.dtype == np.float32
        for row, label in zip(features, labels, strict=True):
            assert row.tolist() == [of(int(row[0]) // 10, label)] * DEPTH
            seen.add(int(row[0]) // 10)
    assert seen == set(range(VIEWS))


def test_a_resumed_run_gets_the_batches_it_would_have_had() -> None:
    kept = Features(views(), np.arange(PICTURES))
    whole = list(itertools.islice(kept.batches(3, seed=1, first_batch=0), 12))
    rest = list(itertools.islice(kept.batches(3, seed=1, first_batch=5), 7))
    for (expected, labels), (features, resumed) in zip(whole[5:], rest, strict=True):
        np.testing.assert_array_equal(features, expected)
        np.testing.assert_array_equal(labels, resumed)


def test_views_are_computed_once_for_the_same_source(tmp_path: Path) -> None:
    computed: list[int] = []

    def compute(view: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        computed.append(view)
        for start in (0, 4):
            yield views()[view][start : start + 4].astype(np.float32), np.arange(PICTURES)[start : start + 4]

    def keep(made_of: str, num_views: int) -> Features:
        return kept_features(tmp_path / "features", made_of, num_views, (PICTURES, DEPTH), compute)

    keep("one", 2)
    assert computed == [0, 1]
    keep("one", 3)
    assert computed == [0, 1, 2]
    kept = keep("another", 2)
    assert computed == [0, 1, 2, 0, 1]
    assert not (tmp_path / "features" / "view-02.npy").exists()
    (tmp_path / "features" / "view-01.npy").write_bytes(b"cut off")
    keep("another", 2)
    assert computed[5:] == [1]
    np.save(tmp_path / "features" / "labels.npy", np.zeros(PICTURES - 1, int))
    kept = keep("another", 2)
    assert computed[6:] == [0, 1]
    ((features, labels),) = itertools.islice(kept.batches(PICTURES, 0, 0), 1)
    assert [int(value) % 10 for value in features[:, 0]] == labels.tolist()
