"""Picture files as the internet and old disks hold them: what each should be used as, or why it is refused."""

from collections.abc import Iterator
import io
import json
import struct
from typing import Any, NamedTuple
import zlib

from PIL import Image, ImageCms, ImageDraw, ImageOps

SIZE = (96, 64)  # Pixels.
EXIF_ORIENTATION = 0x0112
# How the pixels of an upright picture have to be moved so that a reader of the EXIF tag puts them back.
STORED_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


class Kind(NamedTuple):
    """A file and what should become of it."""

    name: str  # Of the file.
    data: bytes
    expected: Image.Image | str  # RGB, as the network should see it before scaling; or how the reason begins.


def drawing(number: int = 0, size: tuple[int, int] = SIZE) -> Image.Image:
    """Returns a picture in RGB whose quarters differ, so that any turn or mirroring shows; one for each number."""
    picture = Image.new("RGB", size)
    draw = ImageDraw.Draw(picture)
    width, height = size
    shade = number * 37 % 120
    for column, row, colour in [
        (0, 0, (250, shade, 60)),
        (1, 0, (40, 200, shade)),
        (0, 1, (shade, 80, 220)),
        (1, 1, (240, 240, 100 + shade // 2)),
    ]:
        box = (column * width // 2, row * height // 2, (column + 1) * width // 2, (row + 1) * height // 2)
        draw.rectangle(box, fill=colour)
    return picture


def encode(picture: Image.Image, file_format: str = "JPEG", **options: Any) -> bytes:
    output = io.BytesIO()
    picture.save(output, file_format, **({"quality": 92} if file_format == "JPEG" else {}) | options)
    return output.getvalue()


def kinds() -> Iterator[Kind]:
    """Yields all kinds; no two files have the same bytes."""
    for position, (name, data, expected) in enumerate([*used(), *refused(), *bombs()]):
        yield Kind(f"{position:03} {name}", data, expected)


Case = tuple[str, bytes, Image.Image | str]


def used() -> Iterator[Case]:
    yield from _jpegs()
    yield from _pngs()
    yield from _others()


def _jpegs() -> Iterator[Case]:
    picture = drawing(1)
    yield "plain.jpg", encode(picture), picture
    yield "progressive.jpg", encode(picture, progressive=True), picture
    yield "full colour.jpg", encode(picture, subsampling=0), picture
    yield "optimised.jpg", encode(picture, optimize=True), picture
    yield "restart markers.jpg", encode(picture, restart_marker_rows=1), picture
    yield "rgb without ycc.jpg", encode(picture, keep_rgb=True), picture
    yield "grey.jpg", encode(picture.convert("L")), picture.convert("L").convert("RGB")
    yield "grey progressive.jpg", encode(picture.convert("L"), progressive=True), picture.convert("L").convert("RGB")
    ink = picture.convert("CMYK")
    yield "cmyk.jpg", encode(ink), picture
    yield "cmyk progressive.jpg", encode(ink, progressive=True), picture
    yield "ycck of adobe.jpg", _adobe_ycck(picture), picture
    yield "wrong extension.png", encode(picture, comment=b"1"), picture
    yield "no extension", encode(picture, comment=b"2"), picture
    yield "UPPER CASE.JPG", encode(picture, comment=b"3"), picture
    yield "other.jfif", encode(picture, comment=b"4"), picture
    yield "text behind the end.jpg", encode(picture, comment=b"5") + b"<html>" * 100, picture
    yield "comment.jpg", encode(picture, comment=b"x" * 60_000), picture
    yield "huge icc.jpg", encode(picture, icc_profile=_profile(10_000_000)), picture
    yield "srgb icc.jpg", encode(picture, icc_profile=_profile(0)), picture
    yield "damaged icc.jpg", encode(picture, icc_profile=b"\xff" * 100), picture
    yield "damaged exif.jpg", encode(picture, exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\x12\x01" * 40), picture
    yield "empty exif.jpg", encode(picture, exif=b"Exif\0\0"), picture
    yield "exif that is text.jpg", encode(picture, exif=b"Exif\0\0hello, world"), picture
    yield "exif orientation 9.jpg", encode(picture, exif=exif(9)), picture
    yield "phone.mpo", encode(picture, "MPO", save_all=True, append_images=[drawing(2)]), picture
    yield "one pixel.jpg", encode(Image.new("RGB", (1, 1), (10, 200, 90))), Image.new("RGB", (1, 1), (10, 200, 90))
    yield "line down.jpg", encode(Image.new("RGB", (1, 20_000), (9, 99, 99))), Image.new("RGB", (1, 640), (9, 99, 99))
    yield "line along.jpg", encode(Image.new("RGB", (20_000, 1), (99, 9, 9))), Image.new("RGB", (640, 1), (99, 9, 9))
    yield "long side.jpg", encode(drawing(3, (3000, 2000)), comment=b"l"), drawing(3, (640, 427))
    yield "long side progressive.jpg", encode(drawing(3, (3000, 2000)), progressive=True), drawing(3, (640, 427))
    yield "640 pixels.jpg", encode(drawing(3, (640, 427))), drawing(3, (640, 427))
    for orientation in range(1, 9):
        turned = picture
        if orientation in STORED_TURNED:
            turned = picture.transpose(STORED_TURNED[orientation])
        yield f"exif {orientation}.jpg", encode(turned, exif=exif(orientation)), picture


def _pngs() -> Iterator[Case]:
    picture = drawing(4)
    grey = picture.convert("L")
    yield "plain.png", encode(picture, "PNG"), picture
    yield "grey.png", encode(grey, "PNG"), grey.convert("RGB")
    half = grey.copy()
    half.putalpha(_right_half_clear())
    yield "grey and alpha.png", encode(half, "PNG"), _on_white(grey.convert("RGB"))
    clear = picture.copy()
    clear.putalpha(_right_half_clear())
    yield "alpha.png", encode(clear, "PNG"), _on_white(picture)
    two = grey.convert("1", dither=Image.Dither.NONE)
    yield "1 bit.png", encode(two, "PNG"), two.convert("RGB")
    for colours in (4, 16, 256):
        shades = Image.linear_gradient("L").resize(SIZE).convert("RGB").quantize(colours)
        yield f"palette of {colours}.png", encode(shades, "PNG"), shades.convert("RGB")
    indexed, cleared = picture.quantize(8), _white_quarter(picture)
    yield "palette with a clear colour.png", encode(indexed, "PNG", transparency=indexed.getpixel((0, 0))), cleared
    alphas = bytes(0 if index == indexed.getpixel((0, 0)) else 255 for index in range(8))
    yield "palette with alpha.png", encode(indexed, "PNG", transparency=alphas, compress_level=1), cleared
    yield "a clear colour.png", encode(picture, "PNG", transparency=picture.getpixel((0, 0))), cleared
    yield "16 bits of grey.png", encode(_sixteen_bits(grey), "PNG"), grey.convert("RGB")
    yield "16 bits of colour.png", _png(picture, depth=16), picture
    dark = Image.new("RGB", SIZE, (85, 85, 85))
    dark.paste("white", (0, 0, SIZE[0] // 2, SIZE[1]))
    yield "2 bits of grey, one clear.png", _png_half_clear(2), dark
    yield "4 bits of grey, one clear.png", _png_half_clear(4), dark
    yield "16 bits of grey, one clear.png", _png_half_clear(16), dark
    yield "16 bits of colour, one clear.png", _png_half_clear(16, colours=3), dark
    yield "interlaced.png", _png(picture, interlaced=True), picture
    yield "turned by exif.png", encode(picture.transpose(STORED_TURNED[6]), "PNG", exif=exif(6)), picture
    yield "damaged exif.png", encode(picture, "PNG", exif=b"no exif at all"), picture
    yield "srgb icc.png", encode(picture, "PNG", icc_profile=_profile(0)), picture
    yield "animated.png", encode(picture, "PNG", save_all=True, append_images=[drawing(5)]), picture
    yield "large.png", encode(drawing(4, (3000, 2000)), "PNG"), drawing(4, (640, 427))


def _others() -> Iterator[Case]:
    picture = drawing(6)
    grey = picture.convert("L")
    clear = picture.copy()
    clear.putalpha(_right_half_clear())
    yield "lossy.webp", encode(picture, "WEBP", quality=95), picture
    yield "lossless.webp", encode(picture, "WEBP", lossless=True), picture
    yield "alpha.webp", encode(clear, "WEBP", lossless=True), _on_white(picture)
    turned = picture.transpose(STORED_TURNED[8])
    yield "turned by exif.webp", encode(turned, "WEBP", exif=exif(8), lossless=True), picture
    animation: dict[str, Any] = {"save_all": True, "append_images": [drawing(7), drawing(8)], "duration": 100}
    yield "animated.webp", encode(picture, "WEBP", lossless=True, **animation), picture
    yield "plain.gif", encode(picture, "GIF"), picture
    yield "animated.gif", encode(picture, "GIF", **animation), picture
    indexed = picture.quantize(8)
    yield "clear.gif", encode(indexed, "GIF", transparency=indexed.getpixel((0, 0))), _white_quarter(picture)
    yield "plain.bmp", encode(picture, "BMP"), picture
    yield "palette.bmp", encode(picture.quantize(16), "BMP"), picture
    two = grey.convert("1", dither=Image.Dither.NONE)
    yield "1 bit.bmp", encode(two, "BMP"), two.convert("RGB")
    yield "plain.tif", encode(picture, "TIFF"), picture
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield f"{compression}.tif", encode(picture, "TIFF", compression=compression), picture
    yield "cmyk.tif", encode(picture.convert("CMYK"), "TIFF"), picture
    yield "alpha.tif", encode(clear, "TIFF"), _on_white(picture)
    yield "16 bits of grey.tif", encode(_sixteen_bits(grey), "TIFF"), grey.convert("RGB")
    yield "many pages.tif", encode(picture, "TIFF", save_all=True, append_images=[drawing(9)]), picture
    yield "turned.tif", encode(picture.transpose(STORED_TURNED[3]), "TIFF", tiffinfo={EXIF_ORIENTATION: 3}), picture
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    in_lab = ImageCms.applyTransform(picture, ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
    assert in_lab
    yield "lab.tif", encode(in_lab, "TIFF"), "pixels of the kind LAB"
    fractions = grey.convert("F").point(lambda value: value * (1 / 255) + 0)
    yield "floating point.tif", encode(fractions, "TIFF"), "pixels of the kind F"
    large = grey.convert("I").point(lambda value: value * (1 << 20) + 0)
    yield "32 bits of grey.tif", encode(large, "TIFF"), "pixels of the kind I,"


def refused() -> Iterator[Case]:
    picture = drawing(10)
    yield "empty.jpg", b"", "empty file"
    yield "one byte.jpg", b"\xff", "not a picture"
    yield "zeros.jpg", bytes(5000), "not a picture"
    yield "page.jpg", b"\r\n<!DOCTYPE html><html><body>Are you a robot?</body></html>", "a web page"
    yield "answer.jpg", json.dumps({"message": "Not a valid object"}).encode(), "not a picture"
    yield "feed.jpg", b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "a web page"
    yield "vector.jpg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "a web page"
    yield "notes.txt", "Größe: 12 cm".encode(), "not a picture"
    yield "lfs pointer.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "not a picture"
    yield "document.jpg", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(200), "not a picture"
    yield "program.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(rm) run\n", "not a picture"
    yield "video.jpg", b"\0\0\0\x18ftypmp42" + bytes(200), "not a picture"
    yield "phone.heic", b"\0\0\0\x18ftypheic" + bytes(200), "not a picture"
    yield "archive.jpg", b"PK\x03\x04" + bytes(200), "not a picture"
    for file_format in ("PPM", "PCX", "TGA", "ICO", "JPEG2000", "PDF", "EPS", "AVIF"):
        yield f"{file_format}.jpg", encode(picture, file_format), "not a picture"
    for name, data in {
        "jpeg": encode(drawing(11, (400, 300))),
        "progressive": encode(drawing(11, (400, 300)), progressive=True),
        "png": encode(drawing(11, (400, 300)), "PNG"),
        "webp": encode(drawing(11, (400, 300)), "WEBP"),
        "gif": encode(drawing(11, (400, 300)), "GIF"),
        "bmp": encode(drawing(11), "BMP"),
        "tif": encode(drawing(11), "TIFF", compression="tiff_lzw"),
    }.items():
        for tenth in range(1, 10):
            yield f"{name} cut off at {tenth} tenths.jpg", data[: len(data) * tenth // 10], "(damaged|not a picture)"
    png = encode(picture, "PNG")
    middle = len(png) // 2
    yield "flipped bit.png", png[:middle] + bytes([png[middle] ^ 1]) + png[middle + 1 :], "damaged: "
    yield "no end.png", png[:-1], "damaged: a PNG without its end"
    yield "no pixels.png", png[:33] + png[-12:], "damaged: "
    yield "no size.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0\xff\xd9", "(damaged|not a picture)"
    yield "0 pixels wide.bmp", _bmp_header(0, 10), "(damaged|not a picture)"


def bombs() -> Iterator[Case]:
    """Yields small files that would fill the memory; none is larger than a megabyte."""
    yield "declared.png", _png_header(30_000, 30_000) + _chunk(b"IDAT", b""), "30000 x 30000|.*exceeds"
    yield "declared.gif", _gif_header(30_000, 30_000), "30000 x 30000|.*exceeds"
    yield "declared.bmp", _bmp_header(30_000, 30_000), "30000 x 30000|.*exceeds"
    yield "declared.jpg", _jpeg_header(30_000, 30_000), "30000 x 30000|.*exceeds"
    yield "declared.tif", _tiff(30_000, 30_000, b""), "30000 x 30000|.*exceeds"
    yield "declared most.jpg", _jpeg_header(65_500, 65_500), ".*exceeds"
    yield "bomb.png", _png_of_zeros(30_000, 30_000), "30000 x 30000|.*exceeds"
    yield "bomb.webp", _webp_header(16_000, 16_000), "Image size|16000 x 16000|.*exceeds"
    yield "bomb.tif", _tiff(30_000, 30_000, zlib.compress(bytes(30_000 * 1_000), 9)), "30000 x 30000|.*exceeds"


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[EXIF_ORIENTATION] = orientation
    return tags


def _profile(padding: int) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(padding)


def _right_half_clear() -> Image.Image:
    alpha = Image.new("L", SIZE, 255)
    alpha.paste(0, (SIZE[0] // 2, 0, *SIZE))
    return alpha


def _on_white(picture: Image.Image) -> Image.Image:
    expected = picture.copy()
    expected.paste("white", (SIZE[0] // 2, 0, *SIZE))
    return expected


def _white_quarter(picture: Image.Image) -> Image.Image:
    expected = picture.copy()
    expected.paste("white", (0, 0, SIZE[0] // 2, SIZE[1] // 2))
    return expected


def _sixteen_bits(grey: Image.Image) -> Image.Image:
    return Image.frombytes("I;16", grey.size, b"".join(struct.pack("<H", value * 257) for value in grey.tobytes()))


def _adobe_ycck(picture: Image.Image) -> bytes:
    """Returns a JPEG as Photoshop writes it for print: inverted inks, turned to YCC and K."""
    # The decoder turns YCC into RGB and takes that as ink that is left out: the negative of the picture is stored.
    luma, blue, red = ImageOps.invert(picture).convert("YCbCr").split()
    black = Image.new("L", picture.size, 255)
    # Pillow writes the four channels inverted and calls them CMYK; one byte of Adobe's marker makes them YCCK.
    channels = [ImageOps.invert(channel) for channel in (luma, blue, red, black)]
    data = encode(Image.merge("CMYK", channels), subsampling=0, quality=95)
    marker = data.index(b"Adobe")
    return data[: marker + 11] + b"\x02" + data[marker + 12 :]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_header(width: int, height: int, depth: int = 8, colour: int = 2, interlaced: bool = False) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + _chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    )


def _png(picture: Image.Image, depth: int = 8, interlaced: bool = False) -> bytes:
    """Returns a PNG of forms that Pillow does not write."""
    passes = [(0, 0, 1, 1)]
    if interlaced:  # Adam7: first column, first row, step across, step down.
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b""
    for left, top, across, down in passes:
        for y in range(top, picture.height, down):
            row = picture.crop((0, y, picture.width, y + 1)).tobytes()
            row = b"".join(row[3 * x : 3 * x + 3] for x in range(left, picture.width, across))
            rows += b"\0" + (row if depth == 8 else b"".join(bytes([value, value]) for value in row))
    header = _png_header(*picture.size, depth, interlaced=interlaced)
    return header + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _png_half_clear(depth: int, colours: int = 1) -> bytes:
    """Returns a PNG with a light half on the left, whose value stands for transparency, and a dark one."""
    width, height = SIZE
    light, dark = 2**depth * 5 // 8, 2**depth // 3
    bits = "".join(format(value, f"0{depth}b") * colours * (width // 2) for value in (light, dark))
    rows = (b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")) * height
    header = _png_header(width, height, depth, colour=0 if colours == 1 else 2)
    clear = _chunk(b"tRNS", light.to_bytes(2, "big") * colours)
    return header + clear + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _png_of_zeros(width: int, height: int) -> bytes:
    """Returns a whole PNG of one bit a pixel."""
    rows = zlib.compress(bytes(height * (1 + (width + 7) // 8)), 9)
    return _png_header(width, height, depth=1, colour=0) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _jpeg_header(width: int, height: int) -> bytes:
    """Returns a small JPEG that says it is larger."""
    data = encode(drawing(12))
    size = data.index(b"\xff\xc0") + 5
    return data[:size] + struct.pack(">HH", height, width) + data[size + 4 :]


def _gif_header(width: int, height: int) -> bytes:
    """Returns a small GIF that says it is larger."""
    data = encode(drawing(13), "GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def _webp_header(width: int, height: int) -> bytes:
    """Returns a WebP of one colour: 34 bytes, whatever its size."""
    data = encode(Image.new("RGB", (1, 1)), "WEBP", lossless=True)
    return data[:21] + struct.pack("<I", width - 1 | height - 1 << 14) + data[25:]


def _bmp_header(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHI IiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def _tiff(width: int, height: int, strip: bytes) -> bytes:
    """Returns a grey TIFF whose every strip of 1,000 rows is the same deflated bytes."""
    strips = height // 1000
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1),
        (273, 4, strips, 8 + 2 + 9 * 12 + 4), (277, 3, 1, 1), (278, 4, 1, 1000),
        (279, 4, strips, 8 + 2 + 9 * 12 + 4 + 4 * strips),
    ]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    data_at = 8 + len(directory) + 8 * strips
    places = struct.pack("<I", data_at) * strips + struct.pack("<I", len(strip)) * strips
    return b"II*\0" + struct.pack("<I", 8) + directory + places + strip
