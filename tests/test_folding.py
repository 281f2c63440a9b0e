"""Folding batch norm changes the graph, not the answers."""

import numpy as np
import pytest

from metart.networks.slim_compat import slim, tf
from metart.networks import registry
from metart.networks.folding import fold_batch_norm

NORMS_LEFT = {
    "inception_v3": 0,
    "resnet_v1_50": 0,
    "resnet_v2_50": 17,  # One before each of its 16 units and one at the end, which follow no convolution.
}


@pytest.mark.parametrize("model_name", NORMS_LEFT)
def test_a_folded_network_gives_the_same_answers(model_name: str) -> None:
    size = 96
    generator = np.random.default_rng(7)
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        images = tf.compat.v1.placeholder(tf.float32, [None, size, size, 3])
        logits, _ = registry.build(model_name, images, 5)
        session.run(tf.compat.v1.global_variables_initializer())
        for variable in slim.get_model_variables():  # As training would leave them; initial ones would fold to nothing.
            if "BatchNorm" in variable.op.name or "moving" in variable.op.name:
                variable.load(generator.uniform(0.5, 1.5, variable.shape), session)
        frozen = tf.compat.v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), [logits.op.name])
        shown = generator.uniform(0, 255, [2, size, size, 3])
        expected = session.run(logits, {images: shown})
    folded = fold_batch_norm(frozen)
    assert sum(node.op == "FusedBatchNormV3" for node in folded.node) == NORMS_LEFT[model_name]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        inputs, answers = tf.import_graph_def(folded, return_elements=[images.name, logits.name])
        np.testing.assert_allclose(session.run(answers, {inputs: shown}), expected, rtol=1e-3, atol=1e-4)
