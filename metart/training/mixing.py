"""Pictures mixed with others of their batch: what a network has never seen twice, it cannot learn by heart."""

from metart.networks.slim_compat import tf

TINY = 1e-12  # Both gamma variables of a small alpha may be 0.


def mix(
    images: tf.Tensor, targets: tf.Tensor, mixup_alpha: float, cutmix_alpha: float, probability: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes every picture of a batch with one other, all in the same way.

    Mixup (Zhang and others, 2018) adds a share of the other picture; CutMix (Yun and others, 2019) puts a rectangle of
    the other in its place. Where both are on, each has half of the batches that are mixed.

    Args:
        images: float32 [batch, height, width, 3].
        targets: float32 [batch, labels], the share of each label; rows add up to 1.
        mixup_alpha: The share that stays is drawn from Beta(alpha, alpha): about half of it where alpha is large, all
            or nothing where it is small. 0 is without mixup.
        cutmix_alpha: The same of CutMix.
        probability: Share of the batches that are mixed.

    Returns:
        (images, targets), mixed in the same shares.
    """
    sides = tf.shape(images)[1:3]
    masks = [tf.zeros(sides) + _beta(mixup_alpha)] if mixup_alpha else []
    masks += [_cutmix_mask(sides, 1.0 - _beta(cutmix_alpha))] if cutmix_alpha else []
    chosen = tf.gather(masks, tf.random.uniform([], maxval=len(masks), dtype=tf.int32))
    mask = tf.where(tf.random.uniform([]) < probability, chosen, 1.0)
    kept = tf.reduce_mean(mask)
    others = tf.reverse(images, axis=[0])  # The order of a batch is random.
    mask = mask[:, :, tf.newaxis]
    mixed = others + mask * (images - others)  # One product with a mask, which takes longer than the rest.
    return mixed, kept * targets + (1.0 - kept) * tf.reverse(targets, axis=[0])


def _beta(alpha: float) -> tf.Tensor:
    one, other = tf.unstack(tf.random.gamma([2], alpha))
    return one / (one + other + TINY)


def _cutmix_mask(sides: tf.Tensor, area: tf.Tensor) -> tf.Tensor:
    """Returns a mask of 1 outside of a random rectangle with the aspect ratio of the picture, and 0 inside.

    Its middle is anywhere, so that a part of it may lie outside of the picture.

    Args:
        sides: int32 [2], height and width.
        area: The rectangle's share of that of the picture.

    Returns:
        float32 [height, width].
    """
    lengths = tf.cast(sides, tf.float32)
    middle = lengths * tf.random.uniform([2])
    inside = [
        tf.abs(tf.range(lengths[axis]) + 0.5 - middle[axis]) < lengths[axis] * tf.sqrt(area) / 2 for axis in (0, 1)
    ]
    return 1.0 - tf.cast(inside[0][:, tf.newaxis] & inside[1], tf.float32)
