"""serve-model.yaml: the questions that it and doc/serving.md print, answered by a double of TensorFlow Serving."""

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
        with urllib.request.urlopen(urllib.request.Request(address, data), timeout=120) as reply:
            return Answer(reply.status, json.load(reply))
    except urllib.error.HTTPError as error:
        return Answer(error.code, json.load(error))


def encoded(picture: Path) -> dict[str, str]:
    return {"b64": base64.b64encode(picture.read_bytes()).decode()}


@pytest.fixture(scope="module")
def exported(train_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the one model that the pod's first container exports, version 20. Read only."""
    folder = tmp_path_factory.mktemp("export")
    export_model.main([f"--checkpoint_path={train_dir}", f"--export_dir={folder}", "--notflite"])
    return folder


@pytest.fixture(scope="module")
def server(exported: Path) -> Iterator[str]:
    """The address of what serves it."""
    with Serving(flags(SERVE)["model_name"], exported).open() as address:
        yield address


@pytest.fixture
def pictures(dataset_dir: Path) -> list[Path]:
    return [min(folder.iterdir()) for folder in sorted((dataset_dir / "met_art").iterdir())]


def test_the_pod_is_ready_when_a_model_is_loaded_and_a_newer_one_takes_over(
    exported: Path, pictures: list[Path], tmp_path: Path
) -> None:
    probes = [SERVE[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert {probe["port"] for probe in probes} == {int(flags(SERVE)["rest_api_port"])}
    request = {"instances": [encoded(pictures[0])]}
    with Serving(flags(SERVE)["model_name"], tmp_path).open() as address:
        models = f"{address}/v1/models/met-art"
        assert [ask(address + probe["path"]).status for probe in probes] == [404, 404, 404]
        shutil.copytree(exported / "20", tmp_path / "20")
        assert [ask(address + probe["path"]).status for probe in probes] == [200, 200, 200]

        shutil.copytree(exported / "20", tmp_path / "partial-30")  # As export_model.py writes it: no version yet.
        assert ask(models).content["model_version_status"][0]["version"] == "20"
        assert ask(f"{models}/versions/30:predict", request).status == 404
        (tmp_path / "partial-30").rename(tmp_path / "30")
        assert ask(models).content["model_version_status"] == [
            {"version": "30", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
        assert ask(f"{models}/versions/30:predict", request).status == 200
        assert ask(f"{address}/v1/models/other:predict", request).status == 404


@pytest.mark.parametrize("file", ["serve-model.yaml", "doc/serving.md"])
def test_the_printed_command_gets_the_answer_of_classify(
    file: str,
    server: str,
    train_dir: Path,
    pictures: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not (shutil.which("curl") and shutil.which("base64")):
        pytest.skip("no curl or base64 on this machine")
    text = re.sub("^#", "", (ROOT / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
    (command,) = re.findall(r"^ *printf .*\\\n.*:predict$", text, re.MULTILINE)
    command = command.replace("http://localhost:8501", server).replace("data/met_art/China/9000071.jpg", "picture.jpg")
    shutil.copy(pictures[1], tmp_path / "picture.jpg")
    process = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    (prediction,) = json.loads(process.stdout)["predictions"]

    capsys.readouterr()
    classify.main([f"--checkpoint_path={train_dir}", f"--image_file={pictures[1]}", "--format=jsonl"])
    expected = json.loads(capsys.readouterr().out.splitlines()[0])
    assert set(prediction) == {"labels", "probabilities"}
    assert dict(zip(prediction["labels"], prediction["probabilities"], strict=True)) == pytest.approx(
        {answer["label"]: answer["probability"] for answer in expected["answers"]}, abs=0.01
    )


def test_pictures_of_one_request_are_answered_in_their_order(server: str, pictures: list[Path]) -> None:
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
        ({"instances": [{"b64": base64.b64encode(b"<html>").decode()}]}, "no known picture"),
        ({"instances": [{"b64": "?"}]}, "base64"),
        ({"instances": []}, "not empty"),
        ({"pictures": []}, "instances"),
        ({"instances": [{"b64": ""}], "signature_name": "regress"}, "signature"),
    ],
)
def test_a_wrong_request_is_an_error_and_the_next_is_answered(
    request_body: object, message: str, server: str, pictures: list[Path]
) -> None:
    predict = f"{server}/v1/models/met-art:predict"
    refused = ask(predict, request_body)
    assert refused.status == 400
    assert list(refused.content) == ["error"] and message in refused.content["error"]
    assert ask(predict, {"instances": [encoded(pictures[0])]}).status == 200


def test_the_signature_is_the_one_that_the_request_relies_on(exported: Path) -> None:
    """One input, so that a row needs no name; no output that ends with _bytes, which Serving would encode."""
    signature = tf.saved_model.load(str(exported / "20")).signatures["serving_default"]
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
