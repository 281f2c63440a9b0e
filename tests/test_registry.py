"""The networks of slim, against slim's own functions called plainly: same variables, same answers."""

from collections.abc import Callable
import functools
import re
from typing import Any
import zlib

from conftest import REPOSITORY
import numpy as np
import pytest

from metart.networks.slim_compat import nets, slim, tf
from metart.common.flags import UserError
from metart.networks import registry
from metart.networks.session import RUN_ONCE

MODULES = (nets.alexnet, nets.inception, nets.overfeat, nets.resnet_v1, nets.resnet_v2, nets.vgg)
ARG_SCOPES = {"resnet": nets.resnet_utils.resnet_arg_scope, "vgg": nets.vgg.vgg_arg_scope}
LIGHT = {"inception_v2", "inception_v3", "resnet_v1_50", "resnet_v2_50"}
OF_SLIM = [name for name, network in registry.NETWORKS.items() if network.function.__module__.startswith("tf_slim.")]
HEAVY = {"alexnet_v2", "overfeat", "vgg_a", "vgg_16", "vgg_19"}  # Hundreds of megabytes of weights.


def slims(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns slim's function and arg scope of that name, found without registry.py."""
    module = next(module for module in MODULES if hasattr(module, name))
    scope = getattr(module, name + "_arg_scope", None) or ARG_SCOPES[name.split("_")[0]]
    return getattr(module, name), scope


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tf.Tensor]:
    """Builds a network as slim's documentation has it, in the current graph; returns the logits."""

    def build(name: str, inputs: tf.Tensor, num_classes: int, is_training: bool) -> tf.Tensor:
        function, scope = slims(name)
        # slim.batch_norm compares with this name, and takes a layer that is gone where it is found.
        with monkeypatch.context() as patch, slim.arg_scope(scope()):
            patch.setattr(tf.compat.v1.GraphKeys, "UPDATE_OPS", "none of slim's")
            return function(inputs, num_classes, is_training=is_training)[0]

    return build


def test_all_networks_of_slim_are_there() -> None:
    pattern = re.compile(r"alexnet_v\d|inception_v\d|overfeat|resnet_v\d_\d+|vgg_(a|\d+)")
    assert set(OF_SLIM) == {name for module in MODULES for name in vars(module) if pattern.fullmatch(name)}


def shapes() -> dict[str, list[int]]:
    return {variable.op.name: variable.shape.as_list() for variable in slim.get_model_variables()}


@functools.cache
def shapes_in_training(name: str) -> dict[str, list[int]]:
    size = registry.NETWORKS[name].image_size
    with tf.Graph().as_default():
        registry.build(name, tf.zeros([2, size, size, 3]), 7, is_training=True)
        return shapes()


@pytest.mark.parametrize("name", sorted({"inception_v3"} | HEAVY))  # The others are compared with their answers, below.
def test_variables_of_training_are_slims(name: str, plainly: Callable[..., tf.Tensor]) -> None:
    size = registry.NETWORKS[name].image_size
    with tf.Graph().as_default():
        plainly(name, tf.zeros([2, size, size, 3]), 7, True)
        assert shapes_in_training(name) == shapes()


def test_inception_v3_has_the_variables_of_published_checkpoints() -> None:
    names = shapes_in_training("inception_v3")
    assert names["InceptionV3/Logits/Conv2d_1c_1x1/biases"] == [7]
    assert names["InceptionV3/AuxLogits/Conv2d_2b_1x1/biases"] == [7]
    assert len(names) == 388
    assert {
        "InceptionV3/Conv2d_1a_3x3/weights",
        "InceptionV3/Conv2d_1a_3x3/BatchNorm/moving_variance",
        "InceptionV3/Mixed_5c/Branch_1/Conv_1_0c_5x5/weights",
        "InceptionV3/Mixed_7b/Branch_1/Conv2d_0b_3x1/weights",
        "InceptionV3/Logits/Conv2d_1c_1x1/biases",
        "InceptionV3/AuxLogits/Conv2d_2b_1x1/biases",
    } < set(names)
    assert not [name for name in names if "gamma" in name]


def random_value(variable: tf.Variable) -> np.ndarray:
    """Returns what the variable of that name has in every graph: a value that matters, and keeps activations finite."""
    generator = np.random.default_rng(zlib.crc32(variable.op.name.encode()))
    shape = variable.shape.as_list()
    if len(shape) > 1:
        return generator.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
    return generator.uniform(0.5, 1.5, shape)


def answers(logits: tf.Tensor, inputs: tf.Tensor, pixels: np.ndarray) -> np.ndarray:
    with tf.compat.v1.Session(config=RUN_ONCE) as session:
        variables = slim.get_model_variables()
        values = {variable.initializer.inputs[1]: random_value(variable) for variable in variables}
        session.run([variable.initializer for variable in variables], values)
        return session.run(logits, {inputs: pixels})


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in LIGHT else [pytest.mark.slow]) for name in OF_SLIM],
)
def test_variables_and_answers_are_slims(name: str, plainly: Callable[..., tf.Tensor]) -> None:
    size = registry.NETWORKS[name].image_size
    pixels = np.random.default_rng(0).uniform(0, 255, (3, size, size, 3)).astype(np.float32)
    prepared = pixels / 127.5 - 1
    if name.startswith(("alexnet", "overfeat", "vgg", "resnet_v1")):
        prepared = pixels - np.array([123.68, 116.779, 103.939], np.float32)
    with tf.Graph().as_default():
        images = tf.compat.v1.placeholder(tf.float32, [None, size, size, 3])
        logits, auxiliary = registry.build(name, images, 5)
        ours, our_shapes = answers(logits, images, pixels), shapes()
    with tf.Graph().as_default():
        inputs = tf.compat.v1.placeholder(tf.float32, [None, size, size, 3])
        expected = answers(plainly(name, inputs, 5, False), inputs, prepared).reshape(3, 5)
        # The second head of inception_v3 is for training alone.
        assert our_shapes == {name: shape for name, shape in shapes().items() if "/AuxLogits/" not in name}
    assert auxiliary is None
    assert expected.std(axis=0).min() > 1e-4 * abs(expected).max()  # The pictures do matter.
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3 * abs(expected).max())


@pytest.mark.parametrize(("name", "size"), [("inception_v1", 256), ("inception_v3", 395), ("alexnet_v2", 256)])
def test_larger_images_have_one_answer_each(name: str, size: int) -> None:
    with tf.Graph().as_default():
        logits, auxiliary = registry.build(name, tf.zeros([2, size, size, 3]), 5, is_training=True)
    assert logits.shape == [2, 5]
    assert (auxiliary is not None) == (name == "inception_v3")
    assert auxiliary is None or auxiliary.shape == [2, 5]


@pytest.mark.parametrize(("name", "size"), [("inception_v3", 96), ("inception_v1", 128), ("vgg_a", 64)])
def test_too_small_images_are_one_clear_error(name: str, size: int) -> None:
    with tf.Graph().as_default(), pytest.raises(UserError) as error:
        registry.build(name, tf.zeros([2, size, size, 3]), 5, is_training=True)
    assert str(error.value).startswith(f"{size} x {size} pixels are too few for {name}")


def test_batch_norm_averages_forget_their_start_and_then_move_slowly() -> None:
    pixels = tf.random.stateless_uniform([8, 32, 32, 3], [1, 2], 0, 255)
    with tf.Graph().as_default(), tf.compat.v1.Session(config=RUN_ONCE) as session:
        registry.build("inception_v2", tf.constant(pixels.numpy()), 5, is_training=True)
        updates = tf.compat.v1.get_collection(registry.BATCH_NORM_UPDATES)
        variables = {variable.op.name: variable for variable in slim.get_model_variables()}
        assert len(updates) == 2 * sum(name.endswith("/moving_mean") for name in variables)
        session.run(tf.compat.v1.global_variables_initializer())
        average = variables["InceptionV2/Conv2d_2b_1x1/BatchNorm/moving_mean"]
        session.run(updates)
        of_batch = session.run(average) / 0.9  # A tenth of the initial 0, nine tenths of the batch.
        tf.compat.v1.train.get_global_step().load(1_000_000, session)
        session.run(updates)
        np.testing.assert_allclose(session.run(average), (0.99 * 0.9 + 0.01) * of_batch, rtol=1e-3, atol=1e-6)


def test_weight_decay_is_half_the_sum_of_squares() -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session(config=RUN_ONCE) as session:
        registry.build("inception_v2", tf.zeros([2, 32, 32, 3]), 5, is_training=True, weight_decay=0.01)
        session.run(tf.compat.v1.global_variables_initializer())
        loss = session.run(tf.add_n(tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.REGULARIZATION_LOSSES)))
        weights = [v for v in slim.get_model_variables() if v.op.name.endswith("/weights")]
        expected = sum(0.01 * np.sum(value.astype(float) ** 2) / 2 for value in session.run(weights))
    assert loss == pytest.approx(expected, rel=1e-4)


def test_the_table_of_networks_has_each_with_its_size() -> None:
    table = (REPOSITORY / "doc" / "networks.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", table, re.MULTILINE)
    assert sorted(rows) == sorted((name, str(network.image_size)) for name, network in registry.NETWORKS.items())
