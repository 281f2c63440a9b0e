"""Schedules and optimizers, against values worked out by hand and TensorFlow's own exponential decay."""

import math
from typing import Any

import numpy as np
import pytest

from metart.networks.slim_compat import tf
from metart.networks import registry
from metart.networks.session import Device
from metart.training import optimizers

RUN = optimizers.Schedule(
    learning_rate_decay_type="fixed",
    learning_rate=0.1,
    end_learning_rate=0.01,
    learning_rate_decay_factor=0.5,
    num_epochs_per_decay=25,
    warmup_epochs=10,
    total_steps=110,
    steps_per_epoch=1.0,
)


def rate(step: int, schedule: str, **changed: Any) -> float:
    return RUN._replace(learning_rate_decay_type=schedule, **changed).rate(step)


@pytest.mark.parametrize("schedule", optimizers.SCHEDULES)
def test_every_schedule_rises_to_its_peak(schedule: str) -> None:
    warmup = [rate(step, schedule) for step in range(11)]
    np.testing.assert_allclose(warmup, [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.1])
    assert rate(0, schedule, warmup_epochs=0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("fixed", [0.1, 0.1, 0.1, 0.1]),
        ("polynomial", [0.1, 0.0775, 0.055, 0.01]),
        ("cosine", [0.1, 0.01 + 0.09 * (1 + math.sqrt(0.5)) / 2, 0.055, 0.01]),
        ("exponential", [0.1, 0.05, 0.025, 0.00625]),
    ],
)
def test_values_at_the_start_a_quarter_a_half_and_the_end(schedule: str, expected: list[float]) -> None:
    assert [rate(step, schedule) for step in (10, 35, 60, 110)] == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["cosine", "polynomial"])
def test_a_step_after_the_end_keeps_the_last_rate(schedule: str) -> None:
    assert rate(500, schedule) == pytest.approx(0.01)


def test_a_run_of_one_step_has_a_rate() -> None:
    for schedule in optimizers.SCHEDULES:
        assert rate(0, schedule, total_steps=1, warmup_epochs=1) == pytest.approx(0.1)


def test_exponential_is_slims() -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        step = tf.compat.v1.placeholder(tf.int64, [])
        of_slim = tf.compat.v1.train.exponential_decay(0.01, step, decay_steps=74, decay_rate=0.94, staircase=True)
        for done in (0, 73, 74, 147, 148, 1000):
            changed = {"learning_rate": 0.01, "warmup_epochs": 0, "steps_per_epoch": 37, "num_epochs_per_decay": 2}
            ours = rate(done, "exponential", learning_rate_decay_factor=0.94, **changed)
            assert ours == pytest.approx(session.run(of_slim, {step: done}), rel=1e-5)


def weights_after(name: str, gradients: list[float]) -> list[float]:
    """Returns a weight, from 1.0 on, after each of some gradients."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        weight = tf.compat.v1.get_variable("weight", initializer=1.0)
        gradient = tf.compat.v1.placeholder(tf.float32, [])
        optimizer = optimizers.build(name, tf.constant(0.1), momentum=0.9, decay=0.8, epsilon=0.5)
        step = optimizer.apply_gradients([(gradient, weight)])
        session.run(tf.compat.v1.global_variables_initializer())
        after = []
        for value in gradients:
            session.run(step, {gradient: value})
            after.append(float(session.run(weight)))
        return after


def test_sgd() -> None:
    assert weights_after("sgd", [2.0, -1.0]) == pytest.approx([0.8, 0.9])


def test_momentum_is_nesterovs() -> None:
    first = 1 - 0.1 * (2 + 0.9 * 2)
    second = first - 0.1 * (-1 + 0.9 * (0.9 * 2 - 1))
    assert weights_after("momentum", [2.0, -1.0]) == pytest.approx([first, second])


def test_rmsprop_has_momentum_decay_and_epsilon() -> None:
    # TensorFlow's average of the squares starts at 1, and epsilon is under the root.
    square = 0.8 * 1 + 0.2 * 4
    step = 0.1 * 2 / math.sqrt(square + 0.5)
    first = 1 - step
    square = 0.8 * square + 0.2 * 1
    step = 0.9 * step + 0.1 * -1 / math.sqrt(square + 0.5)
    assert weights_after("rmsprop", [2.0, -1.0]) == pytest.approx([first, first - step])


def test_adam_has_epsilon() -> None:
    # Both averages start at 0 and are scaled up accordingly, TensorFlow's epsilon is not.
    mean, square = 0.1 * 2, 0.001 * 4
    corrected = 0.1 * math.sqrt(1 - 0.999) / (1 - 0.9)
    assert weights_after("adam", [2.0]) == pytest.approx([1 - corrected * mean / (math.sqrt(square) + 0.5)], rel=1e-5)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_every_optimizer_goes_downhill(name: str) -> None:
    assert weights_after(name, [2.0])[0] < 1.0


@pytest.mark.parametrize(
    ("changed", "rates"),
    [
        # 10 steps an epoch; a run of 40 steps has 4 of warm-up unless it is told how many.
        ({"learning_rate_decay_type": "fixed"}, {0: 0.25, 3: 1.0, 39: 1.0}),
        ({"learning_rate_decay_type": "polynomial", "end_learning_rate": 0.1}, {4: 1.0, 22: 0.55, 40: 0.1}),
        (
            {"learning_rate_decay_type": "exponential", "warmup_epochs": 0, "learning_rate_decay_factor": 0.94},
            {0: 1.0, 19: 1.0, 20: 0.94, 40: 0.94**2},
        ),
        ({"learning_rate_decay_type": "fixed", "warmup_epochs": 2}, {0: 0.05, 9: 0.5, 19: 1.0, 20: 1.0}),
        (
            {"learning_rate_decay_type": "exponential", "warmup_epochs": 0, "num_epochs_per_decay": 1},
            {9: 1.0, 10: 0.5, 35: 0.125},
        ),
        ({"learning_rate_decay_type": "cosine", "end_learning_rate": 5}, {4: 1.0, 40: 1.0}),  # Never rises again.
    ],
)
def test_epochs_become_steps(changed: dict[str, Any], rates: dict[int, float]) -> None:
    run = RUN._replace(
        learning_rate=1.0, num_epochs_per_decay=2, warmup_epochs=None, total_steps=40, steps_per_epoch=10.0
    )
    for step, expected in rates.items():
        assert run._replace(**changed).rate(step) == pytest.approx(expected)


def test_a_run_shorter_than_an_epoch_begins_with_the_whole_rate() -> None:
    for schedule in optimizers.SCHEDULES:
        short = RUN._replace(learning_rate_decay_type=schedule, warmup_epochs=None, total_steps=1, steps_per_epoch=0.1)
        assert short.rate(0) == short.learning_rate


def test_orthogonal_keeps_the_directions_and_levels_the_lengths() -> None:
    """By the singular values, which numpy computes in another way."""
    generator = np.random.default_rng(0)
    for rows, columns in ((27, 8), (8, 27), (16, 16)):
        size = min(rows, columns)
        left = np.linalg.qr(generator.normal(size=(rows, size)))[0]
        right = np.linalg.qr(generator.normal(size=(columns, size)))[0]
        lengths = np.geomspace(1, 0.03, size)
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            matrix = tf.constant(5 * (left * lengths) @ right.T, tf.float32)
            result = session.run(optimizers.orthogonal(matrix))
        levelled = left.T @ result @ right
        np.testing.assert_allclose(levelled - np.diag(np.diag(levelled)), 0, atol=1e-4)
        assert np.diag(levelled).min() > 0.4
        assert np.diag(levelled).max() < 1.3


@pytest.mark.parametrize(("precision", "most"), [("float32", 1e-4), ("bfloat16", 0.15)])
@pytest.mark.parametrize("shape", [(576, 256), (32, 64)])
def test_orthogonal_bears_a_direction_longer_than_the_rest(precision: str, most: float, shape: tuple[int, int]) -> None:
    """As gradients have; against the same polynomials of the singular values."""
    left, _, right = np.linalg.svd(np.random.default_rng(0).normal(size=shape), full_matrices=False)
    lengths = np.append(10 * math.sqrt(min(shape)), np.ones(min(shape) - 1))
    levelled = lengths / np.linalg.norm(lengths)
    for _ in range(optimizers.ROUNDS):
        levelled = 3.4445 * levelled - 4.7750 * levelled**3 + 2.0315 * levelled**5
    config = Device(precision, use_gpu=False).session_config()
    with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
        matrix = tf.compat.v1.placeholder(tf.float32, shape)
        found = session.run(optimizers.orthogonal(matrix), {matrix: (left * lengths) @ right})
    expected = (left * levelled) @ right
    assert np.linalg.norm(found - expected) < most * np.linalg.norm(expected)


def test_muon_turns_the_convolutions_and_leaves_the_rest_to_momentum() -> None:
    rate, momentum, gradients = 0.1, 0.6, np.random.default_rng(0).normal(size=(2, 3, 3, 4, 8))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        first = tf.constant(np.random.default_rng(1).normal(size=(3, 3, 4, 8)), tf.float32)
        layer, depthwise, with_biases, biases, head = (
            tf.compat.v1.get_variable(name, initializer=value)
            for name, value in (
                ("layer/weights", first),
                ("deep/weights", first[..., :1]),
                ("conv/weights", first),
                ("conv/biases", first[0, 0, 0]),
                ("head/weights", first),
            )
        )
        tf.compat.v1.add_to_collection(registry.HEADS, "head")
        gradient = tf.compat.v1.placeholder(tf.float32, [3, 3, 4, 8])
        pairs = [(gradient, layer), (gradient[..., :1], depthwise), (gradient, with_biases)]
        pairs += [(gradient[0, 0, 0], biases), (gradient, head)]
        step = optimizers.build("muon", tf.constant(rate), momentum, 0.0, 0.0).apply_gradients(pairs)
        session.run(tf.compat.v1.global_variables_initializer())
        before = session.run(layer)
        for each in gradients:
            session.run(step, {gradient: each})
        turned, *others = session.run([layer, depthwise, with_biases, biases, head])
        session.run(tf.compat.v1.global_variables_initializer())
        plain = tf.compat.v1.train.MomentumOptimizer(rate, momentum, use_nesterov=True).apply_gradients(pairs)
        session.run(tf.compat.v1.variables_initializer(tf.compat.v1.global_variables()))
        for each in gradients:
            session.run(plain, {gradient: each})
        for ours, expected in zip(others, session.run([depthwise, with_biases, biases, head]), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-5)

    expected, total = before, np.zeros_like(before)
    for each in gradients:
        total = momentum * total + each
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            matrix = tf.constant((each + momentum * total).reshape(36, 8), tf.float32)
            update = session.run(optimizers.orthogonal(matrix)).reshape(before.shape)
        expected = expected / np.linalg.norm(expected) * math.sqrt(8) - rate * update
    np.testing.assert_allclose(turned, expected, rtol=1e-4, atol=1e-5)


def test_muon_turns_every_convolution_of_the_wide_network() -> None:
    """Those of a length of their own are left to momentum; one that was there by mistake cost 0.03 of accuracy."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        logits, _ = registry.build("wide_resnet_10_4", tf.ones([2, 32, 32, 3]), 3, is_training=True)
        kernels = [v for v in tf.compat.v1.trainable_variables() if v.shape.rank == 4 and "logits" not in v.op.name]
        optimizer = optimizers.build("muon", tf.constant(0.0), 0.6, 0.0, 0.0)
        step = optimizer.minimize(tf.reduce_sum(logits[:, 0]))
        session.run(tf.compat.v1.global_variables_initializer())
        session.run(step)
        lengths = {kernel.op.name: float(np.linalg.norm(session.run(kernel))) for kernel in kernels}
    assert len(lengths) == 10
    assert lengths == pytest.approx({kernel.op.name: math.sqrt(kernel.shape[-1]) for kernel in kernels}, rel=1e-4)
