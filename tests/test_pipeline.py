"""The tutorial from pictures to a named culture: its own command lines but for paths and network."""

from collections.abc import Iterator
import functools
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import re
import shutil
import threading

from conftest import LABEL_COLOURS, draw_pictures
from processes import Run, run_script
import pytest

STEPS = 2  # The tutorial has 100.
MODEL_NAME = "inception_v1"  # The tutorial's has three times its work.


def succeed(run: Run) -> list[str]:
    """Returns the lines on stdout of a script that ended well, without a warning or a traceback."""
    assert run.status == 0, run.errors
    for word in ("Traceback", "Warning", "deprecated", "error:"):
        assert word not in run.errors
    return run.output.splitlines()


def fail(run: Run) -> str:
    """Returns the only line on stderr of a script that a user's mistake ended."""
    assert run.status == 1
    assert run.output == ""
    assert re.fullmatch("error: .*\n", run.errors)
    return run.errors.strip()


@pytest.fixture
def pictures_url(tmp_path: Path) -> Iterator[str]:
    """Serves the folder of the pictures, as the museum does its own."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path / "data" / "met_art")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.timeout(3600)  # A minute on a quiet machine.
def test_the_tutorials_commands(tmp_path: Path, pictures_url: str) -> None:
    data, logs, published = tmp_path / "data", tmp_path / "logs", tmp_path / "published"
    draw_pictures(data)
    assert fail(train(logs, data)).startswith(f"error: no records arts_train_*.tfrecord in {data}")

    assert succeed(run_script("convert.py", f"--dataset_dir={data}", "--check_image=True"))[-1].endswith("all good")
    assert succeed(run_script("convert.py", f"--dataset_dir={data}"))[-1] == (
        f"3 labels, 27 pictures for training and 9 for validation, in 10 files in {data}"
    )
    for split in ("train", "validation"):
        shards = [f"arts_{split}_{shard:05}-of-00005.tfrecord" for shard in range(5)]
        assert sorted(path.name for path in data.glob(f"arts_{split}_*")) == shards

    assert fail(evaluate(logs, data)).startswith(f"error: there is no checkpoint {logs}/model.ckpt-2")
    assert not logs.exists()
    assert re.fullmatch(
        rf"trained to step {STEPS}: loss [\d.]+, [\d.]+ images/s, checkpoint {logs}/model.ckpt-{STEPS}",
        succeed(train(logs, data))[-1],
    )
    assert succeed(train(logs, data))[-1].startswith("nothing to do: ")

    assert re.search(r"top-1 [\d.]+.* 9 ", succeed(evaluate(logs, data))[-1])
    url = [f"--image_url={pictures_url}/Chinese/0000.jpg", "--allow_private_hosts"]
    published.mkdir()  # The published checkpoint comes with labels.txt and without records.
    shutil.copy(data / "labels.txt", published)
    file = [f"--image_file={data}/met_art/Chinese/0000.jpg"]
    answers = [succeed(classify(logs, *given)) for given in ((data, url), (published, file))]
    probabilities = [re.findall(r"([\d.]+) ?%", "\n".join(answer)) for answer in answers]
    assert probabilities[0] == probabilities[1]
    assert sum(map(float, probabilities[0])) == pytest.approx(100, abs=0.3)
    for answer in answers:
        assert all(label in "\n".join(answer) for label in LABEL_COLOURS)


def train(logs: Path, data: Path) -> Run:
    return run_script(
        "train_image_classifier.py",
        f"--train_dir={logs}",
        "--dataset_name=arts",
        "--dataset_split_name=train",
        f"--dataset_dir={data}",
        f"--model_name={MODEL_NAME}",
        "--clone_on_cpu=True",
        "--batch_size=10",
        f"--max_number_of_steps={STEPS}",
    )


def evaluate(logs: Path, data: Path) -> Run:
    return run_script(
        "eval_image_classifier.py",
        "--alsologtostderr",
        f"--checkpoint_path={logs}/model.ckpt-{STEPS}",
        f"--eval_dir={logs}",
        f"--dataset_dir={data}",
        "--dataset_name=arts",
        "--dataset_split_name=validation",
        f"--model_name={MODEL_NAME}",
        "--clone_on_cpu=True",
        "--batch_size=10",
    )


def classify(logs: Path, data: Path, picture: list[str]) -> Run:
    return run_script(
        "classify.py",
        "--alsologtostderr",
        f"--checkpoint_path={logs}/model.ckpt-{STEPS}",
        f"--eval_dir={logs}",
        f"--dataset_dir={data}",
        "--dataset_name=arts",
        "--dataset_split_name=validation",
        f"--model_name={MODEL_NAME}",
        *picture,
    )
