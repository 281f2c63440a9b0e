"""Mixed pictures, against what is left of each, counted pixel by pixel."""

import numpy as np
import pytest
from scipy import stats

from metart.networks.slim_compat import tf
from metart.training import mixing

SIZE, DRAWS = 24, 400


def draws(mixup_alpha: float, cutmix_alpha: float, probability: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Mixes a batch of four, each of one value everywhere, many times: [DRAWS, 4, SIZE, SIZE, 3] and [DRAWS, 4, 4]."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.set_random_seed(0)
        images = tf.ones([4, SIZE, SIZE, 3]) * tf.reshape(tf.constant([0.0, 50.0, 100.0, 200.0]), [4, 1, 1, 1])
        mixed = mixing.mix(images, tf.eye(4), mixup_alpha, cutmix_alpha, probability)
        results = [session.run(mixed) for _ in range(DRAWS)]
    return np.stack([images for images, _ in results]), np.stack([targets for _, targets in results])


def test_mixup_adds_a_share_of_the_other() -> None:
    images, targets = draws(0.4, 0.0)
    kept = targets[:, 0, 0]
    for one, other in ((0, 3), (1, 2), (2, 1), (3, 0)):
        np.testing.assert_allclose(targets[:, one, one], kept, atol=1e-6)
        np.testing.assert_allclose(targets[:, one, other], 1 - kept, atol=1e-6)
        values = np.array([0.0, 50.0, 100.0, 200.0])
        expected = kept * values[one] + (1 - kept) * values[other]
        np.testing.assert_allclose(
            images[:, one], np.broadcast_to(expected[:, None, None, None], images[:, one].shape), atol=1e-3
        )
    assert stats.kstest(kept, stats.beta(0.4, 0.4).cdf).pvalue > 0.01


def test_cutmix_puts_a_rectangle_of_the_other_in_its_place() -> None:
    images, targets = draws(0.0, 1.0)
    of_other = images[:, 0] == 200.0
    assert ((images[:, 0] == 0.0) | of_other).all()
    np.testing.assert_allclose(targets[:, 0, 3], of_other.mean((1, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(targets.sum(2), 1, atol=1e-5)
    for picture in of_other[..., 0]:
        rows, columns = picture.any(1), picture.any(0)
        assert (picture == rows[:, None] & columns).all()
        for line in (rows, columns):
            assert np.count_nonzero(np.diff(np.concatenate([[0], line, [0]]).astype(int))) in (0, 2)  # Without a gap.
    # Half of the picture on average, less what lies outside.
    assert 0.2 < of_other.mean() < 0.5


@pytest.mark.parametrize("probability", [0.0, 0.6, 1.0])
def test_share_of_the_batches(probability: float) -> None:
    images, targets = draws(0.4, 1.0, probability)
    changed = targets[:, 0, 0] < 1 - 1e-6
    assert changed.mean() <= probability + 0.08
    assert changed.mean() >= probability - 0.2  # A share may be all, or the rectangle outside.
    unchanged = images[~changed]
    np.testing.assert_allclose(unchanged[:, 1], 50.0, rtol=1e-5)
    if probability == 1.0:
        cut = np.array([len(np.unique(picture)) == 2 for picture in images[:, 0]])
        assert 0.3 < cut.mean() < 0.6
