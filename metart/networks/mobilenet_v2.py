"""MobileNet v2: inverted residual blocks, which are expansion, depthwise convolution and linear projection.

Sandler and others, MobileNetV2, 2018 (https://arxiv.org/abs/1801.04381). The variables have slim's names.
"""

from collections.abc import Callable
from typing import Any

from metart.networks.slim_compat import slim, tf
from metart.networks.mobilenet_v1 import mobilenet_head

# Expansion, depth, number of blocks and stride of the first, table 2 of the paper.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
LAST_DEPTH = 1280


def mobilenet_v2(
    inputs: tf.Tensor,
    num_classes: int,
    is_training: bool = True,
    dropout_keep_prob: float = 0.8,
    depth_multiplier: float = 1.0,
) -> tuple[tf.Tensor, dict[str, Any]]:
    """Builds the network; arguments and results as of `mobilenet_v1`.

    A `depth_multiplier` below 1 leaves the last layer before the head as wide as it is.
    """
    with (
        tf.compat.v1.variable_scope("MobilenetV2"),
        slim.arg_scope([slim.batch_norm, slim.dropout], is_training=is_training),
    ):
        net = slim.conv2d(inputs, rounded(32 * depth_multiplier), [3, 3], stride=2, scope="Conv")
        number = 0
        for expansion, depth, blocks, first_stride in STAGES:
            for stride in (first_stride, *[1] * (blocks - 1)):
                scope = f"expanded_conv_{number}" if number else "expanded_conv"
                net = inverted_residual(
                    net, expansion * net.shape[-1], rounded(depth * depth_multiplier), stride=stride, scope=scope
                )
                number += 1
        net = slim.conv2d(net, rounded(LAST_DEPTH * max(depth_multiplier, 1.0)), [1, 1], scope="Conv_1")
        return mobilenet_head(net, num_classes, dropout_keep_prob), {}


def inverted_residual(
    net: tf.Tensor,
    expanded: int,
    depth: int,
    stride: int,
    scope: str,
    kernel: int = 3,
    activation: Callable[..., tf.Tensor] = tf.nn.relu6,
    gate: Callable[[tf.Tensor], tf.Tensor] = tf.identity,
) -> tf.Tensor:
    """Builds a block: [batch, height, width, …] to [batch, height / stride, width / stride, depth].

    Args:
        net: What the block sees.
        expanded: Channels between its first and its last convolution.
        depth: Channels of the result.
        stride: Of the convolution of each channel.
        scope: Of its variables.
        kernel: Side of that convolution.
        activation: After all but the last convolution.
        gate: Changes what the last convolution sees; MobileNet v3 has one.
    """
    with (
        tf.compat.v1.variable_scope(scope),
        slim.arg_scope([slim.conv2d, slim.separable_conv2d], activation_fn=activation),
    ):
        block = net
        if expanded > net.shape[-1]:
            block = slim.conv2d(block, expanded, [1, 1], scope="expand")
        block = gate(slim.separable_conv2d(block, None, [kernel, kernel], stride=stride, scope="depthwise"))
        block = slim.conv2d(block, depth, [1, 1], activation_fn=None, scope="project")
        return net + block if block.shape[1:] == net.shape[1:] else block


def rounded(depth: float) -> int:
    """Returns the nearest multiple of 8 that is not smaller by more than a tenth."""
    nearest = max(8, int(depth + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * depth else nearest + 8
