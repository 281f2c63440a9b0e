"""What a set is, who reads it, and which pictures a run has seen."""

from collections.abc import Callable
import hashlib
import json
from pathlib import Path
import random
import shutil
import subprocess
import sys
import time

import numpy as np
from PIL import Image
from processes import REPO
import pytest

import convert
from metart.common.flags import Retry, UserError
from metart.records import record_set, seen_pictures
from metart.records.record_set import RecordSet


def draw(folder: Path, **counts: int) -> Path:
    """Writes so many pictures of each label, all different."""
    for label, count in counts.items():
        (folder / "met_art" / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = random.Random(f"{label} {number}").randbytes(3 * 8 * 6)
            Image.frombytes("RGB", (8, 6), pixels).save(folder / "met_art" / label / f"{1000 * number}.jpg")
    return folder


def run(folder: Path, *flags: str) -> RecordSet:
    convert.main([f"--dataset_dir={folder}", "--num_workers=1", *flags])
    found = record_set.read(folder)
    assert found
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return draw(tmp_path / "data", A=12, B=12)


def test_a_set_is_described(folder: Path) -> None:
    found = run(folder, "--num_shards=2")
    assert found.labels == ["A", "B"]
    assert (found.settings.num_shards, found.settings.percent_validation) == (2, 25)
    assert found.shards == {path.name: path.stat().st_size for path in folder.glob("*.tfrecord")}
    for path, source in found.sources.items():
        assert source.sha256 == hashlib.sha256((folder / "met_art" / path).read_bytes()).hexdigest()
    assert json.loads((folder / "splits.json").read_text())["fingerprint"] == found.fingerprint
    assert {source.split for source in found.sources.values()} == {"train", "validation"}


def rename_a_label(folder: Path) -> None:
    (folder / "met_art/B").rename(folder / "met_art/C")


def add_a_picture(folder: Path) -> None:
    draw(folder, A=13)


def change_a_picture(folder: Path) -> None:
    shutil.copyfile(folder / "met_art/A/0.jpg", folder / "met_art/A/3000.jpg")


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        (rename_a_label, ""),
        (add_a_picture, ""),
        (change_a_picture, ""),
        (lambda folder: None, "--random_seed=1"),
        (lambda folder: None, "--percent_validation=40"),
        (lambda folder: None, "--max_side=100"),
    ],
)
def test_another_set_has_another_fingerprint(folder: Path, change: Callable[[Path], None], flag: str) -> None:
    before = run(folder).fingerprint
    change(folder)
    assert run(folder, *filter(None, [flag])).fingerprint != before


def test_the_same_set_elsewhere_has_the_same_fingerprint(folder: Path, tmp_path: Path) -> None:
    other = draw(tmp_path / "other", B=12, A=12)
    (other / "met_art/A/9.txt").write_text("no picture")  # It is in no record.
    assert run(other).fingerprint == run(folder).fingerprint


def test_a_set_of_before_the_fingerprint_has_one_all_the_same(folder: Path) -> None:
    expected = run(folder)
    described = json.loads((folder / "splits.json").read_text())
    del described["fingerprint"]
    (folder / "splits.json").write_text(json.dumps(described))
    assert record_set.read(folder) == expected


def test_a_folder_without_a_description(tmp_path: Path) -> None:
    assert record_set.read(tmp_path) is None
    with record_set.reading(tmp_path / "none") as found:
        assert found is None
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "spoil", [("train", "validation"), ('"A"', '"D"'), ('"A": ', '"A": 1'), ('"max_side"', '"min_side"'), ("{", "[")]
)
def test_a_description_that_was_changed_is_refused(folder: Path, spoil: tuple[str, str]) -> None:
    run(folder)
    path = folder / "splits.json"
    path.write_text(path.read_text().replace(*spoil))
    with pytest.raises(UserError, match=f"{path} is damaged; move it away and run convert.py --dataset_dir={folder}"):
        record_set.read(folder)


HOLD = """
import sys
from metart.records import record_set
with record_set.reading(sys.argv[1]):
    print("reading", flush=True)
    sys.stdin.read()
"""


def start_reader(folder: Path) -> subprocess.Popen[str]:
    """Returns a process that reads the records until its stdin is closed."""
    reader = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout and reader.stdout.readline() == "reading\n"
    return reader


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_records_that_got_a_description_are_not_what_they_were(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "splits.json").unlink(missing_ok=True)
    assert record_set.is_still(folder, None)  # As those of slim and of the original tutorial.
    run(folder)
    assert not record_set.is_still(folder, None)
    assert record_set.is_still(folder, record_set.read(folder))


def test_records_that_are_read_are_not_exchanged(folder: Path) -> None:
    run(folder)
    reader, second = start_reader(folder), start_reader(folder)
    before = files(folder)
    for left in (reader, second):
        pattern = (
            rf"(another program|process|\w+\.py) ?.*is reading the records in {folder}; run the same command again"
        )
        with pytest.raises(Retry, match=pattern):
            run(folder, "--random_seed=1")
        assert files(folder) == before
        run(folder)  # Nothing to do, so nobody minds.
        left.communicate()
    run(folder, "--random_seed=1")
    assert files(folder) != before


def test_a_reader_who_came_meanwhile_is_waited_for(folder: Path) -> None:
    old = run(folder)
    for number in range(600):
        draw_large(folder / "met_art/A" / f"{10**6 + number}.jpg", number)
    command = [
        sys.executable,
        str(REPO / "convert.py"),
        f"--dataset_dir={folder}",
        "--num_workers=1",
        "--random_seed=1",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (folder / record_set.STORE_FILENAME).exists():
        assert process.poll() is None
        time.sleep(0.01)
    reader = start_reader(folder)
    assert process.stderr
    line = next(line for line in process.stderr if not line.startswith("convert:"))
    assert line.startswith("waiting: ") and f"is reading the records in {folder}" in line
    assert record_set.read(folder) == old
    reader.communicate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output.splitlines()[-1].startswith("2 labels")
    assert record_set.read(folder) != old


def draw_large(path: Path, number: int) -> None:
    Image.new("RGB", (700, 300), (number % 256, number // 256, 0)).save(path, quality=40)


def test_a_read_only_folder_is_read(folder: Path) -> None:
    expected = run(folder)
    for lock in (True, False):
        if not lock:
            (folder / record_set.READERS_LOCK).unlink()
        folder.chmod(0o555)
        try:
            with record_set.reading(folder) as found:
                assert found == expected
        finally:
            folder.chmod(0o755)


def seen_of(records: RecordSet, split: str, train_dir: Path) -> int | None:
    return seen_pictures.count(records, seen_pictures.names_of(records, split), train_dir)


def test_a_run_remembers_the_pictures_it_has_seen(folder: Path, tmp_path: Path) -> None:
    first = run(folder)
    assert seen_pictures.read(tmp_path) is None
    assert seen_pictures.note(tmp_path, np.empty(0, np.uint64), first, "train")
    seen = seen_pictures.read(tmp_path)
    assert seen is not None
    assert len(seen) == sum(source.split == "train" for source in first.sources.values()) == 18
    assert (tmp_path / seen_pictures.FILENAME).stat().st_size < 18 * 8 + 200
    assert seen_of(first, "train", tmp_path) == 18
    assert seen_of(first, "validation", tmp_path) == 0

    # With another seed, and under other names, those that train now are counted by a comparison of their bytes.
    for path in (folder / "met_art/A").iterdir():
        path.rename(path.with_stem(f"7{path.stem}"))
    second = run(folder, "--random_seed=5")
    trained = {source.sha256 for source in first.sources.values() if source.split == "train"}
    expected = sum(s.sha256 in trained for s in second.sources.values() if s.split == "validation")
    assert seen_of(second, "validation", tmp_path) == expected > 0

    # A run that goes on with another set has seen both.
    assert seen_pictures.note(tmp_path, seen, second, "train")
    both = seen_pictures.read(tmp_path)
    assert both is not None
    assert seen_of(first, "train", tmp_path) == seen_of(second, "train", tmp_path) == 18

    # What is not known of a part is not known of the whole.
    assert not seen_pictures.note(tmp_path, None, second, "train")
    assert seen_pictures.read(tmp_path) is None


def test_equal_pictures_count_each(folder: Path, tmp_path: Path) -> None:
    for number in (7, 8):
        shutil.copyfile(folder / "met_art/A/0.jpg", folder / "met_art/A" / f"0_{number}.jpg")
    found = run(folder)
    split = found.sources["A/0.jpg"].split
    assert split
    assert seen_pictures.note(tmp_path, np.empty(0, np.uint64), found, split)
    seen = seen_pictures.read(tmp_path)
    assert seen is not None
    assert seen_of(found, split, tmp_path) == sum(source.split == split for source in found.sources.values())


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"[1, 2]"])
def test_a_damaged_memory_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / seen_pictures.FILENAME).write_bytes(content)
    with pytest.raises(UserError, match=f"{tmp_path}/{seen_pictures.FILENAME} is damaged; "):
        seen_pictures.read(tmp_path)
