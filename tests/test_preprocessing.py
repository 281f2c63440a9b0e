"""Preprocessing, against Pillow's decode and a resize written out in numpy."""

import colorsys
import io

import numpy as np
from PIL import Image, ImageDraw
import pytest

from metart.networks.slim_compat import tf
from metart.networks import preprocessing


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Returns a smooth picture with a few edges, different in all four corners."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = (255 * columns / width, 255 * rows / height, 255 * (1 - columns / width))
    result = Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))
    ImageDraw.Draw(result).rectangle((0, 0, width // 4, height // 3), fill=(250, 240, 20))
    return result.convert(mode)


def encoded(image: Image.Image, file_format: str = "JPEG") -> bytes:
    file = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if file_format == "JPEG" else {}
    image.save(file, file_format, **options)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Bilinear interpolation between the centres of pixels, one axis after the other."""
    for axis in (0, 1):
        length = image.shape[axis]
        position = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        before = np.floor(position).astype(int)
        after = np.minimum(before + 1, length - 1)
        share = (position - before).reshape([-1 if axis == other else 1 for other in range(3)])
        image = np.take(image, before, axis) * (1 - share) + np.take(image, after, axis) * share
    return image


@pytest.mark.parametrize(("width", "height"), [(200, 200), (341, 97), (64, 301), (40, 40)])
def test_evaluation_shows_the_central_seven_eighths(width: int, height: int) -> None:
    png = encoded(picture(width, height), "PNG")  # Without loss, so that half a pixel would be seen.
    left, top = int(width * 0.125 / 2), int(height * 0.125 / 2)
    expected = resize(decoded(png)[top : height - top, left : width - left], 72)
    result = preprocessing.evaluation_image(tf.constant(png), 72).numpy()
    assert (result.shape, result.dtype) == ((72, 72, 3), np.float32)
    np.testing.assert_allclose(result, expected, atol=1e-3)


def test_evaluation_may_show_all() -> None:
    png = encoded(picture(80, 60), "PNG")
    result = preprocessing.evaluation_image(tf.constant(png), 72, central_fraction=1.0).numpy()
    np.testing.assert_allclose(result, resize(decoded(png), 72), atol=1e-3)


@pytest.mark.parametrize("fraction", [0.6, 0.8, 0.85])
def test_a_fraction_is_the_same_part_in_a_graph_of_any_size_and_outside(fraction: float) -> None:
    def evaluation_image(data: tf.Tensor) -> tf.Tensor:
        return preprocessing.evaluation_image(data, 32, fraction)

    in_graph = tf.function(evaluation_image, input_signature=[tf.TensorSpec([], tf.string)])
    for side in range(40, 120, 5):
        data = tf.constant(encoded(picture(side, 100)))
        np.testing.assert_array_equal(evaluation_image(data), in_graph(data))


def test_evaluation_decodes_jpeg_as_pillow_does() -> None:
    data = encoded(picture(80, 80))
    result = preprocessing.evaluation_image(tf.constant(data), 70).numpy()
    np.testing.assert_allclose(result, decoded(data)[5:75, 5:75], atol=1)


def test_evaluation_takes_grey_pictures() -> None:
    grey = preprocessing.evaluation_image(tf.constant(encoded(picture(80, 80, "L"))), 70).numpy()
    np.testing.assert_array_equal(grey[..., 0], grey[..., 1])
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])


def variation(seed: int | tf.Tensor) -> preprocessing.Variation:
    """Returns the second of the variations of a batch of three."""
    batch = preprocessing.draw_variations(3, tf.stack([tf.cast(seed, tf.int64), 0]))
    return preprocessing.Variation(*(of_batch[1] for of_batch in batch))


def training_images(data: bytes, seeds: range, size: int = 24) -> np.ndarray:
    one = tf.function(lambda seed: preprocessing.training_image(tf.constant(data), size, variation(seed)))
    return np.stack([one(tf.constant(seed, tf.int64)).numpy() for seed in seeds])


def test_each_picture_of_a_batch_is_varied_in_its_own_way() -> None:
    drawn = preprocessing.draw_variations(50, tf.constant([1, 2], tf.int64))
    for values in (drawn.window, drawn.brightness, drawn.contrast, drawn.colours):
        assert len(np.unique(np.reshape(values, [50, -1]), axis=0)) == 50
    assert {*drawn.is_mirrored.numpy().tolist()} == {False, True}


def test_a_training_image_is_decided_by_its_seed() -> None:
    data = encoded(picture(120, 90))
    first = training_images(data, range(8))
    np.testing.assert_array_equal(first, training_images(data, range(8)))
    assert len(np.unique(first.reshape(8, -1), axis=0)) == 8


def test_training_images_have_shape_and_range() -> None:
    drawn = training_images(encoded(picture(120, 90)), range(30))
    assert (drawn.shape, drawn.dtype) == ((30, 24, 24, 3), np.float32)
    assert 0 <= drawn.min() < 30
    assert 225 < drawn.max() <= 255


def test_half_of_the_training_images_are_mirrored() -> None:
    # Dark on the left, light on the right, wherever it is cropped.
    ramp = Image.fromarray(np.tile(np.linspace(40, 215, 128).astype(np.uint8), (128, 1))).convert("RGB")
    drawn = training_images(encoded(ramp), range(300))
    mirrored = drawn[:, :, :12].mean(axis=(1, 2, 3)) > drawn[:, :, 12:].mean(axis=(1, 2, 3))
    assert 120 < mirrored.sum() < 180  # 150 with a standard deviation of 8.7.


@pytest.mark.parametrize(("width", "height"), [(160, 120), (400, 130), (90, 300)])
def test_a_training_image_is_a_crop_of_the_picture(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part that is decoded equals that part of the whole picture, and shows enough of it, of a panorama, too."""
    monkeypatch.setattr(preprocessing, "_vary_colours", lambda image, variation: image)
    # Red says the column and green the row, so that a crop tells its own window.
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([columns * 255 / width, rows * 255 / height, np.full_like(rows, 128.0)], axis=-1)
    data = encoded(Image.fromarray(pixels.astype(np.uint8)))
    whole = decoded(data)
    areas = []
    for drawn in training_images(data, range(60), size=48):
        if drawn[24, 0, 0] > drawn[24, -1, 0]:
            drawn = drawn[:, ::-1]
        left, right = drawn[24, [0, -1], 0] * width / 255
        top, bottom = drawn[[0, -1], 24, 1] * height / 255
        # The outermost samples are half an output pixel inside the window.
        extent_x, extent_y = (right - left) * 48 / 47, (bottom - top) * 48 / 47
        left, top = left - extent_x / 96, top - extent_y / 96
        window = whole[
            max(0, round(top)) : min(height, round(top + extent_y)),
            max(0, round(left)) : min(width, round(left + extent_x)),
        ]
        np.testing.assert_allclose(drawn, resize(window, 48), atol=8)  # The window is known to about a pixel.
        areas.append(extent_x * extent_y / (width * height))
        least = preprocessing.MIN_CROP_AREA  # A part of it that large may have to be as long as the picture.
        assert min(0.72, width / height) < extent_x / extent_y / 0.97
        assert extent_x / extent_y * 0.97 < max(4 / 3, width / height)
        assert 0.72 < extent_x / extent_y < 1.39 or not 0.75 * least < width / height < 4 / 3 / least
    assert least - 0.03 < min(areas) < least + 0.1
    assert 0.85 < max(areas) <= 1.03


def distorted(image: np.ndarray, seed: int) -> np.ndarray:
    return preprocessing._vary_colours(tf.constant(image), variation(seed)).numpy()


def only(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    """Fixes every colour variation at neutral, save those given."""
    neutral = {"MAX_BRIGHTNESS": 0.0, "CONTRAST_RANGE": (1.0, 1.0), "SATURATION_RANGE": (1.0, 1.0), "MAX_HUE_TURN": 0.0}
    for name, value in {**neutral, **values}.items():
        monkeypatch.setattr(preprocessing, name, value)


@pytest.fixture
def noise() -> np.ndarray:
    """Colours far enough from black and white that nothing is clipped."""
    return np.random.default_rng(0).uniform(80, 170, (16, 20, 3)).astype(np.float32)


def test_neutral_colours_change_nothing(noise: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch)
    np.testing.assert_allclose(distorted(noise, 1), noise, atol=0.01)


def test_brightness_is_added(noise: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, MAX_BRIGHTNESS=32.0)
    added = np.array([distorted(noise, seed) - noise for seed in range(40)])
    assert added.std(axis=(1, 2, 3)).max() < 0.01
    by_seed = added.mean(axis=(1, 2, 3))
    assert -32 < by_seed.min() < -20
    assert 20 < by_seed.max() < 32


def test_contrast_scales_around_the_mean_colour(noise: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, CONTRAST_RANGE=(1.3, 1.3))
    mean = noise.mean(axis=(0, 1))
    np.testing.assert_allclose(distorted(noise, 1), mean + 1.3 * (noise - mean), atol=0.02)


def test_saturation_scales_around_luma(noise: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, SATURATION_RANGE=(0.6, 0.6))
    luma = (noise @ [0.299, 0.587, 0.114])[..., np.newaxis]
    np.testing.assert_allclose(distorted(noise, 1), luma + 0.6 * (noise - luma), atol=0.05)


def test_hue_turns_around_grey(noise: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, MAX_HUE_TURN=0.3)

    def chroma(image: np.ndarray) -> np.ndarray:
        yiq = np.array([colorsys.rgb_to_yiq(*(pixel / 255)) for pixel in image.reshape(-1, 3)])
        return yiq[:, 1] + 1j * yiq[:, 2]

    def turn(seed: int) -> float:
        turns = np.angle(chroma(distorted(noise, seed)) / chroma(noise))
        assert turns.std() < 0.02  # One turn for all pixels; colorsys has the matrix with two digits.
        return float(turns.mean())

    turns = [turn(seed) for seed in range(40)]
    assert -0.32 < min(turns) < -0.2
    assert 0.2 < max(turns) < 0.32
    grey = np.full((4, 4, 3), 90, np.float32)
    np.testing.assert_allclose(distorted(grey, 1), grey, atol=0.05)


def test_colours_stay_in_range() -> None:
    extreme = np.zeros((8, 8, 3), np.float32)
    extreme[:4] = 255
    drawn = np.array([distorted(extreme, seed) for seed in range(40)])
    assert (drawn.min(), drawn.max()) == (0, 255)
