"""TensorBoard as a person sees it: a finished run in a real browser."""

from collections.abc import Iterator
import io
import json
from pathlib import Path
import re
import shutil
import urllib.parse
import urllib.request

import make_pictures
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright
import pytest

import eval_image_classifier

pytestmark = pytest.mark.skipif(make_pictures.CHROMIUM is None, reason="needs the browser: apt-get install chromium")


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
    with make_pictures.tensorboard(run_dir) as found:
        yield found


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of a real browser, as large as a desktop's."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=make_pictures.CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1400, "height": 2400})
        browser.close()


def test_scalars_and_confusion_matrix_are_shown(page: Page, address: str, run_dir: Path) -> None:
    expect.set_options(timeout=60_000)
    wanted = urllib.parse.quote("^(loss|learning_rate|images_per_second|eval/top_1|eval/confusion_matrix)$")
    page.goto(f"{address}?tagFilter={wanted}#timeseries")
    cards = page.locator("metrics-filtered-view card-view")
    expect(cards).to_have_count(5)
    figures = json.loads((run_dir / "eval" / "metrics.json").read_text())
    for tag, run, value in (
        ("/top_1", "eval", rf"{figures['top_1']:.4g}"),
        ("loss", ".", r"\d+\.\d+"),
        ("learning_rate", ".", r"\d+\.\d+"),
        ("images_per_second", ".", r"\d+(\.\d+)?"),
    ):
        # A card: its name, the axes, then a row for each run with the smoothed value, the value, the step and the time.
        row = re.compile(rf"Relative\s*{re.escape(run)}\s+{value}\s+{value}\s+20\s")
        expect(cards.filter(has_text=tag).locator("scalar-card-data-table")).to_have_text(row)

    matrix = cards.filter(has_text="/confusion_matrix")
    expect(matrix).to_contain_text("Step 20")
    source = matrix.get_by_alt_text("Image at step 20").get_attribute("src")
    assert source
    with urllib.request.urlopen(urllib.parse.urljoin(address, source)) as answer:
        shown = Image.open(io.BytesIO(answer.read()))
    with Image.open(run_dir / "eval" / "confusion_matrix.png") as drawn:
        assert shown.convert("RGB").tobytes() == drawn.convert("RGB").tobytes()
