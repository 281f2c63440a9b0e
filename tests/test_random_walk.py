"""A careless user's week: commands in any order over two data sets, three runs and two export folders.

Each either says in one line what does not fit, or is right. What is right is worked out from the files themselves: the
records read one by one, the pictures by their content, the labels by the folders they lie in.
"""

from collections.abc import Callable
import csv
import hashlib
import json
from pathlib import Path
import random
import subprocess
import sys
import time

from conftest import IMAGE_SIZE, LABEL_COLOURS, MODEL_NAME, REPOSITORY, draw_pictures
import numpy as np
import pytest

from metart.networks.slim_compat import tf
import classify
import convert
import eval_image_classifier
import export_model
from metart.common.flags import Retry, UserError
import train_image_classifier

NETWORK = [f"--model_name={MODEL_NAME}", f"--train_image_size={IMAGE_SIZE}", "--batch_size=4"]
NEW_NAMES = ["Chinese", "Aztec", "Zulu", "Khmer"]


def records(folder: Path, split: str) -> dict[str, int]:
    """Returns the label number of each picture, by the hash of its JPEG, from the records of a split."""
    found = {}
    for shard in folder.glob(f"arts_{split}_*.tfrecord"):
        for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            picture = features["image/encoded"].bytes_list.value[0]
            found[hashlib.sha256(picture).hexdigest()] = features["image/class/label"].int64_list.value[0]
    return found


def labels(folder: Path) -> list[str]:
    return [line.partition(":")[2] for line in (folder / "labels.txt").read_text().splitlines()]


class Walk:
    """What a user does, and what has to be true after it."""

    def __init__(self, folder: Path, seed: int, capsys: pytest.CaptureFixture[str]):
        self.chance = random.Random(seed)
        self.capsys = capsys
        self.data = [folder / "data-1", folder / "data-2"]
        self.runs = [folder / f"run-{number}" for number in range(3)]
        self.exports = [folder / "export-1", folder / "export-2"]
        self.seen: dict[Path, set[str]] = {run: set() for run in self.runs}
        self.learned: dict[Path, list[str]] = {}  # The labels of each run.
        self.answered = self.refused = 0
        for number, data in enumerate(self.data):
            draw_pictures(data, per_label=10 + number)
            self.main(convert.main, f"--dataset_dir={data}", "--num_workers=1")

    def main(self, main: Callable[[list[str]], None], *flags: str) -> str | None:
        """Runs a script; returns what it printed, None if it refused."""
        self.capsys.readouterr()
        try:
            main(list(flags))
        except (UserError, Retry) as error:
            assert "\n" not in str(error)
            self.refused += 1
            return None
        self.answered += 1
        return self.capsys.readouterr().out

    def step(self) -> None:
        run, data = self.chance.choice(self.runs), self.chance.choice(self.data)
        self.chance.choice(
            [self.convert, self.rename, self.train, self.train, self.kill, self.evaluate, self.evaluate, self.export]
        )(run, data)
        if run in self.learned:
            self.check_answers(run)

    def convert(self, run: Path, data: Path) -> None:
        flags = [f"--random_seed={self.chance.randrange(3)}", f"--percent_validation={self.chance.choice((25, 40))}"]
        assert self.main(convert.main, f"--dataset_dir={data}", "--num_workers=1", *flags) is not None
        train, validation = records(data, "train"), records(data, "validation")
        assert not train.keys() & validation.keys()

    def rename(self, run: Path, data: Path) -> None:
        """Renames a label, and does not always convert anew."""
        old = self.chance.choice(sorted((data / "met_art").iterdir()))
        new = data / "met_art" / self.chance.choice(NEW_NAMES)
        if not new.exists():
            old.rename(new)
        if self.chance.random() < 0.7:
            self.convert(run, data)

    def flags(self, run: Path, data: Path) -> list[str]:
        steps = 2 + max((int(path.stem.rpartition("-")[2]) for path in run.glob("model.ckpt-*.index")), default=0)
        flags = [f"--train_dir={run}", f"--dataset_dir={data}", f"--max_number_of_steps={steps}", *NETWORK]
        others = [other for other in self.learned if other != run]
        if others and self.chance.random() < 0.3:
            flags.append(f"--checkpoint_path={self.chance.choice(others)}")
        if self.chance.random() < 0.3:
            flags.append("--validation_epochs=0.1")
        return flags

    def note(self, run: Path, data: Path, flags: list[str], is_new: bool) -> None:
        assert run not in self.learned or self.learned[run] == labels(data)
        self.learned[run] = labels(data)
        self.seen[run] |= records(data, "train").keys()
        for flag in flags:
            if is_new and flag.startswith("--checkpoint_path="):
                self.seen[run] |= self.seen[Path(flag.partition("=")[2])]

    def train(self, run: Path, data: Path) -> None:
        flags, is_new = self.flags(run, data), not list(run.glob("model.ckpt-*"))
        if self.main(train_image_classifier.main, *flags) is not None:
            self.note(run, data, flags, is_new)
            assert not self.seen[run] & records(data, "validation").keys()

    def kill(self, run: Path, data: Path) -> None:
        """Kills a run that would not end, at any moment."""
        if self.chance.random() < 0.7:  # Starting a process takes long.
            return
        flags, is_new = self.flags(run, data), not list(run.glob("model.ckpt-*"))
        command = [sys.executable, str(REPOSITORY / "train_image_classifier.py"), *flags, "--save_interval_secs=1"]
        with subprocess.Popen([*command, "--max_number_of_steps=1000000"], stderr=subprocess.DEVNULL) as process:
            time.sleep(self.chance.uniform(3, 12))
            process.kill()
        if (is_new and list(run.glob("model.ckpt-*.index"))) or ((run / "labels.txt").exists() and not is_new):
            if run not in self.learned:
                self.learned[run] = labels(run)
            if process.returncode == -9 and self.learned[run] == labels(data):
                self.seen[run] |= records(data, "train").keys()  # It may have begun.

    def evaluate(self, run: Path, data: Path) -> None:
        more = ["--calibrate"] if self.chance.random() < 0.3 else []
        folder = run / "eval"
        flags = [f"--checkpoint_path={run}", f"--dataset_dir={data}", f"--eval_dir={folder}", *more]
        if self.main(eval_image_classifier.main, *flags) is None:
            return
        figures = json.loads((folder / "metrics.json").read_text())
        held_out = records(data, "validation")
        assert not self.seen[run] & held_out.keys()
        assert self.learned[run] == labels(data)
        with open(folder / "predictions.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(held_out) == figures["pictures"]
        for row in rows:
            picture = data / "met_art" / row["picture"]
            if picture.exists():  # Its folder may have been renamed since.
                content = hashlib.sha256(picture.read_bytes()).hexdigest()
                assert labels(data)[held_out[content]] == row["truth"]
        assert figures["top_1"] == pytest.approx(np.mean([row["truth"] == row["answer_1"] for row in rows]))

    def export(self, run: Path, data: Path) -> None:
        folder = self.chance.choice(self.exports)
        flags = [f"--checkpoint_path={run}", f"--export_dir={folder}", "--notflite"]
        with_figures = self.chance.random() < 0.5
        if with_figures:
            flags.append(f"--eval_dir={run}/eval")
        if self.main(export_model.main, *flags) is None:
            return
        served = folder / str(max(int(path.name) for path in folder.glob("[0-9]*")))  # What TensorFlow Serving serves.
        assert labels(served) == self.learned[run]
        picture = next((data / "met_art").rglob("*.jpg"))
        answer = tf.saved_model.load(str(served)).signatures["serving_default"](
            image_bytes=tf.constant([picture.read_bytes()])
        )
        by_name = dict(zip(answer["labels"].numpy()[0], answer["probabilities"].numpy()[0], strict=True))
        for label, probability in self.answers(run, picture).items():
            assert by_name[label.encode()] == pytest.approx(probability, abs=2e-3)
        if with_figures:
            figures = json.loads((run / "eval" / "metrics.json").read_text())
            assert f"| top 1 | {figures['top_1']:.4f} |" in (served / "README.md").read_text()

    def answers(self, run: Path, picture: Path) -> dict[str, float]:
        """Returns what classify.py says of a picture, without a word where it has to refuse."""
        said = self.main(classify.main, f"--checkpoint_path={run}", f"--image_file={picture}", "--format=jsonl")
        return {each["label"]: each["probability"] for each in json.loads(said)["answers"]} if said else {}

    def check_answers(self, run: Path) -> None:
        picture = next((self.data[0] / "met_art").rglob("*.jpg"))
        answers = self.answers(run, picture)
        assert not answers or sorted(answers) == sorted(self.learned[run])


@pytest.mark.parametrize(("commands", "seed"), [(12, 1), *(pytest.param(200, s, marks=pytest.mark.slow) for s in (2,))])
@pytest.mark.timeout(7200)
def test_no_command_answers_wrongly(
    commands: int,
    seed: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    walk = Walk(tmp_path, seed, capsys)
    for _ in range(commands):
        walk.step()
    record_property(f"of {commands} steps", f"{walk.answered} commands answered, {walk.refused} refused")
    assert walk.answered > commands // 4 and set(LABEL_COLOURS)
