"""GPUs: what can be proved without one, and what only one can show."""

from collections import Counter
import csv
import itertools
import os
from pathlib import Path
import re
import shutil
import sys
from typing import Any

from conftest import IMAGE_SIZE, MODEL_NAME, recipe_of
import numpy as np
from processes import run_script
import pytest
from tensorflow.core.protobuf import config_pb2, device_properties_pb2
from tensorflow.python.grappler import cluster as grappler_cluster
from tensorflow.python.grappler import tf_optimizer

from metart.networks.slim_compat import nets, slim, tf
from metart.common.flags import UserError
from metart.common.interruption import Interruption
from metart.networks import registry, session, slim_compat
from metart.networks.session import Device, enough_memory
from metart.training import input_pipeline, start, training_graph
from metart.training.cluster import Cluster
from metart.training.input_pipeline import Augmentation
from metart.training.loop import Intervals, Measurement, Plan, Run, run_steps
from metart.training.optimizers import Schedule
import train_image_classifier

GPU = {"device_name": "NVIDIA H100 80GB HBM3", "compute_capability": (9, 0)}
SMALL = [f"--model_name={MODEL_NAME}", f"--train_image_size={IMAGE_SIZE}", "--batch_size=4", "--optimizer=sgd"]


def train(train_dir: Path, dataset_dir: Path, *flags: str) -> None:
    train_image_classifier.main([f"--train_dir={train_dir}", f"--dataset_dir={dataset_dir}", *SMALL, *flags])


def placed_by_tensorflow(graph: tf.Graph) -> Counter[tuple[str, str]]:
    """Returns the operations, each with its layout, once TensorFlow chose the layouts for an H100."""
    properties = device_properties_pb2.DeviceProperties(
        type="GPU", vendor="NVIDIA", environment={"architecture": "9.0"}, num_cores=132, frequency=1980
    )
    name = "/job:localhost/replica:0/task:0/device:GPU:0"
    gpu = grappler_cluster.Cluster(devices=[device_properties_pb2.NamedDevice(name=name, properties=properties)])
    config = config_pb2.ConfigProto()
    rewrites = config.graph_options.rewrite_options
    rewrites.optimizers.append("layout")
    rewrites.fail_on_optimizer_errors = True
    with graph.as_default():
        chosen = tf_optimizer.OptimizeGraph(config, tf.compat.v1.train.export_meta_graph(), cluster=gpu)
    return Counter((node.op, node.attr["data_format"].s.decode()) for node in chosen.node)


@pytest.mark.parametrize("model_name", ["inception_v2", "vgg_a", "wide_resnet_10_4", "mobilenet_v3_small"])
def test_tensorflow_finds_the_layout_that_suits_a_gpu(model_name: str) -> None:
    """One operation that it stumbles over leaves all of a network in the slow layout."""
    size = 224 if model_name == "vgg_a" else IMAGE_SIZE
    with tf.Graph().as_default() as graph, tf.device("/gpu:0"):
        images = tf.compat.v1.placeholder(tf.float32, [4, size, size, 3])
        logits, _ = registry.build(model_name, images, 3, is_training=True)
        weights = tf.compat.v1.trainable_variables()
        pairs = zip(weights, tf.gradients(tf.nn.l2_loss(logits), weights), strict=True)
        update = tf.group(*[weight.assign_sub(gradient) for weight, gradient in pairs])
        tf.compat.v1.add_to_collection(tf.compat.v1.GraphKeys.TRAIN_OP, update)
    layouts = placed_by_tensorflow(graph)
    for operation in ("Conv2D", "Conv2DBackpropFilter"):
        assert layouts[operation, "NCHW"] > 9 * layouts[operation, "NHWC"]


@pytest.mark.parametrize("keep_prob", [1.0, 0.8, 0.5, 0.25])
def test_dropout_keeps_a_share_and_the_mean(keep_prob: float) -> None:
    inputs = 1 + np.random.default_rng(0).random((100, 300), np.float32)
    with tf.Graph().as_default(), tf.compat.v1.Session() as running:
        tf.compat.v1.set_random_seed(3)
        drops, passes = (slim.dropout(tf.constant(inputs), keep_prob, is_training=drawn) for drawn in (True, False))
        first, second, unchanged = running.run(drops), running.run(drops), running.run(passes)
    np.testing.assert_array_equal(unchanged, inputs)
    for dropped in (first, second):
        np.testing.assert_allclose(dropped[dropped != 0], (inputs / keep_prob)[dropped != 0], rtol=1e-6)
        assert np.mean(dropped != 0) == pytest.approx(keep_prob, abs=0.01)
    assert np.mean((first != 0) & (second != 0)) == pytest.approx(keep_prob**2, abs=0.01)  # Drawn anew each time.


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What TensorFlow would say of a GPU, where there is none."""
    details: dict[str, object] = dict(GPU)
    for name in ("TF_CUDNN_USE_AUTOTUNE", "TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT"):
        monkeypatch.setenv(name, "")  # So that it is as before at the end.
        monkeypatch.delenv(name)
    monkeypatch.setattr(session, "_first_gpu", lambda: details)
    return details


@pytest.mark.parametrize(
    ("capability", "arithmetic"), [((9, 0), "float16"), ((7, 0), "float16"), ((6, 1), "float32"), (None, "float32")]
)
def test_auto_is_float16_on_tensor_cores(
    capability: tuple[int, int] | None, arithmetic: str, gpu: dict[str, object]
) -> None:
    gpu.pop("compute_capability")
    if capability:
        gpu["compute_capability"] = capability
    rewrites = Device("auto").session_config().graph_options.rewrite_options
    assert Device("auto").arithmetic == arithmetic
    assert (rewrites.auto_mixed_precision == rewrites.ON) == (arithmetic == "float16")
    assert rewrites.auto_mixed_precision_onednn_bfloat16 != rewrites.ON  # What is for CPUs stays off.
    assert Device("auto", use_gpu=False).arithmetic != "float16"
    assert Device("float32").arithmetic == "float32"


@pytest.mark.parametrize(("precision", "jit"), [("auto", False), ("auto", True), ("float32", False)])
def test_a_gpu_gets_its_own_kernels(precision: str, jit: bool, gpu: dict[str, object]) -> None:
    """Batch norm in the layout of tensor cores, which XLA does not know; and no search among all kernels of cuDNN."""
    options = Device(precision, jit=jit).session_config().graph_options.optimizer_options
    assert (options.global_jit_level == options.ON_2) == jit
    persistent = os.environ.get("TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT")
    assert persistent == (None if precision == "float32" else "0" if jit else "1")
    assert os.environ["TF_CUDNN_USE_AUTOTUNE"] == "0"


def test_what_no_cpu_computes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--jit is for GPUs, and none is used here; leave it out"):
        Device(use_gpu=False, jit=True).session_config()
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert Device("auto", use_gpu=False).arithmetic == "float32"
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "False")  # As TensorFlow reads it, too.
    assert Device("auto", use_gpu=False).arithmetic == "float32"
    with pytest.raises(UserError, match="set TF_ENABLE_ONEDNN_OPTS=1"):
        Device("bfloat16", use_gpu=False).session_config()


@pytest.mark.parametrize(
    ("control", "cards", "package", "found"),
    [
        ("nvidiactl", None, "tensorflow", True),
        ("nvidiactl", "1", "tensorflow", True),
        ("nvidiactl", "", "tensorflow", False),
        ("nvidiactl", "-1", "tensorflow", False),
        ("nvidiactl", None, "tensorflow-cpu", False),
        ("none", None, "tensorflow", False),
    ],
)
def test_intel_kernels_are_off_beside_a_gpu_alone(
    control: str, cards: str | None, package: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", cards or "")
    if cards is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    (tmp_path / "nvidiactl").touch()
    distribution = tmp_path / f"{package.replace('-', '_')}-2.21.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 2.21.0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert slim_compat._may_find_a_gpu(tmp_path / control) == found


def test_nothing_stands_between_the_gradients_of_batch_norm_and_relu() -> None:
    """TensorFlow joins the two on a GPU only where no operation waits for one of them, as it would for a gate."""
    recipe = recipe_of(precision="float16")
    with tf.Graph().as_default() as graph:
        images = tf.zeros([4, IMAGE_SIZE, IMAGE_SIZE, 3])
        training_graph.build_network(recipe, [1.0] * 3, images, tf.zeros([4], tf.int64), Cluster())
        awaited = Counter(other for operation in graph.get_operations() for other in operation.control_inputs)
    kinds = ("FusedBatchNormV3", "FusedBatchNormGradV3", "Relu", "ReluGrad")
    found = [operation for operation in graph.get_operations() if operation.type in kinds]
    assert {operation.type for operation in found} == set(kinds)
    assert not [operation.name for operation in found if operation.control_inputs or awaited[operation]]


def test_a_residual_network_leaves_out_places_as_slim_does() -> None:
    inputs = tf.constant(np.random.default_rng(0).random((2, 7, 6, 3), np.float32))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        ours = nets.resnet_utils.subsample(inputs, 2)
        theirs = slim.max_pool2d(inputs, [1, 1], stride=2)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(tape.gradient(ours, inputs), tape.gradient(theirs, inputs))
    assert nets.resnet_utils.subsample(inputs, 1) is inputs


def test_no_gpu_computes_in_the_bfloat16_of_cpus(gpu: dict[str, object]) -> None:
    with pytest.raises(UserError, match="--precision=bfloat16 is for CPUs; on a GPU take auto, float16 or float32"):
        Device("bfloat16").session_config()
    Device("bfloat16", use_gpu=False).session_config()


def test_tensor_float_32_is_not_float32(gpu: dict[str, object]) -> None:
    try:
        for precision, allowed in (("float32", False), ("auto", True)):
            Device(precision).session_config()
            assert tf.config.experimental.tensor_float_32_execution_enabled() == allowed
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(True)


def test_memory_that_runs_out_is_one_clear_error() -> None:
    with (
        tf.Graph().as_default(),
        tf.compat.v1.Session() as this_session,
        pytest.raises(UserError, match="out of memory; give a smaller --batch_size"),
        enough_memory(),
    ):
        this_session.run(tf.reduce_sum(tf.random.uniform([2**44])))


def test_the_choice_is_printed_once(
    gpu: dict[str, object], dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, dataset_dir, "--max_number_of_steps=2")
    assert capsys.readouterr().out.count("float16 on NVIDIA H100 80GB HBM3\n") == 1
    train(tmp_path, dataset_dir, "--max_number_of_steps=3", "--clone_on_cpu=True")  # Its checkpoint fits every machine.
    assert " on NVIDIA" not in capsys.readouterr().out
    names = [name for name, _ in tf.train.list_variables(str(tmp_path))]
    assert not [name for name in names if "scale" in name or "applied" in name]


@pytest.mark.parametrize("sizes", [[], [16, 24]])
def test_batches_copied_ahead_are_the_same(sizes: list[int], gpu: dict[str, object], dataset_dir: Path) -> None:
    """All of them, in their order; the pictures for TensorBoard are of the next one."""
    nothing: list[Any] = [None] * len(start.Settings._fields)
    of_input = {"batch_size": 4, "random_seed": 0, "augmentation": Augmentation(32), "first_image_sizes": sizes}
    settings = start.Settings(*nothing)._replace(**of_input)  # type: ignore[arg-type]
    dataset = input_pipeline.open_split("arts", "train", dataset_dir)
    plan = Plan(2, 4, Schedule("fixed", 0.1, 0.1, 1.0, 1.0, 0.0, total_steps=6))

    def batches(device: Device) -> list[list[np.ndarray]]:
        with tf.Graph().as_default():
            inputs = start.build_inputs(settings._replace(device=device), plan, dataset, Cluster(), head_alone=False)
            with tf.compat.v1.Session(config=tf.compat.v1.ConfigProto(allow_soft_placement=True)) as running:
                running.run(inputs.iterator.initializer)
                running.run(inputs.copy_ahead)
                wanted = [inputs.images, inputs.labels, *inputs.shown, inputs.copy_ahead]
                return [running.run(wanted)[:-1] for _ in range(5)]

    ahead, plain = batches(Device("auto")), batches(Device("auto", use_gpu=False))
    for copied, made, following in zip(ahead, plain, plain[1:], strict=False):
        np.testing.assert_array_equal(copied[0], made[0])
        np.testing.assert_array_equal(copied[1], made[1])
        np.testing.assert_array_equal(copied[2], following[2])


def test_a_damaged_file_is_named_where_batches_are_copied_ahead(
    gpu: dict[str, object], dataset_dir: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(dataset_dir, tmp_path / "data", ignore=shutil.ignore_patterns("met_art"))
    damaged = data / "arts_train_00003-of-00005.tfrecord"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{damaged} is damaged or cut off"):
        train(tmp_path / "logs", data, "--max_number_of_steps=5")


def test_steps_that_overflow_are_skipped_and_counted(
    dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gradients of 1e35 or so are finite in float32; times TensorFlow's first scale, 2 ** 15, they are not."""
    flags = ["--precision=float16", "--learning_rate=1e-38", "--weight_decay=1e35", "--max_number_of_steps=20"]
    train(tmp_path / "logs", dataset_dir, *flags)
    skipped = re.search(r", (\d+) steps skipped whose gradients were too large for float16, ", capsys.readouterr().out)
    assert skipped and 2 <= int(skipped[1]) <= 12


@pytest.mark.parametrize(("steps", "ends"), [(100, True), (20, False)])
def test_a_run_that_only_overflows_ends(steps: int, ends: bool, tmp_path: Path) -> None:
    recipe = recipe_of("", precision="float16")
    with tf.Graph().as_default(), tf.compat.v1.Session() as running:
        root = tf.sqrt(slim.model_variable("root", [], initializer=tf.zeros_initializer()))  # At 0 it has no slope.
        tf.compat.v1.losses.add_loss(root)
        step = training_graph._build_update(recipe, "", Cluster())
        running.run([tf.compat.v1.global_variables_initializer(), tf.compat.v1.local_variables_initializer()])
        plan = Plan(0, 1, Schedule("fixed", 0.1, 0.1, 1.0, 1.0, 0.0, total_steps=steps))
        saver = tf.compat.v1.train.Saver()
        run = Run(tmp_path, running, step, [], saver, plan, Cluster(), Interruption(), [], lambda: None)
        intervals = Intervals(10, 600, 600, 10.0)

        def measure(checkpoint: str) -> Measurement:
            return Measurement({}, checkpoint, is_over=False)

        if ends:
            with pytest.raises(UserError, match=r"no longer a finite number at step 40 .*last good checkpoint: .*-30"):
                run_steps(run, itertools.repeat({}), intervals, measure)
        else:
            assert ", 20 steps skipped " in run_steps(run, itertools.repeat({}), intervals, measure)
        assert running.run(tf.compat.v1.trainable_variables()) == [0]


@pytest.mark.skipif(not tf.config.list_physical_devices("GPU"), reason="needs a GPU")
def test_on_a_gpu(dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of TensorFlow's own on the terminal, and the answers of the CPU."""
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")  # As users have it.
    logs, split = f"--train_dir={tmp_path / 'logs'}", f"--dataset_dir={dataset_dir}"
    trained = run_script("train_image_classifier.py", logs, split, *SMALL, "--max_number_of_steps=3")
    assert trained.status == 0 and "float16 on " in trained.output
    answers = []
    for device in ("--clone_on_cpu=False", "--clone_on_cpu=True"):
        eval_dir = tmp_path / device
        flags = [f"--checkpoint_path={tmp_path / 'logs'}", split, f"--eval_dir={eval_dir}", device]
        evaluated = run_script("eval_image_classifier.py", *flags)
        assert evaluated.status == 0, evaluated.errors
        for line in (*trained.errors.splitlines(), *evaluated.errors.splitlines()):
            assert line.startswith(("training: ", "evaluating: ")), line
        with (eval_dir / "predictions.csv").open() as file:
            answers.append([float(row["probability_of_truth"]) for row in csv.DictReader(file)])
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-3)
