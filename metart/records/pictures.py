"""Picture files as the internet sends them: proved whole, then brought into one form.

Only formats on a list are opened, whatever a file's name says, and sizes are read before pixels.
"""

from collections.abc import Iterator
import contextlib
import io
import os
import re
import stat
import warnings

from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# Several times the museum's largest photographs. Decoding and conversion hold up to 20 bytes of each pixel at once
# (WebP with transparency), so a process stays below 1.5 GB (tests/test_corpus.py).
MAX_PIXELS = 70_000_000
MAX_FILE_BYTES = 200_000_000  # Ten times the museum's largest photographs.
# Longest side of a record, pixels. Evaluation at 299 takes the central 7/8, so the shorter side needs 342;
# with 640 it has them up to a ratio of 15:8, and the museum's small photographs (625) stay as they are.
MAX_SIDE = 640
JPEG_QUALITY = 92
# A JPEG that needs no change is kept as it is up to this size, and up to that of its pixels in memory; more than pixels
# take at any quality is profiles and previews, and the 2,048 records that training shuffles are held in memory.
MAX_KEPT_BYTES = 2_000_000
BYTES_PER_PIXEL = 3
ORIENTATION_TAG = 0x0112  # Of EXIF; 1 is upright.
UPRIGHT = {  # What undoes the camera's turn, by the value of that tag.
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# By what pixels of a PNG are multiplied to have 8 bits, for the bits that they are stored in.
_TO_8_BITS = {2: 85, 4: 17, 8: 1, 16: 1 / 256}
_END_OF_PNG = b"IEND\xae\x42\x60\x82"  # With its checksum, which is always the same.
# What to_rgb knows how to show. 32-bit and floating-point grey are not among them: nothing says which value is white.
MODES = {"1", "L", "LA", "P", "PA", "I;16", "I;16B", "I;16L", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}

_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # Of a segment; restarts belong to the pixels around them.
_END_OF_PIXELS = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # The same without +: a search is six times as fast.
_FRAMES = b"\xc0\xc1\xc2\xc3\xc5\xc6\xc7\xc9\xca\xcb\xcd\xce\xcf"  # Segments that tell how pixels are stored.
_USUAL_FRAMES = b"\xc0\xc1\xc2"  # Baseline, extended, progressive. Pillow reads lossless ones too, TensorFlow does not.

assert not ImageFile.LOAD_TRUNCATED_IMAGES


class BadPicture(ValueError):
    """There is no whole picture of a known format; the text says why."""


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Reads a picture file, or what comes through a pipe; waits for that, so only of pipes that the user named.

    Raises:
        BadPicture: There is no such file, or it cannot be read or is too large; the reason in a few words.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            is_pipe = stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode)
            if not (stat.S_ISREG(status.st_mode) or is_pipe):
                raise BadPicture("a folder or device, not a file")
            if status.st_size > MAX_FILE_BYTES:
                raise BadPicture(f"larger than {MAX_FILE_BYTES:,} bytes")
            data = io.BufferedReader(file).read(MAX_FILE_BYTES + 1) if is_pipe else file.readall()
            if len(data) > MAX_FILE_BYTES:
                raise BadPicture(f"larger than {MAX_FILE_BYTES:,} bytes")
            return data
    except IsADirectoryError:
        raise BadPicture("a folder or device, not a file") from None
    except OSError as error:
        raise BadPicture(error.strerror or str(error)) from None


def declared_pixels(data: bytes) -> int:
    """Returns how many pixels a picture says it has, 0 where it is none; decodes nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            width, height = Image.open(io.BytesIO(data), formats=FORMATS).size
            return width * height
    except Image.DecompressionBombError:
        return MAX_PIXELS + 1
    except Exception:  # What is wrong with it is for open_picture to say.
        return 0


def open_picture(data: bytes) -> Image.Image:
    """Decodes the first frame of a picture completely.

    Args:
        data: A JPEG, PNG, WebP, GIF, BMP or TIFF file.

    Returns:
        The picture as stored, in the file's own mode; `format` says which format it was.

    Raises:
        BadPicture: The reason in a few words.
    """
    with _complaints():
        picture = _identify(data)
        _load(picture, data)
        return picture


@contextlib.contextmanager
def _complaints() -> Iterator[None]:
    """Turns all that Pillow raises into BadPicture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own size warning; the limit here is stricter.
            yield
    except BadPicture:
        raise
    except UnidentifiedImageError:
        raise BadPicture("not a picture of a known format (" + ", ".join(FORMATS) + ")") from None
    except Image.DecompressionBombError as error:
        raise BadPicture(str(error)) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged data.
        raise BadPicture(f"damaged: {error or type(error).__name__}") from None


def _identify(data: bytes) -> Image.Image:
    """Reads what stands before the pixels."""
    if not data:
        raise BadPicture("empty file")
    if data[:64].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        raise BadPicture("a web page, not a picture")
    picture = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise BadPicture(f"{width} x {height} pixels, more than {MAX_PIXELS:,}")
    return picture


def _load(picture: Image.Image, data: bytes) -> None:
    """Decodes the pixels."""
    picture.load()
    if picture.mode not in MODES:
        raise BadPicture(f"pixels of the kind {picture.mode}, whose colours are not defined")
    if picture.format == "PNG":
        Image.open(io.BytesIO(data), formats=FORMATS).verify()  # The checksums, which decoding passes over.
        if _END_OF_PNG not in data:
            raise BadPicture("damaged: a PNG without its end")
        # Pillow brings the pixels to 8 bits, and leaves the colour that stands for transparency as it is stored.
        factor, clear = _TO_8_BITS.get(data[24], 1), picture.info.get("transparency")
        if picture.mode in ("L", "I;16") and clear is not None:
            picture.info["transparency"] = int(clear * factor)
        elif picture.mode == "RGB" and clear is not None:
            picture.info["transparency"] = tuple(int(value * factor) for value in clear)


def normalise(data: bytes, max_side: int) -> bytes:
    """Proves a picture whole and returns it as an upright RGB JPEG of bounded size.

    Args:
        data: A picture file, see `open_picture`.
        max_side: Longest side of the result, pixels.

    Returns:
        A JPEG; `data` itself where nothing needs to change.

    Raises:
        BadPicture: See `open_picture`.
    """
    return normalise_and_show(data, max_side)[0]


def normalise_and_show(data: bytes, max_side: int) -> tuple[bytes, Image.Image]:
    """Returns the JPEG of `normalise`, and the picture: RGB, or grey where the bytes are `data` itself."""
    with _complaints():
        picture = _identify(data)
        width, height = picture.size
        scale = max_side / max(width, height)
        as_it_is = (
            scale >= 1
            and picture.format == "JPEG"
            and picture.mode in ("RGB", "L")
            and len(data) <= max(MAX_KEPT_BYTES, BYTES_PER_PIXEL * width * height)
            and _orientation(picture) not in UPRIGHT
            and _is_usual_jpeg(data)
        )
        if as_it_is:
            picture.draft("L", None)  # To prove it takes all its bytes, but not the time that colours take.
        else:
            # A JPEG may be decoded at a half, quarter or eighth of its size as long as that is not too small.
            picture.draft(None, (max(1, int(width * scale)), max(1, int(height * scale))))
        _load(picture, data)
    if as_it_is:
        return data, picture
    picture = to_rgb(picture)
    # A third of the time that LANCZOS takes; the network's own scaling hides the difference.
    picture.thumbnail((max_side, max_side), Image.Resampling.HAMMING)
    output = io.BytesIO()
    picture.save(output, "JPEG", quality=JPEG_QUALITY)
    return output.getvalue(), picture


def to_rgb(picture: Image.Image) -> Image.Image:
    """Returns the picture upright, in 8-bit RGB, what was transparent on white."""
    turn = UPRIGHT.get(_orientation(picture))
    if picture.mode.startswith("I;16"):  # Pillow would clip these instead of scaling them.
        tags = picture.tag_v2 if isinstance(picture, TiffImageFile) else {}
        scale = 2.0 ** (8 - tags.get(BITSPERSAMPLE, (16,))[0])
        picture = picture.convert("F").point(lambda value: value * scale + 0).convert("L")
        picture = ImageOps.invert(picture) if tags.get(PHOTOMETRIC_INTERPRETATION) == 0 else picture
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        background = Image.new("RGB", picture.size, "white")
        background.paste(picture, mask=picture.getchannel("A"))
        picture = background
    picture = picture if picture.mode == "RGB" else picture.convert("RGB")
    return picture if turn is None else picture.transpose(turn)


def _orientation(picture: Image.Image) -> int:
    """Returns the EXIF tag; 1, upright, where there is none or what there is cannot be read.

    Pillow's getexif also believes XMP and the texts of a PNG; browsers and the exported model do not. It has turned a
    TIFF already.
    """
    tags = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tags.load(picture.info.get("exif", b""))
            return tags.get(ORIENTATION_TAG, 1)
    except Exception:  # Pillow's reader raises nearly anything on damaged data; the pixels are whole.
        return 1


def _is_usual_jpeg(data: bytes) -> bool:
    """Returns whether TensorFlow's decoder takes a JPEG that Pillow's takes.

    The segments have to follow one another up to a last one that ends the picture (Pillow's is content once it has
    all rows), and the pixels have to be stored in one of the usual ways.
    """
    position = 2  # After the marker of the start.
    while match := _JPEG_MARKER.match(data, position):
        if match[1] == b"\xd9":
            return match.end() == len(data)
        position = match.end() + int.from_bytes(data[match.end() : match.end() + 2], "big")
        if match[1] in _FRAMES and not (match[1] in _USUAL_FRAMES and _has_usual_samples(data[match.end() : position])):
            return False
        if match[1] == b"\xda":  # The pixels follow, as long as they like.
            next_segment = _END_OF_PIXELS.search(data, position)
            position = next_segment.start() if next_segment else len(data)
    return False


def _has_usual_samples(frame: bytes) -> bool:
    """Returns whether the colours of a JPEG have 8 bits, and each has all pixels or a whole fraction of them."""
    # Length (2 bytes), bits, height (2), width (2), number of colours; of each: name, samples across and down, table.
    across, down = [byte >> 4 for byte in frame[9::3]], [byte & 15 for byte in frame[9::3]]
    return frame[2] == 8 and all(0 not in axis and all(max(axis) % own == 0 for own in axis) for axis in (across, down))
