"""Readers against files of any content: what they return is what the file says, or one `error:` line says why not."""

from collections.abc import Callable
import contextlib
import csv
import json
import os
from pathlib import Path
import shutil
from typing import Any

import corpus
from hypothesis import HealthCheck, given, settings, strategies
import pytest

from metart.networks.slim_compat import tf
import arts
import convert
from metart.common.flags import UserError
from metart.common.labels import label_of_folder, normalise_label, read_labels, write_folder, write_labels
from metart.evaluation.inference import read_temperature
from metart.museum.artworks import Artwork, read_artworks
from metart.museum.cleaning import Rule, read_labels_map
from metart.networks import checkpoints
from metart.records import record_set, tfrecord
from metart.records.pictures import BadPicture, normalise_and_show, open_picture
from metart.records.record_set import Settings
from metart.training import input_pipeline

# For hours of it: MET_ART_FUZZ_EXAMPLES=100000 ./test.sh tests/test_fuzz.py
EXAMPLES = int(os.environ.get("MET_ART_FUZZ_EXAMPLES", "100"))
# A temporary folder may be used by one example after the other.
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

LIST = b"""department,label,link_resource,image_url,is_public_domain
Arms and Armor,"Italian, Florence",http://www.metmuseum.org/art/collection/search/1,,True
Asian Art,Japanese,http://www.metmuseum.org/art/collection/search/22,https://x.org/a.jpg,False
"""
PRINTED = b"""(u'Islamic Art', u'Iran', u'http://www.metmuseum.org/art/collection/search/446619')
('Asian Art', '\\u4e2d', 'http://www.metmuseum.org/art/collection/search/2'),
"""
JSON = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.floats()
    | strategies.text(max_size=5),
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(strategies.text(max_size=5), inner),
    max_leaves=8,
)
# Labels as bigquery.py hands them on.
LABELS = (
    strategies.text(strategies.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
    .map(normalise_label)
    .filter(bool)
)


def near(*whole: bytes) -> strategies.SearchStrategy[bytes]:
    """Returns files that are nearly one of those given, and files that are nothing."""

    @strategies.composite
    def changed(draw: strategies.DrawFn) -> bytes:
        data = draw(strategies.sampled_from(whole))
        for _ in range(draw(strategies.integers(1, 4))):
            start = draw(strategies.integers(0, len(data)))
            end = draw(strategies.integers(start, min(len(data), start + 20)))
            piece = strategies.binary(max_size=8) | strategies.sampled_from(
                [b"\n", b"\r", b'"', b"'", b",", b"\0", b"(" * 200, b"9" * 5000, b"\\ud800", "\u2028".encode()]
            )
            data = data[:start] + draw(piece) + data[end:]
        return data

    return changed() | strategies.binary(max_size=200)


def read(reader: Callable[[], Any], refusal: type[Exception] = UserError) -> Any:
    """Returns what a reader makes of a file; None where it refuses in the way it should."""
    try:
        return reader()
    except refusal as error:
        assert str(error)
        return None


@fuzz
@given(near(LIST, PRINTED, b"\xef\xbb\xbf" + LIST))
def test_lists_of_artworks(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "arts-select.list"
    path.write_bytes(data)
    for artwork in read(lambda: list(read_artworks(path))) or []:
        assert artwork.object_id >= 0
        assert artwork.label == normalise_label(artwork.label) != ""
        assert label_of_folder(write_folder(tmp_path / "met_art", artwork.label)) == artwork.label


@fuzz
@given(
    strategies.lists(
        strategies.tuples(LABELS, strategies.integers(0, 10**9), strategies.sampled_from([True, False, None]))
    )
)
def test_a_list_is_read_as_it_was_written(tmp_path: Path, artworks: list[tuple[str, int, bool | None]]) -> None:
    path = tmp_path / "arts-select.list"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["department", "culture", "link_resource", "image_url", "is_public_domain"])
        for label, object_id, public in artworks:
            writer.writerow(["x", label, f"http://m.org/{object_id}", "", "" if public is None else public])
    expected = [Artwork(object_id, label, "", public) for label, object_id, public in artworks]
    assert list(read_artworks(path)) == expected


@fuzz
@given(near(b'from,to\nJapan,Japanese\n"*, probably *",\n*?*,\n'))
def test_label_maps(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(data)
    for rule in read(lambda: read_labels_map(path)) or []:
        assert isinstance(rule, Rule)
        assert rule.source


@fuzz
@given(near(b"0:American\n1:Italian, Florence\n2:a:b\n"))
def test_labels_files(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "labels.txt").write_bytes(data)
    names = read(lambda: read_labels(tmp_path))
    slims = read(lambda: arts._read_labels(tmp_path / "labels.txt", "run convert.py"), ValueError)
    if names is not None:
        assert slims == dict(enumerate(names))
        write_labels(names, tmp_path)
        assert read_labels(tmp_path) == names


@fuzz
@given(strategies.lists(LABELS, min_size=2, max_size=5, unique=True))
def test_labels_come_back_through_folders_and_labels_txt(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("data")
    for number, name in enumerate(names):
        (write_folder(folder, name) / f"{number}.jpg").write_bytes(b"x")
    by_path, found, _ = convert.find_files(folder)
    assert found == sorted(names)
    assert {Path(path).stem: label for path, label in by_path.items()} == {
        str(number): name for number, name in enumerate(names)
    }
    write_labels(found, folder)
    assert read_labels(folder) == found
    shutil.rmtree(folder)


FOLDER_NAMES = strategies.binary(min_size=1, max_size=60).filter(lambda name: not {0, 47} & set(name))


@fuzz
@given(FOLDER_NAMES | strategies.sampled_from([b"%0A", b"%~0123abcd", b"%FF%", b" ", b"\r", b"a\nb"]))
def test_any_folder_is_a_label_or_is_refused(tmp_path_factory: pytest.TempPathFactory, name: bytes) -> None:
    root = tmp_path_factory.mktemp("data")
    with contextlib.suppress(FileExistsError):  # "." and "..".
        (root / name.decode(errors="surrogateescape")).mkdir()
    found = read(lambda: convert.find_files(root)[1])
    if found:
        write_labels(found, root)
        assert read_labels(root) == found
    shutil.rmtree(root)


@fuzz
@given(strategies.binary(max_size=40))
def test_any_label_file(tmp_path: Path, data: bytes) -> None:
    folder = tmp_path / "met_art" / "x%~01234567"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".label").write_bytes(data)
    found = read(lambda: convert.find_files(folder.parent)[1])
    if found:
        write_labels(found, tmp_path)
        assert read_labels(tmp_path) == found == [data.decode().rstrip("\r\n")]


@pytest.fixture(scope="module")
def records(dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the records without the pictures, for one example after the other to spoil and restore."""
    folder = tmp_path_factory.mktemp("records")
    for path in dataset_dir.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    return folder


@fuzz
@given(data=strategies.data())
def test_a_spoiled_splits_json(records: Path, data: strategies.DataObject) -> None:
    whole = (records / "splits.json").read_bytes()
    spoiled = data.draw(near(whole) | JSON.map(lambda value: json.dumps(value).encode()))
    (records / "splits.json").write_bytes(spoiled)
    try:
        read(lambda: input_pipeline.open_split("arts", "train", str(records)))
        former = read(lambda: record_set.read(records))
        if former:
            record_set.is_current(records, former, Settings(1, 1, 1, 1, 1), {})
    finally:
        (records / "splits.json").write_bytes(whole)


def evaluate(folder: Path) -> None:
    """Reads a whole split, as evaluation does."""
    dataset = input_pipeline.open_split("arts", "validation", str(folder))
    try:
        for _ in input_pipeline.evaluation_batches(dataset.data_sources, 4, 32).as_numpy_iterator():
            pass
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError):
        input_pipeline.raise_damaged(dataset.data_sources)
        raise


@settings(fuzz, max_examples=max(1, EXAMPLES // 5))  # TensorFlow takes a second to set out.
@given(data=strategies.data())
def test_spoiled_records_are_named_and_answer_nothing(records: Path, data: strategies.DataObject) -> None:
    path = data.draw(strategies.sampled_from(sorted(records.glob("arts_validation_*"))))
    whole = path.read_bytes()
    position = data.draw(strategies.integers(0, len(whole) - 1))
    spoiled = data.draw(
        strategies.sampled_from(
            [whole[:position], whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :]]
        )
    )
    path.write_bytes(spoiled)
    try:
        with pytest.raises(UserError, match=f"{path} is damaged or cut off; delete it and run convert.py"):
            evaluate(records)
    finally:
        path.write_bytes(whole)


@fuzz
@given(strategies.binary(max_size=60) | strategies.just(b"\n\x00"))
def test_records_of_something_else(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "arts_validation_00000-of-00001.tfrecord"
    record = tfrecord.record({"a": content})
    path.write_bytes(record)
    with pytest.raises(UserError, match=f"{path} is damaged or cut off"):
        input_pipeline.raise_damaged([str(path)])


def test_records_cut_off_between_two_pictures(records: Path) -> None:
    """From within, such a file looks whole; its size tells."""
    path = sorted(records.glob("arts_train_*"))[0]
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little") + 16
    assert length < len(whole)
    for kept in (0, length):
        path.write_bytes(whole[:kept])
        with pytest.raises(UserError, match=f"{path} is damaged or cut off; delete it and run convert.py"):
            input_pipeline.open_split("arts", "train", str(records))
    path.write_bytes(whole)


def test_labels_of_another_data_set(records: Path) -> None:
    whole = (records / "labels.txt").read_text()
    first, second, third = whole.splitlines()
    for text in (
        f"{second}\n{first}\n{third}\n".replace("1:", "x:").replace("0:", "1:").replace("x:", "0:"),
        f"{first}\n",
    ):
        (records / "labels.txt").write_text(text)
        with pytest.raises(UserError, match=r"labels.txt is not that of the records beside it; run convert.py"):
            input_pipeline.open_split("arts", "train", str(records))
    (records / "labels.txt").write_text(whole)


WHOLE_PICTURES = [
    corpus.encode(corpus.drawing(1, (24, 16)), file_format)
    for file_format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
]


@fuzz
@given(near(*WHOLE_PICTURES))
def test_pictures(data: bytes) -> None:
    result = read(lambda: normalise_and_show(data, 32), BadPicture)
    if result is not None:
        jpeg, shown = result
        picture = open_picture(jpeg)
        assert (picture.format, picture.size) == ("JPEG", shown.size)
        assert max(picture.size) <= 32
        assert tf.io.decode_jpeg(jpeg, channels=3).shape == (shown.height, shown.width, 3)


@fuzz
@given(
    JSON.map(lambda value: json.dumps(value).encode())
    | near(b'{"temperature": 1.5}', b'{"model_name": "inception_v3"}')
)
def test_what_lies_beside_a_checkpoint(tmp_path: Path, data: bytes) -> None:
    checkpoint = str(tmp_path / "model.ckpt-1")
    Path(f"{checkpoint}.temperature.json").write_bytes(data)
    (tmp_path / "flags.json").write_bytes(data)
    temperature = read(lambda: read_temperature(checkpoint, {"image_size": 32}))
    assert temperature is None or 0 < temperature < float("inf")
    flags = read(lambda: checkpoints.settings(checkpoint))
    assert flags is None or isinstance(flags, dict)
