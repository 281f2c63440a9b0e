"""What a step learns from: how labels are weighed, which layers a scope names."""

from conftest import IMAGE_SIZE, recipe_of
import numpy as np
import pytest

from metart.networks.slim_compat import slim, tf
from metart.common.flags import UserError
from metart.training import filter_gradients, training_graph
from metart.training.cluster import Cluster


def test_label_weights() -> None:
    assert training_graph.label_weights([5, 5, 5], 1.0) == pytest.approx([1, 1, 1])
    assert training_graph.label_weights([90, 9, 1], 0.0) == pytest.approx([1, 1, 1])
    balanced = training_graph.label_weights([90, 9, 1], 1.0)
    assert balanced == pytest.approx([100 / 270, 100 / 27, 100 / 3])  # Each label's pictures count a third of 100.
    between = training_graph.label_weights([90, 9, 1], 0.5)
    assert between[1] / between[0] == pytest.approx(10**0.5)
    assert sum(n * w for n, w in zip([90, 9, 1], between, strict=True)) == pytest.approx(100)
    assert training_graph.label_weights([4, 0, 4], 1.0) == pytest.approx(
        [1, 0, 1]
    )  # A label without a training picture.


@pytest.mark.parametrize(
    ("model_name", "size", "scopes", "alone"),
    [
        ("inception_v2", IMAGE_SIZE, "", False),
        ("inception_v2", IMAGE_SIZE, "InceptionV2/Logits", True),
        ("inception_v2", IMAGE_SIZE, "InceptionV2/Logits,InceptionV2/Mixed_5c", False),
        ("inception_v3", 107, "InceptionV3/Logits,InceptionV3/AuxLogits", True),  # As slim's walk-through has it.
        ("mobilenet_v3_small", IMAGE_SIZE, "MobilenetV3/Logits", True),
        ("mobilenet_v3_small", IMAGE_SIZE, "MobilenetV3/Logits,MobilenetV3/Conv_2", False),
        ("alexnet_v2", 224, "alexnet_v2/fc8", True),
        ("alexnet_v2", 224, "alexnet_v2/fc7,alexnet_v2/fc8", False),
    ],
)
def test_a_head_alone(model_name: str, size: int, scopes: str, alone: bool) -> None:
    assert training_graph.trains_head_alone(model_name, size, 3, scopes) == alone


def test_scopes_that_name_nothing() -> None:
    with pytest.raises(UserError, match=r"--trainable_scopes=fc9 names nothing in alexnet_v2"):
        training_graph.trains_head_alone("alexnet_v2", 224, 3, "fc9")


@pytest.mark.parametrize(
    ("model_name", "weights"),
    [
        ("mobilenet_v1_025", "MobilenetV1/Logits/Conv2d_1c_1x1/weights"),
        ("efficientnet_lite0", "efficientnet-lite0/head/dense/kernel"),
    ],
)
def test_the_loss_of_a_head_alone_is_the_heads(model_name: str, weights: str) -> None:
    recipe = recipe_of(model_name, weight_decay=0.02)
    generator = np.random.default_rng(0)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        step, inputs = training_graph.build_head(recipe, [1.0] * 4, tf.zeros([2, 32, 32, 3]), Cluster())
        session.run(tf.compat.v1.global_variables_initializer())
        by_name = {variable.op.name: variable for variable in tf.compat.v1.trainable_variables()}
        values = 3 * generator.standard_normal(by_name[weights].shape)
        by_name[weights].load(values, session)
        loss = session.run(
            step.loss,
            {
                **{inputs.features: np.zeros([6, inputs.features.shape[1]]), inputs.labels: np.arange(6) % 4},
                **{step.learning_rate: 0},
            },
        )
    # Features of 0 leave an answer that knows nothing, of loss log 4.
    assert loss == pytest.approx(np.log(4) + 0.02 * np.sum(values**2) / 2, rel=1e-4)


@pytest.mark.parametrize(("scopes", "averaged"), [("", 3), ("net/head", 1), ("net/head,net/middle", 2)])
def test_averages_are_kept_of_what_is_trained(scopes: str, averaged: int) -> None:
    """Averages of weights that stay as they are cost a part of every step, and are those weights."""
    with tf.Graph().as_default():
        layer = tf.ones([2, 4])
        for name in ("below", "middle", "head"):
            layer = slim.fully_connected(layer, 3, scope=f"net/{name}", biases_initializer=None)
        tf.compat.v1.losses.softmax_cross_entropy(tf.one_hot([0, 1], 3), layer)
        recipe = recipe_of("", moving_average_decay=0.9)
        training_graph._build_update(recipe, scopes, Cluster())
        names = [variable.op.name for variable in tf.compat.v1.global_variables()]
    assert len([name for name in names if name.endswith("/ExponentialMovingAverage")]) == averaged


@pytest.mark.parametrize(("precision", "is_own"), [("bfloat16", True), ("float32", False), ("float16", False)])
def test_only_bfloat16_has_filter_gradients_of_its_own(precision: str, is_own: bool) -> None:
    recipe = recipe_of(precision=precision)
    with tf.Graph().as_default() as graph:
        images, labels = tf.ones([8, 32, 32, 3]), tf.zeros([8], tf.int64)
        training_graph.build_network(recipe, [1.0] * 4, images, labels, Cluster())
        convolutions = [each.node_def for each in graph.get_operations() if each.type == "Conv2D"]
    name = filter_gradients.NAME.encode()
    assert any(each.attr["_gradient_op_type"].s == name for each in convolutions) == is_own


@pytest.mark.parametrize(("optimizer", "decays"), [("momentum", True), ("muon", False)])
def test_muon_knows_no_weight_decay(optimizer: str, decays: bool) -> None:
    losses = []
    for weight_decay in (0.0, 0.02):
        recipe = recipe_of(optimizer=optimizer, momentum=0.6, weight_decay=weight_decay)
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            tf.compat.v1.set_random_seed(0)
            images, labels = tf.ones([2, 32, 32, 3]), tf.zeros([2], tf.int64)
            step = training_graph.build_network(recipe, [1.0] * 4, images, labels, Cluster())
            session.run(tf.compat.v1.global_variables_initializer())
            feeds = {step.learning_rate: 0.1}
            for _ in range(2):
                loss, _ = session.run([step.loss, step.train_op], feeds)
            losses.append(loss)
    assert (losses[1] > losses[0] + 0.1) == decays
    assert (losses[1] == pytest.approx(losses[0], abs=1e-3)) != decays


def ancestors(operation: tf.Operation) -> set[tf.Operation]:
    """Returns all operations that run before it does."""
    found: set[tf.Operation] = set()
    waiting = [operation]
    while waiting:
        each = waiting.pop()
        inputs = {*each.control_inputs, *(tensor.op for tensor in each.inputs)} - found
        found |= inputs
        waiting += inputs
    return found


def test_a_step_is_counted_when_what_depends_on_its_number_is_done() -> None:
    """Otherwise batch norm's averages would now and then decay as in the step after."""
    with tf.Graph().as_default() as graph:
        images, labels = tf.ones([2, 32, 32, 3]), tf.zeros([2], tf.int64)
        training_graph.build_network(recipe_of(), [1.0] * 4, images, labels, Cluster())
        of_step = {"AssignAddVariableOp": set[tf.Operation](), "ReadVariableOp": set[tf.Operation]()}
        for each in graph.get_operations():
            if each.type in of_step and each.inputs[0].op.name == "global_step":
                of_step[each.type].add(each)
    (counting,) = of_step["AssignAddVariableOp"]
    reads = {each for each in of_step["ReadVariableOp"] if counting not in ancestors(each)}
    reads = {each for each in reads if each.outputs[0].consumers()}
    assert reads
    assert reads <= ancestors(counting)
