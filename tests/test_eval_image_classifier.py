import csv
import json
from pathlib import Path
import re
import shutil
import threading
import time

from conftest import MODEL_NAME
import numpy as np
from PIL import Image
import pytest
from sklearn import metrics as oracle
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import arts
import classify
import convert
import eval_image_classifier
from metart.common.files import replacing_folder
from metart.common.flags import UserError
from metart.common.labels import read_labels
from metart.evaluation.inference import Answers, open_classifier, read_temperature
from metart.networks import checkpoints
from metart.networks.preprocessing import Looks
from metart.training import input_pipeline

REPORTS = {
    "metrics.json",
    "predictions.csv",
    "labels.csv",
    "confusion_matrix.csv",
    "confusion_matrix.png",
    "reliability.png",
    "mistakes.png",
}


def copy_checkpoint(train_dir: Path, folder: Path, step: int) -> None:
    """Copies the checkpoint of the fixture as one of another step; its index last, as TensorFlow writes it."""
    folder.mkdir(exist_ok=True)
    for name in ("labels.txt", "flags.json"):
        shutil.copy(train_dir / name, folder)
    for suffix in (".data-00000-of-00001", ".index"):
        shutil.copy(train_dir / f"model.ckpt-20{suffix}", folder / f"model.ckpt-{step}{suffix}")


MUDDLED = ["--batch_size=4", "--allow_seen_pictures"]


@pytest.fixture(scope="module")
def muddled_dir(dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of the same pictures, every third of them under the label of another: work for the metrics."""
    folder = tmp_path_factory.mktemp("muddled")
    labels = sorted(path.name for path in (dataset_dir / "met_art").iterdir())
    for index, label in enumerate(labels):
        for number, picture in enumerate(sorted((dataset_dir / "met_art" / label).iterdir())):
            target = folder / "met_art" / (labels[index - 1] if number % 3 == 0 else label)
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, target)
    convert.main([f"--dataset_dir={folder}", "--num_shards=2", "--num_workers=1", "--percent_validation=60"])
    return folder


@pytest.fixture(scope="module")
def eval_dir(muddled_dir: Path, train_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    eval_image_classifier.main(
        [f"--checkpoint_path={train_dir}", f"--eval_dir={folder}", f"--dataset_dir={muddled_dir}", *MUDDLED]
    )
    return folder


def read_predictions(eval_dir: Path) -> list[dict[str, str]]:
    with open(eval_dir / "predictions.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def validation_pictures(dataset_dir: Path) -> list[str]:
    """Returns the paths below met_art of the validation pictures, as the records themselves have them."""
    tf = input_pipeline.tf
    names = []
    for shard in sorted(dataset_dir.glob("arts_validation_*.tfrecord")):
        for record in tf.compat.v1.io.tf_record_iterator(str(shard)):
            names.append(tf.train.Example.FromString(record).features.feature["image/filename"].bytes_list.value[0])
    return sorted(name.decode() for name in names)


def test_several_looks_are_averaged_in_evaluation_and_in_all_that_answers(
    train_dir: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    """By the network itself over each look, one after the other."""
    copy_checkpoint(train_dir, tmp_path / "logs", 20)
    flags = json.loads((train_dir / "flags.json").read_text())
    (tmp_path / "logs/flags.json").write_text(json.dumps({**flags, "eval_image_sizes": [40, 64]}))
    dataset = input_pipeline.open_split("arts", "validation", dataset_dir)
    ((images, _, _),) = input_pipeline.evaluation_arrays(dataset, 5, Looks(64), 1)
    smaller = input_pipeline.tf.image.resize(images, [40, 40]).numpy()
    logits = []
    for look in (images, images[:, :, ::-1], smaller, smaller[:, :, ::-1]):
        with open_classifier(str(train_dir), image_size=look.shape[1]) as single:
            logits.append(single.session.run(single.logits, {single.images: look}))
    mean = np.mean(logits, axis=0)
    assert np.abs(logits - mean).max() > 0.1  # There is something to average.
    expected = np.exp(mean) / np.exp(mean).sum(axis=1, keepdims=True)
    with open_classifier(str(tmp_path / "logs")) as classifier:
        assert classifier.looks.image_size == 64
        np.testing.assert_allclose(classifier.probabilities(images), expected, rtol=1e-4, atol=1e-6)
    with open_classifier(str(tmp_path / "logs"), image_size=40) as classifier:  # Asked for: one look.
        once = np.exp(logits[2]) / np.exp(logits[2]).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(classifier.probabilities(smaller), once, rtol=1e-4, atol=1e-6)


def test_classify_and_evaluation_look_in_the_same_way(
    train_dir: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs, eval_dir, answers = tmp_path / "logs", tmp_path / "eval", {}
    copy_checkpoint(train_dir, logs, 20)
    flags = json.loads((train_dir / "flags.json").read_text())
    for number, looks in enumerate(({}, {"eval_image_sizes": [40, 64], "eval_central_fraction": 1.0})):
        (logs / "flags.json").write_text(json.dumps({**flags, **looks}))
        evaluate = [f"--checkpoint_path={logs}", f"--eval_dir={eval_dir}", f"--dataset_dir={dataset_dir}"]
        eval_image_classifier.main(evaluate)
        rows = read_predictions(eval_dir)
        capsys.readouterr()
        pictures = [str(dataset_dir / "met_art" / row["picture"]) for row in rows]
        classify.main([f"--checkpoint_path={logs}", "--format=csv", "--image_file", *pictures])
        found = {row["picture"]: row for row in csv.DictReader(capsys.readouterr().out.splitlines())}
        for picture, row in zip(pictures, rows, strict=True):
            for name in ("answer_1", "probability_1", "answer_2"):
                assert found[picture][name] == row[name]
        answers[number] = [row["probability_1"] for row in rows]
    assert answers[0] != answers[1]


def test_all_reports_are_there(eval_dir: Path) -> None:
    files = {file.name for file in eval_dir.iterdir()}
    assert files > REPORTS
    assert all(name.startswith("events.out.tfevents.") for name in files - REPORTS - {".eval.lock"})
    for table in eval_dir.glob("*.csv"):
        assert b"\r" not in table.read_bytes()  # As in the files of the other scripts.


def test_it_says_how_many_pictures_have_a_neighbour_in_training(
    train_dir: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By all pairs of the pictures of a label."""
    pictures = json.loads((dataset_dir / "splits.json").read_text())["pictures"]
    numbers = {path: (path.split("/")[0], int(re.findall("[0-9]+", path)[-1])) for path in pictures}
    of_side = {side: [path for path in pictures if pictures[path]["split"] == side] for side in ("train", "validation")}
    trained = {numbers[path] for path in of_side["train"]}
    near = [
        any((label, number + distance) in trained for distance in range(-3, 4))
        for label, number in (numbers[path] for path in of_side["validation"])
    ]
    for split in ("validation", "train"):
        eval_image_classifier.main(
            [
                f"--checkpoint_path={train_dir}",
                f"--eval_dir={tmp_path}",
                f"--dataset_dir={dataset_dir}",
                f"--dataset_split_name={split}",
            ]
        )
        share = json.loads((tmp_path / "metrics.json").read_text())["neighbours_in_training"]
        printed = f"pictures with a neighbour in training (number within 3): {np.mean(near):.1%}\n"
        assert (printed in capsys.readouterr().out) == (split == "validation")
        assert share == (pytest.approx(np.mean(near)) if split == "validation" else None)


def test_the_figures_are_those_of_scikit_learn_on_the_predictions(
    eval_dir: Path, muddled_dir: Path, train_dir: Path
) -> None:
    figures = json.loads((eval_dir / "metrics.json").read_text())
    rows = read_predictions(eval_dir)
    label_names = read_labels(train_dir)
    truth = [row["truth"] for row in rows]
    answers = [row["answer_1"] for row in rows]
    assert [row["picture"].split("/")[0] for row in rows] == truth
    assert sorted(row["picture"] for row in rows) == validation_pictures(muddled_dir)
    assert figures["pictures"] == len(rows)
    assert figures["precision"] == "float32"
    assert figures["checkpoint"] == str(train_dir / "model.ckpt-20")
    assert figures["top_1"] == pytest.approx(oracle.accuracy_score(truth, answers))
    assert figures["macro_f1"] == pytest.approx(oracle.f1_score(truth, answers, average="macro"))
    assert figures["balanced_accuracy"] == pytest.approx(oracle.balanced_accuracy_score(truth, answers))
    assert figures["log_loss"] == pytest.approx(
        -np.mean([np.log(float(row["probability_of_truth"])) for row in rows]), abs=1e-4
    )
    assert figures["majority_baseline"] == max(truth.count(name) for name in label_names) / len(truth)
    assert "top_5" not in figures
    assert 1 > figures["top_1"] > figures["majority_baseline"]


def test_tensorboard_gets_curves_and_pictures(eval_dir: Path) -> None:
    events = EventAccumulator(str(eval_dir)).Reload()
    figures = json.loads((eval_dir / "metrics.json").read_text())
    for name in ("top_1", "macro_f1", "balanced_accuracy", "log_loss", "calibration_error", "majority_baseline"):
        (event,) = events.Scalars(f"eval/{name}")
        assert (event.step, event.value) == (20, pytest.approx(figures[name]))
    with open(eval_dir / "labels.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            (event,) = events.Scalars(f"recall/{row['label']}")
            assert event.value == pytest.approx(float(row["recall"]), abs=1e-4)
    assert set(events.Tags()["images"]) == {"eval/confusion_matrix", "eval/reliability", "eval/mistakes"}


def test_every_picture_counts_once_at_any_batch_size_and_shard_number(
    dataset_dir: Path, muddled_dir: Path, train_dir: Path
) -> None:
    by_name: dict[str, np.ndarray] = {}
    with open_classifier(str(train_dir)) as classifier:
        for folder in (dataset_dir, muddled_dir):  # Of five shards and of two.
            expected = validation_pictures(folder)
            dataset = arts.get_split("validation", folder)
            assert dataset.num_samples == len(expected)
            for batch_size in (1, 4, len(expected), 100):
                _, probabilities, names = eval_image_classifier.predict(classifier, dataset, batch_size, None)
                assert sorted(names) == expected
                for name, row in zip(names, probabilities, strict=True):
                    np.testing.assert_allclose(row, by_name.setdefault(Path(name).name, row), atol=1e-4)


def test_max_num_batches(dataset_dir: Path, train_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    eval_image_classifier.main(
        [
            *(f"--checkpoint_path={train_dir}/model.ckpt-20", f"--eval_dir={tmp_path}", f"--dataset_dir={dataset_dir}"),
            *("--dataset_name=arts", "--dataset_split_name=train", f"--model_name={MODEL_NAME}", "--batch_size=2"),
            *("--max_num_batches=2", "--clone_on_cpu=True", "--alsologtostderr"),
        ]
    )
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"on 4 train pictures of 3 labels; reports in {tmp_path}")


def test_pictures_are_found_by_position(dataset_dir: Path) -> None:
    dataset = arts.get_split("validation", dataset_dir)
    data = input_pipeline.evaluation_batches(dataset.data_sources, 100, 32)
    _, _, names = next(data.as_numpy_iterator())
    for index, picture in zip((2, 0), input_pipeline.pictures_at(dataset.data_sources, [2, 0]), strict=True):
        with Image.open(dataset_dir / "met_art" / names[index].decode()) as file:
            np.testing.assert_array_equal(picture, np.asarray(file))


def test_a_temperature_is_saved_for_its_checkpoint(
    muddled_dir: Path, train_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    copy_checkpoint(train_dir, tmp_path / "logs", 20)
    flags = [f"--checkpoint_path={tmp_path}/logs", f"--eval_dir={tmp_path}/eval", f"--dataset_dir={muddled_dir}"]
    flags += MUDDLED
    eval_image_classifier.main([*flags, "--calibrate"])
    calibrated = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    without = re.search(r"without it: log loss ([\d.]+), ", capsys.readouterr().out)
    assert without and calibrated["log_loss"] < float(without[1])
    assert read_temperature(str(tmp_path / "logs" / "model.ckpt-20"), {}) == calibrated["temperature"] != 1.0
    assert read_temperature(str(tmp_path / "logs" / "model.ckpt-30"), {}) == 1.0
    eval_image_classifier.main(flags)
    again = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    for name in ("top_1", "log_loss", "calibration_error", "temperature"):
        assert again[name] == pytest.approx(calibrated[name], abs=1e-3)
    (tmp_path / "logs" / "model.ckpt-20.temperature.json").write_text("{}")
    with pytest.raises(UserError, match=r"model.ckpt-20.temperature.json is damaged; delete it"):
        eval_image_classifier.main(flags)


def test_a_temperature_at_the_end_of_its_range_is_none() -> None:
    certain = Answers(np.array([0, 1, 1, 1]), np.repeat(np.array([[1, 0]], np.float32), 4, axis=0), [])
    with pytest.raises(UserError, match=r"no temperature from 0.05 to 20.0 fits these answers"):
        eval_image_classifier.calibrate(None, certain, None)  # type: ignore[arg-type]


def test_watch_measures_each_checkpoint_up_to_the_last(
    dataset_dir: Path, train_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(eval_image_classifier, "WATCH_SECONDS", 0.05)
    logs, eval_dir = tmp_path / "logs", tmp_path / "eval"

    def train() -> None:
        time.sleep(0.2)  # Watching starts before there is anything to see.
        copy_checkpoint(train_dir, logs, 7)
        while not (eval_dir / "metrics.json").is_file():
            time.sleep(0.05)
        shutil.rmtree(logs)  # The run is begun anew.
        logs.mkdir()
        (logs / "model.ckpt-9.index").symlink_to("gone")  # As one that is deleted when it has been found.
        time.sleep(0.5)
        copy_checkpoint(train_dir, logs, 20)

    training = threading.Thread(target=train)
    training.start()
    flags = [f"--checkpoint_path={logs}", f"--eval_dir={eval_dir}", f"--dataset_dir={dataset_dir}", "--watch"]
    eval_image_classifier.main(flags)
    training.join()
    results = [line for line in capsys.readouterr().out.splitlines() if "reports in" in line]
    assert [line.split(":")[0] for line in results] == [str(logs / "model.ckpt-7"), str(logs / "model.ckpt-20")]
    assert [event.step for event in EventAccumulator(str(eval_dir)).Reload().Scalars("eval/top_1")] == [7, 20]


def errors_until(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Waits for words on stderr; returns what it has by then."""
    said = ""
    while words not in said:
        time.sleep(0.05)
        said += capsys.readouterr().err
    return said


def test_watch_goes_on_after_a_checkpoint_that_no_temperature_fits(
    dataset_dir: Path, train_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(eval_image_classifier, "WATCH_SECONDS", 0.05)
    logs = tmp_path / "logs"
    copy_checkpoint(train_dir, logs, 7)
    flags = [f"--checkpoint_path={logs}", f"--eval_dir={tmp_path}/eval", f"--dataset_dir={dataset_dir}"]
    said = ""

    def train() -> None:
        nonlocal said
        said = errors_until("model.ckpt-7: ", capsys)
        copy_checkpoint(train_dir, logs, 20)

    training = threading.Thread(target=train, daemon=True)
    training.start()
    problem = "all 9 answers are right, which says nothing about how sure to be; --calibrate needs more pictures"
    with pytest.raises(UserError, match=problem):  # The last one counts.
        eval_image_classifier.main([*flags, "--watch", "--calibrate"])
    training.join(10)
    assert f"notice: {logs}/model.ckpt-7: {problem}" in said.splitlines()


def test_watch_of_the_best_ends_with_the_run(
    dataset_dir: Path, train_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(eval_image_classifier, "WATCH_SECONDS", 0.05)
    logs, eval_dir = tmp_path / "logs", tmp_path / "eval"
    logs.mkdir()
    copy_checkpoint(train_dir, logs / "best", 7)
    trained_with = checkpoints.settings(str(train_dir / "model.ckpt-20"))
    del trained_with["finished_step"]
    for folder in (logs, logs / "best"):
        checkpoints.write_settings(folder, trained_with)
    has_ended = threading.Event()

    def train() -> None:
        while not (eval_dir / "metrics.json").is_file():
            time.sleep(0.05)
        with replacing_folder(logs / "best") as better:
            copy_checkpoint(train_dir, better, 9)
            checkpoints.write_settings(better, trained_with)
        time.sleep(0.5)
        has_ended.set()
        checkpoints.write_settings(logs, {**trained_with, "finished_step": 20})

    training = threading.Thread(target=train)
    training.start()
    monkeypatch.chdir(logs / "best")  # Whose name the path does not have.
    flags = ["--checkpoint_path=.", f"--eval_dir={eval_dir}", f"--dataset_dir={dataset_dir}", "--watch"]
    eval_image_classifier.main(flags)
    assert has_ended.is_set()
    training.join()
    results = [line for line in capsys.readouterr().out.splitlines() if "reports in" in line]
    assert [line.split(":")[0] for line in results] == [str(logs / f"best/model.ckpt-{step}") for step in (7, 9)]


def test_watch_of_the_best_says_at_the_end_that_no_temperature_fits(
    dataset_dir: Path, train_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The run ends long after its best checkpoint was looked at."""
    monkeypatch.setattr(eval_image_classifier, "WATCH_SECONDS", 0.05)
    logs = tmp_path / "logs"
    logs.mkdir()
    copy_checkpoint(train_dir, logs / "best", 7)
    trained_with = checkpoints.settings(str(train_dir / "model.ckpt-20"))
    unfinished = {name: value for name, value in trained_with.items() if name != "finished_step"}
    for folder in (logs, logs / "best"):
        checkpoints.write_settings(folder, unfinished)
    said = ""

    def train() -> None:
        nonlocal said
        said = errors_until("model.ckpt-7: ", capsys)
        time.sleep(0.5)
        checkpoints.write_settings(logs, {**unfinished, "finished_step": 20})

    training = threading.Thread(target=train, daemon=True)
    training.start()
    flags = [f"--checkpoint_path={logs}/best", f"--eval_dir={tmp_path}/eval", f"--dataset_dir={dataset_dir}"]
    with pytest.raises(UserError, match="all 9 answers are right"):
        eval_image_classifier.main([*flags, "--watch", "--calibrate"])
    training.join(10)
    assert said.count("model.ckpt-7: ") == 1  # And not again while nothing is new.


def test_errors_name_the_next_step(dataset_dir: Path, train_dir: Path, tmp_path: Path) -> None:
    def evaluate(checkpoint_path: Path, *more: str, dataset: Path = dataset_dir) -> None:
        eval_image_classifier.main(
            [f"--checkpoint_path={checkpoint_path}", f"--eval_dir={tmp_path}/eval", f"--dataset_dir={dataset}", *more]
        )

    with pytest.raises(UserError, match="holds no checkpoint"):
        evaluate(tmp_path)
    with pytest.raises(UserError, match=r"run convert.py --dataset_dir="):
        evaluate(train_dir, dataset=tmp_path)
    with pytest.raises(UserError, match="--watch needs a folder"):
        evaluate(train_dir / "model.ckpt-20", "--watch")
    assert not (tmp_path / "eval").exists()

    shutil.copytree(dataset_dir, tmp_path / "data")
    shard = sorted((tmp_path / "data").glob("arts_validation_*"))[-1]
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(UserError, match=rf"{shard.name} is damaged or cut off"):
        evaluate(train_dir, dataset=tmp_path / "data")
