"""The image classification networks: slim's, by its names and with its variables, Google's EfficientNet-Lite, and two
for small pictures.

To add a network, add a line to NETWORKS.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import functools
import inspect
from typing import Any, NamedTuple

from metart.networks.slim_compat import nets, slim, slim_layers, tf, without_autograph
from metart.common.flags import UserError
from metart.networks import efficientnet_lite, nasnet, pnasnet
from metart.networks.inception_resnet_v2 import inception_resnet_v2, inception_resnet_v2_arg_scope
from metart.networks.inception_v4 import inception_v4
from metart.networks.mobilenet_v1 import mobilenet_arg_scope, mobilenet_v1
from metart.networks.mobilenet_v2 import mobilenet_v2
from metart.networks.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from metart.networks.wide_resnet import wide_resnet_10_4, wide_resnet_10_4_x2

# Any collection other than slim's default makes slim.batch_norm take its own fused implementation instead
# of a Keras layer that TensorFlow no longer has. The training step runs what is collected here.
BATCH_NORM_UPDATES = "batch_norm_updates"
HEADS = "heads"  # The collection of the scopes of the output layers.

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


def _mobilenet(function: Callable[..., Any], **options: Any) -> Network:
    return _inception_pixels(functools.partial(function, **options), mobilenet_arg_scope, 224)


def _efficientnet_pixels(function: Callable[..., Any], image_size: int) -> Network:
    # The layers' defaults are NASNet's: batch norm with epsilon 0.001 and gamma, initial weights by fan-out.
    return Network(function, nasnet.arg_scope, image_size, 128.0, (127.0, 127.0, 127.0))


_inception_scope = nets.inception.inception_v3_arg_scope
_resnet_scope = nets.resnet_utils.resnet_arg_scope

NETWORKS: dict[str, Network] = {
    "alexnet_v2": _vgg_pixels(nets.alexnet.alexnet_v2, nets.alexnet.alexnet_v2_arg_scope, 224),
    "efficientnet_lite0": _efficientnet_pixels(efficientnet_lite.efficientnet_lite0, 224),
    "efficientnet_lite1": _efficientnet_pixels(efficientnet_lite.efficientnet_lite1, 240),
    "efficientnet_lite2": _efficientnet_pixels(efficientnet_lite.efficientnet_lite2, 260),
    "efficientnet_lite3": _efficientnet_pixels(efficientnet_lite.efficientnet_lite3, 280),
    "efficientnet_lite4": _efficientnet_pixels(efficientnet_lite.efficientnet_lite4, 300),
    "inception_v1": _inception_pixels(nets.inception.inception_v1, nets.inception.inception_v1_arg_scope, 224),
    "inception_v2": _inception_pixels(nets.inception.inception_v2, nets.inception.inception_v2_arg_scope, 224),
    "inception_v3": _inception_pixels(nets.inception.inception_v3, _inception_scope, 299),
    "inception_v4": _inception_pixels(inception_v4, _inception_scope, 299),
    "inception_resnet_v2": _inception_pixels(inception_resnet_v2, inception_resnet_v2_arg_scope, 299),
    "mobilenet_v1": _mobilenet(mobilenet_v1),
    "mobilenet_v1_075": _mobilenet(mobilenet_v1, depth_multiplier=0.75),
    "mobilenet_v1_050": _mobilenet(mobilenet_v1, depth_multiplier=0.5),
    "mobilenet_v1_025": _mobilenet(mobilenet_v1, depth_multiplier=0.25),
    "mobilenet_v2": _mobilenet(mobilenet_v2),
    "mobilenet_v2_140": _mobilenet(mobilenet_v2, depth_multiplier=1.4),
    "mobilenet_v2_035": _mobilenet(mobilenet_v2, depth_multiplier=0.35),
    "mobilenet_v3_large": _mobilenet(mobilenet_v3_large),
    "mobilenet_v3_large_minimalistic": _mobilenet(mobilenet_v3_large, minimalistic=True),
    "mobilenet_v3_small": _mobilenet(mobilenet_v3_small),
    "mobilenet_v3_small_minimalistic": _mobilenet(mobilenet_v3_small, minimalistic=True),
    "nasnet_mobile": _inception_pixels(nasnet.nasnet_mobile, nasnet.arg_scope, 224),
    "nasnet_large": _inception_pixels(nasnet.nasnet_large, nasnet.arg_scope, 331),
    "overfeat": _vgg_pixels(nets.overfeat.overfeat, nets.overfeat.overfeat_arg_scope, 231),
    "pnasnet_mobile": _inception_pixels(pnasnet.pnasnet_mobile, nasnet.arg_scope, 224),
    "pnasnet_large": _inception_pixels(pnasnet.pnasnet_large, nasnet.arg_scope, 331),
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
    "wide_resnet_10_4_x2": _inception_pixels(wide_resnet_10_4_x2, _resnet_scope, 64),
}

_MODELS = "http://download.tensorflow.org/models"
_V2 = "https://storage.googleapis.com/mobilenet_v2/checkpoints"
_NASNET = "https://storage.googleapis.com/download.tensorflow.org/models"
_LITE = "https://storage.googleapis.com/cloud-tpu-checkpoints/efficientnet/lite"
_V3 = "https://storage.googleapis.com/mobilenet_v3/checkpoints"

# Of published weights: top-1 accuracy on ImageNet, one crop, range [0, 1], and address; from the lists of slim's
# research models and of Google's EfficientNet-Lite.
PUBLISHED: dict[str, tuple[float, str]] = {
    "efficientnet_lite0": (0.751, f"{_LITE}/efficientnet-lite0.tar.gz"),
    "efficientnet_lite1": (0.767, f"{_LITE}/efficientnet-lite1.tar.gz"),
    "efficientnet_lite2": (0.776, f"{_LITE}/efficientnet-lite2.tar.gz"),
    "efficientnet_lite3": (0.798, f"{_LITE}/efficientnet-lite3.tar.gz"),
    "efficientnet_lite4": (0.815, f"{_LITE}/efficientnet-lite4.tar.gz"),
    "inception_v1": (0.698, f"{_MODELS}/inception_v1_2016_08_28.tar.gz"),
    "inception_v2": (0.739, f"{_MODELS}/inception_v2_2016_08_28.tar.gz"),
    "inception_v3": (0.780, f"{_MODELS}/inception_v3_2016_08_28.tar.gz"),
    "inception_v4": (0.802, f"{_MODELS}/inception_v4_2016_09_09.tar.gz"),
    "inception_resnet_v2": (0.804, f"{_MODELS}/inception_resnet_v2_2016_08_30.tar.gz"),
    "mobilenet_v1": (0.709, f"{_MODELS}/mobilenet_v1_2018_02_22/mobilenet_v1_1.0_224.tgz"),
    "mobilenet_v1_075": (0.684, f"{_MODELS}/mobilenet_v1_2018_08_02/mobilenet_v1_0.75_224.tgz"),
    "mobilenet_v1_050": (0.633, f"{_MODELS}/mobilenet_v1_2018_08_02/mobilenet_v1_0.5_224.tgz"),
    "mobilenet_v1_025": (0.498, f"{_MODELS}/mobilenet_v1_2018_08_02/mobilenet_v1_0.25_224.tgz"),
    "mobilenet_v2": (0.719, f"{_V2}/mobilenet_v2_1.0_224.tgz"),
    "mobilenet_v2_140": (0.749, f"{_V2}/mobilenet_v2_1.4_224.tgz"),
    "mobilenet_v2_035": (0.603, f"{_V2}/mobilenet_v2_0.35_224.tgz"),
    "mobilenet_v3_large": (0.752, f"{_V3}/v3-large_224_1.0_float.tgz"),
    "mobilenet_v3_large_minimalistic": (0.723, f"{_V3}/v3-large-minimalistic_224_1.0_float.tgz"),
    "mobilenet_v3_small": (0.675, f"{_V3}/v3-small_224_1.0_float.tgz"),
    "mobilenet_v3_small_minimalistic": (0.619, f"{_V3}/v3-small-minimalistic_224_1.0_float.tgz"),
    "nasnet_mobile": (0.740, f"{_NASNET}/nasnet-a_mobile_04_10_2017.tar.gz"),
    "nasnet_large": (0.827, f"{_NASNET}/nasnet-a_large_04_10_2017.tar.gz"),
    "pnasnet_mobile": (0.742, f"{_NASNET}/pnasnet-5_mobile_2017_12_13.tar.gz"),
    "pnasnet_large": (0.829, f"{_NASNET}/pnasnet-5_large_2017_12_13.tar.gz"),
    "resnet_v1_50": (0.752, f"{_MODELS}/resnet_v1_50_2016_08_28.tar.gz"),
    "resnet_v1_101": (0.764, f"{_MODELS}/resnet_v1_101_2016_08_28.tar.gz"),
    "resnet_v1_152": (0.768, f"{_MODELS}/resnet_v1_152_2016_08_28.tar.gz"),
    "resnet_v2_50": (0.756, f"{_MODELS}/resnet_v2_50_2017_04_14.tar.gz"),
    "resnet_v2_101": (0.770, f"{_MODELS}/resnet_v2_101_2017_04_14.tar.gz"),
    "resnet_v2_152": (0.778, f"{_MODELS}/resnet_v2_152_2017_04_14.tar.gz"),
    "vgg_16": (0.715, f"{_MODELS}/vgg_16_2016_08_28.tar.gz"),
    "vgg_19": (0.711, f"{_MODELS}/vgg_19_2016_08_28.tar.gz"),
}


@without_autograph
def build(
    model_name: str,
    images: tf.Tensor,
    num_classes: int,
    is_training: bool = False,
    weight_decay: float = 0.0,
    with_auxiliary_head: bool = False,
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Builds a network in the current graph, with the variable names of its published checkpoint, if it has one.

    Args:
        model_name: A key of NETWORKS.
        images: float32 [batch, height, width, 3], RGB, range [0, 255].
        num_classes: Number of labels.
        is_training: With dropout, and batch norm on the statistics of the batch; the updates of the batch
            norm averages are then in the collection BATCH_NORM_UPDATES.
        weight_decay: Factor of the L2 losses added to the collection REGULARIZATION_LOSSES.
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
        with slim.arg_scope(scope):
            logits, end_points = network.function(
                inputs, num_classes, is_training=is_training, **{k: v for k, v in options.items() if k in known}
            )
    except ValueError as error:
        if "Negative dimension size" not in str(error):
            raise
        raise UserError(
            f"{images.shape[1]} x {images.shape[2]} pixels are too few for {model_name}; give a larger size"
        ) from None
    auxiliary_logits = end_points.get("AuxLogits")
    answers = [spatial_mean(each) for each in (logits, auxiliary_logits) if each is not None]
    for each in answers:
        tf.compat.v1.add_to_collection(HEADS, head(each)[1])
    return answers[0], answers[1] if len(answers) > 1 else None


def spatial_mean(net: tf.Tensor) -> tf.Tensor:
    """Returns [batch, depth] of [batch, height, width, depth]; what has no positions is returned as it is.

    Images larger than a network's own give an answer at more than one position.
    """
    return net if net.shape.rank == 2 else tf.reduce_mean(net, [1, 2])


def _batch_norm_decay() -> tf.Tensor:
    """Returns a decay that grows from 0.1, so that the initial averages are forgotten within ten steps."""
    step = tf.cast(tf.compat.v1.train.get_or_create_global_step(), tf.float32)
    return tf.minimum(BATCH_NORM_DECAY, (1.0 + step) / (10.0 + step))


@contextlib.contextmanager
def batch_norm_trains_in(scopes: str) -> Iterator[None]:
    """Lets the batch norm of layers outside some scopes keep its averages and normalise with them, also in training.

    For a block that builds a network, as slim has one switch for all layers. All scopes where none is named.
    """
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
    prefixes = tuple(scope.rstrip("/") + "/" for scope in _each(scopes))
    return not prefixes or (name + "/").startswith(prefixes)


def _each(scopes: str) -> list[str]:
    return [scope.strip() for scope in scopes.split(",") if scope.strip()]


def in_scopes(variables: Iterable[tf.Variable], scopes: str) -> list[tf.Variable]:
    """Returns the variables in any of comma-separated scopes; all where no scope is named."""
    return [variable for variable in variables if is_in_scopes(variable.op.name, scopes)]


def require_scopes(variables: Sequence[tf.Variable], scopes: str, flag: str, model_name: str) -> None:
    """Makes sure that each of the comma-separated scopes of a flag names a variable of a network.

    Raises:
        UserError: One does not.
    """
    for scope in _each(scopes):
        if not in_scopes(variables, scope):
            first = variables[0].op.name
            raise UserError(f"--{flag}={scope} names nothing in {model_name}; its first variable is {first}")


def head(logits: tf.Tensor) -> tuple[tf.Tensor, str]:
    """Finds the last layer of a network, a 1 x 1 convolution or a fully connected layer.

    Args:
        logits: What `build` returned.

    Returns:
        (what that layer sees, float32 [batch, height, width, depth] or [batch, depth]; the scope of its weights and
        biases).
    """
    operation = logits.op
    while operation.type not in ("Conv2D", "MatMul"):
        operation = operation.inputs[0].op
    return operation.inputs[0], operation.name.rpartition("/")[0]


def head_scopes() -> list[str]:
    """Returns the scopes of the last layers of the network in the current graph; see HEADS."""
    return tf.compat.v1.get_collection(HEADS)


def dropout_keep_probability(model_name: str) -> float:
    """Returns the share of the head's input that training keeps, 1.0 for networks without dropout there."""
    parameter = inspect.signature(NETWORKS[model_name].function).parameters.get("dropout_keep_prob")
    return parameter.default if parameter else 1.0
