"""A double of TensorFlow Serving: its REST interface for one model, as its documentation describes it.

https://www.tensorflow.org/tfx/serving/api_rest: model status, metadata and predict, in rows and in columns. Of the
versions in its folder it serves the newest, as Serving does by default, and looks for a newer one at each request.
"""

import base64
import binascii
from collections.abc import Iterator
import contextlib
import http.server
import json
from pathlib import Path
import re
import threading
from typing import Any

from metart.networks.slim_compat import tf

PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?(/metadata|:predict)?")


class Refused(Exception):
    """A request that gets an error; its arguments are the HTTP status and the message."""


class Serving:
    """What tensorflow_model_server does with --model_name and --model_base_path."""

    def __init__(self, model_name: str, base_path: Path):
        self._model_name = model_name
        self._base_path = base_path
        self._loaded: dict[int, Any] = {}  # The model by its version.
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def open(self) -> Iterator[str]:
        """Serves on this machine while the block runs; yields the address."""
        serving = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(b"")

            def do_POST(self) -> None:
                self._answer(self.rfile.read(int(self.headers["Content-Length"])))

            def _answer(self, body: bytes) -> None:
                try:
                    status, answer = 200, serving.answer(self.command, self.path, body)
                except Refused as refused:
                    status, answer = refused.args[0], {"error": refused.args[1]}
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()

    def answer(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        """Returns the JSON that answers a request."""
        match = PATH.fullmatch(path)
        if match is None or (method == "POST") != (match[3] == ":predict"):
            raise Refused(400, f"Malformed request: {method} {path}")
        version, model = self._find(match[1], match[2])
        if match[3] == ":predict":
            return predict(model, body)
        if match[3] == "/metadata":
            spec = {"name": match[1], "signature_name": "", "version": str(version)}
            return {"model_spec": spec, "metadata": {"signature_def": {"signature_def": sorted(model.signatures)}}}
        status = {"error_code": "OK", "error_message": ""}
        return {"model_version_status": [{"version": str(version), "state": "AVAILABLE", "status": status}]}

    def _find(self, model_name: str, wanted: str | None) -> tuple[int, Any]:
        """Returns version and model; loads the newest version where it is not loaded yet."""
        with self._lock:
            versions = [int(folder.parent.name) for folder in self._base_path.glob("[0-9]*/saved_model.pb")]
            newest = max(versions, default=None)
            if newest is not None and newest not in self._loaded:
                self._loaded = {newest: tf.saved_model.load(str(self._base_path / str(newest)))}
        if model_name != self._model_name or newest is None or (wanted is not None and int(wanted) != newest):
            which = f"Specific({model_name}, {wanted})" if wanted else f"Latest({model_name})"
            raise Refused(404, f"Servable not found for request: {which}")
        return newest, self._loaded[newest]


def predict(model: Any, body: bytes) -> dict[str, Any]:
    """Answers a request to predict, which has either `instances` (rows) or `inputs` (columns)."""
    try:
        request = json.loads(body)
    except ValueError as error:
        raise Refused(400, f"JSON Parse error: {error}") from None
    if not isinstance(request, dict) or ("instances" in request) == ("inputs" in request):
        raise Refused(400, "Request must have exactly one of 'instances' and 'inputs'")
    signature_name = request.get("signature_name", "serving_default")
    if signature_name not in model.signatures:
        raise Refused(400, f'Serving signature name: "{signature_name}" not found in signature def')
    signature = model.signatures[signature_name]
    ((name, spec),) = signature.structured_input_signature[1].items()  # The one input of our models.
    values = request.get("instances", request.get("inputs"))
    if isinstance(values, dict) and "inputs" in request and set(values) == {name}:
        values = values[name]
    if not isinstance(values, list) or not values:
        raise Refused(400, "Request data must be a list that is not empty")
    rows = [row[name] if isinstance(row, dict) and set(row) == {name} else row for row in values]
    try:
        outputs = signature(**{name: tf.constant([decode(row) for row in rows], spec.dtype)})
    except tf.errors.InvalidArgumentError as error:
        raise Refused(400, error.message) from None
    columns = {output: encode(output, tensor.numpy().tolist()) for output, tensor in outputs.items()}
    if "inputs" in request:
        return {"outputs": columns}
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}


def decode(value: Any) -> Any:
    """Returns a value of the request; bytes that are no text come as {"b64": "…"}."""
    if isinstance(value, dict):
        if set(value) != {"b64"}:
            raise Refused(400, "JSON object: does not have a single key 'b64'")
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, TypeError):
            raise Refused(400, "Unable to base64 decode") from None
    return value.encode() if isinstance(value, str) else value


def encode(name: str, values: Any) -> Any:
    """Returns values for the answer; the bytes of an output are text unless its name ends with _bytes."""
    if isinstance(values, list):
        return [encode(name, value) for value in values]
    if isinstance(values, bytes):
        return {"b64": base64.b64encode(values).decode()} if name.endswith("_bytes") else values.decode()
    return values
