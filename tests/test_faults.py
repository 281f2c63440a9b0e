"""Kill -9, full and read-only disks, damaged files, two runs at once: nothing is lost, no half of a file is used."""

from collections.abc import Callable, Iterator
import contextlib
import csv
import functools
import os
from pathlib import Path
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from conftest import IMAGE_SIZE, MODEL_NAME, REPOSITORY, draw_pictures
import corpus
from doubles import Museum
import numpy as np
import pytest

from metart.networks.slim_compat import tf
from metart.common.files import LOCK_FILENAME, PARTIAL_SUFFIX, locked
from metart.common.flags import Retry, UserError
from metart.evaluation.inference import open_classifier
from metart.networks import checkpoints
from metart.training.frozen_features import kept_features
import train_image_classifier

KILLS = 50
SMALL = [f"--model_name={MODEL_NAME}", f"--train_image_size={IMAGE_SIZE}", "--batch_size=9", "--precision=float32"]
QUICKLY_BUILT = ["--model_name=alexnet_v2", "--train_image_size=224", "--batch_size=1"]
MUSEUM_HEADER = ["Object ID", "Is Public Domain", "Department", "Culture", "Link Resource"]
LINK = "http://www.metmuseum.org/art/collection/search/"


class Inputs(NamedTuple):
    """What the scripts read; they write into a folder of their own."""

    folder: Path
    museum: Museum
    dataset_dir: Path = Path()
    train_dir: Path = Path()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inputs]:
    folder = tmp_path_factory.mktemp("inputs")
    with open(folder / "MetObjects.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(MUSEUM_HEADER)
        writer.writerows([i, "True", "A", f"Culture {i % 50}", f"{LINK}{i}"] for i in range(20_000))
    picture = corpus.encode(corpus.drawing(1, (200, 150)))
    with Museum([picture], {"isPublicDomain": True}, faults=False).open() as museum:
        with open(folder / "arts-select.list", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["department", "label", "link_resource", "image_url", "is_public_domain"])
            writer.writerows(
                ["A", f"Culture {i % 7}", f"{LINK}{i}", museum.listed_address(i), "True"] for i in range(200)
            )
        draw_pictures(folder, per_label=100)
        yield Inputs(folder, museum)


@pytest.fixture(scope="module")
def trained(inputs: Inputs, dataset_dir: Path, train_dir: Path) -> Inputs:
    """The same with records and a checkpoint."""
    return inputs._replace(dataset_dir=dataset_dir, train_dir=train_dir)


def list_artworks(inputs: Inputs, out: Path) -> list[str]:
    return ["bigquery.py", f"--metadata_csv={inputs.folder}/MetObjects.csv", f"--output={out}/arts-all.list"]


def download(inputs: Inputs, out: Path) -> list[str]:
    polite = ["--requests_per_second=500", "--num_workers=4", *inputs.museum.flags]
    return ["download.py", f"--list_file={inputs.folder}/arts-select.list", f"--dataset_dir={out}", *polite]


def convert(inputs: Inputs, out: Path) -> list[str]:
    if not (out / "met_art").exists():
        (out / "met_art").symlink_to(inputs.folder / "met_art")
    return ["convert.py", f"--dataset_dir={out}", "--num_workers=1"]


def train(inputs: Inputs, out: Path) -> list[str]:
    often = ["--max_number_of_steps=6", "--save_interval_secs=1", "--log_every_n_steps=1"]
    return ["train_image_classifier.py", f"--train_dir={out}", f"--dataset_dir={inputs.dataset_dir}", *SMALL, *often]


def evaluate(inputs: Inputs, out: Path) -> list[str]:
    checkpoint = f"--checkpoint_path={inputs.train_dir}"
    return ["eval_image_classifier.py", checkpoint, f"--eval_dir={out}", f"--dataset_dir={inputs.dataset_dir}"]


def export(inputs: Inputs, out: Path) -> list[str]:
    return ["export_model.py", f"--checkpoint_path={inputs.train_dir}", f"--export_dir={out}", "--notflite"]


def explain(inputs: Inputs, out: Path) -> list[str]:
    pictures = sorted(map(str, (inputs.folder / "met_art").rglob("*.jpg")))[:3]
    about = [f"--explain_dir={out}", f"--dataset_dir={inputs.dataset_dir}"]
    return ["classify.py", f"--checkpoint_path={inputs.train_dir}", *about, "--image_file", *pictures]


def draw(inputs: Inputs, out: Path) -> list[str]:
    return ["sample/draw_sample.py", f"--output={out}/sample.tar.gz"]


Command = Callable[[Inputs, Path], list[str]]
LIGHT = [list_artworks, download, convert]
HEAVY = [train, evaluate, export, explain, draw]


def start(command: list[str], **keywords: object) -> subprocess.Popen[str]:
    script = [sys.executable, str(REPOSITORY / command[0]), *command[1:]]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen(script, **(pipes | keywords))  # type: ignore[call-overload]


def finish(command: list[str]) -> float:
    """Runs a script that has to succeed; returns the seconds that it took."""
    began = time.monotonic()
    process = start(command)
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    return time.monotonic() - began


def result(out: Path) -> dict[str, bytes]:
    """Returns the content of what a script has written, by path: what is not whole or tells the time does not count."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        passing = "partial-" in name or name.endswith((PARTIAL_SUFFIX, ".lock")) or "events.out.tfevents" in name
        if path.is_file() and not passing and not name.endswith(".npz"):  # An archive, with times in it.
            found[name] = path.read_bytes()
    return found


def assert_same(command: Command, out: Path, undisturbed: dict[str, bytes]) -> None:
    found = result(out)
    if command is train:  # It goes on with other batches after an interruption, so the weights differ.
        assert tf.train.load_variable(str(out / "model.ckpt-6"), "global_step") == 6
        assert {"model.ckpt-6.index", "checkpoint"} <= found.keys()
        assert {name: found[name] for name in ("labels.txt",)} == {name: undisturbed[name] for name in ("labels.txt",)}
    else:
        assert found.keys() == undisturbed.keys()
        assert {name for name in found if found[name] != undisturbed[name]} == set()


def assert_whole(command: Command, out: Path, undisturbed: dict[str, bytes]) -> None:
    """Proves that what has its name after a fault is whole."""
    if command is train:
        for checkpoint in checkpoints.all_in(out):
            reader = tf.train.load_checkpoint(checkpoint)
            assert reader.get_tensor("global_step") == checkpoints.step(checkpoint)
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)  # Compares the checksum.
    else:
        found = result(out)
        assert {name for name in found if found[name] != undisturbed.get(name)} == set()


def assert_one_line(process: subprocess.Popen[str], status: int = 1, beginning: str = "error: ") -> str:
    """Waits for a script to fail in the way it should, and returns its last line."""
    _, errors = process.communicate(timeout=280)
    assert process.returncode == status, errors
    assert "Traceback" not in errors, errors
    last = errors.splitlines()[-1]
    assert last.startswith(beginning), errors
    return last


def kill_at_random_moments(command: Command, inputs: Inputs, folder: Path, rounds: int, kills: int) -> None:
    """Kills runs in the same folder; after each round of them, one more run has to end like an undisturbed one."""
    whole = folder / "undisturbed"
    whole.mkdir()
    seconds = finish(command(inputs, whole))
    undisturbed = result(whole)
    generator = random.Random(0)
    for number in range(rounds):
        out = folder / str(number)
        out.mkdir()
        for _ in range(kills):
            process = start(command(inputs, out))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=generator.uniform(0, seconds))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            assert_whole(command, out, undisturbed)
        finish(command(inputs, out))
        assert_same(command, out, undisturbed)
        shutil.rmtree(out)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", LIGHT)
def test_kill_9_at_any_moment(command: Command, inputs: Inputs, tmp_path: Path) -> None:
    kill_at_random_moments(command, inputs, tmp_path, rounds=KILLS, kills=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", HEAVY)
def test_kill_9_at_any_moment_of_a_slow_script(command: Command, trained: Inputs, tmp_path: Path) -> None:
    kill_at_random_moments(command, trained, tmp_path, rounds=KILLS // 10, kills=10)


@contextlib.contextmanager
def small_disk(kilobytes: int) -> Iterator[Path]:
    """A file system in memory of so many kilobytes."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("only root on Linux can make a small file system")
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], capture_output=True, text=True
        )
        if mounted.returncode:
            pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def fill_the_disk(command: Command, inputs: Inputs, folder: Path, sizes: list[int]) -> None:
    finish(command(inputs, folder))
    undisturbed = result(folder)
    for kilobytes in sizes:
        with small_disk(kilobytes) as out:
            last = assert_one_line(start(command(inputs, out)))
            assert "No space left on device" in last or "cannot be written" in last
            assert_whole(command, out, undisturbed)
            remount(out, "size=1g")
            finish(command(inputs, out))
            assert_same(command, out, undisturbed)


@pytest.mark.parametrize(("command", "sizes"), [(list_artworks, [8, 400]), (download, [16, 400]), (convert, [40, 200])])
def test_a_full_disk(command: Command, sizes: list[int], inputs: Inputs, tmp_path: Path) -> None:
    fill_the_disk(command, inputs, tmp_path, sizes)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("command", "sizes"),
    [
        (train, [4, 40, 3_000]),
        (evaluate, [4, 40]),
        (export, [40, 3_000]),
        (explain, [4, 60]),
        (draw, [4, 2_000]),
    ],
)
def test_a_full_disk_and_a_slow_script(command: Command, sizes: list[int], trained: Inputs, tmp_path: Path) -> None:
    fill_the_disk(command, trained, tmp_path, sizes)


@pytest.mark.parametrize(("largest", "file"), [(3_000, "events.out.tfevents."), (100_000, "model.ckpt-")])
def test_a_file_that_training_cannot_write_is_named(
    largest: int, file: str, dataset_dir: Path, inputs: Inputs, tmp_path: Path
) -> None:
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (largest, largest))
    last = assert_one_line(start(train(inputs._replace(dataset_dir=dataset_dir), tmp_path), preexec_fn=limit))
    reason = r"cannot be written \(File too large\); free some space and run the same command again"
    assert re.fullmatch(rf"error: {tmp_path}/{re.escape(file)}\S* {reason}", last)
    assert not list(tmp_path.glob("model.ckpt*"))


def test_a_full_disk_for_features() -> None:
    shape = (1000, 500)

    def compute(view: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, *shape[:1], 100):
            yield np.full((100, shape[1]), view, np.float32), np.arange(start, start + 100)

    with small_disk(1_500) as folder:  # The second of two views, 1 MB each, does not fit.
        with pytest.raises(OSError, match="No space left on device"):
            kept_features(folder / "features", "weights", 2, shape, compute)
        remount(folder, "size=1g")
        kept = kept_features(folder / "features", "weights", 2, shape, compute)
        features, labels = next(kept.batches(1000, seed=0, first_batch=0))
    assert set(features.flat) == {0, 1} and sorted(labels) == list(range(1000))


def test_a_full_disk_behind_stdout(inputs: Inputs) -> None:
    command = [part for part in list_artworks(inputs, Path()) if not part.startswith("--output")]
    with open("/dev/full", "w") as full:
        last = assert_one_line(start(command, stdout=full))
    assert last == "error: No space left on device; free some space and run the same command again"


def read_only(command: Command, inputs: Inputs) -> None:
    with small_disk(1000) as out:
        flags = command(inputs, out)
        remount(out, "ro")
        assert "Read-only file system" in assert_one_line(start(flags))


@pytest.mark.parametrize("command", LIGHT)
def test_a_read_only_folder(command: Command, inputs: Inputs) -> None:
    read_only(command, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("command", HEAVY)
def test_a_read_only_folder_and_a_slow_script(command: Command, trained: Inputs) -> None:
    read_only(command, trained)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken_only_when_asked(
    train_dir: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    logs = shutil.copytree(train_dir, tmp_path / "logs")
    newer = str(logs / "model.ckpt-30")
    for part in ("index", "data-00000-of-00001"):
        shutil.copy(logs / f"model.ckpt-20.{part}", f"{newer}.{part}")
    index, data = Path(f"{newer}.index"), Path(f"{newer}.data-00000-of-00001")
    whole = index.read_bytes()
    for tenth in range(10):
        index.write_bytes(whole[: len(whole) * tenth // 10])
        with pytest.raises(UserError, match=f"{newer} is damaged or incomplete .* delete {newer}"):
            checkpoints.shapes(checkpoints.newest(str(logs)))
    index.write_bytes(whole)
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"{newer} is damaged or incomplete .* delete {newer}"):
        open_classifier(str(logs), dataset_dir=dataset_dir)
    data.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=f"{newer} is damaged or incomplete"):
        train_image_classifier.main(train_flags(logs, dataset_dir, *SMALL, "--optimizer=momentum"))
    with open_classifier(str(logs / "model.ckpt-20"), dataset_dir=dataset_dir) as classifier:
        assert classifier.checkpoint == str(logs / "model.ckpt-20")


def train_flags(logs: Path, dataset_dir: Path, *flags: str) -> list[str]:
    return [f"--train_dir={logs}", f"--dataset_dir={dataset_dir}", "--max_number_of_steps=40", *flags]


def test_a_second_training_run_in_a_folder_is_refused(dataset_dir: Path, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    with locked(logs), pytest.raises(Retry, match=f" is writing to {logs}; run the same command again"):
        train_image_classifier.main(train_flags(logs, dataset_dir, *QUICKLY_BUILT))
    assert [path.name for path in logs.iterdir()] == [LOCK_FILENAME]


@pytest.mark.parametrize("command", [download, convert])
def test_a_second_process_in_a_data_folder_is_refused(command: Command, inputs: Inputs, tmp_path: Path) -> None:
    with locked(tmp_path, ".download.lock" if command is download else LOCK_FILENAME):
        last = assert_one_line(start(command(inputs, tmp_path)), 75, "interrupted: ")
        assert f" is writing to {tmp_path}; run the same command again" in last
    finish(command(inputs, tmp_path))


@pytest.mark.slow
def test_of_two_training_processes_one_goes_on(trained: Inputs, tmp_path: Path) -> None:
    endless = [*train(trained, tmp_path), "--max_number_of_steps=1000000"]
    first = start(endless)
    try:
        while not checkpoints.all_in(tmp_path):
            assert first.poll() is None
            time.sleep(0.1)
        last = assert_one_line(start(endless), 75, "interrupted: ")
        assert f"(process {first.pid}) is writing to {tmp_path}; " in last or "another process is writing" in last
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    reached = checkpoints.step(checkpoints.newest(str(tmp_path)))
    finish([*endless, f"--max_number_of_steps={reached + 1}"])  # The lock has gone with its process.
