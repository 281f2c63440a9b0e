"""MobileNet v3: the blocks of v2 with squeeze-and-excite and hard-swish, in sizes found by architecture search.

Howard and others, Searching for MobileNetV3, 2019 (https://arxiv.org/abs/1905.02244). The variables have slim's names.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

from metart.networks.slim_compat import slim, tf
from metart.networks.mobilenet_v1 import mobilenet_head
from metart.networks.mobilenet_v2 import inverted_residual, rounded


def hard_swish(net: tf.Tensor) -> tf.Tensor:
    """Returns x * ReLU6(x + 3) / 6, which costs less than swish, x * sigmoid(x), and is much like it."""
    return net * tf.nn.relu6(net + 3.0) * (1.0 / 6.0)


def squeeze_excite(net: tf.Tensor) -> tf.Tensor:
    """Multiplies each channel by a value between 0 and 1 that depends on the means of all channels."""
    depth = net.shape[-1]
    with tf.compat.v1.variable_scope("squeeze_excite"), slim.arg_scope([slim.conv2d], normalizer_fn=None):
        gate = tf.reduce_mean(net, [1, 2], keepdims=True)
        gate = slim.conv2d(gate, rounded(depth / 4), [1, 1], activation_fn=tf.nn.relu, scope="Conv")
        gate = slim.conv2d(gate, depth, [1, 1], activation_fn=None, scope="Conv_1")
        return net * (tf.nn.relu6(gate + 3.0) * 0.16667)  # The published weights were trained with so many digits.


class Block(NamedTuple):
    """One block; see `inverted_residual`."""

    kernel: int
    expanded: int
    depth: int
    gate: Callable[[tf.Tensor], tf.Tensor]
    activation: Callable[[tf.Tensor], tf.Tensor]
    stride: int


_RE, _HS, _SE, _NO = tf.nn.relu, hard_swish, squeeze_excite, tf.identity

LARGE = (  # Table 1 of the paper.
    Block(3, 16, 16, _NO, _RE, 1),
    Block(3, 64, 24, _NO, _RE, 2),
    Block(3, 72, 24, _NO, _RE, 1),
    Block(5, 72, 40, _SE, _RE, 2),
    *[Block(5, 120, 40, _SE, _RE, 1)] * 2,
    Block(3, 240, 80, _NO, _HS, 2),
    Block(3, 200, 80, _NO, _HS, 1),
    *[Block(3, 184, 80, _NO, _HS, 1)] * 2,
    Block(3, 480, 112, _SE, _HS, 1),
    Block(3, 672, 112, _SE, _HS, 1),
    Block(5, 672, 160, _SE, _HS, 2),
    *[Block(5, 960, 160, _SE, _HS, 1)] * 2,
)
SMALL = (  # Table 2 of the paper.
    Block(3, 16, 16, _SE, _RE, 2),
    Block(3, 72, 24, _NO, _RE, 2),
    Block(3, 88, 24, _NO, _RE, 1),
    Block(5, 96, 40, _SE, _HS, 2),
    *[Block(5, 240, 40, _SE, _HS, 1)] * 2,
    Block(5, 120, 48, _SE, _HS, 1),
    Block(5, 144, 48, _SE, _HS, 1),
    Block(5, 288, 96, _SE, _HS, 2),
    *[Block(5, 576, 96, _SE, _HS, 1)] * 2,
)


def mobilenet_v3(
    blocks: tuple[Block, ...],
    last_depth: int,
    inputs: tf.Tensor,
    num_classes: int,
    is_training: bool = True,
    dropout_keep_prob: float = 0.8,
    minimalistic: bool = False,
) -> tuple[tf.Tensor, dict[str, Any]]:
    """Builds a network; other arguments and results as of `mobilenet_v1`.

    Args:
        blocks: LARGE or SMALL.
        last_depth: Channels that the head sees.
        minimalistic: With 3 x 3 convolutions, ReLU and no gates, for hardware that is slow at the others.
    """
    if minimalistic:
        blocks = tuple(Block(3, block.expanded, block.depth, _NO, _RE, block.stride) for block in blocks)
    activation = _RE if minimalistic else hard_swish
    with (
        tf.compat.v1.variable_scope("MobilenetV3"),
        slim.arg_scope([slim.batch_norm, slim.dropout], is_training=is_training),
        slim.arg_scope([slim.conv2d], activation_fn=activation),
    ):
        net = slim.conv2d(inputs, 16, [3, 3], stride=2, scope="Conv")
        for number, block in enumerate(blocks):
            scope = f"expanded_conv_{number}" if number else "expanded_conv"
            net = inverted_residual(net, scope=scope, **block._asdict())
        net = slim.conv2d(net, blocks[-1].expanded, [1, 1], scope="Conv_1")
        net = tf.reduce_mean(net, [1, 2], keepdims=True, name="AvgPool_1a")
        net = slim.conv2d(net, last_depth, [1, 1], normalizer_fn=None, scope="Conv_2")
        return mobilenet_head(net, num_classes, dropout_keep_prob), {}


mobilenet_v3_large = functools.partial(mobilenet_v3, LARGE, 1280)
mobilenet_v3_small = functools.partial(mobilenet_v3, SMALL, 1024)
