"""Training: it resumes, can be interrupted at any moment, and refuses what cannot work before it writes."""

from collections.abc import Callable, Iterator
import contextlib
import json
from pathlib import Path
import random
import re
import shutil
import signal
import subprocess
import sys
import time

from conftest import IMAGE_SIZE, LABEL_COLOURS, LOGITS, MODEL_NAME, REPOSITORY, recipe_of
import numpy as np
import pytest

from metart.networks.slim_compat import tf
import eval_image_classifier
from metart.common.flags import UserError
from metart.evaluation import inference
from metart.evaluation.best_checkpoint import BestCheckpoint
from metart.networks import checkpoints, registry
from metart.networks.session import Device
from metart.training import input_pipeline, optimizers
from metart.training.cluster import Cluster
from metart.training.loop import Intervals
from metart.training.start import Data, Settings, WarmStart
import train_image_classifier

SMALL = [
    f"--model_name={MODEL_NAME}",
    f"--train_image_size={IMAGE_SIZE}",
    "--batch_size=4",
    "--optimizer=momentum",
    "--precision=float32",
]
QUICKLY_BUILT = ["--model_name=alexnet_v2", "--train_image_size=224", "--optimizer=sgd"]  # Its checkpoints are large.
START_SECONDS = 600  # Until a process has imported TensorFlow, built a network and saved; on a busy machine.


HEAD = f"{LOGITS}/weights"


def train(train_dir: Path, dataset_dir: Path, *arguments: str) -> None:
    train_image_classifier.main([f"--train_dir={train_dir}", f"--dataset_dir={dataset_dir}", *SMALL, *arguments])


@pytest.fixture
def started(train_dir: Path, tmp_path: Path) -> Path:
    """A copy of the trained folder, at step 20, to go on from."""
    return shutil.copytree(train_dir, tmp_path / "logs")


def weights(checkpoint: Path) -> dict[str, list[int]]:
    return checkpoints.shapes(str(checkpoint))


def test_a_run_leaves_what_slim_leaves(train_dir: Path) -> None:
    names = {path.name for path in train_dir.iterdir()}
    assert names >= {"checkpoint", "model.ckpt-20.index", "model.ckpt-20.data-00000-of-00001"}
    assert tf.train.latest_checkpoint(str(train_dir)) == str(train_dir / "model.ckpt-20")
    stored = weights(train_dir / "model.ckpt-20")
    assert stored[HEAD] == [1, 1, 256, 3]
    assert stored[f"{HEAD}/Momentum"] == [1, 1, 256, 3]
    assert f"{MODEL_NAME}/block2/conv1/BatchNorm/moving_mean" in stored
    assert stored["global_step"] == []
    assert tf.train.load_variable(str(train_dir), "global_step") == 20


def test_a_run_leaves_labels_and_flags(train_dir: Path) -> None:
    lines = [f"{index}:{label}" for index, label in enumerate(sorted(LABEL_COLOURS))]
    assert (train_dir / "labels.txt").read_text().splitlines() == lines
    settings = json.loads((train_dir / "flags.json").read_text())
    assert settings["model_name"] == MODEL_NAME
    assert settings["train_image_size"] == IMAGE_SIZE
    assert settings["random_seed"] == 0


def test_tensorboard_gets_curves_and_pictures(train_dir: Path) -> None:
    steps: dict[str, list[int]] = {}
    for path in train_dir.glob("events.out.tfevents.*"):
        for record in tf.compat.v1.io.tf_record_iterator(str(path)):
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                steps.setdefault(value.tag, []).append(event.step)
    assert steps["loss"] == steps["learning_rate"] == steps["images_per_second"] == [10, 20]
    shown = sorted(
        tag for tag in steps if tag.startswith("input ")
    )  # Four pictures of three labels: none hides another.
    assert [tag.partition(":")[0] for tag in shown] == ["input 1", "input 2", "input 3", "input 4"]
    assert {tag.partition(": ")[2] for tag in shown} <= LABEL_COLOURS.keys()


def test_a_finished_run_has_nothing_to_do(started: Path, dataset_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in started.iterdir()}
    for steps in (20, 10):
        train(started, dataset_dir, f"--max_number_of_steps={steps}")
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == f"nothing to do: {started}/model.ckpt-20 is at step 20 of {steps}"
    assert {path.name: path.stat().st_mtime_ns for path in started.iterdir()} == before


def test_a_run_goes_on_and_keeps_the_newest_checkpoints(
    started: Path, dataset_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (14, 15, 16, 17):  # Left by runs before.
        for part in ("index", "data-00000-of-00001"):
            shutil.copy(started / f"model.ckpt-20.{part}", started / f"model.ckpt-{step}.{part}")
    train(started, dataset_dir, "--max_number_of_steps=22")
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "27 pictures of 3 labels, 6.8 steps of 4 an epoch; from step 20 to 22"
    assert re.fullmatch(
        rf"trained to step 22: loss \d+\.\d{{3}}, \d+\.\d images/s, checkpoint {started}/model.ckpt-22", shown[-1]
    )
    assert tf.train.load_variable(str(started / "model.ckpt-22"), "global_step") == 22
    kept = [checkpoints.step(checkpoint) for checkpoint in checkpoints.all_in(started)]
    assert kept == [15, 16, 17, 20, 22]


def test_a_diverged_run_stops_and_saves_nothing(dataset_dir: Path, tmp_path: Path) -> None:
    diverging = ["--learning_rate=1e30", "--warmup_epochs=0", "--max_number_of_steps=5"]
    with pytest.raises(UserError) as error:
        train(tmp_path / "logs", dataset_dir, *QUICKLY_BUILT, *diverging)
    assert re.fullmatch(
        r"the loss or a weight is no longer a finite number at step [2-5] \(loss .*\); try --learning_rate=1e\+29 "
        r"in a new --train_dir \(last good checkpoint: none\)",
        str(error.value),
    )
    assert checkpoints.all_in(tmp_path / "logs") == []


@pytest.mark.parametrize(
    ("scopes", "frozen"),
    [
        (f"{LOGITS},{MODEL_NAME}/block4", f"{MODEL_NAME}/block3/conv1"),
        (LOGITS, f"{MODEL_NAME}/block4/conv1"),
    ],
)
def test_warm_start_trains_the_named_scopes_only(
    scopes: str, frozen: str, train_dir: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    train(
        tmp_path / "tuned",
        dataset_dir,
        f"--checkpoint_path={train_dir}",
        f"--trainable_scopes={scopes}",
        "--moving_average_decay=0.9",
        "--max_number_of_steps=1",
    )
    assert (tmp_path / "tuned" / "features").is_dir() == (scopes == LOGITS)
    tuned = str(tmp_path / "tuned" / "model.ckpt-1")

    def moved(name: str) -> bool:
        return bool((tf.train.load_variable(str(train_dir), name) != tf.train.load_variable(tuned, name)).any())

    assert moved(HEAD)
    for name in ("weights", "BatchNorm/moving_mean", "BatchNorm/moving_variance"):
        assert not moved(f"{frozen}/{name}")
    stored = weights(Path(tuned))
    assert HEAD + "/ExponentialMovingAverage" in stored
    assert HEAD + "/Momentum" in stored
    assert f"{frozen}/weights/Momentum" not in stored


def test_a_head_alone_learns_and_goes_on_with_the_features_it_has(
    train_dir: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    def tune(steps: int) -> dict[str, int]:
        train(
            tmp_path,
            dataset_dir,
            f"--checkpoint_path={train_dir}",
            f"--checkpoint_exclude_scopes={LOGITS}",
            f"--trainable_scopes={LOGITS}",
            "--feature_views=2",
            "--learning_rate=0.05",
            f"--max_number_of_steps={steps}",
        )
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()}

    kept = tune(30)
    assert set(kept) == {"made-of.json", "labels.npy", "view-00.npy", "view-01.npy"}
    (tmp_path / "features" / "view-01.npy").unlink()  # As a run interrupted between two views leaves it.
    again = tune(60)
    assert again["view-00.npy"] == kept["view-00.npy"]
    assert again["view-01.npy"] > kept["view-01.npy"]

    images, truth, _ = next(
        iter(input_pipeline.evaluation_batches(sorted(map(str, dataset_dir.glob("arts_train_*"))), 27, IMAGE_SIZE))
    )
    with inference.open_classifier(str(tmp_path)) as classifier, classifier.session.graph.as_default():
        seen, _ = registry.head(classifier.logits)
        features, answers = classifier.session.run(
            [tf.reduce_mean(seen, [1, 2]), classifier.output], {classifier.images: images.numpy()}
        )
    assert (answers.argmax(1) == truth.numpy()).mean() > 0.9
    view = np.load(tmp_path / "features" / "view-00.npy")
    np.testing.assert_allclose(view, features, rtol=2e-3, atol=2e-3)  # Folded here, and of 16 bits there.
    assert np.load(tmp_path / "features" / "labels.npy").tolist() == truth.numpy().tolist()


def test_the_best_checkpoint_is_kept_and_a_run_without_progress_ends(
    dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*more_flags: str) -> str:
        train(
            tmp_path,
            dataset_dir,
            "--learning_rate=1e-9",
            "--validation_epochs=0.3",
            "--early_stop=2",
            "--max_number_of_steps=40",
            *more_flags,
        )
        return capsys.readouterr().out.splitlines()[-1]

    last = run()
    top_1 = {
        int(step): value for step, value in json.loads((tmp_path / "validation.json").read_text())["top_1"].items()
    }
    *_, best, _, third = top_1  # Two measurements brought nothing better; the step after them is the last.
    assert list(top_1) == list(range(2, third + 1, 2))
    assert top_1[best] == max(top_1.values())
    assert all(value < top_1[best] for step, value in top_1.items() if step < best)
    assert last.startswith(f"trained to step {third + 1}: ")
    reached = f"best top-1 {top_1[best]:.4f} at step {best}: {tmp_path}/best"
    assert last.endswith(f"; {reached}")
    assert run() == f"nothing to do: stopped at step {third + 1}, {reached}"
    second_worker = run("--worker_replicas=2", "--task=1", "--worker_address=127.0.0.1:222{task}")
    assert second_worker == f"nothing to do: stopped at step {third + 1}, {reached}"
    assert json.loads((tmp_path / "flags.json").read_text())["max_number_of_steps"] == 40

    # A run that was killed when the last measurement had ended it makes the step, too, in which all workers learn it.
    killed = shutil.copytree(tmp_path, tmp_path / "killed", ignore=shutil.ignore_patterns(f"model.ckpt-{third + 1}.*"))
    flags = json.loads((killed / "flags.json").read_text())
    del flags["finished_step"]
    (killed / "flags.json").write_text(json.dumps(flags))
    assert run(f"--train_dir={killed}").startswith(f"trained to step {third + 1}: ")

    eval_image_classifier.main(
        [f"--checkpoint_path={tmp_path}/best", f"--eval_dir={tmp_path}/eval", f"--dataset_dir={dataset_dir}"]
    )
    figures = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert figures["checkpoint"] == f"{tmp_path}/best/model.ckpt-{best}"
    assert figures["top_1"] == top_1[best]

    shutil.rmtree(tmp_path / "best")
    assert run().endswith(f"at step {best}, no longer in {tmp_path}/best")
    run("--early_stop=9", f"--max_number_of_steps={third + 4}")
    (kept,) = checkpoints.all_in(tmp_path / "best")
    assert checkpoints.step(kept) > third


def test_what_was_measured_of_weights_that_are_gone_does_not_count(dataset_dir: Path, tmp_path: Path) -> None:
    record = tmp_path / "validation.json"
    record.write_text('{"2": 0.25, "4": 0.75, "6": 0.5}')
    dataset = input_pipeline.open_split("arts", "validation", str(dataset_dir))
    for first_step, best in ((0, 0), (3, 2), (6, 4)):
        assert BestCheckpoint(tmp_path, dataset, None, 9, Device(), None, first_step).best_step == best
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "model.ckpt-4.index").touch()
    for first_step, best in ((0, 0), (3, 4), (6, 4)):
        assert BestCheckpoint(tmp_path, dataset, None, 9, Device(), None, first_step).best_step == best
    record.write_text('{"2": 0.')
    with pytest.raises(UserError, match=r"validation.json is damaged; delete it"):
        BestCheckpoint(tmp_path, dataset, None, 9, Device(), None, first_step=6)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--early_stop=2"], "--early_stop needs --validation_epochs"),
        (["--eval_image_sizes=32,48,32"], "--eval_image_sizes names a size twice"),
        (["--cutmix_alpha=1", "--batch_size=1"], "--mixup_alpha and --cutmix_alpha mix the pictures of a batch"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    flags: list[str], complaint: str, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train(tmp_path / "logs", dataset_dir, *flags)
    assert capsys.readouterr().err.startswith(f"error: {complaint}")


def test_smaller_images_first(dataset_dir: Path, tmp_path: Path) -> None:
    train(tmp_path, dataset_dir, "--max_number_of_steps=4", "--train_image_size=48", "--first_image_sizes=32,40")
    assert checkpoints.settings(str(tmp_path / "model.ckpt-4"))["first_image_sizes"] == [32, 40]


def test_scaled_gradients_train_alike(dataset_dir: Path, tmp_path: Path) -> None:
    for precision in ("float32", "float16"):  # Without a GPU nothing is computed in float16, only scaled for it.
        train(tmp_path / precision, dataset_dir, "--max_number_of_steps=2", f"--precision={precision}")
    first, second = (tf.train.load_variable(str(tmp_path / name), HEAD) for name in ("float32", "float16"))
    np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-5)


def test_a_damaged_records_file_is_named(dataset_dir: Path, tmp_path: Path) -> None:
    data = shutil.copytree(dataset_dir, tmp_path / "data", ignore=shutil.ignore_patterns("met_art"))
    damaged = data / "arts_train_00003-of-00005.tfrecord"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(UserError) as error:
        train(tmp_path / "logs", data, "--max_number_of_steps=20", *QUICKLY_BUILT)
    assert (
        str(error.value) == f"{damaged} is damaged or cut off; delete it and run convert.py --dataset_dir={data} again"
    )


def test_wrong_inputs_are_refused_before_anything_is_written(
    dataset_dir: Path, train_dir: Path, tmp_path: Path
) -> None:
    logs, empty = tmp_path / "logs", tmp_path / "empty"
    empty.mkdir()
    without_labels = shutil.copytree(dataset_dir, tmp_path / "data", ignore=shutil.ignore_patterns("met_art"))
    (without_labels / "labels.txt").unlink()
    for data, arguments, complaint in [
        (tmp_path / "none", [], f"no records .* in {tmp_path}/none; run convert.py --dataset_dir={tmp_path}/none"),
        (empty, [], f"no records .* in {empty}; run convert.py --dataset_dir={empty}"),
        (without_labels, [], f"{without_labels}/labels.txt is missing; run convert.py"),
        (dataset_dir, ["--dataset_split_name=test"], "no split is named 'test'; take --dataset_split_name=train or"),
        (dataset_dir, ["--model_name=vgg_a"], "32 x 32 pixels are too few for vgg_a"),
        (dataset_dir, ["--trainable_scopes=Logits"], "--trainable_scopes=Logits names nothing in wide_resnet_10_4"),
        (dataset_dir, [f"--trainable_scopes={LOGITS},blok2"], "--trainable_scopes=blok2 names nothing in"),
        (dataset_dir, ["--trainable_scopes=Conv", "--feature_views=0"], "--trainable_scopes=Conv names nothing in"),
        (dataset_dir, [f"--trainable_scopes={LOGITS}", "--cutmix_alpha=1"], "of one size and not mixed; leave out"),
        (dataset_dir, [f"--trainable_scopes={LOGITS}", "--first_image_sizes=32"], "of one size and not mixed; leave"),
        (dataset_dir, ["--model_name=inception_v2", "--first_image_sizes=64"], "inception_v2 takes images of one size"),
        (dataset_dir, [f"--checkpoint_path={empty}"], f"{empty} holds no checkpoint"),
        (
            dataset_dir,
            [*QUICKLY_BUILT, f"--checkpoint_path={train_dir}"],
            f"there is nothing to take from {train_dir}/model.ckpt-20",
        ),
    ]:
        with pytest.raises(UserError, match=complaint) as error:
            train(logs, data, *arguments)
        assert "\n" not in str(error.value)
        assert not logs.exists()


def test_an_unknown_network_is_a_wrong_flag(
    dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_status:
        train(tmp_path / "logs", dataset_dir, "--model_name=inception_v9")
    assert exit_status.value.code == 2
    assert capsys.readouterr().err.startswith("error: argument --model_name: invalid choice: 'inception_v9'")
    assert not (tmp_path / "logs").exists()


def test_a_folder_of_another_run_is_refused(started: Path, dataset_dir: Path) -> None:
    before = {path.name: path.read_bytes() for path in started.iterdir()}
    for steps in (20, 30):  # Also where there is nothing left to do.
        with pytest.raises(
            UserError, match=f"{started} holds a run of {MODEL_NAME}; give --model_name={MODEL_NAME}, or another"
        ):
            train(started, dataset_dir, f"--max_number_of_steps={steps}", *QUICKLY_BUILT)
    with pytest.raises(UserError, match=r"has no .*RMSProp.*: it was trained with another --optimizer"):
        train(started, dataset_dir, "--max_number_of_steps=30", "--optimizer=rmsprop")
    assert {path.name: path.read_bytes() for path in started.iterdir()} == before
    (started / "labels.txt").write_text("0:Greek\n1:Roman\n2:Thracian\n")
    with pytest.raises(UserError, match=f"{started} holds a run on other labels; give another --train_dir"):
        train(started, dataset_dir, "--max_number_of_steps=30")


def test_a_run_that_was_killed_after_its_last_step_is_known_to_have_ended(started: Path, dataset_dir: Path) -> None:
    ended = checkpoints.settings(str(started / "model.ckpt-20"))
    checkpoints.write_settings(started, {name: value for name, value in ended.items() if name != "finished_step"})
    train(started, dataset_dir, "--max_number_of_steps=10")  # Which says nothing about a run of 20 steps or more.
    assert checkpoints.settings(str(started / "model.ckpt-20")) == ended
    unfinished = {name: value for name, value in ended.items() if name != "finished_step"} | {"max_number_of_steps": 30}
    checkpoints.write_settings(started, unfinished)
    train(started, dataset_dir, "--max_number_of_steps=20")
    assert checkpoints.settings(str(started / "model.ckpt-20")) == unfinished


def test_two_steps_without_a_command_line(dataset_dir: Path, tmp_path: Path) -> None:
    settings = Settings(
        train_dir=tmp_path,
        batch_size=4,
        max_number_of_steps=2,
        num_epochs=1,
        class_balance=0.0,
        feature_views=0,
        first_image_sizes=[],
        early_stop=None,
        allow_seen_pictures=False,
        random_seed=0,
        device=Device(),
        recipe=recipe_of(),
        schedule=optimizers.Schedule("fixed", 0.01, 0.01, 1.0, 1.0, 0.0),
        augmentation=input_pipeline.Augmentation(IMAGE_SIZE),
        warm_start=WarmStart(None, "", False),
        intervals=Intervals(1, 600, 600, None),
    )
    training = input_pipeline.open_split("arts", "train", dataset_dir)
    data = Data(training, None, sorted(LABEL_COLOURS), None, tmp_path, "train")  # Records without splits.json.
    reached = train_image_classifier.train(settings, data, Cluster(), {"model_name": MODEL_NAME})
    assert reached.startswith("trained to step 2: loss ") and reached.endswith(f"checkpoint {tmp_path}/model.ckpt-2")
    assert json.loads((tmp_path / "flags.json").read_text()) == {
        "finished_step": 2,
        "labels": sorted(LABEL_COLOURS),
        "max_number_of_steps": 2,
        "model_name": MODEL_NAME,
    }


@contextlib.contextmanager
def training_process(train_dir: Path, dataset_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """Runs an endless training as its own process; ready when it has saved a checkpoint of its own."""
    before = checkpoints.all_in(train_dir)
    script = str(REPOSITORY / "train_image_classifier.py")
    endless = ["--max_number_of_steps=1000000", "--save_interval_secs=1"]
    process = subprocess.Popen(
        [sys.executable, script, f"--train_dir={train_dir}", f"--dataset_dir={dataset_dir}", *SMALL, *endless],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while checkpoints.all_in(train_dir)[-1:] == before[-1:]:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(4 * START_SECONDS)
def test_a_run_survives_kill_9_sigterm_and_ctrl_c(
    dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / "logs"
    step = 0
    for number, status in [(signal.SIGKILL, -9), (signal.SIGTERM, 75), (signal.SIGINT, 130)]:
        with training_process(logs, dataset_dir) as process:
            process.send_signal(number)
            output, error = process.communicate(timeout=60)
        assert process.returncode == status, error
        assert f"from step {step:,} to 1,000,000" in output.splitlines()[0]
        assert "Traceback" not in error
        reached = checkpoints.step(checkpoints.newest(str(logs)))
        assert reached > step
        step = reached
        stored = tf.train.load_variable(checkpoints.newest(str(logs)), "global_step")
        assert stored == step  # Whole, whenever it was killed.
        if number == signal.SIGTERM:
            assert error.splitlines()[-1] == (
                f"interrupted: saved {logs}/model.ckpt-{step} at step {step:,} of 1,000,000; "
                "run the same command again to continue"
            )
        elif number == signal.SIGINT:
            assert error.splitlines()[-1] == "interrupted: run the same command again to continue"
    train(logs, dataset_dir, f"--max_number_of_steps={step + 1}")
    assert f"trained to step {step + 1:,}: " in capsys.readouterr().out


def test_a_checkpoint_that_another_run_saves_meanwhile_is_safe(dataset_dir: Path, tmp_path: Path) -> None:
    logs, script = tmp_path / "logs", str(REPOSITORY / "train_image_classifier.py")
    logs.mkdir()
    with subprocess.Popen(
        [sys.executable, script, f"--train_dir={logs}", f"--dataset_dir={dataset_dir}", *SMALL],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert " from step 0 to " in process.stdout.readline()  # It has looked for checkpoints, and builds its network.
        (logs / "model.ckpt-1.index").touch()
        error = process.communicate(timeout=START_SECONDS)[1]
    assert process.returncode == 75, error
    assert error.splitlines()[-1] == (
        f"interrupted: another process has saved a checkpoint in {logs} in the meantime; run the same command again"
    )
    assert [path.name for path in logs.iterdir() if path.name != ".lock"] == ["model.ckpt-1.index"]


def catches(pid: int, number: int) -> bool:
    """Returns whether a process has a handler for a signal."""
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.timeout(60 * START_SECONDS)
def test_sigterm_at_any_moment_is_status_75_and_a_whole_checkpoint(
    kills: int, dataset_dir: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    logs, moments, delays = tmp_path / "logs", random.Random(kills), []
    command = [sys.executable, str(REPOSITORY / "train_image_classifier.py"), f"--train_dir={logs}"]
    command += [f"--dataset_dir={dataset_dir}", *SMALL]
    command += ["--max_number_of_steps=1000000", "--save_interval_secs=1", "--validation_epochs=5"]
    for number in range(kills):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            while not catches(process.pid, signal.SIGTERM):  # Python itself needs its time to start.
                time.sleep(0.01)
            time.sleep(0 if number == 0 else moments.uniform(0, 12))
            start = time.monotonic()
            process.terminate()
            error = process.communicate(timeout=60)[1]
            delays.append(time.monotonic() - start)
        assert process.returncode == 75, error
        assert error.splitlines()[-1].startswith("interrupted: ") and "Session" not in error
        for checkpoint in checkpoints.all_in(logs):
            assert tf.train.load_variable(checkpoint, "global_step") == checkpoints.step(checkpoint)
    record_property(f"seconds from SIGTERM to the end, the longest of {kills}", f"{max(delays):.1f}")
