"""Makes tf-slim 1.1 work under TensorFlow 2.21; import it before tf_slim.

tf-slim was last released for TensorFlow 2.4. Two things it relies on have gone since:
`tensorflow.python.framework.ops.Tensor`, restored here, and the Keras layer behind its default batch norm,
avoided by `registry.py` (see BATCH_NORM_UPDATES there). Two more are replaced because they are slow on GPUs: dropout,
and the subsampling in ResNet's shortcuts. TensorFlow also loads and builds faster here than by default, and says less.
"""

from collections.abc import Callable, Iterator
import contextlib
import gc
from importlib import metadata
import logging
import os
from pathlib import Path
import signal
import sys
from typing import NoReturn, ParamSpec, TypeVar
import warnings

# TensorFlow's banners say nothing about a run; its warnings and errors still come through.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _may_find_a_gpu(control: Path = Path("/dev/nvidiactl")) -> bool:
    """Returns whether TensorFlow may use a GPU here, which it cannot be asked before it is loaded."""
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return control.exists() and not is_hidden and not any(metadata.distributions(name="tensorflow-cpu"))


# Intel's kernels are off by default on CPUs without its newest instructions; they are faster there too (1.14 x in
# training on an AMD EPYC with AVX2). Where they are on, TensorFlow does not join batch norm and ReLU on a GPU.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", str(int(not _may_find_a_gpu())))


Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
NOTICES = (b"WARNING: All log messages before absl::InitializeLog()", b"I0000 ", b"fully_quantize: ")


@contextlib.contextmanager
def without_notices() -> Iterator[None]:
    """Lets through all that the block writes to stderr but the NOTICES of TensorFlow's C++ code.

    It logs before it reads TF_CPP_MIN_LOG_LEVEL, or without asking. A process of its own reads along, so that nothing
    is lost where TensorFlow ends this one, as on a CPU that it was not built for.
    """
    stderr = os.dup(2)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _pass_on(reader, stderr, writer)
    os.dup2(writer, 2)
    os.close(writer)
    os.close(reader)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.waitpid(child, 0)


def _pass_on(reader: int, stderr: int, writer: int) -> NoReturn:
    """Copies lines that are no notices, until nobody can write any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.close(writer)
    with open(reader, "rb") as lines:
        for line in lines:
            if not line.startswith(NOTICES):
                os.write(stderr, line)
    os._exit(0)


@contextlib.contextmanager
def _quickly() -> Iterator[None]:
    """Makes packages look missing that TensorFlow and tf_slim import where they find them, and collects no garbage.

    Nobody here calls what they would add. What the libraries make while they load stays, so Python looks for garbage in
    vain, and need not look there later either. Both together are more than half of the seconds of the start.
    """
    hidden = [package for package in ("keras", "matplotlib", "sklearn") if package not in sys.modules]
    for package in hidden:
        sys.modules[package] = None  # type: ignore[assignment]
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        for package in hidden:
            del sys.modules[package]


with without_notices(), _quickly():
    import tensorflow as tf
    from tensorflow.python.framework import ops

if not hasattr(ops, "Tensor"):
    ops.Tensor = tf.Tensor
# As in TensorFlow 1: `==` asks whether two tensors are the same object. Otherwise each weight of a network costs a slow
# look at all variables before it: an eighth of the time in which inception_v3 is built, two fifths of nasnet_mobile's.
tf.compat.v1.disable_tensor_equality()

# Each tf.compat.v1 call warns that it is old; this project uses graph mode on purpose.
logging.getLogger("tensorflow").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message=".*layer.apply.* is deprecated")

with _quickly():
    import tf_slim as slim
    from tf_slim import nets
    from tf_slim.layers import layers as slim_layers


def without_autograph(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Returns the function such that TensorFlow takes what it builds as it stands.

    Otherwise TensorFlow would rewrite each layer and each mapped function, to find ifs and loops that depend on
    tensors. There are none here, and the search takes up to a third of the time in which a network is built.
    """
    return tf.autograph.experimental.do_not_convert(function)


def dropout(inputs: tf.Tensor, keep_prob: float, is_training: bool = True) -> tf.Tensor:
    """Returns the float32 inputs with a share of them, by chance, set to 0 and the others divided by their share.

    A product with a mask, where `tf.nn.dropout` chooses between a number and 0: TensorFlow's optimizer of layouts
    stumbles over that scalar and leaves the whole network in a layout that is slow on GPUs.
    """
    if keep_prob == 1.0 or not is_training:
        return inputs
    kept = inputs * (1.0 / keep_prob)
    return kept * tf.cast(tf.random.uniform(tf.shape(inputs)) >= 1.0 - keep_prob, tf.float32)


class _Dropout(slim_layers.core_layers.Dropout):
    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        return dropout(inputs, 1.0 - self.rate, training)


slim_layers.core_layers.Dropout = _Dropout


def _subsample(inputs: tf.Tensor, factor: int, scope: str | None = None) -> tf.Tensor:
    """Returns every `factor`-th row and column of [batch, height, width, depth].

    Slim takes the largest of one, whose gradient is slow: a tenth of ResNet 50's step on an H100.
    """
    return inputs if factor == 1 else slim.avg_pool2d(inputs, [1, 1], stride=factor, scope=scope)


nets.resnet_utils.subsample = _subsample

__all__ = ["dropout", "nets", "slim", "slim_layers", "tf", "without_autograph", "without_notices"]
