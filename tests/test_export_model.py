import io
import json
from pathlib import Path
import shutil

from conftest import MODEL_NAME
import numpy as np
from PIL import Image
from processes import run_script
import pytest

from metart.networks.slim_compat import tf
import eval_image_classifier
import export_model
from export_model import LOCK_FILENAME
from metart.common.files import locked
from metart.common.flags import Retry, UserError
from metart.common.labels import read_labels
from metart.evaluation.inference import open_classifier
from metart.networks.preprocessing import Looks, evaluation_image
from metart.networks.uploads import uploaded_image
from metart.records.pictures import MAX_SIDE, normalise
from metart.training import input_pipeline


@pytest.fixture(scope="module")
def eval_dir(dataset_dir: Path, train_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    eval_image_classifier.main(
        [f"--checkpoint_path={train_dir}", f"--eval_dir={folder}", f"--dataset_dir={dataset_dir}"]
    )
    return folder


@pytest.fixture(scope="module")
def exported(dataset_dir: Path, train_dir: Path, eval_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    export_model.main(flags(train_dir, folder, dataset_dir, eval_dir))
    return folder / "20"


def flags(train_dir: Path, export_dir: Path, dataset_dir: Path, eval_dir: Path) -> list[str]:
    return [
        *(f"--checkpoint_path={train_dir}", f"--export_dir={export_dir}"),
        *(f"--dataset_dir={dataset_dir}", f"--eval_dir={eval_dir}"),
    ]


@pytest.fixture(scope="module")
def expected(dataset_dir: Path, train_dir: Path) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    """(picture files, images, probabilities of the checkpoint) of the training and validation pictures."""
    sources = [str(path) for path in dataset_dir.glob("*.tfrecord")]
    with open_classifier(str(train_dir)) as classifier:
        data = input_pipeline.evaluation_batches(sources, 1000, classifier.looks.image_size)
        images, _, names = next(data.as_numpy_iterator())
        pictures = [(dataset_dir / "met_art" / name.decode()).read_bytes() for name in names]
        return pictures, images, classifier.probabilities(images)


def test_everything_is_in_one_folder(exported: Path, train_dir: Path) -> None:
    names = {path.name for path in exported.iterdir()}
    assert names >= {"saved_model.pb", "model.tflite", "model_int8.tflite", "labels.txt", "README.md"}
    assert read_labels(exported) == read_labels(train_dir)
    assert {path.name for path in exported.parent.iterdir()} == {"20", LOCK_FILENAME}


def test_saved_model_answers_as_the_checkpoint(
    exported: Path, expected: tuple[list[bytes], np.ndarray, np.ndarray]
) -> None:
    pictures, _, probabilities = expected
    label_names = read_labels(exported)
    signature = tf.saved_model.load(str(exported)).signatures["serving_default"]
    for count in (1, 5, len(pictures)):
        answers = signature(image_bytes=tf.constant(pictures[:count]))
        labels = answers["labels"].numpy()
        assert labels.shape == answers["probabilities"].shape == (count, len(label_names))
        for names, values, row in zip(labels, answers["probabilities"].numpy(), probabilities, strict=False):
            assert names[0].decode() == label_names[row.argmax()]
            assert sorted(values)[::-1] == values.tolist()
            np.testing.assert_allclose([row[label_names.index(name.decode())] for name in names], values, atol=1e-4)


@pytest.mark.parametrize(("width", "height"), [(1500, 1000), (700, 1200), (641, 640), (640, 640), (300, 500)])
def test_uploads_look_as_pictures_prepared_by_pillow(width: int, height: int) -> None:
    """Other code, same picture: within what a second JPEG compression changes."""
    across, down = np.meshgrid(np.linspace(0, 20, width), np.linspace(0, 20, height))
    waves = np.stack([np.sin(across), np.cos(down), np.sin(across + down)], axis=-1)
    data = io.BytesIO()
    Image.fromarray((127.5 + 120 * waves).astype(np.uint8)).save(data, "JPEG", quality=95)
    prepared = normalise(data.getvalue(), MAX_SIDE)
    wanted = evaluation_image(tf.constant(prepared), 96).numpy()
    uploaded = uploaded_image(tf.constant(data.getvalue()), Looks(96)).numpy()
    assert np.abs(uploaded - wanted).mean() < 1.5
    if max(width, height) <= MAX_SIDE:
        np.testing.assert_array_equal(uploaded, wanted)


def test_png_is_taken_too(exported: Path) -> None:
    data = io.BytesIO()
    Image.new("RGBA", (50, 40), (180, 30, 40, 255)).save(data, "PNG")
    signature = tf.saved_model.load(str(exported)).signatures["serving_default"]
    assert signature(image_bytes=tf.constant([data.getvalue()]))["labels"].numpy()[0, 0] == b"Chinese"


def run_tflite(path: Path, images: np.ndarray) -> np.ndarray:
    interpreter = tf.lite.Interpreter(model_path=str(path))
    (input_details,), (output_details,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.allocate_tensors()
    answers = []
    for image in images:
        if input_details["dtype"] == np.uint8:
            image = image.round().astype(np.uint8)
        interpreter.set_tensor(input_details["index"], image[np.newaxis])
        interpreter.invoke()
        answers.append(interpreter.get_tensor(output_details["index"])[0])
    return np.stack(answers)


def test_tflite_float_is_the_checkpoint_to_rounding(
    exported: Path, expected: tuple[list[bytes], np.ndarray, np.ndarray]
) -> None:
    _, images, probabilities = expected
    answers = run_tflite(exported / "model.tflite", images)
    np.testing.assert_allclose(answers, probabilities, atol=1e-4)
    assert (answers.argmax(axis=1) == probabilities.argmax(axis=1)).all()


def test_tflite_int8_gives_mostly_the_same_answers_in_a_quarter_of_the_space(
    exported: Path, expected: tuple[list[bytes], np.ndarray, np.ndarray]
) -> None:
    _, images, probabilities = expected
    answers = run_tflite(exported / "model_int8.tflite", images)
    # Twenty steps of training leave activations of any size, a hard case for eight bits: 86 % when this was written.
    assert (answers.argmax(axis=1) == probabilities.argmax(axis=1)).mean() >= 0.75
    assert (exported / "model_int8.tflite").stat().st_size < 0.4 * (exported / "model.tflite").stat().st_size


def test_the_benchmark_of_the_lite_models_names_the_figures_of_the_evaluation(
    exported: Path, dataset_dir: Path, eval_dir: Path
) -> None:
    run = run_script("benchmarks/lite.py", f"--export_dir={exported}", f"--dataset_dir={dataset_dir}")
    of_float, of_bytes = map(json.loads, run.output.splitlines())
    figures = json.loads((eval_dir / "metrics.json").read_text())
    assert of_float["top_1"] == pytest.approx(figures["top_1"])
    assert of_float["log_loss"] == pytest.approx(figures["log_loss"], abs=1e-3)
    assert of_bytes["file"] == "model_int8.tflite" and of_bytes["log_loss"] != of_float["log_loss"]


def test_several_looks_leave_the_8_bit_model_one(
    train_dir: Path,
    dataset_dir: Path,
    tmp_path: Path,
    expected: tuple[list[bytes], np.ndarray, np.ndarray],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """8-bit layers that share their weights would answer wrongly."""
    logs = tmp_path / "logs"
    shutil.copytree(train_dir, logs)
    settings = json.loads((logs / "flags.json").read_text()) | {"eval_image_sizes": [24, 32]}
    (logs / "flags.json").write_text(json.dumps(settings))
    export_model.main([f"--checkpoint_path={logs}", f"--export_dir={tmp_path}/export", f"--dataset_dir={dataset_dir}"])
    exported = tmp_path / "export/20"
    assert capfd.readouterr().err == ""  # TensorFlow has nothing to say that a user could use.
    _, images, of_one_look = expected
    with open_classifier(logs) as classifier:
        of_all = classifier.probabilities(images)
    assert np.abs(of_all - of_one_look).max() > 0.01
    np.testing.assert_allclose(run_tflite(exported / "model.tflite", images), of_all, atol=1e-4)
    answers = run_tflite(exported / "model_int8.tflite", images)
    assert (answers.argmax(axis=1) == of_one_look.argmax(axis=1)).mean() >= 0.75
    assert np.abs(answers - of_one_look).mean() < np.abs(answers - of_all).mean()
    assert (exported / "README.md").read_text().count("It looks at a picture once") == 1


def test_the_model_card_has_the_figures(exported: Path, eval_dir: Path) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    figures = json.loads((eval_dir / "metrics.json").read_text())
    assert f"| top 1 | {figures['top_1']:.4f} |" in card
    assert "computed in float32:\n" in card
    assert "27 pictures for train, 9 pictures for validation" in card
    assert f"{MODEL_NAME}, 32 x 32 pixels,\nstep 20," in card
    assert f"TensorFlow {tf.__version__}" in card
    assert "CC0" in card
    assert card.endswith("\n## Labels\n\n    Chinese\n    Egyptian\n    Italian, Florence\n")


def test_the_card_takes_the_figures_of_another_precision(exported: Path, train_dir: Path, eval_dir: Path) -> None:
    about = json.loads((exported / "export.json").read_text())
    with open_classifier(train_dir) as classifier:
        about["figures"]["precision"] = "bfloat16"
        assert ", computed in bfloat16:\n" in export_model.model_card(classifier, None, about)


def test_an_export_is_made_once(
    exported: Path, train_dir: Path, dataset_dir: Path, eval_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (exported / "saved_model.pb").stat().st_mtime_ns
    export_model.main(flags(train_dir, exported.parent, dataset_dir, eval_dir))
    assert capsys.readouterr().out.startswith(
        f"nothing to do: {exported} is this very model; delete it to export it again"
    )
    assert (exported / "saved_model.pb").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["saved_model.pb", "model.tflite", "labels.txt"])
def test_an_export_without_a_file_is_made_again(name: str, exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "20")
    about = json.loads((exported / "export.json").read_text())
    assert export_model.newest_export(tmp_path) == (20, about)
    (tmp_path / "20" / name).unlink()
    assert export_model.newest_export(tmp_path) == (20, {})


def test_what_a_killed_export_left_does_not_stay(train_dir: Path, tmp_path: Path) -> None:
    kept = tmp_path / "partial-drawings", tmp_path / "elsewhere"
    for folder in (*kept, tmp_path / "partial-7"):
        folder.mkdir()
        (folder / "saved_model.pb").touch()
    (tmp_path / "partial-8").symlink_to("elsewhere")
    export_model.main([f"--checkpoint_path={train_dir}", f"--export_dir={tmp_path}", "--notflite"])
    assert not (tmp_path / "partial-7").exists()
    assert all((folder / "saved_model.pb").is_file() for folder in (*kept, tmp_path / "20"))


def test_two_exports_into_one_folder_take_turns(train_dir: Path, tmp_path: Path) -> None:
    command = [f"--checkpoint_path={train_dir}", f"--export_dir={tmp_path}", "--notflite"]
    with (
        locked(tmp_path, LOCK_FILENAME),
        pytest.raises(Retry, match=f" is writing to {tmp_path}; run the same command again"),
    ):
        export_model.main(command)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILENAME]


def test_figures_of_another_checkpoint_are_refused(
    train_dir: Path, dataset_dir: Path, eval_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"metrics.json is missing; run eval_image_classifier.py --checkpoint_path="):
        export_model.main(flags(train_dir, tmp_path / "export", dataset_dir, tmp_path))
    other = json.loads((eval_dir / "metrics.json").read_text()) | {"checkpoint": "logs/model.ckpt-7"}
    (tmp_path / "metrics.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match=r"is about logs/model.ckpt-7; run eval_image_classifier.py"):
        export_model.main(flags(train_dir, tmp_path / "export", dataset_dir, tmp_path))
    assert not (tmp_path / "export").exists()
