"""One training run on many machines: every worker runs the same script, and each step is one step of all.

Each worker computes gradients on its own pictures; the mean over the workers, by TensorFlow's own
collective operations, updates the weights of each in the same way. So N workers with --batch_size=B
train like one worker with --batch_size=N*B, and any of them could write the checkpoint; worker 0 does.
"""

from collections.abc import Iterator, Sequence
import contextlib
import itertools
import json
import os
import re

from metart.networks.slim_compat import tf
from metart.common.flags import Parser, Retry, UserError, number
from metart.common.interruption import Interruption
from metart.networks import checkpoints
from metart.training.peers import SHUTDOWN_SECONDS, Peers, split_address

# Tensors travel round a ring of the workers, each of which passes on so many bytes at a time. Measured with the 96 MB
# of Inception v3's gradients between two cores: 0.2 s with 0.4 to 3 MB, 0.3 s with 12 MB, 0.6 s with all at once.
# And pieces leave early, while the first layers' gradients are still computed.
HOP_BYTES = 2_000_000
# What TensorFlow says where a connection fails, and where another worker gave up because of one.
BROKEN_CONNECTION = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


class Cluster:
    """The workers of a run, and which of them this process is."""

    def __init__(self, addresses: Sequence[str] = ("localhost:2222",), index: int = 0):
        """Takes the `host:port` of every worker in order, and the position of this one.

        Raises:
            UserError: An address is wrong or given twice, or there is no such position.
        """
        for address in addresses:
            split_address(address)
        if len(set(addresses)) < len(addresses):
            raise UserError(f"workers share an address in {', '.join(addresses)}; give each its own")
        if not 0 <= index < len(addresses):
            raise UserError(f"there is no worker {index} among {len(addresses)}; they count from 0")
        self.addresses = tuple(addresses)
        self.index = index
        self._piece_bytes = HOP_BYTES * len(addresses)  # A ring of N passes on an Nth of a piece at a time.
        self._peers: Peers | None = None
        self._is_done = False
        self._keys = itertools.count(1)  # Every collective operation of a graph has its own, the same on all workers.

    @property
    def size(self) -> int:
        return len(self.addresses)

    def mean(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the mean of each tensor over the workers, the same on all of them to the last bit.

        Every worker has to build this with the same shapes in the same order, and to run it in the same step.
        """
        return self._all_reduce(tensors, "Div")

    def broadcast(self, variables: Sequence[tf.Variable]) -> tf.Operation:
        """Returns the operation that gives all workers the values that worker 0 has."""
        # A sum to which the others add nothing: exact, and it travels in pieces as the gradients do.
        parts = [variable if self.index == 0 else tf.zeros_like(variable) for variable in variables]
        return self._assign(variables, parts, "Id")

    def average(self, variables: Sequence[tf.Variable]) -> tf.Operation:
        """Returns the operation that sets the variables of all workers to their mean."""
        return self._assign(variables, variables, "Div")

    def barrier(self) -> tf.Operation:
        """Returns the operation that ends when all workers run it."""
        return tf.group(*self.mean([tf.zeros([])]))

    def _assign(
        self, variables: Sequence[tf.Variable], parts: Sequence[tf.Tensor | tf.Variable], final: str
    ) -> tf.Operation:
        if self.size == 1:  # They have their values.
            return tf.no_op()
        values = self._all_reduce(parts, final)
        return tf.group(*(variable.assign(value) for variable, value in zip(variables, values, strict=True)))

    def _all_reduce(self, tensors: Sequence[tf.Tensor | tf.Variable], final: str) -> list[tf.Tensor]:
        if self.size == 1:
            return list(tensors)
        results: list[tf.Tensor] = []
        for group in _groups([tf.convert_to_tensor(tensor) for tensor in tensors], self._piece_bytes):
            sizes = [tensor.shape.num_elements() for tensor in group]
            packed = tf.concat([tf.reshape(tensor, [-1]) for tensor in group], 0)
            piece = self._piece_bytes // packed.dtype.size
            lengths = [min(piece, sum(sizes) - start) for start in range(0, sum(sizes), piece)]
            pieces = [self._all_reduce_piece(part, final) for part in tf.split(packed, lengths)]
            for tensor, flat in zip(group, tf.split(tf.concat(pieces, 0), sizes), strict=True):
                results.append(tf.reshape(flat, tensor.shape))
        return results

    def _all_reduce_piece(self, piece: tf.Tensor, final: str) -> tf.Tensor:
        return tf.raw_ops.CollectiveReduceV2(
            input=piece,
            group_size=self.size,
            group_key=1,
            instance_key=next(self._keys),
            ordering_token=[],
            merge_op="Add",
            final_op=final,
        )

    @contextlib.contextmanager
    def connect(self, config: tf.compat.v1.ConfigProto, interruption: Interruption, run: str = "") -> Iterator[str]:
        """Waits for the other workers and yields the target for a session with `config`, which is completed here.

        All have to name the same `run`, a hash of what they train.

        Raises:
            UserError, Retry, KeyboardInterrupt: See Peers.meet.
            Retry: Another worker was lost, or the connection to one, or worker 0 before it had finished for all.
        """
        if self.size == 1:
            yield ""
            return
        config.experimental.collective_group_leader = "/job:worker/replica:0/task:0"
        config.device_filters.append(f"/job:worker/task:{self.index}")  # A worker's variables are its own.
        # Remapping joins convolution and bias into an operation that knows no bfloat16 until Intel's kernels take its
        # place, and a server refuses it before they do.
        rewrites = config.graph_options.rewrite_options
        if rewrites.auto_mixed_precision_onednn_bfloat16 == rewrites.ON:
            rewrites.remapping = rewrites.OFF
        # A dozen lines for each lost worker say nothing that peers.py does not. Read when the first server starts.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        self._peers = peers = Peers(self.addresses, self.index, run)
        peers.meet(interruption)
        try:
            with _explaining_loss(peers):
                server = tf.distribute.Server(
                    {"worker": self.addresses}, job_name="worker", task_index=self.index, config=config
                )
                yield server.target
        except BaseException as error:
            if self._is_done:
                peers.leave(SHUTDOWN_SECONDS)
            else:  # The others cannot go on, so nobody has to wait.
                peers.leave(0, _reason(error))
            raise
        if lost := peers.leave(SHUTDOWN_SECONDS):
            raise Retry(lost)

    def step_done(self) -> None:
        """Has to be called after each step; see Peers.meet."""
        if self._peers:
            self._peers.step_done()

    def busy(self) -> contextlib.AbstractContextManager[None]:
        """Lets the others wait while the block saves or measures."""
        return self._peers.busy() if self._peers else contextlib.nullcontext()

    def all_done(self) -> None:
        """Notes that all have done the last step: an exception from now on is a way to end in good order."""
        self._is_done = True

    def told_to_stop(self) -> str:
        """Names the worker that got SIGTERM, for one that stops because of it."""
        assert self._peers is not None
        return self._peers.told_to_stop()


@contextlib.contextmanager
def _explaining_loss(peers: Peers) -> Iterator[None]:
    """Makes a Retry of TensorFlow's error where a worker, or the connection to one, was lost in the block."""
    try:
        yield
    except tf.errors.OpError as error:  # TensorFlow has a dozen for a lost worker, and the same ones for other reasons.
        if lost := peers.lost():
            raise Retry(lost) from None
        if isinstance(error, BROKEN_CONNECTION):
            raise Retry(
                f"the connection between the workers broke ({checkpoints.reason(error)}); run the same command again, "
                "from the last checkpoint on; if it breaks again at once, check the addresses of all workers"
            ) from None
        raise


def _reason(error: BaseException) -> str:
    """Returns why a worker leaves, for the line of another, which has its own advice."""
    if isinstance(error, KeyboardInterrupt):
        return "Ctrl-C"
    text = checkpoints.reason(error) if isinstance(error, tf.errors.OpError) else str(error)
    text = re.split("(;| and|, then) run the same command again", text)[0]
    return text if isinstance(error, Retry) else f"error: {text or type(error).__name__}"


def _groups(tensors: Sequence[tf.Tensor], max_bytes: int) -> Iterator[list[tf.Tensor]]:
    """Yields the tensors in order, neighbours of one type together up to a size."""
    group: list[tf.Tensor] = []
    elements = 0
    for tensor in tensors:
        size = tensor.shape.num_elements()
        if group and (tensor.dtype != group[0].dtype or (elements + size) * tensor.dtype.size > max_bytes):
            yield group
            group, elements = [], 0
        group.append(tensor)
        elements += size
    if group:
        yield group


def add_flags(parser: Parser) -> None:
    """Adds the flags that `from_flags` reads."""
    add = parser.add_argument
    add("--worker_replicas", type=number(int, 1), default=1, help="number of workers that train together")
    add(
        "--task",
        type=number(int, 0),
        default=os.environ.get("JOB_COMPLETION_INDEX", "0"),
        help="which of the workers this is, from 0; default: the index of the pod in an Indexed Job",
    )
    add("--worker_address", help="host:port of every worker, with {task} for its number, as in 127.0.0.1:222{task}")


def from_flags(worker_replicas: int, task: int, worker_address: str | None) -> Cluster:
    """Returns the workers that the flags or, without them, the environment variable TF_CONFIG describe.

    Raises:
        UserError: Either is incomplete or wrong.
    """
    if worker_replicas > 1:
        if worker_address is None or "{task}" not in worker_address:
            raise UserError("--worker_replicas needs --worker_address with {task} in it, as in 127.0.0.1:222{task}")
        return Cluster([worker_address.replace("{task}", str(number)) for number in range(worker_replicas)], task)
    if os.environ.get("TF_CONFIG"):
        return _from_tf_config(os.environ["TF_CONFIG"])
    return Cluster(index=task)


def _from_tf_config(text: str) -> Cluster:
    """Reads TensorFlow's own form of a cluster, as in the error below."""
    try:
        description = json.loads(text)
        cluster, task = description["cluster"], description["task"]
        unknown = set(cluster) - {"chief", "worker"} | {task["type"]} - set(cluster)
        if unknown:
            raise UserError(f"TF_CONFIG names {', '.join(sorted(unknown))}; this script has only workers, all alike")
        first = len(cluster.get("chief", [])) if task["type"] == "worker" else 0  # A chief comes before the workers.
        return Cluster([*cluster.get("chief", []), *cluster.get("worker", [])], first + int(task["index"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            'TF_CONFIG is not of the form {"cluster": {"worker": ["host:port", …]}, '
            '"task": {"type": "worker", "index": 0}}; correct it or unset it'
        ) from None
