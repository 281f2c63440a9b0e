"""The settings of a session: on what hardware, and in what precision, a network runs."""

from collections.abc import Iterator
import contextlib
import functools
import os
from pathlib import Path
from typing import Any, NamedTuple

from metart.networks.slim_compat import tf
from metart.common.flags import UserError

# In bfloat16 these take several times as long as in float32, and a MobileNet's step up to twice as long (on Zen 4).
SLOW_IN_BFLOAT16 = ("DepthwiseConv2dNativeBackpropFilter", "DepthwiseConv2dNativeBackpropInput")

TENSOR_CORES = (7, 0)  # The compute capability of the first GPUs that multiply float16 many times faster.

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


class Device(NamedTuple):
    """Where a network runs, and in what precision.

    Weights, and so checkpoints, stay float32 in every precision; only convolutions and products are rewritten.
    """

    # One of PRECISIONS. `auto` is the fastest that learns as well: float16 on a GPU with tensor cores, bfloat16 on a
    # CPU that computes with it, float32 on others. On a GPU, float32 is that of the CPU, not TensorFloat-32.
    precision: str = "float32"
    use_gpu: bool = True
    jit: bool = False  # With XLA, for a GPU only: faster, and a minute more to start.

    @property
    def arithmetic(self) -> str:
        """What the precision is here: float32, bfloat16 or float16."""
        if self.precision != "auto":
            return self.precision
        if self._gpu:
            return "float16" if self._gpu.get("compute_capability", (0, 0)) >= TENSOR_CORES else "float32"
        return "bfloat16" if _cpu_has_bfloat16() else "float32"

    @property
    def has_gpu(self) -> bool:
        return bool(self._gpu)

    @property
    def name(self) -> str:
        """What a reader calls it, for instance "NVIDIA H100"."""
        return self._gpu["device_name"] if self._gpu else "the CPU"

    @property
    def _gpu(self) -> dict[str, Any]:
        """What TensorFlow knows of the GPU that it will use; nothing where it will use none."""
        return _first_gpu() if self.use_gpu else {}

    def session_config(self) -> tf.compat.v1.ConfigProto:
        """Returns the settings of a session that runs a network; some TensorFlow takes from the process.

        Raises:
            UserError: The device does not compute in that way.
        """
        config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
        config.gpu_options.allow_growth = True
        if not self.use_gpu:
            config.device_count["GPU"] = 0
        with contextlib.suppress(RuntimeError):  # Raised once they are in use; by then it is set.
            for gpu in tf.config.list_physical_devices("GPU"):  # What reads pictures would take them, too.
                if self.use_gpu:
                    tf.config.experimental.set_memory_growth(gpu, True)
                else:
                    tf.config.set_visible_devices([], "GPU")
        if self._gpu:
            if self.precision == "bfloat16":
                raise UserError("--precision=bfloat16 is for CPUs; on a GPU take auto, float16 or float32")
            tf.config.experimental.enable_tensor_float_32_execution(self.precision != "float32")
            os.environ.setdefault("TF_CUDNN_USE_AUTOTUNE", "0")  # As fast without, and the first step 3 s earlier.
        elif self.jit:
            raise UserError("--jit is for GPUs, and none is used here; leave it out")
        elif self.precision == "bfloat16" and not _has_intel_kernels():
            raise UserError("--precision=bfloat16 needs Intel's kernels, which are off; set TF_ENABLE_ONEDNN_OPTS=1")
        if self.jit:
            config.graph_options.optimizer_options.global_jit_level = tf.compat.v1.OptimizerOptions.ON_2
        rewrites = config.graph_options.rewrite_options
        rewrites.meta_optimizer_iterations = rewrites.ONE  # A second pass costs a second of the start and wins nothing.
        if self.arithmetic == "bfloat16":
            rewrites.auto_mixed_precision_onednn_bfloat16 = rewrites.ON
            os.environ["TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_ALLOWLIST_REMOVE"] = ",".join(SLOW_IN_BFLOAT16)
        elif self.arithmetic == "float16":
            rewrites.auto_mixed_precision = rewrites.ON
            # Batch norm in the layout of tensor cores: ResNet 50 is 1.8 times as fast. XLA compiles its own.
            os.environ.setdefault("TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT", str(int(not self.jit)))
        return config


DEFAULT_DEVICE = Device()

# Of a session whose graph runs once: to optimize it takes longer than to run it, and a GPU's memory is left to others.
RUN_ONCE = tf.compat.v1.ConfigProto(device_count={"GPU": 0})
RUN_ONCE.graph_options.rewrite_options.disable_meta_optimizer = True


@contextlib.contextmanager
def enough_memory() -> Iterator[None]:
    """Makes one clear error of what TensorFlow raises in the block when the GPU, or the machine, has no more memory.

    Raises:
        UserError: Says what to do.
    """
    try:
        yield
    except tf.errors.ResourceExhaustedError:
        raise UserError("out of memory; give a smaller --batch_size, or smaller images") from None


def _cpu_has_bfloat16() -> bool:
    cpu = Path("/proc/cpuinfo")
    has_it = cpu.is_file() and not {"avx512_bf16", "amx_bf16"}.isdisjoint(cpu.read_text().split())
    return has_it and _has_intel_kernels()


def _has_intel_kernels() -> bool:
    """See slim_compat."""
    return os.environ["TF_ENABLE_ONEDNN_OPTS"].lower() not in ("0", "false")


@functools.cache
def _first_gpu() -> dict[str, Any]:
    gpus = tf.config.list_physical_devices("GPU")
    return {"device_name": "a GPU", **tf.config.experimental.get_device_details(gpus[0])} if gpus else {}
