"""The split: shares, stability, objects; decided without looking at a file."""

from collections import Counter
import hashlib
import random

import pytest

from metart.records import splits


def pictures(first: int, count: int) -> dict[str, str]:
    """Returns distinct file hashes of `count` objects with a picture each, by path."""
    return {f"Iran/{number}.jpg": f"hash of {number}" for number in range(first, first + count)}


def validating(sides: dict[str, str]) -> int:
    return Counter(sides.values())["validation"]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("count", [3, 4, 5, 10, 40, 80, 330])
def test_every_label_is_near_the_share(count: int, share: float) -> None:
    for label in map(str, range(100)):
        sides = splits.assign(label, pictures(0, count), {}, share, seed=0)
        assert set(sides) == set(pictures(0, count))
        assert abs(validating(sides) - share * count) <= max(0.05 * count, 0.5)


def test_far_from_the_border_of_chance_the_hash_alone_decides() -> None:
    sides = splits.assign("Iran", pictures(0, 20_000), {}, 0.25, seed=7)
    for number in range(20_000):
        digest = hashlib.sha256(f"7\nIran\n{number}".encode()).hexdigest()
        expected = "validation" if int(digest[:12], 16) < 0.25 * 16**12 else "train"
        assert sides[f"Iran/{number}.jpg"] == expected


def test_the_order_of_the_pictures_does_not_matter() -> None:
    given = {**pictures(0, 30), "Iran/1_1.jpg": "hash of 2", "Iran/5_1.jpg": "hash of 1"}
    expected = splits.assign("Iran", given, {}, 0.25, seed=0)
    for seed in range(20):
        shuffled = list(given.items())
        random.Random(seed).shuffle(shuffled)
        assert splits.assign("Iran", dict(shuffled), {}, 0.25, seed=0) == expected


def test_seed_and_label_are_part_of_the_hash() -> None:
    sides = [splits.assign(label, pictures(0, 50), {}, 0.25, seed) for label, seed in [("A", 0), ("A", 1), ("B", 0)]]
    assert sides[0] != sides[1] != sides[2] != sides[0]


def test_new_pictures_move_no_old_one_and_the_share_holds() -> None:
    generator = random.Random(0)
    for label in map(str, range(50)):
        sides: dict[str, str] = {}
        count = generator.randint(1, 30)
        for _ in range(8):
            grown = splits.assign(label, pictures(0, count), sides, 0.25, seed=0)
            assert {path: grown[path] for path in sides} == sides
            sides = grown
            count += generator.randint(1, 30)
        assert abs(validating(sides) - 0.25 * len(sides)) <= 0.05 * len(sides) + 1


def test_without_memory_nearly_all_pictures_keep_their_side() -> None:
    moved = total = 0
    for label in map(str, range(200)):
        few = splits.assign(label, pictures(0, 60), {}, 0.25, seed=0)
        more = splits.assign(label, pictures(0, 80), {}, 0.25, seed=0)
        moved += sum(more[path] != side for path, side in few.items())
        total += len(few)
    assert 0 < moved / total < 0.02


def test_pictures_of_an_object_stay_together() -> None:
    for seed in range(200):
        names = ["17.jpg", "17_1.jpg", "17_12.png", "met_17.jpg", "met_17_3.jpg"]
        given = {f"Iran/{name}": name for name in names} | pictures(100, 12)
        sides = splits.assign("Iran", given, {}, 0.25, seed)
        assert len({sides[f"Iran/{name}"] for name in names}) == 1


def test_names_that_are_not_of_the_museum_are_an_object_each() -> None:
    given = {f"Iran/IMG_{number}.jpg": str(number) for number in range(40)}
    assert 8 <= validating(splits.assign("Iran", given, {}, 0.25, seed=0)) <= 12


def test_objects_that_share_a_file_stay_together() -> None:
    for seed in range(200):
        # 1 and 2 share one file, 2 and 3 another.
        shared = {"Iran/1.jpg": "a", "Iran/2.jpg": "a", "Iran/2_1.jpg": "b", "Iran/3.jpg": "b", "Iran/3_1.jpg": "c"}
        sides = splits.assign("Iran", shared | pictures(100, 20), {}, 0.25, seed)
        assert len({sides[path] for path in shared}) == 1


def test_a_new_photograph_follows_its_object() -> None:
    for seed in range(50):
        former = splits.assign("Iran", pictures(0, 12), {}, 0.25, seed)
        added = {f"Iran/{number}_1.jpg": f"second of {number}" for number in range(12)}
        sides = splits.assign("Iran", pictures(0, 12) | added, former, 0.25, seed)
        for number in range(12):
            assert sides[f"Iran/{number}_1.jpg"] == former[f"Iran/{number}.jpg"] == sides[f"Iran/{number}.jpg"]


def test_old_objects_stay_apart_when_a_new_file_joins_them() -> None:
    former = {"Iran/1.jpg": "train", "Iran/2.jpg": "validation"}
    given = {"Iran/1.jpg": "a", "Iran/2.jpg": "b", "Iran/1_1.jpg": "c", "Iran/2_1.jpg": "c"}
    sides = splits.assign("Iran", given, former, 0.25, seed=0)
    assert {path: sides[path] for path in former} == former
    assert sides["Iran/1_1.jpg"] == sides["Iran/2_1.jpg"]


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_something_is_always_left_to_learn(count: int, share: float) -> None:
    for seed in range(50):
        assert validating(splits.assign("Iran", pictures(0, count), {}, share, seed)) < count
