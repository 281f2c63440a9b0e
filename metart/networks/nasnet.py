"""NASNet-A, networks of cells that a search found, built from slim's layers with slim's names.

Zoph, Vasudevan, Shlens and Le, Learning Transferable Architectures for Scalable Image Recognition, 2017
(https://arxiv.org/abs/1707.07012). `build` serves pnasnet.py too, which has another cell.
"""

import functools
from typing import Any, NamedTuple

from metart.networks.slim_compat import slim, tf
from metart.networks.drop_path import drop_path

DROP_PATH_STEPS = 250_000  # Over so many steps the share of dropped paths grows to its full size, as in the paper.


class Cell(NamedTuple):
    """Five sums. State 0 is the cell's input, 1 the input of the cell before, and each sum is one more state.

    A term of a sum is an operation on a state: two separable convolutions, a pooling over 3 x 3, or nothing.
    """

    sums: tuple[tuple[tuple[str, int], tuple[str, int]], ...]
    first_output: int  # The states from this one on, one behind the other, are what the cell gives.


NORMAL = Cell(
    (
        (("separable_5x5", 0), ("separable_3x3", 1)),
        (("separable_5x5", 1), ("separable_3x3", 1)),
        (("avg_pool", 0), ("none", 1)),
        (("avg_pool", 1), ("avg_pool", 1)),
        (("separable_3x3", 0), ("none", 0)),
    ),
    first_output=1,
)
REDUCTION = Cell(
    (
        (("separable_5x5", 0), ("separable_7x7", 1)),
        (("max_pool", 0), ("separable_7x7", 1)),
        (("avg_pool", 0), ("separable_5x5", 1)),
        (("none", 3), ("avg_pool", 2)),
        (("separable_3x3", 2), ("max_pool", 0)),
    ),
    first_output=3,
)


class Architecture(NamedTuple):
    """How the cells are stacked."""

    stem_depth: int  # Channels of the convolution before all cells.
    depth: int  # Channels of a sum in the first cells; twice as many after each of two reductions.
    num_cells: int  # Without those of the stem, which reduce, and those added to reduce.
    keep_path_prob: float  # Share of the paths that training keeps in the last cell at the end; more in cells before.
    normal: Cell = NORMAL
    reduction: Cell | None = REDUCTION  # None: the normal cell with stride 2.
    skips_reduction: bool = False  # The cell after a reduction also sees the input of that, not the state before it.


def arg_scope(weight_decay: float = 4e-5) -> dict[str, Any]:
    """Returns slim's defaults for the layers of these networks."""
    norm = {"epsilon": 0.001, "scale": True, "updates_collections": tf.compat.v1.GraphKeys.UPDATE_OPS}
    with (
        slim.arg_scope(
            [slim.conv2d, slim.separable_conv2d, slim.fully_connected],
            activation_fn=None,
            weights_regularizer=slim.l2_regularizer(weight_decay),
        ),
        # Not for the last layer, where few labels would make large initial weights, which a short training keeps.
        slim.arg_scope(
            [slim.conv2d, slim.separable_conv2d],
            biases_initializer=None,
            weights_initializer=slim.variance_scaling_initializer(mode="FAN_OUT"),
        ),
        slim.arg_scope([slim.batch_norm], **norm) as scope,
    ):
        return scope


def build(
    inputs: tf.Tensor,
    num_classes: int,
    is_training: bool = True,
    dropout_keep_prob: float = 0.5,
    create_aux_logits: bool = True,
    *,
    architecture: Architecture,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Builds a network of cells.

    Args:
        inputs: float32 [batch, height, width, 3].
        num_classes: Number of labels.
        is_training: With dropout and drop path, and batch norm on the statistics of the batch.
        dropout_keep_prob: Share of the features that training keeps.
        create_aux_logits: With the auxiliary head, which slim's networks have in training only.
        architecture: How the cells are stacked.

    Returns:
        (logits float32 [batch, num_classes]; the auxiliary ones as `AuxLogits`, if they are asked for).
    """
    reduction = architecture.reduction
    reductions = [architecture.num_cells * part // 3 for part in (1, 2)]
    end_points = {}
    with slim.arg_scope([slim.batch_norm, slim.dropout], is_training=is_training):
        net = slim.conv2d(inputs, architecture.stem_depth, [3, 3], stride=2, padding="VALID", scope="conv0")
        outputs = [None, slim.batch_norm(net, scope="conv0_bn")]
        keep_probs = iter(_keep_path_probs(architecture, is_training))

        def add(cell: Cell, before: tf.Tensor | None, depth: int, stride: int, scope: str) -> None:
            outputs.append(_cell(cell, outputs[-1], before, depth, stride, next(keep_probs), scope))

        for number, depth in enumerate((architecture.depth // 4, architecture.depth // 2)):
            add(reduction or architecture.normal, outputs[-2], depth, 2, f"cell_stem_{number}")
        depth = architecture.depth
        for number in range(architecture.num_cells):
            before, stride = outputs[-2], 1
            if number in reductions:
                depth *= 2
                if reduction:
                    add(reduction, before, depth, 2, f"reduction_cell_{reductions.index(number)}")
                    before = before if architecture.skips_reduction else outputs[-2]
                else:
                    stride = 2
            add(architecture.normal, before, depth, stride, f"cell_{number}")
            if create_aux_logits and number == reductions[1] - 1:
                with tf.compat.v1.variable_scope(f"aux_{number}/aux_logits"):
                    end_points["AuxLogits"] = _auxiliary_logits(outputs[-1], num_classes)
        with tf.compat.v1.variable_scope("final_layer"):
            net = tf.reduce_mean(tf.nn.relu(outputs[-1]), [1, 2], name="pool")
            net = slim.dropout(net, dropout_keep_prob, scope="dropout")
            return slim.fully_connected(net, num_classes, scope="FC"), end_points


def _keep_path_probs(architecture: Architecture, is_training: bool) -> list[float | tf.Tensor]:
    """Returns the share of paths to keep in each cell, from the first of the stem to the last."""
    count = architecture.num_cells + (4 if architecture.reduction else 2)
    if not is_training or architecture.keep_path_prob == 1.0:
        return [1.0] * count
    step = tf.cast(tf.compat.v1.train.get_or_create_global_step(), tf.float32)
    full = (1.0 - architecture.keep_path_prob) * tf.minimum(1.0, step / DROP_PATH_STEPS)
    return [1.0 - full * ((number + 1) / count) for number in range(count)]


def _cell(
    cell: Cell,
    net: tf.Tensor,
    before: tf.Tensor | None,
    depth: int,
    stride: int,
    keep_prob: float | tf.Tensor,
    scope: str,
) -> tf.Tensor:
    """Builds a cell: [batch, height, width, …] to [batch, height / stride, width / stride, outputs * depth].

    Args:
        cell: What it computes.
        net: What the last cell gave.
        before: What the cell before that gave, None at the start.
        depth: Channels of each sum.
        stride: Of the operations on the two inputs.
        keep_prob: Share of the paths to keep.
        scope: Name of the cell.
    """
    with tf.compat.v1.variable_scope(scope):
        second = net if before is None else _fitted(before, net.shape[2], depth)
        states = [_pointwise(net, depth, "1x1", "beginning_bn"), second]
        for number, terms in enumerate(cell.sums):
            with tf.compat.v1.variable_scope(f"comb_iter_{number}"):
                values = []
                for side, (operation, state) in zip(("left", "right"), terms, strict=True):
                    with tf.compat.v1.variable_scope(side):
                        values.append(_term(states[state], operation, depth, stride if state < 2 else 1, keep_prob))
                states.append(tf.add(*values))
        return tf.concat(states[cell.first_output :], axis=3)


def _fitted(net: tf.Tensor, width: int, depth: int) -> tf.Tensor:
    """Brings what the cell before gave to the width and depth of what the last one gave."""
    if net.shape[2] == width:
        return net if net.shape[3] == depth else _pointwise(net, depth, "prev_1x1", "prev_bn")
    # Half of the channels from every second place, half from the places between.
    net = tf.nn.relu(net)
    between = tf.pad(net, [[0, 0], [0, 1], [0, 1], [0, 0]])[:, 1:, 1:]
    halves = [
        slim.conv2d(net[:, ::2, ::2], depth // 2, [1, 1], scope="path1_conv"),
        slim.conv2d(between[:, ::2, ::2], depth - depth // 2, [1, 1], scope="path2_conv"),
    ]
    return slim.batch_norm(tf.concat(halves, axis=3), scope="final_path_bn")


def _term(net: tf.Tensor, operation: str, depth: int, stride: int, keep_prob: float | tf.Tensor) -> tf.Tensor:
    """Builds one term of a sum."""
    kind, _, size = operation.partition("_")
    if kind == "none":
        return net if stride == 1 and net.shape[3] == depth else _pointwise(net, depth, "1x1", "bn_1", stride)
    if kind == "separable":
        for layer in (1, 2):
            net = tf.nn.relu(net)
            scope = f"separable_{size}_{layer}"
            net = slim.separable_conv2d(net, depth, int(size[0]), 1, stride=stride if layer == 1 else 1, scope=scope)
            net = slim.batch_norm(net, scope=f"bn_sep_{size}_{layer}")
    else:
        pool = slim.avg_pool2d if kind == "avg" else slim.max_pool2d
        net = pool(net, [3, 3], stride=stride, padding="SAME")
        if net.shape[3] != depth:
            net = slim.batch_norm(slim.conv2d(net, depth, [1, 1], scope="1x1"), scope="bn_1")
    return net if keep_prob == 1.0 else drop_path(net, keep_prob)


def _pointwise(net: tf.Tensor, depth: int, scope: str, norm_scope: str, stride: int = 1) -> tf.Tensor:
    net = slim.conv2d(tf.nn.relu(net), depth, [1, 1], stride=stride, scope=scope)
    return slim.batch_norm(net, scope=norm_scope)


def _auxiliary_logits(net: tf.Tensor, num_classes: int) -> tf.Tensor:
    net = slim.avg_pool2d(tf.nn.relu(net), [5, 5], stride=3, padding="VALID")
    net = slim.batch_norm(slim.conv2d(net, 128, [1, 1], scope="proj"), activation_fn=tf.nn.relu, scope="aux_bn0")
    net = slim.conv2d(net, 768, net.shape[1:3], padding="VALID", scope="Conv")
    net = slim.batch_norm(net, activation_fn=tf.nn.relu, scope="aux_bn1")
    return slim.fully_connected(tf.squeeze(net, [1, 2]), num_classes, scope="FC")


nasnet_mobile = functools.partial(build, architecture=Architecture(32, 44, 12, keep_path_prob=1.0))
nasnet_large = functools.partial(
    build, architecture=Architecture(96, 168, 18, keep_path_prob=0.7, skips_reduction=True)
)
