"""The split: shares, stability, objects; decided without looking at a file."""

from collections import Counter
from collections.abc import Iterable, Mapping
import hashlib
import itertools
import os
import random
import subprocess
import sys

from conftest import REPOSITORY
import pytest

from metart.museum.artworks import read_artworks
from metart.records import splits
from metart.records.splits import Shown


def pictures(first: int, count: int, step: int = 1000) -> dict[str, Shown]:
    """Returns what so many pictures show, an object each; the numbers are far apart unless told otherwise."""
    return numbered(range(first * step, (first + count) * step, step))


def numbered(numbers: Iterable[int]) -> dict[str, Shown]:
    return {f"Iran/{number}.jpg": Shown(str(number), str(number)) for number in numbers}


def objects_of(sha256: dict[str, str]) -> dict[str, str]:
    return {path: thing.object for path, thing in splits.find_objects(sha256, []).items()}


def assign(names: Iterable[str], seed: int = 0) -> dict[str, str]:
    """Splits pictures that differ, by the names of their files."""
    paths = [f"Iran/{name}" for name in names]
    return splits.assign("Iran", splits.find_objects({path: path for path in paths}, []), {}, 0.25, seed)


def share_with_neighbours(sides: Mapping[str, str | None]) -> float:
    """Returns the share where each folder has the name of its label."""
    return splits.share_with_neighbours((path.partition("/")[0], path, side) for path, side in sides.items())


def validating(sides: dict[str, str]) -> int:
    return Counter(sides.values())["validation"]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("count", [3, 4, 5, 10, 40, 80, 330])
def test_every_label_is_near_the_share(count: int, share: float) -> None:
    for seed in range(100):
        sides = splits.assign("Iran", pictures(0, count), {}, share, seed)
        assert set(sides) == set(pictures(0, count))
        assert abs(validating(sides) - share * count) <= max(0.05 * count, 0.5)


def test_far_from_the_border_of_chance_the_hash_alone_decides() -> None:
    sides = splits.assign("Iran", pictures(0, 20_000), {}, 0.25, seed=7)
    for number in range(20_000):
        digest = hashlib.sha256(f"7\n{number * 10}xx".encode()).hexdigest()
        expected = "validation" if int(digest[:12], 16) < 0.25 * 16**12 else "train"
        assert sides[f"Iran/{number * 1000}.jpg"] == expected


def test_the_order_of_the_pictures_does_not_matter() -> None:
    given = {**{path: path for path in pictures(0, 30)}, "Iran/1000_1.jpg": "Iran/2000.jpg", "Iran/5000_1.jpg": "c"}
    near = [("Iran/7000.jpg", "Iran/9000.jpg"), ("Iran/9000.jpg", "Iran/12000.jpg")]
    shown = splits.find_objects(given, near)
    expected = splits.assign("Iran", shown, {}, 0.25, seed=0)
    for seed in range(20):
        shuffled = list(given.items())
        random.Random(seed).shuffle(shuffled)
        assert splits.find_objects(dict(shuffled), [pair[::-1] for pair in near[::-1]]) == shown
        items = list(shown.items())
        random.Random(seed).shuffle(items)
        assert splits.assign("Iran", dict(items), {}, 0.25, seed=0) == expected


def test_the_seed_is_part_of_the_hash_and_the_label_where_there_is_no_number() -> None:
    cases = [("A", 0), ("A", 1), ("B", 0)]
    by_number = [splits.assign(label, pictures(0, 50), {}, 0.25, seed) for label, seed in cases]
    assert by_number[0] != by_number[1]
    assert by_number[0] == by_number[2]  # A series may have pieces under several labels.
    named = {f"Iran/{number}.jpg": Shown(f"vase {number}", f"vase {number}") for number in range(50)}
    sides = [splits.assign(label, named, {}, 0.25, seed) for label, seed in cases]
    assert sides[0] != sides[1] != sides[2] != sides[0]


def test_new_pictures_move_no_old_one_and_the_share_holds() -> None:
    generator = random.Random(0)
    for seed in range(50):
        sides: dict[str, str] = {}
        count = generator.randint(1, 30)
        for _ in range(8):
            grown = splits.assign("Iran", pictures(0, count), sides, 0.25, seed)
            assert {path: grown[path] for path in sides} == sides
            sides = grown
            count += generator.randint(1, 30)
        assert abs(validating(sides) - 0.25 * len(sides)) <= 0.05 * len(sides) + 1


def test_without_memory_nearly_all_pictures_keep_their_side() -> None:
    moved = total = 0
    for seed in range(200):
        few = splits.assign("Iran", pictures(0, 60), {}, 0.25, seed)
        more = splits.assign("Iran", pictures(0, 80), {}, 0.25, seed)
        moved += sum(more[path] != side for path, side in few.items())
        total += len(few)
    assert 0 < moved / total < 0.02


def test_without_memory_most_pictures_of_series_keep_their_side() -> None:
    generator = random.Random(0)
    moved = total = 0
    for seed in range(100):
        numbers = sorted(first + n for first in generator.sample(range(0, 10**6, 50), 20) for n in range(8))
        kept = generator.sample(numbers, 120)
        few = splits.assign("A", numbered(kept), {}, 0.25, seed)
        more = splits.assign("A", numbered(numbers), {}, 0.25, seed)
        moved += sum(more[path] != side for path, side in few.items())
        total += len(few)
    assert 0 < moved / total < 0.05


def test_pictures_of_an_object_stay_together() -> None:
    names = ["17.jpg", "17_1.jpg", "17_12.png", "met_17.jpg", "met_17_3.jpg"]
    assert set(objects_of({f"Iran/{name}": name for name in names}).values()) == {"17"}
    for seed in range(200):
        sides = assign([*names, *(f"{1000 * number}.jpg" for number in range(100, 112))], seed)
        assert len({sides[f"Iran/{name}"] for name in names}) == 1


def test_names_that_are_not_of_the_museum_are_an_object_each() -> None:
    assert 8 <= validating(assign(f"IMG_{number}.jpg" for number in range(40))) <= 12


@pytest.mark.parametrize(
    "names",
    [
        [f"0_{number}" for number in range(1, 41)],  # Picture 17 of class 0, as data sets elsewhere are numbered.
        [f"{number % 2}_{number}" for number in range(40)],
        [f"2019_{number:04}" for number in range(30)],
        ["0", *(f"0_{number}" for number in range(1, 41))],
        [f"met_3_{number}" for number in range(12)],
        [f"0_{number}" for number in range(3)],
    ],
)
def test_a_rule_about_names_cannot_swallow_a_label(names: list[str]) -> None:
    objects = objects_of({f"Iran/{name}.jpg": name for name in names})
    assert len(set(objects.values())) == len(names)
    share = validating(assign(f"{name}.jpg" for name in names)) / len(names)
    assert abs(share - 0.25) <= 0.1


@pytest.mark.parametrize(
    "names",
    [
        ["5", "5_1", "5_2", "6", "6_1"],  # As download.py and the sample leave them, however few there are.
        [f"{number}{more}" for number in range(100, 110) for more in ("", "_1", "_2", "_3")],
        [*map(str, range(1000, 1100)), "7_1", "7_2", "7_3"],  # The first photograph was bad and is left out.
    ],
)
def test_photographs_of_an_object_are_known_by_their_names(names: list[str]) -> None:
    objects = objects_of({f"Iran/{name}.jpg": name for name in names})
    assert {path: path.partition("/")[2][:-4].partition("_")[0] for path in objects} == objects


def test_objects_that_share_a_file_stay_together() -> None:
    # 1 and 2 share one file, 2 and 3 another.
    shared = {"Iran/1.jpg": "a", "Iran/2.jpg": "a", "Iran/2_1.jpg": "b", "Iran/3.jpg": "b", "Iran/3_1.jpg": "c"}
    shown = splits.find_objects(shared | {path: path for path in pictures(100, 20)}, [])
    assert {shown[path].object for path in shared} == {"1"}
    for seed in range(200):
        sides = splits.assign("Iran", shown, {}, 0.25, seed)
        assert len({sides[path] for path in shared}) == 1


def test_objects_that_look_the_same_stay_together() -> None:
    given = {path: path for path in pictures(0, 20)}
    chain = ["Iran/3000.jpg", "Iran/12000.jpg", "Iran/7000.jpg", "Iran/15000.jpg", "Iran/1000.jpg"]
    shown = splits.find_objects(given, [*itertools.pairwise(chain), ("Iran/0.jpg", "Iran/8000.jpg")])
    assert {path for path, thing in shown.items() if thing.representative == "1000"} == set(chain)
    assert shown["Iran/8000.jpg"] == ("8000", "0")
    assert {thing.object for thing in shown.values()} == {path[5:-4] for path in given}
    for seed in range(200):
        sides = splits.assign("Iran", shown, {}, 0.25, seed)
        assert len({sides[path] for path in chain}) == 1
        assert sides["Iran/8000.jpg"] == sides["Iran/0.jpg"]
        assert abs(validating(sides) - 5) <= 1


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_looks_cannot_swallow_a_label(looks: int) -> None:
    """Pictures that differ in little are cut apart where they would leave the label without its share."""
    given = {path: path for path in pictures(0, 40)}
    paths = list(given)
    near = [(paths[number % looks], paths[number]) for number in range(looks, 40)]
    for seed in range(20):
        sides = splits.assign("Iran", splits.find_objects(given, near), {}, 0.25, seed)
        assert abs(validating(sides) - 10) <= 2


def test_a_new_picture_follows_what_it_looks_like() -> None:
    given = {path: path for path in pictures(0, 20)}
    for seed in range(50):
        former = splits.assign("Iran", splits.find_objects(given, []), {}, 0.25, seed)
        near = [("Iran/3000.jpg", "Iran/90000.jpg"), ("Iran/17000.jpg", "Iran/1500.jpg")]
        more = splits.find_objects(given | {path: path for path in ("Iran/90000.jpg", "Iran/1500.jpg")}, near)
        sides = splits.assign("Iran", more, former, 0.25, seed)
        assert all(sides[one] == sides[other] for one, other in near)


def test_a_series_stays_together() -> None:
    """Finds of 40 pieces each: each lies on one side, and the share holds."""
    numbers = [100 * find + piece for find in range(50) for piece in range(40)]
    objects = numbered(numbers)
    for seed in range(20):
        sides = splits.assign("Iran", objects, {}, 0.25, seed)
        for find in range(50):
            assert len({sides[f"Iran/{100 * find + piece}.jpg"] for piece in range(40)}) == 1
        assert abs(validating(sides) / len(sides) - 0.25) <= 0.05
        assert share_with_neighbours(sides) == 0


@pytest.mark.parametrize("count", [12, 20, 70, 200])
def test_a_label_of_one_series_is_cut_into_runs(count: int) -> None:
    """Like the drawn sample, whose numbers run in a row."""
    objects = numbered(range(9_000_001, 9_000_001 + count))
    for seed in range(20):
        sides = list(splits.assign("Iran", objects, {}, 0.25, seed).values())
        assert abs(sides.count("validation") / count - 0.25) <= 0.05
        changes = sum(one != other for one, other in itertools.pairwise(sides))
        assert changes <= 2 + 2 * count / 40  # Dealt one by one it would be three of eight.


def test_objects_dealt_one_by_one_leak_and_series_do_not() -> None:
    generator = random.Random(3)
    numbers = [
        first + piece for first in generator.sample(range(10**6), 120) for piece in range(generator.randint(1, 30))
    ]
    objects = numbered(numbers)
    one_by_one = {
        path: "validation" if splits.stable_hash(0, "Iran", thing.object) < 0.25 else "train"
        for path, thing in objects.items()
    }
    assert share_with_neighbours(one_by_one) > 0.7
    assert share_with_neighbours(splits.assign("Iran", objects, {}, 0.25, seed=0)) < 0.1


def test_the_museums_photographs_leak_one_by_one_and_not_in_series() -> None:
    """The 7,267 objects of the benchmark, by their numbers."""
    numbers: dict[str, list[int]] = {}
    for artwork in read_artworks(REPOSITORY / "benchmarks/met-22-cultures.list"):
        numbers.setdefault(artwork.label, []).append(artwork.object_id)
    assert len(numbers) == 22
    one_by_one = {
        f"{label}/{n}.jpg": "validation" if splits.stable_hash(0, label, n) < 0.25 else "train"
        for label, of_label in numbers.items()
        for n in of_label
    }
    assert share_with_neighbours(one_by_one) > 0.6
    for seed in range(3):
        sides: dict[str, str] = {}
        for label, of_label in numbers.items():
            shown = {f"{label}/{n}.jpg": Shown(str(n), str(n)) for n in of_label}
            of_this = splits.assign(label, shown, {}, 0.25, seed)
            assert abs(validating(of_this) / len(of_this) - 0.25) <= 0.05
            sides |= of_this
        assert share_with_neighbours(sides) < 0.05
        # Nor do neighbours of other labels: a service or a find may have pieces under several.
        assert share_with_neighbours({f"all/{path.rpartition('/')[2]}": s for path, s in sides.items()}) < 0.06


def test_neighbours_are_counted_by_hand() -> None:
    sides: dict[str, str | None] = {
        "A/10.jpg": "train",
        "A/13.jpg": "validation",  # 10 trains.
        "A/14.jpg": "validation",  # Nothing within 3 does.
        "A/15.jpg": None,
        "A/90.jpg": "validation",
        "A/90_1.jpg": "train",  # The same object, from a time before it was known as such.
        "A/vase.jpg": "validation",
        "B/14.jpg": "train",  # Another label gives nothing away.
        "B/11.jpg": "train",
    }
    assert share_with_neighbours(sides) == 2 / 4
    assert share_with_neighbours({"A/1.jpg": "train"}) == 0


def test_a_new_photograph_follows_its_object() -> None:
    for seed in range(50):
        former = splits.assign("Iran", pictures(0, 12), {}, 0.25, seed)
        added = {f"Iran/{1000 * n}_1.jpg": Shown(str(1000 * n), str(1000 * n)) for n in range(12)}
        sides = splits.assign("Iran", pictures(0, 12) | added, former, 0.25, seed)
        for number in range(12):
            path = f"Iran/{1000 * number}"
            assert sides[f"{path}_1.jpg"] == former[f"{path}.jpg"] == sides[f"{path}.jpg"]


def test_a_new_object_follows_its_series() -> None:
    """Also where the series went to the other side than its hash says; but the share of the label goes first."""
    follow = total = 0
    for seed in range(30):
        objects = numbered(range(0, 1000, 2))
        former = splits.assign("Iran", objects, {}, 0.25, seed)
        added = numbered(range(1, 1000, 8))
        sides = splits.assign("Iran", objects | added, former, 0.25, seed)
        assert {path: sides[path] for path in former} == former
        for number in range(1, 1000, 8):
            follow += sides[f"Iran/{number}.jpg"] in [former[f"Iran/{n}.jpg"] for n in (number - 1, number + 1)]
            total += 1
        assert abs(validating(sides) / len(sides) - 0.25) <= 0.05
    assert 0.95 < follow / total < 1


def test_old_objects_stay_apart_when_a_new_file_joins_them() -> None:
    former = {"Iran/1.jpg": "train", "Iran/2.jpg": "validation"}
    given = {"Iran/1.jpg": "a", "Iran/2.jpg": "b", "Iran/1_1.jpg": "c", "Iran/2_1.jpg": "c"}
    sides = splits.assign("Iran", splits.find_objects(given, []), former, 0.25, seed=0)
    assert {path: sides[path] for path in former} == former
    assert sides["Iran/1_1.jpg"] == sides["Iran/2_1.jpg"]


@pytest.mark.parametrize(
    ("former", "names", "new", "look_the_same"),
    [
        ({"1000_1": "train", "1000_2": "validation"}, ["1000_1", "1000_2", "1000"], "1000", []),
        ({"1000_1": "validation", "1000_2": "train"}, ["1000_1", "1000_2", "1000"], "1000", []),
        (
            {"1000": "train", "2000": "validation"},
            ["1000", "2000", "3000"],
            "3000",
            [("1000", "3000"), ("2000", "3000")],
        ),
        (
            {"1000": "validation", "2000": "train"},
            ["1000", "2000", "3000"],
            "3000",
            [("1000", "3000"), ("2000", "3000")],
        ),
        ({"1000": "train"}, ["1000_1", "1000_2"], "1000_1", []),
        ({"1000": "train"}, ["1000_1", "1000_2"], "1000_2", []),
        ({"2000": "train"}, ["2000_1", "500"], "2000_1", [("500", "2000_1")]),
    ],
)
def test_what_shows_an_object_that_was_trained_on_never_validates(
    former: dict[str, str], names: list[str], new: str, look_the_same: list[tuple[str, str]]
) -> None:
    """Also where the object, or what looks like it, has both sides, and where its own photograph is gone."""
    known = {f"Iran/{name}.jpg": side for name, side in former.items()}
    known |= {f"Iran/{number}.jpg": "train" for number in range(10_000, 18_000, 1000)}
    paths = [f"Iran/{name}.jpg" for name in names] + [f"Iran/{number}.jpg" for number in range(10_000, 18_000, 1000)]
    near = [(f"Iran/{one}.jpg", f"Iran/{other}.jpg") for one, other in look_the_same]
    shown = splits.find_objects({path: path for path in paths}, near)
    for seed in range(20):
        assert splits.assign("Iran", shown, known, 0.25, seed)[f"Iran/{new}.jpg"] == "train"


def test_what_looks_like_a_photograph_of_an_object_that_is_gone_goes_with_it() -> None:
    others = [f"Iran/{number}.jpg" for number in range(1000, 51_000, 1000)]
    paths = [*others, "Iran/200000_1.jpg", "Iran/bowl.jpg"]
    shown = splits.find_objects({path: path for path in paths}, [("Iran/200000_1.jpg", "Iran/bowl.jpg")])
    for seed in range(50):
        former = splits.assign("Iran", numbered([*range(1000, 51_000, 1000), 200_000]), {}, 0.25, seed)
        sides = splits.assign("Iran", shown, former, 0.25, seed)
        assert sides["Iran/200000_1.jpg"] == sides["Iran/bowl.jpg"] == former["Iran/200000.jpg"]


def test_the_order_of_sets_in_memory_does_not_matter() -> None:
    """Python gives sets of text another order in each process."""
    program = (
        "from metart.records.splits import *; paths = [f'Iran/100{n}.jpg' for n in range(1, 4)]; "
        "print([assign('Iran', find_objects({path: path for path in paths[:n]}, []), {}, 0.9, 0) for n in (1, 2, 3)])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
        ).stdout
        for seed in range(6)
    }
    assert len(said) == 1


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_something_is_always_left_to_learn(count: int, share: float, step: int) -> None:
    for seed in range(50):
        assert validating(splits.assign("Iran", pictures(0, count, step), {}, share, seed)) < count
