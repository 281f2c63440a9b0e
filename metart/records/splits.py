"""Which pictures train and which validate: decided per object by a hash, the same on every machine.

A hash of seed, label and object says on which side all photographs of an object are. Chance alone would leave
small labels far from the share that was asked for, so where a label is off by more than TOLERANCE, the objects
whose hash is nearest to the border change sides. Never those that had a side before: what a model was trained on
does not validate it later. Both at once need a memory, which is the splits.json of the run before; without
it, the hash alone still gives nearly all pictures the side they had.
"""

from collections import Counter
from collections.abc import Mapping
import hashlib
from pathlib import PurePosixPath
import re

TRAIN, VALIDATION = "train", "validation"
TOLERANCE = 0.05  # Of a label's pictures that may be on the wrong side of the share asked for.
# `436535.jpg`, `436535_1.jpg` and `met_436535.jpg` show object 436535. Other names are an object each.
_OBJECT_FILE = re.compile(r"(?:met_)?([0-9]+)(?:_[0-9]+)?")


def stable_hash(*parts: object) -> float:
    """Returns a number in [0, 1) that is as good as random and the same on every machine."""
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def assign(
    label: str, sha256: Mapping[str, str], former: Mapping[str, str], validation_share: float, seed: int
) -> dict[str, str]:
    """Splits the pictures of one label.

    Args:
        label: Part of every hash.
        sha256: Of the file of each picture, by path.
        former: The split of pictures that had one before, by path; they keep it.
        validation_share: Of the pictures, between 0 and 1. One object at least stays in training.
        seed: Part of every hash.

    Returns:
        "train" or "validation" by path.
    """
    objects = _objects(sha256)
    sizes = Counter(objects.values())
    hashes = {name: stable_hash(seed, label, name) for name in sizes}
    settled = {objects[path]: former[path] == VALIDATION for path in objects if path in former}
    validating = {name for name in sizes if settled.get(name, hashes[name] < validation_share)}

    surplus = sum(sizes[name] for name in validating) - validation_share * len(objects)
    for name in sorted(sizes.keys() - settled.keys(), key=lambda name: abs(hashes[name] - validation_share)):
        change = -sizes[name] if name in validating else sizes[name]
        if abs(surplus) > TOLERANCE * len(objects) and abs(surplus + change) < abs(surplus):
            validating ^= {name}
            surplus += change
    if len(validating) == len(sizes):  # Nobody validates what could not be learned.
        validating -= {max(sizes.keys() - settled.keys(), key=hashes.__getitem__, default="")}

    return {path: former.get(path, VALIDATION if name in validating else TRAIN) for path, name in objects.items()}


def _objects(sha256: Mapping[str, str]) -> dict[str, str]:
    """Returns the object of each path; objects that share a file, byte for byte, count as one."""
    merged_into: dict[str, str] = {}

    def find(name: str) -> str:
        while name in merged_into:
            name = merged_into[name]
        return name

    objects = {}
    first_of_file: dict[str, str] = {}
    for path, digest in sorted(sha256.items()):
        stem = PurePosixPath(path).stem
        match = _OBJECT_FILE.fullmatch(stem)
        objects[path] = match[1] if match else stem
        one, other = find(objects[path]), find(first_of_file.setdefault(digest, objects[path]))
        if one != other:
            merged_into[max(one, other)] = min(one, other)
    return {path: find(name) for path, name in objects.items()}
