"""The wide residual network, against the same layers of Keras with the same weights."""

import keras
import numpy as np

from metart.networks.slim_compat import slim, tf
from metart.networks import registry

NAME = "wide_resnet_10_4"


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


def test_answers_are_those_of_keras() -> None:
    size = 70  # No power of two, so that padding matters.
    generator = np.random.default_rng(3)
    pixels = generator.uniform(0, 255, (2, size, size, 3)).astype(np.float32)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        images = tf.compat.v1.placeholder(tf.float32, [None, size, size, 3])
        logits, auxiliary = registry.build(NAME, images, 5)
        session.run(tf.compat.v1.global_variables_initializer())
        variables = slim.get_model_variables()
        for variable in variables:
            if len(variable.shape) == 1:  # Batch norm and biases, which are 0 and 1 at first.
                variable.load(generator.uniform(0.5, 1.5, variable.shape), session)
        names = [variable.op.name.removeprefix(f"{NAME}/") for variable in variables]
        weights = dict(zip(names, session.run(variables), strict=True))
        ours = session.run(logits, {images: pixels})
    assert auxiliary is None
    assert sum(values.size for values in weights.values()) == 1_210_085
    weights["logits/weights"] = weights["logits/weights"][0, 0]
    theirs = in_keras(weights, size).predict(pixels / 127.5 - 1, verbose=0)
    assert not weights  # Keras's network has a place for each.
    assert ours.std(axis=0).min() > 1e-3  # The pictures do matter.
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
