"""Scripts as carelessly called as can be: paths, streams, environments and signals of any kind.

Whatever is odd, a run ends in time, says in one line what does not fit, changes no input and replaces no pipe, device
or link. A run is repeated by its number:

    MET_ART_FUZZ_FIRST=123 MET_ART_FUZZ_RUNS=1 ./test.sh tests/test_command_lines.py
"""

from collections import Counter
from collections.abc import Callable, Iterator
import contextlib
import csv
import ctypes
import hashlib
import os
from pathlib import Path
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

from conftest import IMAGE_SIZE, MODEL_NAME, REPOSITORY, draw_picture
import corpus
from doubles import Museum
import pytest

FIRST = int(os.environ.get("MET_ART_FUZZ_FIRST", "0"))
RUNS = int(os.environ.get("MET_ART_FUZZ_RUNS", "0"))  # 0: as many as each test has by itself.
SECONDS = 600  # For one run; on a quiet machine the longest takes 20.
# The last two where a signal meets a process that has nothing more to do.
STATUSES = {0, 1, 2, 75, 128 + signal.SIGINT, 128 + signal.SIGPIPE, -signal.SIGINT, -signal.SIGTERM}
NAMES = [
    "a",
    "a[1]",
    "*",
    "wh?t",
    "[a-z]*",
    "~",
    "~root",
    "sp ace",
    "中国",
    "-dash",
    "new\nline",
    "back\\slash",
    "q'uo\"te",
    "$HOME",
    "%41",
    "a" * 240,
]
NO_TEXT = os.fsdecode(b"no \xff text")
LINK = "http://www.metmuseum.org/art/collection/search/"
ENVIRONMENTS: list[dict[str, str | None]] = [
    {},
    {"HOME": None},
    {"HOME": "/nothing"},
    {"LANG": "C", "LC_ALL": "C"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "xx_YY.nothing"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"TMPDIR": "/nothing"},
    {"TMPDIR": "FULL"},
    {"COLUMNS": "1", "TERM": "dumb"},
    {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    {"HTTP_PROXY": "nonsense://[", "no_proxy": "*"},
    {"JOB_COMPLETION_INDEX": "first"},
    {"TZ": "nowhere", "LANGUAGE": "zh"},
]
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 24, 1, 2


def limit_root() -> None:
    """Takes from a child that is root the right to read and write whatever the permissions say."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


class Inputs:
    """Good inputs, which the runs get copies of."""

    def __init__(self, folder: Path, museum: Museum, records: Path, checkpoint: Path):
        self.museum, self.records, self.checkpoint = museum, folder / "records", folder / "checkpoint"
        shutil.copytree(records, self.records, ignore=shutil.ignore_patterns("met_art"))
        shutil.copytree(checkpoint, self.checkpoint, ignore=shutil.ignore_patterns("events*", "*-0.*"))
        self.metadata, self.sql, self.map, self.list = (
            folder / name for name in ("m.csv", "q.sql", "map.csv", "a.list")
        )
        self.pictures = folder / "pictures"
        with open(self.metadata, "w", encoding="utf-8-sig", newline="") as file:
            rows = ([i, "True", "Asian Art", f"L {i % 3}", f"{LINK}{i}"] for i in range(1, 300))
            csv.writer(file).writerows(
                [["Object ID", "Is Public Domain", "Department", "Culture", "Link Resource"], *rows]
            )
        self.sql.write_text("SELECT culture, COUNT(*) AS n FROM `bigquery-public-data.the_met.objects` GROUP BY 1")
        self.map.write_text("from,to\nL 1,中国\nL 2,\n", encoding="utf-8")
        with open(self.list, "w", encoding="utf-8", newline="") as file:
            artworks = ([f"L {i % 3}", f"{LINK}{i}", museum.listed_address(i)] for i in range(1, 7))
            csv.writer(file).writerows([["label", "link_resource", "image_url"], *artworks])
        for label in ("A", "B"):
            (self.pictures / label).mkdir(parents=True)
            for number in range(4):
                name = f"{ord(label)}{number}"
                draw_picture((90 * number, 40, 60), int(name)).save(self.pictures / label / f"{name}.jpg")


@pytest.fixture(scope="module")
def inputs(dataset_dir: Path, train_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inputs]:
    picture = corpus.encode(corpus.drawing(1, (60, 40)))
    with Museum([picture], {"isPublicDomain": True}, faults=False).open() as museum:
        yield Inputs(tmp_path_factory.mktemp("inputs"), museum, dataset_dir, train_dir)


class Call:
    """One command, put together at random, and what has to be true after it."""

    def __init__(self, number: int, folder: Path):
        self.chance = random.Random(number)
        self.folder = folder
        self.working_folder: Path | None = None
        self.helpers: list[subprocess.Popen[bytes]] = []  # At the other ends of pipes.
        self.open_files: list[int] = []
        self.stdin: int = subprocess.DEVNULL
        for name in ("in/other", "out", "home"):
            (folder / name).mkdir(parents=True)

    def place(self, side: str) -> Path:
        """Returns a path of an odd name in a new folder of the side "in" or "out"."""
        return Path(tempfile.mkdtemp(dir=self.folder / side)) / self.chance.choice([*NAMES, NO_TEXT])

    def write(self, path: Path) -> str:
        """Returns a path as a user may write it: absolute, relative, or the name alone."""
        form = self.chance.choice(["absolute", "absolute", "relative", "name"])
        if form == "name" and not (self.working_folder or path.name.startswith("~")) and path.parent.is_dir():
            self.working_folder = path.parent
            return path.name
        # From any working folder, which is two below.
        return str(path) if form == "absolute" else f"../../{path.relative_to(self.folder)}"

    def runs_in(self) -> Path:
        return self.working_folder or self.folder / "in/other"

    def path_in(self, content: Path) -> str:
        """Returns a path that leads to a copy of a file or folder, or to something else."""
        path = self.place("in")
        kind = self.chance.choice(["plain"] * 4 + ["link", "links", "odd"] + ["pipe", "stdin", "descriptor"])
        if content.is_dir() and kind in ("pipe", "stdin", "descriptor"):
            kind = "plain"
        if kind == "odd":
            return self.odd(path)
        if kind == "pipe":
            os.mkfifo(path)
            self.helpers.append(subprocess.Popen(["sh", "-c", 'exec cat "$0" >"$1"', content, path]))
            return self.write(path)
        if kind in ("stdin", "descriptor"):
            feeding = subprocess.Popen(["cat", content], stdout=subprocess.PIPE)
            self.helpers.append(feeding)
            assert feeding.stdout
            if kind == "stdin" and self.stdin == subprocess.DEVNULL:
                self.stdin = feeding.stdout.fileno()
                return "/dev/stdin"
            self.open_files.append(feeding.stdout.fileno())
            return f"/dev/fd/{feeding.stdout.fileno()}"
        copy = path if kind == "plain" else path.with_name("target")
        (shutil.copytree if content.is_dir() else shutil.copy)(content, copy)
        for link in {"plain": [], "link": [path], "links": [path.with_name("link"), path]}[kind]:
            link.symlink_to(copy.name)
            copy = link
        return self.write(path)

    def odd(self, path: Path) -> str:
        """Returns a path of what no script can read."""

        def unreadable(path: Path) -> None:
            path.write_bytes(b"x") if self.chance.random() < 0.5 else path.mkdir()
            path.chmod(0)

        makers: list[Callable[[Path], object]] = [
            lambda path: None,  # Nothing there.
            lambda path: path.mkdir(),
            lambda path: path.symlink_to("nowhere"),
            lambda path: path.symlink_to(path.name),
            lambda path: path.write_bytes(b""),
            lambda path: path.write_bytes(self.chance.randbytes(3000)),
            unreadable,
            self.make_device,
        ]
        self.chance.choice(makers)(path)
        return self.write(path) + self.chance.choice(["", "", "/", "/more"])

    def make_device(self, path: Path) -> None:
        minor = self.chance.choice([3, 5, 7, 9])  # null, zero, full, urandom.
        with contextlib.suppress(OSError):  # Not root, or a file system without devices.
            os.mknod(path, 0o20666, os.makedev(1, minor))

    def path_out(self) -> str:
        """Returns a path to write to: of a new file, an old one, a pipe, a link, or of what cannot be written."""
        path = self.place("out")
        kind = self.chance.choice(["new"] * 3 + ["old", "link", "dangling", "pipe", "stdout", "device", "odd"])
        if kind == "stdout":
            return self.chance.choice(["/dev/stdout", "/dev/fd/1"])
        if kind == "old":
            path.write_text("old")
        elif kind in ("link", "dangling"):
            path.symlink_to("target")
            if kind == "link":
                path.with_name("target").write_text("old")
        elif kind == "pipe":
            os.mkfifo(path)
            with open(path.with_name("received"), "wb") as received:
                self.helpers.append(subprocess.Popen(["cat", path], stdout=received))
        elif kind == "device":
            self.make_device(path)
        elif kind == "odd":
            return self.odd(path)
        return self.write(path)

    def environment(self, full: Path | None) -> dict[str, str]:
        home = str(self.folder / "home")
        values: dict[str, str | None] = {**os.environ, "HOME": home, "TF_CPP_MIN_LOG_LEVEL": "2"}
        for changes in self.chance.sample(ENVIRONMENTS, self.chance.choice([0, 1, 1, 2])):
            values.update(changes)
        if values.get("TMPDIR") == "FULL":
            values["TMPDIR"] = str(full or "/nothing")
        return {name: value for name, value in values.items() if value is not None}

    def snapshot(self) -> dict[str, tuple[object, ...]]:
        """Returns what must not change: all of the inputs, and the kind of each link, pipe and device."""
        found: dict[str, tuple[object, ...]] = {}
        for top, is_input in ((self.folder / "in", True), (self.folder / "out", False)):
            for path in sorted(_walk(top)):
                status = path.lstat()
                kind = stat.S_IFMT(status.st_mode)
                if not is_input and kind in (stat.S_IFREG, stat.S_IFDIR):
                    continue
                content = hashlib.sha256(_read(path)).hexdigest() if kind == stat.S_IFREG else ""
                target = str(path.readlink()) if kind == stat.S_IFLNK else ""
                found[os.fsencode(path).decode("latin-1")] = (status.st_mode, status.st_rdev, content, target)
        return found

    def run(self, command: list[str], full: Path | None) -> None:
        before = self.snapshot()
        closed = self.chance.choice([None] * 6 + [0, 1])
        environment = self.environment(full)

        def prepare() -> None:
            limit_root()
            if closed is not None:
                os.close(closed)

        stdout = self.folder / "stdout"
        with open(stdout, "wb") as file, open(self.folder / "stderr", "wb") as errors:
            process = subprocess.Popen(
                [sys.executable, str(REPOSITORY / command[0]), *command[1:]],
                cwd=self.runs_in(),
                env=environment,
                stdin=self.stdin,
                stdout=file,
                stderr=errors,
                pass_fds=self.open_files,
                preexec_fn=prepare,
                start_new_session=True,
            )
            for number in self.open_files + ([self.stdin] if self.stdin >= 0 else []):
                os.close(number)
            try:
                if self.chance.random() < 0.3:
                    self.interrupt(process)
                process.wait(SECONDS)
            finally:
                process.kill()
                process.wait()
                for helper in self.helpers:
                    helper.kill()
                    helper.wait()
        printed = (self.folder / "stderr").read_text(errors="backslashreplace")
        changes = dict(environment.items() - os.environ.items())
        said = f"{command}\n{changes}\nstatus {process.returncode}\n{printed}"
        self.status = process.returncode
        assert self.status in STATUSES, said
        assert "Traceback" not in printed and "Fatal Python error" not in printed and "Exception" not in printed, said
        if self.status in (1, 2):
            assert printed.splitlines()[-1].startswith("error: "), said
        assert {name: status for name, status in self.snapshot().items() if name in before} == before, said
        if self.status == 0:
            assert not [path for path in _walk(self.folder) if path.name.endswith(".partial")], said

    def interrupt(self, process: subprocess.Popen[bytes]) -> None:
        """Sends a signal at any moment after the first imports, in which Python itself has the word."""
        number = self.chance.choice([signal.SIGINT, signal.SIGTERM])
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            caught = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigCgt:")]
            if caught and int(caught[0], 16) & (1 << (signal.SIGTERM - 1)):
                break
            time.sleep(0.005)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.chance.choice([0.3, 1, 5]) * self.chance.random())
        process.send_signal(number)


def _walk(top: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            yield Path(folder) / name


def _read(path: Path) -> bytes:
    mode = stat.S_IMODE(path.stat().st_mode)
    if not os.access(path, os.R_OK):
        path.chmod(0o600)
    try:
        return path.read_bytes()
    finally:
        path.chmod(mode)


def list_museum(call: Call, inputs: Inputs) -> list[str]:
    flags = [f"--metadata_csv={call.path_in(inputs.metadata)}"]
    more = [
        lambda: f"--sql_file={call.path_in(inputs.sql)}",
        lambda: f"--labels_map={call.path_in(inputs.map)}",
        lambda: "--list=labels",
        lambda: "--min_images=2",
        lambda: "--attribute=department",
        lambda: "--help",
    ]
    flags += [make() for make in call.chance.sample(more, call.chance.choice([0, 1, 2]))]
    return ["bigquery.py", *flags, *([f"--output={call.path_out()}"] if call.chance.random() < 0.8 else [])]


def download(call: Call, inputs: Inputs) -> list[str]:
    more = [
        "--labels=L 1",
        "--labels=L 9",
        "--max_images_per_label=1",
        "--num_shards=2",
        "--image_size=original",
        "--contact=王",
    ]
    flags = call.chance.sample(more, call.chance.choice([0, 1, 2]))
    polite = ["--requests_per_second=1000", "--num_workers=2", "--pause_seconds=0", "--timeout_seconds=5"]
    places = [f"--list_file={call.path_in(inputs.list)}", f"--dataset_dir={call.path_out()}"]
    return ["download.py", *places, *flags, *polite, *inputs.museum.flags]


def convert(call: Call, inputs: Inputs) -> list[str]:
    """Pictures among which lies what is none; the folder itself is written to."""
    folder = call.place("out")
    folder.mkdir()
    written = call.path_in(inputs.pictures)
    pictures = Path(os.path.normpath(call.runs_in() / written))
    (folder / "met_art").symlink_to(pictures)
    for _ in range(call.chance.choice([0, 1, 2])):
        with contextlib.suppress(OSError):
            call.odd(pictures / call.chance.choice(["A", ""]) / call.chance.choice(NAMES))
    return [
        "convert.py",
        f"--dataset_dir={call.write(folder)}",
        "--num_workers=1",
        *call.chance.choice([[], ["--check_image"]]),
    ]


def classify(call: Call, inputs: Inputs) -> list[str]:
    picture = inputs.pictures / call.chance.choice(["A", "A/650.jpg", "B/661.jpg"])
    more = ["--format=csv", "--format=jsonl", "--top_k=1", "--batch_size=1", f"--dataset_dir={inputs.records}"]
    flags = [f"--checkpoint_path={call.path_in(inputs.checkpoint)}", f"--image_file={call.path_in(picture)}"]
    return ["classify.py", *flags, *call.chance.sample(more, call.chance.choice([0, 1, 2]))]


def train(call: Call, inputs: Inputs) -> list[str]:
    network = [f"--model_name={MODEL_NAME}", f"--train_image_size={IMAGE_SIZE}", "--batch_size=4"]
    flags = [f"--train_dir={call.path_out()}", f"--dataset_dir={call.path_in(inputs.records)}", *network]
    start = [f"--checkpoint_path={call.path_in(inputs.checkpoint)}"] if call.chance.random() < 0.5 else []
    return ["train_image_classifier.py", *flags, *start, "--max_number_of_steps=2"]


def evaluate(call: Call, inputs: Inputs) -> list[str]:
    flags = [f"--checkpoint_path={call.path_in(inputs.checkpoint)}", f"--dataset_dir={call.path_in(inputs.records)}"]
    return ["eval_image_classifier.py", *flags, f"--eval_dir={call.path_out()}"]


def export(call: Call, inputs: Inputs) -> list[str]:
    flags = [f"--checkpoint_path={call.path_in(inputs.checkpoint)}", f"--export_dir={call.path_out()}"]
    return ["export_model.py", *flags, "--notflite"]


QUICK = [list_museum, download, convert]
SLOW = [classify, classify, train, evaluate, export]  # They load TensorFlow: few of them.


@contextlib.contextmanager
def full_disk() -> Iterator[Path | None]:
    """A folder that has no room, where one can be made."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=2", "tmpfs", folder]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
            yield None
            return
        try:
            with contextlib.suppress(OSError):
                (Path(folder) / "x").write_bytes(bytes(8192))
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def run_many(count: int, inputs: Inputs) -> Counter[tuple[str, int]]:
    """Runs so many command lines; returns how often each script ended with each status."""
    ends: Counter[tuple[str, int]] = Counter()
    with full_disk() as full:
        for number in range(FIRST, FIRST + (RUNS or count)):
            with tempfile.TemporaryDirectory(prefix=f"run-{number}-") as folder:
                call = Call(number, Path(folder))
                command = call.chance.choice(SLOW if number % 15 == 14 else QUICK)(call, inputs)
                try:
                    call.run(command, full)
                except BaseException:
                    print(f"run {number}")
                    raise
                ends[command[0], call.status] += 1
    return ends


@pytest.mark.timeout(900)
def test_30_careless_command_lines(inputs: Inputs) -> None:
    run_many(30, inputs)


@pytest.mark.slow
@pytest.mark.timeout(8 * 3600)
def test_2000_careless_command_lines(inputs: Inputs, record_property: Callable[[str, object], None]) -> None:
    ends = run_many(2000, inputs)
    record_property("ends", dict(ends))
    for script in ("bigquery.py", "download.py", "convert.py", "classify.py"):
        assert {0, 1, 75, 130} <= {status for name, status in ends if name == script}
