"""The collective operations between real processes on this machine, against one process that does it all."""

from collections.abc import Iterator
import concurrent.futures
import multiprocessing
import socket
from typing import Any

import numpy as np
import pytest

from slim_compat import slim, tf
from interruption import Interruption
import workers

PICTURES = np.random.default_rng(0).normal(size=(12, 9, 9, 3)).astype(np.float32)
LABELS = np.arange(12) % 4


def addresses(count: int) -> list[str]:
    """Returns addresses on this machine that nobody uses; found together, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in sockets]
    for listener in sockets:
        listener.close()
    return found


@pytest.fixture(scope="module")
def pool() -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """Processes with a TensorFlow of their own."""
    with concurrent.futures.ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as executor:
        yield executor


def on_workers(pool: concurrent.futures.ProcessPoolExecutor, program: Any, count: int, *arguments: Any) -> list[Any]:
    """Runs `program(cluster, *arguments)` in `count` processes at once; returns what each returns."""
    everybody = addresses(count)
    futures = [pool.submit(program, workers.Cluster(everybody, index), *arguments) for index in range(count)]
    return [future.result(timeout=120) for future in futures]


def train_one_step(cluster: workers.Cluster, optimizer: str, seed: int) -> dict[str, np.ndarray]:
    """Returns all variables after one step on this worker's share of PICTURES."""
    images, labels = (np.array_split(array, cluster.size)[cluster.index] for array in (PICTURES, LABELS))
    with tf.Graph().as_default(), Interruption() as interruption:
        # Different first weights on each worker: the broadcast has to make them alike.
        tf.compat.v1.set_random_seed(seed + cluster.index)
        scope = slim.arg_scope(
            [slim.conv2d],
            normalizer_fn=slim.batch_norm,
            normalizer_params={"is_training": False, "updates_collections": "updates"},
        )
        with scope:
            net = slim.conv2d(tf.constant(images), 16, 3)
            net = slim.conv2d(net, 300, 3)
        logits = slim.fully_connected(slim.flatten(net), 100, activation_fn=None)  # 9.7 MB of weights: in pieces.
        loss = tf.compat.v1.losses.sparse_softmax_cross_entropy(labels, logits)
        step = tf.compat.v1.train.get_or_create_global_step()
        trainer = {
            "sgd": tf.compat.v1.train.GradientDescentOptimizer(0.1),
            "rmsprop": tf.compat.v1.train.RMSPropOptimizer(0.01, momentum=0.9, epsilon=1.0),
        }[optimizer]
        gradients, variables = zip(*trainer.compute_gradients(loss), strict=True)
        train = trainer.apply_gradients(zip(cluster.mean(gradients), variables, strict=True), step)
        everything = tf.compat.v1.global_variables()
        broadcast = cluster.broadcast(everything)
        config = tf.compat.v1.ConfigProto()
        with cluster.connect(config, interruption) as target, tf.compat.v1.Session(target, config=config) as session:
            session.run(tf.compat.v1.global_variables_initializer())
            session.run(broadcast)
            session.run(train)
            values = session.run(everything)
            session.run(cluster.barrier())
    return {variable.op.name: value for variable, value in zip(everything, values, strict=True)}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_a_step_of_many_workers_is_the_step_of_one(
    pool: concurrent.futures.ProcessPoolExecutor, count: int, optimizer: str
) -> None:
    [alone] = on_workers(pool, train_one_step, 1, optimizer, 1)
    [untrained] = on_workers(pool, train_one_step, 1, optimizer, 2)
    together = on_workers(pool, train_one_step, count, optimizer, 1)
    assert alone["global_step"] == 1
    for name, value in alone.items():
        np.testing.assert_allclose(together[0][name], value, rtol=1e-5, atol=1e-6, err_msg=name)
        for other in together[1:]:
            np.testing.assert_array_equal(other[name], together[0][name], err_msg=name)
    assert not np.allclose(alone["Conv/weights"], untrained["Conv/weights"], atol=1e-3)
