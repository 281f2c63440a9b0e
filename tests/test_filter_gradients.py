"""Gradients of filters as convolutions, against those of TensorFlow."""

from collections.abc import Sequence
import contextlib

import numpy as np
import pytest

from metart.networks.slim_compat import tf
from metart.training import filter_gradients


def gradients(
    inputs: np.ndarray,
    filters: np.ndarray,
    of_few_positions: bool,
    shape: Sequence[int | None],
    **of_convolution: object,
) -> tuple[list[np.ndarray], set[str]]:
    """Returns the gradients of inputs and filters, and the kinds of operation that the graph is made of."""
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        places = tf.compat.v1.placeholder(tf.float32, shape)
        weights = tf.constant(filters)
        with filter_gradients.of_few_positions() if of_few_positions else contextlib.nullcontext():
            answers = tf.nn.conv2d(places, weights, **of_convolution)
        of_places, of_weights = tf.gradients(tf.reduce_sum(tf.sin(answers)), [places, weights])
        assert of_weights.shape == filters.shape  # Workers pack it before the graph runs.
        result = session.run([of_places, of_weights], {places: inputs})
        return result, {operation.type for operation in graph.get_operations()}


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    ("sides", "kernel", "stride"),
    [
        ((8, 8), (3, 3), 1),
        ((8, 8), (3, 3), 2),
        ((7, 7), (3, 3), 2),
        ((5, 6), (3, 3), 2),
        ((4, 4), (1, 3), 1),
        ((7, 5), (5, 5), 1),
        ((19, 19), (3, 3), 1),  # Too many places.
        ((19, 19), (3, 3), 3),
        ((7, 8), (3, 3), (2, 1)),
    ],
)
def test_gradients_are_those_of_tensorflow(
    sides: tuple[int, int], kernel: tuple[int, int], stride: int | tuple[int, int], padding: str
) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(8, *sides, 32)).astype(np.float32)
    filters = rng.normal(size=(*kernel, 32, 6)).astype(np.float32) / 20
    settings = {"strides": stride, "padding": padding}
    expected, _ = gradients(inputs, filters, False, inputs.shape, **settings)
    of_known, operations = gradients(inputs, filters, True, inputs.shape, **settings)
    of_unknown, operations_of_unknown = gradients(inputs, filters, True, [8, None, None, 32], **settings)
    for found in (of_known, of_unknown):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-4)
    assert ("Transpose" in operations) is ((sides, stride) != ((19, 19), 1))
    assert "StatelessIf" not in operations
    assert "StatelessIf" in operations_of_unknown


@pytest.mark.parametrize(
    ("pictures", "channels", "kernel", "settings"),
    [
        (8, 3, (3, 3), {}),  # Few channels, as in a stem.
        (8, 64, (1, 1), {"strides": 2}),
        (8, 64, (3, 1), {}),
        (8, 64, (3, 3), {"dilations": 2}),
        (8, 64, (3, 3), {"padding": [[0, 0], [1, 2], [2, 1], [0, 0]]}),
        (2, 64, (3, 3), {}),
    ],
)
def test_the_rest_is_left_to_tensorflow(
    pictures: int, channels: int, kernel: tuple[int, int], settings: dict[str, object]
) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(pictures, 8, 8, channels)).astype(np.float32)
    filters = rng.normal(size=(*kernel, channels, 5)).astype(np.float32) / 20
    settings = {"strides": 1, "padding": "SAME", **settings}
    expected, _ = gradients(inputs, filters, False, inputs.shape, **settings)
    found, operations = gradients(inputs, filters, True, inputs.shape, **settings)
    assert "Transpose" not in operations
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_in_a_run_of_several_sizes_each_step_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filter_gradients, "_as_convolution", lambda convolution, _: 0 * convolution.inputs[1])
    filters = np.ones((3, 3, 32, 2), np.float32)
    for side, is_small in ((8, True), (9, False)):
        inputs = np.ones((8, side, side, 32), np.float32)
        (_, found), _ = gradients(inputs, filters, True, [8, None, None, 32], strides=1, padding="SAME")
        assert (found == 0).all() == is_small
