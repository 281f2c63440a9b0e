"""pictures.py against Pillow's own full decode, and against files as the internet sends them."""

from collections.abc import Callable
import contextlib
import io
import random
import struct

from PIL import Image, ImageChops, ImageDraw, ImageStat
import pytest

from metart.networks.slim_compat import tf
from metart.records import pictures
from metart.records.pictures import BadPicture, normalise, normalise_and_show, open_picture, to_rgb

RED, BLUE = (200, 30, 40), (30, 40, 200)


def sample(width: int = 120, height: int = 80, mode: str = "RGB") -> Image.Image:
    """Returns a picture that is red on the left and blue on the right, with a white corner top left."""
    picture = Image.new("RGB", (width, height), RED)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((width // 2, 0, width, height), fill=BLUE)
    draw.rectangle((0, 0, width // 6, height // 6), fill="white")
    return picture.quantize(8) if mode == "P" else picture.convert(mode)


def encode(picture: Image.Image, file_format: str, **options: object) -> bytes:
    output = io.BytesIO()
    picture.save(output, file_format, **options)
    return output.getvalue()


def decode(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def difference(left: Image.Image, right: Image.Image) -> float:
    assert left.size == right.size
    return max(ImageStat.Stat(ImageChops.difference(left.convert("RGB"), right.convert("RGB"))).mean)


@pytest.mark.parametrize(
    ("file_format", "mode"),
    [
        ("JPEG", "CMYK"),
        ("PNG", "RGB"),
        ("PNG", "P"),
        ("PNG", "RGBA"),
        ("PNG", "1"),
        ("GIF", "P"),
        ("WEBP", "RGB"),
        ("BMP", "RGB"),
        ("TIFF", "RGB"),
        ("TIFF", "CMYK"),
    ],
)
def test_every_format_becomes_the_same_rgb_jpeg(file_format: str, mode: str) -> None:
    picture = sample(mode=mode)
    data, shown = normalise_and_show(encode(picture, file_format), 1000)
    result = decode(data)
    assert (result.format, result.mode, result.size, shown.size) == ("JPEG", "RGB", (120, 80), (120, 80))
    assert difference(result, picture) < 4


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_good_jpeg_stays_byte_for_byte(mode: str, progressive: bool) -> None:
    data = encode(sample(mode=mode), "JPEG", progressive=progressive)
    assert normalise(data, 120) is data


@pytest.mark.parametrize("keep_rgb", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_kept_picture_is_shown_in_grey(keep_rgb: bool, subsampling: int) -> None:
    data = encode(sample(), "JPEG", keep_rgb=keep_rgb, subsampling=0 if keep_rgb else subsampling)
    jpeg, shown = normalise_and_show(data, 120)
    assert jpeg is data
    assert shown.mode == "L"
    assert difference(shown, decode(data).convert("L")) < 2


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def lossless_jpeg(width: int, height: int) -> bytes:
    """Returns a grey picture whose every difference to the pixel on its left (128 at first) is nothing."""
    frame = segment(0xC3, bytes([8, *height.to_bytes(2, "big"), *width.to_bytes(2, "big"), 1, 1, 0x11, 0]))
    # One code of Huffman's, "0" for "no difference".
    table = segment(0xC4, bytes([0, 1, *[0] * 15, 0]))
    scan = segment(0xDA, bytes([1, 1, 0x00, 1, 0, 0]))
    return b"\xff\xd8" + frame + table + scan + bytes((width * height + 7) // 8) + b"\xff\xd9"


def test_a_lossless_jpeg_is_made_anew_for_tensorflow_cannot_read_it() -> None:
    data = lossless_jpeg(32, 16)
    assert decode(data).size == (32, 16)  # Pillow can.
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.io.decode_jpeg(data)
    assert tf.io.decode_jpeg(normalise(data, 640), channels=3).shape == (16, 32, 3)


@pytest.mark.parametrize("samples", [0x12, 0x21, 0x31, 0x13, 0x41, 0x44])
def test_any_number_of_samples_ends_where_tensorflow_can_read_it(samples: int) -> None:
    """The frame of a JPEG says how many samples each colour has; here it is changed behind the pixels' back."""
    data = bytearray(encode(sample(160, 160), "JPEG", subsampling=0))
    for colour in range(3):
        changed = data[:]
        changed[data.index(b"\xff\xc0") + 11 + 3 * colour] = samples
        with contextlib.suppress(BadPicture):
            jpeg, shown = normalise_and_show(bytes(changed), 640)
            assert tf.io.decode_jpeg(jpeg, channels=3).shape == (shown.height, shown.width, 3)


def test_a_large_photograph_stays_byte_for_byte_a_small_one_full_of_profiles_does_not() -> None:
    noise = Image.frombytes("RGB", (1600, 1200), random.Random(0).randbytes(1600 * 1200 * 3))
    data = encode(noise, "JPEG", quality=95)
    assert len(data) > pictures.MAX_KEPT_BYTES
    assert normalise(data, 1600) is data
    profile = encode(sample(), "JPEG", icc_profile=random.Random(0).randbytes(2_100_000))
    assert len(normalise(profile, 1600)) < 10_000


def test_large_pictures_shrink_to_the_longest_side() -> None:
    large = sample(2400, 1600)
    for file_format in ("JPEG", "PNG"):
        small = decode(normalise(encode(large, file_format, quality=95), 300))
        assert small.size == (300, 200)
        assert difference(small, large.resize((300, 200), Image.Resampling.LANCZOS)) < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(orientation: int) -> None:
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Pillow's Transpose that undoes the camera's turn.
    turned = sample()
    if orientation > 1:
        inverse = {2: 4, 4: 2}.get(turns[orientation], turns[orientation])
        turned = sample().transpose(Image.Transpose(inverse))
    exif = Image.Exif()
    exif[pictures.ORIENTATION_TAG] = orientation
    upright = decode(normalise(encode(turned, "JPEG", exif=exif, quality=95), 1000))
    assert upright.size == (120, 80)
    assert upright.getexif().get(pictures.ORIENTATION_TAG, 1) == 1
    assert difference(upright, sample()) < 4


def test_transparency_lies_on_white() -> None:
    picture = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    picture.paste((200, 30, 40, 255), (0, 0, 20, 40))
    assert to_rgb(picture).getpixel((30, 20)) == (255, 255, 255)
    assert to_rgb(picture).getpixel((10, 20)) == (200, 30, 40)


def test_sixteen_bits_of_grey_keep_their_range() -> None:
    picture = Image.new("I;16", (30, 10))
    for x in range(30):
        for y in range(10):
            picture.putpixel((x, y), x * 65535 // 29)
    result = to_rgb(open_picture(encode(picture, "PNG")))
    for x in range(30):
        assert result.getpixel((x, 5)) == pytest.approx((x * 255 / 29,) * 3, abs=1)


def test_a_tiff_whose_zero_is_white_is_no_negative() -> None:
    for picture in (Image.new("L", (30, 10), 40), Image.new("I;16", (30, 10), 40 * 257)):
        tag = struct.pack("<HHIHH", 262, 3, 1, 1, 0)  # PhotometricInterpretation, a short, one of them: zero is black.
        data = encode(picture, "TIFF")
        assert data.count(tag) == 1
        white_is_zero = data.replace(tag, struct.pack("<HHIHH", 262, 3, 1, 0, 0))
        assert to_rgb(open_picture(data)).getpixel((5, 5)) == (40, 40, 40)
        assert to_rgb(open_picture(white_is_zero)).getpixel((5, 5)) == (215, 215, 215)


def test_twelve_bits_of_grey_keep_their_range() -> None:
    rows = b"".join(bytes([0x28, 0x02, 0x80]) * 15 for _ in range(10))  # Two pixels of 640 in three bytes.
    tags = [(256, 30), (257, 10), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 10), (279, len(rows))]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHIHxx", tag, 3, 1, value) for tag, value in tags)
    data = struct.pack("<2sHI", b"II", 42, 8 + len(rows)) + rows + directory + bytes(4)
    assert to_rgb(open_picture(data)).getpixel((5, 5)) == (40, 40, 40)


def damaged_jpeg(cut: Callable[[bytes], bytes]) -> bytes:
    return cut(encode(sample(400, 300), "JPEG", quality=90))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"\n <!DOCTYPE html><html></html>", "a web page, not a picture"),
        (b"<html>", "a web page, not a picture"),
        (b"gone fishing", "not a picture of a known format"),
        (encode(sample(), "PPM"), "not a picture of a known format"),
        (damaged_jpeg(lambda data: data[: len(data) // 2]), "damaged: "),
        (damaged_jpeg(lambda data: data[:-200]), "damaged: "),
        (encode(sample(), "PNG")[:-60], "damaged: "),
        (encode(sample(), "GIF")[:100], "damaged: "),
    ],
    ids=["empty", "doctype", "html", "text", "format", "half", "nearly", "png", "gif"],
)
@pytest.mark.parametrize("read", [open_picture, lambda data: normalise(data, 20), lambda data: normalise(data, 640)])
def test_bad_files_are_told(data: bytes, reason: str, read: Callable[[bytes], object]) -> None:
    with pytest.raises(BadPicture, match=reason):
        read(data)


def test_sizes_are_read_before_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 9_599)
    with pytest.raises(BadPicture, match="120 x 80 pixels, more than 9,599"):
        open_picture(encode(sample(), "PNG"))


@pytest.mark.parametrize(
    ("side", "reason"), [(8_400, "8400 x 8400 pixels, more than 70,000,000"), (14_000, "196000000")]
)
def test_a_small_file_of_many_pixels_is_not_decoded(side: int, reason: str) -> None:
    bomb = encode(Image.new("1", (side, side)), "PNG")
    assert len(bomb) < 100_000
    with pytest.raises(BadPicture, match=reason):
        open_picture(bomb)
