"""Picture files as the internet sends them: proved whole, then brought into one form.

Only formats on a list are opened, whatever a file's name says, and sizes are read before pixels.
"""

import io
import warnings

from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# An order above the museum's largest photographs; 3 bytes a pixel bound the memory of one process.
MAX_PIXELS = 100_000_000
# Longest side of a record, pixels. Evaluation at 299 takes the central 7/8, so the shorter side needs 342;
# with 640 it has them up to a ratio of 15:8, and the museum's small photographs (625) stay as they are.
MAX_SIDE = 640
JPEG_QUALITY = 92
ORIENTATION_TAG = 0x0112  # Of EXIF; 1 is upright.

assert not ImageFile.LOAD_TRUNCATED_IMAGES


class BadPicture(Exception):
    """There is no whole picture of a known format; the text says why."""


def open_picture(data: bytes, draft_side: int | None = None) -> Image.Image:
    """Decodes the first frame of a picture completely.

    Args:
        data: A JPEG, PNG, WebP, GIF, BMP or TIFF file.
        draft_side: JPEGs may be decoded at a half, quarter or eighth of their size as long as the longest
            side does not get shorter than this; much faster, and a truncated file is still found.

    Returns:
        The picture as stored, in the file's own mode; `format` says which format it was.

    Raises:
        BadPicture: The reason in a few words.
    """
    if not data:
        raise BadPicture("empty file")
    if data[:64].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        raise BadPicture("a web page, not a picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own size warning; the limit here is stricter.
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise BadPicture(f"{width} x {height} pixels, more than {MAX_PIXELS:,}")
            if draft_side is not None:
                scale = draft_side / max(width, height)
                picture.draft(None, (max(1, int(width * scale)), max(1, int(height * scale))))
            picture.load()
    except BadPicture:
        raise
    except UnidentifiedImageError:
        raise BadPicture("not a picture of a known format (" + ", ".join(FORMATS) + ")") from None
    except Image.DecompressionBombError as error:
        raise BadPicture(str(error)) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged data.
        raise BadPicture(f"damaged: {error or type(error).__name__}") from None
    return picture


def normalise(data: bytes, max_side: int) -> tuple[bytes, int, int]:
    """Proves a picture whole and returns it as an upright RGB JPEG of bounded size.

    Args:
        data: A picture file, see `open_picture`.
        max_side: Longest side of the result, pixels.

    Returns:
        (JPEG bytes, height, width); the bytes are `data` itself where nothing needs to change.

    Raises:
        BadPicture: See `open_picture`.
    """
    picture = open_picture(data, draft_side=max_side)
    full_size = _declared_size(data)
    upright = picture.getexif().get(ORIENTATION_TAG, 1) == 1
    if picture.format == "JPEG" and picture.mode in ("RGB", "L") and upright and max(full_size) <= max_side:
        return data, picture.height, picture.width
    picture = to_rgb(picture)
    # A third of the time that LANCZOS takes; the network's own scaling hides the difference.
    picture.thumbnail((max_side, max_side), Image.Resampling.HAMMING)
    output = io.BytesIO()
    picture.save(output, "JPEG", quality=JPEG_QUALITY)
    return output.getvalue(), picture.height, picture.width


def to_rgb(picture: Image.Image) -> Image.Image:
    """Returns the picture upright, in 8-bit RGB, what was transparent on white."""
    ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode.startswith("I"):  # 16-bit grey, which Pillow would clip instead of scale.
        picture = picture.convert("F").point(lambda value: value * (255 / 65535) + 0).convert("L")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        background = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(background, picture).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _declared_size(data: bytes) -> tuple[int, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            return picture.size
