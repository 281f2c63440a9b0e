"""What several test files share: tiny pictures, their records, a network trained on them, scripts as processes."""

from collections.abc import Callable
import fcntl
import os
from pathlib import Path
import random
import shutil
import signal
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw
import pytest

if TYPE_CHECKING:
    from metart.training.training_graph import Recipe

REPOSITORY = Path(__file__).parent.parent
LABEL_COLOURS = {"Chinese": (180, 30, 40), "Egyptian": (40, 150, 60), "Italian, Florence": (40, 60, 190)}
PICTURES_PER_LABEL = 12
IMAGE_SIZE = 32  # Pixels.
MODEL_NAME = "wide_resnet_10_4"  # Of all the one that is built and trained fastest.
LOGITS = f"{MODEL_NAME}/logits"  # The scope of its last layer.

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # Also beside a GPU: most tests compute on the CPU.
# What a shell starts in the background ignores Ctrl-C, and so would all processes that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Files of tests that take long, the longest first: one that began last would keep one core busy and the others idle.
LONG_FILES = [
    "test_pods.py",
    "test_provenance.py",
    "test_cluster.py",
    "test_zoo.py",
    "test_convert.py",
    "test_train_image_classifier.py",
    "test_peers.py",
    "test_classify.py",
    "test_download.py",
    "test_readme.py",
    "test_startup.py",
    "test_dialect.py",
    "test_registry.py",
    "test_gpu.py",
    "test_efficientnet_lite.py",
    "test_web.py",
    "test_faults.py",
    "test_training_graph.py",
    "test_import_weights.py",
    "test_kubectl.py",
    "test_eval_image_classifier.py",
    "test_nasnet.py",
    "test_pipeline.py",
    "test_explanations.py",
    "test_export_model.py",
    "test_input_pipeline.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts LONG_FILES first; ./test.sh asks pytest-xdist to keep the order."""
    places = {name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what tests measured (`record_property`), which pytest keeps to itself."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")


def recipe_of(model_name: str = MODEL_NAME, **changed: Any) -> "Recipe":
    """Returns a recipe for plain gradient descent in float32, without any regularisation, but for what is changed."""
    from metart.training.training_graph import Recipe  # Takes TensorFlow along, which most test files do without.

    return Recipe(model_name, "sgd", 0.0, 0.0, 0.1, 0.0, 0.0, "", None, "float32")._replace(**changed)


def draw_picture(colour: tuple[int, int, int], seed: int) -> Image.Image:
    """Returns a picture of 40 to 80 pixels a side whose colour alone tells its label."""
    generator = random.Random(seed)
    width, height = generator.randint(40, 80), generator.randint(40, 80)
    picture = Image.new("RGB", (width, height), colour)
    draw = ImageDraw.Draw(picture)
    for _ in range(6):
        left, top, shade = generator.randrange(width), generator.randrange(height), generator.randint(-30, 30)
        box = (left, top, left + generator.randint(3, 20), top + generator.randint(3, 20))
        draw.rectangle(box, fill=tuple(channel + shade for channel in colour))
    return picture


def draw_pictures(folder: Path, per_label: int = PICTURES_PER_LABEL) -> None:
    """Draws `met_art/<label>/<number>.jpg` below a folder, as download.py would leave them."""
    for index, (label, colour) in enumerate(LABEL_COLOURS.items()):
        label_folder = folder / "met_art" / label
        label_folder.mkdir(parents=True)
        for number in range(per_label):
            name = f"{index}{number:03}.jpg"
            draw_picture(colour, seed=1000 * index + number).save(label_folder / name, quality=90)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Returns a folder that is filled by the first process of the test run that asks for it, and used by all."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # A worker's own folder is in that of the run.
    folder = root / name
    with open(root / f"{name}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / f"{name}.whole").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (root / f"{name}.whole").touch()
    return folder


@pytest.fixture(scope="session")
def dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of three labels, with the pictures beside them in met_art. Read only."""
    import convert

    def make(folder: Path) -> None:
        draw_pictures(folder)
        convert.main([f"--dataset_dir={folder}", "--num_workers=1"])

    return made_once(tmp_path_factory, "dataset", make)


@pytest.fixture(scope="session")
def train_dir(dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MODEL_NAME that has learned the labels of `dataset_dir`: model.ckpt-20 and what lies beside it. Read only."""
    import train_image_classifier

    def make(folder: Path) -> None:
        train_image_classifier.main(
            [
                f"--train_dir={folder}",
                f"--dataset_dir={dataset_dir}",
                f"--model_name={MODEL_NAME}",
                f"--train_image_size={IMAGE_SIZE}",
                "--batch_size=9",
                "--max_number_of_steps=20",
                "--optimizer=momentum",
                "--learning_rate=0.02",
                "--precision=float32",
            ]
        )

    return made_once(tmp_path_factory, "logs", make)
