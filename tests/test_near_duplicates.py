"""Perceptual hashes against those of imagehash, pairs against all with all, and the whole way to a split."""

from collections.abc import Callable
import io
import itertools
import json
import os
from pathlib import Path
import random
import tarfile

import corpus
import imagehash
import numpy as np
from PIL import Image, ImageEnhance, ImageOps
import pytest

import convert
from metart.records.near_duplicates import MAX_DISTANCE, PIXELS, pairs, perceptual_hash
from metart.records.pictures import normalise_and_show

Change = Callable[[Image.Image], Image.Image]


def work(seed: int, size: tuple[int, int] = (300, 240)) -> Image.Image:
    """Returns a picture with large and small forms, as artworks have."""
    generator = random.Random(seed)
    picture = Image.frombytes("RGB", (7, 6), generator.randbytes(3 * 7 * 6)).resize(size, Image.Resampling.BICUBIC)
    fine = Image.frombytes("RGB", (40, 30), generator.randbytes(3 * 40 * 30)).resize(size, Image.Resampling.BICUBIC)
    return Image.blend(picture, fine, 0.25)


def resaved(quality: int) -> Change:
    def change(picture: Image.Image) -> Image.Image:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return change


CHANGES: dict[str, Change] = {
    "quality": resaved(50),
    "smaller": lambda picture: picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS),
    "larger": lambda picture: picture.resize((picture.width * 3, picture.height * 3), Image.Resampling.BICUBIC),
    "lighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.15),
    "harder": lambda picture: ImageEnhance.Contrast(picture).enhance(1.2),
    "grey": lambda picture: picture.convert("L").convert("RGB"),
    "a border less": lambda picture: ImageOps.crop(picture, 3),
}


@pytest.mark.parametrize("number", range(20))
def test_the_hash_is_that_of_imagehash(number: int) -> None:
    small = work(number).convert("L").resize((PIXELS, PIXELS), Image.Resampling.BOX)
    oracle = imagehash.phash(small, hash_size=16, highfreq_factor=2).hash
    assert perceptual_hash(work(number)) == np.packbits(oracle).tobytes()


@pytest.mark.parametrize("name", CHANGES)
def test_a_copy_is_near_and_another_work_is_not(name: str) -> None:
    for number in range(30):
        original, other = work(number), work(number + 1000)
        assert list(pairs([perceptual_hash(original), perceptual_hash(CHANGES[name](original))])) == [(0, 1)]
        assert list(pairs([perceptual_hash(other), perceptual_hash(CHANGES[name](original))])) == []


@pytest.mark.parametrize("picture", [Image.new("RGB", (90, 90), "red"), work(0, (90, 15)), work(0, (5, 5))])
def test_a_plain_or_tiny_picture_has_no_hash(picture: Image.Image) -> None:
    assert perceptual_hash(picture) == b""
    assert perceptual_hash(resaved(80)(picture)) == b""


@pytest.mark.parametrize(("size", "max_side"), [((1400, 60), 640), ((1400, 40), 640), ((90, 70), 40), ((32, 20), 640)])
def test_a_copy_of_a_scroll_or_of_a_small_picture_is_known(size: tuple[int, int], max_side: int) -> None:
    """In the records a side of it may have a few pixels only."""
    for number in range(30):
        original, other = work(number, size), work(number + 1000, size)
        first, copy, second = (
            perceptual_hash(normalise_and_show(corpus.encode(picture), max_side)[1])
            for picture in (original, CHANGES["larger"](original), other)
        )
        assert list(pairs([first, copy])) == [(0, 1)]
        assert list(pairs([first, second])) == []


def groups(joined: set[tuple[int, int]]) -> set[frozenset[int]]:
    """Returns what pairs join."""
    found = {frozenset(pair) for pair in joined}
    for pair in joined:
        touched = {group for group in found if not group.isdisjoint(pair)}
        found = found - touched | {frozenset().union(*touched)}
    return found


def test_pairs_are_those_of_a_comparison_of_all_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metart.records.near_duplicates.COMPARED_AT_ONCE", 1000)  # Several blocks.
    generator = random.Random(0)
    bits = [generator.getrandbits(256) for _ in range(40)]
    for distance in (0, 1, MAX_DISTANCE - 1, MAX_DISTANCE, MAX_DISTANCE + 1, 0, 0):
        of = generator.choice(bits)
        bits.append(of ^ sum(1 << place for place in generator.sample(range(256), distance)))
    generator.shuffle(bits)
    hashes = [number.to_bytes(32, "big") for number in bits]
    found = set(pairs([b"", *hashes]))
    first = {number: position for position, number in reversed(list(enumerate(bits)))}
    expected = set()
    for (i, one), (j, other) in itertools.combinations(enumerate(bits), 2):
        same = one == other and first[one] == i  # Of many that are the same, each with the first.
        near = one != other and first[one] == i and first[other] == j and (one ^ other).bit_count() <= MAX_DISTANCE
        if same or near:
            expected.add((i + 1, j + 1))
    assert found <= expected and len(found) < len(expected)  # Some of the expected follow from others.
    assert groups(found) == groups(expected) and len(found) >= 5
    assert list(pairs([])) == list(pairs([b"", b""])) == []


def sides(folder: Path) -> dict[str, str]:
    pictures = json.loads((folder / "splits.json").read_text())["pictures"]
    return {path: picture["split"] for path, picture in pictures.items()}


def test_near_duplicates_lie_on_one_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each work once more under a far number: half the size, or made smaller because it was too large."""
    for label in ("Iran", "Korea"):
        folder = tmp_path / "met_art" / label
        folder.mkdir(parents=True)
        for number in range(20):
            original = work(number + 500 * (label == "Iran"))
            original.save(folder / f"{1000 * number}.jpg", quality=90)
            change = CHANGES["smaller" if number % 2 else "larger"]
            change(original).save(folder / f"{500_000 + 1000 * number}.{'jpg' if number % 3 else 'png'}")
    convert.main([f"--dataset_dir={tmp_path}", "--num_workers=1"])
    shown = capsys.readouterr().out
    assert "80 pictures of 80 objects in 40 series; objects that look like another: 40\n" in shown
    found = sides(tmp_path)
    for label in ("Iran", "Korea"):
        for number in range(20):
            copy = f"{label}/{500_000 + 1000 * number}.{'jpg' if number % 3 else 'png'}"
            assert found[f"{label}/{1000 * number}.jpg"] == found[copy]
    assert abs(list(found.values()).count("validation") / 80 - 0.25) <= 0.05


def test_drawings_that_differ_in_a_comment_only_leave_a_share_to_validate(tmp_path: Path) -> None:
    """As many look the same as there are: the label is not one object for that."""
    jpeg = corpus.encode(corpus.drawing(1, (200, 160)))
    for label in ("Iran", "Korea"):
        (tmp_path / "met_art" / label).mkdir(parents=True)
        for number in range(40):
            comment = f"{label} {number:06}".encode()
            segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
            (tmp_path / "met_art" / label / f"{number * 1000}.jpg").write_bytes(jpeg[:2] + segment + jpeg[2:])
    convert.main([f"--dataset_dir={tmp_path}", "--num_workers=1"])
    assert list(sides(tmp_path).values()).count("validation") in range(16, 25)


@pytest.mark.skipif("MET_ART_SHARED_DATA" not in os.environ, reason="MET_ART_SHARED_DATA does not name the real data")
def test_real_photographs_of_different_things_are_not_near() -> None:
    found: dict[str, list[bytes]] = {}
    with tarfile.open(Path(os.environ["MET_ART_SHARED_DATA"]) / "met-crops.tar") as archive:
        for member in archive:
            if member.isfile():
                source = archive.extractfile(member)
                assert source is not None
                label = Path(member.name).parent.name
                found.setdefault(label, []).append(perceptual_hash(Image.open(io.BytesIO(source.read()))))
    of_all = list(itertools.chain(*found.values()))
    assert sum(not of_picture for of_picture in of_all) < 0.01 * len(of_all)
    within = sum(len(list(pairs(hashes))) for hashes in found.values())
    assert within == len(list(pairs(of_all))) == 3  # None across labels; three pairs within, seen to be twins.
