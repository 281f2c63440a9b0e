"""Every file knows what it was made from: what does not belong together is refused, and never answers wrongly."""

from collections.abc import Callable
import csv
import json
from pathlib import Path
import re
import shutil

from conftest import (
    IMAGE_SIZE,
    LABEL_COLOURS,
    LOGITS,
    MODEL_NAME,
    PICTURES_PER_LABEL,
    draw_picture,
    draw_pictures,
)
import numpy as np
from PIL import Image
import pytest

from metart.networks.slim_compat import tf
import classify
import convert
import eval_image_classifier
import export_model
from metart.common.files import locked
from metart.common.flags import Retry, UserError
from metart.networks import checkpoints, registry, warm_start
from metart.records import record_set, seen_pictures
import train_image_classifier

SMALL = [f"--model_name={MODEL_NAME}", f"--train_image_size={IMAGE_SIZE}", "--batch_size=4", "--optimizer=momentum"]
BELOW = f"{MODEL_NAME}/block2/conv1/weights"
ALLOW = "--allow_seen_pictures"
NOTHING = np.empty(0, np.uint64)  # Seen.


def train(train_dir: Path, dataset_dir: Path, steps: int, *more: str) -> None:
    train_image_classifier.main(
        [f"--train_dir={train_dir}", f"--dataset_dir={dataset_dir}", f"--max_number_of_steps={steps}", *SMALL, *more]
    )


def evaluate(train_dir: Path, dataset_dir: Path, eval_dir: Path, *more: str) -> dict[str, object]:
    eval_image_classifier.main(
        [f"--checkpoint_path={train_dir}", f"--dataset_dir={dataset_dir}", f"--eval_dir={eval_dir}", *more]
    )
    return json.loads((eval_dir / "metrics.json").read_text())


def export(train_dir: Path, export_dir: Path, *more: str) -> None:
    export_model.main([f"--checkpoint_path={train_dir}", f"--export_dir={export_dir}", "--notflite", *more])


@pytest.fixture(scope="module")
def split_anew(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of `dataset_dir`, half of them for validation."""
    folder = tmp_path_factory.mktemp("anew")
    draw_pictures(folder)
    convert.main([f"--dataset_dir={folder}", "--num_workers=1", "--percent_validation=50"])
    return folder


@pytest.fixture(scope="module")
def muddled_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other pictures of the same labels, every third under the label of another: some answers are wrong."""
    folder = tmp_path_factory.mktemp("muddled")
    colours = list(LABEL_COLOURS.values())
    for index, label in enumerate(LABEL_COLOURS):
        (folder / "met_art" / label).mkdir(parents=True)
        for number in range(PICTURES_PER_LABEL):
            colour = colours[index - (number % 3 == 0)]
            picture = draw_picture(colour, seed=10_000 + 1000 * index + number)
            picture.save(folder / "met_art" / label / f"{index}{number:03}.jpg", quality=90)
    convert.main([f"--dataset_dir={folder}", "--num_workers=1", "--percent_validation=60"])
    return folder


@pytest.fixture
def logs(train_dir: Path, tmp_path: Path) -> Path:
    """A copy of `train_dir` to spoil."""
    return shutil.copytree(train_dir, tmp_path / "logs")


def overlap(trained_on: Path, evaluated_on: Path) -> tuple[int, int]:
    """Counts by hand, from the files themselves: (validation pictures that are training pictures of the other; all)."""

    def contents(folder: Path, split: str) -> list[bytes]:
        pictures = json.loads((folder / "splits.json").read_text())["pictures"]
        return [(folder / "met_art" / path).read_bytes() for path in pictures if pictures[path]["split"] == split]

    validation = contents(evaluated_on, "validation")
    return len(set(validation) & set(contents(trained_on, "train"))), len(validation)


def test_the_fingerprint_of_a_checkpoint_is_that_of_its_weights(train_dir: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(train_dir, tmp_path / "elsewhere")
    assert checkpoints.fingerprint(str(copied / "model.ckpt-20")) == checkpoints.fingerprint(
        f"{train_dir}/model.ckpt-20"
    )

    def save(name: str, value: float) -> str:
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            weights = tf.compat.v1.get_variable("weights", initializer=np.array([1.0, value, 3.0], np.float32))
            session.run(weights.initializer)
            saver = tf.compat.v1.train.Saver([weights])
            return checkpoints.fingerprint(saver.save(session, str(tmp_path / name), write_meta_graph=False))

    assert save("a", 2.0) == save("b", 2.0)
    assert save("a", 2.0) != save("c", np.nextafter(np.float32(2.0), np.float32(3.0)))


def test_pictures_that_were_trained_on_do_not_validate(
    dataset_dir: Path, split_anew: Path, train_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen, total = overlap(dataset_dir, split_anew)
    assert seen > 0
    complaint = (
        rf"{seen} of the {total} validation pictures are among those that the run in {train_dir} was trained on: these "
        r"records were split with --percent_validation=50, those with 25; take .* or add --allow_seen_pictures"
    )
    with pytest.raises(UserError, match=complaint):
        evaluate(train_dir, split_anew, tmp_path / "eval")
    assert not (tmp_path / "eval").exists()
    assert evaluate(train_dir, split_anew, tmp_path / "eval", ALLOW)["pictures_seen_in_training"] == seen
    assert f"notice: the run was trained on {seen} of the validation pictures" in capsys.readouterr().err
    about = evaluate(train_dir, dataset_dir, tmp_path / "eval")
    assert about["pictures_seen_in_training"] == 0
    assert about["records_fingerprint"] == json.loads((dataset_dir / "splits.json").read_text())["fingerprint"]
    assert (
        evaluate(train_dir, dataset_dir, tmp_path / "eval", "--dataset_split_name=train")["pictures_seen_in_training"]
        == 3 * 9
    )
    flags = ("--dataset_split_name=train", "--batch_size=5", "--max_num_batches=1")
    assert evaluate(train_dir, dataset_dir, tmp_path / "eval", *flags)["pictures_seen_in_training"] == 5


def test_neither_resume_nor_warm_start_learns_what_it_validates_on(
    split_anew: Path, logs: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in logs.iterdir()}
    with pytest.raises(UserError, match="was trained on: these records were split with --percent_validation=50"):
        train(logs, split_anew, 22)
    assert {path.name: path.read_bytes() for path in logs.iterdir()} == before
    new = tmp_path / "new"
    with pytest.raises(UserError, match="was trained on: these records were split with --percent_validation=50"):
        train(new, split_anew, 1, f"--checkpoint_path={logs}")
    train(new, split_anew, 1, f"--checkpoint_path={logs}", ALLOW)
    assert overlap_of(new, split_anew, "train") == 18
    assert overlap_of(new, split_anew) == overlap_of(logs, split_anew)


def overlap_of(logs: Path, dataset_dir: Path, split: str = "validation") -> int:
    records = record_set.read(dataset_dir)
    assert records is not None
    seen = seen_pictures.count(records, seen_pictures.names_of(records, split), logs)
    assert seen is not None
    return seen


def test_a_run_that_saved_nothing_has_seen_nothing(dataset_dir: Path, split_anew: Path, tmp_path: Path) -> None:
    logs, known = tmp_path / "logs", record_set.read(split_anew)
    assert known and overlap(split_anew, dataset_dir)[0] > 0
    logs.mkdir()
    seen_pictures.note(logs, NOTHING, known, "train")  # And then it was killed.
    train(logs, dataset_dir, 1)
    assert evaluate(logs, dataset_dir, tmp_path / "eval")["pictures_seen_in_training"] == 0


def test_an_archive_tells_what_its_weights_have_seen(
    logs: Path, dataset_dir: Path, split_anew: Path, tmp_path: Path
) -> None:
    archive = f"--checkpoint_path={shutil.make_archive(str(tmp_path / 'old'), 'gztar', tmp_path, 'logs')}"
    with pytest.raises(UserError, match="was trained on: these records were split with --percent_validation=50"):
        train(tmp_path / "new", split_anew, 1, archive)
    (logs / "labels.txt").write_text("0:Egyptian\n1:Chinese\n2:Italian, Florence\n")
    archive = f"--checkpoint_path={shutil.make_archive(str(tmp_path / 'muddled'), 'gztar', tmp_path, 'logs')}"
    with pytest.raises(UserError, match="in another order, so its head would answer wrongly"):
        train(tmp_path / "new", dataset_dir, 1, archive)


def test_what_is_not_known_of_the_weights_is_not_known_of_the_run(
    logs: Path, dataset_dir: Path, split_anew: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (logs / "seen-pictures.npy").unlink()
    new = tmp_path / "new"
    train(new, split_anew, 1, f"--checkpoint_path={logs}")
    said = f"notice: {logs}/model.ckpt-20 does not tell which pictures it has seen: evaluation will not know "
    assert said in capsys.readouterr().err
    train(new, split_anew, 2)
    assert evaluate(new, split_anew, tmp_path / "eval")["pictures_seen_in_training"] is None
    capsys.readouterr()
    evaluate(logs, split_anew, tmp_path / "eval")
    assert (
        "notice: the run does not tell which pictures it was trained on; these may be among" in capsys.readouterr().err
    )
    export(logs, tmp_path / "export", f"--eval_dir={tmp_path / 'eval'}")
    card = (tmp_path / "export/20/README.md").read_text()
    assert "It is not known whether the network was trained on some of these pictures. On 18 pictures" in card


def test_what_is_not_known_of_a_part_of_the_run_is_not_known(
    logs: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ignored = shutil.ignore_patterns("splits.json", "met_art")
    bare = shutil.copytree(dataset_dir, tmp_path / "bare", ignore=ignored)
    seen = seen_pictures.read(logs)
    with pytest.raises(
        UserError, match=f"{bare}/splits.json is missing, and {logs} was trained with one; restore it, or"
    ):
        train(logs, bare, 21)
    np.testing.assert_array_equal(seen_pictures.read(logs), seen)
    (logs / "flags.json").unlink()  # Without it a run is still no published weights.
    train(logs, dataset_dir, 21)
    np.testing.assert_array_equal(seen_pictures.read(logs), seen)
    (logs / "flags.json").unlink()
    train(logs, bare, 22, "--dataset_split_name=validation")
    assert f"notice: no {bare}/splits.json: evaluation will not know which" in capsys.readouterr().err
    assert evaluate(logs, dataset_dir, tmp_path / "eval")["pictures_seen_in_training"] is None


def test_a_run_goes_on_with_pictures_of_its_size_and_its_averages(
    logs: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(dataset_dir, tmp_path / "data")
    convert.main([f"--dataset_dir={data}", "--max_side=50", "--num_workers=1"])
    with pytest.raises(UserError, match=f"{logs} was trained on records made with --max_side=640, these with 50; run"):
        train(logs, data, 21)
    measured = evaluate(logs, data, tmp_path / "eval", "--allow_seen_pictures")
    assert "these pictures have up to 50 pixels a side, those of the run 640" in capsys.readouterr().err
    assert measured["max_side"] == 50
    with pytest.raises(UserError, match="--calibrate needs records made with --max_side=640"):
        evaluate(logs, data, tmp_path / "eval", "--calibrate")
    with pytest.raises(UserError, match=r"is about max side 50, not 640; run eval_image_classifier"):
        export_model.main(
            [
                f"--checkpoint_path={logs}",
                f"--export_dir={tmp_path}/export",
                f"--eval_dir={tmp_path}/eval",
                "--notflite",
            ]
        )
    train(tmp_path / "averaged", dataset_dir, 1, "--moving_average_decay=0.9")
    with pytest.raises(UserError, match=r"has averaged weights; give --moving_average_decay=0\.9, or give"):
        train(tmp_path / "averaged", dataset_dir, 2)
    with pytest.raises(UserError, match=r"has averages of what was trained; leave out --trainable_scopes, or"):
        train(tmp_path / "averaged", dataset_dir, 2, "--moving_average_decay=0.9", f"--trainable_scopes={LOGITS}")


def test_no_layer_keeps_random_weights_and_no_head_other_labels(
    logs: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (logs / "labels.txt").unlink()  # flags.json has them, too.
    other = shutil.copytree(dataset_dir, tmp_path / "other", ignore=shutil.ignore_patterns("*.tfrecord", "splits.json"))
    (other / "met_art" / "Egyptian").rename(other / "met_art" / "Nubian")
    convert.main([f"--dataset_dir={other}", "--num_workers=1"])
    start_from = f"--checkpoint_path={logs}"
    with pytest.raises(UserError, match=f"{LOGITS} would keep its random weights: it is not taken from {logs}/"):
        train(tmp_path / "new", other, 1, start_from, f"--trainable_scopes={MODEL_NAME}/stem")
    assert "flags.json has other labels than the records; the output layers are trained" in capsys.readouterr().out
    stem = f"--checkpoint_exclude_scopes={MODEL_NAME}/stem"
    with pytest.raises(UserError, match=f"{MODEL_NAME}/stem would keep its random weights"):
        train(tmp_path / "new", dataset_dir, 1, start_from, stem, f"--trainable_scopes={LOGITS}")
    train(tmp_path / "new", other, 1, start_from, stem, f"--trainable_scopes={MODEL_NAME}/stem,{LOGITS}")


def test_a_run_that_was_interrupted_does_not_change_its_length_by_itself(
    logs: Path, dataset_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = checkpoints.settings(f"{logs}/model.ckpt-20")
    del flags["finished_step"]
    checkpoints.write_settings(logs, flags | {"max_number_of_steps": 30})
    shown = [f"--train_dir={logs}", f"--dataset_dir={dataset_dir}", f"--model_name={MODEL_NAME}"]
    shown += [f"--train_image_size={IMAGE_SIZE}", "--optimizer=momentum"]
    with pytest.raises(UserError, match=f"{logs} holds a run of 30 steps that has not ended; .* it would be one of "):
        train_image_classifier.main([*shown, "--batch_size=2"])
    train_image_classifier.main([*shown, "--batch_size=2", "--max_number_of_steps=21"])


def test_other_labels_than_those_of_the_run_are_refused(logs: Path, dataset_dir: Path, tmp_path: Path) -> None:
    (logs / "labels.txt").unlink()
    data = shutil.copytree(dataset_dir, tmp_path / "data", ignore=shutil.ignore_patterns("splits.json"))
    names = (data / "labels.txt").read_text().splitlines()
    (data / "labels.txt").write_text("\n".join([f"0:{names[1][2:]}", f"1:{names[0][2:]}", names[2]]) + "\n")
    with pytest.raises(UserError, match=f"{data}/labels.txt has other labels than {logs}/flags.json"):
        evaluate(logs, data, tmp_path / "eval")
    with pytest.raises(UserError, match=f"{logs} holds a run on other labels"):
        train(logs, data, 21)
    evaluate(logs, dataset_dir, tmp_path / "eval")


def test_a_copy_of_ones_own_weights_is_not_taken_for_published_ones(
    logs: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in logs.glob("model.ckpt-20.*"):
        shutil.copy(file, copy)
    train(tmp_path / "new", dataset_dir, 1, f"--checkpoint_path={copy}")
    assert "does not tell which pictures it has seen" in capsys.readouterr().err
    assert seen_pictures.read(tmp_path / "new") is None


def test_published_weights_are_known_by_a_head_of_another_size_than_the_runs(tmp_path: Path) -> None:
    for name, num_classes in {f"{MODEL_NAME}/logits": 1000, f"{MODEL_NAME}/stem": 1000}.items():
        checkpoint = str(tmp_path / f"{name.rpartition('/')[2]}.ckpt")
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            weights = tf.compat.v1.get_variable(f"{name}/weights", [1, 1, 2, num_classes])
            session.run(weights.initializer)
            tf.compat.v1.train.Saver().save(session, checkpoint)
    with tf.Graph().as_default():
        tf.compat.v1.add_to_collection(registry.HEADS, f"{MODEL_NAME}/logits")
        assert warm_start.is_published(f"{tmp_path}/logits.ckpt", num_classes=22)
        assert not warm_start.is_published(f"{tmp_path}/logits.ckpt", num_classes=1000)
        assert not warm_start.is_published(f"{tmp_path}/stem.ckpt", num_classes=22)  # Nothing tells what they learned.


def test_a_run_goes_on_with_images_of_its_size(
    logs: Path, dataset_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise its former checkpoints would answer in another way than they did."""
    before = {path.name: path.read_bytes() for path in logs.iterdir()}
    for size, steps in ((40, 21), (40, 20), (64, 21)):
        with pytest.raises(UserError, match=f"images of 32 pixels, not {size}; give --train_image_size=32, or another"):
            train(logs, dataset_dir, steps, f"--train_image_size={size}")
    assert {path.name: path.read_bytes() for path in logs.iterdir()} == before
    capsys.readouterr()
    train(logs, dataset_dir, 21, "--checkpoint_path=nowhere")
    assert f"notice: --checkpoint_path is not used, as {logs} holds a checkpoint" in capsys.readouterr().err
    assert checkpoints.settings(f"{logs}/model.ckpt-21")["checkpoint_path"] is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train_image_size", "32"),
        ("train_image_size", 0.5),
        ("train_image_size", -1),
        ("eval_image_sizes", 32),
        ("eval_image_sizes", ["32"]),
        ("records", "x"),
        ("records", {"max_side": None}),
        ("eval_central_fraction", None),
        ("eval_central_fraction", 7),
        ("model_name", ["x"]),
        ("finished_step", "20"),
        ("labels", [1, "French"]),
    ],
)
def test_settings_of_the_wrong_kind_are_named(logs: Path, name: str, value: object) -> None:
    flags = {**json.loads((logs / "flags.json").read_text()), name: value}
    (logs / "flags.json").write_text(json.dumps(flags))
    with pytest.raises(UserError) as error:
        classify.main([f"--checkpoint_path={logs}", f"--image_file={logs}/flags.json"])
    assert str(error.value) == f"{logs}/flags.json has no right {name}: {json.dumps(value)}; correct it"


def test_two_evaluations_do_not_mix_their_reports(
    logs: Path, dataset_dir: Path, muddled_dir: Path, tmp_path: Path
) -> None:
    eval_dir = tmp_path / "eval"
    evaluate(logs, dataset_dir, eval_dir)
    before = {path.name: path.read_bytes() for path in eval_dir.iterdir()}
    with locked(eval_dir, ".eval.lock"), pytest.raises(Retry, match=f" is writing to {eval_dir}; run the same"):
        evaluate(logs, muddled_dir, eval_dir)
    assert {path.name: path.read_bytes() for path in eval_dir.iterdir()} == before


def test_a_run_on_the_validation_split_goes_on_and_says_what_it_has_seen(
    dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs, on_validation = tmp_path / "logs", "--dataset_split_name=validation"
    with pytest.raises(SystemExit):
        train(logs, dataset_dir, 1, on_validation, "--validation_epochs=1")
    assert "measures on the validation split, which is trained on here" in capsys.readouterr().err
    train(logs, dataset_dir, 1, on_validation)
    train(logs, dataset_dir, 2, on_validation)
    with pytest.raises(UserError, match=r"9 of the 9 validation pictures .* was trained on that split; take"):
        evaluate(logs, dataset_dir, tmp_path / "eval")


def test_a_run_without_a_memory_is_evaluated_as_ever(logs: Path, split_anew: Path, tmp_path: Path) -> None:
    (logs / seen_pictures.FILENAME).unlink()
    assert evaluate(logs, split_anew, tmp_path / "eval")["pictures_seen_in_training"] is None


def test_a_temperature_of_other_weights_is_refused(
    logs: Path, dataset_dir: Path, muddled_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(logs, muddled_dir, tmp_path / "eval", "--calibrate")
    path = logs / "model.ckpt-20.temperature.json"
    fitted = json.loads(path.read_text())
    train(logs, dataset_dir, 21)
    shutil.copy(path, logs / "model.ckpt-21.temperature.json")
    with pytest.raises(UserError, match=r"model.ckpt-21.temperature.json was fitted to other weights than those of"):
        evaluate(logs, dataset_dir, tmp_path / "eval")
    (logs / "model.ckpt-21.temperature.json").write_text(json.dumps({"temperature": fitted["temperature"]}))
    capsys.readouterr()
    evaluate(logs, dataset_dir, tmp_path / "eval")  # As older releases wrote it.
    assert "temperature.json does not say which weights it was fitted to" in capsys.readouterr().err


def test_a_temperature_of_other_looks_is_not_taken(
    logs: Path, muddled_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = evaluate(logs, muddled_dir, tmp_path / "eval", "--calibrate", "--eval_image_size=48")["temperature"]
    assert evaluate(logs, muddled_dir, tmp_path / "eval", "--eval_image_size=48")["temperature"] == fitted != 1.0
    assert "not calibrated" not in capsys.readouterr().err
    assert evaluate(logs, muddled_dir, tmp_path / "eval")["temperature"] == 1.0
    said = capsys.readouterr().err
    assert f"was fitted with image size 48, not {IMAGE_SIZE}; the answers are not calibrated" in said
    evaluate(logs, muddled_dir, tmp_path / "eval", "--calibrate")
    flags = json.loads((logs / "flags.json").read_text())
    (logs / "flags.json").write_text(json.dumps({**flags, "eval_central_fraction": 1.0}))
    assert evaluate(logs, muddled_dir, tmp_path / "eval")["temperature"] == 1.0
    assert "was fitted with eval central fraction 0.875, not 1.0; " in capsys.readouterr().err


def test_no_temperature_is_fitted_to_pictures_that_were_trained_on(
    logs: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="27 of the train pictures are such; --calibrate needs"):
        evaluate(logs, dataset_dir, tmp_path / "eval", "--calibrate", "--dataset_split_name=train")
    assert not (logs / "model.ckpt-20.temperature.json").exists()


def test_no_temperature_is_fitted_to_right_answers_alone(logs: Path, dataset_dir: Path, tmp_path: Path) -> None:
    """The best would be 0: every answer certain."""
    assert evaluate(logs, dataset_dir, tmp_path / "eval")["top_1"] == 1.0
    with pytest.raises(UserError, match="all 9 answers are right, which says nothing about how sure to be"):
        evaluate(logs, dataset_dir, tmp_path / "eval", "--calibrate")
    assert not list(logs.glob("*.temperature.json"))


def test_a_wrong_flag_leaves_the_figures_that_are_there(logs: Path, dataset_dir: Path, tmp_path: Path) -> None:
    evaluate(logs, dataset_dir, tmp_path / "eval")
    before = (tmp_path / "eval/metrics.json").read_bytes()
    with pytest.raises(UserError, match="does not fit --model_name=mobilenet_v1_025"):
        evaluate(logs, dataset_dir, tmp_path / "eval", "--model_name=mobilenet_v1_025")
    assert (tmp_path / "eval/metrics.json").read_bytes() == before


def test_the_card_lists_figures_alone(logs: Path, dataset_dir: Path, tmp_path: Path) -> None:
    figures = evaluate(logs, dataset_dir, tmp_path / "eval")
    export(logs, tmp_path / "export", f"--eval_dir={tmp_path / 'eval'}")
    rows = re.findall(
        r"^\| ([a-z0-9 ]+) \| (?:[0-9.]+) \|$", (tmp_path / "export/20/README.md").read_text(), re.MULTILINE
    )
    assert {"top 1", "log loss", "neighbours in training"} < set(rows) < {name.replace("_", " ") for name in figures}
    assert not {"temperature", "eval central fraction"} & set(rows)


def other_labels(folder: Path, names: dict[str, str]) -> Path:
    """Returns records of the same pictures under other labels."""
    draw_pictures(folder)
    for old, new in names.items():
        (folder / "met_art" / old).rename(folder / "met_art" / new)
    convert.main([f"--dataset_dir={folder}", "--num_workers=1"])
    return folder


def test_a_head_for_other_labels_is_not_taken(
    train_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = other_labels(tmp_path / "data", dict(zip(LABEL_COLOURS, ("Zapotec", "Yoruba", "Xhosa"), strict=True)))
    # What a user leaves out beside it does not bring the head back.
    left_out = f"--checkpoint_exclude_scopes={MODEL_NAME}/block3"
    train(tmp_path / "logs", data, 1, f"--checkpoint_path={train_dir}", "--learning_rate=1e-30", left_out, ALLOW)
    said = capsys.readouterr().out
    assert f"has other labels than the records; the output layers are trained from scratch: {LOGITS}\n" in said

    def value(folder: Path, name: str) -> np.ndarray:
        return tf.train.load_variable(str(folder), name)

    assert not np.array_equal(value(tmp_path / "logs", f"{LOGITS}/weights"), value(train_dir, f"{LOGITS}/weights"))
    np.testing.assert_array_equal(value(tmp_path / "logs", BELOW), value(train_dir, BELOW))


def test_the_same_labels_in_another_order_are_refused(logs: Path, dataset_dir: Path, tmp_path: Path) -> None:
    names = (logs / "labels.txt").read_text().splitlines()
    swapped = [f"{number}:{name.split(':')[1]}" for number, name in enumerate(reversed(names))]
    (logs / "labels.txt").write_text("\n".join(swapped) + "\n")
    with pytest.raises(UserError, match="in another order, so its head would answer wrongly; add --checkpoint_exclude"):
        train(tmp_path / "new", dataset_dir, 1, f"--checkpoint_path={logs}")


def test_records_that_change_under_a_run_without_locks_stop_it(
    dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shutil.copytree(dataset_dir, tmp_path / "data")
    original = checkpoints.restore

    def changed_meanwhile(*arguments: object) -> None:
        described = json.loads((data / "splits.json").read_text())
        (data / "splits.json").write_text(json.dumps(described | {"fingerprint": "0123456789abcdef"}, indent=1))
        original(*arguments)  # type: ignore[arg-type]

    train(tmp_path / "logs", data, 2)
    monkeypatch.setattr(checkpoints, "restore", changed_meanwhile)  # Between reading the set and the next checkpoint.
    with pytest.raises(UserError, match=rf"the records in {data} changed in the meantime; nothing new was"):
        train(tmp_path / "logs", data, 4)
    assert [checkpoints.step(each) for each in checkpoints.all_in(tmp_path / "logs")] == [2]


def test_only_figures_of_this_very_model_are_exported(logs: Path, dataset_dir: Path, tmp_path: Path) -> None:
    evaluate(logs, dataset_dir, tmp_path / "eval")
    path = tmp_path / "eval" / "metrics.json"
    measured = json.loads(path.read_text())
    changes: list[tuple[str, object]] = [
        ("checkpoint_fingerprint", "0123456789abcdef"),
        ("model_name", "inception_v1"),
        ("image_size", 64),
        ("temperature", 1.5),
    ]
    for name, value in changes:
        path.write_text(json.dumps(measured | {name: value}))
        with pytest.raises(UserError, match=f"is about {name.replace('_', ' ')} {value}, not .*; run eval_image"):
            export(logs, tmp_path / "export", f"--eval_dir={tmp_path}/eval")
    path.write_text(json.dumps({name: value for name, value in measured.items() if "fingerprint" not in name}))
    with pytest.raises(UserError, match="is about checkpoint fingerprint unknown, not"):
        export(logs, tmp_path / "export", f"--eval_dir={tmp_path}/eval")
    assert not (tmp_path / "export").exists()


def test_a_new_model_gets_a_new_number(
    logs: Path, dataset_dir: Path, muddled_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "export"

    def numbers() -> list[int]:
        return sorted(int(path.name) for path in folder.glob("[0-9]*"))

    export(logs, folder)
    export(logs, folder)
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"nothing to do: {folder}/20 is this very model")
    assert numbers() == [20]
    evaluate(logs, muddled_dir, tmp_path / "eval", "--calibrate")
    export(logs, folder)  # The same weights with a temperature.
    assert numbers() == [20, 21]
    shutil.copytree(logs, tmp_path / "second")
    shutil.rmtree(tmp_path / "second" / "model.ckpt-20", ignore_errors=True)
    train(tmp_path / "other", dataset_dir, 2)
    export(tmp_path / "other", folder)  # Another run, of a lower step.
    assert numbers() == [20, 21, 22]
    signature = tf.saved_model.load(str(folder / "22")).signatures["serving_default"]
    picture = next((dataset_dir / "met_art" / "Chinese").iterdir())
    classify.main([f"--checkpoint_path={tmp_path}/other", f"--image_file={picture}", "--format=jsonl"])
    answers = json.loads(capsys.readouterr().out.splitlines()[-1])["answers"]
    served = signature(image_bytes=tf.constant([picture.read_bytes()]))
    assert [name.decode() for name in served["labels"].numpy()[0]] == [answer["label"] for answer in answers]
    np.testing.assert_allclose(served["probabilities"].numpy()[0], [a["probability"] for a in answers], atol=1e-3)


def test_a_card_lists_what_is_there(logs: Path, dataset_dir: Path, tmp_path: Path) -> None:
    export(logs, tmp_path / "export", f"--dataset_dir={dataset_dir}")
    card = (tmp_path / "export" / "20" / "README.md").read_text()
    assert "tflite" not in card and "Not measured" in card
    assert checkpoints.fingerprint(str(logs / "model.ckpt-20")) in card


@pytest.mark.parametrize("file", ["splits.json"])
def test_damage_beside_the_records_is_one_line(file: str, logs: Path, dataset_dir: Path, tmp_path: Path) -> None:
    data = shutil.copytree(dataset_dir, tmp_path / "data")
    (data / file).write_text('{"counts": 3')
    for run in (
        lambda: export(logs, tmp_path / "export", f"--dataset_dir={data}"),
        lambda: evaluate(logs, data, tmp_path / "eval"),
        lambda: train(logs, data, 22),
    ):
        with pytest.raises(UserError, match=f"{data}/{file} is damaged"):
            run()


def test_a_checkpoint_without_its_flags_says_what_is_assumed(
    logs: Path, dataset_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = next((dataset_dir / "met_art" / "Chinese").iterdir())

    def answer(*more: str) -> tuple[str, str]:
        classify.main([f"--checkpoint_path={logs}", f"--image_file={picture}", "--format=jsonl", *more])
        shown = capsys.readouterr()
        return shown.out, shown.err

    known, notices = answer()
    assert "notice" not in notices
    (logs / "flags.json").unlink()
    _, notices = answer()
    assert "assuming wide_resnet_10_4, trained at 64 x 64 pixels" in notices
    same, notices = answer(f"--eval_image_size={IMAGE_SIZE}")
    assert same == known and "notice" not in notices


def test_a_picture_is_seen_as_the_records_of_the_run_have_it(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Records may hold smaller pictures than convert.py makes by itself: what answers makes them as small."""
    draw_pictures(tmp_path)
    convert.main([f"--dataset_dir={tmp_path}", "--num_workers=1", f"--max_side={IMAGE_SIZE}"])
    new = tmp_path / "new"
    train(new, tmp_path, 1, f"--checkpoint_path={logs}", ALLOW)
    evaluate(new, tmp_path, tmp_path / "eval")
    with open(tmp_path / "eval" / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    pictures = [tmp_path / "met_art" / row["picture"] for row in rows]
    export(new, tmp_path / "export")
    serve = tf.saved_model.load(str(tmp_path / "export" / "1")).signatures["serving_default"]
    served = serve(tf.constant([picture.read_bytes() for picture in pictures]))["probabilities"].numpy()[:, 0]
    capsys.readouterr()
    classify.main([f"--checkpoint_path={new}", "--format=jsonl", "--image_file", *map(str, pictures)])
    answers = [json.loads(line)["answers"][0] for line in capsys.readouterr().out.splitlines()]
    measured = [float(row["probability_1"]) for row in rows]
    assert [answer["probability"] for answer in answers] == pytest.approx(measured, abs=1e-5)
    assert served.tolist() == pytest.approx(measured, abs=0.05)  # There is no Pillow in it.


def test_watching_ends_with_a_run_that_stopped_early(
    logs: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = json.loads((logs / "flags.json").read_text())
    settings |= {"max_number_of_steps": 400, "finished_step": 20}
    (logs / "flags.json").write_text(json.dumps(settings))
    evaluate(logs, dataset_dir, tmp_path / "eval", "--watch")
    assert "model.ckpt-20: top-1" in capsys.readouterr().out


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("lost", [(), ("labels.txt",)])
def test_a_measurement_that_a_kill_prevented_is_made_up(
    lost: tuple[str, ...], last: bool, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / "logs"
    train(logs, dataset_dir, 4, "--validation_epochs=0.3")
    path = logs / "validation.json"
    record = json.loads(path.read_text())
    assert list(record["top_1"]) == ["2", "4"]
    del record["top_1"]["4"]
    path.write_text(json.dumps(record))  # As a kill between saving and measuring leaves it.
    flags = checkpoints.settings(f"{logs}/model.ckpt-4")
    del flags["finished_step"]
    checkpoints.write_settings(logs, flags)
    for name in lost:
        (logs / name).unlink()
    of_others = {"temperature": 2.0, "checkpoint_fingerprint": "0123456789abcdef"}
    (logs / "model.ckpt-4.temperature.json").write_text(json.dumps(of_others))  # Top-1 needs none.
    capsys.readouterr()
    train(logs, dataset_dir, 4 if last else 6, "--validation_epochs=0.3")
    assert "step 4, which the interrupted run did not measure: validation top-1" in capsys.readouterr().out
    assert list(json.loads(path.read_text())["top_1"]) == (["2", "4"] if last else ["2", "4", "6"])


def test_lost_flags_are_written_again_once_they_are_proved(
    dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / "logs"
    train(logs, dataset_dir, 4, "--validation_epochs=0.3")
    path = logs / "validation.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"top_1": {"2": record["top_1"]["2"]}}))
    (logs / "flags.json").unlink()
    with pytest.raises(UserError, match="name the network it was trained with"):
        train(logs, dataset_dir, 6, "--validation_epochs=0.3", "--model_name=mobilenet_v1_025")
    assert not (logs / "flags.json").exists()
    train(logs, dataset_dir, 6, "--validation_epochs=0.3")
    assert f"notice: {logs}/model.ckpt-4 is not measured, as {logs}/flags.json is lost" in capsys.readouterr().err
    assert list(json.loads(path.read_text())["top_1"])[-1] == "6"
    assert checkpoints.settings_in(logs)["finished_step"] == 6


def test_a_start_that_fails_forgets_nothing(logs: Path, dataset_dir: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    train(new, dataset_dir, 2, "--validation_epochs=0.3")
    measured = (new / "validation.json").read_bytes()
    for file in new.glob("model.ckpt-*"):
        file.unlink()
    data = logs / "model.ckpt-20.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(UserError, match="is damaged or incomplete"):
        train(new, dataset_dir, 2, "--validation_epochs=0.3", f"--checkpoint_path={logs}")
    assert (new / "validation.json").read_bytes() == measured


def test_what_another_run_left_as_the_best_never_counts(dataset_dir: Path, train_dir: Path, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    train(logs, dataset_dir, 2, "--validation_epochs=0.3")
    for file in train_dir.glob("model.ckpt-20.*"):
        shutil.copy(file, logs / "best" / file.name.replace("-20", "-1"))
    (logs / "validation.json").unlink()
    for file in logs.glob("model.ckpt-*"):
        file.unlink()
    train(logs, dataset_dir, 1)  # Ends before it is measured, as one that is interrupted.
    train(logs, dataset_dir, 4, "--validation_epochs=0.3")
    assert list(json.loads((logs / "validation.json").read_text())["top_1"]) == ["2", "4"]
    assert not (logs / "best" / "model.ckpt-1.index").exists()


def test_the_best_checkpoint_stays_when_a_run_goes_back_to_an_earlier_one(dataset_dir: Path, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    train(logs, dataset_dir, 4, "--validation_epochs=0.3")
    path = logs / "validation.json"
    record = json.loads(path.read_text())
    shutil.rmtree(logs / "best")
    (logs / "best").mkdir()
    for file in logs.glob("model.ckpt-4.*"):
        file.rename(logs / "best" / file.name)  # And nothing of it is left in TRAIN_DIR.
    shutil.copy(logs / "labels.txt", logs / "best")
    best = {file.name: file.read_bytes() for file in (logs / "best").glob("model.ckpt-*")}
    for of_best, is_kept in ((1.0, True), (0.0, False)):
        path.write_text(json.dumps(record | {"top_1": {"2": 0.0, "4": of_best}}))
        for file in logs.glob("model.ckpt-4.*"):
            file.unlink()
        train(logs, dataset_dir, 4, "--validation_epochs=0.3", "--random_seed=1")
        assert (json.loads(path.read_text())["top_1"]["4"] == of_best) == is_kept
        there = {file.name: file.read_bytes() for file in (logs / "best").glob("model.ckpt-*")}
        assert (there == best) == is_kept


@pytest.mark.parametrize("why", ["looks", "records", "nothing known"])
def test_a_best_checkpoint_is_measured_again_before_another_replaces_it(
    why: str, dataset_dir: Path, train_dir: Path, tmp_path: Path
) -> None:
    """Nothing is as good as the trained one; its figures of before do not count."""
    logs = tmp_path / "logs"
    train(logs, dataset_dir, 2, "--validation_epochs=0.3")
    for file in train_dir.glob("model.ckpt-20.*"):
        shutil.copy(file, logs / "best" / file.name.replace("-20", "-1"))
    for file in (logs / "best").glob("model.ckpt-2.*"):
        file.unlink()
    path = logs / "validation.json"
    record = json.loads(path.read_text())
    if why == "records":
        path.write_text(json.dumps(record | {"records_fingerprint": "0123456789abcdef"}))
    elif why == "nothing known":
        path.unlink()
    (logs / "best" / "eval").mkdir()
    train(logs, dataset_dir, 4, "--validation_epochs=0.3", f"--eval_central_fraction={1 if why == 'looks' else 0.875}")
    measured = json.loads(path.read_text())["top_1"]
    assert measured["1"] == max(measured.values()) > measured["4"]
    assert [checkpoints.step(each) for each in checkpoints.all_in(logs / "best")] == [1]
    assert (logs / "best" / "eval").is_dir()
    looks = ("--eval_central_fraction=1",) if why == "looks" else ()
    again = evaluate(logs / "best", dataset_dir, tmp_path / "eval")
    assert (again["top_1"], again["eval_central_fraction"]) == (measured["1"], 1 if looks else 0.875)


def test_what_was_measured_on_other_records_does_not_count(
    dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / "logs"
    train(logs, dataset_dir, 2, "--validation_epochs=0.3")
    path = logs / "validation.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"records_fingerprint": "0123456789abcdef"}))
    train(logs, dataset_dir, 4, "--validation_epochs=0.3")
    assert f"notice: {path} is about other records" in capsys.readouterr().err
    assert json.loads(path.read_text())["records_fingerprint"] == record["records_fingerprint"]


def test_what_was_measured_with_other_looks_does_not_count(
    dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / "logs"
    train(logs, dataset_dir, 2, "--validation_epochs=0.3")
    assert list(json.loads((logs / "validation.json").read_text())["top_1"]) == ["2"]
    train(logs, dataset_dir, 4, "--validation_epochs=0.3", "--eval_central_fraction=1")
    assert "what was measured then does not count" in capsys.readouterr().err
    record = json.loads((logs / "validation.json").read_text())
    assert (list(record["top_1"]), record["looks"]["eval_central_fraction"]) == (["2", "4"], 1.0)  # Both measured so.
    shutil.rmtree(logs / "best")
    train(logs, dataset_dir, 6, "--validation_epochs=0.3")
    assert list(json.loads((logs / "validation.json").read_text())["top_1"]) == ["6"]


def test_a_run_that_has_ended_is_evaluated_as_its_flags_say_now(logs: Path, dataset_dir: Path, tmp_path: Path) -> None:
    assert evaluate(logs, dataset_dir, tmp_path / "eval")["eval_central_fraction"] == 0.875
    looks = f"--eval_image_sizes={IMAGE_SIZE},48", "--eval_central_fraction=1"
    before = json.loads((logs / "flags.json").read_text())
    train(logs, dataset_dir, 20, *looks)
    after = {"eval_image_sizes": [IMAGE_SIZE, 48], "eval_central_fraction": 1.0}
    assert json.loads((logs / "flags.json").read_text()) == {**before, **after}
    measured = evaluate(logs, dataset_dir, tmp_path / "eval")
    assert {name: measured[name] for name in after} == after


def test_sizes_that_are_too_small_to_evaluate_are_not_trained_for(dataset_dir: Path, tmp_path: Path) -> None:
    flags = ["--model_name=inception_v3", "--eval_image_sizes=299,32"]
    with pytest.raises(UserError, match="32 x 32 pixels are too few for inception_v3"):
        train(tmp_path / "logs", dataset_dir, 1, *flags)
    assert not (tmp_path / "logs").exists()


def test_a_card_says_what_the_network_learned_from(
    logs: Path, split_anew: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned_from = json.loads((logs / "flags.json").read_text())["records"]["fingerprint"]
    other = json.loads((split_anew / "splits.json").read_text())["fingerprint"]
    export(logs, tmp_path / "export", f"--dataset_dir={split_anew}")
    assert f"the records in {split_anew} are not those that the run was trained on" in capsys.readouterr().err
    card = (tmp_path / "export/20/README.md").read_text()
    assert f"records {learned_from}" in card and other not in card and "pictures for" not in card


def rewrite(shard: Path, change: Callable[[tf.train.Example], None]) -> None:
    """Changes the first record of a file."""
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(shard))]
    example = tf.train.Example.FromString(records[0])
    change(example)
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for record in [example.SerializeToString(), *records[1:]]:
            writer.write(record)


def test_records_that_no_one_here_wrote_are_named(logs: Path, dataset_dir: Path, tmp_path: Path) -> None:
    def label_above(example: tf.train.Example) -> None:
        example.features.feature["image/class/label"].int64_list.value[0] = 3

    def label_below(example: tf.train.Example) -> None:
        example.features.feature["image/class/label"].int64_list.value[0] = -1

    def png(example: tf.train.Example) -> None:
        path = tmp_path / "a.png"
        Image.new("RGB", (40, 40)).save(path)
        example.features.feature["image/encoded"].bytes_list.value[0] = path.read_bytes()

    for change, split, complaint in (
        (label_above, "train", "has the label number 3, labels.txt names 3; run convert.py again"),
        (label_below, "train", "has the label number -1, labels.txt names 3; run convert.py again"),
        (label_above, "validation", "has the label number 3, labels.txt names 3; run convert.py again"),
        (png, "train", "cannot be used .a PNG, the records hold JPEGs."),
    ):
        data = shutil.copytree(dataset_dir, tmp_path / f"{split}-{change.__name__}")
        shard = min(data.glob(f"arts_{split}_*"))
        rewrite(shard, change)
        described = json.loads((data / "splits.json").read_text())
        described["shards"][shard.name] = shard.stat().st_size
        (data / "splits.json").write_text(json.dumps(described))
        with pytest.raises(UserError, match=f"{shard.name}.*{complaint}"):
            if split == "train":
                train(tmp_path / "new", data, 20)
            else:
                evaluate(logs, data, tmp_path / "eval")
