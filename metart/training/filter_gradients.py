"""Gradients of the filters of convolutions, faster on CPUs that compute in bfloat16."""

from contextlib import AbstractContextManager

from metart.networks.slim_compat import tf

# Height times width of the output: where there are more, TensorFlow's own gradient is as fast.
MOST_POSITIONS = 8 * 8
FEWEST_CHANNELS = 32  # The gradient is a convolution in which channels and batch have changed places.
FEWEST_PICTURES = 8
NAME = "Conv2DOfFewPositions"


def of_few_positions() -> AbstractContextManager[None]:
    """Gives convolutions built in the block a faster filter gradient where the output has at most MOST_POSITIONS.

    oneDNN has fast kernels in bfloat16 for a convolution and for the gradient of its inputs, and a slow one for that
    of its filters, the slower the fewer positions there are. That gradient is itself a convolution, in which channels
    and batch have changed places: what the fast kernels are for.
    """
    return tf.compat.v1.get_default_graph().gradient_override_map({"Conv2D": NAME})


@tf.RegisterGradient(NAME)
def _gradients(convolution: tf.Operation, gradient: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    inputs, filters = convolution.inputs
    names = ("strides", "padding", "explicit_paddings", "dilations", "data_format")
    settings = {name: convolution.get_attr(name) for name in names}
    of_inputs = tf.raw_ops.Conv2DBackpropInput(
        input_sizes=tf.shape(inputs), filter=filters, out_backprop=gradient, **settings
    )

    def by_tensorflow() -> tf.Tensor:
        return tf.raw_ops.Conv2DBackpropFilter(
            input=inputs, filter_sizes=filters.shape.as_list(), out_backprop=gradient, **settings
        )

    positions = gradient.shape[1:3].num_elements()
    if not _is_faster_with_few_positions(convolution):
        return of_inputs, by_tensorflow()
    if positions is None:  # Images of several sizes in one run.
        few = tf.reduce_prod(tf.shape(gradient)[1:3]) <= MOST_POSITIONS
        of_filters = tf.cond(few, lambda: _as_convolution(convolution, gradient), by_tensorflow)
        return of_inputs, tf.ensure_shape(of_filters, filters.shape)
    return of_inputs, _as_convolution(convolution, gradient) if positions <= MOST_POSITIONS else by_tensorflow()


def _is_faster_with_few_positions(convolution: tf.Operation) -> bool:
    """Returns whether `_as_convolution` can take it, and is not slow for other reasons than its positions."""
    inputs, filters = convolution.inputs
    _, width, channels, _ = filters.shape
    is_plain = (
        convolution.get_attr("data_format") == b"NHWC"
        and convolution.get_attr("padding") in (b"SAME", b"VALID")
        and convolution.get_attr("dilations") == [1, 1, 1, 1]
        and inputs.shape[-1] == channels  # Not in groups.
    )
    pictures = inputs.shape[0] or FEWEST_PICTURES  # Unknown where a network deals its batch to several.
    return is_plain and width > 1 and channels >= FEWEST_CHANNELS and pictures >= FEWEST_PICTURES


def _as_convolution(convolution: tf.Operation, gradient: tf.Tensor) -> tf.Tensor:
    """Returns the gradient of the filters, [height, width, channels, outputs].

    Args:
        convolution: Of inputs [batch, …, …, channels].
        gradient: That of its answers, [batch, …, …, outputs].
    """
    inputs, filters = convolution.inputs
    strides = convolution.get_attr("strides")[1:3]
    height, width = filters.shape[:2]
    if convolution.get_attr("padding") == b"SAME":
        reach = (tf.shape(gradient)[1:3] - 1) * strides + [height, width]
        missing = tf.maximum(reach - tf.shape(inputs)[1:3], 0)
        before, after = missing // 2, missing - missing // 2
        inputs = tf.pad(inputs, [[0, 0], [before[0], after[0]], [before[1], after[1]], [0, 0]])
    product = tf.nn.conv2d(
        tf.transpose(inputs, [3, 1, 2, 0]), tf.transpose(gradient, [1, 2, 0, 3]), 1, "VALID", dilations=strides
    )
    # What a stride leaves out at the end gives rows and columns too many.
    return tf.ensure_shape(tf.transpose(product[:, :height, :width], [1, 2, 0, 3]), filters.shape)
