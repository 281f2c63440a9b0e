"""The networks of slim's zoo that are written anew here, against what slim's own have and answer.

MET_ART_SHARED_DATA names a folder with all of it, and says how it was made; without that folder, the facts below stand
for it.
"""

import functools
import json
import os
from pathlib import Path
from typing import Any, NamedTuple
import zlib

from conftest import LABEL_COLOURS, recipe_of
import numpy as np
import pytest
from test_export_model import run_tflite

from metart.networks.slim_compat import slim, tf
import classify
import export_model
from metart.evaluation import inference
from metart.networks import registry
from metart.networks.session import RUN_ONCE, Device
from metart.training import input_pipeline, training_graph
from metart.training.cluster import Cluster
import train_image_classifier

NUM_CLASSES = 7


class Facts(NamedTuple):
    """What slim's own network has and answers, with auxiliary head and 7 labels."""

    variables: int
    trainable_numbers: int
    checksum: int  # CRC-32 of the lines that `Built.variables` has.
    kernel_factor: float  # Of the values of `fixed_value`.
    image_size: int
    logits: tuple[float, float, float]  # The first of them, to `fixed_pixels`.


FACTS = {
    "inception_v4": Facts(608, 43_716_942, 0x16461C5A, 1.0, 299, (1.492954, -6.193899, 1.241202)),
    "inception_resnet_v2": Facts(908, 56_890_094, 0x93FEFF83, 1.0, 299, (-5.896467, -6.394794, -3.206299)),
    "mobilenet_v1": Facts(137, 3_214_151, 0x5F274FC3, 1.0, 96, (-0.8969690, 0.1830564, 0.1475788)),
    "mobilenet_v1_075": Facts(137, 1_821_943, 0x3AE1EDED, 1.0, 96, (-0.7312037, 0.9414284, 0.7417148)),
    "mobilenet_v1_050": Facts(137, 822_183, 0xF1172B19, 1.0, 96, (-0.06657880, -0.001231203, 0.4862105)),
    "mobilenet_v1_025": Facts(137, 214_871, 0x045085F1, 1.0, 96, (-0.2867846, 0.09623327, 0.2414954)),
    "mobilenet_v2": Facts(262, 2_232_839, 0x16A7D179, 0.8, 96, (-0.1935182, 0.6102811, -0.2771502)),
    "mobilenet_v2_140": Facts(262, 4_328_327, 0xFF47A08E, 0.8, 96, (0.6778586, 0.2614848, -1.578870)),
    "mobilenet_v2_035": Facts(262, 405_095, 0xFEF8351D, 0.8, 96, (0.2767467, -0.4274347, 0.2531673)),
    "mobilenet_v3_large": Facts(266, 4_210_999, 0x37C70A38, 0.9, 96, (5.300973, 1.060063, 2.022307)),
    "mobilenet_v3_large_minimalistic": Facts(234, 2_652_255, 0xB8CFCC83, 0.75, 96, (1.449438, 0.2731314, -0.8032431)),
    "mobilenet_v3_small": Facts(210, 1_525_031, 0x671B49FC, 1.0, 96, (3.178316, -6.471068, -20.90312)),
    "mobilenet_v3_small_minimalistic": Facts(174, 1_026_911, 0x94AF5ADE, 0.75, 96, (0.4464641, -0.4759731, -0.1314604)),
    "nasnet_mobile": Facts(1138, 5_888_000, 0x353B6559, 0.75, 224, (-0.8474662, 0.05713792, -0.07407124)),
    "nasnet_large": Facts(1558, 88_552_548, 0xC3EA550A, 0.75, 331, (-0.4779975, 0.5191236, 2.933898)),
    "pnasnet_mobile": Facts(945, 5_640_213, 0x8F15D9B9, 0.75, 224, (-1.701886, 0.4742739, -0.3303979)),
    "pnasnet_large": Facts(1191, 85_589_514, 0x08D0FB91, 0.75, 331, (-2.61621, 0.7972352, 1.636361)),
}
# Their graphs take minutes, and gigabytes.
HEAVY = ("nasnet_large", "pnasnet_large")
# They differ from another one in the widths of layers, or in which layers squeeze and excite.
VARIANTS = ("mobilenet_v1_050", "mobilenet_v1_075", "mobilenet_v2_140", "mobilenet_v3_large_minimalistic")
NAMES = [
    pytest.param(name, marks=[pytest.mark.slow, pytest.mark.timeout(900)] if name in (*HEAVY, *VARIANTS) else [])
    for name in FACTS
]


class Built(NamedTuple):
    """What a network of ours has and answers."""

    variables: list[str]  # `name shape flags` in order; flags: t trainable, r under weight decay.
    trainable_numbers: int
    logits: np.ndarray
    auxiliary_logits: np.ndarray | None
    head_input: np.ndarray
    head_scope: str


def fixed_value(name: str, shape: list[int], kernel_factor: float) -> np.ndarray:
    """Returns what the variable of that name is set to: activations stay finite, and each variable counts."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    kind = name.rpartition("/")[2]
    if kind in ("weights", "pointwise_weights"):
        return generator.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1])) * kernel_factor
    if kind == "depthwise_weights":
        return generator.standard_normal(shape) * np.sqrt(2 / (shape[0] * shape[1])) * kernel_factor
    if kind in ("biases", "beta", "moving_mean"):
        return 0.1 * generator.standard_normal(shape)
    return generator.uniform(0.5, 1.5, shape)


def fixed_pixels(size: int) -> np.ndarray:
    return 127.5 + 127.5 * np.random.default_rng(0).uniform(-1, 1, (1, size, size, 3)).astype(np.float32)


@functools.cache
def built(name: str, size: int) -> Built:
    with tf.Graph().as_default(), tf.compat.v1.Session(config=RUN_ONCE) as session:
        images = tf.compat.v1.placeholder(tf.float32, [None, size, size, 3])
        logits, auxiliary = registry.build(name, images, NUM_CLASSES, weight_decay=0.00004, with_auxiliary_head=True)
        head_input, head_scope = registry.head(logits)
        variables = slim.get_model_variables()
        decay = tf.add_n(tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.REGULARIZATION_LOSSES))
        decayed = tf.gradients(decay, variables)
        lines = [
            f"{variable.op.name} {variable.shape.as_list()} "
            f"{'t' if variable.trainable else ''}{'r' if gradient is not None else ''}"
            for variable, gradient in zip(variables, decayed, strict=True)
        ]
        factor = FACTS[name].kernel_factor
        values = [fixed_value(variable.op.name, variable.shape.as_list(), factor) for variable in variables]
        session.run(
            [variable.initializer for variable in variables],
            {variable.initializer.inputs[1]: value for variable, value in zip(variables, values, strict=True)},
        )
        answers = session.run(
            [logits, registry.spatial_mean(head_input), *([] if auxiliary is None else [auxiliary])],
            {images: fixed_pixels(size)},
        )
    trainable_numbers = sum(variable.shape.num_elements() for variable in variables if variable.trainable)
    first, last_input, *second = (answer[0] for answer in answers)
    return Built(lines, trainable_numbers, first, second[0] if second else None, last_input, head_scope)


@pytest.mark.parametrize("name", NAMES)
def test_variables_and_answers(name: str) -> None:
    facts = FACTS[name]
    ours = built(name, facts.image_size)
    assert len(ours.variables) == facts.variables
    assert ours.trainable_numbers == facts.trainable_numbers
    assert zlib.crc32("\n".join(ours.variables).encode()) == facts.checksum
    np.testing.assert_allclose(ours.logits[:3], facts.logits, rtol=0, atol=1e-5 * abs(ours.logits).max())
    assert f"{ours.head_scope}/weights [" in "\n".join(ours.variables)


@functools.cache
def oracle(name: str) -> dict[str, Any]:
    shared = os.environ.get("MET_ART_SHARED_DATA")
    if not shared:
        pytest.skip("MET_ART_SHARED_DATA does not name the folder with what slim's networks have and answer")
    return json.loads((Path(shared) / "nets" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_is_known_of_slims_network(name: str) -> None:
    known = oracle(name)
    network = registry.NETWORKS[name]
    assert network.image_size == known["default_image_size"]
    assert registry.dropout_keep_probability(name) == known["dropout_keep_prob"]
    assert known["preprocessing"] in ("inception_preprocessing", None)  # The family's, where it was left out there.
    assert (network.scale, network.mean) == (127.5, (127.5, 127.5, 127.5))
    variables = [
        f"{variable} {shape} {''.join(flag for flag in flags if flag in 'tr')}"
        for variable, shape, flags in known["variables"]
    ]
    for size, answers in known["at_size"].items():
        ours = built(name, int(size))
        assert ours.variables == variables
        for logits, expected in (
            (ours.logits, answers["logits_float64"]),
            (ours.auxiliary_logits, answers.get("aux_logits_float64")),
        ):
            assert (logits is None) == (expected is None)
            if logits is not None:
                np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        last = answers["last_layer_input"]
        assert len(ours.head_input) == last["length"]
        np.testing.assert_allclose(ours.head_input[:8], last["first"], rtol=1e-3, atol=1e-5 * ours.head_input.max())


def test_published_accuracy_and_address() -> None:
    assert set(FACTS) <= set(registry.PUBLISHED) <= set(registry.NETWORKS)
    for top_1, address in registry.PUBLISHED.values():
        assert 0.4 < top_1 < 0.9
        assert address.endswith((".tar.gz", ".tgz"))


def train(name: str, size: int, steps: int, precision: str) -> tuple[list[float], list[Any]]:
    """Returns the loss of each step on one batch, and the operations that a step runs."""
    generator = np.random.default_rng(0)
    recipe = recipe_of(name, optimizer="adam", opt_epsilon=1e-8, precision=precision)
    config = Device(precision, use_gpu=False).session_config()
    with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
        tf.compat.v1.set_random_seed(0)
        images = tf.constant(generator.uniform(0, 255, (8, size, size, 3)), tf.float32)
        labels = tf.constant(generator.permutation(8) % 4)
        model = training_graph.build_network(recipe, [1.0] * 4, images, labels, Cluster())
        session.run(tf.compat.v1.global_variables_initializer())
        options, metadata = tf.compat.v1.RunOptions(output_partition_graphs=True), tf.compat.v1.RunMetadata()
        step, feeds = [model.loss, model.train_op], {model.learning_rate: 0.002}
        losses = [session.run(step, feeds, options, metadata)[0]]
        losses += [session.run(step, feeds)[0] for _ in range(steps - 1)]
    return losses, [node for graph in metadata.partition_graphs for node in graph.node]


# What every network can do, the others show with --slow; 107 and 72 are the fewest pixels that leave something for the
# auxiliary head, 224 what inception_v1 is made for. The largest of a family differ from the others in numbers only.
FURTHER_NETWORKS = [
    ("efficientnet_lite0", 64),
    ("efficientnet_lite1", 64),
    ("efficientnet_lite2", 64),
    ("efficientnet_lite3", 64),
    ("efficientnet_lite4", 64),
    ("inception_v1", 224),
    ("inception_v2", 64),
    ("inception_v3", 107),
    ("inception_v4", 107),
    ("inception_resnet_v2", 107),
    ("mobilenet_v1", 64),
    ("mobilenet_v2_035", 64),
    ("mobilenet_v2", 64),
    ("mobilenet_v3_large", 64),
    ("mobilenet_v3_small_minimalistic", 64),
    ("nasnet_mobile", 72),
    ("pnasnet_mobile", 72),
    ("resnet_v1_50", 64),
    ("resnet_v2_50", 64),
    ("wide_resnet_10_4", 64),
    ("wide_resnet_10_4_x2", 64),
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mobilenet_v1_025", 32),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in [("mobilenet_v3_small", 32), *FURTHER_NETWORKS]),
    ],
)
def test_training_lowers_the_loss(name: str, size: int) -> None:
    trained = {precision: train(name, size, 12, precision) for precision in ("float32", "bfloat16")}
    for losses, _ in trained.values():
        assert np.isfinite(losses).all()
        assert losses[-1] < 0.7 * losses[0]
    if Device("auto").arithmetic == "bfloat16":
        kinds = {
            node.op.removeprefix("_MklNative"): node.attr["T"].type
            for node in trained["bfloat16"][1]
            if "Conv2DBackprop" in node.op or "Conv2dNative" in node.op
        }
        assert kinds["Conv2DBackpropFilter"] == tf.bfloat16.as_datatype_enum
        assert "DepthwiseConv2dNative" in kinds or name.startswith(("inception", "resnet", "wide_resnet"))
        for kind, wanted in {
            "DepthwiseConv2dNative": tf.bfloat16,
            "DepthwiseConv2dNativeBackpropFilter": tf.float32,
            "DepthwiseConv2dNativeBackpropInput": tf.float32,
        }.items():
            assert kinds.get(kind, wanted.as_datatype_enum) == wanted.as_datatype_enum


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "size", "steps"),
    [
        ("mobilenet_v3_small", 64, 60),
        # Hardly trained, some of these differ so little between labels that eight bits turn answers they are sure of.
        *(pytest.param(*each, 120, marks=pytest.mark.slow) for each in FURTHER_NETWORKS),
    ],
)
def test_from_training_to_a_phone(name: str, size: int, steps: int, dataset_dir: Path, tmp_path: Path) -> None:
    flags = [f"--dataset_dir={dataset_dir}", f"--model_name={name}", f"--train_image_size={size}", "--batch_size=9"]
    flags.append(f"--max_number_of_steps={steps}")
    rate = 0.001 if name == "inception_v4" else 0.005  # With 0.005 it learns too little in so few steps.
    train_image_classifier.main([f"--train_dir={tmp_path}/logs", f"--learning_rate={rate}", *flags])
    with tf.Graph().as_default():
        _, head = registry.head(registry.build(name, tf.zeros([1, size, size, 3]), len(LABEL_COLOURS))[0])
    start = [f"--checkpoint_path={tmp_path}/logs", f"--trainable_scopes={head}", "--feature_views=1"]
    train_image_classifier.main([f"--train_dir={tmp_path}/head", "--learning_rate=0.01", *start, *flags])
    assert (tmp_path / "head" / "features" / "view-00.npy").is_file()
    sources = [str(path) for path in dataset_dir.glob("*.tfrecord")]
    images, truth, _ = next(input_pipeline.evaluation_batches(sources, 1000, size).as_numpy_iterator())
    with inference.open_classifier(f"{tmp_path}/head") as classifier:
        probabilities = classifier.probabilities(images)
    assert (probabilities.argmax(axis=1) == truth).mean() > 0.8

    export_model.main(
        [f"--checkpoint_path={tmp_path}/head", f"--export_dir={tmp_path}/export", f"--dataset_dir={dataset_dir}"]
    )
    np.testing.assert_allclose(run_tflite(tmp_path / f"export/{steps}/model.tflite", images), probabilities, atol=1e-4)
    of_bytes = run_tflite(tmp_path / f"export/{steps}/model_int8.tflite", images)
    # Eight bits may turn what is nearly a tie. Two pictures differ by 0.4 on average; the files with eight bits by 0.03
    # (mobilenet_v3_small), 0.04 (efficientnet_lite0) and 0.13 (resnet_v1_50), and no answer is another.
    assert np.abs(of_bytes - probabilities).mean() < 0.15
    runner_up, first = np.sort(probabilities)[:, -2:].T
    sure = first - runner_up > 0.5
    assert sure.mean() > 0.5
    assert (of_bytes.argmax(axis=1) == probabilities.argmax(axis=1))[sure].mean() > 0.9

    picture = next((dataset_dir / "met_art" / next(iter(LABEL_COLOURS))).iterdir())
    classify.main([f"--checkpoint_path={tmp_path}/head", f"--explain_dir={tmp_path}/why", f"--image_file={picture}"])
    assert [page.name for page in (tmp_path / "why").iterdir()] == [f"0001-{picture.name}.png"]
