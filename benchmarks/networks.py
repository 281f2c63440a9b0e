"""Measures every network and prints the table of doc/networks.md.

Writes  WORK_DIR/<network>.json: what was measured of it

    python benchmarks/networks.py --work_dir=measured-networks

Each network at its own size, with 1,000 labels and random weights, in the arithmetic of --precision=auto. A network
takes turns with inception_v3, and what counts is their processor time: other programs and changes in the machine matter
little then. Safe to run again: it goes on with the networks that are not measured yet.
"""

from collections.abc import Callable, Iterator, Sequence
import functools
import json
from pathlib import Path
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from training import training_step

from metart.networks.slim_compat import slim, tf
import export_model
from metart.common.files import open_replacing
from metart.common.flags import Parser, number, path, run
from metart.evaluation.inference import Classifier
from metart.networks import registry
from metart.networks.preprocessing import Looks
from metart.networks.session import Device

REFERENCE = "inception_v3"
NUM_CLASSES = 1000  # As ImageNet has.
DEVICE = Device("auto", use_gpu=False)
CALIBRATION_IMAGES = 2  # How many there are does not change the size of a file.
Figures = dict[str, float]
COLUMNS: dict[str, tuple[str, Callable[[Figures], str]]] = {  # By heading: (figure it is made from, how).
    "parameters, M": ("parameters", lambda of: f"{of['parameters'] / 1e6:.1f}"),
    "multiply-adds, G": ("multiplications", lambda of: f"{of['multiplications'] / 1e9:.2f}"),
    "training": ("training", lambda of: f"{1 / of['training']:.2f}"),
    "answering": ("answering", lambda of: f"{1 / of['answering']:.2f}"),
    "float, MB": ("float_bytes", lambda of: f"{of['float_bytes'] / 1e6:.1f}"),
    "8 bits, MB": ("int8_bytes", lambda of: f"{of['int8_bytes'] / 1e6:.1f}"),
}
# Multiplications of one output value: the kernel's places and input channels.
KERNEL_AXES = {"Conv2D": slice(0, 3), "DepthwiseConv2dNative": slice(0, 2), "MatMul": slice(0, 1)}


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--work_dir", type=path, required=True, help="folder for the figures")
    names = list(registry.NETWORKS)
    add(
        "--models",
        nargs="*",
        choices=names,
        default=names,
        help="what to measure, in this order; default: all",
        metavar="NAME",
    )
    add("--image_size", type=number(int, 32), help="pixels; default: each network's own")
    add("--batch_size", type=number(int, 1), default=8)
    add("--rounds", type=number(int, 0), default=3, help="of a network and the reference in turn; 0 measures nothing")
    return parser


def size_of(model_name: str, image_size: int | None) -> int:
    return image_size or registry.NETWORKS[model_name].image_size


def facts(model_name: str, size: int) -> Figures:
    """Returns how many numbers a network learns, and multiplications of convolutions and matrices for a picture."""
    with tf.Graph().as_default() as graph:
        registry.build(model_name, tf.zeros([1, size, size, 3]), NUM_CLASSES)
        parameters = sum(variable.shape.num_elements() for variable in tf.compat.v1.trainable_variables())
        multiplications = sum(
            operation.outputs[0].shape.num_elements() * operation.inputs[1].shape[axes].num_elements()
            for operation in graph.get_operations()
            if (axes := KERNEL_AXES.get(operation.type))
        )
    return {"parameters": parameters, "multiplications": multiplications}


def random_classifier(model_name: str, size: int, folder: str) -> Classifier:
    """Returns a network with random weights that answers."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        registry.build(model_name, tf.zeros([1, size, size, 3]), NUM_CLASSES)
        variables = slim.get_model_variables()
        session.run(tf.compat.v1.variables_initializer(variables))
        checkpoint = tf.compat.v1.train.Saver(variables).save(session, f"{folder}/{model_name}", write_meta_graph=False)
    labels = [str(number) for number in range(NUM_CLASSES)]
    return Classifier(checkpoint, model_name, Looks(size), labels, device=DEVICE)


def cost(work: Callable[[], object], reference: Callable[[], object], rounds: int) -> float:
    """Returns the processor time of some work as a multiple of the reference's; the median of some rounds."""
    ratios = []
    for _ in range(rounds + 1):  # The first warms up.
        ends = [time.process_time()]
        for each in (work, reference):
            each()
            ends.append(time.process_time())
        ratios.append((ends[1] - ends[0]) / (ends[2] - ends[1]))
    return statistics.median(ratios[1:])


def measure(names: Sequence[str], image_size: int | None, batch_size: int, rounds: int) -> Iterator[Figures]:
    """Yields the speeds of networks beside REFERENCE, and the sizes of their files for TensorFlow Lite."""

    def images(size: int, count: int) -> np.ndarray:
        return np.random.default_rng(0).uniform(0, 255, (count, size, size, 3)).astype(np.float32)

    reference_size = size_of(REFERENCE, image_size)
    reference_images = images(reference_size, batch_size)
    with (
        tempfile.TemporaryDirectory() as folder,
        random_classifier(REFERENCE, reference_size, folder) as reference,
        training_step(REFERENCE, reference_size, batch_size, NUM_CLASSES, DEVICE) as reference_step,
    ):
        for name in names:
            size = size_of(name, image_size)
            figures = {}
            with random_classifier(name, size, folder) as classifier:
                answer = functools.partial(classifier.probabilities, images(size, batch_size))
                figures["answering"] = cost(answer, lambda: reference.probabilities(reference_images), rounds)
                calibration = np.split(images(size, CALIBRATION_IMAGES), CALIBRATION_IMAGES)
                figures["float_bytes"] = len(export_model.tflite_model(classifier))
                figures["int8_bytes"] = len(export_model.tflite_model(classifier, calibration))
            with training_step(name, size, batch_size, NUM_CLASSES, DEVICE) as step:
                figures["training"] = cost(step, reference_step, rounds)
            yield figures


def main(argv: Sequence[str] | None = None) -> None:
    flags = build_parser().parse_args(argv)
    flags.work_dir.mkdir(parents=True, exist_ok=True)
    files = {name: flags.work_dir / f"{name}.json" for name in flags.models}
    known = {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}

    def keep(name: str, figures: Figures) -> None:
        known[name] = known.get(name, {}) | figures
        with open_replacing(files[name]) as file:
            json.dump(known[name], file)
        print(f"{name}: {figures}", file=sys.stderr, flush=True)

    for name in flags.models:
        if name not in known:
            keep(name, facts(name, size_of(name, flags.image_size)))
    unmeasured = [name for name in flags.models if "training" not in known[name]] if flags.rounds else []
    if unmeasured:
        measured = measure(unmeasured, flags.image_size, flags.batch_size, flags.rounds)
        for name, figures in zip(unmeasured, measured, strict=True):
            keep(name, figures)
    print(table({name: known[name] for name in flags.models}))


def table(known: dict[str, Figures]) -> str:
    """Returns the figures as Markdown; speeds are multiples of REFERENCE's, a dash is what was not measured."""
    lines = [
        f"| network | pixels | {' | '.join(COLUMNS)} | top-1 | weights |",
        f"|---|{'---:|' * (len(COLUMNS) + 2)}---|",
    ]
    for name, figures in known.items():
        network = registry.NETWORKS[name]
        cells = [show(figures) if needed in figures else "–" for needed, show in COLUMNS.values()]
        top_1, address = registry.PUBLISHED.get(name, (None, ""))
        published = [f"{top_1:.3f}", f"[archive]({address})"] if top_1 else ["–", "–"]
        lines.append(f"| {' | '.join([f'`{name}`', str(network.image_size), *cells, *published])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
