"""Measures the training step of a peer: `fit` of Keras's own InceptionV3 on TensorFlow, the same batch each time.

    python benchmarks/peer_keras.py --precision=bfloat16

Optimizer and number of labels are those of training.py. Keras's network has no auxiliary head, its loss no label
smoothing and no L2 loss, so it does a little less.
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"  # As our scripts set it on machines without a GPU.

import keras
import numpy as np
from stopwatch import Stopwatch, peer_parser
import tensorflow as tf


class EndOfStep(keras.callbacks.Callback):
    """Tells a stopwatch."""

    def __init__(self, stopwatch: Stopwatch):
        super().__init__()
        self._stopwatch = stopwatch

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        self._stopwatch.step_done()


def build_parser() -> argparse.ArgumentParser:
    parser = peer_parser(__doc__, image_size="pixels; at least 75")
    parser.add_argument("--jit_compile", action="store_true", help="compile the step with XLA")
    return parser


def main() -> None:
    flags = build_parser().parse_args()
    if flags.device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    for gpu in tf.config.get_visible_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    if flags.precision != "float32":
        keras.mixed_precision.set_global_policy(f"mixed_{flags.precision}")
    shape = (flags.image_size, flags.image_size, 3)
    model = keras.applications.InceptionV3(weights=None, input_shape=shape, classes=flags.num_classes)
    model.compile(
        optimizer=keras.optimizers.Adam(0.001),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        jit_compile=flags.jit_compile,
    )
    random = np.random.default_rng(0)
    images = random.uniform(-1, 1, (flags.batch_size, *shape)).astype(np.float32)
    labels = random.integers(0, flags.num_classes, flags.batch_size)
    batches = tf.data.Dataset.from_tensors((images, labels)).repeat()
    stopwatch = Stopwatch(flags.batch_size)
    model.fit(batches, steps_per_epoch=flags.steps, verbose=0, callbacks=[EndOfStep(stopwatch)])
    on_gpu = bool(tf.config.get_visible_devices("GPU"))
    stopwatch.print_report(tf.config.experimental.get_memory_info("GPU:0")["peak"] if on_gpu else None)


if __name__ == "__main__":
    main()
