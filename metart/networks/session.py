"""The settings of a session: on what hardware, and in what precision, a network runs."""

import os
from pathlib import Path
from typing import NamedTuple

from metart.networks.slim_compat import tf

# In bfloat16 these take several times as long as in float32, and a MobileNet's step up to twice as long (on Zen 4).
SLOW_IN_BFLOAT16 = ("DepthwiseConv2dNativeBackpropFilter", "DepthwiseConv2dNativeBackpropInput")

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


class Device(NamedTuple):
    """Where a network runs, and in what precision.

    Weights, and so checkpoints, stay float32 in every precision; only convolutions and products are rewritten.
    """

    # One of PRECISIONS. `auto` is bfloat16 where the CPU computes with it, otherwise float32; a GPU computes float32
    # products in TensorFloat-32 by itself. `float16` is for GPUs.
    precision: str = "float32"
    use_gpu: bool = True

    @property
    def computes_in_bfloat16(self) -> bool:
        return self.precision == "bfloat16" or (self.precision == "auto" and _cpu_has_bfloat16())

    def session_config(self) -> tf.compat.v1.ConfigProto:
        """Returns the settings of a session that runs a network; one of them TensorFlow takes from the environment."""
        config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
        config.gpu_options.allow_growth = True
        if not self.use_gpu:
            config.device_count["GPU"] = 0
        rewrites = config.graph_options.rewrite_options
        rewrites.meta_optimizer_iterations = rewrites.ONE  # A second pass costs a second of the start and wins nothing.
        if self.computes_in_bfloat16:
            rewrites.auto_mixed_precision_onednn_bfloat16 = rewrites.ON
            os.environ["TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_ALLOWLIST_REMOVE"] = ",".join(SLOW_IN_BFLOAT16)
        elif self.precision == "float16":
            rewrites.auto_mixed_precision = rewrites.ON
        return config


DEFAULT_DEVICE = Device()


def _cpu_has_bfloat16() -> bool:
    cpu = Path("/proc/cpuinfo")
    return cpu.is_file() and not {"avx512_bf16", "amx_bf16"}.isdisjoint(cpu.read_text().split())
