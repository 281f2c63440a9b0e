"""Pictures as a network sees them: one way for training, one for evaluation and inference.

The geometry is that of slim's inception preprocessing, so that its checkpoints keep their accuracy.
"""

from collections.abc import Sequence
import math
from typing import Any, NamedTuple

import numpy as np

from metart.networks.slim_compat import tf
from metart.records.pictures import MAX_SIDE

IMAGE_SIZES = 32, 4096  # What the side of an image may be, pixels: from and to.
# A training crop shows at least this share of the picture, unless told otherwise. Slim's 0.05 suits ImageNet's single
# objects and weeks of training; an artwork's culture shows in the whole, and a short run learns it from milder changes.
MIN_CROP_AREA = 0.6
CROP_ASPECT_RATIOS = (3 / 4, 4 / 3)
# Evaluation looks at the central 87.5 % of width and height, as slim does, unless told otherwise.
CENTRAL_FRACTION = 0.875
# Decodes to what Pillow decodes. TensorFlow's default is no faster (2.2 ms for 640 pixels) and off by one on average.
DCT_METHOD = "INTEGER_ACCURATE"

# As much as two photographs of one object differ.
MAX_BRIGHTNESS = 16.0  # Of 255, added.
CONTRAST_RANGE = (0.8, 1.2)
SATURATION_RANGE = (0.8, 1.2)
MAX_HUE_TURN = 0.03 * math.pi  # Radians around the grey axis.

# RGB to luma and the two colour axes of YIQ (NTSC), where saturation is a scale and hue a rotation.
_RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


class Looks(NamedTuple):
    """How evaluation looks at a picture, once or several times (test-time augmentation).

    What decides, apart from the weights, what a network answers.
    """

    image_size: int  # Side of the images, pixels; the largest of `sizes`.
    # Sides, pixels, in each of which the picture and its mirror image are looked at, and the logits averaged. None of
    # them is one look at the picture as it is.
    sizes: Sequence[int] = ()
    central_fraction: float = CENTRAL_FRACTION  # Share of a picture's width and height that the images show.
    max_side: int = MAX_SIDE  # Longest side of a picture in the records that the network was trained on, pixels.

    def described(self) -> dict[str, Any]:
        """Returns it in the words of metrics.json, export.json and the file of a temperature."""
        return {
            "image_size": self.image_size,
            "eval_image_sizes": list(self.sizes),
            "eval_central_fraction": self.central_fraction,
        }


class Variation(NamedTuple):
    """How a training image differs from its picture; or, with one more axis in front, how those of a batch do."""

    window: tf.Tensor  # float32 [4], range [0, 1): area and aspect ratio of the part that is seen, its top and left.
    is_mirrored: tf.Tensor  # bool scalar.
    brightness: tf.Tensor  # float32 scalar, added to values in [0, 255].
    contrast: tf.Tensor  # float32 scalar, a scale around the mean colour.
    colours: tf.Tensor  # float32 [3, 3], RGB to RGB: saturation and hue.


def draw_variations(number: int | tf.Tensor, seed: tf.Tensor) -> Variation:
    """Draws the variations of a batch by chance, all at once: one by one, that takes half as long as decoding.

    Args:
        number: Of pictures.
        seed: int64 [2]; the same seed gives the same variations.
    """
    low = (-MAX_BRIGHTNESS, CONTRAST_RANGE[0], SATURATION_RANGE[0], -MAX_HUE_TURN)
    high = (MAX_BRIGHTNESS, CONTRAST_RANGE[1], SATURATION_RANGE[1], MAX_HUE_TURN)
    drawn = tf.random.stateless_uniform([number, 9], seed)
    of_colours = tf.constant(low) + drawn[:, 5:] * (tf.constant(high) - low)
    brightness, contrast, saturation, turn = tf.unstack(of_colours, axis=1)
    cosine, sine = saturation * tf.cos(turn), saturation * tf.sin(turn)
    zero, one = tf.zeros_like(turn), tf.ones_like(turn)
    in_yiq = tf.reshape(tf.stack([one, zero, zero, zero, cosine, -sine, zero, sine, cosine], axis=1), [-1, 3, 3])
    to_yiq = tf.constant(_RGB_TO_YIQ)
    return Variation(drawn[:, :4], drawn[:, 4] < 0.5, brightness, contrast, tf.linalg.inv(to_yiq) @ in_yiq @ to_yiq)


def training_image(
    encoded: tf.Tensor, size: int | tf.Tensor, variation: Variation, min_crop_area: float = MIN_CROP_AREA
) -> tf.Tensor:
    """Decodes a part of a picture, perhaps mirrors it, and varies the colours.

    Args:
        encoded: string scalar, a JPEG file.
        size: Side of the result, pixels; a number or an int32 scalar.
        variation: How the image differs from the picture.
        min_crop_area: Least share of the picture that is seen, above 0, at most 1.

    Returns:
        float32 [size, size, 3], RGB, range [0, 255].
    """
    window = _window(tf.io.extract_jpeg_shape(encoded)[:2], variation.window, min_crop_area)
    # Only the part that is used gets decoded.
    image = tf.io.decode_and_crop_jpeg(encoded, window, channels=3, dct_method=DCT_METHOD)
    image = tf.image.resize(image, [size, size])
    image = tf.cond(variation.is_mirrored, lambda: tf.reverse(image, [1]), lambda: image)
    return _vary_colours(image, variation)


def _window(sides: tf.Tensor, drawn: tf.Tensor, min_area: float) -> tf.Tensor:
    """Returns a part of a picture: share of its area and aspect ratio uniform, as far as its shape allows the latter.

    A part of 60 % of a panorama is itself wider than CROP_ASPECT_RATIOS.

    Args:
        sides: int32 [2], height and width.
        drawn: float32 [4], see `Variation.window`.
        min_area: Least share of the area.

    Returns:
        int32 [4], top, left, height and width.
    """
    height, width = tf.unstack(tf.cast(sides, tf.float32))
    area, aspect, top, left = tf.unstack(drawn)
    area = min_area + area * (1.0 - min_area)
    aspect = CROP_ASPECT_RATIOS[0] + aspect * (CROP_ASPECT_RATIOS[1] - CROP_ASPECT_RATIOS[0])
    aspect = tf.clip_by_value(aspect, area * width / height, width / height / area)
    part = tf.sqrt(area * height * width * tf.stack([1.0 / aspect, aspect]))
    part = tf.clip_by_value(tf.cast(tf.round(part), tf.int32), 1, sides)
    free = tf.cast(sides - part + 1, tf.float32)
    begin = tf.minimum(tf.cast(tf.stack([top, left]) * free, tf.int32), sides - part)
    return tf.concat([begin, part], axis=0)


def _vary_colours(image: tf.Tensor, variation: Variation) -> tf.Tensor:
    """Varies the colours in one matrix product over the pixels."""
    # Contrast is a scale around the mean colour, which itself only turns.
    mean = tf.linalg.matvec(variation.colours, tf.reduce_mean(image, axis=[0, 1]))
    offset = variation.brightness + (1.0 - variation.contrast) * mean
    colours = variation.contrast * variation.colours
    varied = tf.matmul(tf.reshape(image, [-1, 3]), colours, transpose_b=True) + offset
    return tf.reshape(tf.clip_by_value(varied, 0.0, 255.0), tf.shape(image))


def evaluation_image(encoded: tf.Tensor, size: int, central_fraction: float = CENTRAL_FRACTION) -> tf.Tensor:
    """Decodes the central part of a picture.

    Args:
        encoded: string scalar, a JPEG (or PNG) file.
        size: Side of the result, pixels.
        central_fraction: Share of width and height that is seen, above 0, at most 1.

    Returns:
        float32 [size, size, 3], RGB, range [0, 255].
    """
    return central_part(tf.io.decode_jpeg(encoded, channels=3, dct_method=DCT_METHOD), size, central_fraction)


def central_part(image: tf.Tensor, size: int, central_fraction: float) -> tf.Tensor:
    """Returns what evaluation looks at of an image [height, width, 3], as float32 [size, size, 3]."""
    # In a graph that takes any size TensorFlow rounds the fraction to float32, otherwise not; so it is rounded here.
    fraction = float(np.float32(central_fraction))
    return tf.image.resize(tf.image.central_crop(image, fraction), [size, size])
