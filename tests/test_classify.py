from collections.abc import Callable
import contextlib
import csv
import functools
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
import io
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import threading
from typing import Any

from conftest import MODEL_NAME
from control_groups import control_group, python_within
import numpy as np
from PIL import Image
import processes
import pytest
import yaml

from metart.networks.slim_compat import tf
import classify
import eval_image_classifier
from metart.common.flags import UserError
from metart.common.labels import write_labels
from metart.evaluation.inference import open_classifier
from metart.networks import checkpoints, registry
from metart.networks.preprocessing import Looks
from metart.networks.session import Device

LABELS = ["Chinese", "Egyptian", "Italian, Florence"]


@pytest.fixture(scope="module")
def folder(dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of whole and broken pictures, in several formats."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, label in enumerate(LABELS):
        shutil.copy(sorted((dataset_dir / "met_art" / label).iterdir())[0], folder / f"{index}.jpg")
    Image.open(folder / "0.jpg").save(folder / "3.png")
    whole = (folder / "1.jpg").read_bytes()
    (folder / "4 cut off.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "5 page.jpg").write_text("<!doctype html><title>Not found</title>")
    (folder / "6 empty.jpg").touch()
    (folder / "notes.txt").write_text("no picture")
    (folder / "deeper").mkdir()
    shutil.copy(folder / "2.jpg", folder / "deeper" / "7.JPG")
    return folder


EXPECTED = {  # Of the pictures in that folder: the label, or the reason why there is none.
    "0.jpg": "Chinese",
    "1.jpg": "Egyptian",
    "2.jpg": "Italian, Florence",
    "3.png": "Chinese",
    "4 cut off.jpg": "damaged",
    "5 page.jpg": "a web page, not a picture",
    "6 empty.jpg": "empty file",
    "deeper/7.JPG": "Italian, Florence",
}


def run_classify(capsys: pytest.CaptureFixture[str], *flags: str, fails: str = "") -> str:
    if fails:
        with pytest.raises(UserError, match=fails):
            classify.main(flags)
    else:
        classify.main(flags)
    return capsys.readouterr().out


def check(name: str, label: str, problem: str) -> None:
    expected = EXPECTED[name]
    assert label == expected if label else problem.startswith(expected)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_batches_hold_every_picture_in_order(batch_size: int, folder: Path) -> None:
    sources = classify.find_files([folder])
    batches = list(classify.read_batches(sources, batch_size, Looks(32), allow_private_hosts=False))
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}
    results = [result for batch in batches for result in batch]
    assert [name for name, _ in results] == [str(source) for source in sources]
    for source, (_, image) in zip(sources, results, strict=True):
        np.testing.assert_array_equal(image, classify.read_image(source, Looks(32)))


def test_csv_has_a_row_for_every_picture(folder: Path, train_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--checkpoint_path={train_dir}", f"--image_file={folder}", "--format=csv", "--batch_size=3"]
    out = run_classify(capsys, *flags, fails="3 of 8 pictures could not be classified")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [Path(row["picture"]).relative_to(folder).as_posix() for row in rows] == sorted(EXPECTED)
    for row in rows:
        check(Path(row["picture"]).relative_to(folder).as_posix(), row["label"], row["problem"])
        if row["label"]:
            assert sorted(row[f"answer_{rank}"] for rank in (1, 2, 3)) == LABELS
            assert sum(float(row[f"probability_{rank}"]) for rank in (1, 2, 3)) == pytest.approx(1, abs=1e-4)


def test_json_lines(folder: Path, train_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--checkpoint_path={train_dir}", "--format=jsonl", "--top_k=2"]
    missing = folder / "missing.jpg"
    out = run_classify(capsys, *flags, "--image_file", str(folder), str(missing), fails="4 of 9 pictures")
    rows = [json.loads(line) for line in out.splitlines()]
    assert rows.pop() == {"picture": str(missing), "problem": "No such file or directory"}
    for row in rows:
        check(Path(row["picture"]).relative_to(folder).as_posix(), row.get("label", ""), row.get("problem", ""))
        if "label" in row:
            first, second = row["answers"]
            assert first["label"] == row["label"]
            assert 1 >= first["probability"] >= second["probability"] >= 0


ODD_NAMES = ["line\n   99.9%  Egyptian\nbreak.jpg", "red \x1b[31m.jpg", "carriage\rreturn.jpg", "中国 ñ.jfif", "b.jpe"]


@pytest.fixture
def oddly_named(folder: Path, tmp_path: Path) -> Path:
    for name in [*ODD_NAMES, "latin\udce9.jpg"]:
        shutil.copy(folder / "0.jpg", tmp_path / name)
    return tmp_path


def test_every_reader_takes_the_rows_of_pictures_whatever_their_names(oddly_named: Path, train_dir: Path) -> None:
    flags = [f"--checkpoint_path={train_dir}", f"--image_file={oddly_named}", "--top_k=1"]
    names = {str(path) for path in oddly_named.iterdir()}
    # What is not UTF-8 is an error of run_script.
    out = {form: processes.run_script("classify.py", *flags, f"--format={form}").output for form in ("csv", "jsonl")}
    rows = list(csv.DictReader(io.StringIO(out["csv"])))
    assert {row["picture"] for row in rows} == {name.replace("\udce9", "\\udce9") for name in names}
    assert {json.loads(line)["picture"] for line in out["jsonl"].split("\n")[:-1]} == names


def test_no_name_of_a_picture_looks_like_an_answer(
    oddly_named: Path, train_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (oddly_named / "latin\udce9.jpg").unlink()  # A terminal gets its byte; the capture here would not take it.
    (oddly_named / "red \x1b[31m").touch()
    flags = [f"--checkpoint_path={train_dir}", f"--image_file={oddly_named}", "--top_k=1"]
    classify.main(flags)
    captured = capsys.readouterr()
    lines = captured.out.split("\n")
    assert f"{oddly_named}/line\\n   99.9%  Egyptian\\nbreak.jpg" in lines
    assert f"{oddly_named}/red \\x1b[31m.jpg" in lines and f"{oddly_named}/carriage\\rreturn.jpg" in lines
    assert f"{oddly_named}/中国 ñ.jfif" in lines
    assert {line.split("%  ")[1] for line in lines[1::2]} == {"Chinese"}
    assert captured.err == f"skipped, not files named like pictures: 1, {oddly_named}/red \\x1b[31m first\n"


def test_a_name_that_no_file_can_have_is_a_row(
    folder: Path, train_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = [f"{folder}/0.jpg", "a" * 300, f"{folder}/0.jpg/1.jpg"]
    flags = [f"--checkpoint_path={train_dir}", f"--explain_dir={tmp_path}", "--format=csv", "--image_file", *pictures]
    rows = list(csv.DictReader(io.StringIO(run_classify(capsys, *flags, fails="2 of 3 pictures"))))
    assert [row["picture"] for row in rows] == pictures
    assert [row["problem"] for row in rows] == ["", "File name too long", "Not a directory"]


def test_text_and_the_tutorials_command_line(
    folder: Path, dataset_dir: Path, train_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run_classify(
        capsys,
        *("--alsologtostderr", f"--checkpoint_path={train_dir}/model.ckpt-20", f"--eval_dir={train_dir}"),
        *(f"--dataset_dir={dataset_dir}", "--dataset_name=arts", "--dataset_split_name=validation"),
        *(f"--model_name={MODEL_NAME}", f"--image_file={folder}/0.jpg"),
    )
    name, first, *others = out.splitlines()
    assert name == f"{folder}/0.jpg"
    assert first.split("%  ")[1] == "Chinese"
    assert sorted(line.split("%  ")[1] for line in [first, *others]) == LABELS


def test_an_unsure_answer_is_unknown() -> None:
    batch: list[tuple[str, np.ndarray | str]] = [(str(index), np.zeros((2, 2, 3), np.float32)) for index in range(2)]

    class Classifier:
        label_names = ("Chinese", "Egyptian", "Italian, Florence")

        def probabilities(self, images: np.ndarray) -> np.ndarray:
            return np.array([[0.1, 0.5, 0.4], [0.0, 0.49, 0.51]], np.float32)

    unsure, sure = classify.answer(Classifier(), batch, 2, 0.505)  # type: ignore[arg-type]
    assert (unsure.label, sure.label) == ("unknown", "Italian, Florence")
    assert [label for label, _ in unsure.answers] == ["Egyptian", "Italian, Florence"]
    assert classify.as_text(unsure).splitlines() == [
        "0",
        "  unknown; the best guesses:",
        "   50.0%  Egyptian",
        "   40.0%  Italian, Florence",
    ]
    assert json.loads(classify.as_json_line(unsure))["label"] == "unknown"
    assert next(csv.reader([classify.as_csv(unsure)]))[:4] == ["0", "unknown", "", "Egyptian"]


def test_a_label_named_unknown_is_no_unsure_answer(folder: Path, train_dir: Path, tmp_path: Path) -> None:
    logs = shutil.copytree(train_dir, tmp_path / "logs")
    write_labels(["unknown", *LABELS[1:]], logs)
    with pytest.raises(UserError, match=f"{logs}/labels.txt has other labels than {logs}/flags.json"):
        classify.main([f"--checkpoint_path={logs}", f"--image_file={folder}/0.jpg"])
    (logs / "flags.json").unlink()
    with pytest.raises(UserError, match="one of the labels is 'unknown', as is an unsure answer; leave out --min_prob"):
        classify.main([f"--checkpoint_path={logs}", f"--image_file={folder}/0.jpg", "--min_probability=0.2"])
    row = classify.Row("0", "unknown", True, [("unknown", 0.6)], "")
    assert classify.as_text(row).splitlines() == ["0", "   60.0%  unknown"]


def test_pictures_from_the_web(folder: Path, train_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    SimpleHTTPRequestHandler.log_message = lambda *_: None  # type: ignore[method-assign]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        flags = [f"--checkpoint_path={train_dir}", "--format=csv", f"--image_file={folder}/1.jpg"]
        urls = ["--image_url", f"{url}/0.jpg", f"{url}/5%20page.jpg", f"{url}/gone.jpg"]
        out = run_classify(capsys, *flags, *urls, "--allow_private_hosts", fails="2 of 4 pictures")
        refused = run_classify(capsys, *flags, *urls[:2], fails="1 of 2 pictures")
        server.shutdown()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["picture"] for row in rows] == [f"{folder}/1.jpg", *urls[1:]]
    assert [row["label"] for row in rows] == ["Egyptian", "Chinese", "", ""]
    assert [row["problem"] for row in rows[2:]] == [
        "200 OK, a web page instead of the file (bot wall?)",
        "404 File not found",
    ]
    assert list(csv.DictReader(io.StringIO(refused)))[1]["problem"].startswith("refused: 127.0.0.1 is 127.0.0.1, ")


def test_the_answers_are_those_of_the_evaluation(
    dataset_dir: Path, train_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Same pictures, same preprocessing, same temperature: the same probabilities."""
    logs = shutil.copytree(train_dir, tmp_path / "logs")
    (logs / "model.ckpt-20.temperature.json").write_text('{"temperature": 3.0}')
    eval_image_classifier.main(
        [f"--checkpoint_path={logs}", f"--eval_dir={tmp_path}/eval", f"--dataset_dir={dataset_dir}"]
    )
    capsys.readouterr()
    out = run_classify(capsys, f"--checkpoint_path={logs}", f"--image_file={dataset_dir}/met_art", "--format=csv")
    answers = {row["picture"]: row for row in csv.DictReader(io.StringIO(out))}
    with open(tmp_path / "eval" / "predictions.csv", encoding="utf-8", newline="") as file:
        evaluated = list(csv.DictReader(file))
    for row in evaluated:
        answer = answers[str(dataset_dir / "met_art" / row["picture"])]
        for rank in (1, 2, 3):
            assert answer[f"answer_{rank}"] == row[f"answer_{rank}"]
            assert float(answer[f"probability_{rank}"]) == pytest.approx(float(row[f"probability_{rank}"]), abs=1e-3)
    out = run_classify(capsys, f"--checkpoint_path={train_dir}", f"--image_file={dataset_dir}/met_art", "--format=csv")
    surer = {row["picture"]: row for row in csv.DictReader(io.StringIO(out))}
    assert all(float(surer[name]["probability_1"]) > float(row["probability_1"]) for name, row in answers.items())


def test_bfloat16_moves_the_probabilities_a_little(
    folder: Path, train_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--checkpoint_path={train_dir}", f"--image_file={folder}/0.jpg", "--format=csv"]
    (exact,) = csv.DictReader(io.StringIO(run_classify(capsys, *flags)))
    (rounded,) = csv.DictReader(io.StringIO(run_classify(capsys, *flags, "--precision=bfloat16")))
    assert rounded["answer_1"] == exact["answer_1"]
    difference = abs(float(rounded["probability_1"]) - float(exact["probability_1"]))
    assert difference < 0.05
    assert difference > 0 or Device("auto").arithmetic != "bfloat16"


def test_as_a_program(folder: Path, train_dir: Path) -> None:
    """Rows on stdout, what is left out and the error on stderr, status 1; nothing of TensorFlow's in between."""
    flags = [f"--checkpoint_path={train_dir}", "--format=jsonl", "--top_k=1", f"--image_file={folder}"]
    run = processes.run_script("classify.py", *flags)
    assert run.status == 1
    assert len([json.loads(line) for line in run.output.splitlines()]) == len(EXPECTED)
    assert run.errors.splitlines() == [
        f"skipped, not files named like pictures: 1, {folder}/notes.txt first",
        "error: 3 of 8 pictures could not be classified; their rows say why",
    ]


def test_errors(tmp_path: Path, train_dir: Path) -> None:
    with pytest.raises(UserError, match=r"no pictures .*; give --image_file or --image_url"):
        classify.main([f"--checkpoint_path={train_dir}"])
    with pytest.raises(UserError, match="no pictures"):
        classify.main([f"--checkpoint_path={train_dir}", f"--image_file={tmp_path}"])


def test_weights_that_are_no_numbers_do_not_answer(train_dir: Path, tmp_path: Path) -> None:
    for name in ("flags.json", "labels.txt"):
        shutil.copy(train_dir / name, tmp_path)
    with open_classifier(train_dir) as classifier, classifier.session.graph.as_default():
        weights = tf.compat.v1.global_variables()  # Behind the first, a ReLU makes 0 of what is no number.
        weights[0].load(np.full(weights[0].shape, np.nan), classifier.session)
        checkpoints.save(classifier.session, tf.compat.v1.train.Saver(weights), tmp_path, 1)
    with pytest.raises(UserError, match=r"model.ckpt-1 has weights that are no finite numbers"):
        open_classifier(tmp_path)
    with open_classifier(train_dir) as classifier, classifier.session.graph.as_default():
        weights = tf.compat.v1.global_variables()[-2:]  # Of the head.
        for each in weights:
            each.load(np.full(each.shape, 3e38), classifier.session)
        with pytest.raises(UserError, match=r"model.ckpt-20 answers with what is no number in float32"):
            classifier.probabilities(np.full([1, *classifier.images.shape[1:]], 200, np.float32))


@pytest.fixture(scope="module")
def inception_v3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tutorial's own network with the weights that a run begins with."""
    folder = tmp_path_factory.mktemp("inception_v3")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        registry.build("inception_v3", tf.zeros([1, 299, 299, 3]), 5, is_training=True)
        session.run(tf.compat.v1.global_variables_initializer())
        checkpoints.save(session, tf.compat.v1.train.Saver(save_relative_paths=True), folder, 1)
    write_labels(["a", "b", "c", "d", "e"], folder)
    (folder / "flags.json").write_text('{"model_name": "inception_v3"}')
    return folder


def test_one_small_picture_takes_little_memory(
    inception_v3: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    Image.new("RGB", (400, 300), (200, 30, 60)).save(tmp_path / "a.jpg")
    flags = [f"--checkpoint_path={inception_v3}", f"--image_file={tmp_path}"]
    run = processes.run_script("classify.py", *flags)
    assert run.status == 0, run.errors
    record_property("classify.py, one small picture", f"{run.seconds:.1f} s, {run.cpu_seconds:.1f} s of the processor")
    assert run.peak_megabytes < 1000


def draw_large_pictures(folder: Path) -> int:
    """Draws 32 photographs and one picture of 64 megapixels of each kind; returns how many."""
    photograph = Image.linear_gradient("L").resize((4000, 3000)).convert("RGB")
    photograph.save(folder / "00.jpg", quality=90)
    for number in range(1, 32):
        os.link(folder / "00.jpg", folder / f"{number:02}.jpg")
    large = photograph.resize((8000, 8000))
    grey = large.getchannel("R")
    clear = large.copy()
    clear.putalpha(128)
    kinds: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("plain.jpg", large, {}),
        ("progressive.jpg", large, {"progressive": True}),
        ("print.jpg", large.convert("CMYK"), {}),
        ("plain.png", large, {"compress_level": 1}),
        ("clear.png", clear, {"compress_level": 1}),
        ("deep.png", grey.convert("I;16"), {"compress_level": 1}),
        ("lossy.webp", large, {"method": 0}),
        ("clear.webp", clear, {"lossless": True, "method": 0}),
        ("plain.gif", grey, {}),
        ("plain.bmp", large, {}),
        ("plain.tiff", large, {}),
    ]
    for name, picture, options in kinds:
        picture.save(folder / name, **options)
    return 32 + len(kinds)


def limit_of_the_manifest() -> int:
    (manifest,) = yaml.safe_load_all((processes.REPO / "infer-model.yaml").read_text())
    limit = manifest["spec"]["containers"][0]["resources"]["limits"]["memory"]
    assert limit.endswith("Gi")
    return int(float(limit.removesuffix("Gi")) * (1 << 30))


def memory_group(number_of_bytes: int) -> contextlib.AbstractContextManager[Path]:
    return control_group(
        {"memory.limit_in_bytes": number_of_bytes}, {"memory.max": number_of_bytes, "memory.swap.max": 0}
    )


def test_large_pictures_fit_the_pod_of_the_manifest(
    inception_v3: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """In a control group like the pod's, and with a tenth to spare."""
    count = draw_large_pictures(tmp_path)
    flags = [f"--checkpoint_path={inception_v3}", f"--image_file={tmp_path}", "--format=jsonl", "--top_k=1"]
    with memory_group(limit_of_the_manifest()) as group:
        done = processes.run_script("classify.py", *flags, group=group)
    assert done.status == 0, done.errors
    assert len(done.output.splitlines()) == count
    record_property("classify.py, large pictures, peak in MiB", done.peak_megabytes)
    assert done.peak_megabytes * (1 << 20) < 0.9 * limit_of_the_manifest()


def test_a_control_group_ends_what_takes_more() -> None:
    with memory_group(100_000_000) as group:
        for size, status in ((10_000_000, 0), (200_000_000, -signal.SIGKILL)):
            assert subprocess.run(python_within(group, "-c", f"b'x' * {size}")).returncode == status


def test_linked_folders_are_looked_into_and_no_loop_is_endless(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "within").mkdir()
    shutil.copy(next(folder.rglob("*.jpg")), tmp_path / "within" / "a.jpg")
    (tmp_path / "elsewhere").symlink_to(folder)
    (tmp_path / "within" / "loop").symlink_to(tmp_path)
    found = classify.find_files([tmp_path])
    wanted = {path.name for path in classify.find_files([folder])} | {"a.jpg"}
    assert {path.name for path in found} == wanted and len(found) == len(classify.find_files([folder])) + 1


def test_a_pipe_that_is_named_is_read_and_one_in_a_folder_is_not_waited_for(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "0.jpg").read_bytes()
    for data in (whole, whole[:200], b""):
        pipe = tmp_path / f"{len(data)}.jpg"
        os.mkfifo(pipe)
        assert pipe not in classify.find_files([tmp_path])
        assert classify.find_files([pipe]) == [pipe]
        writer = threading.Thread(target=pipe.write_bytes, args=(data,))
        writer.start()
        read = classify.read_image(pipe, Looks(32))
        writer.join()
        (tmp_path / "file").write_bytes(data)
        np.testing.assert_array_equal(read, classify.read_image(tmp_path / "file", Looks(32)))
        assert isinstance(read, str) == (data != whole)


@pytest.mark.parametrize("form", ["cat {} | {} /dev/stdin", "{1} /dev/stdin < {0}", "{1} <(cat {0}) {0}"])
def test_standard_input_is_a_picture(form: str, folder: Path, train_dir: Path) -> None:
    script = f"{sys.executable} {processes.REPO / 'classify.py'} --checkpoint_path={train_dir} --format=csv --top_k=1"
    command = form.format(folder / "0.jpg", f"{script} --image_file")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {line.split(",")[1] for line in done.stdout.splitlines()[1:]} == {"Chinese"}
