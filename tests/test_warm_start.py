"""What a run takes from other training, from its own checkpoints to archives as they are published."""

import io
from pathlib import Path
import re
import tarfile

import numpy as np
import pytest
from test_checkpoints import names, network, refusal, save

from metart.networks.slim_compat import slim, tf
from metart.common.flags import UserError
from metart.networks import checkpoints, registry, warm_start


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("logs"), 9, 100, 20)


def save_in_one_file(path: Path) -> None:
    """Writes a checkpoint in TensorFlow's first form, as slim's ImageNet checkpoints `inception_v3.ckpt` are."""
    with network(num_classes=1001), tf.compat.v1.Session() as session:
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(write_version=tf.compat.v1.train.SaverDef.V1)
        saver.save(session, str(path), write_meta_graph=False)
    (path.parent / "checkpoint").unlink()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as they are published, in folders `first_form`, `second_form` and `averaged_too`."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "first_form").mkdir()
    save_in_one_file(folder / "first_form" / "inception_v3.ckpt")
    for name in (
        "second_form/mobilenet_1.0_224.ckpt",
        "averaged_too/ema/model-388500",
        "averaged_too/raw/model.ckpt-3",
    ):
        (folder / name).parent.mkdir(parents=True)
        with network(num_classes=1001), tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            tf.compat.v1.train.Saver().save(session, str(folder / name))
    (folder / "second_form" / "mobilenet_1.0_224.tflite").write_bytes(b"another form of it")
    return folder


CHECKPOINTS = {
    "first_form": "inception_v3.ckpt",
    "second_form": "mobilenet_1.0_224.ckpt",
    "averaged_too": "ema/model-388500",
}


def restored(checkpoint: str) -> list[str]:
    """Restores a network of 3 labels from a checkpoint for 1,001, and returns the names of what was restored."""
    with network() as variables, tf.compat.v1.Session() as session:
        taken = warm_start.variables(checkpoint, "net", 3, "", False)
        session.run(tf.compat.v1.global_variables_initializer())
        for variable in variables:
            variable.load(np.zeros(variable.shape), session)
        checkpoints.restore(session, tf.compat.v1.train.Saver(taken), checkpoint)
        values = session.run(variables)
        return [each.op.name for each, value in zip(variables, values, strict=True) if (value == 1).all()]


@pytest.mark.parametrize("form", CHECKPOINTS)
@pytest.mark.parametrize("place", ["file", "folder", "tar.gz", "tgz"])
def test_published_weights_are_taken_as_they_were_downloaded(
    form: str, place: str, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = {"file": published / form / CHECKPOINTS[form], "folder": published / form}.get(place)
    if path is None:
        path = tmp_path / f"weights.{place}"
        with tarfile.open(path, "w:gz") as archive:
            archive.add(published / form, "./" if place == "tgz" else form)
    with warm_start.opened(str(path)) as checkpoint:
        assert checkpoint.endswith(CHECKPOINTS[form])
        assert restored(checkpoint) == ["Net/Conv1/weights", "Net/Conv2/weights"]
        assert capsys.readouterr().out == (
            f"{Path(checkpoint).name} was trained on 1,001 labels, the records have 3; these layers are trained from"
            " scratch: Net/Logits,Net/AuxLogits/Last\n"
        )
        if place.startswith("t"):
            unpacked = {each.name for each in Path(checkpoint).parent.iterdir()}
            assert not {name for name in unpacked if name.endswith((".tflite", ".meta"))}
    assert Path(checkpoint).parent.exists() == (place in ("file", "folder"))  # What was unpacked is gone.


def test_a_folder_of_training_means_its_newest_checkpoint(stored: str) -> None:
    with warm_start.opened(str(Path(stored).parent)) as checkpoint:
        assert checkpoint == str(Path(stored).parent / "model.ckpt-100")


def opened(path: Path) -> None:
    with warm_start.opened(str(path)):
        pytest.fail("it was taken")


def test_nothing_or_too_much_to_take(published: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(f"{tmp_path} holds no checkpoint; ")):
        opened(tmp_path)
    with pytest.raises(UserError) as error:
        opened(published)
    assert refusal(error) == (
        f"{published} holds several checkpoints (averaged_too/ema/model-388500, "
        "first_form/inception_v3.ckpt, second_form/mobilenet_1.0_224.ckpt); name one"
    )
    with tarfile.open(tmp_path / "empty.tgz", "w:gz"):
        pass
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}/empty.tgz holds no checkpoint; ")):
        opened(tmp_path / "empty.tgz")
    with pytest.raises(UserError, match=re.escape(f"there is no checkpoint {tmp_path}/none.tgz")):
        opened(tmp_path / "none.tgz")


def test_a_damaged_archive_is_one_clear_error(published: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(published / "first_form")
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (b"", b"<html>not found</html>", whole[:middle], whole[:middle] + bytes(50) + whole[middle + 50 :]):
        path.write_bytes(damaged)
        with pytest.raises(UserError) as error:
            opened(path)
        assert refusal(error).startswith(f"{path} is damaged or not an archive (")


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    information = tarfile.TarInfo(name)
    information.type, information.linkname, information.size = kind, target, size
    return information


@pytest.mark.parametrize(
    "evil",
    [
        member("../outside/model.ckpt"),
        member("/tmp/model.ckpt"),
        member("model.ckpt", tarfile.SYMTYPE, "/etc/passwd"),
        member("model.ckpt", tarfile.LNKTYPE, "../secret.ckpt"),
        member("model.ckpt", tarfile.FIFOTYPE),
    ],
)
def test_nothing_outside_is_written_or_read(evil: tarfile.TarInfo, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "evil.tgz", "w:gz") as archive:
        archive.addfile(evil, io.BytesIO())
    with pytest.raises(UserError) as error:
        opened(tmp_path / "evil.tgz")
    assert refusal(error) == f"{tmp_path}/evil.tgz is unsafe: {evil.name} in it is a link or lies outside"


def test_a_link_to_a_folder_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    with tarfile.open(tmp_path / "evil.tgz", "w:gz") as archive:
        archive.addfile(member("inside", tarfile.SYMTYPE, str(tmp_path / "outside")))
        archive.addfile(member("inside/model.ckpt", size=3), io.BytesIO(b"abc"))
    with warm_start.opened(str(tmp_path / "evil.tgz")) as checkpoint:
        assert Path(checkpoint).read_bytes() == b"abc"
    assert not list((tmp_path / "outside").iterdir())


def test_more_than_the_disk_holds_is_refused_before_it_is_written(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "huge.tgz", "w:gz") as archive:
        archive.addfile(member("model.ckpt"))
        archive.fileobj.write(member("huge.ckpt", size=1 << 60).tobuf())
    with pytest.raises(UserError, match=r"has no room for huge\.ckpt of "):
        opened(tmp_path / "huge.tgz")


def test_warm_start_takes_all_but_the_excluded(stored: str, capsys: pytest.CaptureFixture[str]) -> None:
    with network(num_classes=5):
        taken = warm_start.variables(stored, "net", 5, "Net/Logits,Net/AuxLogits", False)
    assert names(taken) == {"Net/Conv1/weights", "Net/Conv2/weights"}
    with network():
        taken = warm_start.variables(stored, "net", 3, "Net/Logits", False)
    assert names(taken) == {
        *("Net/Conv1/weights", "Net/Conv2/weights", "Net/AuxLogits/Last/weights", "Net/AuxLogits/Last/biases")
    }
    assert capsys.readouterr().out == ""


def test_labels_of_heads_that_are_not_taken_do_not_matter(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, 20)
    (tmp_path / "labels.txt").write_text("no labels")
    with network():
        heads = ",".join(registry.head_scopes())
        assert warm_start.excluded_scopes(checkpoint, ["a", "b", "c"], heads) == heads
        with pytest.raises(UserError, match=r"labels\.txt:1 is not a line `index:name`"):
            warm_start.excluded_scopes(checkpoint, ["a", "b", "c"], "")


@pytest.mark.parametrize("scopes", ["Net/Logit", "Net/Logits,Logits", "net/logits", "Net/Conv1/weights/more"])
def test_a_scope_that_names_nothing_is_refused(stored: str, scopes: str) -> None:
    with network(), pytest.raises(UserError) as error:
        warm_start.variables(stored, "net", 3, scopes, False)
    wrong = scopes.rpartition(",")[2]
    assert refusal(error).startswith(f"--checkpoint_exclude_scopes={wrong} names nothing in net; its first variable is")


def test_an_auxiliary_head_for_pictures_of_another_size_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(side: int) -> list[tf.Variable]:
        slim.model_variable("Net/Conv1/weights", [3, 3, 4, 4])
        slim.model_variable("Net/Logits/weights", [4, 3])
        slim.model_variable("Net/AuxLogits/Conv/weights", [side, side, 4, 4])
        slim.model_variable("Net/AuxLogits/Last/weights", [4, 3])
        for head in ("Net/Logits", "Net/AuxLogits/Last"):
            tf.compat.v1.add_to_collection(registry.HEADS, head)
        return slim.get_model_variables()

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = build(5)
        session.run(tf.compat.v1.global_variables_initializer())
        checkpoint = tf.compat.v1.train.Saver(variables).save(session, str(tmp_path / "model.ckpt"))
    with tf.Graph().as_default():
        build(2)
        taken = warm_start.variables(checkpoint, "net", 3, "", False)
    assert names(taken) == {"Net/Conv1/weights", "Net/Logits/weights", "Net/AuxLogits/Last/weights"}
    assert capsys.readouterr().out == (
        "model.ckpt was trained on pictures of another size; these layers are trained from scratch:"
        " Net/AuxLogits/Conv\n"
    )


def test_another_layer_of_another_shape_names_the_flag(stored: str) -> None:
    with network(num_classes=5, layers=("Conv1",)):
        slim.model_variable("Net/Conv2/weights", [3, 3, 4, 8])
        with pytest.raises(UserError) as error:
            warm_start.variables(stored, "net", 5, "", False)
    assert "Net/Conv2/weights is [3, 3, 4, 4] there and [3, 3, 4, 8] in the network" in refusal(error)
    assert refusal(error).endswith("to start without those weights add --checkpoint_exclude_scopes=Net/Conv2")


def test_warm_start_without_some_variables_names_the_flag(stored: str) -> None:
    with network(layers=("Conv1", "Conv3")):
        with pytest.raises(UserError) as error:
            warm_start.variables(stored, "net", 3, "", False)
        assert refusal(error).endswith("to start without those weights add --ignore_missing_vars")
        taken = warm_start.variables(stored, "net", 3, "", True)
    assert "Net/Conv1/weights" in names(taken)
    assert "Net/Conv3/weights" not in names(taken)


def test_warm_start_from_a_wholly_other_network_is_refused(stored: str) -> None:
    with tf.Graph().as_default():
        slim.model_variable("Other/weights", [2])
        tf.compat.v1.add_to_collection(registry.HEADS, "Other")
        with pytest.raises(UserError) as error:
            warm_start.variables(stored, "other", 3, "", True)
    assert refusal(error).startswith(f"there is nothing to take from {stored}: ")
