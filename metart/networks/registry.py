"""The image classification networks of tf_slim.nets, by slim's names, and one for small pictures.

To add a network, add a line to NETWORKS.
"""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import inspect
from typing import Any, NamedTuple

from metart.networks.slim_compat import nets, slim, slim_layers, tf
from metart.common.flags import UserError
from metart.networks.wide_resnet import wide_resnet_10_4

# Any collection other than slim's default makes slim.batch_norm take its own fused implementation instead
# of a Keras layer that TensorFlow no longer has. The training step runs what is collected here.
BATCH_NORM_UPDATES = "batch_norm_updates"

# Slim's 0.9997 averages over some 3,000 steps: after a short run the averages are still near their initial
# values and evaluation answers at random. 100 steps are enough pictures for a mean and a variance.
BATCH_NORM_DECAY = 0.99


class Network(NamedTuple):
    """How to build one network, and what its published weights expect as input."""

    function: Callable[..., Any]
    arg_scope: Callable[..., Any]
    image_size: int  # Side of the square input, pixels.
    scale: float  # The input is (RGB value in [0, 255] - mean) / scale.
    mean: tuple[float, float, float]


def _inception_pixels(function: Callable[..., Any], arg_scope: Callable[..., Any], image_size: int) -> Network:
    return Network(function, arg_scope, image_size, 127.5, (127.5, 127.5, 127.5))


def _vgg_pixels(function: Callable[..., Any], arg_scope: Callable[..., Any], image_size: int) -> Network:
    # The means of ImageNet's training pictures, as the VGG authors published them.
    return Network(function, arg_scope, image_size, 1.0, (123.68, 116.779, 103.939))


_inception_scope = nets.inception.inception_v3_arg_scope
_resnet_scope = nets.resnet_utils.resnet_arg_scope

NETWORKS: dict[str, Network] = {
    "alexnet_v2": _vgg_pixels(nets.alexnet.alexnet_v2, nets.alexnet.alexnet_v2_arg_scope, 224),
    "inception_v1": _inception_pixels(nets.inception.inception_v1, nets.inception.inception_v1_arg_scope, 224),
    "inception_v2": _inception_pixels(nets.inception.inception_v2, nets.inception.inception_v2_arg_scope, 224),
    "inception_v3": _inception_pixels(nets.inception.inception_v3, _inception_scope, 299),
    "overfeat": _vgg_pixels(nets.overfeat.overfeat, nets.overfeat.overfeat_arg_scope, 231),
    "resnet_v1_50": _vgg_pixels(nets.resnet_v1.resnet_v1_50, _resnet_scope, 224),
    "resnet_v1_101": _vgg_pixels(nets.resnet_v1.resnet_v1_101, _resnet_scope, 224),
    "resnet_v1_152": _vgg_pixels(nets.resnet_v1.resnet_v1_152, _resnet_scope, 224),
    "resnet_v1_200": _vgg_pixels(nets.resnet_v1.resnet_v1_200, _resnet_scope, 224),
    "resnet_v2_50": _inception_pixels(nets.resnet_v2.resnet_v2_50, _resnet_scope, 299),
    "resnet_v2_101": _inception_pixels(nets.resnet_v2.resnet_v2_101, _resnet_scope, 299),
    "resnet_v2_152": _inception_pixels(nets.resnet_v2.resnet_v2_152, _resnet_scope, 299),
    "resnet_v2_200": _inception_pixels(nets.resnet_v2.resnet_v2_200, _resnet_scope, 299),
    "vgg_a": _vgg_pixels(nets.vgg.vgg_a, nets.vgg.vgg_arg_scope, 224),
    "vgg_16": _vgg_pixels(nets.vgg.vgg_16, nets.vgg.vgg_arg_scope, 224),
    "vgg_19": _vgg_pixels(nets.vgg.vgg_19, nets.vgg.vgg_arg_scope, 224),
    "wide_resnet_10_4": _inception_pixels(wide_resnet_10_4, _resnet_scope, 64),
}


def build(
    model_name: str,
    images: tf.Tensor,
    num_classes: int,
    is_training: bool = False,
    weight_decay: float = 0.0,
    trained_scopes: str = "",
    with_auxiliary_head: bool = False,
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Builds a network in the current graph, with the variable names slim gives it.

    Args:
        model_name: A key of NETWORKS.
        images: float32 [batch, height, width, 3], RGB, range [0, 255].
        num_classes: Number of labels.
        is_training: With dropout, and batch norm on the statistics of the batch; the updates of the batch
            norm averages are then in the collection BATCH_NORM_UPDATES.
        weight_decay: Factor of the L2 losses added to the collection REGULARIZATION_LOSSES.
        trained_scopes: Comma-separated scopes, all where none is named; the batch norm of other layers keeps its
            averages and normalises with them, also in training.
        with_auxiliary_head: Also outside training, where nobody needs its answer but a checkpoint its variables.

    Returns:
        (logits, auxiliary logits), float32 [batch, num_classes]; the second is None for networks without an
        auxiliary head, and outside training unless it is asked for.

    Raises:
        UserError: The images are too small for the network.
    """
    network = NETWORKS[model_name]
    scope = network.arg_scope(weight_decay=weight_decay)
    for arguments in scope.values():
        for parameters in (arguments, arguments.get("normalizer_params") or {}):
            if "updates_collections" in parameters:
                parameters["updates_collections"] = BATCH_NORM_UPDATES
                parameters["decay"] = _batch_norm_decay() if is_training else BATCH_NORM_DECAY
    inputs = (images - tf.constant(network.mean)) * (1.0 / network.scale)
    options = {"create_aux_logits": is_training or with_auxiliary_head, "spatial_squeeze": False}
    known = inspect.signature(network.function).parameters
    try:
        with slim.arg_scope(scope), _batch_norm_trains_in(trained_scopes):
            logits, end_points = network.function(
                inputs, num_classes, is_training=is_training, **{k: v for k, v in options.items() if k in known}
            )
    except ValueError as error:
        if "Negative dimension size" not in str(error):
            raise
        raise UserError(f"{images.shape[1]} x {images.shape[2]} pixels are too few for {model_name}") from None
    # Images larger than the network's own give an answer at more than one position.
    auxiliary_logits = end_points.get("AuxLogits")
    if auxiliary_logits is not None:
        auxiliary_logits = tf.reduce_mean(auxiliary_logits, [1, 2])
    return tf.reduce_mean(logits, [1, 2]), auxiliary_logits


def _batch_norm_decay() -> tf.Tensor:
    """Returns a decay that grows from 0.1, so that the initial averages are forgotten within ten steps."""
    step = tf.cast(tf.compat.v1.train.get_or_create_global_step(), tf.float32)
    return tf.minimum(BATCH_NORM_DECAY, (1.0 + step) / (10.0 + step))


@contextlib.contextmanager
def _batch_norm_trains_in(scopes: str) -> Iterator[None]:
    """Builds the batch norm of layers outside some scopes as in inference; slim has one switch for all layers."""
    original = slim_layers._fused_batch_norm

    def fused_batch_norm(*inputs: Any, is_training: bool, scope: str | None, **parameters: Any) -> tf.Tensor:
        name = f"{tf.compat.v1.get_variable_scope().name}/{scope or 'BatchNorm'}"
        return original(*inputs, is_training=is_training and is_in_scopes(name, scopes), scope=scope, **parameters)

    slim_layers._fused_batch_norm = fused_batch_norm
    try:
        yield
    finally:
        slim_layers._fused_batch_norm = original


def is_in_scopes(name: str, scopes: str) -> bool:
    """Returns whether a variable or layer lies in any of comma-separated scopes; True where no scope is named."""
    prefixes = tuple(scope.strip().rstrip("/") + "/" for scope in scopes.split(",") if scope.strip())
    return not prefixes or (name + "/").startswith(prefixes)


def in_scopes(variables: Iterable[tf.Variable], scopes: str) -> list[tf.Variable]:
    """Returns the variables in any of comma-separated scopes; all where no scope is named."""
    return [variable for variable in variables if is_in_scopes(variable.op.name, scopes)]


def head(logits: tf.Tensor) -> tuple[tf.Tensor, str]:
    """Finds the last layer of a network, a 1 x 1 convolution in all of them.

    Args:
        logits: What `build` returned.

    Returns:
        (what that layer sees, float32 [batch, height, width, depth]; the scope of its weights and biases).
    """
    operation = logits.op
    while operation.type != "Conv2D":
        operation = operation.inputs[0].op
    return operation.inputs[0], operation.name.rpartition("/")[0]


def dropout_keep_probability(model_name: str) -> float:
    """Returns the share of the head's input that training keeps, 1.0 for networks without dropout there."""
    parameter = inspect.signature(NETWORKS[model_name].function).parameters.get("dropout_keep_prob")
    return parameter.default if parameter else 1.0
