"""Measures how much of twice the speed two workers reach and what the exchange costs; predicts larger clusters.

    python benchmarks/scaling.py --dataset_dir=data

Every worker is pinned to one core of its own (taskset). Three arrangements take turns, so that a change in the speed of
the machine meets them all: one worker; two that train as one; two runs that know nothing of each other, which shows
what the two cores lose to their shared memory without any exchange. Medians count. The machine should do nothing else.

--network=1gbit puts each worker into a network namespace of its own, with a link of that rate between them (as root).
"""

from collections.abc import Iterator, Sequence
import contextlib
import json
import os
from pathlib import Path
import socket
import statistics
import subprocess
import sys
import tempfile

GRADIENT_MEGABYTES = 96  # Of Inception v3: 24 million weights, float32.
REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

import numpy as np  # noqa: E402

from metart.networks.slim_compat import tf  # noqa: E402
from metart.common.flags import Parser, UserError, number, run  # noqa: E402

# Prints megabytes and the median seconds of one reduction for some sizes; 96 are the gradients of Inception v3.
REDUCE_PROGRAM = """
import statistics, time
from metart.networks.slim_compat import tf
from metart.common.interruption import Interruption
from metart.training.cluster import from_flags

cluster = from_flags(1, 0, None)  # By TF_CONFIG.
sizes = (1, 4, 16, 48, 96, 192)
with tf.Graph().as_default(), Interruption() as interruption:
    # As gradients come: many tensors of about a megabyte.
    gradients = [[tf.compat.v1.get_local_variable(f"v{mb}_{i}", [250_000]) for i in range(mb)] for mb in sizes]
    reductions = [tf.group(cluster.mean(tensors)) for tensors in gradients]
    barrier = cluster.barrier()
    config = tf.compat.v1.ConfigProto()
    with cluster.connect(config, interruption) as target, tf.compat.v1.Session(target, config=config) as session:
        session.run(tf.compat.v1.local_variables_initializer())
        for size, reduction in zip(sizes, reductions):
            seconds = []
            for _ in range(12):
                session.run(barrier)
                start = time.monotonic()
                session.run(reduction)
                seconds.append(time.monotonic() - start)
            print(size, statistics.median(seconds[2:]), flush=True)
        session.run(barrier)
"""


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--dataset_dir", required=True, help="folder with the records of convert.py")
    add("--model_name", default="inception_v3")
    add("--batch_size", type=number(int, 1), default=32, help="of each worker")
    add("--steps", type=number(int, 2), default=6, help="of each run; the first is not counted")
    add("--rounds", type=number(int, 1), default=5, help="of the three arrangements in turn")
    add("--network", help="rate of the link between two network namespaces, as tc has it; default: the loopback")
    return parser


@contextlib.contextmanager
def namespaces(rate: str) -> Iterator[list[str]]:
    """Yields the names of two network namespaces, 10.98.0.1 and 10.98.0.2, with a link of some rate between them."""

    def ip(command: str) -> None:
        subprocess.run(["ip", *command.split()], check=True)

    names = [f"w{index}-{os.getpid()}" for index in range(2)]
    try:
        for name in names:
            ip(f"netns add {name}")
        ip(f"link add {names[0]} netns {names[0]} type veth peer name {names[1]} netns {names[1]}")
        for index, name in enumerate(names, 1):
            ip(f"-n {name} address add 10.98.0.{index}/24 dev {name}")
            ip(f"-n {name} link set {name} up")
            ip(f"-n {name} link set lo up")
            shape = f"tc -n {name} qdisc add dev {name} root tbf rate {rate} burst 256kb latency 50ms"
            subprocess.run(shape.split(), check=True)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL)


def together(
    programs: Sequence[Sequence[str]], hosts: Sequence[str], spaces: Sequence[str], replicas: int
) -> list[str]:
    """Runs Python programs at once, each pinned to a core of its own; returns what they print.

    Args:
        programs: The arguments of each.
        hosts: Where each is reached.
        spaces: The network namespace of each, or nothing.
        replicas: So many neighbours are the workers of one run.
    """
    with contextlib.ExitStack() as stack:  # Held together, so that they differ.
        listeners = [stack.enter_context(socket.create_server(("", 0))) for _ in programs]
        everybody = [f"{host}:{end.getsockname()[1]}" for host, end in zip(hosts, listeners, strict=False)]
    processes = []
    for core, program in enumerate(programs):
        first = core - core % replicas
        task = {"type": "worker", "index": core % replicas}
        tf_config = json.dumps({"cluster": {"worker": everybody[first : first + replicas]}, "task": task})
        command = ["ip", "netns", "exec", spaces[core]] if spaces else []
        command += ["taskset", "--cpu-list", str(core), sys.executable, *program]
        environment = os.environ | {"PYTHONPATH": str(REPO), "TF_CONFIG": tf_config}
        processes.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        )
    try:
        outputs = [process.communicate() for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        if process.returncode != 0:
            raise UserError(f"a worker ended with status {process.returncode}: {errors.strip()[-500:]}")
    return [printed for printed, _ in outputs]


def reduce_seconds(hosts: Sequence[str], spaces: Sequence[str]) -> dict[float, float]:
    """Returns the seconds of an all-reduce between two workers by its megabytes."""
    output = together([["-c", REDUCE_PROGRAM]] * 2, hosts, spaces, replicas=2)[0]
    return {float(megabytes): float(seconds) for megabytes, seconds in map(str.split, output.splitlines())}


def predict(reduced: dict[float, float], compute_seconds: float) -> None:
    """Prints the share of perfect scaling for larger clusters, by the model of doc/scaling.md."""
    megabytes, seconds = map(np.array, (list(reduced), list(reduced.values())))
    # By the share of each time, not by seconds: the small ones tell the latency.
    seconds_per_megabyte, intercept = np.polyfit(megabytes, seconds, 1, w=1 / seconds)
    hop_seconds = max(intercept, 0) / 2  # Of two workers, each message travels two hops.
    print(
        f"model: {compute_seconds:.2f} s to compute a step, {seconds_per_megabyte * 1000:.2f} ms to handle a megabyte, "
        f"{hop_seconds * 1000:.1f} ms a hop"
    )
    for gigabits in (10, 100):
        for workers in (8, 64, 256):
            sent = GRADIENT_MEGABYTES * 2 * (workers - 1) / workers
            exchange = sent * (seconds_per_megabyte + 0.008 / gigabits) + 2 * (workers - 1) * hop_seconds
            share = compute_seconds / (compute_seconds + exchange)
            print(
                f"{workers:3} workers, {gigabits:3} Gbit/s: exchange {exchange:.2f} s, {share:.3f} of perfect scaling"
            )


def last_speed(train_dir: Path) -> float:
    """Returns the images a second that a run, all its workers together, reported at its last step."""
    (events,) = train_dir.glob("events.out.tfevents.*")
    values = [value for event in tf.compat.v1.train.summary_iterator(str(events)) for value in event.summary.value]
    return [value.simple_value for value in values if value.tag == "images_per_second"][-1]


def main(argv: Sequence[str] | None = None) -> None:
    arguments = build_parser().parse_args(argv)
    if (os.cpu_count() or 1) < 2:
        raise UserError("two workers need two cores; there is one")
    with contextlib.ExitStack() as stack:
        spaces = stack.enter_context(namespaces(arguments.network)) if arguments.network else []
        hosts = ["10.98.0.1", "10.98.0.2"] if spaces else ["127.0.0.1", "127.0.0.1"]
        print("all-reduce of two workers, one core each")
        reduced = reduce_seconds(hosts, spaces)
        for megabytes, seconds in reduced.items():
            print(f"{megabytes:4.0f} MB: {seconds:.3f} s, {megabytes / seconds:6.0f} MB/s", flush=True)

        def images_per_second(count: int, replicas: int) -> float:
            """Returns the sum over `count` processes that form runs of `replicas` workers."""
            with tempfile.TemporaryDirectory() as folder:
                programs = [
                    [
                        str(REPO / "train_image_classifier.py"),
                        f"--train_dir={folder}/{index // replicas}",
                        f"--dataset_dir={arguments.dataset_dir}",
                        f"--model_name={arguments.model_name}",
                        f"--batch_size={arguments.batch_size}",
                        f"--max_number_of_steps={arguments.steps}",
                    ]
                    for index in range(count)
                ]
                together(programs, hosts, spaces, replicas)
                return sum(last_speed(Path(folder) / str(number)) for number in range(count // replicas))

        arrangements = {"one worker": (1, 1), "two workers": (2, 2), "two separate runs": (2, 1)}
        speeds: dict[str, list[float]] = {name: [] for name in arrangements}
        for round_number in range(1, arguments.rounds + 1):
            for name, (count, replicas) in arrangements.items():
                speeds[name].append(images_per_second(count, replicas))
                print(f"round {round_number}, {name}: {speeds[name][-1]:.2f} images/s", flush=True)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    for name, median in medians.items():
        print(f"{name}: median {median:.2f} images/s, {median / medians['one worker'] / 2:.3f} of twice one worker")
    if not spaces:
        predict(reduced, arguments.batch_size / medians["one worker"])


if __name__ == "__main__":
    run(main)
