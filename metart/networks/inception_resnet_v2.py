"""Inception-ResNet v2: Inception modules with residual connections.

Szegedy and others, Inception-v4, Inception-ResNet, 2016 (https://arxiv.org/abs/1602.07261). The variables have slim's
names.
"""

from typing import Any

from metart.networks.slim_compat import slim, tf
from metart.networks.inception_v4 import Branch, auxiliary_logits, inception_logits, run_branch, run_branches

STEM: Branch = [
    ("Conv2d_1a_3x3", 32, 2, "VALID"),
    ("Conv2d_2a_3x3", 32, 1, "VALID"),
    ("Conv2d_2b_3x3", 64),
    ("MaxPool_3a_3x3", 0, 2, "VALID"),
    ("Conv2d_3b_1x1", 80, 1, "VALID"),
    ("Conv2d_4a_3x3", 192, 1, "VALID"),
    ("MaxPool_5a_3x3", 0, 2, "VALID"),
]
MIXED_5B: list[Branch] = [
    [("Conv2d_1x1", 96)],
    [("Conv2d_0a_1x1", 48), ("Conv2d_0b_5x5", 64)],
    [("Conv2d_0a_1x1", 64), ("Conv2d_0b_3x3", 96), ("Conv2d_0c_3x3", 96)],
    [("AvgPool_0a_3x3", 0), ("Conv2d_0b_1x1", 64)],
]
BLOCK_35: list[Branch] = [  # For maps of 35 x 35 places.
    [("Conv2d_1x1", 32)],
    [("Conv2d_0a_1x1", 32), ("Conv2d_0b_3x3", 32)],
    [("Conv2d_0a_1x1", 32), ("Conv2d_0b_3x3", 48), ("Conv2d_0c_3x3", 64)],
]
MIXED_6A: list[Branch] = [
    [("Conv2d_1a_3x3", 384, 2, "VALID")],
    [("Conv2d_0a_1x1", 256), ("Conv2d_0b_3x3", 256), ("Conv2d_1a_3x3", 384, 2, "VALID")],
    [("MaxPool_1a_3x3", 0, 2, "VALID")],
]
BLOCK_17: list[Branch] = [
    [("Conv2d_1x1", 192)],
    [("Conv2d_0a_1x1", 128), ("Conv2d_0b_1x7", 160), ("Conv2d_0c_7x1", 192)],
]
MIXED_7A: list[Branch] = [
    [("Conv2d_0a_1x1", 256), ("Conv2d_1a_3x3", 384, 2, "VALID")],
    [("Conv2d_0a_1x1", 256), ("Conv2d_1a_3x3", 288, 2, "VALID")],
    [("Conv2d_0a_1x1", 256), ("Conv2d_0b_3x3", 288), ("Conv2d_1a_3x3", 320, 2, "VALID")],
    [("MaxPool_1a_3x3", 0, 2, "VALID")],
]
BLOCK_8: list[Branch] = [
    [("Conv2d_1x1", 192)],
    [("Conv2d_0a_1x1", 192), ("Conv2d_0b_1x3", 224), ("Conv2d_0c_3x1", 256)],
]


def inception_resnet_v2_arg_scope(weight_decay: float = 0.00004) -> dict[str, Any]:
    """Returns slim's settings of the layers; biases have weight decay too, as in the published network."""
    batch_norm = {"epsilon": 0.001, "updates_collections": tf.compat.v1.GraphKeys.UPDATE_OPS}
    regularizer = slim.l2_regularizer(weight_decay)
    with (
        slim.arg_scope(
            [slim.conv2d, slim.fully_connected], weights_regularizer=regularizer, biases_regularizer=regularizer
        ),
        slim.arg_scope(
            [slim.conv2d], activation_fn=tf.nn.relu, normalizer_fn=slim.batch_norm, normalizer_params=batch_norm
        ) as scope,
    ):
        return scope


def inception_resnet_v2(
    inputs: tf.Tensor,
    num_classes: int,
    is_training: bool = True,
    dropout_keep_prob: float = 0.8,
    create_aux_logits: bool = True,
) -> tuple[tf.Tensor, dict[str, Any]]:
    """Builds the network; arguments and results as of `inception_v4`."""
    end_points = {}
    with (
        tf.compat.v1.variable_scope("InceptionResnetV2"),
        slim.arg_scope([slim.batch_norm, slim.dropout], is_training=is_training),
    ):
        net = run_branch(inputs, STEM)
        with tf.compat.v1.variable_scope("Mixed_5b"):
            net = run_branches(net, MIXED_5B)
        for number in range(1, 11):
            net = _block(net, BLOCK_35, 0.17, f"Repeat/block35_{number}")
        with tf.compat.v1.variable_scope("Mixed_6a"):
            net = run_branches(net, MIXED_6A)
        for number in range(1, 21):
            net = _block(net, BLOCK_17, 0.1, f"Repeat_1/block17_{number}")
        before_auxiliary_head = net
        with tf.compat.v1.variable_scope("Mixed_7a"):
            net = run_branches(net, MIXED_7A)
        for number in range(1, 10):
            net = _block(net, BLOCK_8, 0.2, f"Repeat_2/block8_{number}")
        net = _block(net, BLOCK_8, 1.0, "Block8", is_last=True)
        net = slim.conv2d(net, 1536, [1, 1], scope="Conv2d_7b_1x1")
        if create_aux_logits:
            with tf.compat.v1.variable_scope("AuxLogits"):
                end_points["AuxLogits"] = auxiliary_logits(
                    before_auxiliary_head, num_classes, "Conv2d_2a_5x5", "Logits"
                )
        return inception_logits(net, num_classes, dropout_keep_prob), end_points


def _block(net: tf.Tensor, branches: list[Branch], scale: float, scope: str, is_last: bool = False) -> tf.Tensor:
    """Builds a residual block; its branches' output is scaled by `scale`, which keeps training stable."""
    with tf.compat.v1.variable_scope(scope):
        residual = slim.conv2d(
            run_branches(net, branches),
            net.shape[-1],
            [1, 1],
            activation_fn=None,
            normalizer_fn=None,
            scope="Conv2d_1x1",
        )
        net = net + scale * residual
        return net if is_last else tf.nn.relu(net)
