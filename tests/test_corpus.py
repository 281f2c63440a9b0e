"""Every kind of picture file through the scripts: used with the right pixels, or listed with its reason."""

import csv
import json
import os
from pathlib import Path
import random
import re
import shutil
import subprocess
import sys
from typing import Any

import corpus
from PIL import Image, ImageChops, ImageStat
from processes import REPO, Run, output_and_peak, run_script
import pytest

from metart.networks.slim_compat import tf
import classify
import convert
from metart.networks.preprocessing import Looks
from metart.records.pictures import BadPicture, normalise_and_show

MEMORY_MEGABYTES = 1500
LOSS = 6.0  # Of 255, on average: what chroma subsampling costs where colours meet, twice over.
KINDS = list(corpus.kinds())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two labels: all kinds under one, enough whole pictures under both."""
    folder = tmp_path_factory.mktemp("data")
    for label in ("Corpus", "Whole"):
        (folder / "met_art" / label).mkdir(parents=True)
    for kind in KINDS:
        (folder / "met_art/Corpus" / kind.name).write_bytes(kind.data)
    for number in range(len(KINDS)):
        name = folder / "met_art/Whole" / f"{number}.jpg"
        name.write_bytes(corpus.encode(corpus.drawing(), comment=str(number).encode()))
    return folder


@pytest.fixture(scope="module")
def converted(folder: Path) -> Run:
    return run_script("convert.py", f"--dataset_dir={folder}", "--num_workers=2")


def refused() -> dict[str, str]:
    return {kind.name: kind.expected for kind in KINDS if isinstance(kind.expected, str)}


def difference(left: Image.Image, right: Image.Image) -> float:
    assert left.size == right.size
    return max(ImageStat.Stat(ImageChops.difference(left, right)).mean)


def test_there_are_enough_kinds() -> None:
    assert len({kind.data for kind in KINDS}) == len(KINDS) > 160
    assert 70 < len(KINDS) - len(refused()) < len(KINDS) - 60


def test_convert_uses_the_right_pixels_and_lists_the_rest(folder: Path, converted: Run) -> None:
    assert converted.status == 0, converted.errors
    assert "Traceback" not in converted.errors
    with open(folder / "bad-pictures.csv", newline="", encoding="utf-8") as file:
        problems = {Path(row["path"]).name: row["problem"] for row in csv.DictReader(file)}
    assert problems.keys() == refused().keys()
    for name, reason in refused().items():
        assert re.match(reason, problems[name]), name

    stored = {}
    for shard in folder.glob("*.tfrecord"):
        for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
            feature = tf.train.Example.FromString(record).features.feature
            label, name = feature["image/filename"].bytes_list.value[0].decode().split("/")
            assert feature["image/class/label"].int64_list.value[0] == ["Corpus", "Whole"].index(label)
            if label == "Corpus":
                # As training decodes it: whatever Pillow let through, TensorFlow must be able to read.
                pixels = tf.io.decode_jpeg(feature["image/encoded"].bytes_list.value[0], channels=3).numpy()
                stored[name] = Image.fromarray(pixels)
    for kind in KINDS:
        if isinstance(kind.expected, Image.Image):
            assert difference(stored.pop(kind.name), kind.expected) < LOSS, kind.name
    assert not stored


def test_check_image_names_the_same_files(folder: Path) -> None:
    checked = run_script("convert.py", f"--dataset_dir={folder}", "--check_image=True", "--num_workers=2")
    assert checked.status == 1
    named = {Path(line.split(": ")[0]).name for line in checked.output.splitlines()}
    assert named == refused().keys()
    assert checked.errors.splitlines()[-1].startswith(f"error: {len(named)} of {2 * len(KINDS)} pictures are bad")


def test_classify_sees_what_training_saw(folder: Path) -> None:
    for kind in KINDS:
        seen = classify.read_image(folder / "met_art/Corpus" / kind.name, Looks(32))
        if isinstance(kind.expected, str):
            assert isinstance(seen, str), kind.name
            assert re.match(kind.expected, seen), kind.name
        else:
            assert not isinstance(seen, str), kind.name
            by_itself = classify.evaluation_image(tf.constant(corpus.encode(kind.expected, quality=100)), 32).numpy()
            assert abs(seen - by_itself).mean() < LOSS, kind.name


def test_classify_answers_for_every_file(folder: Path, train_dir: Path) -> None:
    files = [str(folder / "met_art/Corpus" / kind.name) for kind in KINDS]
    answered = run_script("classify.py", f"--checkpoint_path={train_dir}", "--format=jsonl", "--image_file", *files)
    assert answered.status == 1
    assert answered.errors.splitlines()[-1].startswith(f"error: {len(refused())} of {len(KINDS)} pictures")
    rows = [json.loads(line) for line in answered.output.splitlines()]
    assert [Path(row["picture"]).name for row in rows] == [kind.name for kind in KINDS]
    assert {Path(row["picture"]).name for row in rows if "problem" in row} == refused().keys()
    assert answered.peak_megabytes < MEMORY_MEGABYTES


def test_evaluation_and_training_read_what_convert_stored(folder: Path, converted: Run) -> None:
    from metart.training import input_pipeline

    shards = sorted(map(str, folder.glob("*.tfrecord")))
    count = sum(len(images) for images, _, _ in input_pipeline.evaluation_batches(shards, 50, 32).as_numpy_iterator())
    assert count == 2 * len(KINDS) - len(refused())
    training = input_pipeline.training_batches(shards, 50, input_pipeline.Augmentation(32, seed=1))
    for images, _ in training.take(2 * count // 50).as_numpy_iterator():
        assert images.shape == (50, 32, 32, 3)


def test_flipped_bytes_never_reach_training(tmp_path: Path) -> None:
    """Pillow accepts JPEGs that TensorFlow refuses; one of them in the records would end every training run."""
    generator = random.Random(0)
    forms: list[dict[str, Any]] = [{}, {"progressive": True}, {"keep_rgb": True}, {"subsampling": 0}]
    whole = [corpus.encode(corpus.drawing(number, (60, 40)), **form) for number, form in enumerate(forms)]
    used = 0
    for _ in range(3000):
        data = bytearray(generator.choice(whole))
        for _ in range(generator.choice([1, 1, 2, 5])):
            data[generator.randrange(len(data))] = generator.randrange(256)
        data = data[: len(data) - generator.choice([0, 0, 0, 1, 2, 3])]
        try:
            jpeg, shown = normalise_and_show(bytes(data), 640)
        except BadPicture:
            continue
        used += 1
        assert tf.io.decode_jpeg(jpeg, channels=3).shape == (shown.height, shown.width, 3)
    assert used > 1000


def test_names_and_things_that_are_no_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "met_art/Iran"
    (tmp_path / "met_art/Korea").mkdir(parents=True)
    folder.mkdir()
    used = [
        "two words.jpg",
        "'quoted' \"twice\".jpg",
        "new\nline, comma.jpg",
        "\U0001f3fa.jpg",
        "é" * 125 + "a.jpg",  # 255 bytes.
        "--help",
        "*.jpg",
        "$(id).jpg",
        "UPPER.JPG",
        "link outside.jpg",
    ]
    outside = tmp_path / "outside.jpg"
    outside.write_bytes(corpus.encode(corpus.drawing(), comment=b"outside"))
    for number, name in enumerate(used[:-1]):
        (folder / name).write_bytes(corpus.encode(corpus.drawing(number), comment=name.encode()))
    (folder / used[-1]).symlink_to(outside)
    for number in range(5):
        (tmp_path / "met_art/Korea" / f"{number}.jpg").write_bytes(corpus.encode(corpus.drawing(20 + number)))

    passed_over = ["folder.jpg", "loop.jpg", "nowhere.jpg", "pipe.jpg", ".hidden.jpg", "._1.jpg", ".DS_Store"]
    passed_over += ["Thumbs.db", "desktop.ini", "9.jpg.partial"]
    (folder / "folder.jpg").mkdir()
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "nowhere.jpg").symlink_to(tmp_path / "nothing")
    os.mkfifo(folder / "pipe.jpg")
    for name in passed_over[4:]:
        (folder / name).write_bytes(corpus.encode(corpus.drawing(50)))
    (tmp_path / "met_art/loop").symlink_to("loop")

    convert.main([f"--dataset_dir={tmp_path}", "--num_workers=1"])
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(f"skipped, not pictures: {len(passed_over) + 1} (")
    described = json.loads((tmp_path / "splits.json").read_text(encoding="utf-8"))["pictures"]
    assert {path for path in described if path.startswith("Iran/")} == {f"Iran/{name}" for name in used}
    assert not (tmp_path / "bad-pictures.csv").exists()

    named = [str(folder / name) for name in [*used, *passed_over] if name != "pipe.jpg"]
    rows = [classify.read_image(Path(name), Looks(32)) for name in named]
    reasons = {Path(name).name: row for name, row in zip(named, rows, strict=True) if isinstance(row, str)}
    assert reasons == {
        "folder.jpg": "a folder or device, not a file",
        "loop.jpg": "Too many levels of symbolic links",
        "nowhere.jpg": "No such file or directory",
    }
    # In a folder, those without the name of a picture are passed over as well, and that is said.
    found = {path.name for path in classify.find_files([folder])}
    assert found == {name for name in used if name.lower().endswith(".jpg")} | reasons.keys() - {"folder.jpg"}
    assert "skipped, not files named like pictures: 8, " in capsys.readouterr().err


def test_an_unreadable_file_is_listed(tmp_path: Path) -> None:
    for label in ("Iran", "Korea"):
        (tmp_path / "met_art" / label).mkdir(parents=True)
        for number in range(4):
            picture = corpus.encode(corpus.drawing(number), comment=label.encode())
            (tmp_path / "met_art" / label / f"{number}.jpg").write_bytes(picture)
    locked = tmp_path / "met_art/Iran/2.jpg"
    locked.chmod(0)
    command = [*as_mere_owner(), sys.executable, str(REPO / "convert.py"), f"--dataset_dir={tmp_path}"]
    for last in ("7 pictures", "nothing to do"):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "bad-pictures.csv").read_text() == "path,problem\nIran/2.jpg,Permission denied\n"
        assert ("nothing to do" in done.stdout) == (last == "nothing to do")


def as_mere_owner() -> list[str]:
    """Returns what to put before a command so that the modes of files hold for it, also for root."""
    if os.geteuid() != 0:
        return []
    if not shutil.which("setpriv"):
        pytest.skip("root reads every file, and setpriv (util-linux) is not there to prevent it")
    without = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={without}", f"--inh-caps={without}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "file_format", "options"),
    [
        ("RGBA", "PNG", {"compress_level": 1}),
        ("LA", "PNG", {"compress_level": 1}),
        ("P", "PNG", {"compress_level": 1, "transparency": 0}),
        ("I;16", "PNG", {"compress_level": 1}),
        ("RGB", "PNG", {"compress_level": 1, "exif": corpus.exif(6)}),
        ("RGB", "JPEG", {"progressive": True}),
        ("CMYK", "JPEG", {"progressive": True}),
        ("RGBA", "WEBP", {"lossless": True, "method": 0}),
        ("RGB", "WEBP", {"method": 0}),
        ("RGBA", "TIFF", {"compression": "tiff_lzw"}),
        ("CMYK", "TIFF", {"compression": "tiff_lzw"}),
        ("P", "GIF", {"transparency": 0}),
        ("P", "BMP", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_largest_picture_stays_within_the_memory(
    mode: str, file_format: str, options: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "large"
    path.write_bytes(corpus.encode(Image.new(mode, (8_360, 8_360)), file_format, **options))
    program = """
import sys
from pathlib import Path
from metart.records.pictures import normalise_and_show, read_file
print(normalise_and_show(read_file(Path(sys.argv[1])), 640)[1].size)
"""
    size, megabytes = output_and_peak(program, path)
    assert size == "(640, 640)"
    assert megabytes < MEMORY_MEGABYTES
