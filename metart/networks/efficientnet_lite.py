"""EfficientNet-Lite, networks for phones, built from slim's layers with the names of Google's checkpoints.

Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, 2019
(https://arxiv.org/abs/1905.11946); the lite ones have no squeeze-and-excite, and ReLU6 for 8-bit arithmetic.
"""

import functools
import math
from typing import Any, NamedTuple

from metart.networks.slim_compat import slim, tf
from metart.networks.drop_path import drop_path
from metart.networks.mobilenet_v2 import rounded

STEM_DEPTH = 32
HEAD_DEPTH = 1280
KEEP_PATH_PROB = 0.8  # Of stochastic depth: falls linearly from 1 in the first block to almost this in the last.


class Stage(NamedTuple):
    """Blocks of one kind."""

    blocks: int
    kernel_size: int
    stride: int  # Of the first block.
    expansion: int  # Channels inside a block, for each channel it gets.
    depth: int  # Channels it gives.


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
# Google's names of what slim's layers call weights, biases and depthwise_weights.
VARIABLE_NAMES = {"weights": "kernel", "biases": "bias", "depthwise_weights": "depthwise_kernel"}


def build(
    inputs: tf.Tensor,
    num_classes: int,
    is_training: bool = True,
    dropout_keep_prob: float = 0.8,
    *,
    scope: str,
    width: float,
    length: float,
) -> tuple[tf.Tensor, dict[str, Any]]:
    """Builds a network.

    Args:
        inputs: float32 [batch, height, width, 3].
        num_classes: Number of labels.
        is_training: With dropout and drop path, and batch norm on the statistics of the batch.
        dropout_keep_prob: Share of the features that training keeps.
        scope: Before all names.
        width: Factor of the channels; those of the first and last convolution stay.
        length: Factor of the blocks of a stage; those of the first and last stage stay.

    Returns:
        (logits float32 [batch, num_classes]; {}, where the functions of tf_slim.nets have their end points).
    """
    blocks = []
    for stage in STAGES:
        count = stage.blocks if stage in (STAGES[0], STAGES[-1]) else math.ceil(stage.blocks * length)
        first = stage._replace(depth=rounded(stage.depth * width))
        blocks += [first] + [first._replace(stride=1)] * (count - 1)
    with (
        tf.compat.v1.variable_scope(scope, custom_getter=_renaming),
        slim.arg_scope([slim.batch_norm, slim.dropout], is_training=is_training),
    ):
        with tf.compat.v1.variable_scope("stem"):
            net = slim.conv2d(inputs, STEM_DEPTH, [3, 3], stride=2, scope="conv2d")
            net = _norm(net, "tpu_batch_normalization", tf.nn.relu6)
        for number, block in enumerate(blocks):
            keep_prob = 1.0 - (1.0 - KEEP_PATH_PROB) * number / len(blocks) if is_training else 1.0
            with tf.compat.v1.variable_scope(f"blocks_{number}"):
                net = _block(net, block, keep_prob)
        with tf.compat.v1.variable_scope("head"):
            net = slim.conv2d(net, HEAD_DEPTH, [1, 1], scope="conv2d")
            net = _norm(net, "tpu_batch_normalization", tf.nn.relu6)
            net = tf.reduce_mean(net, [1, 2], name="pool")
            net = slim.dropout(net, dropout_keep_prob, scope="dropout")
            return slim.fully_connected(net, num_classes, scope="dense"), {}


def _block(net: tf.Tensor, block: Stage, keep_prob: float) -> tf.Tensor:
    """Builds an inverted residual block (MBConv), with its shortcut where the shapes of input and output agree.

    Layers of one kind are numbered in their order.
    """
    shortcut = net
    convolutions = iter(["conv2d", "conv2d_1"])
    norms = iter(["tpu_batch_normalization", "tpu_batch_normalization_1", "tpu_batch_normalization_2"])
    if block.expansion > 1:
        net = slim.conv2d(net, net.shape[3] * block.expansion, [1, 1], scope=next(convolutions))
        net = _norm(net, next(norms), tf.nn.relu6)
    net = slim.separable_conv2d(net, None, block.kernel_size, 1, stride=block.stride, scope="depthwise_conv2d")
    net = _norm(net, next(norms), tf.nn.relu6)
    net = _norm(slim.conv2d(net, block.depth, [1, 1], scope=next(convolutions)), next(norms), None)
    if net.shape != shortcut.shape:
        return net
    return shortcut + (net if keep_prob == 1.0 else drop_path(net, keep_prob))


def _norm(net: tf.Tensor, scope: str, activation: Any) -> tf.Tensor:
    return slim.batch_norm(net, activation_fn=activation, scope=scope)


def _renaming(getter: Any, name: str, *args: Any, **parameters: Any) -> tf.Variable:
    """Makes a variable under Google's name."""
    scope, _, last = name.rpartition("/")
    return getter(f"{scope}/{VARIABLE_NAMES.get(last, last)}", *args, **parameters)


efficientnet_lite0 = functools.partial(build, scope="efficientnet-lite0", width=1.0, length=1.0)
efficientnet_lite1 = functools.partial(build, scope="efficientnet-lite1", width=1.0, length=1.1)
efficientnet_lite2 = functools.partial(build, scope="efficientnet-lite2", width=1.1, length=1.2, dropout_keep_prob=0.7)
efficientnet_lite3 = functools.partial(build, scope="efficientnet-lite3", width=1.2, length=1.4, dropout_keep_prob=0.7)
efficientnet_lite4 = functools.partial(build, scope="efficientnet-lite4", width=1.4, length=1.8, dropout_keep_prob=0.7)
