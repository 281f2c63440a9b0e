import hashlib
import io
import itertools
from pathlib import Path
import re
import statistics
import tarfile

from PIL import Image, ImageChops, ImageOps, ImageStat
from PIL import __version__ as pillow_version
import pytest

from metart.common.labels import label_of_folder
from sample import draw_sample

ROOT = Path(__file__).parent.parent
ARCHIVE = ROOT / "sample-dataset.tar.gz"
LABELS = ["American", "China", "French", "Italian, Florence", "Japan"]

# Other releases of Pillow draw and compress a little differently.
PINNED = (ROOT / "requirements" / "common.txt").read_text()
pinned_pillow = pytest.mark.skipif(
    f"pillow=={pillow_version}" not in PINNED.split(),
    reason=f"the sample was drawn with the pinned Pillow, this is {pillow_version}",
)


@pytest.fixture(scope="module")
def pictures() -> dict[str, dict[str, bytes]]:
    """The archive's pictures as {label: {file name: JPEG}}."""
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            top, *rest = member.name.split("/")
            if top == "met_art":
                file = archive.extractfile(member)
                assert file is not None
                found.setdefault(label_of_folder(Path(rest[0])), {})[rest[1]] = file.read()
    return found


def test_archive_has_the_layout_of_the_downloader(pictures: dict[str, dict[str, bytes]]) -> None:
    assert sorted(pictures) == LABELS
    assert ARCHIVE.stat().st_size < 6_000_000
    identifiers = []
    for files in pictures.values():
        assert len(files) == 80
        for name, data in files.items():
            assert re.fullmatch(r"9\d{6}(_1)?\.jpg", name)
            picture = Image.open(io.BytesIO(data))
            picture.load()
            assert (picture.format, picture.mode) == ("JPEG", "RGB")
            assert 250 <= max(picture.size) <= 510
        identifiers += [name.removesuffix(".jpg") for name in files]
        assert all(name.replace("_1", "") in files for name in files)
        assert sum("_1" in name for name in files) == 10
    assert len(set(identifiers)) == 400
    assert len({hashlib.sha256(data).digest() for files in pictures.values() for data in files.values()}) == 400


def test_archive_says_what_it_is_and_nothing_about_its_maker() -> None:
    with tarfile.open(ARCHIVE) as archive:
        note = archive.extractfile("SAMPLE.txt")
        assert note is not None
        text = note.read().decode()
        assert "stand-ins, not works of the museum" in text and "download.py" in text
        for member in archive:
            assert member.isfile()
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")


@pinned_pillow
@pytest.mark.parametrize("label", LABELS)
def test_the_same_bytes_again(label: str, pictures: dict[str, dict[str, bytes]]) -> None:
    stored = [pictures[label][name] for name in sorted(pictures[label], key=lambda name: name.replace(".jpg", ""))]
    last = draw_sample.OBJECTS_PER_LABEL - 1
    # The first work has two photographs.
    for number, expected in ((0, stored[:2]), (1, stored[2:3]), (last, stored[-1:])):
        drawn = draw_sample.draw_object(label, number)
        assert [hashlib.sha256(data).hexdigest() for data in drawn] == [
            hashlib.sha256(data).hexdigest() for data in expected
        ]


def difference(one: bytes, other: bytes) -> float:
    """Returns how much two pictures differ when size, brightness and contrast are left out."""
    small = [ImageOps.equalize(Image.open(io.BytesIO(data)).convert("L").resize((24, 24))) for data in (one, other)]
    return ImageStat.Stat(ImageChops.difference(*small)).mean[0]


def test_second_photograph_shows_the_same_work_but_is_another_picture(pictures: dict[str, dict[str, bytes]]) -> None:
    for label, files in pictures.items():
        seconds = [name for name in sorted(files) if "_1" in name]
        firsts = [files[name.replace("_1", "")] for name in seconds]
        same = [difference(first, files[name]) for first, name in zip(firsts, seconds, strict=True)]
        others = [difference(first, other) for first, other in itertools.pairwise(firsts)]
        assert min(same) > 0
        assert statistics.median(same) < statistics.median(others), label


@pytest.mark.parametrize("measure", ["width / height", "longest side", "bytes", "brightness"])
def test_nothing_but_the_manner_tells_the_label(measure: str, pictures: dict[str, dict[str, bytes]]) -> None:
    """The median of each label lies in the middle four fifths of every other."""

    def value(data: bytes) -> float:
        picture = Image.open(io.BytesIO(data))
        return {
            "width / height": picture.width / picture.height,
            "longest side": max(picture.size),
            "bytes": len(data),
            "brightness": ImageStat.Stat(picture.convert("L")).mean[0],
        }[measure]

    values = [sorted(map(value, files.values())) for files in pictures.values()]
    for one in values:
        for other in values:
            assert other[len(other) // 10] < one[len(one) // 2] < other[-len(other) // 10]


def test_equal_files_give_equal_archives(tmp_path: Path) -> None:
    files = [("SAMPLE.txt", b"note"), ("met_art/Japan/1.jpg", b"picture")]
    for name in ("first.tar.gz", "second.tar.gz"):
        draw_sample.write_archive(tmp_path / name, files)
    assert (tmp_path / "first.tar.gz").read_bytes() == (tmp_path / "second.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "first.tar.gz") as archive:
        assert archive.getnames() == [name for name, _ in files]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.tar.gz", "second.tar.gz"]


def test_contact_sheet_has_a_row_of_pictures_for_each_label() -> None:
    sheet = draw_sample.contact_sheet(ARCHIVE)
    rows = [sheet.crop((0, row * 150 + 24, sheet.width, row * 150 + 140)) for row in range(len(LABELS))]
    assert sheet.height == 150 * len(LABELS)
    for row in rows:
        colours = row.getcolors(maxcolors=row.width * row.height)
        assert colours is not None and len(colours) > 10_000
    assert (ROOT / "doc" / "sample.jpg").stat().st_size < 200_000


def test_missing_folder_is_one_line_before_any_drawing(tmp_path: Path) -> None:
    with pytest.raises(draw_sample.UserError, match=r"is not a folder; make it first: mkdir -p"):
        draw_sample.main([f"--output={tmp_path}/none/sample.tar.gz"])
    with pytest.raises(draw_sample.UserError, match=r"is not a folder; make it first: mkdir -p"):
        draw_sample.main([f"--output={tmp_path}/sample.tar.gz", f"--contact_sheet={tmp_path}/none/sheet.jpg"])
    assert not list(tmp_path.iterdir())
