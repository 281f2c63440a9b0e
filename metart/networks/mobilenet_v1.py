"""MobileNet v1, for small machines: depthwise separable convolutions.

Howard and others, MobileNets, 2017 (https://arxiv.org/abs/1704.04861). The variables have slim's names.
"""

from typing import Any

from metart.networks.slim_compat import slim, tf

# Stride and depth of each pair of convolutions, table 1 of the paper.
PAIRS = ((1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), *[(1, 512)] * 5, (2, 1024), (1, 1024))


def mobilenet_arg_scope(weight_decay: float = 0.00004) -> dict[str, Any]:
    """Returns slim's settings of the layers of all three MobileNets; kernels of one channel have no weight decay."""
    batch_norm = {"scale": True, "epsilon": 0.001, "updates_collections": tf.compat.v1.GraphKeys.UPDATE_OPS}
    with (
        slim.arg_scope(
            [slim.conv2d, slim.separable_conv2d],
            weights_initializer=tf.compat.v1.truncated_normal_initializer(stddev=0.09),
            activation_fn=tf.nn.relu6,
            normalizer_fn=slim.batch_norm,
            normalizer_params=batch_norm,
        ),
        slim.arg_scope([slim.conv2d], weights_regularizer=slim.l2_regularizer(weight_decay)) as scope,
    ):
        return scope


def mobilenet_v1(
    inputs: tf.Tensor,
    num_classes: int,
    is_training: bool = True,
    dropout_keep_prob: float = 0.999,
    depth_multiplier: float = 1.0,
) -> tuple[tf.Tensor, dict[str, Any]]:
    """Builds the network.

    Args:
        inputs: float32 [batch, height, width, 3].
        num_classes: Number of labels.
        is_training: With dropout, and batch norm on the statistics of the batch.
        dropout_keep_prob: Share of the features that training keeps.
        depth_multiplier: Of the number of channels of every layer.

    Returns:
        (logits float32 [batch, 1, 1, num_classes]; {}, where the functions of tf_slim.nets have their end points).
    """
    with (
        tf.compat.v1.variable_scope("MobilenetV1"),
        slim.arg_scope([slim.batch_norm, slim.dropout], is_training=is_training),
    ):
        net = slim.conv2d(inputs, _depth(32, depth_multiplier), [3, 3], stride=2, scope="Conv2d_0")
        for number, (stride, depth) in enumerate(PAIRS, start=1):
            net = slim.separable_conv2d(net, None, [3, 3], stride=stride, scope=f"Conv2d_{number}_depthwise")
            net = slim.conv2d(net, _depth(depth, depth_multiplier), [1, 1], scope=f"Conv2d_{number}_pointwise")
        return mobilenet_head(net, num_classes, dropout_keep_prob), {}


def mobilenet_head(net: tf.Tensor, num_classes: int, dropout_keep_prob: float) -> tf.Tensor:
    """Returns the logits, [batch, 1, 1, num_classes], of a last feature map."""
    net = tf.reduce_mean(net, [1, 2], keepdims=True, name="global_pool")
    net = slim.dropout(net, dropout_keep_prob, scope="Dropout")
    return slim.conv2d(net, num_classes, [1, 1], activation_fn=None, normalizer_fn=None, scope="Logits/Conv2d_1c_1x1")


def _depth(depth: int, multiplier: float) -> int:
    return max(int(depth * multiplier), 8)
