"""A wide residual network, for small pictures and short training, built from slim's layers.

Zagoruyko and Komodakis, Wide Residual Networks, 2016 (https://arxiv.org/abs/1605.07146). Theirs sees 32 x 32 pixels.
Here the first convolution and the first block have stride 2, so that 64 x 64 pixels cost less than theirs.
"""

import functools
from typing import Any

from metart.networks.slim_compat import slim, tf
from metart.common.flags import UserError

STEM_DEPTH = 32
BLOCK_DEPTHS = (64, 128, 256)  # 4 times those of a network that is not wide.
# Before batch norm, which has biases of its own.
_convolution = functools.partial(slim.conv2d, activation_fn=None, normalizer_fn=None, biases_initializer=None)


def wide_resnet_10_4(
    inputs: tf.Tensor, num_classes: int, is_training: bool = True, dropout_keep_prob: float = 0.8
) -> tuple[tf.Tensor, dict[str, Any]]:
    """Builds the network with 10 convolutions and 4 times the channels of a plain one: 1.2 million weights.

    Args:
        inputs: float32 [batch, height, width, 3].
        num_classes: Number of labels.
        is_training: With dropout, and batch norm on the statistics of the batch.
        dropout_keep_prob: Share of the features that training keeps.

    Returns:
        (logits float32 [batch, 1, 1, num_classes]; {}, where the functions of tf_slim.nets have their end points).
    """
    with (
        tf.compat.v1.variable_scope("wide_resnet_10_4"),
        slim.arg_scope([slim.batch_norm, slim.dropout], is_training=is_training),
    ):
        return _answer(_features(inputs), num_classes, dropout_keep_prob)


def wide_resnet_10_4_x2(
    inputs: tf.Tensor, num_classes: int, is_training: bool = True, dropout_keep_prob: float = 0.8
) -> tuple[tf.Tensor, dict[str, Any]]:
    """Builds two of them side by side, an ensemble: its logits are the mean of theirs.

    Lakshminarayanan and others, 2017 (https://arxiv.org/abs/1612.01474). In training each sees half of the batch, and
    answers for that alone: they cost what one costs, and learn different things.

    Args, returns: see `wide_resnet_10_4`.

    Raises:
        UserError: A batch of training has only one picture.
    """
    if is_training and inputs.shape[0] == 1:
        raise UserError("wide_resnet_10_4_x2 deals a batch to two networks; give it a --batch_size of 2 at least")
    with (
        tf.compat.v1.variable_scope("wide_resnet_10_4_x2"),
        slim.arg_scope([slim.batch_norm, slim.dropout], is_training=is_training),
    ):
        half = tf.shape(inputs)[0] // 2
        parts = (inputs[:half], inputs[half:]) if is_training else (inputs, inputs)
        features = []
        for number, part in enumerate(parts, start=1):
            with tf.compat.v1.variable_scope(f"tower{number}"):
                features.append(_features(part))
        if not is_training:
            return _answer(tf.concat(features, axis=-1), num_classes, dropout_keep_prob)
        # Later the shared head sees the features of both towers. In training each picture has one: its features are
        # doubled, and the place of the other's is 0.
        rooms = ([0, BLOCK_DEPTHS[-1]], [BLOCK_DEPTHS[-1], 0])
        padded = [tf.pad(2.0 * each, [[0, 0]] * 3 + [room]) for each, room in zip(features, rooms, strict=True)]
        return _answer(tf.concat(padded, axis=0), num_classes, dropout_keep_prob)


def _features(inputs: tf.Tensor) -> tf.Tensor:
    """Builds all but the head: [batch, height, width, 3] to [batch, height / 16, width / 16, 256]."""
    net = _convolution(inputs, STEM_DEPTH, [3, 3], stride=2, scope="stem")
    for number, depth in enumerate(BLOCK_DEPTHS, start=2):
        net = _block(net, depth, f"block{number}")
    return slim.batch_norm(net, activation_fn=tf.nn.relu, scope="postnorm")


def _answer(net: tf.Tensor, num_classes: int, dropout_keep_prob: float) -> tuple[tf.Tensor, dict[str, Any]]:
    """Builds the head."""
    net = tf.reduce_mean(net, [1, 2], keepdims=True, name="pool")
    net = slim.dropout(net, dropout_keep_prob, scope="dropout")
    logits = slim.conv2d(net, num_classes, [1, 1], activation_fn=None, normalizer_fn=None, scope="logits")
    return logits, {}


def _block(net: tf.Tensor, depth: int, scope: str) -> tf.Tensor:
    """Builds a pre-activation residual block of stride 2, with an average-pooled shortcut.

    [batch, height, width, …] to [batch, height / 2, width / 2, depth].
    """
    with tf.compat.v1.variable_scope(scope):
        active = slim.batch_norm(net, activation_fn=tf.nn.relu, scope="preact")
        shortcut = slim.avg_pool2d(active, [2, 2], stride=2, padding="SAME", scope="pool")
        shortcut = _convolution(shortcut, depth, [1, 1], scope="shortcut")
        residual = slim.conv2d(active, depth, [3, 3], stride=2, scope="conv1")
        residual = _convolution(residual, depth, [3, 3], scope="conv2")
        return shortcut + residual
