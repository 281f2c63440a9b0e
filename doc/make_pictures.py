"""Makes the pictures of the README, most of them from a finished run of demo.sh.

Reads   TRAIN_DIR with its event files, EVAL_DIR with predictions.csv and confusion_matrix.png, DATASET_DIR/met_art;
        sample-dataset.tar.gz. It takes Chromium (apt-get install chromium).
Writes  OUTPUT_DIR/answers.jpg, confusion_matrix.png, tensorboard.png, sample.jpg and architecture.svg.

    ./demo.sh 2>&1 | tee doc/demo.txt
    .venv/bin/pip install --require-hashes --requirement requirements/dev.lock
    .venv/bin/python doc/make_pictures.py --train_dir=demo/logs --eval_dir=demo/logs/eval --dataset_dir=demo/data

Safe to run again: it makes all pictures again. What the README quotes of the run has to be in doc/demo.txt:
tests/test_readme.py names the lines that are not.
"""

from collections.abc import Iterator, Sequence
import contextlib
import csv
import json
from pathlib import Path
import re
import shutil
import subprocess
import sys

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import architecture  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from PIL import Image  # noqa: E402
from playwright.sync_api import expect, sync_playwright  # noqa: E402

from metart.common.flags import Parser, UserError, run  # noqa: E402
from sample.draw_sample import contact_sheet  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ANSWERS_SHOWN = 3  # Of each picture.
CARDS = ("loss", "learning_rate", "eval/confusion_matrix", "eval/reliability")  # Of TensorBoard.
# As a reader finds them in TensorBoard's settings: no curve leaves its axes.
TENSORBOARD_SETTINGS = {"ignoreOutliers": False, "scalarSmoothing": 0}
DOTS_PER_INCH = 100
TIMEOUT_MS = 120_000  # A busy machine takes a while to start a browser.


def build_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--train_dir", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--eval_dir", type=Path, required=True, help="folder with the reports")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder with met_art/")
    parser.add_argument("--output_dir", type=Path, default=REPOSITORY / "doc", help="folder for the pictures (doc)")
    return parser


def first_of_each_label(predictions: Path) -> list[dict[str, str]]:
    """Returns the rows of predictions.csv for the first unseen picture of each label: those demo.sh shows."""
    with open(predictions, encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["picture"], reverse=True)
    return sorted({row["truth"]: row for row in rows}.values(), key=lambda row: row["truth"])


def answers_figure(rows: Sequence[dict[str, str]], pictures: Path) -> Figure:
    """Draws pictures with the best answers to each below it; the bar of the true label is green."""
    figure = Figure((10, 3.6))
    for column, row in enumerate(rows):
        left, width = (column + 0.03) / len(rows), 0.94 / len(rows)
        picture = figure.add_axes((left, 0.33, width, 0.6))
        bars = figure.add_axes((left, 0.02, width, 0.28))
        with Image.open(pictures / row["picture"]) as image:
            picture.imshow(image)
        picture.set_title(f"truth: {row['truth']}", fontsize=10)
        picture.axis("off")
        for rank in range(ANSWERS_SHOWN):
            label, probability = row[f"answer_{rank + 1}"], float(row[f"probability_{rank + 1}"])
            bars.barh(-rank, probability, color="#8fce8f" if label == row["truth"] else "#cccccc")
            bars.text(0.01, -rank, f"{probability:.0%} {label}", va="center", fontsize=10)
        bars.set_xlim(0, 1)
        bars.axis("off")
    return figure


@contextlib.contextmanager
def tensorboard(logdir: Path) -> Iterator[str]:
    """Yields the address of a TensorBoard that shows a run."""
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={logdir}", "--host=127.0.0.1", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        addresses = (found.group() for line in server.stderr if (found := re.search(r"http://\S+", line)))
        try:
            yield next(addresses)
        finally:
            server.kill()


def photograph_tensorboard(logdir: Path, output: Path) -> None:
    """Takes a screenshot of the cards named in CARDS."""
    expect.set_options(timeout=TIMEOUT_MS)
    with tensorboard(logdir) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 2400})  # Cards out of sight stay empty.
        page.set_default_timeout(TIMEOUT_MS)
        settings = json.dumps(json.dumps(TENSORBOARD_SETTINGS))
        page.add_init_script(f"localStorage.setItem('_tb_global_settings', {settings})")
        page.goto(f"{address}?tagFilter=^({'|'.join(CARDS)})$#timeseries")
        cards = page.locator("metrics-filtered-view card-view")
        expect(cards).to_have_count(len(CARDS))
        for card in cards.all():
            expect(card.locator("img, scalar-card-data-table").first).to_be_visible()
        page.wait_for_load_state("networkidle")
        page.locator("metrics-filtered-view").screenshot(path=output)
        browser.close()


def main(argv: Sequence[str] | None = None) -> None:
    flags = build_parser().parse_args(argv)
    if CHROMIUM is None:
        raise UserError("there is no browser; run: apt-get install chromium")
    predictions = flags.eval_dir / "predictions.csv"
    if not predictions.is_file():
        raise UserError(f"{predictions} is missing; run ./demo.sh")
    figure = answers_figure(first_of_each_label(predictions), flags.dataset_dir / "met_art")
    figure.savefig(flags.output_dir / "answers.jpg", dpi=DOTS_PER_INCH, pil_kwargs={"quality": 85})
    shutil.copy(flags.eval_dir / "confusion_matrix.png", flags.output_dir)
    contact_sheet(REPOSITORY / "sample-dataset.tar.gz").save(flags.output_dir / "sample.jpg", quality=70)
    photograph_tensorboard(flags.train_dir, flags.output_dir / "tensorboard.png")
    (flags.output_dir / "architecture.svg").write_text(architecture.draw(), encoding="utf-8")
    print(f"5 pictures in {flags.output_dir}")


if __name__ == "__main__":
    run(main)
