"""What one training step runs: a network or its head alone, the losses, and the update of the weights."""

from collections.abc import Iterator, Sequence
import contextlib
from typing import Any, NamedTuple

import numpy as np

from metart.networks.slim_compat import dropout, slim, tf
from metart.common.flags import UserError
from metart.networks import registry
from metart.networks.session import RUN_ONCE
from metart.training import filter_gradients, mixing, optimizers
from metart.training.cluster import Cluster

AUXILIARY_LOSS_WEIGHT = 0.4  # Of the second head of the later inceptions, as their authors have it.


class Recipe(NamedTuple):
    """What the graph of a training step is built from; the fields have the names of the flags."""

    model_name: str  # A key of registry.NETWORKS.
    optimizer: str  # One of optimizers.OPTIMIZERS; the next three are its parameters, see optimizers.build.
    momentum: float
    rmsprop_decay: float
    opt_epsilon: float
    weight_decay: float  # Factor of the L2 loss.
    label_smoothing: float  # Share of the truth that is spread over all labels.
    trainable_scopes: str  # Comma-separated; all where none is named.
    moving_average_decay: float | None  # None keeps no averaged weights.
    precision: str  # What the flag comes to on this machine: session.Device.arithmetic.
    mixup_alpha: float = 0.0  # See mixing.mix; not of a head alone.
    cutmix_alpha: float = 0.0
    mixup_prob: float = 1.0


class TrainStep(NamedTuple):
    """The parts of the graph that a training step runs or feeds."""

    train_op: tf.Operation
    loss: tf.Tensor  # Scalar, mean over the workers.
    learning_rate: tf.Tensor  # Placeholder, fed in each step.
    # Placeholder, float32 [2], 0.0 or 1.0: whether this worker was told to stop, and whether it wants no further step.
    stop_requested: tf.Tensor
    stop_agreed: tf.Tensor  # Mean over the workers, above 0 if any of them asks: all learn it in the same step.
    is_finite: tf.Tensor  # False once a weight is infinite or no number.
    applied: tf.Tensor | None  # int64 scalar: the updates so far, without those that overflowed; only of float16.


class HeadInputs(NamedTuple):
    """The placeholders of a head that trains alone, and what fills them."""

    features: tf.Tensor  # float32 [batch, depth], fed: what the frozen network saw.
    labels: tf.Tensor  # int64 [batch], fed.
    of_pictures: tf.Tensor  # float32 [batch, depth]: the features of the images that `build_head` was given.
    scope: str  # Of the head's weights and biases.


def build_network(
    recipe: Recipe, label_weights: Sequence[float], images: tf.Tensor, labels: tf.Tensor, cluster: Cluster
) -> TrainStep:
    """Builds network, losses and update in the current graph.

    Args:
        recipe: What to build.
        label_weights: How much a picture of each label counts in the loss, 1 on average.
        images: float32 [batch, size, size, 3], RGB, range [0, 255]; the size may change from step to step.
        labels: int64 [batch].
        cluster: Gradients are averaged over its workers.
    """
    targets = tf.one_hot(labels, len(label_weights))
    if recipe.mixup_alpha or recipe.cutmix_alpha:
        images, targets = mixing.mix(images, targets, recipe.mixup_alpha, recipe.cutmix_alpha, recipe.mixup_prob)
    with (
        registry.batch_norm_trains_in(recipe.trainable_scopes),
        filter_gradients.of_few_positions() if recipe.precision == "bfloat16" else contextlib.nullcontext(),
    ):
        logits, auxiliary_logits = registry.build(
            recipe.model_name, images, len(label_weights), is_training=True, weight_decay=recipe.weight_decay
        )
    _add_loss(logits, targets, label_weights, recipe.label_smoothing)
    if auxiliary_logits is not None:
        _add_loss(auxiliary_logits, targets, label_weights, recipe.label_smoothing, AUXILIARY_LOSS_WEIGHT)
    return _build_update(recipe, recipe.trainable_scopes, cluster)


def build_head(
    recipe: Recipe, label_weights: Sequence[float], images: tf.Tensor, cluster: Cluster
) -> tuple[TrainStep, HeadInputs]:
    """Builds a frozen network, its head as a layer that trains on features, and the update, in the current graph.

    Args: see `build_network`; `images` are those to compute the features of.
    """
    logits, _ = registry.build(
        recipe.model_name, images, len(label_weights), weight_decay=recipe.weight_decay, with_auxiliary_head=True
    )
    head_input, scope = registry.head(logits)
    of_pictures = registry.spatial_mean(head_input)
    inputs = HeadInputs(
        tf.compat.v1.placeholder(tf.float32, [None, of_pictures.shape[-1]], name="features"),
        tf.compat.v1.placeholder(tf.int64, [None], name="labels"),
        of_pictures,
        scope,
    )
    trained = registry.in_scopes(tf.compat.v1.trainable_variables(), scope)
    biases, weights = sorted(trained, key=lambda variable: variable.shape.rank)
    kept = dropout(inputs.features, registry.dropout_keep_probability(recipe.model_name))
    # The mean over the positions of a 1 x 1 convolution is the same product with the mean over the positions.
    _add_loss(
        tf.matmul(kept, tf.reshape(weights, [of_pictures.shape[-1], -1])) + biases,
        tf.one_hot(inputs.labels, len(label_weights)),
        label_weights,
        recipe.label_smoothing,
    )
    return _build_update(recipe, scope, cluster), inputs


def trains_head_alone(model_name: str, image_size: int, num_classes: int, trainable_scopes: str) -> bool:
    """Returns whether all layers below the head are frozen: what they see in a picture then never changes.

    An auxiliary head only helps the layers below it; named beside the head, it stays as it is.

    Raises:
        UserError: The scopes name nothing in the network, or the images are too small for it.
    """
    if not trainable_scopes:
        return False
    with tf.Graph().as_default():
        images = tf.zeros([2, image_size, image_size, 3])
        logits, auxiliary_logits = registry.build(model_name, images, num_classes, is_training=True)
        heads = [registry.head(logits)[1]]
        if auxiliary_logits is not None:
            heads.append(registry.head(auxiliary_logits)[1].rpartition("/")[0])
        variables = tf.compat.v1.trainable_variables()
        registry.require_scopes(variables, trainable_scopes, "trainable_scopes", model_name)
        trained = registry.in_scopes(variables, trainable_scopes)
        return registry.in_scopes(trained, ",".join(heads)) == trained


def require_size(model_name: str, image_size: int) -> None:
    """Makes sure that a network takes images of a size, pixels a side, before anything is trained for it.

    Raises:
        UserError: They are too small.
    """
    with tf.Graph().as_default():
        registry.build(model_name, tf.zeros([1, image_size, image_size, 3]), num_classes=2)


def require_changing_size(model_name: str, image_size: int) -> None:
    """Makes sure that a network takes images of several sizes in one run, this one among them.

    Raises:
        UserError: The images are too small, or the network is built for one size.
    """
    require_size(model_name, image_size)
    with tf.Graph().as_default(), tf.compat.v1.Session(config=RUN_ONCE) as session:
        images = tf.compat.v1.placeholder(tf.float32, [1, None, None, 3])
        try:
            logits, _ = registry.build(model_name, images, num_classes=2)
            session.run(tf.compat.v1.global_variables_initializer())
            session.run(logits, {images: np.zeros([1, image_size, image_size, 3])})
        except (ValueError, tf.errors.InvalidArgumentError):
            raise UserError(f"{model_name} takes images of one size in a run; leave out --first_image_sizes") from None


def label_weights(counts: Sequence[int], balance: float) -> list[float]:
    """Returns how much a picture of each label counts in the loss: `count ** -balance`, 1 on average.

    Args:
        counts: Training pictures of each label.
        balance: 0 lets every picture count the same, 1 every label.
    """
    if not balance:
        return [1.0] * len(counts)
    weights = np.array([count**-balance if count else 0.0 for count in counts])
    return (weights * sum(counts) / (weights @ counts)).tolist()


def _add_loss(
    logits: tf.Tensor, targets: tf.Tensor, label_weights: Sequence[float], label_smoothing: float, weight: float = 1.0
) -> None:
    tf.compat.v1.losses.softmax_cross_entropy(
        targets,
        logits,
        weights=weight * tf.linalg.matvec(targets, tf.constant(label_weights, tf.float32)),
        label_smoothing=label_smoothing,
        reduction=tf.compat.v1.losses.Reduction.SUM_OVER_BATCH_SIZE,
    )


def _build_update(recipe: Recipe, trained_scopes: str, cluster: Cluster) -> TrainStep:
    """Builds the update of the variables in some scopes, all where none is named, from the losses in the graph."""
    trained = registry.in_scopes(tf.compat.v1.trainable_variables(), trained_scopes)
    model_variables = registry.in_scopes(slim.get_model_variables(), trained_scopes)
    # The L2 losses of what is frozen are a constant that takes most of the time of a head that trains alone.
    weight_losses = tf.compat.v1.losses.get_regularization_losses()
    weight_losses = [loss for loss in weight_losses if registry.is_in_scopes(loss.op.name, trained_scopes)]
    if recipe.optimizer == "muon":  # Its weights keep their length, and a small gradient counts as much as a large one.
        weight_losses = []
    loss = tf.add_n([*tf.compat.v1.losses.get_losses(), *weight_losses])
    rate = tf.compat.v1.placeholder(tf.float32, [], name="learning_rate")
    optimizer = optimizers.build(recipe.optimizer, rate, recipe.momentum, recipe.rmsprop_decay, recipe.opt_epsilon)
    step = tf.compat.v1.train.get_or_create_global_step()
    applied = None
    if recipe.precision == "float16":  # Most gradients are below its smallest number, until the loss is scaled up.
        with _unsaved_variables():
            applied = tf.compat.v1.get_variable("applied", [], tf.int64, tf.zeros_initializer(), trainable=False)
            optimizer = tf.compat.v1.mixed_precision.MixedPrecisionLossScaleOptimizer(optimizer, "dynamic")
    # Gates would keep TensorFlow from joining the gradients of batch norm and ReLU on a GPU. They guard variables that
    # change while they are read, which none does here.
    ungated = optimizer.compute_gradients(loss, trained, gate_gradients=optimizer.GATE_NONE)
    gradients = cluster.mean([gradient for gradient, _ in ungated])
    averages = [variable for variable in model_variables if not variable.trainable]
    with tf.control_dependencies(tf.compat.v1.get_collection(registry.BATCH_NORM_UPDATES)):
        averages_synced = cluster.average(averages)
    with tf.control_dependencies([loss, averages_synced]):  # Which depend on the number of the step that they are of.
        counted = step.assign_add(1)
    train_op = tf.group(optimizer.apply_gradients(zip(gradients, trained, strict=True), global_step=applied), counted)
    stop_requested = tf.compat.v1.placeholder_with_default(tf.zeros([2]), [2], name="stop")
    loss, stop_agreed = cluster.mean([loss, stop_requested])
    if recipe.moving_average_decay:
        average = tf.train.ExponentialMovingAverage(recipe.moving_average_decay, step)
        with tf.control_dependencies([train_op]):
            train_op = average.apply(model_variables)
    is_finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(weight)) for weight in model_variables])
    return TrainStep(train_op, loss, rate, stop_requested, stop_agreed, is_finite, applied)


@contextlib.contextmanager
def _unsaved_variables() -> Iterator[None]:
    """Keeps the variables that are made in the block out of checkpoints, which therefore fit every precision."""

    def local(create: Any, **arguments: Any) -> tf.Variable:
        return create(**{**arguments, "collections": [tf.compat.v1.GraphKeys.LOCAL_VARIABLES]})

    with tf.variable_creator_scope(local):
        yield
