"""Measures the bare training step of train_image_classifier.py: the same batch each time, and it is in memory.

python benchmarks/training.py --model_name=inception_v3 --precision=bfloat16
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stopwatch import Stopwatch

from metart.networks.slim_compat import tf
from metart.common.flags import Parser, number, run, select
from metart.networks import registry
from metart.networks.session import PRECISIONS, Device
from metart.training import training_graph
from metart.training.cluster import Cluster
from metart.training.training_graph import Recipe
import train_image_classifier


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model_name", default="inception_v3", choices=registry.NETWORKS, metavar="NAME")
    add("--device", default="cpu", choices=("cpu", "gpu"))
    add("--precision", default="auto", choices=PRECISIONS)
    parser.add_boolean("jit", False, "compile with XLA")
    add("--image_size", type=number(int, 32), help="pixels; default: the network's own")
    add("--batch_size", type=number(int, 1), default=32)
    add("--num_classes", type=number(int, 2), default=100)
    add("--steps", type=number(int, 2), default=10)
    return parser


@contextlib.contextmanager
def training_step(
    model_name: str, image_size: int, batch_size: int, num_classes: int, device: Device
) -> Iterator[Callable[[], object]]:
    """Yields what runs one step on a batch that is in memory; what is not given is as the script has it by default."""
    defaults = train_image_classifier.build_parser().parse_args(["--train_dir=.", "--dataset_dir=."])
    recipe = select(Recipe, vars(defaults))._replace(model_name=model_name, precision=device.arithmetic)
    with tf.Graph().as_default():
        tf.compat.v1.set_random_seed(0)
        images, labels = (
            tf.compat.v1.get_local_variable(name, initializer=value).read_value()
            for name, value in {
                "images": tf.random.uniform([batch_size, image_size, image_size, 3], maxval=255.0),
                "labels": tf.random.uniform([batch_size], maxval=num_classes, dtype=tf.int64),
            }.items()
        )
        step = training_graph.build_network(recipe, [1.0] * num_classes, images, labels, Cluster())
        with tf.compat.v1.Session(config=device.session_config()) as session:
            session.run([tf.compat.v1.local_variables_initializer(), tf.compat.v1.global_variables_initializer()])
            fetches = [step.train_op, step.loss, step.stop_agreed]
            yield lambda: session.run(fetches, {step.learning_rate: defaults.learning_rate})


def main(argv: Sequence[str] | None = None) -> None:
    flags = build_parser().parse_args(argv)
    device = Device(flags.precision, use_gpu=flags.device == "gpu", jit=flags.jit)
    size = flags.image_size or registry.NETWORKS[flags.model_name].image_size
    stopwatch = Stopwatch(flags.batch_size)
    with training_step(flags.model_name, size, flags.batch_size, flags.num_classes, device) as step:
        for _ in range(flags.steps):
            step()
            stopwatch.step_done()
    stopwatch.print_report(tf.config.experimental.get_memory_info("GPU:0")["peak"] if device.has_gpu else None)


if __name__ == "__main__":
    run(main)
