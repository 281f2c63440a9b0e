"""What the exported model sees of a picture is what classify.py sees of it, whatever a camera or a program wrote."""

from collections.abc import Callable
import functools
import io

import corpus
import numpy as np
from PIL import Image
import pytest

from metart.networks.slim_compat import tf
from metart.networks.preprocessing import Looks, evaluation_image
from metart.networks.uploads import uploaded_image
from metart.records.pictures import MAX_SIDE, normalise

SIZE = 96
Upload = Callable[[bytes], np.ndarray]


@pytest.fixture(scope="module")
def upload() -> Upload:
    """What the graph of the exported model makes of a file."""
    graph = tf.function(lambda encoded: uploaded_image(encoded, Looks(SIZE)))
    return lambda data: graph(tf.constant(data)).numpy()


def prepared(data: bytes) -> np.ndarray:
    """What classify.py makes of a file."""
    return evaluation_image(tf.constant(normalise(data, MAX_SIDE)[0]), SIZE).numpy()


def assert_alike(seen: np.ndarray, wanted: np.ndarray) -> None:
    assert np.abs(seen - wanted).mean() < 2  # What a second JPEG compression changes at the corpus's hard edges.


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
    xmp = f'<rdf tiff:Orientation="{orientation}"/>'.encode()
    plain = encode(picture, "JPEG", quality=95, exif=intel)
    files = {
        "Intel": plain,
        "Motorola": encode(picture, "JPEG", quality=95, exif=motorola),
        "behind a profile": encode(picture, "JPEG", quality=95, exif=intel, icc_profile=b"x" * 100_000),
        "behind fillers": plain[:2] + b"\xff\xff\xff" + plain[2:],
        "behind a comment that looks like it": plain[:2] + b"\xff\xfe\x00\x0aExif\0\0II" + plain[2:],
        "XMP": encode(picture, "JPEG", quality=95, xmp=xmp),
        "PNG": encode(picture, "PNG", exif=intel),
        "PNG, Motorola": encode(picture, "PNG", exif=motorola),
    }
    for name, data in files.items():
        assert np.abs(upload(data) - prepared(data)).mean() < 2, name
    as_stored = np.abs(upload(plain) - prepared(encode(picture, "JPEG", quality=95))).mean() < 2
    assert as_stored == (orientation not in range(2, 9))  # The test sees a turn.


@pytest.mark.parametrize("cut", [12, 20, 30, 40])
def test_damaged_exif_is_no_turn(cut: int, upload: Upload) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = exif.tobytes()[:cut]
    data = encode(corpus.drawing(3, (300, 200)), "JPEG", quality=95, exif=content)
    assert_alike(upload(data), prepared(data))
