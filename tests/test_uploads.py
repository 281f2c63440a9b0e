"""What the exported model sees of a picture is what classify.py sees of it, whatever a camera or a program wrote."""

from collections.abc import Callable
import functools
import io
from pathlib import Path
import struct

import corpus
import numpy as np
from PIL import Image, PngImagePlugin
from processes import output_and_peak
import pytest

from metart.networks.slim_compat import tf
from metart.networks.preprocessing import Looks, evaluation_image
from metart.networks.uploads import uploaded_image
from metart.records.pictures import MAX_SIDE, BadPicture, normalise

SIZE = 96
Upload = Callable[[bytes], np.ndarray]


@pytest.fixture(scope="module")
def upload() -> Upload:
    """What the graph of the exported model makes of a file."""
    graph = tf.function(lambda encoded: uploaded_image(encoded, Looks(SIZE)))
    return lambda data: graph(tf.constant(data)).numpy()


def prepared(data: bytes) -> np.ndarray:
    """What classify.py makes of a file."""
    return evaluation_image(tf.constant(normalise(data, MAX_SIDE)), SIZE).numpy()


def assert_alike(seen: np.ndarray, wanted: np.ndarray) -> None:
    # What a second JPEG compression changes at the corpus's hard edges; normalise compresses some JPEGs, such as those
    # with text behind their end, that the graph takes as they are.
    assert np.abs(seen - wanted).mean() < 2


@functools.cache
def kinds() -> dict[str, corpus.Kind]:
    return {kind.name: kind for kind in corpus.kinds() if not isinstance(kind.expected, str)}


@pytest.mark.parametrize("name", kinds())
def test_the_graph_sees_what_classify_sees(name: str, upload: Upload) -> None:
    data = kinds()[name].data
    file_format = Image.open(io.BytesIO(data)).format
    if file_format in ("JPEG", "MPO", "PNG"):
        assert_alike(upload(data), prepared(data))
    else:
        says = {"WEBP": "WebP"}.get(str(file_format), file_format)
        with pytest.raises(tf.errors.InvalidArgumentError, match=rf"JPEG and PNG are taken, this is\] \[{says}"):
            upload(data)


def test_what_is_no_picture_is_refused(upload: Upload) -> None:
    for data in (b"", b"<!doctype html>", b"\x89PN", b"\xff"):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"this is. .no known picture"):
            upload(data)


def encode(picture: Image.Image, file_format: str, **options: object) -> bytes:
    data = io.BytesIO()
    picture.save(data, file_format, **options)
    return data.getvalue()


@pytest.mark.parametrize("orientation", [*range(10), 65535])
def test_a_photograph_is_upright_wherever_its_turn_is_written(orientation: int, upload: Upload) -> None:
    picture = corpus.drawing(3, (300, 200))
    intel, motorola = Image.Exif(), Image.Exif()
    motorola.endian = ">"
    for exif in (intel, motorola):
        exif[0x010F], exif[0x0110], exif[0x0112] = "maker", "a model with a long name", orientation
    long = b"Exif\0\0MM\0*" + struct.pack(">IHHHII", 8, 1, 0x0112, 4, 1, orientation) + bytes(4)
    plain = encode(picture, "JPEG", quality=95, exif=intel)
    files = {
        "Intel": plain,
        "Motorola": encode(picture, "JPEG", quality=95, exif=motorola),
        "behind a profile": encode(picture, "JPEG", quality=95, exif=intel, icc_profile=b"x" * 100_000),
        "behind fillers": plain[:2] + b"\xff\xff\xff" + plain[2:],
        "behind a comment that looks like it": plain[:2] + b"\xff\xfe\x00\x0aExif\0\0II" + plain[2:],
        "as a long number": encode(picture, "JPEG", quality=95, exif=long),
        "behind an empty one": plain[:2] + b"\xff\xe1\0\x08Exif\0\0" + plain[2:],
        "behind something of a like name": plain[:2] + b"\xff\xe1\0\x0cExifMeta\0\0" + plain[2:],
        "PNG": encode(picture, "PNG", exif=intel),
        "PNG, Motorola": encode(picture, "PNG", exif=motorola),
        "PNG, named twice": encode(picture, "PNG", exif=b"Exif\0\0" + intel.tobytes()),
    }
    stored = prepared(encode(picture, "JPEG", quality=95))
    for name, data in files.items():
        seen = upload(data)
        np.testing.assert_array_equal(seen, prepared(data), name)
        assert (np.abs(seen - stored).mean() < 2) == (orientation not in range(2, 9)), name


@pytest.mark.parametrize("cut", [12, 20, 30, 40])
def test_damaged_exif_is_no_turn(cut: int, upload: Upload) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = exif.tobytes()[:cut]
    data = encode(corpus.drawing(3, (300, 200)), "JPEG", quality=95, exif=content)
    assert_alike(upload(data), prepared(data))


def test_only_exif_turns_a_picture(upload: Upload) -> None:
    picture = corpus.drawing(3, (300, 200))
    xmp = '<rdf tiff:Orientation="6"/>'
    exif = corpus.exif(6).tobytes()

    def one_tag(kind: int, count: int, header: bytes = b"II*\0") -> bytes:
        return b"Exif\0\0" + header + struct.pack("<IHHHII", 8, 1, 0x0112, kind, count, 6) + bytes(4)

    files = {
        "JPEG, XMP": encode(picture, "JPEG", quality=95, xmp=xmp.encode()),
        "JPEG, comment": encode(picture, "JPEG", quality=95, comment=xmp.encode()),
        "JPEG, a byte": encode(picture, "JPEG", quality=95, exif=one_tag(1, 1)),
        "JPEG, a damaged count": encode(picture, "JPEG", quality=95, exif=one_tag(3, 1 << 20)),
        "JPEG, a damaged header": encode(picture, "JPEG", quality=95, exif=one_tag(3, 1, b"II\0\0")),
    }
    for name, text, is_compressed in [
        ("XML:com.adobe.xmp", xmp, False),
        ("XML:com.adobe.xmp", xmp, True),
        ("Raw profile type exif", f"\nexif\n{len(exif):8}\n{exif.hex()}\n", True),  # Of older ImageMagick.
    ]:
        texts = PngImagePlugin.PngInfo()
        (texts.add_itxt if text is xmp else texts.add_text)(name, text, zip=is_compressed)
        files[f"PNG, {name}, {is_compressed}"] = encode(picture, "PNG", pnginfo=texts)
    for name, data in files.items():
        stored = prepared(encode(picture, name.split(",")[0], quality=95))
        np.testing.assert_array_equal(upload(data), stored, name)
        np.testing.assert_array_equal(prepared(data), stored, name)


def test_a_reduced_picture_is_compressed_as_those_of_training(upload: Upload) -> None:
    data = (kinds()[name].data for name in kinds() if "long side" in name or "large" in name)
    assert max(np.abs(upload(each) - prepared(each)).mean() for each in data) < 0.1


def test_a_png_without_its_end_is_refused_by_both(upload: Upload) -> None:
    data = encode(corpus.drawing(3), "PNG")
    for cut in range(1, 20):
        with pytest.raises(tf.errors.InvalidArgumentError):
            upload(data[:-cut])
        with pytest.raises(BadPicture, match="damaged"):
            prepared(data[:-cut])


@pytest.mark.parametrize("name", ["declared.png", "declared.jpg", "declared most.jpg", "bomb.png"])
def test_what_would_fill_the_memory_is_refused_before_it_is_decoded(name: str, upload: Upload) -> None:
    (data,) = (data for bomb, data, _ in corpus.bombs() if bomb == name)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"more than 70,000,000 pixels are not taken, this has"):
        upload(data)


def test_the_largest_picture_leaves_a_server_its_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("RGBA", (8_360, 8_360), (200, 30, 60, 100)).save(path, compress_level=1)
    program = """
import sys
from pathlib import Path
from metart.networks.slim_compat import tf
from metart.networks.preprocessing import Looks
from metart.networks.uploads import uploaded_image
graph = tf.function(lambda encoded: uploaded_image(encoded, Looks(96)))
assert abs(graph(tf.constant(Path(sys.argv[1]).read_bytes())).numpy() - [233, 167, 179]).max() < 3
"""
    assert output_and_peak(program, path)[1] < 2500
