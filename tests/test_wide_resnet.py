"""The wide residual networks, against the same layers of Keras with the same weights."""

import keras
import numpy as np
import pytest

from metart.networks.slim_compat import slim, tf
from metart.common.flags import UserError
from metart.networks import registry

NAME = "wide_resnet_10_4"
PAIR = "wide_resnet_10_4_x2"


def in_keras(weights: dict[str, np.ndarray], size: int) -> keras.Model:
    """Returns the network as the paper has it, with strides and depths of ours and weights by the names of ours."""

    def layer(kind: keras.layers.Layer, x: keras.KerasTensor, *values: str) -> keras.KerasTensor:
        result = kind(x)
        kind.set_weights([weights.pop(value) for value in values])
        return result

    def convolution(x: keras.KerasTensor, scope: str, depth: int, side: int, stride: int) -> keras.KerasTensor:
        # Slim pads like TensorFlow, and so does Keras.
        kind = keras.layers.Conv2D(depth, side, strides=stride, padding="same", use_bias=False)
        return layer(kind, x, f"{scope}/weights")

    def norm(x: keras.KerasTensor, scope: str) -> keras.KerasTensor:
        values = [f"{scope}/{name}" for name in ("gamma", "beta", "moving_mean", "moving_variance")]
        return keras.layers.ReLU()(layer(keras.layers.BatchNormalization(epsilon=1e-5), x, *values))

    inputs = keras.Input((size, size, 3))
    x = convolution(inputs, "stem", 32, 3, 2)
    for group, depth in (("block2", 64), ("block3", 128), ("block4", 256)):
        active = norm(x, f"{group}/preact")
        shortcut = keras.layers.AveragePooling2D(2, padding="same")(active)
        shortcut = convolution(shortcut, f"{group}/shortcut", depth, 1, 1)
        x = norm(convolution(active, f"{group}/conv1", depth, 3, 2), f"{group}/conv1/BatchNorm")
        x = keras.layers.Add()([shortcut, convolution(x, f"{group}/conv2", depth, 3, 1)])
    x = keras.layers.GlobalAveragePooling2D()(norm(x, "postnorm"))
    x = layer(keras.layers.Dense(5), x, "logits/weights", "logits/biases")
    return keras.Model(inputs, x)


def answers(name: str, pixels: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the logits of a network with random weights, and these by their names in it."""
    generator = np.random.default_rng(3)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.set_random_seed(3)
        images = tf.compat.v1.placeholder(tf.float32, [None, *pixels.shape[1:]])
        logits, auxiliary = registry.build(name, images, 5)
        session.run(tf.compat.v1.global_variables_initializer())
        variables = slim.get_model_variables()
        for variable in variables:
            if len(variable.shape) == 1:  # Batch norm and biases, which are 0 and 1 at first.
                variable.load(generator.uniform(0.5, 1.5, variable.shape), session)
        names = [variable.op.name.removeprefix(f"{name}/") for variable in variables]
        weights = dict(zip(names, session.run(variables), strict=True))
        assert auxiliary is None
        weights["logits/weights"] = weights["logits/weights"][0, 0]
        return session.run(logits, {images: pixels}), weights


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    size = 70  # No power of two, so that padding matters.
    return np.random.default_rng(3).uniform(0, 255, (2, size, size, 3)).astype(np.float32)


def test_answers_are_those_of_keras(pixels: np.ndarray) -> None:
    ours, weights = answers(NAME, pixels)
    assert sum(values.size for values in weights.values()) == 1_210_085
    theirs = in_keras(weights, 70).predict(pixels / 127.5 - 1, verbose=0)
    assert not weights  # Keras's network has a place for each.
    assert ours.std(axis=0).min() > 1e-3  # The pictures do matter.
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_a_pair_answers_with_the_mean_of_two(pixels: np.ndarray) -> None:
    ours, weights = answers(PAIR, pixels)
    theirs = []
    for number, features in ((1, slice(0, 256)), (2, slice(256, 512))):
        of_tower = {
            name.removeprefix(f"tower{number}/"): value for name, value in weights.items() if f"tower{number}/" in name
        }
        of_tower["logits/weights"] = 2.0 * weights["logits/weights"][features]
        of_tower["logits/biases"] = weights["logits/biases"]
        theirs.append(in_keras(of_tower, 70).predict(pixels / 127.5 - 1, verbose=0))
        assert not of_tower
    assert np.abs(theirs[0] - theirs[1]).max() > 0.1
    np.testing.assert_allclose(ours, np.mean(theirs, axis=0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("batch", [2, 5])
def test_each_of_a_pair_learns_from_its_part_of_the_batch(batch: int) -> None:
    size = 32
    pixels = np.random.default_rng(0).uniform(0, 255, (batch, size, size, 3)).astype(np.float32)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        logits, _ = registry.build(PAIR, tf.constant(pixels), 5, is_training=True)
        stems = [
            next(each for each in slim.get_model_variables(f"{PAIR}/tower{number}") if "stem" in each.op.name)
            for number in (1, 2)
        ]
        slopes = [
            [tf.reduce_any(tf.not_equal(slope, 0)) for slope in tf.gradients(row, stems)] for row in tf.unstack(logits)
        ]
        session.run(tf.compat.v1.global_variables_initializer())
        learns = session.run(slopes)
    first = batch // 2
    assert learns == [[True, False]] * first + [[False, True]] * (batch - first)


def test_a_pair_has_nothing_to_deal_in_a_batch_of_one() -> None:
    with tf.Graph().as_default(), pytest.raises(UserError, match="give it a --batch_size of 2 at least"):
        registry.build(PAIR, tf.zeros([1, 32, 32, 3]), 5, is_training=True)
