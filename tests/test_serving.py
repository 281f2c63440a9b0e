"""serve-model.yaml: the questions that it and the README print, answered by a double of TensorFlow Serving."""

import base64
from collections.abc import Iterator
import json
from pathlib import Path
import re
import shutil
import subprocess
from typing import Any, NamedTuple
import urllib.error
import urllib.request

import pytest
from serving import Serving
import yaml

from metart.networks.slim_compat import tf
import classify
import export_model

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "serve-model.yaml"
POD = next(manifest for manifest in yaml.safe_load_all(FILE.read_text("utf-8")) if manifest["kind"] == "Pod")
(EXPORT,), (SERVE,) = POD["spec"]["initContainers"], POD["spec"]["containers"]


def flags(container: dict[str, Any]) -> dict[str, str]:
    return dict(argument[2:].split("=", 1) for argument in container["args"] if "=" in argument)


class Answer(NamedTuple):
    """What came back."""

    status: int
    content: Any


def ask(address: str, request: object = None) -> Answer:
    """Gets an address, or posts a request to it."""
    data = None if request is None else json.dumps(request).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(address, data), timeout=60) as reply:
            return Answer(reply.status, json.load(reply))
    except urllib.error.HTTPError as error:
        return Answer(error.code, json.load(error))


def encoded(picture: Path) -> dict[str, str]:
    return {"b64": base64.b64encode(picture.read_bytes()).decode()}


@pytest.fixture
def export_dir(train_dir: Path, tmp_path: Path) -> Path:
    """A folder with the one model that the pod's first container exports."""
    export_model.main([f"--checkpoint_path={train_dir}", f"--export_dir={tmp_path / 'export'}", "--notflite"])
    return tmp_path / "export"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of what serves the models in `export_dir`, which may be made later."""
    with Serving(flags(SERVE)["model_name"], tmp_path / "export").open() as address:
        yield address


@pytest.fixture
def pictures(dataset_dir: Path) -> list[Path]:
    return [min(folder.iterdir()) for folder in sorted((dataset_dir / "met_art").iterdir())]


def probe(server: str, name: str) -> Answer:
    return ask(server + SERVE[name]["httpGet"]["path"])


@pytest.mark.parametrize("name", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_the_pod_is_ready_when_a_model_is_loaded(server: str, name: str, request: pytest.FixtureRequest) -> None:
    assert SERVE[name]["httpGet"]["port"] == int(flags(SERVE)["rest_api_port"])
    assert probe(server, name).status == 404
    request.getfixturevalue("export_dir")
    assert probe(server, name).status == 200


@pytest.mark.parametrize("file", ["serve-model.yaml", "README.md"])
def test_the_printed_command_gets_the_answer_of_classify(
    file: str,
    server: str,
    export_dir: Path,
    train_dir: Path,
    pictures: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not (shutil.which("curl") and shutil.which("base64")):
        pytest.skip("no curl or base64 on this machine")
    text = re.sub("^#", "", (ROOT / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
    (command,) = re.findall(r"^ *printf .*\\\n.*:predict$", text, re.MULTILINE)
    command = command.replace("http://localhost:8501", server).replace("data/met_art/China/9000072.jpg", "picture.jpg")
    shutil.copy(pictures[1], tmp_path / "picture.jpg")
    process = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    (prediction,) = json.loads(process.stdout)["predictions"]

    capsys.readouterr()
    classify.main([f"--checkpoint_path={train_dir}", f"--image_file={pictures[1]}", "--format=jsonl"])
    expected = json.loads(capsys.readouterr().out.splitlines()[0])
    print(expected)
    assert set(prediction) == {"labels", "probabilities"}
    assert dict(zip(prediction["labels"], prediction["probabilities"], strict=True)) == pytest.approx(
        {answer["label"]: answer["probability"] for answer in expected["answers"]}, abs=0.01
    )


def test_pictures_of_one_request_are_answered_in_their_order(
    server: str, export_dir: Path, pictures: list[Path]
) -> None:
    predict = f"{server}/v1/models/met-art:predict"
    one_by_one = [ask(predict, {"instances": [encoded(picture)]}).content["predictions"][0] for picture in pictures]
    assert len({answer["labels"][0] for answer in one_by_one}) > 1  # Otherwise any order would do.
    together = ask(predict, {"instances": [{"image_bytes": encoded(picture)} for picture in pictures]})
    for answer, expected in zip(together.content["predictions"], one_by_one, strict=True):
        assert answer["labels"] == expected["labels"]
        assert answer["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)
    columns = ask(predict, {"inputs": {"image_bytes": [encoded(picture) for picture in pictures]}}).content["outputs"]
    assert columns["labels"] == [answer["labels"] for answer in one_by_one]


@pytest.mark.parametrize(
    ("request_body", "message"),
    [
        ({"instances": [{"b64": base64.b64encode(b"<html>").decode()}]}, "image"),
        ({"instances": [{"b64": "?"}]}, "base64"),
        ({"instances": []}, "not empty"),
        ({"pictures": []}, "instances"),
        ({"instances": [{"b64": ""}], "signature_name": "regress"}, "signature"),
    ],
)
def test_a_wrong_request_is_an_error_and_the_next_is_answered(
    request_body: object, message: str, server: str, export_dir: Path, pictures: list[Path]
) -> None:
    predict = f"{server}/v1/models/met-art:predict"
    refused = ask(predict, request_body)
    assert refused.status == 400
    assert list(refused.content) == ["error"] and message in refused.content["error"]
    assert ask(predict, {"instances": [encoded(pictures[0])]}).status == 200


def test_a_newer_export_takes_over(server: str, export_dir: Path, pictures: list[Path]) -> None:
    request = {"instances": [encoded(pictures[0])]}
    models = f"{server}/v1/models/met-art"
    assert ask(f"{models}/versions/20:predict", request).status == 200
    assert ask(f"{models}/versions/30:predict", request).status == 404
    partial = export_dir / "partial-30"  # As export_model.py writes it: no version yet.
    shutil.copytree(export_dir / "20", partial)
    assert ask(models).content["model_version_status"][0]["version"] == "20"
    partial.rename(export_dir / "30")
    assert ask(models).content["model_version_status"] == [
        {"version": "30", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    ]
    assert ask(f"{models}/versions/30:predict", request).status == 200
    assert ask(f"{server}/v1/models/other:predict", request).status == 404


def test_the_signature_is_the_one_that_the_request_relies_on(export_dir: Path) -> None:
    """One input, so that a row needs no name; no output that ends with _bytes, which Serving would encode."""
    signature = tf.saved_model.load(str(export_dir / "20")).signatures["serving_default"]
    assert list(signature.structured_input_signature[1]) == ["image_bytes"]
    assert sorted(signature.structured_outputs) == ["labels", "probabilities"]


def test_only_the_exported_folder_is_served() -> None:
    (mount,) = (mount for mount in SERVE["volumeMounts"] if mount["name"] == "logs")
    (claim,) = (mount["mountPath"] for mount in EXPORT["volumeMounts"] if mount["name"] == "logs")
    assert mount["readOnly"] is True
    assert f"{claim}/{mount['subPath']}" == flags(EXPORT)["export_dir"]
    assert mount["mountPath"] == flags(SERVE)["model_base_path"]


def test_it_starts_as_many_threads_as_it_may_use() -> None:
    assert SERVE["resources"]["limits"]["cpu"] == flags(SERVE)["tensorflow_session_parallelism"]
