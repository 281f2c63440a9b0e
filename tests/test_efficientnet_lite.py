"""EfficientNet-Lite has the variables of Google's checkpoints; test_import_weights.py compares its answers."""

from pathlib import Path

import numpy as np
import pytest

from metart.networks.slim_compat import slim, tf
from metart.networks import checkpoints, efficientnet_lite, registry
from metart.networks.session import RUN_ONCE
import train_image_classifier

# Millions of weights as Google's table has them, variables, side of the input in pixels, share of features kept.
PUBLISHED = {
    "efficientnet_lite0": (4.7, 247, 224, 0.8),
    "efficientnet_lite1": (5.4, 322, 240, 0.8),
    "efficientnet_lite2": (6.1, 322, 260, 0.7),
    "efficientnet_lite3": (8.2, 367, 280, 0.7),
    "efficientnet_lite4": (13.0, 457, 300, 0.7),
}
# Of efficientnet-lite0, as far as code that reads Google's checkpoints spells them.
NAMES = {
    "stem/conv2d/kernel": [3, 3, 3, 32],
    "stem/tpu_batch_normalization/gamma": [32],
    "stem/tpu_batch_normalization/moving_variance": [32],
    "blocks_0/depthwise_conv2d/depthwise_kernel": [3, 3, 32, 1],
    "blocks_0/tpu_batch_normalization/beta": [32],
    "blocks_0/conv2d/kernel": [1, 1, 32, 16],
    "blocks_0/tpu_batch_normalization_1/moving_mean": [16],
    "blocks_1/conv2d/kernel": [1, 1, 16, 96],
    "blocks_1/tpu_batch_normalization/gamma": [96],
    "blocks_1/depthwise_conv2d/depthwise_kernel": [3, 3, 96, 1],
    "blocks_1/tpu_batch_normalization_1/gamma": [96],
    "blocks_1/conv2d_1/kernel": [1, 1, 96, 24],
    "blocks_1/tpu_batch_normalization_2/gamma": [24],
    "blocks_15/conv2d_1/kernel": [1, 1, 1152, 320],
    "head/conv2d/kernel": [1, 1, 320, 1280],
    "head/tpu_batch_normalization/beta": [1280],
    "head/dense/kernel": [1280, 1000],
    "head/dense/bias": [1000],
}


def shapes(name: str, is_training: bool = False) -> dict[str, list[int]]:
    size = registry.NETWORKS[name].image_size
    with tf.Graph().as_default():
        registry.build(name, tf.zeros([2, size, size, 3]), 1000, is_training)
        return {variable.op.name: variable.shape.as_list() for variable in slim.get_model_variables()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_those_of_googles_table(name: str) -> None:
    millions, variables, size, keep_prob = PUBLISHED[name]
    network = registry.NETWORKS[name]
    assert (network.image_size, network.scale, network.mean) == (size, 128, (127, 127, 127))
    assert registry.dropout_keep_probability(name) == keep_prob
    found = shapes(name)
    assert len(found) == variables
    assert all(each.startswith(name.replace("_", "-") + "/") for each in found)
    trained = sum(np.prod(shape) for each, shape in found.items() if "/moving_" not in each)
    assert round(trained / 1e6, 1) == millions


def test_names_are_those_of_googles_checkpoints() -> None:
    found = shapes("efficientnet_lite0")
    for name, shape in NAMES.items():
        assert found[f"efficientnet-lite0/{name}"] == shape
    assert not {each.rpartition("/")[2] for each in found} & set(efficientnet_lite.VARIABLE_NAMES)
    assert found == shapes("efficientnet_lite0", is_training=True)


def test_the_last_layer_begins_small_with_few_labels() -> None:
    """With twenty labels an initial scale by their number cost 0.05 of the accuracy of a head alone."""
    with tf.Graph().as_default(), tf.compat.v1.Session(config=RUN_ONCE) as session:
        registry.build("efficientnet_lite0", tf.zeros([2, 32, 32, 3]), 3)
        session.run(tf.compat.v1.global_variables_initializer())
        (kernel,) = (each for each in slim.get_model_variables() if each.op.name.endswith("/dense/kernel"))
        assert 0 < session.run(kernel).std() < 0.05


def test_training_drops_paths_around_which_there_is_a_shortcut() -> None:
    with tf.Graph().as_default() as graph:
        registry.build("efficientnet_lite0", tf.zeros([2, 32, 32, 3]), 5, is_training=True)
        dropped = [each.name.split("/")[1] for each in graph.get_operations() if each.type == "Floor"]
    assert dropped == [f"blocks_{number}" for number in (2, 4, 6, 7, 9, 10, 12, 13, 14)]
    with tf.Graph().as_default() as graph:
        registry.build("efficientnet_lite0", tf.zeros([2, 32, 32, 3]), 5)
        assert not [each for each in graph.get_operations() if each.type == "Floor"]


def test_a_run_starts_from_averaged_weights_where_a_checkpoint_has_them(tmp_path: Path, dataset_dir: Path) -> None:
    """Google's checkpoints hold each weight twice: as the last step left it, and averaged over the steps before."""
    with tf.Graph().as_default(), tf.compat.v1.Session(config=RUN_ONCE) as session:
        registry.build("efficientnet_lite0", tf.zeros([2, 32, 32, 3]), 1000)
        model = slim.get_model_variables()
        averages = {each.op.name + checkpoints.AVERAGE_SUFFIX: tf.Variable(tf.fill(each.shape, 0.25)) for each in model}
        session.run(tf.compat.v1.global_variables_initializer())
        both = {each.op.name: each for each in model} | averages
        tf.compat.v1.train.Saver(both).save(session, str(tmp_path / "google" / "model.ckpt"))
    head = "efficientnet-lite0/head/dense"
    train_image_classifier.main(
        [
            *(f"--train_dir={tmp_path}/logs", f"--dataset_dir={dataset_dir}", "--model_name=efficientnet_lite0"),
            *("--train_image_size=32", "--batch_size=9", "--max_number_of_steps=1", "--feature_views=1"),
            *(f"--checkpoint_path={tmp_path}/google/model.ckpt", f"--checkpoint_exclude_scopes={head}"),
            f"--trainable_scopes={head}",
        ]
    )
    reader = tf.train.load_checkpoint(str(tmp_path / "logs" / "model.ckpt-1"))
    assert (reader.get_tensor("efficientnet-lite0/stem/conv2d/kernel") == 0.25).all()
    assert (reader.get_tensor("efficientnet-lite0/head/tpu_batch_normalization/moving_mean") == 0.25).all()
