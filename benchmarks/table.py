"""Measures the speed and cost of this program and of comparable ones; prints tables for people to read.

Reads   sample-dataset.tar.gz
Writes  WORK_DIR/few and many: the sample's pictures, enlarged, under many names, and their records;
        WORK_DIR/logs: a checkpoint; WORK_DIR/measured.jsonl: every figure of every round

    python benchmarks/table.py --work_dir=measured --rounds=3 --peers_python=peers/bin/python

Each measurement is a process of its own, and all take turns round by round, so that a change in the machine
meets them all. Medians count. The machine should do nothing else. Safe to run again: it adds rounds to those measured.

PyTorch and timm, which --peers_python has, go into an environment of their own:

    python3 -m venv peers && peers/bin/pip install --no-deps -r requirements/benchmarks.txt

On a GPU, with requirements/gpu.lock and a PyTorch that computes there:

    python benchmarks/table.py --work_dir=measured --device=gpu --batch_sizes 32 128 256 --steps=50 --peers_python=…
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import functools
import json
import os
from pathlib import Path
import random
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from PIL import Image, ImageOps  # noqa: E402

from metart.common.flags import Parser, UserError, number, run  # noqa: E402

FIGURES_FILENAME = "measured.jsonl"
RECORDS_STEPS = 3  # Times as many steps from records: filling the queues beside the first ones should count little.
HEAD_STEPS = 20  # Times as many steps for the head alone, which takes milliseconds for one.
# Of the longest side, pixels: what the museum serves as a small photograph. With this quality the sample's drawings
# have the bytes of such a photograph, too (89 kB).
PICTURE_SIDE, JPEG_QUALITY = 625, 95
MANY = 10  # Times as many pictures, to see whether speed and memory stay.
KILOBYTES_PER_MEGABYTE = 1024  # Linux counts ru_maxrss in kilobytes.
PRECISIONS = {"cpu": ("float32", "bfloat16"), "gpu": ("float32", "auto")}  # Of ours, by device.
TIMM_NAMES = {"resnet_v1_50": "resnet50"}  # The others have slim's.
CORES = len(os.sched_getaffinity(0))

# Names of measurements that are compared.
DECODE = "decoding with Pillow and nothing else"
CONVERT_FEW, CONVERT_MANY = "`convert.py`", f"`convert.py`, {MANY} x the pictures"
KERAS, TIMM = "step of Keras 3", "step of PyTorch + timm"
TRAIN_FEW, TRAIN_MANY = "training from records", f"training from {MANY} x the records"
EVALUATION = "evaluation"
HEAD = "training the head alone, features kept"

COLUMNS = {  # Figure: (heading, format).
    "images_per_second": ("images/s", "{:,.1f}"),
    "first_step_seconds": ("start to first step, s", "{:.1f}"),
    "seconds": ("start to end, s", "{:.1f}"),
    "peak_megabytes": ("memory, MB", "{:,.0f}"),
    "device_megabytes": ("of the GPU, MB", "{:,.0f}"),
}

Figures = dict[str, float]


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--work_dir", type=Path, required=True, help="folder for pictures, records, checkpoint and figures")
    add("--rounds", type=number(int, 0), default=3, help="of all measurements; 0 only prints the tables")
    add("--only", default="", help="measure only what has this in its name, a regular expression")
    add("--models", nargs="+", default=["inception_v3", "resnet_v1_50"], help="the first one reads records, too")
    add("--head_scope", default="InceptionV3/Logits", help="of the first one: what trains alone on kept features")
    add("--image_size", type=number(int, 32), help="pixels; default: each network's own")
    add("--batch_sizes", type=number(int, 1), nargs="+", default=[32], help="of bare steps; the last reads records")
    add("--device", default="cpu", choices=PRECISIONS)
    add("--steps", type=number(int, 2), default=10, help="of training; the first is not counted")
    add("--pictures", type=number(int, 20), default=1000, help=f"in the smaller data set; {MANY} x in the larger")
    add("--peers_python", type=Path, help="interpreter that has PyTorch and timm; without it they are left out")
    return parser


def measure(script: str, *flags: str, pictures: int = 0, python: str | Path = sys.executable) -> Figures:
    """Runs a script to its end.

    Args:
        script: Path below the repository.
        flags: Its flags.
        pictures: So many it handles from start to end.
        python: The interpreter.

    Returns:
        seconds; peak_megabytes, of its largest process; images_per_second where it is known; what the script printed as
        JSON, with first_step_seconds for first_step_at.

    Raises:
        UserError: The script failed.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.monotonic()
        process = subprocess.Popen([python, REPO / script, *flags], stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode != 0:
            raise UserError(f"{script} ended with status {process.returncode}: {errors.read().strip()[-500:]}")
        last_line = output.read().strip().rpartition("\n")[2]
    figures = {"seconds": seconds, "peak_megabytes": usage.ru_maxrss / KILOBYTES_PER_MEGABYTE}
    if pictures:
        figures["images_per_second"] = pictures / seconds
    elif last_line.startswith("{"):
        figures |= json.loads(last_line)
        if "first_step_at" in figures:
            figures["first_step_seconds"] = figures.pop("first_step_at") - start
    elif match := re.search(r"([\d.]+) images/s", last_line):
        figures["images_per_second"] = float(match[1])
    return figures


def lay_out_pictures(dataset_dir: Path, count: int) -> None:
    """Makes `dataset_dir`/met_art with `count` pictures: the sample's, enlarged, under as many names as it takes."""
    if dataset_dir.is_dir():
        there = sum(1 for _ in dataset_dir.glob("met_art/*/*"))
        if there != count:
            raise UserError(f"{dataset_dir} has {there} pictures, not {count}; name another --work_dir")
        return
    dataset_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dataset_dir.parent) as folder:
        with tarfile.open(REPO / "sample-dataset.tar.gz") as archive:
            archive.extractall(folder)
        sources = sorted(Path(folder).glob("met_art/*/*.jpg"))
        random.Random(0).shuffle(sources)  # Otherwise a few would be of one label.
        for source in sources:
            with Image.open(source) as picture:
                enlarged = ImageOps.contain(picture, (PICTURE_SIDE, PICTURE_SIDE))
            enlarged.save(source, quality=JPEG_QUALITY)
        for index in range(count):
            source = sources[index % len(sources)]
            label_folder = Path(folder) / "set/met_art" / source.parent.name
            label_folder.mkdir(parents=True, exist_ok=True)
            os.link(source, label_folder / f"{index}.jpg")
        (Path(folder) / "set").rename(dataset_dir)


def convert(dataset_dir: Path, pictures: int) -> Figures:
    """Measures convert.py on a folder whose records are gone."""
    for path in [*dataset_dir.glob("*.tfrecord"), *dataset_dir.glob("splits.json")]:
        path.unlink()
    return measure("convert.py", f"--dataset_dir={dataset_dir}", f"--num_workers={CORES}", pictures=pictures)


def classify_further(checkpoint_path: Path, folder: Path, pictures: int) -> Figures:
    """Measures classify.py on a folder; what one picture takes from start to end does not count."""
    checkpoint = f"--checkpoint_path={checkpoint_path}"
    one = measure("classify.py", checkpoint, f"--image_file={next(folder.glob('*/*'))}")
    all_of_them = measure("classify.py", checkpoint, f"--image_file={folder}")
    return {"images_per_second": (pictures - 1) / (all_of_them["seconds"] - one["seconds"])}


def steps(flags: argparse.Namespace, size: Sequence[str]) -> dict[str, Callable[[], Figures]]:
    """Returns the measurements of bare training steps, ours and those of the peers, by their names."""
    on_gpu = flags.device == "gpu"
    contestants: list[tuple[str, str, str | Path, list[str]]] = []
    for model in flags.models:
        for precision in PRECISIONS[flags.device]:
            of_model = [f"--model_name={model}", f"--precision={precision}"]
            contestants.append((f"step of {model}, {precision}", "training", sys.executable, of_model))
            if on_gpu and precision == "auto":
                contestants.append(
                    (f"step of {model}, auto, compiled", "training", sys.executable, [*of_model, "--jit"])
                )
        for precision in ("float32", "bfloat16") if flags.peers_python else ():
            of_model = [f"--model_name={TIMM_NAMES.get(model, model)}", f"--precision={precision}"]
            contestants.append((f"{TIMM}, {model}, {precision}", "peer_timm", flags.peers_python, of_model))
            if on_gpu:
                name = f"{TIMM}, {model}, {precision}, compiled"
                contestants.append((name, "peer_timm", flags.peers_python, [*of_model, "--compile"]))
    for precision in ("float32", "float16" if on_gpu else "bfloat16"):
        contestants.append((f"{KERAS}, {precision}", "peer_keras", sys.executable, [f"--precision={precision}"]))
    common = [f"--device={flags.device}", f"--steps={flags.steps}", *size]
    return {
        f"batch {batch_size}: {name}": functools.partial(
            measure, f"benchmarks/{script}.py", f"--batch_size={batch_size}", *common, *more, python=python
        )
        for batch_size in flags.batch_sizes
        for name, script, python, more in contestants
    }


def measurements(flags: argparse.Namespace) -> dict[str, Callable[[], Figures]]:
    """Returns what there is to measure, by the name it has in the tables, in the order of a round."""
    few, many, logs = (flags.work_dir / name for name in ("few", "many", "logs"))
    checkpoint = f"--checkpoint_path={logs}"
    size = [f"--image_size={flags.image_size}"] if flags.image_size else []
    batch_size = flags.batch_sizes[-1]

    def train(train_dir: Path, dataset_dir: Path, steps: int, *more: str) -> Figures:
        shutil.rmtree(train_dir, ignore_errors=True)
        return measure(
            "train_image_classifier.py",
            f"--train_dir={train_dir}",
            f"--dataset_dir={dataset_dir}",
            f"--model_name={flags.models[0]}",
            f"--batch_size={batch_size}",
            f"--clone_on_cpu={flags.device == 'cpu'}",
            f"--max_number_of_steps={steps}",
            *([f"--train_image_size={flags.image_size}"] if flags.image_size else []),
            *more,
        )

    found: dict[str, Callable[[], Figures]] = {
        DECODE: lambda: measure(
            "benchmarks/decode.py",
            f"--pictures={many / 'met_art'}",
            f"--num_workers={CORES}",
            pictures=flags.pictures * MANY,
        ),
        CONVERT_FEW: lambda: convert(few, flags.pictures),
        CONVERT_MANY: lambda: convert(many, flags.pictures * MANY),
    }
    for cores in (1, 2, 4, 8, 16):
        if cores <= CORES:
            found[f"input pipeline, cores: {cores}"] = functools.partial(
                measure, "benchmarks/pipeline.py", f"--dataset_dir={many}", f"--cores={cores}", *size
            )
    found |= steps(flags, size)
    found |= {
        TRAIN_FEW: lambda: train(logs, few, flags.steps * RECORDS_STEPS),
        TRAIN_MANY: lambda: train(logs, many, flags.steps * RECORDS_STEPS),
        HEAD: lambda: train(
            flags.work_dir / "head",
            few,
            flags.steps * HEAD_STEPS,
            checkpoint,
            f"--trainable_scopes={flags.head_scope}",
            "--feature_views=1",
            "--allow_seen_pictures",  # The two data sets have the same ones.
        ),
    }
    for precision in PRECISIONS[flags.device]:
        found[f"{EVALUATION}, {precision}"] = functools.partial(
            measure, "benchmarks/evaluation.py", checkpoint, f"--dataset_dir={many}", f"--precision={precision}"
        )
    return found | {
        "`classify.py`, one picture": lambda: measure(
            "classify.py", checkpoint, f"--image_file={next(few.glob('met_art/*/*'))}"
        ),
        "`classify.py`, each further picture": lambda: classify_further(logs, few / "met_art", flags.pictures),
    }


def ratios(models: Sequence[str], batch_sizes: Sequence[int]) -> list[tuple[str, str, str, str, str]]:
    """Returns (text, figure, first, second, aim) of each comparison.

    `first` and `second` name measurements; without the precision, the best one counts.
    """
    found = [
        ("`convert.py`, of decoding alone", "images_per_second", CONVERT_MANY, DECODE, "0.85"),
        (f"memory of `convert.py`, {MANY} x the pictures", "peak_megabytes", CONVERT_MANY, CONVERT_FEW, "1"),
    ]
    for batch_size in batch_sizes:
        at = f"batch {batch_size}: "
        for model in models:
            ours = f"step of {model}"
            for text, second, aim in (
                (f"{TIMM}, {model}", f"{TIMM}, {model}", "1.2"),
                (KERAS, KERAS, "2"),
                ("its own float32", f"{ours}, float32", "2.5"),
            ):
                if second != KERAS or model == "inception_v3":
                    found.append((f"{at}{ours}, of {text}", "images_per_second", at + ours, at + second, aim))
    ours = f"batch {batch_sizes[-1]}: step of {models[0]}"
    found += [
        ("training from records, of the step alone", "images_per_second", TRAIN_MANY, ours, "0.95"),
        ("epoch of the head alone, of an epoch of all", "images_per_second", HEAD, TRAIN_FEW, "50"),
        ("evaluation, of its own float32", "images_per_second", EVALUATION, f"{EVALUATION}, float32", "1.3"),
        (f"speed of training, {MANY} x the records", "images_per_second", TRAIN_MANY, TRAIN_FEW, "1"),
        (f"memory of training, {MANY} x the records", "peak_megabytes", TRAIN_MANY, TRAIN_FEW, "1"),
    ]
    return found


def print_figures(measured: Mapping[str, Sequence[Figures]]) -> None:
    """Prints the medians as a table."""
    columns = {name: of for name, of in COLUMNS.items() if any(name in rounds[0] for rounds in measured.values())}
    print("| | " + " | ".join(heading for heading, _ in columns.values()) + " | rounds |")
    print("|---" + "|---:" * (len(columns) + 1) + "|")
    for name, rounds in measured.items():
        cells = [
            form.format(statistics.median(figures[column] for figures in rounds)) if column in rounds[0] else ""
            for column, (_, form) in columns.items()
        ]
        print(f"| {name} | {' | '.join(cells)} | {len(rounds)} |")


def print_ratios(
    measured: Mapping[str, Sequence[Figures]], comparisons: Sequence[tuple[str, str, str, str, str]]
) -> None:
    """Prints the medians of the ratios within a round as a table."""

    def best(kind: str, figure: str) -> list[float]:
        variant = re.compile(re.escape(kind) + "(, (float32|bfloat16|float16|auto))?(, compiled)?")
        names = [name for name in measured if variant.fullmatch(name)]
        series = [[figures[figure] for figures in measured[name]] for name in names]
        return max(series, key=statistics.median, default=[])

    print("| | ratio | aim |\n|---|---:|---:|")
    for text, figure, first, second, aim in comparisons:
        values = [a / b for a, b in zip(best(first, figure), best(second, figure), strict=False)]
        if values:
            print(f"| {text} | {statistics.median(values):.2f} | {aim} |")


def main(argv: Sequence[str] | None = None) -> None:
    flags = build_parser().parse_args(argv)
    lay_out_pictures(flags.work_dir / "few", flags.pictures)
    lay_out_pictures(flags.work_dir / "many", flags.pictures * MANY)
    found = measurements(flags)
    results = flags.work_dir / FIGURES_FILENAME
    for round_number in range(1, flags.rounds + 1):
        for name, function in found.items():
            if not re.search(flags.only, name):
                continue
            figures = function()
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"measurement": name, **figures}) + "\n")
            print(f"round {round_number}, {name}: {json.dumps(figures)}", file=sys.stderr, flush=True)
    measured: dict[str, list[Figures]] = {name: [] for name in found}
    for line in results.read_text(encoding="utf-8").splitlines():
        figures = json.loads(line)
        measured.setdefault(figures.pop("measurement"), []).append(figures)
    measured = {name: rounds for name, rounds in measured.items() if rounds}
    print_figures(measured)
    print()
    print_ratios(measured, ratios(flags.models, flags.batch_sizes))


if __name__ == "__main__":
    run(main)
