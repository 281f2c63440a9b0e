"""Drop path (stochastic depth): training leaves out whole branches of a network, for each picture by chance."""

from metart.networks.slim_compat import tf


def drop_path(net: tf.Tensor, keep_prob: float | tf.Tensor) -> tf.Tensor:
    """Sets the branch of some pictures to 0 and scales the others up, so that its mean stays.

    Args:
        net: float32 [batch, height, width, depth].
        keep_prob: Share of the pictures that keep the branch, above 0, at most 1.
    """
    kept = tf.floor(keep_prob + tf.random.uniform([tf.shape(net)[0], 1, 1, 1]))
    return net * (kept / keep_prob)
