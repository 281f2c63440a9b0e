"""Drop path in networks of cells, and their fully connected heads. test_zoo.py compares them with slim's own."""

from collections.abc import Callable
import functools

import numpy as np
import pytest

from metart.networks.slim_compat import tf
from metart.common.flags import UserError
from metart.networks import nasnet, pnasnet, registry
from metart.networks.drop_path import drop_path


def test_drop_path_leaves_out_whole_pictures_and_keeps_the_mean() -> None:
    net = tf.constant(np.random.default_rng(0).uniform(1, 2, (4000, 3, 2, 2)), tf.float32)
    ratio = drop_path(net, 0.8).numpy() / net.numpy()
    of_picture = ratio.reshape(4000, -1)
    np.testing.assert_allclose(of_picture, np.repeat(of_picture[:, :1], 12, axis=1), rtol=1e-5)
    assert set(of_picture[:, 0].round(4).tolist()) == {0.0, 1.25}
    assert of_picture.mean() == pytest.approx(1, abs=0.05)  # Four times its standard deviation.


@pytest.mark.parametrize(
    ("architecture", "cells", "least"),
    [
        (nasnet.nasnet_large.keywords["architecture"], 22, 0.7),
        (pnasnet.pnasnet_large.keywords["architecture"], 14, 0.6),
    ],
)
def test_paths_are_dropped_more_in_later_cells_and_steps(
    architecture: nasnet.Architecture, cells: int, least: float
) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        probabilities = nasnet._keep_path_probs(architecture, is_training=True)
        assert len(probabilities) == cells
        session.run(tf.compat.v1.global_variables_initializer())
        step = tf.compat.v1.train.get_global_step()
        assert session.run(probabilities) == [1.0] * cells
        for number, share in ((nasnet.DROP_PATH_STEPS // 2, 0.5), (4 * nasnet.DROP_PATH_STEPS, 1.0)):
            step.load(number, session)
            expected = 1 - np.linspace(1, cells, cells) / cells * share * (1 - least)
            np.testing.assert_allclose(session.run(probabilities), expected, rtol=1e-5)
    with tf.Graph().as_default() as graph:
        assert nasnet._keep_path_probs(architecture, is_training=False) == [1.0] * cells
        assert not graph.get_operations()  # Inference knows no step.


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[nasnet.Architecture], str]:
    """Makes a network of few cells, which are built in a second, and returns its name."""

    def add(architecture: nasnet.Architecture) -> str:
        function = functools.partial(nasnet.build, architecture=architecture)
        monkeypatch.setitem(registry.NETWORKS, "small", registry.NETWORKS["nasnet_mobile"]._replace(function=function))
        return "small"

    return add


@pytest.mark.parametrize(
    ("normal", "reduction", "paths"), [(nasnet.NORMAL, nasnet.REDUCTION, 4 * 9 + 3 * 8), (pnasnet.CELL, None, 5 * 9)]
)
def test_every_operation_of_every_cell_can_be_dropped(
    normal: nasnet.Cell, reduction: nasnet.Cell | None, paths: int, small: Callable[[nasnet.Architecture], str]
) -> None:
    name = small(nasnet.Architecture(8, 8, 3, keep_path_prob=0.5, normal=normal, reduction=reduction))
    for is_training, expected in ((True, paths), (False, 0)):
        with tf.Graph().as_default() as graph:
            registry.build(name, tf.zeros([2, 72, 72, 3]), 5, is_training)
        assert sum(operation.type == "Floor" for operation in graph.get_operations()) == expected


@pytest.mark.parametrize("size", [32, 64])
def test_too_few_pixels_for_the_auxiliary_head(size: int, small: Callable[[nasnet.Architecture], str]) -> None:
    cell = nasnet.Cell(((("avg_pool", 0), ("none", 1)),), first_output=2)
    name = small(nasnet.Architecture(8, 8, 3, keep_path_prob=1.0, normal=cell, reduction=cell))
    with tf.Graph().as_default(), pytest.raises(UserError, match=f"{size} x {size} pixels are too few for small"):
        registry.build(name, tf.zeros([2, size, size, 3]), 5, is_training=True)
    with tf.Graph().as_default():  # Which inference does without.
        logits, _ = registry.build(name, tf.zeros([2, size, size, 3]), 5)
        assert logits.shape == [2, 5]
