"""Batch norm folded into the convolutions before it: the same answers from a network with half of the operations.

In inference a batch norm multiplies each channel by a constant and adds another. So its factor goes into the weights of
the convolution that made the channel, and an addition is left.
"""

from collections import Counter

import numpy as np

from metart.networks.slim_compat import tf


def fold_batch_norm(graph: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """Returns a graph without the batch norms that follow a convolution.

    Args:
        graph: Of inference, its variables turned into constants.
    """
    nodes = {node.name: node for node in graph.node}
    uses = Counter(_name(name) for node in graph.node for name in node.input)

    def constant(name: str) -> np.ndarray | None:
        node = nodes[_name(name)]
        while node.op == "Identity":
            node = nodes[_name(node.input[0])]
        return tf.make_ndarray(node.attr["value"].tensor) if node.op == "Const" else None

    folded = tf.compat.v1.GraphDef(versions=graph.versions)
    replaced: dict[str, list[tf.compat.v1.NodeDef]] = {}
    for node in graph.node:
        if node.op != "FusedBatchNormV3" or node.attr["is_training"].b:
            continue
        convolution = nodes[_name(node.input[0])]
        if convolution.op not in ("Conv2D", "DepthwiseConv2dNative") or uses[convolution.name] != 1:
            continue  # Such as the batch norm before the activation in resnet_v2, which has no convolution to go into.
        weights = constant(convolution.input[1])
        parameters = [constant(name) for name in node.input[1:]]
        if weights is None or any(parameter is None for parameter in parameters):
            continue
        scale, offset, mean, variance = parameters
        factor = scale / np.sqrt(variance + node.attr["epsilon"].f)
        depths = weights.shape[3:] if convolution.op == "Conv2D" else weights.shape[2:]
        new = [
            _constant_node(f"{convolution.name}/folded_weights", weights * factor.reshape(depths)),
            _constant_node(f"{node.name}/folded_biases", offset - mean * factor),
        ]
        merged = tf.compat.v1.NodeDef()
        merged.CopyFrom(convolution)
        merged.input[1] = new[0].name
        replaced[convolution.name] = [new[0], merged]
        addition = tf.compat.v1.NodeDef(name=node.name, op="BiasAdd", input=[convolution.name, new[1].name])
        addition.attr["T"].CopyFrom(node.attr["T"])
        addition.attr["data_format"].s = b"NHWC"
        replaced[node.name] = [new[1], addition]
    for node in graph.node:
        folded.node.extend(replaced.get(node.name, [node]))
    return folded


def _name(reference: str) -> str:
    """Returns the node that an input such as `^node` or `node:1` refers to."""
    return reference.removeprefix("^").partition(":")[0]


def _constant_node(name: str, value: np.ndarray) -> tf.compat.v1.NodeDef:
    node = tf.compat.v1.NodeDef(name=name, op="Const")
    node.attr["dtype"].type = tf.float32.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, tf.float32))
    return node
