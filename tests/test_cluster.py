"""The collective operations between real processes on this machine, against one process that does it all."""

from collections.abc import Callable, Iterator
import concurrent.futures
import contextlib
import json
import multiprocessing
import os
from pathlib import Path
import random
import re
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from conftest import MODEL_NAME
import numpy as np
from processes import REPO
import pytest

from metart.networks.slim_compat import slim, tf
from metart.common.flags import STATUS_RETRY, Parser, UserError
from metart.common.interruption import Interruption
from metart.networks.session import Device
from metart.training import input_pipeline, start
from metart.training.cluster import Cluster
from metart.training.cluster import add_flags as add_cluster_flags
from metart.training.cluster import from_flags as cluster_from_flags
from metart.training.input_pipeline import Augmentation
import train_image_classifier

PICTURES = np.random.default_rng(0).normal(size=(12, 9, 9, 3)).astype(np.float32)
LABELS = np.arange(12) % 4
SAVE_SECONDS = 5


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
    futures = [pool.submit(program, Cluster(everybody, index), *arguments) for index in range(count)]
    return [future.result() for future in futures]


def train_one_step(cluster: Cluster, optimizer: str, seed: int) -> dict[str, np.ndarray]:
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


@pytest.mark.parametrize(("optimizer", "count"), [("sgd", 3), ("rmsprop", 2)])
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


def summed(cluster: Cluster) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns means of tensors of all sizes, and an int64 that worker 0 broadcast."""
    with tf.Graph().as_default(), Interruption() as interruption:
        # The fourth is larger than a piece.
        sizes = [(), (0,), (3, 5), (1_500_001,), (2, 3), (2, 600_000), (1,)]
        tensors = [tf.fill(size, float(10**cluster.index + number)) for number, size in enumerate(sizes)]
        means = cluster.mean(tensors)
        variable = tf.compat.v1.get_variable("v", initializer=tf.constant([2**53 + 1 + cluster.index]))
        broadcast = cluster.broadcast([variable])
        config = tf.compat.v1.ConfigProto()
        with cluster.connect(config, interruption) as target, tf.compat.v1.Session(target, config=config) as session:
            session.run(variable.initializer)
            session.run(broadcast)
            results = session.run(means), session.run(variable)
            session.run(cluster.barrier())
    return results


@pytest.mark.parametrize("count", [1, 2, 3])
def test_means_and_broadcasts_are_exact(pool: concurrent.futures.ProcessPoolExecutor, count: int) -> None:
    for means, broadcast in on_workers(pool, summed, count):
        assert [mean.shape for mean in means] == [(), (0,), (3, 5), (1_500_001,), (2, 3), (2, 600_000), (1,)]
        for number, mean in enumerate(means):
            np.testing.assert_allclose(mean, {1: 1, 2: 5.5, 3: 37}[count] + number, rtol=1e-6)
        assert broadcast.tolist() == [2**53 + 1]  # Lost by a detour over float64.


def convolved_in_bfloat16(cluster: Cluster) -> np.ndarray:
    """Returns the mean gradient of the biases of a convolution without batch norm, as networks end with one."""
    with tf.Graph().as_default(), Interruption() as interruption:
        images = tf.constant(PICTURES[cluster.index :: cluster.size])
        net = slim.conv2d(slim.conv2d(images, 16, 3), 4, 1, activation_fn=None, scope="last")
        loss = tf.reduce_mean(tf.square(net - 1))
        (biases,) = slim.get_variables_by_name("last/biases")
        [gradient] = cluster.mean(tf.gradients(loss, [biases]))
        config = Device("bfloat16", use_gpu=False).session_config()
        with cluster.connect(config, interruption) as target, tf.compat.v1.Session(target, config=config) as session:
            session.run(tf.compat.v1.global_variables_initializer())
            _, value = session.run([loss, gradient])
            session.run(cluster.barrier())
    return value


def test_a_server_takes_a_convolution_with_bias_in_bfloat16(pool: concurrent.futures.ProcessPoolExecutor) -> None:
    gradients = on_workers(pool, convolved_in_bfloat16, 2)
    assert np.isfinite(gradients[0]).all() and np.any(gradients[0])
    np.testing.assert_array_equal(gradients[0], gradients[1])


def cluster_of(*flags: str) -> Cluster:
    parser = Parser("test")
    add_cluster_flags(parser)
    parsed = parser.parse_args(flags)
    return cluster_from_flags(parsed.worker_replicas, parsed.task, parsed.worker_address)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)


def test_one_worker_without_flags() -> None:
    assert (cluster_of().size, cluster_of().index) == (1, 0)


def test_flags_describe_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--worker_replicas=3", "--worker_address=w-{task}.w:2222")
    cluster = cluster_of(*flags, "--task=2")
    assert cluster.addresses == ("w-0.w:2222", "w-1.w:2222", "w-2.w:2222") and cluster.index == 2
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    assert cluster_of(*flags).index == 1


def test_tf_config_describes_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = {"chief": ["c:1"], "worker": ["w0:1", "w1:1"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": hosts, "task": {"type": "worker", "index": 1}}))
    assert (cluster_of().addresses, cluster_of().index) == (("c:1", "w0:1", "w1:1"), 2)
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": hosts, "task": {"type": "chief", "index": 0}}))
    assert cluster_of().index == 0


@pytest.mark.parametrize(
    ("flags", "tf_config", "message"),
    [
        (["--worker_replicas=2"], "", "--worker_replicas needs --worker_address with {task}"),
        (["--worker_replicas=2", "--worker_address=a:1"], "", "--worker_replicas needs --worker_address with {task}"),
        (["--worker_replicas=2", "--worker_address=a:{task}"], "", "a:0 is not the address of a worker"),
        (["--worker_replicas=2", "--worker_address=a:1{task}", "--task=2"], "", "there is no worker 2 among 2"),
        (["--task=1"], "", "there is no worker 1 among 1"),
        ([], "{", "TF_CONFIG is not of the form"),
        ([], '{"cluster": {"worker": ["a:1"]}}', "TF_CONFIG is not of the form"),
        ([], '{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}', "share an address"),
        ([], '{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}', "TF_CONFIG names ps"),
        (
            [],
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "evaluator", "index": 0}}',
            "TF_CONFIG names evaluator",
        ),
    ],
)
def test_a_wrong_description_is_an_error(
    flags: list[str], tf_config: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", tf_config)
    with pytest.raises(UserError, match=message):
        cluster_of(*flags)


def record(jpeg: bytes, label: int) -> bytes:
    features = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[jpeg])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


@pytest.mark.parametrize(("num_files", "num_workers"), [(4, 2), (5, 2), (6, 3), (1, 3)])
def test_no_picture_goes_to_two_workers_or_twice_in_an_epoch(tmp_path: Path, num_files: int, num_workers: int) -> None:
    jpeg = tf.io.encode_jpeg(np.zeros((40, 40, 3), np.uint8)).numpy()
    numbers = iter(range(60))  # Each picture has a label of its own, to be told apart.
    for shard in range(num_files):
        with tf.io.TFRecordWriter(str(tmp_path / f"{shard}.tfrecord")) as writer:
            for _ in range(60 // num_files):
                writer.write(record(jpeg, next(numbers)))
    files = [str(file) for file in tmp_path.iterdir()]
    seen: list[int] = []
    for worker in range(num_workers):
        tf.random.set_seed(0)  # As the script does on all workers; the shuffles depend on it.
        data = input_pipeline.training_batches(files, 5, Augmentation(32), num_workers=num_workers, worker=worker)
        for _, labels in data.take(60 // num_workers // 5):
            seen.extend(labels.numpy())
    assert sorted(seen) == list(range(60))


def test_a_worker_without_pictures_is_an_error(
    dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = [f"localhost:{port}" for port in range(2000, 3000)]
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": hosts}, "task": {"type": "worker", "index": 1}}))
    with pytest.raises(
        UserError, match=r"^1000 workers, but the \d+ training pictures in \d+ files are enough for \d+ "
    ):
        train_image_classifier.main([f"--train_dir={tmp_path / 'logs'}", f"--dataset_dir={dataset_dir}"])


@pytest.mark.parametrize(("sizes", "is_enough"), [((1, 1), True), ((9, 0), False), ((1, 0, 1), True)])
def test_a_worker_gets_whole_files_where_they_can_be_shared_out(
    sizes: tuple[int, ...], is_enough: bool, tmp_path: Path
) -> None:
    files = [tmp_path / str(number) for number in range(len(sizes))]
    for file, size in zip(files, sizes, strict=True):
        file.write_bytes(bytes(size))
    dataset = slim.dataset.Dataset(list(map(str, files)), None, None, sum(sizes), {})
    with contextlib.nullcontext() if is_enough else pytest.raises(UserError, match="are enough for 1 only"):
        input_pipeline.require_pictures_for_all(dataset, 2)


def test_workers_need_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as thread:  # A shared file system may lag behind.
        waiting = thread.submit(start.require_same_folder, tmp_path, Interruption())
        time.sleep(1.5)
        assert not waiting.done()
        (tmp_path / "flags.json").write_text("{}")
        waiting.result()
    monkeypatch.setattr(start, "SHARED_SECONDS", 0)
    with pytest.raises(UserError, match="all workers need the same --train_dir, on a volume that they share"):
        start.require_same_folder(tmp_path / "other", Interruption())


class Run:
    """Processes of the training script on one training folder; each is started again when it ends, as by a Job."""

    def __init__(self, count: int, dataset_dir: Path, train_dir: Path):
        self.train_dir = train_dir
        self.hosts = addresses(count)
        self.flags = [
            f"--dataset_dir={dataset_dir}",
            f"--train_dir={train_dir}",
            f"--model_name={MODEL_NAME}",
            "--train_image_size=32",
            "--batch_size=2",
            "--learning_rate=0.01",
            f"--save_interval_secs={SAVE_SECONDS}",
        ]
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, index: int, steps: int) -> "subprocess.Popen[str]":
        cluster = {"cluster": {"worker": self.hosts}, "task": {"type": "worker", "index": index}}
        self.started = time.time()
        return subprocess.Popen(
            [sys.executable, str(REPO / "train_image_classifier.py"), *self.flags, f"--max_number_of_steps={steps}"],
            env=os.environ | {"TF_CONFIG": json.dumps(cluster)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def start_all(self, steps: int) -> None:
        self.processes = [self.start(index, steps) for index in range(len(self.hosts))]

    def restart_for(self, seconds: float, steps: int) -> None:
        """Keeps all running for some time, or until all have done their steps."""
        end = time.time() + seconds
        while time.time() < end and any(process.poll() != 0 for process in self.processes):
            for index, process in enumerate(self.processes):
                if process.poll():
                    assert process.returncode in (STATUS_RETRY, -signal.SIGKILL, -signal.SIGTERM), process.communicate()
                    self.processes[index] = self.start(index, steps)
            time.sleep(0.5)

    def is_training(self) -> bool:
        """Returns whether all have met since they were started."""
        settings = self.train_dir / "flags.json"  # Written when all have met.
        return settings.exists() and settings.stat().st_mtime >= self.started

    def newest_step(self) -> int:
        """Returns the step of the newest checkpoint, after reading all that are there from end to end."""
        steps = [0]
        for index in self.train_dir.glob("model.ckpt-*.index"):
            reader = tf.train.load_checkpoint(str(index.with_suffix("")))
            steps.append(int(reader.get_tensor("global_step")))
            for name in reader.get_variable_to_shape_map():
                assert np.isfinite(reader.get_tensor(name)).all(), name
        return max(steps)


@pytest.fixture
def make_run(dataset_dir: Path, tmp_path: Path) -> Iterator[Callable[[int], Run]]:
    runs: list[Run] = []

    def make(count: int) -> Run:
        runs.append(Run(count, dataset_dir, tmp_path / "train"))
        return runs[-1]

    yield make
    for process in runs[0].processes:
        process.kill()
        process.wait()


@pytest.mark.timeout(600)
def test_sigterm_to_one_saves_and_ends_all_and_they_go_on(make_run: Callable[[int], Run]) -> None:
    run = make_run(2)
    run.start_all(steps=1000)
    while not run.is_training():
        assert all(process.poll() is None for process in run.processes), run.processes[0].communicate()
        time.sleep(0.2)
    run.processes[1].terminate()
    outputs = [process.communicate()[0] for process in run.processes]
    assert [process.returncode for process in run.processes] == [STATUS_RETRY] * 2, outputs
    step = run.newest_step()
    assert 0 < step < 1000
    assert f"interrupted: worker 1 ({run.hosts[1]}) was told to stop at step {step}; " in outputs[0]
    assert f"interrupted: saved {run.train_dir}/model.ckpt-{step} at step {step} of 1,000; " in outputs[1]
    assert "worker 1 of 2: 2 pictures of each step. --learning_rate=0.01 is for all 4; " in outputs[1]

    run.start_all(steps=step + 2)
    outputs = [process.communicate()[0] for process in run.processes]
    assert [process.returncode for process in run.processes] == [0, 0], outputs
    assert run.newest_step() == step + 2
    assert all(f"from step {step} to {step + 2}" in output for output in outputs)
    assert all(f"trained to step {step + 2}: " in output for output in outputs)
    losses = [re.findall(r"trained to step \d+: (loss [\d.]+), ", output) for output in outputs]
    assert losses[0] == losses[1]
    assert ["images/s" in output for output in outputs] == [True, False]  # The others count the pauses of worker 0.
    assert len(list(run.train_dir.glob("events.out.tfevents.*"))) == 2  # Of worker 0, from its two starts.


@pytest.mark.timeout(600)
def test_workers_of_different_precision_do_not_train(make_run: Callable[[int], Run]) -> None:
    """A step that overflows in float16 would be left out by some and spoil the weights of the others."""
    run = make_run(2)
    for index, precision in enumerate(("float32", "float16")):
        run.flags = [*run.flags[:7], f"--precision={precision}"]
        run.processes.append(run.start(index, steps=3))
    outputs = [process.communicate()[0].splitlines() for process in run.processes]
    assert {process.returncode for process in run.processes} == {1}
    complaint = "error: some workers compute in float16 and some do not; start all with the same --precision"
    assert [lines[-1] for lines in outputs] == [complaint, complaint]
    assert run.newest_step() == 0


def test_workers_with_different_flags_do_not_train(make_run: Callable[[int], Run]) -> None:
    run = make_run(2)
    run.processes.append(run.start(0, steps=3))
    run.flags = [*run.flags, "--learning_rate=0.5"]
    run.processes.append(run.start(1, steps=3))
    output = run.processes[1].communicate()[0].splitlines()
    assert output[-1] == (
        "error: worker 1 has other flags of training, or other records, than worker 0; start all with the same, from "
        "the same image"
    )
    assert run.processes[1].returncode == 1
    run.processes[0].terminate()
    assert "nothing is trained yet" in run.processes[0].communicate()[0]
    assert run.newest_step() == 0


@pytest.mark.timeout(600)
def test_a_killed_worker_is_named_in_a_log_without_noise(make_run: Callable[[int], Run]) -> None:
    run = make_run(3)
    run.start_all(steps=100_000)
    while not run.is_training():
        assert all(process.poll() is None for process in run.processes), run.processes[0].communicate()
        time.sleep(0.2)
    time.sleep(3)  # Into the steps.
    run.processes[1].kill()
    outputs = [run.processes[index].communicate()[0].splitlines() for index in (0, 2)]
    last = "run the same command again, from the last checkpoint on"
    lost = f"interrupted: worker 1 ({run.hosts[1]})"
    assert outputs[0][-1] == f"{lost} died: its connection closed without a word; out of memory, or killed; {last}"
    assert outputs[1][-1] == f"{lost} was lost, the last line of worker 0 ({run.hosts[0]}) says why; {last}"
    # TensorFlow would say in a dozen lines that a socket was closed.
    assert all(re.match(r"\d+ pictures of|worker \d of 3|training: ", line) for lines in outputs for line in lines[:-1])


@pytest.mark.timeout(600)
def test_a_broken_connection_is_no_traceback(make_run: Callable[[int], Run]) -> None:
    run = make_run(2)
    hosts = run.hosts
    run.hosts = [hosts[0], addresses(1)[0]]  # Where worker 0 looks for worker 1, which finds worker 0.
    run.processes.append(run.start(0, steps=3))
    nobody, run.hosts = run.hosts[1], hosts
    run.processes.append(run.start(1, steps=3))
    outputs = [process.communicate()[0] for process in run.processes]
    assert [process.returncode for process in run.processes] == [STATUS_RETRY] * 2, outputs
    for output in outputs:
        assert "Traceback" not in output
        reason = r"the connection between the workers broke \(.*failed to connect to all addresses.*"
        assert re.search(rf"^interrupted: .*{reason}{nobody}: .*Connection refused\)", output.splitlines()[-1]), output


def test_worker_0_measures_for_all(make_run: Callable[[int], Run]) -> None:
    run = make_run(2)
    run.flags.append("--validation_epochs=1")
    run.start_all(steps=2)
    outputs = [process.communicate()[0] for process in run.processes]
    assert [process.returncode for process in run.processes] == [0, 0], outputs
    reached = [re.findall(r"trained to step 2: .*", output)[0] for output in outputs]
    assert [("best top-1" in line) for line in reached] == [True, False]
    assert list(json.loads((run.train_dir / "validation.json").read_text())["top_1"]) == ["2"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_survives_ten_incidents(make_run: Callable[[int], Run]) -> None:
    run = make_run(3)
    run.start_all(steps=100_000)
    generator = random.Random(0)
    hit_in_training = 0
    for incident in range(10):
        run.restart_for(generator.uniform(10, 60), steps=100_000)
        while incident % 2 and not run.is_training():  # Every other one finds them training, at the least.
            run.restart_for(1, steps=100_000)
        victim = generator.randrange(3)
        number = [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM][incident % 3]
        was_training = run.is_training()
        run.processes[victim].send_signal(number)
        if was_training:  # Otherwise the others wait for the victim, as they should.
            hit_in_training += 1
            for index, process in enumerate(run.processes):
                if index != victim:
                    assert process.wait() == STATUS_RETRY, process.communicate()
        if number == signal.SIGSTOP:
            run.processes[victim].kill()  # Nobody but its machine can end a process that is frozen.
        run.newest_step()
    last = run.newest_step() + 20
    run.restart_for(600, steps=last)
    assert [process.poll() for process in run.processes] == [0, 0, 0]
    assert run.newest_step() == last and hit_in_training >= 5
