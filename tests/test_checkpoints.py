"""Checkpoints: which one is meant, whether it fits, what of it is taken; and what is said where it is not."""

from collections.abc import Iterator
import contextlib
import json
import os
from pathlib import Path
import re
import resource
import shutil
import tempfile

import numpy as np
import pytest

from metart.networks.slim_compat import slim, tf
from metart.common.flags import UserError
from metart.common.labels import write_labels
from metart.networks import checkpoints, registry

LABELS = ["American", "Chinese", "French"]


@contextlib.contextmanager
def network(num_classes: int = 3, layers: tuple[str, ...] = ("Conv1", "Conv2")) -> Iterator[list[tf.Variable]]:
    """A graph with the variables of a network of two layers and two heads, and a global step."""
    with tf.Graph().as_default():
        tf.compat.v1.train.get_or_create_global_step()
        for layer in layers:
            slim.model_variable(f"Net/{layer}/weights", [3, 3, 4, 4], initializer=tf.compat.v1.ones_initializer())
        for head in ("Logits", "AuxLogits/Last"):
            slim.model_variable(f"Net/{head}/weights", [4, num_classes], initializer=tf.compat.v1.ones_initializer())
            slim.model_variable(f"Net/{head}/biases", [num_classes], initializer=tf.compat.v1.ones_initializer())
            tf.compat.v1.add_to_collection(registry.HEADS, f"Net/{head}")
        yield slim.get_model_variables()


def save(folder: Path, *steps: int, num_classes: int = 3) -> str:
    """Writes checkpoints of `network` and returns the last one."""
    folder.mkdir(exist_ok=True)
    saved = ""
    with network(num_classes), tf.compat.v1.Session() as session:
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(save_relative_paths=True)
        for step in steps:
            saved = checkpoints.save(session, saver, folder, step)
    return saved


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("logs"), 9, 100, 20)


def refusal(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_means_its_newest_checkpoint(stored: str) -> None:
    folder = Path(stored).parent
    assert checkpoints.newest(str(folder)) == str(folder / "model.ckpt-100")
    assert checkpoints.newest(str(folder / "model.ckpt-9")) == str(folder / "model.ckpt-9")
    for part in ("index", "data-00000-of-00001"):  # What a shell completes the name to.
        assert checkpoints.newest(str(folder / f"model.ckpt-9.{part}")) == str(folder / "model.ckpt-9")
    assert checkpoints.step(str(folder / "model.ckpt-100")) == 100
    assert checkpoints.step("/zoo/inception_v3.ckpt") == 0


def test_a_folder_may_be_named_as_a_file_of_a_checkpoint(stored: str, tmp_path: Path) -> None:
    folder = shutil.copytree(Path(stored).parent, tmp_path / "run.meta")
    assert checkpoints.newest(folder) == f"{folder}/model.ckpt-100"


def test_a_checkpoint_is_slims(stored: str) -> None:
    folder = Path(stored).parent
    assert {path.name for path in folder.iterdir()} == {"checkpoint"} | {
        f"model.ckpt-{step}.{part}" for step in (9, 20, 100) for part in ("index", "data-00000-of-00001")
    }
    assert tf.train.latest_checkpoint(str(folder)) == stored
    assert "/" not in (folder / "checkpoint").read_text()  # The folder can be copied elsewhere.
    assert checkpoints.shapes(stored)["Net/Logits/weights"] == [4, 3]


def test_a_checkpoint_that_is_not_there(stored: str, tmp_path: Path) -> None:
    folder = Path(stored).parent
    with pytest.raises(UserError) as error:
        checkpoints.newest(str(folder / "model.ckpt-7"))
    assert refusal(error) == (
        f"there is no checkpoint {folder}/model.ckpt-7; there are the steps 9, 20, 100; "
        "name one, or the folder for its newest"
    )
    with pytest.raises(UserError) as error:
        checkpoints.newest(str(tmp_path))
    assert refusal(error) == (
        f"{tmp_path} holds no checkpoint (model.ckpt-N.index); train first, or name another folder"
    )
    with pytest.raises(UserError) as error:
        checkpoints.newest(str(tmp_path / "none" / "model.ckpt-7"))
    assert "there is no checkpoint" in refusal(error)


@pytest.mark.parametrize("part", ["index", "data-00000-of-00001"])
@pytest.mark.parametrize("how", ["cut off", "emptied", "overwritten", "deleted"])
def test_a_damaged_checkpoint_says_what_to_delete(stored: str, tmp_path: Path, part: str, how: str) -> None:
    for file in Path(stored).parent.glob("model.ckpt-20.*"):
        shutil.copy(file, tmp_path)
    checkpoint = str(tmp_path / "model.ckpt-20")
    path = Path(f"{checkpoint}.{part}")
    data = path.read_bytes()
    path.write_bytes({"cut off": data[:-30], "emptied": b"", "overwritten": b"x" * len(data)}.get(how, b""))
    if how == "deleted":
        path.unlink()
    with network() as variables, tf.compat.v1.Session() as session, pytest.raises(UserError) as error:
        checkpoints.check(checkpoint, variables, "net", 3)
        checkpoints.restore(session, tf.compat.v1.train.Saver(variables), checkpoint)
    if (how, part) == ("deleted", "data-00000-of-00001"):
        assert f"its .data file is missing; copy that, too, or delete {checkpoint}.* to go on" in refusal(error)
        return
    assert refusal(error).startswith(f"{checkpoint} is damaged or incomplete (")
    assert f"delete {checkpoint}.* and run the same command again" in refusal(error)


def test_a_fitting_checkpoint_is_restored(stored: str) -> None:
    with network() as variables, tf.compat.v1.Session() as session:
        checkpoints.check(stored, variables, "net", 3)
        checkpoints.restore(session, tf.compat.v1.train.Saver(), stored)
        assert all((value == 1).all() for value in session.run(variables))


def test_another_network_is_refused(stored: str) -> None:
    with network(layers=("Conv1", "Conv2", "Conv3")) as variables, pytest.raises(UserError) as error:
        checkpoints.check(stored, variables, "bigger_net", 3)
    assert refusal(error) == (
        f"{stored} does not fit --model_name=bigger_net: it has no Net/Conv3/weights but variables of Net; "
        "name the network it was trained with"
    )


def test_another_number_of_labels_is_refused(stored: str) -> None:
    with network(num_classes=5) as variables, pytest.raises(UserError) as error:
        checkpoints.check(stored, variables, "net", 5)
    assert refusal(error) == (f"{stored} was trained on 3 labels, labels.txt has 5; use the labels it was trained with")


def test_another_shape_is_refused(stored: str) -> None:
    with network(layers=()) as variables:
        wider = slim.model_variable("Net/Conv1/weights", [3, 3, 4, 8])
        with pytest.raises(UserError) as error:
            checkpoints.check(stored, [*variables, wider], "net", 3)
    assert "Net/Conv1/weights is [3, 3, 4, 4] there and [3, 3, 4, 8] in the network" in refusal(error)


def test_another_optimizer_is_refused(stored: str) -> None:
    with network() as variables:
        slot = tf.compat.v1.get_variable("Net/Conv1/weights/Momentum", [3, 3, 4, 4])
        with pytest.raises(UserError) as error:
            checkpoints.check(stored, [*variables, slot], "net", 3)
    assert refusal(error).startswith(
        f"{stored} has no Net/Conv1/weights/Momentum: it was trained with another --optimizer, --trainable_scopes or "
        f"--moving_average_decay; give those in {Path(stored).parent}/flags.json"
    )


def names(variables: list[tf.Variable]) -> set[str]:
    return {variable.op.name for variable in variables}


def test_scopes_are_whole_names() -> None:
    with network() as variables:
        assert names(registry.in_scopes(variables, "")) == names(variables)
        assert names(registry.in_scopes(variables, "Net/Conv1, Net/AuxLogits/")) == {
            "Net/Conv1/weights",
            "Net/AuxLogits/Last/weights",
            "Net/AuxLogits/Last/biases",
        }
        assert registry.in_scopes(variables, "Net/Conv") == []


def test_averages_are_taken_where_there_are_some(tmp_path: Path) -> None:
    with network() as variables, tf.compat.v1.Session() as session:
        average = tf.train.ExponentialMovingAverage(0.5)
        update = average.apply(variables[:1])
        session.run(tf.compat.v1.global_variables_initializer())
        variables[0].load(np.full([3, 3, 4, 4], 3.0), session)
        session.run(update)
        checkpoint = tf.compat.v1.train.Saver().save(session, str(tmp_path / "model.ckpt"), 1)
    with network() as variables, tf.compat.v1.Session() as session:
        saver = tf.compat.v1.train.Saver(checkpoints.averaged(checkpoint, variables))
        checkpoints.restore(session, saver, checkpoint)
        first, second, *_ = session.run(variables)
    assert (first == 2.0).all()  # Half of the initial 1 and half of 3.
    assert (second == 1.0).all()


def test_labels_come_from_the_data_set_or_from_beside_the_checkpoint(tmp_path: Path) -> None:
    logs, data = tmp_path / "logs", tmp_path / "data"
    logs.mkdir()
    data.mkdir()
    checkpoint = str(logs / "model.ckpt-9")
    with pytest.raises(UserError, match=re.escape(f"{logs / 'labels.txt'} is missing; copy it there, or give")):
        checkpoints.label_names(checkpoint, None)
    with pytest.raises(UserError, match=re.escape(f"{data / 'labels.txt'} is missing; run convert.py")):
        checkpoints.label_names(checkpoint, data)
    write_labels(LABELS, data)
    assert checkpoints.label_names(checkpoint, data) == LABELS
    (data / "labels.txt").rename(logs / "labels.txt")
    assert checkpoints.label_names(checkpoint, None) == LABELS
    assert checkpoints.label_names(checkpoint, data) == LABELS
    write_labels(LABELS[::-1], data)
    with pytest.raises(UserError) as error:
        checkpoints.label_names(checkpoint, data)
    assert refusal(error) == (
        f"{data}/labels.txt has other labels than {logs}/labels.txt, which the checkpoint was trained with; "
        "use those of the data set it was trained on"
    )


def test_settings_are_read_from_beside_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = str(tmp_path / "model.ckpt-9")
    assert checkpoints.settings(checkpoint) == {}
    (tmp_path / "flags.json").write_text(json.dumps({"model_name": "vgg_a"}))
    assert checkpoints.settings(checkpoint) == {"model_name": "vgg_a"}
    (tmp_path / "flags.json").write_text("{")
    with pytest.raises(
        UserError, match=re.escape(f"{tmp_path}/flags.json is not JSON; delete it and give --model_name")
    ):
        checkpoints.settings(checkpoint)


def test_a_checkpoint_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt-2.data-00000-of-00001.tempstate12345").touch()  # Of a run that was killed.
    with network(), tf.compat.v1.Session() as session:
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # Bytes a file: as if the disk were full.
        try:
            with pytest.raises(UserError) as error:
                checkpoints.save(session, saver, tmp_path, 3)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert refusal(error).startswith(f"{tmp_path}/model.ckpt-3 cannot be written (")
    assert not list(tmp_path.glob("*.tempstate*"))
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoints.newest(str(tmp_path))


@pytest.mark.parametrize("name", ["logs [v2]", "what?", "all*", "[a-z]", "back\\slash", "日本 [1]"])
def test_a_folder_is_no_pattern(name: str, tmp_path: Path) -> None:
    """TensorFlow looks for files that match such a name."""
    folder = tmp_path / name
    folder.mkdir()
    with network(), tf.compat.v1.Session() as session:
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(max_to_keep=2, save_relative_paths=True)
        for step in (1, 2, 3):
            saved = checkpoints.save(session, saver, folder, step)
        assert saved == str(folder / "model.ckpt-3")
        assert [checkpoints.step(each) for each in checkpoints.all_in(folder)] == [2, 3]
        checkpoints.restore(session, saver, checkpoints.newest(folder))
    assert checkpoints.shapes(checkpoints.newest(folder))
    assert 'model_checkpoint_path: "model.ckpt-3"' in (folder / "checkpoint").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_may_not_be_read_is_not_called_damaged(stored: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # The one of pytest is closed to others.
        Path(folder).chmod(0o755)
        for file in Path(stored).parent.glob("model.ckpt-*"):
            shutil.copy(file, folder)
            (Path(folder) / file.name).chmod(0o600)
        os.seteuid(1000)
        try:
            with pytest.raises(UserError, match=r"may not be read by this user; change its owner or mode"):
                checkpoints.shapes(f"{folder}/{Path(stored).name}")
        finally:
            os.seteuid(0)
