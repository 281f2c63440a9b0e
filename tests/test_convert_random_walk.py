"""Histories of a data set: pictures come, go, change, and move between labels; records get lost, runs are killed.

After each the records have to be right and what was said true, worked out from the folders and files themselves.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
import csv
import hashlib
import io
from pathlib import Path
import random
import re
import shutil
import subprocess
import sys
import time

from conftest import REPOSITORY
from PIL import Image
import pytest

from metart.networks.slim_compat import tf
import convert
from metart.common.flags import Retry, UserError

FOLDERS = ["American", "Café", "Cafe\u0301", "french", "French", "Italian, Florence", "中国"]
# fmt: off
KINDS = [
    "add", "add", "away", "back", "copy", "flags", "label", "merge", "move", "new", "records", "remove", "rename",
    "replace", "seed", "split", "swap",
]
# fmt: on
NUMBERS = [1000, 1100, 7000, 52300]  # Series.


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Walk:
    def __init__(self, folder: Path, seed: int, capsys: pytest.CaptureFixture[str]):
        self.folder, self.root = folder, folder / "met_art"
        self.chance = random.Random(seed)
        self.capsys = capsys
        self.drawn = 0
        self.bad: set[str] = set()  # Contents.
        self.away: list[bytes] = []
        self.flags = {"num_shards": 5, "min_images_per_label": 1, "random_seed": 0}
        self.sides: dict[str, str] = {}  # By content, since the split was last made anew.
        self.seed = 0  # Of that split.
        self.done: Counter[str] = Counter()
        for name in FOLDERS[:3]:
            self.add(self.root / name)

    def labels(self) -> dict[str, str]:
        """Returns the label of each folder."""
        of_folder = {}
        for folder in self.root.iterdir():
            full = folder / ".label"
            of_folder[folder.name] = full.read_text() if full.exists() else folder.name.replace("Cafe\u0301", "Café")
        return of_folder

    def files(self) -> list[Path]:
        return sorted(path for path in self.root.glob("*/*") if path.name != ".label")

    def content(self) -> bytes:
        self.drawn += 1
        if self.chance.random() < 0.07:
            data = f"<html>{self.drawn}".encode()
            self.bad.add(hashlib.sha256(data).hexdigest())
            return data
        output = io.BytesIO()
        pixels = random.Random(self.drawn).randbytes(3 * 6 * 5)
        Image.frombytes("RGB", (6, 5), pixels).save(output, "JPEG", quality=100)  # Too small to look like another.
        return output.getvalue()

    def name(self) -> str:
        number = self.chance.choice(NUMBERS) + self.chance.randrange(40)
        return self.chance.choice([f"{number}.jpg", f"{number}.jpg", f"{number}_1.jpg", f"met_{number}", f"é {number}"])

    def add(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for _ in range(self.chance.randint(1, 10)):
            (folder / self.name()).write_bytes(self.content())

    def change(self) -> None:
        """Does one thing that somebody may do to a data set."""
        folder = self.chance.choice(sorted(self.root.iterdir()))
        other = self.root / self.chance.choice(FOLDERS)
        files = self.files()
        if not files:
            self.add(folder)
            return
        one, two = self.chance.choice(files), self.chance.choice(files)
        of_folder = [path for path in files if path.parent == folder]
        kind = self.chance.choice(KINDS)
        if kind == "add":
            self.add(folder)
        elif kind == "new":
            self.add(other)
        elif kind == "remove":
            one.unlink()
        elif kind == "move":
            one.rename(folder / self.name())
        elif kind == "swap":
            first, second = one.read_bytes(), two.read_bytes()
            one.write_bytes(second)
            two.write_bytes(first)
        elif kind == "copy":  # Within a label, or to another.
            (folder / self.name()).write_bytes(one.read_bytes())
        elif kind == "replace":
            one.write_bytes(self.content())
        elif kind == "rename" and not other.exists():
            folder.rename(other)
        elif kind == "label":
            full = folder / ".label"
            full.unlink() if full.exists() else full.write_text(self.chance.choice(FOLDERS[3:5]))
        elif kind in ("split", "merge") and other != folder:
            other.mkdir(exist_ok=True)
            for path in of_folder[:: 2 if kind == "split" else 1]:
                path.replace(other / path.name)
            if kind == "merge":
                shutil.rmtree(folder)
        elif kind == "away":
            self.away.append(one.read_bytes())
            one.unlink()
        elif kind == "back" and self.away:
            (folder / self.name()).write_bytes(self.away.pop())
        elif kind == "records" and (shards := sorted(self.folder.glob("*.tfrecord"))):
            shard = self.chance.choice(shards)
            shard.write_bytes(shard.read_bytes()[:-1])
            self.chance.choice(shards).unlink()
        elif kind == "flags":
            self.flags |= {"num_shards": self.chance.choice((1, 5)), "min_images_per_label": self.chance.choice((1, 4))}
        elif kind == "seed" and self.chance.random() < 0.3:
            self.flags["random_seed"] += 1

    def command(self) -> list[str]:
        return [f"--dataset_dir={self.folder}", "--num_workers=1", *(f"--{k}={v}" for k, v in self.flags.items())]

    def kill(self) -> None:
        """Kills a run at any moment; what it had finished counts."""
        with subprocess.Popen(
            [sys.executable, REPOSITORY / "convert.py", *self.command()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            time.sleep(self.chance.uniform(0.3, 3))
            process.kill()

    def step(self) -> None:
        for _ in range(self.chance.randint(1, 3)):
            self.change()
        if self.chance.random() < 0.15:
            self.kill()
        self.capsys.readouterr()
        try:
            convert.main(self.command())
        except (UserError, Retry) as error:
            assert re.search(r"has no readable picture of|a classifier needs two", str(error))
            self.done["refused"] += 1
            return
        self.done["converted"] += 1
        self.check(self.capsys.readouterr().out.splitlines())

    def check(self, said: list[str]) -> None:
        content = {path: sha256(path) for path in self.files()}
        label = {path: self.labels()[path.parent.name] for path in content}
        under: dict[str, set[str]] = defaultdict(set)
        for path in content:
            under[content[path]].add(label[path])
        good = {path for path in content if content[path] not in self.bad and len(under[content[path]]) == 1}
        counts = Counter(label[path] for path in good)
        names = sorted(name for name, count in counts.items() if count >= self.flags["min_images_per_label"])
        assert (self.folder / "labels.txt").read_text() == "".join(f"{n}:{name}\n" for n, name in enumerate(names))

        sides: dict[Path, str] = {}
        for shard in self.folder.glob("*.tfrecord"):
            for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
                features = tf.train.Example.FromString(record).features.feature
                path = self.root / features["image/filename"].bytes_list.value[0].decode()
                assert path not in sides
                sides[path] = shard.name.split("_")[1]
                assert hashlib.sha256(features["image/encoded"].bytes_list.value[0]).hexdigest() == content[path]
                assert names[features["image/class/label"].int64_list.value[0]] == label[path]
        assert sides.keys() == {path for path in good if label[path] in names}
        bad = sorted(content.keys() - good)
        if bad:
            with open(self.folder / "bad-pictures.csv", encoding="utf-8", newline="") as file:
                assert [self.root / row["path"] for row in csv.DictReader(file)] == bad
        else:
            assert not (self.folder / "bad-pictures.csv").exists()
        assert not list(self.folder.glob("*.partial"))

        if self.seed != self.flags["random_seed"]:
            self.seed, self.sides = self.flags["random_seed"], {}
        for path, side in sides.items():
            assert self.sides.setdefault(content[path], side) == side

        if said[-1].startswith("nothing to do"):
            assert said[-1].endswith(f" are made from these {len(content)} files")
            return
        training, validation = (list(sides.values()).count(side) for side in ("train", "validation"))
        assert said[-1] == (
            f"{len(names)} labels, {training} pictures for training and {validation} for validation, "
            f"in {2 * self.flags['num_shards']} files in {self.folder}"
        )
        assert (f"left out, bad pictures: {len(bad)}, listed in {self.folder}/bad-pictures.csv" in said) == bool(bad)
        number = {path: int(re.findall("[0-9]+", path.name)[0]) for path in sides if not path.name.startswith("é")}
        trained = {(label[path], number[path]) for path in number if sides[path] == "train"}
        near = sum(
            any((label[path], number[path] + distance) in trained for distance in range(-3, 4))
            for path in number
            if sides[path] == "validation"
        )
        share = near / max(1, validation)
        assert said[-2] == f"validation pictures with a neighbour in training (number within 3): {share:.1%}"


@pytest.mark.parametrize(("steps", "seed"), [(25, 5), pytest.param(150, 2, marks=pytest.mark.slow)])
@pytest.mark.timeout(3600)
def test_records_are_right_after_any_history(
    steps: int,
    seed: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    walk = Walk(tmp_path, seed, capsys)
    for _ in range(steps):
        walk.step()
    record_property(f"of {steps} steps", dict(walk.done))
    assert walk.done["converted"] > steps // 2
