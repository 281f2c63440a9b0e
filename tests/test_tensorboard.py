"""TensorBoard as a person sees it: a finished run in a real browser."""

from collections.abc import Iterator
import html
import io
import json
from pathlib import Path
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request

from PIL import Image
import pytest

import eval_image_classifier

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the browser: apt-get install chromium")


@pytest.fixture(scope="module")
def run_dir(train_dir: Path, dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training run with the evaluation in it, as the tutorial has it."""
    folder = shutil.copytree(train_dir, tmp_path_factory.mktemp("run") / "logs")
    eval_image_classifier.main(
        [f"--checkpoint_path={folder}", f"--eval_dir={folder}/eval", f"--dataset_dir={dataset_dir}"]
    )
    return folder


@pytest.fixture(scope="module")
def address(run_dir: Path) -> Iterator[str]:
    """The address of a TensorBoard that shows the run."""
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={run_dir}", "--host=127.0.0.1", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        for line in server.stderr:
            if found := re.search(r"http://\S+", line):
                break
        else:
            pytest.fail("TensorBoard did not start")
        yield found.group()
        server.terminate()


def page_in_browser(address: str, profile: Path) -> str:
    """Returns the page as the browser has built it once its scripts have come to rest."""
    assert CHROMIUM
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command += ["--window-size=1400,2400", "--virtual-time-budget=60000", "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, check=True).stdout


def test_scalars_and_confusion_matrix_are_shown(address: str, run_dir: Path, tmp_path: Path) -> None:
    wanted = urllib.parse.quote("^(loss|learning_rate|images_per_second|eval/top_1|eval/confusion_matrix)$")
    page = page_in_browser(f"{address}?tagFilter={wanted}#timeseries", tmp_path)
    text = re.sub(r"\s*\|[\s|]*", "|", re.sub(r"<[^>]+>", "|", page))
    assert "|Tags matching filter|5 cards|" in text
    figures = json.loads((run_dir / "eval" / "metrics.json").read_text())
    # A card: its name, the axes, then a row for each run with the smoothed value, the value and the step.
    assert re.search(rf"\|eval\|/top_1\|.*?\|Relative\|eval\|\S+\|{figures['top_1']:g}\|20\|", text)
    for name in ("loss", "learning_rate", "images_per_second"):
        assert re.search(rf"\|{name}\|.*?\|Relative\|\.\|\S+\|\S+\|20\|", text), name

    assert "|eval|/confusion_matrix|eval|Step 20|" in text
    source = re.search(r'<img [^>]*alt="Image at step 20"[^>]* src="([^"]+)"', page)
    assert source
    with urllib.request.urlopen(urllib.parse.urljoin(address, html.unescape(source[1]))) as answer:
        shown = Image.open(io.BytesIO(answer.read()))
    with Image.open(run_dir / "eval" / "confusion_matrix.png") as drawn:
        assert shown.convert("RGB").tobytes() == drawn.convert("RGB").tobytes()
