"""Pictures as users send them to the exported model: decoded inside its graph, and seen as `pictures.normalise` sees
them, though no Pillow is there.
"""

from metart.networks.slim_compat import tf
from metart.networks.preprocessing import DCT_METHOD, Looks, central_part
from metart.records.pictures import JPEG_QUALITY, MAX_PIXELS, ORIENTATION_TAG

_PNG = b"\x89PNG\r\n\x1a\n"
_OTHERS = {b"GIF8": "GIF", b"RIFF": "WebP", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
_START_OF_PIXELS, _APP1 = 0xDA, 0xE1  # Markers of a JPEG.
_EXIF = 0x45786966  # "Exif"; it and two zeros are what EXIF begins with.
_SHORT, _LONG = 3, 4  # Its types of numbers with 2 bytes and with 4.


def uploaded_image(encoded: tf.Tensor, looks: Looks) -> tf.Tensor:
    """Decodes the central part of a picture: upright, what was transparent on white.

    Args:
        encoded: string scalar, a JPEG or PNG file; the graph refuses others with an error that names the format, and
            before it decodes them those with more than MAX_PIXELS, which would fill the memory of a server.
        looks: A picture with a longer side than max_side is made smaller first, as it was for training.

    Returns:
        float32 [image_size, image_size, 3], RGB, range [0, 255].
    """
    is_png = _starts_with(encoded, _PNG)
    kind: tf.Tensor = tf.constant("no known picture")
    for start, name in _OTHERS.items():
        kind = tf.where(_starts_with(encoded, start), name, kind)
    known = tf.debugging.Assert(is_png | _starts_with(encoded, b"\xff\xd8"), ["JPEG and PNG are taken, this is", kind])
    with tf.control_dependencies([known]):
        sides = tf.cond(is_png, lambda: _sides_of_png(encoded), lambda: tf.io.extract_jpeg_shape(encoded)[:2])
    pixels = tf.reduce_prod(tf.cast(sides, tf.int64))
    allowed = tf.debugging.Assert(
        pixels <= MAX_PIXELS, [f"more than {MAX_PIXELS:,} pixels are not taken, this has", pixels]
    )
    with tf.control_dependencies([allowed]):
        image = tf.cond(is_png, lambda: _decode_png(encoded), lambda: _decode_jpeg(encoded))
    longest = tf.reduce_max(sides)

    def smaller() -> tf.Tensor:
        new_sides = tf.maximum(1, tf.cast(tf.round(sides * looks.max_side / longest), tf.int32))
        return tf.saturate_cast(tf.round(tf.image.resize(image, new_sides, antialias=True)), tf.uint8)

    is_large = longest > looks.max_side
    image = tf.cond(is_large, smaller, lambda: image)
    orientation = _orientation(_Bytes(encoded), is_png)
    image = _turned(image, orientation)

    def compressed() -> tf.Tensor:
        return _decode_jpeg(tf.io.encode_jpeg(image, quality=JPEG_QUALITY))

    # As all are that training saw; 4 ms for 640 pixels.
    image = tf.cond(is_png | is_large | (orientation > 1), compressed, lambda: image)
    return central_part(image, looks.image_size, looks.central_fraction)


def _starts_with(encoded: tf.Tensor, start: bytes) -> tf.Tensor:
    return tf.equal(tf.strings.substr(encoded, 0, len(start)), start)


def _decode_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_jpeg(encoded, channels=3, dct_method=DCT_METHOD)


def _sides_of_png(encoded: tf.Tensor) -> tf.Tensor:
    """Returns height and width, int32 [2]."""
    return tf.reverse(_Bytes(encoded).number(tf.constant([16, 20]), 4), [0])


def _decode_png(encoded: tf.Tensor) -> tf.Tensor:
    def on_white() -> tf.Tensor:
        # In whole numbers, rounded, as float32 would take 35 bytes of memory a pixel.
        pixels = tf.cast(tf.io.decode_png(encoded, channels=4), tf.uint16)
        opacity = pixels[..., 3:]
        return tf.cast((pixels[..., :3] * opacity + (255 * (255 - opacity) + 127)) // 255, tf.uint8)

    # Not for all: of pictures without transparency and few colours TensorFlow's fourth channel is nearly 0.
    data = _Bytes(encoded)
    colour_type = data.number(tf.constant(25), 1)
    has_opacity = tf.equal(colour_type, 4) | tf.equal(colour_type, 6) | (_chunk_of_png(data, b"tRNS")[0] > 0)
    return tf.cond(has_opacity, on_white, lambda: tf.io.decode_png(encoded, channels=3))


def _turned(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Undoes the camera's turn; see pictures.UPRIGHT."""
    mirrored = tf.reverse(image, [1])
    ways = [
        lambda: image,
        lambda: mirrored,
        lambda: tf.reverse(image, [0, 1]),
        lambda: tf.reverse(image, [0]),
        lambda: tf.transpose(image, [1, 0, 2]),
        lambda: tf.reverse(tf.transpose(image, [1, 0, 2]), [1]),
        lambda: tf.reverse(tf.transpose(image, [1, 0, 2]), [0, 1]),
        lambda: tf.reverse(tf.transpose(image, [1, 0, 2]), [0]),
    ]
    return tf.switch_case(orientation - 1, ways)


class _Bytes:
    """A file as numbers; what lies behind its end is 0."""

    def __init__(self, encoded: tf.Tensor):
        self._data = tf.io.decode_raw(encoded, tf.uint8)
        self.length = tf.size(self._data)

    def number(self, position: tf.Tensor, count: int, is_little: tf.Tensor | bool = False) -> tf.Tensor:
        """Returns the number, int32, that some bytes at a position, or at many, stand for."""
        places = tf.expand_dims(position, -1) + tf.range(count)
        inside = (places >= 0) & (places < self.length)
        values = tf.cast(tf.gather(self._data, tf.where(inside, places, 0)), tf.int32)
        values = tf.where(inside, values, 0)
        values = tf.where(is_little, values, tf.reverse(values, [-1]))
        return tf.reduce_sum(tf.bitwise.left_shift(values, 8 * tf.range(count)), -1)


def _orientation(data: _Bytes, is_png: tf.Tensor) -> tf.Tensor:
    """Returns the tag of EXIF, int32 scalar, range [1, 8]; 1, upright, where there is none or one of no meaning."""
    start, end = tf.unstack(tf.cond(is_png, lambda: _chunk_of_png(data, b"eXIf"), lambda: _exif_of_jpeg(data)))
    start += tf.where(_says_exif(data, start), 6, 0)  # Some programs begin the chunk of a PNG with it, too.
    is_little = tf.equal(data.number(start, 2), 0x4949)
    directory = start + data.number(start + 4, 4, is_little)
    # Of each entry: tag (2 bytes), type (2), how many values (4), the value.
    entries = directory + 2 + 12 * tf.range(data.number(directory, 2, is_little))
    kinds = data.number(entries + 2, 2, is_little)
    is_long = tf.equal(kinds, _LONG)
    is_tag = tf.equal(data.number(entries, 2, is_little), ORIENTATION_TAG) & (tf.equal(kinds, _SHORT) | is_long)
    is_tag &= tf.equal(data.number(entries + 4, 4, is_little), 1) & (entries + 12 <= end)
    values = tf.where(is_long, data.number(entries + 8, 4, is_little), data.number(entries + 8, 2, is_little))
    orientation = tf.concat([tf.boolean_mask(values, is_tag), [1]], axis=0)[0]
    is_exif = tf.equal(data.number(start + 2, 2, is_little), 42)
    return tf.where(is_exif & (orientation >= 1) & (orientation <= 8), orientation, 1)


def _says_exif(data: _Bytes, position: tf.Tensor) -> tf.Tensor:
    return tf.equal(data.number(position, 4), _EXIF) & tf.equal(data.number(position + 4, 2), 0)


def _exif_of_jpeg(data: _Bytes) -> tf.Tensor:
    """Returns where EXIF begins and ends, int32 [2]; 0 where there is none, or only an empty one."""

    def is_exif(position: tf.Tensor) -> tf.Tensor:
        marker, length = data.number(position + 1, 1), data.number(position + 2, 2)
        return tf.equal(marker, _APP1) & _says_exif(data, position + 4) & (length > 8)

    def goes_on(position: tf.Tensor) -> tf.Tensor:
        is_segment = tf.equal(data.number(position, 1), 0xFF)
        return is_segment & tf.not_equal(data.number(position + 1, 1), _START_OF_PIXELS) & ~is_exif(position)

    def next_segment(position: tf.Tensor) -> tf.Tensor:
        is_filler = tf.equal(data.number(position + 1, 1), 0xFF)
        return tf.where(is_filler, position + 1, position + 2 + data.number(position + 2, 2))

    position = tf.while_loop(goes_on, lambda position: (next_segment(position),), (tf.constant(2),))[0]
    end = position + 2 + data.number(position + 2, 2)
    return tf.where(is_exif(position), tf.stack([position + 4, end]), 0)


def _chunk_of_png(data: _Bytes, name: bytes) -> tf.Tensor:
    """Returns where the content of a chunk begins and ends, int32 [2]; 0 where there is none of that name."""

    def is_it(position: tf.Tensor) -> tf.Tensor:
        return tf.equal(data.number(position + 4, 4), int.from_bytes(name, "big"))

    position = tf.while_loop(
        lambda position: (position < data.length) & ~is_it(position),
        lambda position: (position + 12 + tf.maximum(data.number(position, 4), 0),),
        (tf.constant(len(_PNG)),),
    )[0]
    return tf.where(is_it(position), tf.stack([position + 8, position + 8 + data.number(position, 4)]), 0)
