"""Inception v4, of modules whose branches see areas of different sizes.

Szegedy and others, Inception-v4, Inception-ResNet, 2016 (https://arxiv.org/abs/1602.07261). The variables have slim's
names.
"""

from collections.abc import Sequence
from typing import Any

from metart.networks.slim_compat import slim, tf

# A layer is (name, depth), or (name, depth, stride, padding); its name tells its kind and its kernel. A list of layers
# instead of one: all of them see the same, and their results are joined.
Layer = tuple[str, int] | tuple[str, int, int, str]
Branch = Sequence[Layer | list[Layer]]

STEM: Branch = [
    ("Conv2d_1a_3x3", 32, 2, "VALID"),
    ("Conv2d_2a_3x3", 32, 1, "VALID"),
    ("Conv2d_2b_3x3", 64),
]
MIXED_3A: list[Branch] = [
    [("MaxPool_0a_3x3", 0, 2, "VALID")],
    [("Conv2d_0a_3x3", 96, 2, "VALID")],
]
MIXED_4A: list[Branch] = [
    [("Conv2d_0a_1x1", 64), ("Conv2d_1a_3x3", 96, 1, "VALID")],
    [("Conv2d_0a_1x1", 64), ("Conv2d_0b_1x7", 64), ("Conv2d_0c_7x1", 64), ("Conv2d_1a_3x3", 96, 1, "VALID")],
]
MIXED_5A: list[Branch] = [
    [("Conv2d_1a_3x3", 192, 2, "VALID")],
    [("MaxPool_1a_3x3", 0, 2, "VALID")],
]
INCEPTION_A: list[Branch] = [
    [("Conv2d_0a_1x1", 96)],
    [("Conv2d_0a_1x1", 64), ("Conv2d_0b_3x3", 96)],
    [("Conv2d_0a_1x1", 64), ("Conv2d_0b_3x3", 96), ("Conv2d_0c_3x3", 96)],
    [("AvgPool_0a_3x3", 0), ("Conv2d_0b_1x1", 96)],
]
REDUCTION_A: list[Branch] = [
    [("Conv2d_1a_3x3", 384, 2, "VALID")],
    [("Conv2d_0a_1x1", 192), ("Conv2d_0b_3x3", 224), ("Conv2d_1a_3x3", 256, 2, "VALID")],
    [("MaxPool_1a_3x3", 0, 2, "VALID")],
]
INCEPTION_B: list[Branch] = [
    [("Conv2d_0a_1x1", 384)],
    [("Conv2d_0a_1x1", 192), ("Conv2d_0b_1x7", 224), ("Conv2d_0c_7x1", 256)],
    [
        ("Conv2d_0a_1x1", 192),
        *[("Conv2d_0b_7x1", 192), ("Conv2d_0c_1x7", 224), ("Conv2d_0d_7x1", 224), ("Conv2d_0e_1x7", 256)],
    ],
    [("AvgPool_0a_3x3", 0), ("Conv2d_0b_1x1", 128)],
]
REDUCTION_B: list[Branch] = [
    [("Conv2d_0a_1x1", 192), ("Conv2d_1a_3x3", 192, 2, "VALID")],
    [("Conv2d_0a_1x1", 256), ("Conv2d_0b_1x7", 256), ("Conv2d_0c_7x1", 320), ("Conv2d_1a_3x3", 320, 2, "VALID")],
    [("MaxPool_1a_3x3", 0, 2, "VALID")],
]
INCEPTION_C: list[Branch] = [
    [("Conv2d_0a_1x1", 256)],
    [("Conv2d_0a_1x1", 384), [("Conv2d_0b_1x3", 256), ("Conv2d_0c_3x1", 256)]],
    [
        *[("Conv2d_0a_1x1", 384), ("Conv2d_0b_3x1", 448), ("Conv2d_0c_1x3", 512)],
        [("Conv2d_0d_1x3", 256), ("Conv2d_0e_3x1", 256)],
    ],
    [("AvgPool_0a_3x3", 0), ("Conv2d_0b_1x1", 256)],
]
MODULES = {
    "Mixed_3a": MIXED_3A,
    "Mixed_4a": MIXED_4A,
    "Mixed_5a": MIXED_5A,
    **{f"Mixed_5{letter}": INCEPTION_A for letter in "bcde"},
    "Mixed_6a": REDUCTION_A,
    **{f"Mixed_6{letter}": INCEPTION_B for letter in "bcdefgh"},
    "Mixed_7a": REDUCTION_B,
    **{f"Mixed_7{letter}": INCEPTION_C for letter in "bcd"},
}


def inception_v4(
    inputs: tf.Tensor,
    num_classes: int,
    is_training: bool = True,
    dropout_keep_prob: float = 0.8,
    create_aux_logits: bool = True,
) -> tuple[tf.Tensor, dict[str, Any]]:
    """Builds the network.

    Args:
        inputs: float32 [batch, height, width, 3].
        num_classes: Number of labels.
        is_training: With dropout, and batch norm on the statistics of the batch.
        dropout_keep_prob: Share of the features that training keeps.
        create_aux_logits: With the auxiliary head.

    Returns:
        (logits float32 [batch, num_classes]; {"AuxLogits": those of the auxiliary head}, if there is one).
    """
    with (
        tf.compat.v1.variable_scope("InceptionV4"),
        slim.arg_scope([slim.batch_norm, slim.dropout], is_training=is_training),
    ):
        net = run_branch(inputs, STEM)
        end_points = {}
        for scope, branches in MODULES.items():
            with tf.compat.v1.variable_scope(scope):
                net = run_branches(net, branches)
            end_points[scope] = net
        if create_aux_logits:
            with tf.compat.v1.variable_scope("AuxLogits"):
                end_points["AuxLogits"] = auxiliary_logits(
                    end_points["Mixed_6h"], num_classes, "Conv2d_2a", "Aux_logits"
                )
        return inception_logits(net, num_classes, dropout_keep_prob), end_points


def run_branches(net: tf.Tensor, branches: Sequence[Branch]) -> tf.Tensor:
    """Runs branches beside each other and joins their channels."""
    results = []
    for number, branch in enumerate(branches):
        with tf.compat.v1.variable_scope(f"Branch_{number}"):
            results.append(run_branch(net, branch))
    return tf.concat(results, axis=-1)


def run_branch(net: tf.Tensor, branch: Branch) -> tf.Tensor:
    """Runs layers one after the other."""
    for layer in branch:
        if isinstance(layer, list):
            net = tf.concat([_run_layer(net, *each) for each in layer], axis=-1)
        else:
            net = _run_layer(net, *layer)
    return net


def _run_layer(net: tf.Tensor, name: str, depth: int, stride: int = 1, padding: str = "SAME") -> tf.Tensor:
    kernel = [int(side) for side in name.rpartition("_")[2].split("x")]
    if name.startswith("Conv2d"):
        return slim.conv2d(net, depth, kernel, stride=stride, padding=padding, scope=name)
    pool = slim.max_pool2d if name.startswith("MaxPool") else slim.avg_pool2d
    return pool(net, kernel, stride=stride, padding=padding, scope=name)


def auxiliary_logits(net: tf.Tensor, num_classes: int, convolution_scope: str, logits_scope: str) -> tf.Tensor:
    """Returns the answer of a head in the middle of the network, [batch, num_classes], for training alone."""
    net = slim.avg_pool2d(net, [5, 5], stride=3, padding="VALID")
    net = slim.conv2d(net, 128, [1, 1], scope="Conv2d_1b_1x1")
    net = slim.conv2d(net, 768, net.shape[1:3], padding="VALID", scope=convolution_scope)
    return slim.fully_connected(tf.squeeze(net, [1, 2]), num_classes, activation_fn=None, scope=logits_scope)


def inception_logits(net: tf.Tensor, num_classes: int, dropout_keep_prob: float) -> tf.Tensor:
    """Returns the logits, [batch, num_classes], of a last feature map."""
    net = slim.dropout(tf.reduce_mean(net, [1, 2], name="global_pool"), dropout_keep_prob, scope="Dropout")
    return slim.fully_connected(net, num_classes, activation_fn=None, scope="Logits/Logits")
