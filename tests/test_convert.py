"""Pictures to records: compared with Pillow's own decode, killed, repeated, and given what is wrong."""

from collections import Counter
from collections.abc import Iterable
import contextlib
import csv
import io
import itertools
import json
import os
from pathlib import Path
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from typing import Any

from PIL import Image
import pytest

from metart.networks.slim_compat import tf
import arts
import convert
from metart.common.files import LOCK_FILENAME, locked
from metart.common.flags import UserError
from metart.common.labels import read_labels
from metart.records import decoding, record_set
from metart.records.record_set import Settings

SCRIPT = Path(convert.__file__)


def picture(seed: object, size: tuple[int, int] = (40, 15), format: str = "JPEG", **options: Any) -> bytes:
    """Returns a picture that no other seed gives: 4 x 4 blocks of colour, too few pixels to look like another."""
    pixels = random.Random(str(seed)).randbytes(3 * 16)
    output = io.BytesIO()
    Image.frombytes("RGB", (4, 4), pixels).resize(size, Image.Resampling.NEAREST).save(output, format, **options)
    return output.getvalue()


def draw(folder: Path, **counts: int) -> Path:
    """Writes so many JPEGs of each label and returns the folder."""
    for label, count in counts.items():
        (folder / "met_art" / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (folder / "met_art" / label / f"{number}.jpg").write_bytes(picture((label, number)))
    return folder


def run(folder: Path, *flags: str) -> None:
    convert.main([f"--dataset_dir={folder}", "--num_workers=1", *flags])


def records(folder: Path, split: str = "*") -> dict[str, dict[str, Any]]:
    """Returns the features of all records by file name, read without arts.py."""
    found: dict[str, dict[str, Any]] = {}
    for shard in sorted(folder.glob(f"arts_{split}_*-of-*.tfrecord")):
        for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
            feature = tf.train.Example.FromString(record).features.feature
            values = {
                key: (list(value.bytes_list.value) or list(value.int64_list.value))[0] for key, value in feature.items()
            }
            name = values["image/filename"].decode()
            assert name not in found, "a picture is stored once"
            found[name] = values | {"split": shard.name.split("_")[1]}
    return found


def written(folder: Path) -> dict[str, bytes]:
    """Returns the content of all files beside the pictures but the locks."""
    locks = (LOCK_FILENAME, record_set.READERS_LOCK)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name not in locks}


def pixels(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_names_counts_and_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path, Japan=20, American=40)
    run(tmp_path)
    shards = [f"arts_{split}_{n:05d}-of-00005.tfrecord" for split in ("train", "validation") for n in range(5)]
    assert sorted(written(tmp_path)) == [*shards, "labels.txt", "splits.json"]
    assert (tmp_path / "labels.txt").read_text() == "0:American\n1:Japan\n"
    found = records(tmp_path)
    assert {(name.split("/")[0], values["image/class/label"]) for name, values in found.items()} == {
        ("American", 0),
        ("Japan", 1),
    }
    described = json.loads((tmp_path / "splits.json").read_text())
    assert found.keys() == described["pictures"].keys()
    assert {name: values["split"] for name, values in found.items()} == {
        name: source["split"] for name, source in described["pictures"].items()
    }
    counted = Counter((values["split"], name.split("/")[0]) for name, values in found.items())
    for split, label in counted:
        assert described["counts"][split][label] == counted[split, label]
    assert 8 <= counted["validation", "American"] <= 12
    assert 4 <= counted["validation", "Japan"] <= 6
    last = capsys.readouterr().out.splitlines()[-1]
    validation = counted["validation", "American"] + counted["validation", "Japan"]
    assert last == (
        f"2 labels, {60 - validation} pictures for training and {validation} for validation, in 10 files in {tmp_path}"
    )


def test_a_jpeg_that_needs_no_change_is_stored_byte_for_byte(tmp_path: Path) -> None:
    draw(tmp_path, Iran=6, Korea=6)
    grey = io.BytesIO()
    Image.linear_gradient("L").save(grey, "JPEG")
    (tmp_path / "met_art/Iran/90.jpg").write_bytes(grey.getvalue())
    (tmp_path / "met_art/Iran/91.jpg").write_bytes(picture(91, (640, 10), progressive=True))
    run(tmp_path)
    for name, values in records(tmp_path).items():
        source = (tmp_path / "met_art" / name).read_bytes()
        assert values["image/encoded"] == source
        assert values["image/format"] == b"jpg"
        assert (values["image/width"], values["image/height"]) == pixels(source).size


def test_everything_else_becomes_an_upright_rgb_jpeg(tmp_path: Path) -> None:
    draw(tmp_path, Iran=3, Korea=3)
    folder = tmp_path / "met_art/Iran"
    upright = pixels(picture("turned", (40, 20))).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned by 90 degrees clockwise.
    upright.rotate(90, expand=True).save(folder / "90.jpg", exif=exif, quality=95)
    upright.save(folder / "91.jpg", "PNG")  # A PNG whatever the name says.
    upright.save(folder / "92.webp", lossless=True)
    upright.save(folder / "93.bmp")
    upright.save(folder / "94.tif")
    upright.convert("CMYK").save(folder / "95.jpg", quality=95)
    run(tmp_path)
    found = records(tmp_path)
    for number in ("90.jpg", "91.jpg", "92.webp", "93.bmp", "94.tif", "95.jpg"):
        values = found[f"Iran/{number}"]
        stored = pixels(values["image/encoded"])
        assert (stored.format, stored.mode, stored.size) == ("JPEG", "RGB", (40, 20))
        assert (values["image/width"], values["image/height"]) == (40, 20)
        # The same picture within what JPEG loses: the middle of each block.
        for x, y in [(5, 2), (15, 7), (25, 12), (35, 17)]:
            assert stored.getpixel((x, y)) == pytest.approx(upright.getpixel((x, y)), abs=40)


def test_large_pictures_get_the_longest_side_asked_for(tmp_path: Path) -> None:
    draw(tmp_path, Iran=2, Korea=2)
    (tmp_path / "met_art/Iran/90.jpg").write_bytes(picture(90, (500, 2000)))
    run(tmp_path, "--max_side=100")
    values = records(tmp_path)["Iran/90.jpg"]
    assert (values["image/width"], values["image/height"]) == (25, 100)
    assert pixels(values["image/encoded"]).size == (25, 100)


def test_the_same_bytes_with_any_number_of_workers_and_any_directory_order(tmp_path: Path) -> None:
    first = draw(tmp_path / "first", American=30, Iran=13, Japan=25)
    run(first)
    run_bytes = written(first)
    paths = [path.relative_to(first) for path in (first / "met_art").rglob("*.jpg")]
    random.Random(1).shuffle(paths)
    second = tmp_path / "second"
    for path in paths:
        (second / path.parent).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(first / path, second / path)
    run(second, "--num_workers=3")
    assert written(second) == run_bytes


def test_neighbours_in_a_shard_are_mixed(tmp_path: Path) -> None:
    draw(tmp_path, American=60, Iran=60)
    run(tmp_path, "--num_shards=1")
    labels = [values["image/class/label"] for values in records(tmp_path, "train").values()]
    changes = sum(one != next_one for one, next_one in itertools.pairwise(labels))
    assert 25 < changes < 65  # Half of 90 by chance; 1 if sorted.


def test_running_again_does_nothing_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path, American=8, Iran=8)
    (tmp_path / "met_art/Iran/90.jpg").write_bytes(b"damaged")
    run(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    capsys.readouterr()
    run(tmp_path)
    assert capsys.readouterr().out == f"nothing to do: the records in {tmp_path} are made from these 17 files\n"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times


def test_a_label_that_was_changed_beside_its_name_converts_again(tmp_path: Path) -> None:
    draw(tmp_path, American=8, Iran=8)
    run(tmp_path)
    before = record_set.read(tmp_path)
    (tmp_path / "met_art/Iran/.label").write_text("Iran, Kashan")
    run(tmp_path)
    after = record_set.read(tmp_path)
    assert before and after and after.sources == before.sources and after.fingerprint != before.fingerprint
    assert after.labels == read_labels(tmp_path) == ["American", "Iran, Kashan"]

    # Folders that change places: the same labels, as many pictures of each, and every answer another.
    (tmp_path / "met_art/Iran/.label").write_text("American")
    (tmp_path / "met_art/American/.label").write_text("Iran, Kashan")
    run(tmp_path)
    swapped = record_set.read(tmp_path)
    assert swapped and swapped.labels == after.labels and swapped.fingerprint != after.fingerprint
    of_pictures = {name: after.labels[content["image/class/label"]] for name, content in records(tmp_path).items()}
    assert {(name.split("/")[0], label) for name, label in of_pictures.items()} == {
        ("American", "Iran, Kashan"),
        ("Iran", "American"),
    }


def test_any_change_converts_anew_and_moves_no_old_picture(tmp_path: Path) -> None:
    draw(tmp_path, American=30, Iran=9)
    run(tmp_path)
    before = records(tmp_path)
    whole = written(tmp_path)

    draw(tmp_path, American=45, Iran=31, Korea=12)
    run(tmp_path)
    after = records(tmp_path)
    assert len(after) == 88
    assert {name: after[name]["split"] for name in before} == {name: before[name]["split"] for name in before}
    share = Counter(name.split("/")[0] for name, values in after.items() if values["split"] == "validation")
    assert all(abs(share[label] / count - 0.25) <= 0.06 for label, count in [("American", 45), ("Iran", 31)])

    changed = tmp_path / "met_art/Iran/0.jpg"
    changed.write_bytes(picture("another"))
    run(tmp_path)
    assert records(tmp_path)["Iran/0.jpg"]["image/encoded"] == changed.read_bytes()

    run(tmp_path, "--num_shards=3")
    assert len(list(tmp_path.glob("*.tfrecord"))) == 6, "the shards of the other count are gone"
    (tmp_path / "arts_train_00001-of-00003.tfrecord").unlink()
    run(tmp_path, "--num_shards=3")
    assert len(records(tmp_path)) == 88

    run(tmp_path, "--num_shards=3", "--random_seed=1")
    assert {name: values["split"] for name, values in records(tmp_path).items()} != {
        name: values["split"] for name, values in after.items()
    }

    for path in tmp_path.iterdir():
        if path.is_file():
            path.unlink()
    shutil.rmtree(tmp_path / "met_art")
    draw(tmp_path, American=30, Iran=9)
    run(tmp_path)
    assert written(tmp_path) == whole


def test_bad_pictures_are_listed_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path, American=10, Iran=10)
    folder = tmp_path / "met_art/Iran"
    (folder / "90.jpg").write_bytes(picture(90, (200, 200))[:-2000])
    (folder / "91.jpg").write_bytes(b"")
    (folder / "92.jpg").write_text("<!DOCTYPE html><html>slow down</html>")
    (folder / "93.txt").write_text("notes")
    run(tmp_path)
    assert f"left out, bad pictures: 4, listed in {tmp_path}/bad-pictures.csv\n" in capsys.readouterr().out
    with open(tmp_path / "bad-pictures.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [f"Iran/{name}" for name in ("90.jpg", "91.jpg", "92.jpg", "93.txt")]
    problems = ["truncated", "empty file", "a web page", "not a picture"]
    assert all(problem in row["problem"] for problem, row in zip(problems, rows, strict=True))
    assert len(records(tmp_path)) == 20

    for row in rows:
        (tmp_path / "met_art" / row["path"]).unlink()
    run(tmp_path)
    assert not (tmp_path / "bad-pictures.csv").exists()


def test_check_image_lists_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path, American=3, Iran=3)
    run(tmp_path, "--check_image=True")
    assert capsys.readouterr().out == f"6 pictures in {tmp_path}/met_art, all good\n"
    bad = tmp_path / "met_art/Iran/90.jpg"
    bad.write_bytes(b"")
    with pytest.raises(UserError, match=r"1 of 7 pictures are bad; replace them, or run convert.py without"):
        run(tmp_path, "--check_image=True")
    assert capsys.readouterr().out == f"{bad}: empty file\n"
    assert written(tmp_path) == {}
    run(tmp_path, "--check_image=False")
    with pytest.raises(UserError, match="1 of 7 pictures are bad"):
        run(tmp_path, "--check_image")  # Also where records exist.


def test_what_is_no_picture_is_passed_over_with_a_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path, American=3, Iran=3)
    root = tmp_path / "met_art"
    system = ("Iran/.DS_Store", "Iran/1.jpg:Zone.Identifier", "Iran/Thumbs.db")
    for name in ("SAMPLE.txt", "Iran/9.jpg.partial", "Iran/.label", *system):
        (root / name).write_text("Iran" if name.endswith(".label") else "-")
    (root / ".ipynb_checkpoints").mkdir()
    (root / "Iran/more").mkdir()
    run(tmp_path)
    assert capsys.readouterr().out.startswith(
        "skipped, not pictures: 7 (.ipynb_checkpoints, Iran/.DS_Store, Iran/1.jpg:Zone.Identifier, "
        "Iran/9.jpg.partial, Iran/Thumbs.db, Iran/more, SAMPLE.txt)\n"
    )
    assert not (tmp_path / "bad-pictures.csv").exists()
    assert len(records(tmp_path)) == 6


def test_labels_are_those_the_folders_were_made_for(tmp_path: Path) -> None:
    draw(tmp_path, **{"Roman%2FCypriot": 3, "中国": 3, "French, Paris": 3})
    run(tmp_path)
    assert (tmp_path / "labels.txt").read_text(encoding="utf-8") == "0:French, Paris\n1:Roman/Cypriot\n2:中国\n"
    assert records(tmp_path)["Roman%2FCypriot/0.jpg"]["image/class/label"] == 1


def test_a_picture_under_two_labels_is_left_out_and_reported(tmp_path: Path) -> None:
    draw(tmp_path, American=5, Iran=5)
    shutil.copyfile(tmp_path / "met_art/Iran/3.jpg", tmp_path / "met_art/American/77.jpg")
    run(tmp_path)
    assert (tmp_path / "bad-pictures.csv").read_text() == (
        "path,problem\n"
        'American/77.jpg,"the same file as Iran/3.jpg, under another label"\n'
        'Iran/3.jpg,"the same file as American/77.jpg, under another label"\n'
    )
    assert len(records(tmp_path)) == 9


def test_small_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path, American=8, Iran=8, Korea=1, Minoan=0)
    with pytest.raises(UserError, match=r"no readable picture of Minoan; --check_image .* --min_images_per_label=2"):
        run(tmp_path)
    assert written(tmp_path) == {}
    (tmp_path / "met_art/Minoan").rmdir()
    run(tmp_path)
    assert "labels without a validation picture: 1 (Korea)\n" in capsys.readouterr().out
    (tmp_path / "met_art/Minoan").mkdir()
    run(tmp_path, "--min_images_per_label=2")
    assert "left out, fewer than 2 pictures: Korea, Minoan\n" in capsys.readouterr().out
    assert (tmp_path / "labels.txt").read_text() == "0:American\n1:Iran\n"
    assert len(records(tmp_path)) == 16
    run(tmp_path, "--min_images_per_label=2")
    assert capsys.readouterr().out.startswith("nothing to do")


def test_objects_and_series_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["205", "205_1", "206", "310", "met_9001", "9001_2", "vase", "bowl"]  # Three series, two things without.
    for label in ("Iran", "Korea"):
        (tmp_path / "met_art" / label).mkdir(parents=True)
        for name in names:
            (tmp_path / "met_art" / label / f"{name}.jpg").write_bytes(picture((label, name)))
    run(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "16 pictures of 12 objects in 10 series; objects that look like another: 0"
    assert lines[1] == "validation pictures with a neighbour in training (number within 3): 0.0%"


def test_two_folders_of_one_label_are_neighbours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path, Iran=0, Persia=0)
    (tmp_path / "met_art/Persia/.label").write_text("Iran")
    draw_numbered(tmp_path, "Korea", range(40))
    for number in range(1000, 1040):
        (tmp_path / "met_art" / ("Persia", "Iran")[number % 2] / f"{number}.jpg").write_bytes(picture(number))
    run(tmp_path)
    of_number = {int(Path(name).stem): side for name, side in sides(tmp_path).items() if "Korea" not in name}
    near = [
        any(of_number.get(number + distance) == "train" for distance in range(-3, 4))
        for number, side in of_number.items()
        if side == "validation"
    ]
    share = sum(near) / list(sides(tmp_path).values()).count("validation")
    assert f"\nvalidation pictures with a neighbour in training (number within 3): {share:.1%}\n" in (
        capsys.readouterr().out
    )
    assert sum(near) >= 3  # One series that was cut: at least those at the border.


def test_a_label_of_one_object_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path, American=40, Iran=40)
    (tmp_path / "met_art/Korea").mkdir()
    for name in ("17", *(f"17_{number}" for number in range(1, 9))):
        (tmp_path / "met_art/Korea" / f"{name}.jpg").write_bytes(picture(name))
    run(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("89 pictures of 81 objects in ")
    assert lines[1:3] == [
        "labels without a validation picture: 1 (Korea)",
        "of these, all pictures are of one object, by the names of their files: Korea, pictures: 9",
    ]


@pytest.mark.parametrize("how", ["few", "bad", "away"])
def test_a_picture_that_was_left_out_for_a_while_keeps_its_side(tmp_path: Path, how: str) -> None:
    """The hash would split the label otherwise, as its pictures did not come at once."""
    draw(tmp_path, Iran=20)
    folder, away = tmp_path / "met_art" / "A", tmp_path / "away"
    folder.mkdir()

    def add(*numbers: int) -> None:
        for number in numbers:
            (folder / f"{number}.jpg").write_bytes(picture(number))
        run(tmp_path)

    def sides() -> dict[str, str]:
        return {name: of_picture["split"] for name, of_picture in records(tmp_path).items()}

    draw(tmp_path, China=20)
    add(250523, 571665, 137758, 388926, 498081)
    add(69711, 14807, 493025, 272952)
    before = sides()
    if how == "few":
        run(tmp_path, "--min_images_per_label=10")
    elif how == "bad":
        whole = {path: path.read_bytes() for path in folder.glob("[1-4]*.jpg")}
        for path in whole:
            path.write_bytes(b"<html>")
        run(tmp_path)
        for path, content in whole.items():
            path.write_bytes(content)
    else:
        folder.rename(away)
        run(tmp_path)
        run(tmp_path, "--max_side=100")  # Another set has been made meanwhile.
        away.rename(folder)
    assert sides() != before
    run(tmp_path)
    assert sides() == before


def test_a_name_without_an_ending_names_the_same_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for ending in (".jpg", ""):
        folder = tmp_path / f"set{ending}"
        for label, numbers in {"Iran": range(436500, 436700, 4), "China": range(100, 120)}.items():
            (folder / "met_art" / label).mkdir(parents=True)
            for number in numbers:
                (folder / "met_art" / label / f"{number}{ending}").write_bytes(picture(number))
        run(folder)
        said.append(capsys.readouterr().out.replace(str(folder), ""))
    assert said[0] == said[1]
    assert "70 pictures of 70 objects in 3 series" in said[0]


def test_records_of_another_split_are_the_users(tmp_path: Path) -> None:
    draw(tmp_path, American=3, Iran=3)
    own = tmp_path / "arts_test_00000-of-00001.tfrecord"
    own.write_bytes(b"by hand")
    run(tmp_path)
    run(tmp_path, "--max_side=100")
    assert own.read_bytes() == b"by hand"


def test_an_empty_folder_is_never_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (draw(tmp_path, American=3, Iran=3) / "met_art" / "French").mkdir()
    for flags in (["--check_image"], []):
        with pytest.raises(UserError, match=r"has no (readable )?picture of French"):
            run(tmp_path, *flags)
    run(tmp_path, "--min_images_per_label=2")
    capsys.readouterr()
    run(tmp_path, "--min_images_per_label=2")
    assert capsys.readouterr().out.startswith("nothing to do")
    (tmp_path / "met_art" / "French").rmdir()
    run(tmp_path)
    (tmp_path / "met_art" / "French").mkdir()
    with pytest.raises(UserError, match="has no readable picture of French"):
        run(tmp_path)


def test_a_list_of_bad_pictures_that_was_deleted_is_written_again(tmp_path: Path) -> None:
    draw(tmp_path, American=3, Iran=4)
    (tmp_path / "met_art/Iran/0.jpg").write_bytes(b"<html>")
    run(tmp_path)
    bad = tmp_path / "bad-pictures.csv"
    content = bad.read_bytes()
    bad.unlink()
    run(tmp_path)
    assert bad.read_bytes() == content


def test_a_label_that_an_editor_wrote_ends_with_its_line(tmp_path: Path) -> None:
    label = draw(tmp_path, American=3, Iran=3) / "met_art" / "Iran" / ".label"
    label.write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"\.label is not UTF-8 text; write the label into it"):
        run(tmp_path)
    label.write_text("two\nlines\n")
    with pytest.raises(UserError, match=r"is not one line of text; write the label into .*/Iran/\.label"):
        run(tmp_path)
    label.write_text("Iran, Nishapur\r\n", encoding="utf-8-sig")
    run(tmp_path)
    assert read_labels(tmp_path) == ["American", "Iran, Nishapur"]


def test_numbers_of_somebody_elses_list_are_no_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index, label in enumerate(("American", "Iran")):
        (tmp_path / "met_art" / label).mkdir(parents=True)
        for number in range(40):
            (tmp_path / "met_art" / label / f"{index}_{number}.jpg").write_bytes(picture((label, number)))
    run(tmp_path)
    output = capsys.readouterr().out
    assert output.startswith("80 pictures of 80 objects in 80 series; ")
    assert "without a validation picture" not in output
    counts = Counter(
        source["split"] for source in json.loads((tmp_path / "splits.json").read_text())["pictures"].values()
    )
    assert 16 <= counts["validation"] <= 24


def test_a_set_that_knew_no_series_keeps_its_sides_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path, American=40, Iran=40)
    run(tmp_path)
    new = written(tmp_path)
    path = tmp_path / "splits.json"
    old = json.loads(path.read_text())
    del old["fingerprint"], old["settings"]["series"]
    generator = random.Random(0)
    for source in old["pictures"].values():
        source["split"] = generator.choice(["train", "train", "train", "validation"])
    sides = Counter((source["split"], name.split("/")[0]) for name, source in old["pictures"].items())
    old["counts"] = {
        split: {label: sides[split, label] for label in of_split} for split, of_split in old["counts"].items()
    }
    path.write_text(json.dumps(old, indent=1))
    kept = (
        "kept: the side that each picture had before series were kept together; for a new split move "
        f"{path} away and run convert.py again\n"
    )
    capsys.readouterr()
    run(tmp_path)
    assert capsys.readouterr().out == kept + f"nothing to do: the records in {tmp_path} are made from these 80 files\n"

    draw(tmp_path, American=50)
    for _ in range(2):  # It is said every time: also when the set was written anew with those sides.
        run(tmp_path)
        assert capsys.readouterr().out.startswith(kept)
    now = {name: source["split"] for name, source in json.loads(path.read_text())["pictures"].items()}
    assert {name: now[name] for name in old["pictures"]} == {n: s["split"] for n, s in old["pictures"].items()}

    path.unlink()
    shutil.rmtree(tmp_path / "met_art")
    draw(tmp_path, American=40, Iran=40)
    run(tmp_path)
    assert "kept" not in capsys.readouterr().out
    assert written(tmp_path) == new


def sides(folder: Path) -> dict[str, str]:
    """Returns the side of each picture that has one, by path."""
    pictures = json.loads((folder / "splits.json").read_text())["pictures"]
    return {name: source["split"] for name, source in pictures.items() if source["split"]}


def draw_numbered(folder: Path, label: str, numbers: Iterable[int]) -> None:
    """Draws pictures of objects far from each other, or adds some."""
    (folder / "met_art" / label).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / "met_art" / label / f"{100 * number}.jpg").write_bytes(picture(f"{label} {number}"))


def test_a_set_keeps_its_sides_when_a_label_or_a_file_gets_another_name(tmp_path: Path) -> None:
    root = tmp_path / "met_art"
    draw(tmp_path, French=20)
    draw_numbered(tmp_path, "Japan", range(8))
    run(tmp_path)
    draw_numbered(tmp_path, "Japan", range(60))
    run(tmp_path)
    before = sides(tmp_path)
    (root / "Japan").rename(root / "Japanese")
    run(tmp_path)
    assert sides(tmp_path) == {name.replace("Japan/", "Japanese/"): side for name, side in before.items()}
    for path in (root / "Japanese").iterdir():  # Nothing but the number tells that these are the same.
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    run(tmp_path)
    after = {Path(name).stem: side for name, side in sides(tmp_path).items() if name.startswith("Japanese/")}
    assert after == {Path(name).stem: side for name, side in before.items() if name.startswith("Japan/")}


def test_content_keeps_its_side_whatever_its_name_and_label_are_when_it_comes_back(tmp_path: Path) -> None:
    draw(tmp_path, French=24, Japan=60)
    run(tmp_path)
    root, before = tmp_path / "met_art", sides(tmp_path)
    trained = [name for name, side in before.items() if name.startswith("Japan/") and side == "train"]
    away = {f"French/{number}99007.jpg": (root / name).read_bytes() for number, name in enumerate(trained[:16])}
    for name in trained[:16]:
        (root / name).unlink()
    run(tmp_path)
    for name, content in away.items():
        (root / name).write_bytes(content)
    run(tmp_path)
    assert {sides(tmp_path)[name] for name in away} == {"train"}

    validated = next(name for name, side in before.items() if name.startswith("Japan/") and side == "validation")
    for name in (trained[-1], validated):  # One new file in the place of two.
        (root / name).write_bytes(picture("new"))
    run(tmp_path)
    assert sides(tmp_path)[trained[-1]] == sides(tmp_path)[validated] == "train"

    (root / validated).write_bytes((root / trained[-2]).read_bytes())
    (root / trained[-2]).rename(root / validated.replace("Japan", "French"))  # Left out: one file, two labels.
    run(tmp_path)
    (root / validated.replace("Japan", "French")).unlink()
    run(tmp_path)
    assert sides(tmp_path)[validated] == "train"


def test_pictures_that_take_each_others_names_keep_their_sides(tmp_path: Path) -> None:
    draw(tmp_path, French=12, Japan=40)
    run(tmp_path)
    before, root = sides(tmp_path), tmp_path / "met_art" / "Japan"
    names = sorted(root.iterdir())
    contents = {path.read_bytes(): before[f"Japan/{path.name}"] for path in names}
    names[0].unlink()
    for lower, upper in itertools.pairwise(names):
        upper.rename(lower)
    run(tmp_path)
    after = sides(tmp_path)
    assert {path.name for path in root.iterdir() if after[f"Japan/{path.name}"] != contents[path.read_bytes()]} == set()


def test_pictures_of_a_label_that_was_left_out_keep_their_sides_in_another(tmp_path: Path) -> None:
    """As when a rare label is merged into one that has more pictures."""
    draw(tmp_path, French=24, Iran=60)
    folder = tmp_path / "met_art" / "Persia"
    folder.mkdir()
    for number in range(70_000, 70_012):  # A series, which would be on one side where there is more beside it.
        (folder / f"{number}.jpg").write_bytes(picture(number))
    run(tmp_path)
    before = sides(tmp_path)
    run(tmp_path, "--min_images_per_label=20")
    for path in folder.iterdir():
        path.rename(tmp_path / "met_art" / "Iran" / path.name)
    folder.rmdir()
    run(tmp_path)
    moved = {name: side for name, side in before.items() if name.startswith("Persia/")}
    assert set(moved.values()) == {"train", "validation"}
    assert {name: sides(tmp_path)[name.replace("Persia", "Iran")] for name in moved} == moved


def test_an_object_that_comes_back_finds_its_photographs_on_its_side(tmp_path: Path) -> None:
    draw(tmp_path, French=24)
    draw_numbered(tmp_path, "Japan", range(24))
    run(tmp_path)
    root = tmp_path / "met_art" / "Japan"
    for name in [Path(name).stem for name in sides(tmp_path) if name.startswith("Japan/")][::4]:
        (root / f"{name}.jpg").rename(tmp_path / f"{name}.jpg")
        (root / f"{name}_1.jpg").write_bytes(picture(f"another view of {name}"))
        run(tmp_path)
        (tmp_path / f"{name}.jpg").rename(root / f"{name}.jpg")
        run(tmp_path)
        found = sides(tmp_path)
        assert found[f"Japan/{name}.jpg"] == found[f"Japan/{name}_1.jpg"]


def test_a_new_split_is_announced_and_a_label_without_training_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path, French=12, Japan=12)
    run(tmp_path)
    run(tmp_path, "--percent_validation=30")
    said = "a new split: the sides of --percent_validation=25 --random_seed=0 are forgotten\n"
    assert said in capsys.readouterr().out
    for name, side in sides(tmp_path).items():
        if side == "train" and name.startswith("Japan/"):
            (tmp_path / "met_art" / name).unlink()
    run(tmp_path, "--percent_validation=30")
    assert f"labels without a training picture: 1 (Japan); for a new split move {tmp_path}/splits.json away" in (
        capsys.readouterr().out
    )


def test_an_old_set_with_folders_of_other_names_is_whole(tmp_path: Path) -> None:
    draw(tmp_path, **{"Roman%2FCypriot": 8, "French": 8})
    run(tmp_path)
    before = sides(tmp_path)
    described = json.loads((tmp_path / "splits.json").read_text())
    for name in ("folders", "fingerprint", "former_sides", "former_contents"):
        del described[name]
    (tmp_path / "splits.json").write_text(json.dumps(described))
    run(tmp_path)
    assert sides(tmp_path) == before


def test_linked_folders_and_folders_with_any_name(tmp_path: Path) -> None:
    """Brackets and stars are no patterns, links are followed, wherever they are."""
    data = tmp_path / "a [1] * ? {b}"
    draw(tmp_path / "elsewhere", Iran=12, Korea=12)
    data.mkdir()
    (data / "met_art").mkdir()
    (data / "met_art" / "Iran").symlink_to(tmp_path / "elsewhere/met_art/Iran")
    (data / "met_art" / "[Korea]").symlink_to("../../elsewhere/met_art/Korea")
    run(data)
    run(data, "--num_shards=2")
    assert len(records(data)) == 24
    assert (data / "labels.txt").read_text() == "0:Iran\n1:[Korea]\n"
    link = tmp_path / "link"
    link.symlink_to(data)
    run(link, "--num_shards=2", "--random_seed=1")
    assert len(list(data.glob("*.tfrecord"))) == 4
    assert link.is_symlink()


@pytest.mark.parametrize(
    ("counts", "flags", "message"),
    [
        (None, [], r"no folder .*/met_art; run download.py, or mkdir -p .* && tar -xzf sample-dataset.tar.gz -C "),
        ({}, [], "met_art has no folder of a label, as .*/met_art/French with pictures in it; run download.py, or "),
        ({"Iran": 3}, [], "labels with 1 or more readable pictures: 1; a classifier needs two; run download.py"),
        (
            {"Iran": 3, "Korea": 2},
            ["--min_images_per_label=3"],
            "labels with 3 or more readable pictures: 1; a classifier needs two; lower --min_images_per_label",
        ),
        ({"Iran": 3, "Korea": 0}, [], "no readable picture of Korea; --check_image"),
    ],
)
def test_what_cannot_be_converted(
    tmp_path: Path, counts: dict[str, int] | None, flags: list[str], message: str
) -> None:
    if counts is not None:
        (tmp_path / "met_art").mkdir()
        draw(tmp_path, **counts)
    with pytest.raises(UserError, match=message):
        run(tmp_path, *flags)
    assert written(tmp_path) == {}


def test_more_bad_than_good_pictures_end_the_run(tmp_path: Path) -> None:
    draw(tmp_path, American=1, Iran=1)
    for number in range(90, 93):
        (tmp_path / f"met_art/Iran/{number}.jpg").write_text("<html>slow down</html>")
    with pytest.raises(UserError, match=r"3 of 5 pictures in .* are bad; --check_image lists them"):
        run(tmp_path)
    assert written(tmp_path) == {}


@pytest.mark.parametrize("content", ['{"settings":', "[" * 200_000], ids=["cut off", "deeply nested"])
def test_a_damaged_splits_json_is_not_overlooked(tmp_path: Path, content: str) -> None:
    draw(tmp_path, American=3, Iran=3)
    (tmp_path / "splits.json").write_text(content)
    with pytest.raises(UserError, match=r"splits.json is damaged; move it away and run convert.py .* for a new split"):
        run(tmp_path)


@pytest.mark.parametrize("flag", ["--percent_validation=0", "--percent_validation=91", "--num_shards=0"])
def test_flags_out_of_range(tmp_path: Path, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(tmp_path, flag)
    assert capsys.readouterr().err.startswith(f"error: argument {flag.split('=')[0]}: ")


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    draw(tmp_path, American=40, Iran=40)
    limited = f"ulimit -f 24 && exec {sys.executable} {SCRIPT} --dataset_dir={tmp_path} --num_workers=1 --num_shards=1"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    assert written(tmp_path) == {}


def draw_much(folder: Path) -> Path:
    """Writes 600 pictures that take some milliseconds each."""
    for label in ("American", "Iran"):
        (folder / "met_art" / label).mkdir(parents=True)
        (folder / "met_art" / label / "0.jpg").write_bytes(picture(label, (1800, 1800)))
        for number in range(1, 300):
            os.link(folder / "met_art" / label / "0.jpg", folder / "met_art" / label / f"{number}.jpg")
    return folder


@pytest.mark.parametrize("seconds", [0, 2])
def test_ctrl_c_is_one_line_and_leaves_nothing(seconds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the workers, which are slow here, still load what they need."""
    (tmp_path / "slow").mkdir()
    slow = (
        f"import sys, time\nwhile '--multiprocessing-fork' in sys.orig_argv and time.process_time() < {seconds}: pass\n"
    )
    (tmp_path / "slow/sitecustomize.py").write_text(slow)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "slow"))
    process = start(draw_much(tmp_path))
    wait_for_workers(process)
    os.killpg(process.pid, signal.SIGINT)  # As the terminal does: the workers get it too.
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted: run the same command again to continue"
    assert "Traceback" not in errors
    assert written(tmp_path) == {}


def test_kill_leaves_no_processes_and_one_partial_file(tmp_path: Path) -> None:
    process = start(draw_much(tmp_path))
    workers = wait_for_workers(process)
    process.kill()
    process.communicate()
    assert written(tmp_path).keys() == {record_set.STORE_FILENAME}
    deadline = time.monotonic() + 20
    while any(is_running(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(is_running(worker) for worker in workers)


def whole_set(folder: Path) -> dict[str, bytes]:
    """Returns the files of the set that a reader finds, once it is proved to be whole."""
    with record_set.reading(folder) as described:
        assert described
        assert read_labels(folder) == described.labels
        for split in arts.SPLIT_NAMES:
            expected = {path for path, source in described.sources.items() if source.split == split}
            assert arts.get_split(split, folder).num_samples == len(expected)
            assert records(folder, split).keys() == expected
    return {name: data for name, data in written(folder).items() if not name.endswith(".partial")}


def test_killed_at_any_moment_of_the_exchange_there_is_the_old_set_or_the_new_one(tmp_path: Path) -> None:
    """What is renamed, in this order: splits.json, two shards of each split, labels.txt, bad-pictures.csv."""
    once = draw(tmp_path / "once", A=12, B=12)
    (once / "met_art/B/90.jpg").write_bytes(b"")
    run(once, "--num_shards=3")
    old = written(once)
    draw(once, A=20, B=20, C=5)
    folders = {
        (function, calls): Path(shutil.copytree(once, tmp_path / f"{function}-{calls}"))
        for function, of_function in (("replace", 7), ("unlink", 7))
        for calls in range(of_function)
    }
    run(once, "--num_shards=2")
    new = written(once)
    found: Counter[bool] = Counter()
    for (function, calls), folder in folders.items():
        killed_after(folder, function, calls)
        left = whole_set(folder)
        assert left in (old, new), (function, calls)
        found[left == new] += 1
        run(folder, "--num_shards=2")
        assert written(folder) == new, (function, calls)
    assert found == {False: 2, True: 12}  # Killed before the first rename; after it, the new set counts.


@pytest.mark.parametrize("calls", range(7))
def test_ctrl_c_in_the_exchange_leaves_the_new_set_and_no_other_file(tmp_path: Path, calls: int) -> None:
    folder = draw(tmp_path / "set", A=12, B=12)
    run(folder, "--num_shards=3")
    draw(folder, A=20, B=20)
    expected = draw(tmp_path / "expected", A=12, B=12)
    run(expected)
    draw(expected, A=20, B=20)
    run(expected, "--num_shards=2")
    errors = killed_after(folder, "replace", min(calls, 5), with_signal=signal.SIGINT)
    assert errors.splitlines()[-1].startswith("KeyboardInterrupt")
    assert whole_set(folder) == written(folder) == written(expected)


def test_ctrl_c_before_the_exchange_leaves_the_old_set_and_no_other_file(tmp_path: Path) -> None:
    folder = draw(tmp_path / "set", A=12, B=12)
    run(folder)
    old = written(folder)
    draw(folder, A=20, B=20)
    killed_after(folder, "fsync", 2, with_signal=signal.SIGINT)  # Of splits.json.
    assert whole_set(folder) == written(folder) == old


def test_killed_before_the_exchange_the_old_set_stays(tmp_path: Path) -> None:
    folder = draw(tmp_path, A=12, B=12)
    run(folder)
    old = written(folder)
    killed_after(folder, "replace", calls=0)
    left = written(folder)
    assert sum(".tfrecord." in name and name.endswith(".partial") for name in left) == 4
    assert {name: data for name, data in left.items() if not name.endswith(".partial")} == old
    run(folder, "--num_shards=3")
    assert not list(folder.glob("*.partial"))


def test_what_a_killed_run_left_goes_where_there_is_nothing_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = draw(tmp_path / "set", A=12, B=12)
    run(folder)
    old = written(folder)
    killed_after(folder, "unlink", calls=0)  # All shards are written.
    left = written(folder)
    assert {*old, record_set.STORE_FILENAME} < left.keys()
    for is_locked in (True, False):
        capsys.readouterr()
        with locked(folder) if is_locked else contextlib.nullcontext():
            run(folder)
        assert capsys.readouterr().out.startswith("nothing to do")
        assert written(folder) == (left if is_locked else old)


def test_a_worker_that_is_killed_while_it_writes_leaves_the_old_set(tmp_path: Path) -> None:
    folder = draw(tmp_path, A=12, B=12)
    run(folder)
    old = written(folder)
    errors = killed_after(folder, "fsync", calls=3, process="worker")
    assert "UserError: a worker process was killed" in errors
    assert written(folder) == old


def test_a_picture_that_changes_meanwhile_ends_the_run(tmp_path: Path) -> None:
    root = draw(tmp_path, A=3, B=3) / "met_art"
    labels, names, _ = convert.find_files(root)
    store = tmp_path / record_set.STORE_FILENAME
    settings = Settings(1, 1, 1, 1, 1)
    with decoding.start_workers(1) as workers:
        pictures = decoding.read_pictures(root, labels, 100, workers, store)
        convert.split_pictures(pictures, {}, settings)
        (root / "B" / "2.jpg").write_bytes(picture("another"))
        with pytest.raises(UserError, match=f"{root}/B/2.jpg was changed while convert.py ran; run it again"):
            record_set.write(tmp_path, pictures, names, settings, record_set.Sides(), workers)
    assert written(tmp_path).keys() <= {record_set.STORE_FILENAME}


def killed_after(
    folder: Path, function: str, calls: int, process: str = "parent", with_signal: signal.Signals = signal.SIGKILL
) -> str:
    """Has convert.py or its worker get a signal before it calls a function of `os` once more.

    Returns:
        What convert.py wrote to stderr.
    """
    program = f"""
import os, signal, sys
import convert
original, left = os.{function}, {calls}
def counted(*arguments, **keywords):
    global left
    if left == 0:
        os.kill(os.getpid(), {int(with_signal)})
    left -= 1
    return original(*arguments, **keywords)
if __name__ == "{"__main__" if process == "parent" else "__mp_main__"}":
    os.{function} = counted
if __name__ == "__main__":
    convert.main(sys.argv[1:])
"""
    script = folder.parent / f"killed-{folder.name}.py"
    script.write_text(program)
    arguments = [f"--dataset_dir={folder}", "--num_workers=1", "--num_shards=2"]
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parent)}
    done = subprocess.run([sys.executable, script, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == (-with_signal if process == "parent" else 1), done.stderr
    return done.stderr


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, SCRIPT, f"--dataset_dir={folder}", "--num_workers=2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_workers(process: subprocess.Popen[str]) -> list[int]:
    """Returns the ids of the two workers when they are at work: they have used some processor time."""
    for _ in range(600):
        workers = [pid for pid, parent, ticks in processes() if parent == process.pid and ticks > 40]
        if len(workers) >= 2:
            return workers
        assert process.poll() is None, "it was over too soon"
        time.sleep(0.05)
    raise AssertionError("no workers")


def processes() -> list[tuple[int, int, int]]:
    """Returns (process id, parent's id, ticks of processor time used) of all processes."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            found.append((int(folder.name), int(fields[1]), int(fields[11]) + int(fields[12])))
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif("MET_ART_SHARED_DATA" not in os.environ, reason="MET_ART_SHARED_DATA does not name the real data")
def test_real_photographs(tmp_path: Path) -> None:
    """Every 20th of the museum's crops: all are stored byte for byte, every label has its share."""
    with tarfile.open(Path(os.environ["MET_ART_SHARED_DATA"]) / "met-crops.tar") as archive:
        members = [member for member in archive if member.isfile()][::20]
        for member in members:
            source = archive.extractfile(member)
            assert source is not None
            target = tmp_path / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read())
    run(tmp_path)
    found = records(tmp_path)
    assert len(found) == len(members)
    assert all(values["image/encoded"] == (tmp_path / "met_art" / name).read_bytes() for name, values in found.items())
    validation = sum(values["split"] == "validation" for values in found.values())
    assert abs(validation / len(found) - 0.25) < 0.05
