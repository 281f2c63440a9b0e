"""Draws the sample data set: stand-ins for the museum's pictures, so that the tutorial runs offline.

Reads   nothing.
Writes  sample-dataset.tar.gz: met_art/<label folder>/<id>.jpg (<id>_1.jpg: the same work once more), SAMPLE.txt.

    python sample/draw_sample.py

Not a step of the tutorial: its result is in the repository, and download.py fetches the real pictures. Five labels,
each in its own style: patchwork quilts (American), ink landscapes (China), gardens in dots (French),
saints on gold ground (Italian, Florence), woodblock seas (Japan). Palette, format, light and file size
are drawn from the same distributions for all five, so that nothing but the style tells the label.
Safe to run again: it writes the same bytes, given the Pillow release the requirements pin.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
import contextlib
import gzip
import io
import math
from pathlib import Path
import random
import sys
import tarfile
from typing import IO, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFont, ImageOps, ImageStat

from metart.common.files import open_replacing
from metart.common.flags import Parser, UserError, run
from metart.common.labels import PICTURES_FOLDER, folder_name
from metart.common.progress import Progress
from sample.drawings import STYLES, Canvas

OBJECTS_PER_LABEL = 70
SECOND_PHOTOGRAPH_EVERY = 7  # Objects; makes 80 pictures a label.
FIRST_ID = 9_000_001  # Above the museum's own object ids, so that real pictures can join the sample.
LONGEST_SIDES = (280, 400)  # Pixels, before mount and crop.
FILE_BYTES = (11_000, 17_500)
OVERSAMPLING = 2  # Pillow draws hard edges; the reduction makes them smooth.
SHEET_WIDTH, SHEET_ROW = 1000, 150  # Of the contact sheet; pixels.
NOTE = """These pictures are drawn by a program, draw_sample.py. They are stand-ins, not works of the museum:
five styles of drawing under the names of five cultures, so that the tutorial runs without a network.
download.py fetches the museum's own photographs into folders of the same form.
"""


def photograph(work: Image.Image, rng: random.Random) -> bytes:
    """Returns a JPEG of a work: mount, crop, light and camera differ from photograph to photograph."""
    if rng.random() < 0.25:
        work = ImageOps.expand(work, round(min(work.size) * rng.uniform(0.02, 0.07)), (rng.randint(40, 225),) * 3)
    left, upper, right, lower = (rng.uniform(0, 0.06) for _ in range(4))
    box = (left * work.width, upper * work.height, (1 - right) * work.width, (1 - lower) * work.height)
    size = (round((box[2] - box[0]) / OVERSAMPLING), round((box[3] - box[1]) / OVERSAMPLING))
    picture = work.resize(size, Image.Resampling.LANCZOS, box)
    light = (
        Image.linear_gradient("L").rotate(rng.choice((0, 90, 180, 270))).resize(size).point(lambda v: 255 - v * 0.25)
    )
    picture = ImageChops.multiply(picture, Image.merge("RGB", [light] * 3))
    picture = ImageEnhance.Color(picture).enhance(0 if rng.random() < 0.06 else rng.uniform(0.75, 1.3))
    seen, mean = ImageStat.Stat(picture.convert("L")), rng.uniform(115, 150)
    gain = max(0.7, min(1.6, rng.uniform(44, 56) / seen.stddev[0]))
    casts = [rng.uniform(0.94, 1.06) for _ in range(3)]
    table = [min(255, max(0, round(((v - seen.mean[0]) * gain + mean) * cast))) for cast in casts for v in range(256)]
    noise = Image.frombytes("L", size, rng.randbytes(size[0] * size[1])).point(lambda v: 128 + (v - 128) / 20)
    picture = ImageChops.overlay(picture.point(table), Image.merge("RGB", [noise] * 3))
    limit = rng.uniform(*FILE_BYTES)
    for quality in range(92, 30, -4):
        output = io.BytesIO()
        picture.save(output, "JPEG", quality=quality)
        if output.tell() <= limit:
            break
    return output.getvalue()


def draw_object(label: str, number: int) -> Iterator[bytes]:
    """Yields the photographs of one work; each work has a seed of its own."""
    rng = random.Random(f"{label}/{number}")
    longest, aspect = rng.uniform(*LONGEST_SIDES) * OVERSAMPLING, math.exp(rng.uniform(-0.5, 0.5))
    canvas = Canvas(rng, (round(longest * min(1, aspect)), round(longest * min(1, 1 / aspect))))
    STYLES[label](canvas)
    for _ in range(2 if number % SECOND_PHOTOGRAPH_EVERY == 0 else 1):
        yield photograph(canvas.image, rng)


def sample_files() -> Generator[tuple[str, bytes], None, None]:
    """Yields (name in the archive, content) of the whole sample, in order."""
    yield "SAMPLE.txt", NOTE.encode()
    works = [(label, number) for label in STYLES for number in range(OBJECTS_PER_LABEL)]
    with Progress("drawing", len(works), "works") as progress:
        for i, (label, number) in enumerate(works):
            for photograph_number, data in enumerate(draw_object(label, number)):
                suffix = f"_{photograph_number}" if photograph_number else ""
                yield f"{PICTURES_FOLDER}/{folder_name(label)}/{FIRST_ID + i}{suffix}.jpg", data
            progress.update()


def write_archive(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Writes a .tar.gz that holds no time, owner or machine: equal files, equal bytes."""
    with (
        open_replacing(path, "wb") as output,
        gzip.GzipFile("", "wb", fileobj=output, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def contact_sheet(path: Path) -> Image.Image:
    """Returns an overview of an archive: a row of pictures for each label, cut off at the right edge."""
    sheet = Image.new("RGB", (SHEET_WIDTH, len(STYLES) * SHEET_ROW), "white")
    with tarfile.open(path) as archive:
        for row, label in enumerate(STYLES):
            left, top = 0, row * SHEET_ROW
            ImageDraw.Draw(sheet).text((0, top + 3), label, "black", ImageFont.load_default(15))
            folder = f"{PICTURES_FOLDER}/{folder_name(label)}/"
            names = (name for name in archive.getnames() if name.startswith(folder) and not name.endswith("_1.jpg"))
            while left < SHEET_WIDTH:
                with Image.open(cast(IO[bytes], archive.extractfile(next(names)))) as photo:
                    picture = ImageOps.contain(photo, (SHEET_WIDTH, SHEET_ROW - 26))
                sheet.paste(picture, (left, top + 24))
                left += picture.width + 4
    return sheet


def build_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--output", type=Path, default=Path("sample-dataset.tar.gz"), help="the archive to write")
    parser.add_argument("--contact_sheet", type=Path, help="also write an overview of the sample, as this JPEG")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    flags = build_parser().parse_args(argv)
    for path in filter(None, (flags.output, flags.contact_sheet)):
        if not path.parent.is_dir():
            raise UserError(f"{path}: {path.parent} is not a folder; make it first: mkdir -p {path.parent}")
    with contextlib.closing(sample_files()) as files:  # Otherwise progress would go on after an error is said.
        write_archive(flags.output, files)
    if flags.contact_sheet:
        with open_replacing(flags.contact_sheet, "wb") as output:
            contact_sheet(flags.output).save(output, "JPEG", quality=70)
    with tarfile.open(flags.output) as archive:
        count = sum(name.endswith(".jpg") for name in archive.getnames())
    print(f"{count} pictures of {len(STYLES)} labels, {flags.output.stat().st_size:,} bytes: {flags.output}")


if __name__ == "__main__":
    run(main)
