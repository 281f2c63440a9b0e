"""Which pictures train and which validate: decided by a hash, the same on every machine.

What would give an answer away lies on one side: the photographs of one object, copies of a file, objects that look the
same (near_duplicates.py), and series. A museum numbers the pieces of one find, service or gift in a row and
photographs them on one day, so objects whose numbers share the hundreds are a series: a hash of seed and hundred says
on which side all of them are. Chance alone would leave small labels far from the share that was asked for, so where a
label is off by more than TOLERANCE, series change sides, those first whose hash is nearest to the border; where that
is not enough they are cut, into tens, into objects that look the same, and at last into objects.

Never those that had a side before: what a model was trained on does not validate it later. Both at once need a memory,
which is the splits.json of the run before; without it, the hash alone still gives most pictures the side they had.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
import functools
import hashlib
from pathlib import PurePosixPath
import re
from typing import NamedTuple, TypeVar

NAMES = TRAIN, VALIDATION = "train", "validation"
TOLERANCE = 0.05  # Of a label's pictures that may be on the wrong side of the share asked for.
SERIES = 100  # Numbers; with blocks of a hundred 2 % of the museum's validation pictures have a neighbour in training.
# Numbers that series are cut into where a label is off the share; 0: objects that look the same, too.
PARTS = (10, 1, 0)
NEIGHBOURS = 3  # Numbers this near are often pieces of one thing.

# `436535.jpg`, `436535_1.jpg` and `met_436535.jpg` show object 436535. Other names are an object each.
_OBJECT_FILE = re.compile(r"(?:met_)?([0-9]+)(_[0-9]+)?")
# `0_17.jpg` may as well be picture 17 of somebody's list 0. Photographs that would be more than this part of their
# label count as those of one object only if the first of them, `0.jpg`, is there too and they are not too many.
FEW = 0.1
MAX_PHOTOGRAPHS = 20

Key = TypeVar("Key")


def stable_hash(*parts: object) -> float:
    """Returns a number in [0, 1) that is as good as random and the same on every machine."""
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def series(name: str) -> str:
    """Returns the series of an object: the hundreds of its number; an object without a number is one of its own."""
    return str(int(name) // SERIES) + "xx" if name.isdecimal() else name


class Shown(NamedTuple):
    """What a picture shows."""

    object: str  # Its number, or the name of the file.
    representative: str  # The first of the objects that look the same.


def find_objects(sha256: Mapping[str, str], look_the_same: Iterable[tuple[str, str]]) -> dict[str, Shown]:
    """Finds which pictures of one label show the same object, or are as good as the same picture.

    Args:
        sha256: Of the file of each picture, by path.
        look_the_same: Pairs of paths.

    Returns:
        What each picture shows, by path.
    """
    paths = sorted(sha256)
    by_name = _objects_by_name(paths)
    first_of_file: dict[str, str] = {}
    copies = [(by_name[path], by_name[first_of_file.setdefault(sha256[path], path)]) for path in paths]
    objects = _join(by_name, copies)
    representatives = _join(objects, [(objects[one], objects[other]) for one, other in look_the_same])
    return {path: Shown(objects[path], representatives[path]) for path in paths}


def _objects_by_name(paths: Iterable[str]) -> dict[str, str]:
    """Returns the object of each path of one label, by the names alone."""
    objects = {path: PurePosixPath(path).stem for path in paths}
    photographs = defaultdict(list)
    first_ones = set()
    for path, stem in objects.items():
        if match := _OBJECT_FILE.fullmatch(stem):
            photographs[match[1]].append(path)
            if not match[2]:
                first_ones.add(match[1])
    for name, of_object in photographs.items():
        plausible = name in first_ones and len(of_object) <= MAX_PHOTOGRAPHS
        if plausible or len(of_object) <= max(1, FEW * len(objects)):
            objects.update(dict.fromkeys(of_object, name))
    return objects


def _join(objects: Mapping[str, str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Returns the objects by path when each pair of them counts as one, under the name that comes first."""
    joined_to: dict[str, str] = {}

    def find(name: str) -> str:
        last = name
        while last in joined_to:
            last = joined_to[last]
        if name != last:
            joined_to[name] = last  # The next search is short.
        return last

    for pair in pairs:
        first, *second = sorted({find(name) for name in pair}, key=lambda name: (len(name), name))
        joined_to.update(dict.fromkeys(second, first))
    return {path: find(name) for path, name in objects.items()}


def assign(
    label: str, shown: Mapping[str, Shown], former: Mapping[str, str], validation_share: float, seed: int
) -> dict[str, str]:
    """Splits the pictures of one label.

    Args:
        label: Part of the hash of objects without a number.
        shown: What each picture shows, by path; see `find_objects`.
        former: The split of pictures that had one before, by path; they keep it. Those that are gone decide for what
            shows the same object.
        validation_share: Of the pictures, between 0 and 1. One object at least stays in training.
        seed: Part of every hash.

    Returns:
        "train" or "validation" by path.
    """
    sizes = Counter(of_picture.object for of_picture in shown.values())
    representatives = {of_picture.object: of_picture.representative for of_picture in shown.values()}
    settled = _settled(shown, former, representatives)
    hash_of = functools.cache(functools.partial(stable_hash, seed))
    hashes = {
        name: hash_of(series(first)) if first.isdecimal() else hash_of(label, first)
        for name, first in representatives.items()
    }
    sides = {name: VALIDATION if hashes[name] < validation_share else TRAIN for name in sizes}
    sides |= _follow(representatives, settled) | settled
    validating = {name for name, side in sides.items() if side == VALIDATION}

    def order(name: str) -> tuple[float, float, int, str]:
        """Nearest to the border first; within a series ten by ten, within the ten by the number."""
        number = int(representatives[name]) if representatives[name].isdecimal() else 0
        return abs(hashes[name] - validation_share), hash_of("ten", number // 10), number, name

    def runs() -> Iterator[list[list[str]]]:
        names = sorted(sizes, key=order)
        for length in (SERIES, *PARTS):
            yield _runs(names, representatives, length)

    _mend_the_share(sizes, settled, validating, validation_share, runs())
    if len(validating) == len(sizes):  # A label has to have something to learn from.
        validating -= {max(sizes.keys() - settled.keys(), key=lambda name: (hashes[name], name), default="")}
    return {
        path: former.get(path, VALIDATION if of_picture.object in validating else TRAIN)
        for path, of_picture in shown.items()
    }


def decided(sides: Iterable[tuple[Key, str]]) -> dict[Key, str]:
    """Returns the side of each key; training where it has both: what was trained on does not validate."""
    of_key: dict[Key, str] = {}
    for key, side in sides:
        if of_key.get(key) != TRAIN:
            of_key[key] = side
    return of_key


def _follow(representatives: Mapping[str, str], settled: Mapping[str, str]) -> dict[str, str]:
    """Returns the side of each object whose series has one: that of the nearest."""
    of_number = decided(
        (int(representatives[name]), side) for name, side in settled.items() if representatives[name].isdecimal()
    )
    numbers = sorted(of_number)
    sides = {}
    for name, first in representatives.items():
        if first.isdecimal():
            number = int(first)
            position = bisect_left(numbers, number)
            near = [n for n in numbers[max(0, position - 1) : position + 1] if n // SERIES == number // SERIES]
            if near:
                sides[name] = of_number[min(near, key=lambda n: abs(n - number))]
    return sides


def _settled(
    shown: Mapping[str, Shown], former: Mapping[str, str], representatives: Mapping[str, str]
) -> dict[str, str]:
    """Returns the split that earlier pictures decide, by object."""
    by_name = _objects_by_name({*shown, *former})
    of_gone = decided((by_name[path], side) for path, side in former.items() if path not in shown)
    gone = [(of_picture, of_gone[by_name[path]]) for path, of_picture in shown.items() if by_name[path] in of_gone]
    there = [(of_picture, former[path]) for path, of_picture in shown.items() if path in former]
    settled: dict[str, str] = {}
    # What is there counts for more than what is gone, as a leak to it is worse; the object for more than its looks.
    for known in gone, there:
        of_look = decided((of_picture.representative, side) for of_picture, side in known)
        settled |= {name: of_look[first] for name, first in representatives.items() if first in of_look}
        settled |= decided((of_picture.object, side) for of_picture, side in known)
    return settled


def _runs(names: Iterable[str], representatives: Mapping[str, str], length: int) -> list[list[str]]:
    """Groups objects into runs of `length` consecutive numbers, in the order of their first objects.

    With 0, each object is a run of its own.
    """
    runs: dict[int | str, list[str]] = defaultdict(list)
    for name in names:
        first = representatives[name]
        runs[name if length == 0 else int(first) // length if first.isdecimal() else first].append(name)
    return list(runs.values())


def _mend_the_share(
    sizes: Mapping[str, int],
    settled: Mapping[str, str],
    validating: set[str],
    validation_share: float,
    runs: Iterable[Iterable[Sequence[str]]],
) -> None:
    """Moves runs of objects in or out of `validating` until their pictures are near the share; the longest first."""
    total = sum(sizes.values())
    surplus = sum(sizes[name] for name in validating) - validation_share * total
    if abs(surplus) <= TOLERANCE * total:
        return
    for of_length in runs:
        for run in of_length:
            if abs(surplus) <= TOLERANCE * total:
                return
            inside = len(validating.intersection(run))
            change = sum(sizes[name] for name in run) * (-1 if inside else 1)
            whole = inside in (0, len(run)) and settled.keys().isdisjoint(run)
            if whole and abs(surplus + change) < abs(surplus):
                validating.symmetric_difference_update(run)
                surplus += change


def share_with_neighbours(pictures: Iterable[tuple[str, str, str | None]]) -> float:
    """Returns the share of the validation pictures of which a neighbour, by number and of the same label, trains.

    Args:
        pictures: Label, path below met_art, and split of each; None for those in neither.
    """
    labels: dict[str, dict[str, str]] = defaultdict(dict)
    for label, path, side in pictures:
        if side:
            labels[label][path] = side
    validating = near = 0
    for sides in labels.values():
        numbers = {path: int(name) for path, name in _objects_by_name(sides).items() if name.isdecimal()}
        training = {number for path, number in numbers.items() if sides[path] == TRAIN}
        of_validation = [numbers.get(path) for path, side in sides.items() if side == VALIDATION]
        validating += len(of_validation)
        near += sum(
            number is not None and not training.isdisjoint(range(number - NEIGHBOURS, number + NEIGHBOURS + 1))
            for number in of_validation
        )
    return near / max(1, validating)
